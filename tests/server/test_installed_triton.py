"""An installed Triton, as in its image, takes precedence over that of nvidia-pytriton."""

from __future__ import annotations

import shutil
import signal
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from hqsam_server.launcher import distribution, repository_view
from hqsam_testing.serve_process import Serve

from tests.server.test_start_errors import said


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that looks like /opt/tritonserver."""
    carried = distribution.find()
    home = tmp_path / "tritonserver"
    repository_view.write_backends(home / "backends", carried)
    (home / "bin").mkdir()
    # The program finds its libraries in ../lib.
    (home / "bin" / "tritonserver").symlink_to(carried.binary)
    (home / "lib").symlink_to(carried.libraries[0])
    return home


def test_hqsam_serve_runs_on_it(
    serve: Callable[..., Serve], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HQSAM_TRITON_HOME", str(home))
    backends = home / "backends"
    server = serve(f"--backend-directory={backends}", "--model-config-name=cuda")
    command = server.triton.cmdline()
    assert command[0] == str(home / "bin" / "tritonserver")
    assert f"--backend-directory={backends}" in command
    assert "--allow-gpu-metrics=true" in command
    assert server.instances()
    server.stop(signal.SIGTERM)


def test_the_hosts_libcuda_does_not_come_before_cudas_compat_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in NVIDIA's image: libpython is where the host's libcuda is mounted."""
    compat = "/usr/local/cuda/compat/lib.real"
    monkeypatch.setenv("HQSAM_TRITON_HOME", str(home))
    monkeypatch.setenv("LD_LIBRARY_PATH", compat)
    multiarch = sysconfig.get_config_var("MULTIARCH")
    variables = {"INSTSONAME": "libc.so.6", "LIBDIR": "/usr/lib", "MULTIARCH": multiarch}
    monkeypatch.setattr(sysconfig, "get_config_var", variables.get)
    folders = distribution.find().environment()["LD_LIBRARY_PATH"].split(":")
    assert folders == [str(home / "lib"), compat]


def test_an_image_without_python_is_named(
    home: Path, temporary: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(home / "backends" / "python")
    monkeypatch.setenv("HQSAM_TRITON_HOME", str(home))
    assert "use the full image, *-py3" in said(temporary, f"--model-repository={repository}")
