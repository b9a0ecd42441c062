"""The image is built, and serves as hardened as the compose files and manifests run it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from hqsam_testing.waiting import wait_until

from tests.containers.images import COMPAT, CPU, ROOT, Storage, click, on_loopback

pytestmark = pytest.mark.slow

NAME = "server"


def hardening() -> list[str]:
    """Return podman's flags for what docker/compose.base.yaml says."""
    text = (ROOT / "docker" / "compose.base.yaml").read_text(encoding="utf-8")
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    service = yaml.safe_load(text)["services"]["cpu"]
    assert service["init"] is service["read_only"] is True
    return [
        "--init",
        "--read-only",
        "--read-only-tmpfs=false",
        f"--user={service['user']}",
        f"--shm-size={service['shm_size']}",
        *(f"--cap-drop={it}" for it in service["cap_drop"]),
        *(f"--security-opt={it.replace(':true', '')}" for it in service["security_opt"]),
        *(f"--tmpfs={it}" for it in service["tmpfs"]),
        *(f"--volume={it}" for it in service["volumes"]),
    ]


class Container:
    """A running container with a server."""

    def __init__(self, storage: Storage) -> None:
        """Run it."""
        self._storage = storage
        self.url, arguments = on_loopback()
        storage.podman(
            "run", "--detach", f"--name={NAME}", "--network=host", *hardening(), CPU, *arguments
        )

    def wait(self, starts: int = 1) -> None:
        """Wait until it has said that it serves, so many times."""
        wait_until(lambda: self._log().count("serving /models on") == starts, "it to serve")

    def _log(self) -> str:
        return self._storage.podman("logs", NAME)

    def state(self) -> dict[str, object]:
        """Return what podman knows about it."""
        (found,) = json.loads(self._storage.podman("inspect", NAME))
        return dict(found["State"])

    def family(self) -> list[psutil.Process]:
        """Return its processes, without the first."""
        return psutil.Process(int(str(self.state()["Pid"]))).children(recursive=True)

    def kill_process(self, model: str) -> None:
        """Kill the process of a model."""
        (process,) = (it for it in self.family() if f"{model}_0_0" in it.cmdline())
        process.kill()


@pytest.fixture(scope="module")
def container(storage: Storage) -> Iterator[Container]:
    running = Container(storage)
    running.wait()
    yield running
    storage.podman("rm", "--force", "--time=0", NAME)


def test_it_serves_without_any_privilege(container: Container) -> None:
    click(container.url)
    for process in container.family():
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        fields = dict(re.findall(r"^(\w+):\s+(.*)$", status, re.MULTILINE))
        assert fields["Uid"].split() == ["1000"] * 4
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"


def test_cudas_compat_folder_comes_before_the_systems(container: Container) -> None:
    (triton,) = (it for it in container.family() if it.name() == "tritonserver")
    folders = triton.environ()["LD_LIBRARY_PATH"].split(":")
    assert COMPAT in folders
    assert not any(folder.startswith(("/lib", "/usr/lib")) for folder in folders)


def test_its_health_check_passes_on_any_port(container: Container, storage: Storage) -> None:
    storage.podman("healthcheck", "run", NAME)


def test_a_dead_process_is_replaced_in_it(container: Container) -> None:
    container.kill_process("segment")
    click(container.url)


def test_it_is_restarted_and_ends_cleanly(container: Container, storage: Storage) -> None:
    storage.podman("kill", "--signal=KILL", NAME)
    storage.podman("wait", NAME)
    storage.podman("start", NAME)
    container.wait(starts=2)
    click(container.url)
    storage.podman("stop", "--time=45", NAME)
    assert container.state()["ExitCode"] == 0
