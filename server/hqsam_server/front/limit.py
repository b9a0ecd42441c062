"""A limit on how long a part of a call may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType


class TimeLimit:
    """A block that is cancelled when it takes too long, and then raises an error.

    It costs microseconds, where `asyncio.wait_for` starts a task.
    """

    def __init__(self, seconds: float, error: Callable[[], Exception]) -> None:
        """Prepare a block that may take this long; `error` makes what is raised after that."""
        self._seconds = seconds
        self._error = error
        self._expired = False

    def __enter__(self) -> None:
        """Begin."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End, and tell a cancellation by this limit from one by the caller."""
        self._timer.cancel()
        if self._expired and exc_type is asyncio.CancelledError:
            raise self._error() from None
