"""Threads that work off what waits, and end together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Workers:
    """Threads that wait for something to do.

    Attributes:
        changed: is held while they choose, and notified of what may give them something to do.
        is_closed: whether they are to end as soon as nothing waits.
    """

    def __init__(self) -> None:
        """Prepare; `start` starts them."""
        self.changed = threading.Condition()
        self.is_closed = False
        self._threads: list[threading.Thread] = []

    def start(self, name: str, count: int, work: Callable[..., None], *arguments: Any) -> None:
        """Start so many threads more, which run `work` until it returns."""
        for number in range(count):
            thread = threading.Thread(
                target=work, args=arguments, name=f"{name}-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Have them work off what waits, and wait until they have ended."""
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()
        for thread in self._threads:
            thread.join()
