"""What README.md and docs/client.md tell to type works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.client.conftest import PATIENCE_S
from tests.oracle import images

ROOT = Path(__file__).parents[2]
RUN = "import sys; from hqsam_client._cli import main; sys.exit(main())"


def commands(name: str) -> list[list[str]]:
    """Return the Python blocks and the client's shell lines, as arguments of Python."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = [["-c", code] for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    for line in re.findall(r"^hqsam (?:segment|status|embed)\b.*$", text, re.MULTILINE):
        found.append(["-c", RUN, *shlex.split(line, comments=True)[1:]])
    return found


@pytest.mark.parametrize("name", ["README.md", "docs/client.md"])
def test_every_example_runs(name: str, url: str, tmp_path: Path) -> None:
    Image.fromarray(images.picture(640, 480)).save(tmp_path / "photo.jpg")
    examples = commands(name)
    assert len(examples) > 2
    for arguments in examples:
        code = [argument.replace("localhost:8001", url) for argument in arguments]
        done = subprocess.run(
            [sys.executable, *code],
            cwd=tmp_path,
            env={**os.environ, "HQSAM_URL": url},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    assert (tmp_path / "mask.png").exists()
    assert (tmp_path / "overlay.png").exists()
