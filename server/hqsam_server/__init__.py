"""Embedded Triton, its ONNX backend and the embedding store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hqsam_server.front.settings import PUBLIC_BOUNDS, Bounds, Front
    from hqsam_server.launcher.options import Endpoint, Tls, Tuning
    from hqsam_server.launcher.triton_server import TritonServer
    from hqsam_server.launcher.watch import supervise

__all__ = [
    "PUBLIC_BOUNDS",
    "Bounds",
    "Endpoint",
    "Front",
    "Tls",
    "TritonServer",
    "Tuning",
    "supervise",
]

# ONNX Runtime, since 1.31, otherwise keeps usage data in the home folder, to be sent to Microsoft.
# It reads the variable when it is imported. Triton's processes inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Imported at first use: the models, which share this package, need no gRPC.
_LAZY = {
    "Bounds": "front.settings",
    "Endpoint": "launcher.options",
    "Front": "front.settings",
    "PUBLIC_BOUNDS": "front.settings",
    "Tls": "launcher.options",
    "TritonServer": "launcher.triton_server",
    "Tuning": "launcher.options",
    "supervise": "launcher.watch",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
