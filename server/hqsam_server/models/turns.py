"""Work waits in a line for each caller, and the callers take turns."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class EncodeTurns(Generic[T]):
    """Jobs that wait, in a line for each caller.

    A job may stand in the lines of several callers; it is taken once. Not safe for threads.
    """

    def __init__(self, workers: int) -> None:
        """Begin without jobs.

        Args:
            workers: jobs that run at once. A caller whose name is known gets half of them,
                rounded up, so that the next caller finds one free.
        """
        self._workers = workers
        self._lines: dict[str, deque[T]] = {}
        self._waiting: set[T] = set()
        self._running: Counter[str] = Counter()
        self._caller_of: dict[T, str] = {}

    def __len__(self) -> int:
        """Return the number of jobs that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """The number of jobs that were taken and are not done."""
        return len(self._caller_of)

    def is_running(self, job: T) -> bool:
        """Tell whether a job was taken and is not done."""
        return job in self._caller_of

    @property
    def callers(self) -> int:
        """The number of callers who wait."""
        return len(self._lines)

    def add(self, caller: str, job: T) -> None:
        """Have a job wait in a caller's line, at its end; "" is a caller who is not known."""
        line = self._lines.setdefault(caller, deque())
        if job not in line:
            line.append(job)
        self._waiting.add(job)

    def take(self) -> T | None:
        """Return the job whose turn it is, or None if none may run now."""
        if self.running >= self._workers:
            return None
        for caller, line in list(self._lines.items()):
            while line and line[0] not in self._waiting:  # taken from another caller's line
                line.popleft()
            if line and caller and self._running[caller] >= (self._workers + 1) // 2:
                continue
            # The next turn is another caller's.
            del self._lines[caller]
            if line:
                job = line.popleft()
                if line:
                    self._lines[caller] = line
                self._waiting.remove(job)
                self._running[caller] += 1
                self._caller_of[job] = caller
                return job
        return None

    def remove(self, job: T) -> None:
        """Forget a job that waits."""
        self._waiting.remove(job)

    def done(self, job: T) -> None:
        """Count a job that was taken as done."""
        caller = self._caller_of.pop(job)
        self._running -= Counter([caller])
