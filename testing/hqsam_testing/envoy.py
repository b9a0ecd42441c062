"""The real Envoy with the files of docker/envoy, in which only addresses are replaced."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from hqsam_testing.ports import free_port
from hqsam_testing.waiting import TIMEOUT_S, wait_until

FOLDER = Path(__file__).parents[2] / "docker" / "envoy"
_HOST = "127.0.0.1"


class Envoy:
    """A running Envoy in front of replicas at these addresses."""

    def __init__(
        self,
        file: str,
        replicas: Sequence[tuple[str, int]],
        folder: Path,
        certificates: Path | None = None,
    ) -> None:
        """Write a file of docker/envoy with the addresses of this machine.

        Args:
            file: its name.
            replicas: host and port of each.
            folder: for the file with the addresses, and the log.
            certificates: the folder of server.pem, server.key and clients.pem.
        """
        text = (FOLDER / file).read_text()
        if certificates is not None:
            text = text.replace("/etc/envoy/certificates", str(certificates))
        config = yaml.safe_load(text)
        self.ports = {name: free_port() for name in ("admin", "grpc", "metrics")}
        _listen(config["admin"]["address"], self.ports["admin"])
        for listener in config["static_resources"]["listeners"]:
            _listen(listener["address"], self.ports[listener["name"]])
        for cluster in config["static_resources"]["clusters"]:
            if cluster["name"] == "admin":
                cluster["load_assignment"] = _endpoints("admin", [(_HOST, self.ports["admin"])])
            else:
                cluster["type"] = "STATIC"
                cluster["load_assignment"] = _endpoints(cluster["name"], replicas)
        self._file = folder / file
        self._file.write_text(yaml.safe_dump(config))
        self._log = folder / "envoy.log"
        self.url = f"{_HOST}:{self.ports['grpc']}"

    def __enter__(self) -> Envoy:
        """Start it, and wait until it is ready and has checked every replica."""
        # Without hot restart it keeps nothing in shared memory, which it would leave behind.
        arguments = ["--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"]
        arguments += ["--file-flush-interval-msec", "100"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("envoy"), "-c", self._file, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._is_ready, "Envoy to be ready")
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self.get("metrics", "/ready").strip() == "LIVE"
        except OSError:
            return False

    def get(self, listener: str, path: str) -> str:
        """Ask the admin interface, or the listener for Prometheus."""
        url = f"http://{_HOST}:{self.ports[listener]}{path}"
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return str(response.read().decode())

    def healthy(self) -> dict[int, bool]:
        """Return whether the replica at each port gets requests."""
        answer = json.loads(self.get("admin", "/clusters?format=json"))
        (replicas,) = (it for it in answer["cluster_statuses"] if it["name"] == "replicas")
        return {
            host["address"]["socket_address"]["port_value"]: not any(
                value
                for name, value in host["health_status"].items()
                if name != "eds_health_status"
            )
            for host in replicas["host_statuses"]
        }

    def requests(self) -> dict[int, int]:
        """Return how many requests the replica at each port was sent, attempts included."""
        answer = json.loads(self.get("admin", "/clusters?format=json"))
        (replicas,) = (it for it in answer["cluster_statuses"] if it["name"] == "replicas")
        return {
            host["address"]["socket_address"]["port_value"]: next(
                int(stat.get("value", 0)) for stat in host["stats"] if stat["name"] == "rq_total"
            )
            for host in replicas["host_statuses"]
        }

    def wait_for(self, port: int, healthy: bool) -> None:
        """Wait until the replica at this port gets requests, or gets none."""
        state = "well" if healthy else "unhealthy"
        wait_until(lambda: self.healthy()[port] == healthy, f"replica {port} to be {state}")

    def log(self, count: int) -> list[dict[str, Any]]:
        """Wait until the access log has so many lines, and return all of them."""

        def lines() -> list[str]:
            return [it for it in self._log.read_text().splitlines() if it.startswith("{")]

        wait_until(lambda: len(lines()) >= count, f"{count} lines of Envoy's access log")
        return [json.loads(line) for line in lines()]


def _listen(address: dict[str, Any], port: int) -> None:
    address["socket_address"] = {"address": _HOST, "port_value": port}


def _endpoints(cluster: str, addresses: Sequence[tuple[str, int]]) -> dict[str, Any]:
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
        for host, port in addresses
    ]
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]}
