"""Errors of the page's server: an HTTP status, a code for the script and a message for the user."""

from __future__ import annotations

from hqsam_client import (
    AccessDeniedError,
    HQSamError,
    ImageError,
    InvalidRequestError,
    PromptError,
    RequestTimeoutError,
    TooLargeError,
    TooManyRequestsError,
    UnavailableError,
)
from starlette.responses import JSONResponse


class PageStartError(HQSamError):
    """The page cannot be served."""


class PageError(Exception):
    """The page's server answers a request with an error.

    Attributes:
        status: the HTTP status.
        code: a word that the script decides by, such as "unknown-image".
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse({"code": self.code, "message": str(self)}, self.status)


# The first class that matches decides.
_TABLE: tuple[tuple[type[HQSamError], int, str], ...] = (
    (ImageError, 422, "image"),
    (PromptError, 422, "prompt"),
    (InvalidRequestError, 422, "refused"),
    (TooLargeError, 413, "too-large"),
    (TooManyRequestsError, 503, "unavailable"),
    (UnavailableError, 503, "unavailable"),
    (RequestTimeoutError, 504, "timeout"),
    (AccessDeniedError, 502, "denied"),
)


def from_client(error: HQSamError) -> PageError:
    """Return the answer for an error of the client."""
    for kind, status, code in _TABLE:
        if isinstance(error, kind):
            return PageError(status, code, str(error))
    return PageError(502, "failed", str(error))
