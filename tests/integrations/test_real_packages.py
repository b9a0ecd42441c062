"""Each integration with the real package of its tool, in an environment of its own.

`make environments` makes the environments. A test whose environment is not made is skipped.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from hqsam_server import TritonServer
from hqsam_testing import command

ROOT = Path(__file__).parents[2]
NAMES = sorted(it.parent.name for it in ROOT.glob("integrations/*/pyproject.toml"))
TIMEOUT_S = 800


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_integration_works_with_the_real_package(
    name: str, server: TritonServer, tmp_path: Path
) -> None:
    python = Path(sys.prefix, "integrations", name, "bin", "python")
    if not python.exists():
        pytest.skip(f"needs `make environments INTEGRATIONS={name}`")
    prefix: list[str | Path] = []
    if name == "napari" and not os.environ.get("DISPLAY"):
        if not shutil.which("xvfb-run"):
            pytest.skip("napari draws with OpenGL, which needs a screen or xvfb-run")
        prefix = ["xvfb-run", "--auto-servernum"]
    done = command.run(
        [*prefix, python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        TIMEOUT_S,
        cwd=ROOT / "integrations" / name,
        env={
            **os.environ,
            "HQSAM_URL": server.grpc_url,
            # What the tools keep for their user.
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout, done.stdout
