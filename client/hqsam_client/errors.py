"""The exception tree, and the one table from gRPC codes to it.

```text
HQSamError
├── PromptError             points, labels, boxes or an earlier mask are wrong (ValueError)
├── ImageError            it is not an image, or cannot be read (ValueError)
├── OptionError             an address, certificate or other option is wrong (ValueError)
├── MissingPackageError     an optional package is not installed
├── SupersededError         a newer call on `image.latest` took this one's place
├── ConnectionLostError     nothing that can be used came back
│   ├── UnavailableError        no server there, or one with a full queue: UNAVAILABLE;
│   │                           the client was closed meanwhile: CANCELLED
│   └── RequestTimeoutError     no answer in time: DEADLINE_EXCEEDED
└── RequestRefusedError     the server answered with an error; `code` names it
    ├── InvalidRequestError     the request cannot succeed: INVALID_ARGUMENT
    ├── NotFoundError           no such model, or the image is gone again: NOT_FOUND
    ├── AccessDeniedError       UNAUTHENTICATED, PERMISSION_DENIED
    ├── TooLargeError           a message over the limits: RESOURCE_EXHAUSTED
    └── ServerFailedError       every other code
```

The first five are raised before anything is sent, or instead of a result.
"""

from __future__ import annotations


class HQSamError(Exception):
    """Base of every error that this package raises on purpose.

    Its message is one line that says what was wrong and what to do next; the
    ``hqsam`` command prints it and exits with status 1.
    """


class PromptError(HQSamError, ValueError):
    """A prompt is wrong. Nothing was sent."""


class ImageError(HQSamError, ValueError):
    """What was given is not an image, or cannot be read. Nothing was sent."""


class OptionError(HQSamError, ValueError):
    """An option of the client is wrong. Nothing was sent."""


class MissingPackageError(HQSamError):
    """What was asked for needs an optional package that is not installed."""


class SupersededError(HQSamError):
    """A newer call on the same `image.latest` took the place of this one."""


class ConnectionLostError(HQSamError):
    """Nothing that can be used came back; the same call may succeed later."""


class UnavailableError(ConnectionLostError):
    """No server answers at the address, or its queue is full; retried a few times already.

    Or the client was closed while the call was under way.
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
    """The request can never succeed as it is: a damaged image, for one."""


class NotFoundError(RequestRefusedError):
    """The server has no such model, or lost the image again right after it was embedded."""


class AccessDeniedError(RequestRefusedError):
    """The server, or a proxy before it, wants other credentials."""


class TooLargeError(RequestRefusedError):
    """A message exceeds a limit, or a resource of the server is used up."""


class ServerFailedError(RequestRefusedError):
    """Something failed on the server; its log says more."""


_REFUSALS: dict[str, tuple[type[RequestRefusedError], str]] = {
    "INVALID_ARGUMENT": (InvalidRequestError, "correct the request"),
    "NOT_FOUND": (NotFoundError, "see `hqsam status` for the models that the server has"),
    "UNAUTHENTICATED": (AccessDeniedError, "pass a valid token or client certificate"),
    "PERMISSION_DENIED": (AccessDeniedError, "pass a token or certificate that has the right"),
    "RESOURCE_EXHAUSTED": (TooLargeError, "send a smaller image or fewer prompts at once"),
}


def from_grpc(code: str, details: str, url: str) -> HQSamError:
    """Return the error for a call that ended with the gRPC status `code`."""
    details = " ".join(details.split()) or "no details"
    if code == "UNAVAILABLE":
        return UnavailableError(
            f"no answer from {url}: {details}; check the address, whether the server is ready "
            "(`hqsam status`), or try again when it is less busy"
        )
    if code == "CANCELLED":
        return UnavailableError(f"a call to {url} was cancelled; was the client closed meanwhile?")
    if code == "DEADLINE_EXCEEDED":
        return RequestTimeoutError(
            f"{url} did not answer in time; pass a longer timeout or look at the server's load"
        )
    error, advice = _REFUSALS.get(code, (ServerFailedError, "see the server's log"))
    return error(f"{url} answered {code}: {details}; {advice}", code)
