"""What the page's server answers instead of a result: a status, a code and a sentence.

The script in the browser decides by the code, and shows the sentence where the user looks.
"""

from __future__ import annotations

from hqsam_client import (
    AccessDeniedError,
    HQSamError,
    ImageError,
    InvalidRequestError,
    PromptError,
    RequestTimeoutError,
    TooLargeError,
    UnavailableError,
)


class RefusedError(Exception):
    """An answer that is no result.

    Attributes:
        status: of HTTP.
        code: what the script goes by.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class UnknownPictureError(RefusedError):
    """The picture was not sent yet, or made room for others; the script sends it again."""

    def __init__(self, image_id: str) -> None:
        super().__init__(404, "unknown-picture", f"no picture {image_id[:12]}… here: send it again")


# The first that fits.
_TABLE: tuple[tuple[type[HQSamError], int, str], ...] = (
    (ImageError, 422, "picture"),
    (PromptError, 422, "prompt"),
    (InvalidRequestError, 422, "refused"),
    (TooLargeError, 413, "too-large"),
    (UnavailableError, 503, "unavailable"),
    (RequestTimeoutError, 504, "timeout"),
    (AccessDeniedError, 502, "denied"),
)


def from_client(error: HQSamError) -> RefusedError:
    """Return the answer for an error of the client."""
    for kind, status, code in _TABLE:
        if isinstance(error, kind):
            return RefusedError(status, code, str(error))
    return RefusedError(502, "failed", str(error))
