"""The most memory that something has during a block."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Peak:
    """How much more memory something has at most during a block than before it."""

    def __init__(self, measure: Callable[[], int]) -> None:
        """Measure once.

        Args:
            measure: returns bytes.
        """
        self._measure = measure
        self._before = self._most = measure()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def grown(self) -> int:
        """Bytes."""
        return self._most - self._before

    def __enter__(self) -> Peak:
        """Start to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self._most = max(self._most, self._measure())
