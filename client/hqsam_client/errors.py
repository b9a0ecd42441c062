"""The exception tree, and the one table from gRPC codes to it.

```text
HQSamError
├── PromptError             points, labels, boxes or an earlier mask are wrong (ValueError)
├── ImageError              it is not an image, or cannot be read or drawn on (ValueError)
├── OptionError             an address, path, certificate or other option is wrong (ValueError)
├── MissingPackageError     an optional package is not installed
├── SupersededError         a newer call on `image.latest` replaced this one
├── ConnectionLostError     the server returned no usable response
│   ├── UnavailableError        no server there, or a full queue: UNAVAILABLE;
│   │                           the client was closed: CANCELLED
│   └── RequestTimeoutError     no response in time: DEADLINE_EXCEEDED
└── RequestRefusedError     the server answered with an error; `code` names it
    ├── InvalidRequestError     the request cannot succeed: INVALID_ARGUMENT
    ├── NotFoundError           no such model, or the image is gone again: NOT_FOUND
    ├── AccessDeniedError       UNAUTHENTICATED, PERMISSION_DENIED
    ├── TooLargeError           a message over the limits: RESOURCE_EXHAUSTED
    ├── TooManyRequestsError    too many at once, or too fast: RESOURCE_EXHAUSTED, and how long
    │                           to wait
    └── ServerFailedError       every other code
```

The first five are raised before anything is sent, or instead of a result.
"""

from __future__ import annotations

import re
import unicodedata


def printable(text: str) -> str:
    """Return a text that is safe to print on a terminal.

    Line ends, escape sequences and other characters that control a terminal or the direction of
    writing become escapes such as ``\\x1b``. Servers, proxies and names of files may hold them.
    """
    return "".join(
        char
        if char.isprintable() or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


class HQSamError(Exception):
    """Base of every error that this package raises on purpose.

    Its message is one `printable` line that says what was wrong and what to do next; the
    ``hqsam`` command prints it and exits with status 1.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class PromptError(HQSamError, ValueError):
    """A prompt is wrong. Nothing was sent."""


class ImageError(HQSamError, ValueError):
    """It is not an image, or cannot be read or drawn on. Nothing was sent."""


class OptionError(HQSamError, ValueError):
    """An option is wrong. Nothing was sent."""


class MissingPackageError(HQSamError):
    """The call needs an optional package that is not installed."""


class SupersededError(HQSamError):
    """A newer call on the same `image.latest` replaced this one."""


class ConnectionLostError(HQSamError):
    """The server returned no usable response; the same call may succeed later."""


class UnavailableError(ConnectionLostError):
    """No server answers at the address, its queue is full, or the client was closed.

    The client has already repeated clicks, and has sent an upload a second time.
    """


class RequestTimeoutError(ConnectionLostError):
    """The server did not answer in time. Never retried."""


class RequestRefusedError(HQSamError):
    """The server answered with an error.

    Attributes:
        code: the gRPC code's name, such as ``INVALID_ARGUMENT``.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidRequestError(RequestRefusedError):
    """The request can never succeed as it is; a damaged image, for example."""


class NotFoundError(RequestRefusedError):
    """The server has no such model, or lost the image again right after embedding it."""


class AccessDeniedError(RequestRefusedError):
    """The server, or a proxy in front of it, wants other credentials."""


class TooLargeError(RequestRefusedError):
    """A message exceeds a limit, or a resource of the server is used up."""


class TooManyRequestsError(RequestRefusedError):
    """This caller has too many requests under way, or sends them too fast.

    The client has already waited and asked again, several times.

    Attributes:
        retry_after_s: how long the server says to wait.
    """

    def __init__(self, message: str, code: str, retry_after_s: float) -> None:
        super().__init__(message, code)
        self.retry_after_s = retry_after_s


class ServerFailedError(RequestRefusedError):
    """Something failed on the server; its log says more.

    The client has already repeated clicks that ended with INTERNAL, and has sent an upload a
    second time: a process that dies on a call answers so.
    """


_REFUSALS: dict[str, tuple[type[RequestRefusedError], str]] = {
    "INVALID_ARGUMENT": (InvalidRequestError, "correct the request"),
    "NOT_FOUND": (NotFoundError, "run `hqsam status` to see the models that the server has"),
    "UNAUTHENTICATED": (AccessDeniedError, "pass a valid token or client certificate"),
    "PERMISSION_DENIED": (AccessDeniedError, "pass a token or certificate that has the right"),
    "RESOURCE_EXHAUSTED": (TooLargeError, "send a smaller image or fewer prompts at once"),
    "UNIMPLEMENTED": (
        ServerFailedError,
        "check that the address is the gRPC port of a Triton server, usually 8001",
    ),
}

# What gRPC says when it cannot connect, and what that means. These choose words; the
# exception's class depends on the code alone.
_CONNECTION_FAILURES = (
    (
        "Connection refused",
        "nothing listens there; start a server with `hqsam serve`, or correct the address",
    ),
    (
        "Failed parsing HTTP/2",
        "the server there does not speak gRPC; Triton's HTTP port is 8000, its gRPC port 8001",
    ),
    (
        "Socket closed",
        "the server closed the connection; it is stopping, or it wants TLS, or this is no gRPC "
        "port: Triton's HTTP port is 8000, its gRPC port 8001",
    ),
    (
        "andshake failed",
        "the TLS handshake failed; check the certificates and whether the server uses TLS",
    ),
    ("address lookup failed", "the name has no address; correct it"),
    ("DNS resolution failed", "the name has no address; correct it"),
)

_HTTP_PORT = re.compile(r":8000\b")


def from_grpc(code: str, details: str, url: str, retry_after_s: float | None = None) -> HQSamError:
    """Return the error for a call that ended with the gRPC status `code`.

    Args:
        code: the gRPC code's name.
        details: the status message.
        url: the address as the client was given it.
        retry_after_s: how long the server says to wait; None if it does not say.
    """
    details = " ".join(details.split()) or "no details"
    if code == "UNAVAILABLE":
        return UnavailableError(f"no answer from {url}: {_connection_failure(details, url)}")
    if code == "CANCELLED":
        return UnavailableError(f"a call to {url} was cancelled: the client was closed")
    if code == "DEADLINE_EXCEEDED":
        return RequestTimeoutError(
            f"{url} did not answer in time; pass a longer timeout, or check the server's load"
        )
    if code == "RESOURCE_EXHAUSTED" and retry_after_s is not None:
        return TooManyRequestsError(f"{url} answered {code}: {details}", code, retry_after_s)
    error, advice = _REFUSALS.get(code, (ServerFailedError, "read the server's log"))
    return error(f"{url} answered {code}: {details}; {advice}", code)


def _connection_failure(details: str, url: str) -> str:
    """Return in plain words why a server does not answer, and what to do."""
    for sign, words in _CONNECTION_FAILURES:
        if sign not in details:
            continue
        if _HTTP_PORT.search(url) and "8001" not in words:
            return f"{words}: port 8000 is Triton's HTTP port, gRPC is port 8001"
        return words
    return f"{details}; run `hqsam status`, or try again when the server is less busy"
