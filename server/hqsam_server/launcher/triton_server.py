"""A real Triton as a child process: started, waited for, and stopped without a trace."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from hqsam_server import small_model
from hqsam_server.errors import StartError
from hqsam_server.launcher import cleanup, distribution, workspace
from hqsam_server.launcher.endpoint import Endpoint
from hqsam_server.launcher.process import Process
from hqsam_server.launcher.tuning import Tuning

# What only the process that started the server may do; the key is drawn anew for each
# server. Metadata only tells what the contract tells.
_ADMIN_PROTOCOLS = "model-repository,shared-memory,statistics,trace,logging"
_ADMIN_HEADER = "hqsam-admin"

_FREE_PORT = Endpoint()
_SERVICES = ("grpc", "http", "metrics")
_PORT_ATTEMPTS = 3
_POLL_S = 0.1
_ANSWER_S = 5.0


class TritonServer:
    """A Triton server on a model repository.

    ```python
    with TritonServer(Path("model_repository")) as server:
        sam = HQSam(server.grpc_url)
    ```
    """

    def __init__(
        self,
        model_repository: Path | None = None,
        *,
        grpc: Endpoint = _FREE_PORT,
        http: Endpoint = _FREE_PORT,
        metrics: Endpoint = _FREE_PORT,
        tuning: Tuning = Tuning(),  # noqa: B008
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        start_timeout_s: float = 600.0,
        exit_timeout_s: int = 30,
        log: TextIO | None = None,
    ) -> None:
        """Prepare a server; `start` starts it.

        Args:
            model_repository: as `hqsam export` writes it; None for the small model.
            grpc: where KServe v2 over gRPC is served.
            http: where KServe v2 over HTTP is served.
            metrics: where Prometheus reads.
            tuning: precision, threads and instances of the ONNX models.
            environment: variables for the models, such as ``HQSAM_STORE_FOLDER``. Without
                that one, embeddings are forgotten when the server stops.
            arguments: further arguments for `tritonserver`.
            start_timeout_s: how long loading the models may take.
            exit_timeout_s: how long requests under way may take once the server stops.
            log: where the server's log goes; None for nowhere.
        """
        self._source = model_repository
        self._wanted = {"grpc": grpc, "http": http, "metrics": metrics}
        self._endpoints = dict(self._wanted)
        self._tuning = tuning
        self._environment = dict(environment or {})
        self._arguments = list(arguments)
        self._start_timeout_s = start_timeout_s
        self._exit_timeout_s = exit_timeout_s
        self._log = log
        self._shared_memory_prefix = f"hqsam-{secrets.token_hex(8)}-"
        self._admin_key = secrets.token_urlsafe(24)
        self._folder: Path | None = None
        self._janitor: subprocess.Popen[bytes] | None = None
        self._claim: int | None = None
        self._process: Process | None = None

    @property
    def grpc_url(self) -> str:
        """``host:port`` of the gRPC service."""
        return self._endpoints["grpc"].url

    @property
    def http_url(self) -> str:
        """``host:port`` of the HTTP service."""
        return self._endpoints["http"].url

    @property
    def metrics_url(self) -> str:
        """``host:port`` of the metrics service; Prometheus reads ``/metrics`` there."""
        return self._endpoints["metrics"].url

    @property
    def pid(self) -> int:
        """Process ID of `tritonserver`."""
        assert self._process is not None  # noqa: S101 - started
        return self._process.pid

    def start(self) -> TritonServer:
        """Start the server and wait until it is ready.

        Raises:
            StartError: it cannot be started; the message says why in one line.
        """
        try:
            self._prepare()
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def _prepare(self) -> None:
        self._distribution = distribution.find()
        self._folder = Path(tempfile.mkdtemp(prefix="hqsam-"))
        cleanup.remove_abandoned()
        self._claim = cleanup.claim(self._shared_memory_prefix)
        self._janitor = subprocess.Popen(  # noqa: S603
            [sys.executable, "-IS", cleanup.__file__, self._folder, self._shared_memory_prefix],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        if self._tuning.backend_directory is None:
            workspace.write_backends(self._folder / "backends", self._distribution)
        source = self._source
        if source is None:
            source = self._folder / "small"
            small_model.write(source, link=True)
        workspace.write_repository(self._folder / "repository", source, self._tuning)
        self._environment["HQSAM_COMPUTED_BY"] = workspace.computed_by(self._folder / "repository")
        self._environment[cleanup.MARK] = str(self._folder)
        (self._folder / "restarts").touch()
        self._environment["HQSAM_RESTARTS_FILE"] = str(self._folder / "restarts")
        # Private to this server, so gone with it; on tmpfs, which embeddings are read from.
        if "HQSAM_STORE_FOLDER" not in self._environment | dict(os.environ):
            store = cleanup.SHARED_MEMORY / f"{self._shared_memory_prefix}store"
            self._environment["HQSAM_STORE_FOLDER"] = str(store)

    def _launch(self) -> None:
        for attempt in range(_PORT_ATTEMPTS):
            self._endpoints = {name: wanted.with_port() for name, wanted in self._wanted.items()}
            self._spawn()
            try:
                self._wait_until_ready()
            except StartError:
                assert self._process is not None  # noqa: S101 - spawned
                # Between asking for a free port and taking it, somebody else may have.
                if attempt + 1 == _PORT_ATTEMPTS or not self._process.lost_a_port():
                    raise
                self._process.kill()
            else:
                return

    def _spawn(self) -> None:
        assert self._folder is not None  # noqa: S101 - prepared
        self._process = Process(
            [self._distribution.binary, *self._command_line(self._folder)],
            self._distribution.environment() | self._environment,
            self._folder,
            self._log,
        )

    def restart(self) -> None:
        """Start the process again, on the same ports and with the same store.

        What is left of the old one is not waited for: its models may be past answering.

        Raises:
            StartError: it ended or was not ready in time.
        """
        if self._process is not None:
            self._process.kill()
        self.remove_shared_memory(set())
        self._count_restart()
        self._spawn()
        self._wait_until_ready()

    def reload(self, model: str, timeout_s: float) -> None:
        """Load a model again; what still works of it answers until the new one is there.

        Raises:
            StartError: it could not be loaded in that time.
        """
        assert self._folder is not None  # noqa: S101 - prepared
        self._count_restart()
        # Triton loads no model again whose files have not changed.
        (self._folder / "repository" / model / "generation").touch()
        status, answer = self._ask("POST", f"/v2/repository/models/{model}/load", timeout_s)
        if status != http.client.OK:
            raise StartError(f"{model} could not be loaded: {answer}")

    def remove_shared_memory(self, used: Collection[str]) -> None:
        """Remove the server's shared memory, but not the parts with these names."""
        kept = {*used, f"{self._shared_memory_prefix}{cleanup.LOCK}"}
        for path in cleanup.SHARED_MEMORY.glob(f"{self._shared_memory_prefix}*"):
            # The store is a folder, and stays.
            if path.is_file() and path.name not in kept:
                path.unlink(missing_ok=True)

    def _count_restart(self) -> None:
        """Count a model or server about to be started again; one byte each, a model reads it."""
        assert self._folder is not None  # noqa: S101 - prepared
        with (self._folder / "restarts").open("ab") as file:
            file.write(b"+")

    def _command_line(self, folder: Path) -> list[str]:
        endpoints = [
            argument
            for name in _SERVICES
            for argument in (
                f"--{name}-port={self._endpoints[name].port}",
                f"--{name}-address={self._endpoints[name].address}",
            )
        ]
        return [
            f"--model-repository={folder / 'repository'}",
            f"--backend-directory={self._tuning.backend_directory or folder / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}",
            *endpoints,
            "--model-control-mode=explicit",
            "--load-model=*",
            f"--grpc-restricted-protocol={_ADMIN_PROTOCOLS}:{_ADMIN_HEADER}={self._admin_key}",
            f"--http-restricted-api={_ADMIN_PROTOCOLS}:{_ADMIN_HEADER}={self._admin_key}",
            f"--exit-timeout-secs={self._exit_timeout_s}",
            # Quantiles beside sums: an average hides who waits.
            "--metrics-config=summary_latencies=true",
            f"--allow-gpu-metrics={str(self._tuning.backend_directory is not None).lower()}",
            "--disable-auto-complete-config",
            *self._arguments,
        ]

    def _wait_until_ready(self) -> None:
        assert self._process is not None  # noqa: S101 - spawned
        deadline = time.monotonic() + self._start_timeout_s
        while not self._is_ready():
            if not self._process.is_running():
                raise StartError(f"Triton ended while it started: {self._process.reason()}")
            if time.monotonic() > deadline:
                raise StartError(
                    f"Triton was not ready within {self._start_timeout_s:g} s: "
                    f"{self._process.reason()}"
                )
            time.sleep(_POLL_S)
        assert self._folder is not None  # noqa: S101 - prepared
        (self._folder / cleanup.READY).touch()

    def _is_ready(self) -> bool:
        """Ask the services that start after gRPC's and are never behind TLS."""
        if self._ask("GET", "/v2/health/ready", _ANSWER_S)[0] != http.client.OK:
            return False
        # The last one to start; Triton ends if it cannot.
        if any(argument.startswith("--allow-metrics") for argument in self._arguments):
            return True
        return self._ask("GET", "/metrics", _ANSWER_S, "metrics")[0] == http.client.OK

    def _ask(
        self, method: str, path: str, timeout_s: float, service: str = "http"
    ) -> tuple[int, str]:
        """Return status and message of a service's answer, status 0 without one."""
        endpoint = self._endpoints[service]
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)
        try:
            connection.request(method, path, headers={_ADMIN_HEADER: self._admin_key})
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

    def is_running(self) -> bool:
        """Tell whether the process is there."""
        return self._process is not None and self._process.is_running()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the process to end; return its exit status, or None after the timeout."""
        assert self._process is not None  # noqa: S101 - started
        return self._process.wait(timeout_s)

    def terminate(self) -> None:
        """End the process: requests under way are finished first, within the exit timeout."""
        if self._process is not None:
            self._process.terminate(self._exit_timeout_s)

    def stop(self) -> None:
        """End the server and remove all that it left behind."""
        self.terminate()
        if self._janitor is not None and self._janitor.stdin is not None:
            self._janitor.stdin.close()
            self._janitor.wait()
            self._janitor = None
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def __enter__(self) -> TritonServer:
        """Start the server unless it was started."""
        return self if self.is_running() else self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()
