"""Thin client for HQ-SAM served by NVIDIA Triton: prompts in, masks out.

```python
from hqsam_client import HQSam

with HQSam("localhost:8001") as sam:
    picture = sam.open("photo.jpg")
    picture.segment(points=[(420, 310)]).save("mask.png")
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hqsam_client._errors import (
    AccessDeniedError,
    ConnectionLostError,
    HQSamError,
    InvalidRequestError,
    MissingPackageError,
    NotFoundError,
    OptionError,
    PictureError,
    PromptError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerFailedError,
    SupersededError,
    TooLargeError,
    UnavailableError,
)

if TYPE_CHECKING:
    from hqsam_client._async_client import AsyncHQSam, AsyncPicture
    from hqsam_client._base import EmbedResult
    from hqsam_client._client import HQSam, Picture
    from hqsam_client._mask import Mask

__all__ = [
    "AccessDeniedError",
    "AsyncHQSam",
    "AsyncPicture",
    "ConnectionLostError",
    "EmbedResult",
    "HQSam",
    "HQSamError",
    "InvalidRequestError",
    "Mask",
    "MissingPackageError",
    "NotFoundError",
    "OptionError",
    "Picture",
    "PictureError",
    "PromptError",
    "RequestRefusedError",
    "RequestTimeoutError",
    "ServerFailedError",
    "SupersededError",
    "TooLargeError",
    "UnavailableError",
]

# What needs gRPC is imported at first use: the server shares this package's contract,
# and gRPC would be started in each of its processes.
_LAZY = {
    "AsyncHQSam": "_async_client",
    "AsyncPicture": "_async_client",
    "EmbedResult": "_base",
    "HQSam": "_client",
    "Mask": "_mask",
    "Picture": "_client",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
