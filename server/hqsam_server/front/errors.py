"""Why the front refuses a request."""

from __future__ import annotations

import grpc


class RefusedError(Exception):
    """A request is not passed on.

    Attributes:
        code: the gRPC status.
        message: what was wrong, what was expected, and what to do next.
        retry_after_s: how long to wait before the same request may succeed; None if it cannot.
    """

    def __init__(
        self, code: grpc.StatusCode, message: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def alone(self) -> RefusedError:
        """Return it without its traceback, which refers to frames that hold the request."""
        return RefusedError(self.code, self.message, self.retry_after_s)


def invalid(message: str) -> RefusedError:
    """Return the refusal of a request that can never succeed as it is."""
    return RefusedError(grpc.StatusCode.INVALID_ARGUMENT, message)
