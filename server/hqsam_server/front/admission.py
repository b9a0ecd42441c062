"""Bounds on what one caller, and all of them, have under way."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from types import TracebackType
from weakref import WeakValueDictionary

import grpc

from hqsam_server.front.errors import RefusedError
from hqsam_server.front.settings import Bounds

RETRY_AFTER_S = 1.0
"""How long to wait when requests under way are too many: one of them should end by then."""

_BURST_S = 10.0
_REMEMBERED = 10_000
_READS = 8
"""Requests of one caller that are read at a time; those that take long reserve bytes instead."""


class Admission:
    """Counts requests and bytes under way."""

    def __init__(self, bounds: Bounds) -> None:
        """Prepare with nothing under way."""
        self.bounds = bounds
        self._requests: defaultdict[str, int] = defaultdict(int)
        self._bytes: defaultdict[str, int] = defaultdict(int)
        self._total_bytes = 0
        self._reads: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        # For each caller: requests it may send at once, and since when that is so.
        self._allowance: dict[str, tuple[float, float]] = {}

    def admit(self, caller: str) -> Ticket:
        """Let a request in; the ticket is a context manager that ends with it.

        Raises:
            RefusedError: the caller has too many under way, or sends them too fast.
        """
        if self._requests[caller] >= self.bounds.caller_requests:
            raise _exhausted(
                f"you have {self.bounds.caller_requests} requests under way, which is the limit",
                RETRY_AFTER_S,
            )
        self._spend(caller)
        return Ticket(self, caller, self._reads.setdefault(caller, asyncio.Semaphore(_READS)))

    def _spend(self, caller: str) -> None:
        rate = self.bounds.caller_rate
        if rate is None:
            return
        now = time.monotonic()
        if len(self._allowance) > _REMEMBERED:
            full = now - _BURST_S
            self._allowance = {it: had for it, had in self._allowance.items() if had[1] > full}
        left, since = self._allowance.get(caller, (rate * _BURST_S, now))
        left = min(rate * _BURST_S, left + (now - since) * rate)
        self._allowance[caller] = (max(0.0, left - 1), now)
        if left < 1:
            raise _exhausted(f"you sent more than {rate:g} requests a second", (1 - left) / rate)

    def reserve(self, caller: str, size: int) -> None:
        """Count bytes of a request.

        Raises:
            RefusedError: too many bytes are under way.
        """
        limit = self.bounds.caller_bytes
        if self._bytes[caller] + size > limit:
            if size > limit:
                raise RefusedError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"the request and its response have {size} bytes, expected at most {limit}: "
                    "ask for fewer prompts or outputs",
                )
            raise _exhausted(f"you have {self._bytes[caller]} bytes under way of {limit}")
        if self._total_bytes + size > self.bounds.total_bytes:
            raise RefusedError(
                grpc.StatusCode.UNAVAILABLE,
                f"the requests under way are too large together: try again in {RETRY_AFTER_S:g} s",
                RETRY_AFTER_S,
            )
        self._bytes[caller] += size
        self._total_bytes += size

    def release(self, caller: str, size: int) -> None:
        """Count bytes no longer."""
        self._total_bytes -= size
        _subtract(self._bytes, caller, size)

    def begin(self, caller: str) -> None:
        """Count a request."""
        self._requests[caller] += 1

    def end(self, caller: str) -> None:
        """Count a request no longer."""
        _subtract(self._requests, caller, 1)


class Ticket:
    """The part of one request in what is under way.

    Attributes:
        caller: who sent it.
        reads: to hold while the request is read and has not reserved bytes. The process copies all
            that has come, one message after the other, before it reads the next one of others.
    """

    def __init__(self, admission: Admission, caller: str, reads: asyncio.Semaphore) -> None:
        """Prepare; the request counts within the block."""
        self.caller = caller
        self.reads = reads
        self._admission = admission
        self._bytes = 0

    def hold(self, size: int) -> None:
        """Hold this many bytes, instead of those before.

        Raises:
            RefusedError: too many bytes are under way.
        """
        if size > self._bytes:
            self._admission.reserve(self.caller, size - self._bytes)
        else:
            self._admission.release(self.caller, self._bytes - size)
        self._bytes = size

    def __enter__(self) -> Ticket:
        """Count the request."""
        self._admission.begin(self.caller)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count it no longer."""
        self.hold(0)
        self._admission.end(self.caller)


def _exhausted(reason: str, retry_after_s: float = RETRY_AFTER_S) -> RefusedError:
    return RefusedError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"{reason}: try again in {retry_after_s:.2g} s",
        retry_after_s,
    )


def _subtract(counts: defaultdict[str, int], caller: str, number: int) -> None:
    """Subtract, and forget a caller that has nothing left."""
    counts[caller] -= number
    if counts[caller] <= 0:
        del counts[caller]
