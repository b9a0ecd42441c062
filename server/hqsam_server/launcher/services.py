"""The services of a server: where callers reach them, and where only this user reaches Triton."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hqsam_server.front import settings
from hqsam_server.launcher.options import Endpoint

_READY_TIMEOUT_S = 2.5

_TRITON = {
    "grpc": settings.TRITON_GRPC,
    "http": settings.TRITON_HTTP,
    "metrics": settings.TRITON_METRICS,
}


class Services:
    """The services `grpc`, `http` and `metrics` of one server.

    Callers reach those of the front. Triton's own listen on sockets in the server's folder, which
    only its user can enter.
    """

    def __init__(self, wanted: Mapping[str, Endpoint], folder: Path) -> None:
        """Keep where they are wanted; `choose_ports` decides where they are."""
        self._wanted = dict(wanted)
        self._folder = folder
        self.endpoints = dict(wanted)

    def url(self, service: str) -> str:
        """Return ``host:port`` of a service, for clients on this machine."""
        return self.endpoints[service].url

    def choose_ports(self) -> None:
        """Choose ports that are free now.

        Raises:
            StartError: a wanted port is taken, or an address is not this machine's.
        """
        self.endpoints = {name: wanted.with_port() for name, wanted in self._wanted.items()}

    def arguments(self) -> list[str]:
        """Return the arguments for `tritonserver`."""
        return [
            *(f"--{name}-address={address}" for name, address in _TRITON.items()),
            *(f"--{name}-port={settings.TRITON_PORT}" for name in _TRITON),
        ]

    def remove_sockets(self) -> None:
        """Remove the sockets of a Triton that was killed."""
        for name in _TRITON.values():
            for path in self._folder.glob(f"{name.removeprefix('unix:')}*"):
                path.unlink(missing_ok=True)

    def is_triton_ready(self, metrics: bool) -> bool:
        """Ask Triton's services that start after gRPC.

        Args:
            metrics: whether to ask for the metrics: the last service to start; Triton ends if
                it cannot.
        """
        return self._is_ok("http", "/v2/health/ready") and (
            not metrics or self._is_ok("metrics", "/metrics")
        )

    def is_front_ready(self) -> bool:
        """Ask, through all of the front, whether Triton is ready."""
        return self._ask_front("/v2/health/ready") == http.client.OK

    def is_http_front_alive(self) -> bool:
        """Ask whether the HTTP front answers anything."""
        return self._ask_front("/v2/health/live") != 0

    def is_grpc_front_alive(self) -> bool:
        """Ask the HTTP front whether the gRPC front answers; without an answer it counts so."""
        return self._ask_front("/v2/health/live") in (0, http.client.OK)

    def _ask_front(self, path: str) -> int:
        return self._ask_socket(settings.FRONT_HTTP, "GET", path, _READY_TIMEOUT_S)[0]

    def _is_ok(self, service: str, path: str) -> bool:
        status, _ = self._ask_socket(_TRITON[service], "GET", path, _READY_TIMEOUT_S)
        return status == http.client.OK

    def load(self, model: str, timeout_s: float) -> str | None:
        """Load a model; return None, or why it was not loaded in that time."""
        path = f"/v2/repository/models/{model}/load"
        status, answer = self._ask_socket(_TRITON["http"], "POST", path, timeout_s)
        return None if status == http.client.OK else answer

    def call(
        self,
        model: str,
        inputs: list[dict[str, Any]],
        timeout_s: float,
        outputs: tuple[str, ...] = (),
    ) -> tuple[int, str]:
        """Run a model on inputs in KServe's JSON; return HTTP status and text, or 0 and why.

        Without names of outputs, the answer has all.
        """
        body: dict[str, Any] = {"inputs": inputs}
        if outputs:
            body["outputs"] = [{"name": name} for name in outputs]
        path = f"/v2/models/{model}/infer"
        return self._ask_socket(_TRITON["http"], "POST", path, timeout_s, body)

    def _ask_socket(
        self,
        address: str,
        method: str,
        path: str,
        timeout_s: float,
        body: dict[str, Any] | None = None,
    ) -> tuple[int, str]:
        file = self._folder / address.removeprefix("unix:")
        return _ask(_UnixConnection(file, timeout_s), method, path, body)


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
) -> tuple[int, str]:
    """Return status and message of a response, status 0 without a response."""
    with contextlib.closing(connection):
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
    try:
        return response.status, str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return response.status, text


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix-domain socket."""

    def __init__(self, file: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._file = file

    def connect(self) -> None:
        """Connect; the path may be longer than a socket's address."""
        folder = os.open(self._file.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._file.name}")
        finally:
            os.close(folder)
