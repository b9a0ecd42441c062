"""How long tests and benchmarks wait for something that has to happen."""

from __future__ import annotations

import time
from collections.abc import Callable

TIMEOUT_S = 120.0
"""Limit for one start or one answer. Both take seconds on idle cores; on shared ones, longer."""

_POLL_S = 0.1


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Poll a condition that sends no event.

    Args:
        condition: is asked until it is true.
        what: what the test waits for, for the message.
        timeout_s: limit.

    Raises:
        TimeoutError: it was not true in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(_POLL_S)
