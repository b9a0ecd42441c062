"""Where the parts of Triton are: in its image, or in the package `nvidia-pytriton`."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hqsam_server.errors import StartError
from hqsam_server.launcher.options import absolute

HOME = Path("/opt/tritonserver")
"""Where Triton's image has it; the environment variable HQSAM_TRITON_HOME overrides this."""

STUB = "triton_python_backend_stub"
"""Name of the program that runs a Python model."""


@dataclass(frozen=True)
class Distribution:
    """Files of the server, and of the Python that runs its models.

    Attributes:
        binary: the `tritonserver` program.
        python_backend: folder of the Python backend.
        stub: the Python backend's program for this version of Python.
        libraries: folders of the shared libraries that these need.
    """

    binary: Path
    python_backend: Path
    stub: Path
    libraries: tuple[Path, ...]

    def environment(self) -> dict[str, str]:
        """Return the environment to start the server in."""
        libraries = [*map(str, self.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
        return {
            # Larger blocks, such as the megabytes that gRPC writes an answer in, go back to the
            # system when they are freed. By default glibc keeps blocks of up to 32 MB.
            "MALLOC_MMAP_THRESHOLD_": str(2**19),
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            # From Python 3.11 on, the models' interpreter ignores PYTHONPATH. It finds its
            # packages, also in a virtual environment, through the first python3 on the path.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def find() -> Distribution:
    """Find the parts; an installed Triton takes precedence over that of nvidia-pytriton.

    Raises:
        StartError: one is missing; the message says what to install.
    """
    home = absolute(os.environ.get("HQSAM_TRITON_HOME", HOME))
    if "HQSAM_TRITON_HOME" in os.environ or (home / "bin" / "tritonserver").exists():
        return _installed(home)
    package = importlib.util.find_spec("pytriton")
    if package is None or package.origin is None:
        raise StartError(
            "nvidia-pytriton, which contains tritonserver, is not installed: "
            "pip install 'hqsam-triton[server]' (Linux)"
        )
    if int(np.__version__.partition(".")[0]) > 1:
        # It would start, and each call would end the process of its model.
        raise StartError(
            f"NumPy {np.__version__} is installed, nvidia-pytriton needs NumPy 1: "
            "pip install 'numpy<2' 'opencv-python-headless<4.12'"
        )
    root = Path(package.origin).parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = Distribution(
        binary=root / "tritonserver" / "bin" / "tritonserver",
        python_backend=root / "tritonserver" / "backends" / "python",
        stub=root / "tritonserver" / "python_backend_stubs" / version / STUB,
        libraries=(root.parent / "nvidia_pytriton.libs", *_python_library()),
    )
    for path in (found.binary, found.python_backend, found.stub):
        if not path.exists():
            raise StartError(f"nvidia-pytriton has no {path}: Python {version} is not supported")
    return found


def _installed(home: Path) -> Distribution:
    found = Distribution(
        binary=home / "bin" / "tritonserver",
        python_backend=home / "backends" / "python",
        stub=home / "backends" / "python" / STUB,
        libraries=(home / "lib", *_python_library()),
    )
    for path in (found.binary, found.python_backend, found.stub):
        if not path.exists():
            raise StartError(f"the Triton in {home} has no {path}: use the full image, *-py3")
    return found


def _python_library() -> list[Path]:
    """Return the folder of libpython, or nothing if the system's loader finds it.

    Folders that the loader searches by itself stay off LD_LIBRARY_PATH. The host's libcuda is in
    one of them, and would come before that of CUDA's compat folder, which an older driver needs.

    Raises:
        StartError: this Python has no shared library.
    """
    name = sysconfig.get_config_var("INSTSONAME") or ""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for candidate in (folder, folder / multiarch):
        if ".so" in name and (candidate / name).exists():
            return [] if candidate.resolve() in _loaders_folders(multiarch) else [candidate]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if ctypes.util.find_library(f"python{version}"):
        return []
    raise StartError(
        f"libpython{version}.so is missing, which Triton's Python backend needs: use a "
        f"Python with a shared library (Debian: apt install libpython{version}; pyenv: "
        "PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install)"
    )


def _loaders_folders(multiarch: str) -> set[Path]:
    """Return the folders that the system's loader searches whatever its configuration says."""
    folders = [Path(name) for name in ("/lib", "/usr/lib", "/lib64", "/usr/lib64")]
    return {path.resolve() for folder in folders for path in (folder, folder / multiarch)}
