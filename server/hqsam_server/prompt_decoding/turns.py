"""Whose prompt is decoded next.

Callers take turns, prompt by prompt, whatever the size of their requests. Within the requests of
one caller, turns alternate: the request with the fewest prompts left, then the one that came first.
So a click is not kept waiting by its caller's own large requests, few requests are half done at a
time, and each is finished.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Work(Protocol):
    """A request of several prompts.

    Attributes:
        taken: how many of them have been taken.
    """

    taken: int

    @property
    def left(self) -> int:
        """How many of its prompts nobody has taken yet."""


W = TypeVar("W", bound=Work)


@dataclass
class _Caller(Generic[W]):
    requests: list[W] = field(default_factory=list)  # in the order of their arrival
    takes_first: bool = False

    def next(self) -> W:
        takes_first, self.takes_first = self.takes_first, not self.takes_first
        return self.requests[0] if takes_first else min(self.requests, key=lambda it: it.left)


class PromptTurns(Generic[W]):
    """Requests whose prompts wait. The caller of its methods sees to it that they take turns."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, _Caller[W]] = OrderedDict()

    def __len__(self) -> int:
        return sum(request.left for caller in self._callers.values() for request in caller.requests)

    def add(self, caller: str, request: W) -> None:
        """Let a request take part; a caller who has no other one is the next."""
        if caller not in self._callers:
            self._callers[caller] = _Caller()
            self._callers.move_to_end(caller, last=False)
        self._callers[caller].requests.append(request)

    def take(self) -> tuple[W, int]:
        """Take the prompt whose turn it is; return its request and its number in there.

        The next call takes another caller's. A request whose last prompt was taken gets no more
        turns.
        """
        name, caller = self._callers.popitem(last=False)
        self._callers[name] = caller
        request = caller.next()
        number = request.taken
        request.taken += 1
        if not request.left:
            self.remove(request)
        return request, number

    def waiting_of(self, caller: str) -> int:
        """Return how many prompts of a caller wait."""
        requests = self._callers[caller].requests if caller in self._callers else []
        return sum(request.left for request in requests)

    def remove(self, request: W) -> None:
        """Let a request take part no longer."""
        for name, caller in self._callers.items():
            if request in caller.requests:
                caller.requests.remove(request)
                if not caller.requests:
                    del self._callers[name]
                return
