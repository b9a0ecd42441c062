"""The server side's part of the exception tree.

::

    HQSamError
    └── ServingError
        ├── BadRequestError    the request is at fault: INVALID_ARGUMENT
        ├── UnknownImageError  the picture is not stored: NOT_FOUND
        ├── OverloadedError    too much is waiting: UNAVAILABLE
        ├── ModelCallError     another model of the server failed: the code it answered
        └── StoreError         the store cannot be used: INTERNAL

The Triton models turn them into gRPC codes in one place, `hqsam_server._adapter`.
"""

from __future__ import annotations

from hqsam_client import HQSamError


class ServingError(HQSamError):
    """Base of what a model of the repository answers instead of a result."""


class BadRequestError(ServingError):
    """The request can never succeed as it is."""


class UnknownImageError(ServingError):
    """No embedding is stored under this `image_id`; `embed` the picture and ask again."""


class OverloadedError(ServingError):
    """Too many requests are waiting; the same request may succeed later."""


class ModelCallError(ServingError):
    """Another model of this server answered with an error.

    Attributes:
        code: its code, one of `triton_python_backend_utils.TritonError`'s.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class StoreError(ServingError):
    """The embedding store cannot be read or written."""
