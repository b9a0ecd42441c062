"""Values that are made once and kept while they are used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Keeps the most recently used values, up to a total size.

    Threads that ask for the same value wait for the one that makes it; nobody else does.
    """

    def __init__(
        self,
        max_size: int,
        size: Callable[[V], int],
        changed: Callable[[int, int], None] = lambda size, count: None,
    ) -> None:
        """Start empty.

        Args:
            max_size: bound on the sizes of all values together; the last one used stays in any
                case.
            size: returns the size of a value.
            changed: called with the total size and the number of values after each change.
        """
        self._max_size = max_size
        self._size = size
        self._changed = changed
        self._lock = threading.Lock()
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._making: dict[K, Future[V]] = {}
        self._total = 0

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key; calls `make` where it is missing, and raises its errors."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            future = self._making.get(key)
            mine = future is None
            if future is None:
                future = self._making[key] = Future()
        if mine:
            self._make(key, make, future)
        return future.result()

    def _make(self, key: K, make: Callable[[], V], future: Future[V]) -> None:
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._making[key]
            future.set_exception(error)
            return
        with self._lock:
            del self._making[key]
            self._kept[key] = value
            self._total += self._size(value)
            while self._total > self._max_size and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._total -= self._size(oldest)
            self._changed(self._total, len(self._kept))
        future.set_result(value)
