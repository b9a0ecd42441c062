"""What an operator can set of the front, and what the launcher tells its processes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hqsam_client import contract

from hqsam_server.launcher.options import Endpoint, Tls, absolute

PUBLIC_MODELS = (contract.EMBED.name, contract.SEGMENT.name)
"""Models that every caller may use."""

OPEN_MODELS_VARIABLE = "HQSAM_OPEN_MODELS"
"""The environment variable that names further models."""

KEYS_VARIABLE = "HQSAM_KEYS"
"""The environment variable that holds keys instead of a file."""

# Unix-domain sockets in the server's own folder, which is the working folder of its processes: the
# path of such a socket must be short.
TRITON_GRPC = "unix:triton-grpc"
TRITON_HTTP = "unix:triton-http"
TRITON_METRICS = "unix:triton-metrics"
TRITON_PORT = 1
"""Triton appends a port to the address of its gRPC service."""
FRONT_GRPC = "unix:front-grpc"
"""Where the front's own processes and the launcher call the gRPC front."""
FRONT_HTTP = "unix:front-http"
"""Where the launcher calls the HTTP front: callers can use up the connections of its ports."""
METRICS_METHOD = "/hqsam.Front/Metrics"
"""What the gRPC front measures, in Prometheus's text format; only there."""

SETTINGS_FILE = "front.json"

UNTESTED_FILE = "untested"
"""While the server's folder has this file, nobody is let in: the self-test has not passed."""

_MASK_BYTES = 4 * contract.MASK_SIZE**2
_POINT_BYTES = 3 * 4
STRUCTURE_BYTES = 2**20
"""Limit on a request without the raw bytes of its tensors."""


@dataclass(frozen=True)
class Bounds:
    """How much the front lets in.

    Attributes:
        caller_requests: requests of one caller at a time.
        caller_bytes: bytes of the requests of one caller, and of their responses, at a time.
        caller_rate: requests of one caller in a second, over ten seconds; None for no limit.
        caller_connections: connections of one address.
        connections: connections of all.
        streams: requests at a time on one connection; further ones wait at the caller.
        total_bytes: bytes of all requests and their responses at a time.
    """

    caller_requests: int = 64
    caller_bytes: int = 512 * 2**20
    caller_rate: float | None = None
    caller_connections: int = 256
    connections: int = 4096
    streams: int = 1024
    total_bytes: int = 2 * 2**30


PUBLIC_BOUNDS = Bounds(
    caller_requests=16,
    caller_rate=20.0,
    caller_connections=32,
    streams=64,
)
"""The bounds of a server that strangers may reach."""


def models_of_environment() -> tuple[str, ...]:
    """Return the models that the environment variable ``HQSAM_OPEN_MODELS`` opens to callers."""
    names = os.environ.get(OPEN_MODELS_VARIABLE, "").split(",")
    return tuple(name.strip() for name in names if name.strip())


@dataclass(frozen=True)
class Front:
    """Who may call what.

    Attributes:
        open_models: models that callers may use besides `embed` and `segment`; by default those
            that the environment variable ``HQSAM_OPEN_MODELS`` names, separated by commas.
        http: whether to serve KServe v2 over HTTP, too.
        keys_file: API keys, a line ``name key`` for each; None for the keys in the environment
            variable ``HQSAM_KEYS``, or, without it, to admit callers without a key.
        proxies: addresses or networks whose ``x-forwarded-for`` names the caller.
        bounds: how much is let in.
        call_log: file that gets a line of JSON for each call; None for none.
    """

    open_models: Sequence[str] = field(default_factory=models_of_environment)
    http: bool = False
    keys_file: Path | None = None
    proxies: Sequence[str] = ()
    bounds: Bounds = Bounds()
    call_log: Path | None = None

    def __post_init__(self) -> None:
        """Make paths absolute."""
        for name in ("keys_file", "call_log"):
            path = getattr(self, name)
            if path is not None:
                object.__setattr__(self, name, absolute(path))


@dataclass(frozen=True)
class Settings:
    """What the launcher tells the front's processes, in a file of the server's folder."""

    front: Front
    grpc: Endpoint
    http: Endpoint
    metrics: Endpoint
    tls: Tls | None
    message_bytes: int
    prompts: int
    exit_timeout_s: int

    def write(self, file: Path) -> None:
        """Write them."""
        file.write_text(json.dumps(dataclasses.asdict(self), default=str), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Settings:
        """Read what `write` wrote."""
        fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        front, tls = fields.pop("front"), fields.pop("tls")
        return cls(
            front=Front(
                front["open_models"],
                front["http"],
                None if front["keys_file"] is None else Path(front["keys_file"]),
                front["proxies"],
                Bounds(**front["bounds"]),
                None if front["call_log"] is None else Path(front["call_log"]),
            ),
            grpc=Endpoint(**fields.pop("grpc")),
            http=Endpoint(**fields.pop("http")),
            metrics=Endpoint(**fields.pop("metrics")),
            tls=None if tls is None else Tls(**{name: it and Path(it) for name, it in tls.items()}),
            **fields,
        )

    @property
    def models(self) -> frozenset[str]:
        """Names of the models that callers may use."""
        return frozenset((*PUBLIC_MODELS, *self.front.open_models))


def limits(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return the size of the largest request in bytes, and the largest number of prompts.

    A request is an image, or prompts with a mask for each.

    Args:
        environment: variables for the models, which may change their limits.
    """
    image = _number(environment, "HQSAM_MAX_BYTES", contract.MAX_IMAGE_BYTES)
    prompts = _number(environment, "HQSAM_MAX_PROMPTS", contract.MAX_PROMPTS)
    points = _number(environment, "HQSAM_MAX_POINTS", contract.MAX_POINTS)
    return max(image, prompts * (_MASK_BYTES + points * _POINT_BYTES)) + STRUCTURE_BYTES, prompts


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else default  # the models refuse what is no number
