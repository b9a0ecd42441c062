"""A real Triton as a child process: started, waited for, and stopped without a trace."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hqsam_server import _distribution, _janitor, _workspace
from hqsam_server._errors import StartError
from hqsam_server._workspace import Tuning

LOOPBACK = "127.0.0.1"

# What only an administrator may do; the key is drawn anew for each server.
_ADMIN_PROTOCOLS = "model-repository,shared-memory,statistics,trace,logging"
_ADMIN_HEADER = "hqsam-admin"

# A line of Triton's log: severity and time, process, place, message.
_LOG_LINE = re.compile(r"^(?P<severity>[EWI])\d{4} \S+ \d+ \S+\] (?P<message>.*)$")

# The line with which Triton says that every request has been answered.
_DRAINED = "All models are stopped"

# How long models may take to unload after that; those whose process died never do.
_UNLOAD_S = 5.0

_SERVICES = ("grpc", "http", "metrics")
_PORT_ATTEMPTS = 3
_POLL_S = 0.1


@dataclass(frozen=True)
class Endpoint:
    """Where a service of the server listens; port 0 takes a free one."""

    port: int = 0
    address: str = LOOPBACK

    @property
    def url(self) -> str:
        """``address:port``, as a client on this machine reaches it."""
        host = LOOPBACK if self.address in ("", "0.0.0.0") else self.address  # noqa: S104
        return f"{host}:{self.port}"


class TritonServer:
    """A Triton server on a model repository.

    ::

        with TritonServer(Path("model_repository")) as server:
            sam = HQSam(server.grpc_url)
    """

    def __init__(
        self,
        model_repository: Path,
        *,
        grpc: Endpoint = Endpoint(),
        http: Endpoint = Endpoint(),
        metrics: Endpoint = Endpoint(),
        tuning: Tuning = Tuning(),  # noqa: B008
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        start_timeout_s: float = 600.0,
        exit_timeout_s: int = 30,
        log: TextIO | None = None,
    ) -> None:
        """Prepare a server; `start` starts it.

        Args:
            model_repository: as `hqsam export` writes it.
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
        self._recent: collections.deque[str] = collections.deque(maxlen=200)
        self._drained = threading.Event()
        self._shared_memory_prefix = f"hqsam-{secrets.token_hex(8)}-"
        self._admin_key = secrets.token_urlsafe(24)
        self._folder: Path | None = None
        self._janitor: subprocess.Popen[str] | None = None
        self._process: subprocess.Popen[str] | None = None

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

    @property
    def admin_metadata(self) -> list[tuple[str, str]]:
        """GRPC metadata that opens the administrator's protocols."""
        return [(f"triton-grpc-protocol-{_ADMIN_HEADER}", self._admin_key)]

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
        self._distribution = _distribution.find()
        self._folder = Path(tempfile.mkdtemp(prefix="hqsam-"))
        self._janitor = subprocess.Popen(  # noqa: S603
            [sys.executable, "-IS", _janitor.__file__, self._folder, self._shared_memory_prefix],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        _workspace.write_backends(self._folder / "backends", self._distribution)
        _workspace.write_repository(self._folder / "repository", self._source, self._tuning)
        self._environment["HQSAM_HEALS_FILE"] = str(self._folder / "heals")
        # Private to this server, so gone with it; on tmpfs, which embeddings are read from.
        if "HQSAM_STORE_FOLDER" not in self._environment | dict(os.environ):
            store = _janitor.SHARED_MEMORY / f"{self._shared_memory_prefix}store"
            self._environment["HQSAM_STORE_FOLDER"] = str(store)

    def _launch(self) -> None:
        for attempt in range(_PORT_ATTEMPTS):
            self._endpoints = {name: _with_port(e) for name, e in self._wanted.items()}
            self._spawn()
            try:
                self._wait_until_ready()
            except StartError:
                # Between asking for a free port and taking it, somebody else may have.
                if attempt + 1 == _PORT_ATTEMPTS or not self._port_was_taken():
                    raise
                self.terminate()
            else:
                return

    def restart(self) -> None:
        """Start the process again, on the same ports and with the same store.

        What is left of the old one is not waited for: its models may be past answering.

        Raises:
            StartError: it ended or was not ready in time.
        """
        if self._process is not None:
            self._kill(self._process)
        for path in _janitor.SHARED_MEMORY.glob(f"{self._shared_memory_prefix}*"):
            if path.is_file():
                path.unlink(missing_ok=True)
        self._spawn()
        self._wait_until_ready()
        self.count_heal()

    def touch(self, model: str) -> None:
        """Make a model look changed, so that loading it is not taken for done already."""
        assert self._folder is not None  # noqa: S101 - prepared
        (self._folder / "repository" / model / "generation").touch()

    def count_heal(self) -> None:
        """Count a model or server that was started again, for the metric of that name."""
        assert self._folder is not None  # noqa: S101 - prepared
        with (self._folder / "heals").open("ab") as file:
            file.write(b"+")

    def _spawn(self) -> None:
        assert self._folder is not None  # noqa: S101 - prepared
        assert self._janitor is not None  # noqa: S101
        assert self._janitor.stdin is not None  # noqa: S101
        self._recent.clear()
        self._drained.clear()
        self._process = subprocess.Popen(  # noqa: S603
            [self._distribution.binary, *self._command_line(self._folder)],
            env=self._distribution.environment() | self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=self._folder,
            start_new_session=True,
        )
        print(self._process.pid, file=self._janitor.stdin, flush=True)
        threading.Thread(target=self._read_log, args=(self._process,), daemon=True).start()

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
            f"--backend-directory={folder / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}",
            *endpoints,
            "--model-control-mode=explicit",
            "--load-model=*",
            f"--grpc-restricted-protocol={_ADMIN_PROTOCOLS}:{_ADMIN_HEADER}={self._admin_key}",
            f"--http-restricted-api={_ADMIN_PROTOCOLS}:{_ADMIN_HEADER}={self._admin_key}",
            f"--exit-timeout-secs={self._exit_timeout_s}",
            "--allow-gpu-metrics=false",
            "--disable-auto-complete-config",
            *self._arguments,
        ]

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101
        for line in process.stdout:
            if _DRAINED in line:
                self._drained.set()
            self._recent.append(line.rstrip("\n"))
            if self._log is not None:
                print(line, end="", file=self._log, flush=True)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        with grpc.insecure_channel(self.grpc_url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not _is_ready(stub):
                if self._process is None or self._process.poll() is not None:
                    raise StartError(f"Triton ended while it started: {self._reason()}")
                if time.monotonic() > deadline:
                    raise StartError(
                        f"Triton was not ready within {self._start_timeout_s:g} s: {self._reason()}"
                    )
                time.sleep(_POLL_S)

    def _reason(self) -> str:
        """Return what the log says went wrong, in one line."""
        errors = [
            match["message"]
            for line in self._recent
            if (match := _LOG_LINE.match(line)) and match["severity"] == "E"
        ]
        # The rest of a machine without a GPU is noise.
        errors = [message for message in errors if "CudaDriverHelper" not in message]
        errors.sort(key=lambda message: "failed to load" not in message)
        return errors[0] if errors else (self._recent[-1] if self._recent else "it said nothing")

    def _port_was_taken(self) -> bool:
        return any(
            not self._wanted[name].port and not _is_free(self._endpoints[name])
            for name in _SERVICES
        )

    def is_running(self) -> bool:
        """Tell whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the process to end; return its exit status, or None after the timeout."""
        assert self._process is not None  # noqa: S101 - started
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self) -> None:
        """End the process: requests under way are finished first, within the exit timeout."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._drained.wait(self._exit_timeout_s)
        if self.wait(_UNLOAD_S) is None:
            self._kill(self._process)

    @staticmethod
    def _kill(process: subprocess.Popen[str]) -> None:
        # Also the models' processes, which outlive a server that was killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """End the server and remove all that it left behind."""
        self.terminate()
        if self._janitor is not None and self._janitor.stdin is not None:
            self._janitor.stdin.close()
            self._janitor.wait()
            self._janitor = None

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


def _with_port(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with a port that is free now.

    Raises:
        StartError: the port asked for is taken, or the address is not this machine's.
    """
    if endpoint.port and not _is_free(endpoint):
        raise StartError(
            f"port {endpoint.port} on {endpoint.address} is taken or not ours: stop what "
            "listens there, or choose another port"
        )
    if endpoint.port:
        return endpoint
    with socket.create_server((endpoint.address, 0)) as listener:
        return Endpoint(listener.getsockname()[1], endpoint.address)


def _is_free(endpoint: Endpoint) -> bool:
    try:
        socket.create_server((endpoint.address, endpoint.port)).close()
    except OSError:
        return False
    return True


def _is_ready(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> bool:
    try:
        return bool(stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=1.0).ready)
    except grpc.RpcError:
        return False
