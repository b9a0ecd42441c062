"""Images and containers for tests, in a storage of their own.

No registry is needed. The bases of docker/Dockerfile are stand-ins: Debian 12 with its Python, and
on it the Triton of the package nvidia-pytriton, laid out as in NVIDIA's image. Packages are
downloaded once, before anything is built.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from hqsam_client import HQSam
from hqsam_testing.api import new_png
from hqsam_testing.ports import free_port
from hqsam_testing.waiting import TIMEOUT_S, wait_until

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
TOOLS = ("podman", "buildah", "runc", "mmdebstrap")
CPU = "docker.io/library/hqsam-triton:cpu"
DEBIAN = "docker.io/library/python:3.12-slim"
"""The stand-in for Python's image: Debian 12 with its Python."""

_TRITON, _TAG = "nvcr.io/nvidia/tritonserver", "stand-in"
_DEBIAN_PACKAGES = "ca-certificates,libexpat1,libpython3.11,python-is-python3,python3,python3-pip"
_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
# The folder of downloaded packages, in containers that are built.
_WHEELS = "/wheelhouse"
_VARIABLES = ("PIP_BREAK_SYSTEM_PACKAGES=1", "PIP_NO_INDEX=1", f"PIP_FIND_LINKS={_WHEELS}")
_MOST_PROCESSES = 16384

_TRITON_FILE = f"""\
FROM {DEBIAN}
RUN pip install --no-cache-dir nvidia-pytriton && \\
    packages=/usr/local/lib/python3.11/dist-packages && \\
    triton="$packages/pytriton/tritonserver" home=/opt/tritonserver && \\
    mkdir --parents "$home/bin" "$home/backends" && \\
    ln --symbolic "$triton/bin/tritonserver" "$home/bin/tritonserver" && \\
    ln --symbolic "$packages/nvidia_pytriton.libs" "$home/lib" && \\
    cp --recursive "$triton/backends/python" "$home/backends/python" && \\
    cp "$triton/python_backend_stubs/3.11/triton_python_backend_stub" "$home/backends/python/" && \\
    useradd --uid 1000 triton-server && mkdir /opt/nvidia
COPY nvidia_entrypoint.sh /opt/nvidia/
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh"]
"""

COMPAT = "/usr/local/cuda/compat/lib.real"
"""The folder that NVIDIA's entrypoint puts first on LD_LIBRARY_PATH for an older driver."""

# As NVIDIA's does on a host with an older driver.
_ENTRYPOINT = f"""\
#!/bin/sh
echo "== Triton Inference Server =="
export LD_LIBRARY_PATH="{COMPAT}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
exec "$@"
"""


def missing() -> str | None:
    """Return why containers cannot be built and run here, or None if they can."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not installed: apt-get install {' '.join(TOOLS)} catatonit"
    if os.geteuid() != 0:
        return "only root can run containers with runc here"
    if sys.version_info[:2] != (3, 11):
        return "packages are downloaded for this Python, and Debian 12 has 3.11"
    return None


def on_loopback() -> tuple[str, list[str]]:
    """Return where a server is to serve gRPC, and the arguments of `hqsam serve` for that."""
    ports = {name: free_port() for name in ("grpc", "http", "metrics")}
    flags = [f"--{name}-port={port}" for name, port in ports.items()]
    return f"127.0.0.1:{ports['grpc']}", [*flags, *(f"--{it}-address=127.0.0.1" for it in ports)]


def click(url: str) -> None:
    """Click on a new image; the client tries again while the server heals."""
    with HQSam(url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as sam:
        mask = sam.open(new_png()).segment(points=[(20, 20)])
    assert mask.array.shape[1] == 60


class Storage:
    """Images and containers in a folder."""

    def __init__(self, folder: Path) -> None:
        """Prepare an empty storage; podman wants its path to be short."""
        self._folder = folder
        self._wheels = folder / "wheels"
        self._flags = [
            f"--root={folder}/images", f"--runroot={folder}/run", "--storage-driver=overlay"
        ]  # fmt: skip
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        configuration = folder / "containers.conf"
        configuration.write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", '
            f'"nproc={_MOST_PROCESSES}:{_MOST_PROCESSES}"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        self._podman = ["podman", *self._flags, f"--network-config-dir={folder}/networks"]
        self._environment = {**os.environ, "CONTAINERS_CONF": str(configuration)}

    def podman(self, *arguments: str | Path) -> str:
        """Run podman, and return what it prints."""
        return self.run(*self._podman, *arguments)

    @contextlib.contextmanager
    def docker_host(self) -> Iterator[str]:
        """Serve Docker's API meanwhile, and give its address."""
        socket = self._folder / "podman.sock"
        url = f"unix://{socket}"
        service = subprocess.Popen(
            [*self._podman, "system", "service", "--time=0", url], env=self._environment
        )
        try:
            wait_until(socket.exists, "podman to serve Docker's API")
            yield url
        finally:
            service.terminate()
            service.wait(TIMEOUT_S)

    def build_server(self) -> None:
        """Build the image of docker/Dockerfile for processors, and what it is based on."""
        self._download()
        base = self._folder / "base.tar"
        own = [_SOURCES] if _SOURCES.exists() and "bookworm" in _SOURCES.read_text() else []
        self.run(
            "mmdebstrap", "--variant=apt", f"--include={_DEBIAN_PACKAGES}", "bookworm", base, *own
        )
        changes = [f"--change=ENV {variable}" for variable in _VARIABLES]
        self.podman("import", *changes, base, DEBIAN)
        base.unlink()
        triton = self._folder / "Containerfile"
        triton.write_text(_TRITON_FILE)
        entrypoint = self._folder / "nvidia_entrypoint.sh"
        entrypoint.write_text(_ENTRYPOINT)
        entrypoint.chmod(0o755)
        self.build(f"{_TRITON}:{_TAG}", triton, self._folder)
        self.build(
            CPU, DOCKERFILE, ROOT, "--target=cpu", "--pull-never", f"--build-arg=TRITON_TAG={_TAG}"
        )

    def _download(self) -> None:
        for packages in (
            ["hatchling", "editables", "pip", "nvidia-pytriton>=0.7,<0.8"],
            [f"{ROOT}[triton,cpu]"],
        ):
            pip = [sys.executable, "-m", "pip", "download", "--quiet"]
            self.run(*pip, f"--dest={self._wheels}", *packages)

    def build(self, tag: str, file: Path, context: Path, *options: str) -> None:
        """Build an image; packages come from those that were downloaded."""
        self.run(
            "buildah", *self._flags, "build", "--isolation=chroot", "--network=host",
            "--format=docker", f"--volume={self._wheels}:{_WHEELS}:ro", f"--tag={tag}",
            f"--file={file}", *options, context,
        )  # fmt: skip

    def run(self, *command: str | Path, **variables: str) -> str:
        """Run a command with these variables added, and return what it prints."""
        environment = {**self._environment, **variables}
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout
