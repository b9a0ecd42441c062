"""Embedded Triton, its ONNX backend and the embedding store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hqsam_server._endpoint import Endpoint
    from hqsam_server._triton import TritonServer
    from hqsam_server._tuning import Tuning

__all__ = ["Endpoint", "TritonServer", "Tuning"]

# Imported at first use: the models, which share this package, need no gRPC.
_LAZY = {"Endpoint": "_endpoint", "TritonServer": "_triton", "Tuning": "_tuning"}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
