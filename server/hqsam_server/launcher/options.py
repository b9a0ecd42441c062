"""What an operator can set: where the services listen, TLS, and how the ONNX models run."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from hqsam_server.errors import StartError

LOOPBACK = "127.0.0.1"
ANY = "0.0.0.0"  # noqa: S104


def absolute(path: str | Path) -> Path:
    """Return a path that means the same in every folder: Triton runs in another one."""
    return Path(path).expanduser().absolute()


def default_cache_dir() -> Path:
    """Return the user's folder for compiled models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hqsam"


def tracing(collector: str) -> list[str]:
    """Return arguments of `tritonserver` that make it send spans of calls to a collector.

    Only calls with a ``traceparent`` are traced: not those with which `hqsam serve` itself looks
    whether the models answer.

    Args:
        collector: where it takes OTLP over HTTP, such as ``http://localhost:4318/v1/traces``.

    Raises:
        StartError: that is no URL.
    """
    if not re.match(r"https?://[^/]", collector):
        raise StartError(
            f"--traces is {collector}, expected a URL such as http://localhost:4318/v1/traces"
        )
    settings = {
        "mode": "opentelemetry",
        "level": "TIMESTAMPS",
        "count": "0",
        "opentelemetry,url": collector,
        "opentelemetry,resource": "service.name=hqsam",
    }
    return [f"--trace-config={name}={value}" for name, value in settings.items()]


@dataclass(frozen=True)
class Endpoint:
    """Where a service of the server listens; port 0 means a free one."""

    port: int = 0
    address: str = LOOPBACK

    @property
    def host(self) -> str:
        """The address that clients on this machine use."""
        return LOOPBACK if self.address in ("", ANY) else self.address

    @property
    def url(self) -> str:
        """``host:port`` for clients on this machine."""
        return f"{self.host}:{self.port}"

    def with_port(self) -> Endpoint:
        """Return the same endpoint with a port that is free now.

        Raises:
            StartError: the port is taken or invalid, or this machine does not have the address.
        """
        if not 0 <= self.port < 65536:
            raise StartError(f"{self.port} is not a port: expected 0 to 65535")
        try:
            with socket.create_server((self.address, self.port)) as listener:
                return Endpoint(listener.getsockname()[1], self.address)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise StartError(
                f"cannot listen on {self.address}:{self.port} ({reason}): stop the program that "
                "uses it, or choose another port or address"
            ) from error


@dataclass(frozen=True)
class Tls:
    """TLS of the gRPC service; all files are PEM.

    Attributes:
        certificate: the server's certificate.
        key: its private key.
        clients: the authority that issues the clients' certificates; None admits clients
            without a certificate.
    """

    certificate: Path
    key: Path
    clients: Path | None = None

    def checked(self) -> Tls:
        """Return the same with absolute paths.

        Raises:
            StartError: a file is missing.
        """
        files = {"--grpc-server-cert": self.certificate, "--grpc-server-key": self.key}
        if self.clients is not None:
            files["--grpc-root-cert"] = self.clients
        for name, file in files.items():
            if not file.expanduser().is_file():
                raise StartError(f"{name} is {file}, which is not a file: check the path")
        clients = None if self.clients is None else absolute(self.clients)
        return Tls(absolute(self.certificate), absolute(self.key), clients)


@dataclass(frozen=True)
class Tuning:
    """How the ONNX models run.

    Attributes:
        precision: "auto" (bf16 if the processor has it), "bf16" or "fp32"; `decoder` always
            computes in fp32.
        threads: threads of each model; None for all processors.
        cache_dir: where compiled models are kept; None to keep none.
        model_config_name: the config under each model's `configs/` to prefer.
        backend_directory: Triton's own backends, which run the models as their configs say;
            None for this package's, which run ONNX files on the CPU.
    """

    precision: str = "auto"
    threads: int | None = None
    cache_dir: Path | None = field(default_factory=default_cache_dir)
    model_config_name: str = "cpu"
    backend_directory: Path | None = None

    def __post_init__(self) -> None:
        """Make the paths absolute."""
        for name in ("cache_dir", "backend_directory"):
            path: Path | None = getattr(self, name)
            if path is not None:
                object.__setattr__(self, name, absolute(path))
