"""The services of a server: where they listen, and the calls that only the launcher may make."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Mapping
from typing import Any

from hqsam_server.launcher.options import Endpoint

# What only the process that started the server may do; each server draws its own key.
# Metadata is open to all: it tells no more than the contract does.
_ADMIN_PROTOCOLS = "model-repository,shared-memory,statistics,trace,logging"
_ADMIN_HEADER = "hqsam-admin"

_READY_TIMEOUT_S = 2.0


class Services:
    """The services `grpc`, `http` and `metrics` of one server."""

    def __init__(self, wanted: Mapping[str, Endpoint]) -> None:
        """Keep where they are wanted; `choose_ports` decides where they are."""
        self._wanted = dict(wanted)
        self._endpoints = dict(wanted)
        self._admin_key = secrets.token_urlsafe(24)

    def url(self, service: str) -> str:
        """Return ``host:port`` of a service, for clients on this machine."""
        return self._endpoints[service].url

    def choose_ports(self) -> None:
        """Choose ports that are free now.

        Raises:
            StartError: a wanted port is taken, or an address is not this machine's.
        """
        self._endpoints = {name: wanted.with_port() for name, wanted in self._wanted.items()}

    def arguments(self) -> list[str]:
        """Return the arguments for `tritonserver`."""
        admin = f"{_ADMIN_PROTOCOLS}:{_ADMIN_HEADER}={self._admin_key}"
        return [
            *(f"--{name}-port={it.port}" for name, it in self._endpoints.items()),
            *(f"--{name}-address={it.address}" for name, it in self._endpoints.items()),
            f"--grpc-restricted-protocol={admin}",
            f"--http-restricted-api={admin}",
        ]

    def is_ready(self, metrics: bool) -> bool:
        """Ask the services that start after gRPC, and are never behind TLS.

        Args:
            metrics: whether to ask for the metrics: the last service to start; Triton ends if
                it cannot.
        """
        return self._is_ok("http", "/v2/health/ready") and (
            not metrics or self._is_ok("metrics", "/metrics")
        )

    def _is_ok(self, service: str, path: str) -> bool:
        return self._ask(service, "GET", path, _READY_TIMEOUT_S)[0] == http.client.OK

    def load(self, model: str, timeout_s: float) -> str | None:
        """Load a model; return None, or why it was not loaded in that time."""
        path = f"/v2/repository/models/{model}/load"
        status, answer = self._ask("http", "POST", path, timeout_s)
        return None if status == http.client.OK else answer

    def call(self, model: str, inputs: list[dict[str, Any]], timeout_s: float) -> tuple[int, str]:
        """Run a model on inputs in KServe's JSON; return HTTP status and text, or 0 and why."""
        return self._ask("http", "POST", f"/v2/models/{model}/infer", timeout_s, {"inputs": inputs})

    def _ask(
        self,
        service: str,
        method: str,
        path: str,
        timeout_s: float,
        body: dict[str, Any] | None = None,
    ) -> tuple[int, str]:
        """Return status and message of a response, status 0 without a response."""
        endpoint = self._endpoints[service]
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {_ADMIN_HEADER: self._admin_key})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()
        try:
            return response.status, str(json.loads(text)["error"])
        except (ValueError, KeyError):
            return response.status, text
