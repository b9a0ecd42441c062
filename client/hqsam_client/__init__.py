"""Thin client for HQ-SAM served by NVIDIA Triton: prompts in, masks out.

```python
from hqsam_client import HQSam

with HQSam("localhost:8001") as sam:
    image = sam.open("photo.jpg")
    image.segment(points=[(420, 310)]).save("mask.png")
```
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from hqsam_client.errors import (
    AccessDeniedError,
    ConnectionLostError,
    HQSamError,
    ImageError,
    InvalidRequestError,
    MissingPackageError,
    NotFoundError,
    OptionError,
    PromptError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerFailedError,
    SupersededError,
    TooLargeError,
    TooManyRequestsError,
    UnavailableError,
)

if TYPE_CHECKING:
    __version__: str
    from hqsam_client.async_client import AsyncHQSam, AsyncRemoteImage, AsyncWindowedImage
    from hqsam_client.client import HQSam, RemoteImage, WindowedImage
    from hqsam_client.everything import EverythingOptions, FoundMask
    from hqsam_client.image_files import Percentiles
    from hqsam_client.mask import Mask, Polygon
    from hqsam_client.shared.base import EmbedResult
    from hqsam_client.windows import WindowMask, Windows

__all__ = [
    "AccessDeniedError",
    "AsyncHQSam",
    "AsyncRemoteImage",
    "AsyncWindowedImage",
    "ConnectionLostError",
    "EmbedResult",
    "EverythingOptions",
    "FoundMask",
    "HQSam",
    "HQSamError",
    "ImageError",
    "InvalidRequestError",
    "Mask",
    "MissingPackageError",
    "NotFoundError",
    "OptionError",
    "Percentiles",
    "Polygon",
    "PromptError",
    "RemoteImage",
    "RequestRefusedError",
    "RequestTimeoutError",
    "ServerFailedError",
    "SupersededError",
    "TooLargeError",
    "TooManyRequestsError",
    "UnavailableError",
    "WindowMask",
    "WindowedImage",
    "Windows",
    "__version__",
]

# Modules that need gRPC are imported at first use: the server's processes share this package's
# contract, and each would start gRPC.
_LAZY = {
    "AsyncHQSam": "async_client",
    "AsyncRemoteImage": "async_client",
    "AsyncWindowedImage": "async_client",
    "EmbedResult": "shared.base",
    "EverythingOptions": "everything",
    "FoundMask": "everything",
    "HQSam": "client",
    "Mask": "mask",
    "Percentiles": "image_files",
    "Polygon": "mask",
    "RemoteImage": "client",
    "WindowMask": "windows",
    "WindowedImage": "client",
    "Windows": "windows",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name == "__version__":
        return importlib.metadata.version("hqsam-triton")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
