"""What the front measures of each call to a model, in Prometheus's text format.

Triton counts errors that a Python model answers as successes, and does not see how long requests
wait inside a model. The front sees what callers see.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from hqsam_server.front.call_log import CallLog
from hqsam_server.front.errors import RefusedError

BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 100.0)
"""Upper bounds of the histogram's buckets: from a click to an image in a long line."""

UNKNOWN_MODEL = "unknown"
"""The model of calls that were refused before their model was known."""


class CallMetrics:
    """Counts calls, and measures how long they take."""

    def __init__(self, log: CallLog | None = None) -> None:
        """Begin with nothing counted; each call is a line of the log, too."""
        self._log = log
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self.calls = Counter(
            "hqsam_calls_total",
            "Calls that were answered, by model and gRPC status code",
            ["model", "code"],
            registry=self._registry,
        )
        self.under_way = Gauge(
            "hqsam_calls_under_way",
            "Calls that wait or are worked on, by model",
            ["model"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "hqsam_call_seconds",
            "Time from the first byte of a call until its answer is sent, errors included",
            ["model"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )

    @contextmanager
    def measure(self, metadata: Mapping[str, str]) -> Iterator[MeasuredCall]:
        """Measure the call that is answered within the block."""
        call = MeasuredCall(self.under_way)
        error: BaseException | None = None
        try:
            yield call
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._count(call, error, metadata)

    def _count(
        self, call: MeasuredCall, error: BaseException | None, metadata: Mapping[str, str]
    ) -> None:
        end, code = time.monotonic(), _code(error)
        if call.model != UNKNOWN_MODEL:
            self.under_way.labels(call.model).dec()
        self.seconds.labels(call.model).observe(end - call.start)
        self.calls.labels(call.model, code).inc()
        if self._log is not None:
            self._log.write(
                metadata,
                {
                    "caller": call.caller,
                    "model": call.model,
                    "code": code,
                    "message": error.message if isinstance(error, RefusedError) else None,
                    "seconds": round(end - call.start, 6),
                    "seconds_reading": _between(call.start, call.read),
                    "seconds_in_triton": _between(call.read, call.answered or end),
                    "seconds_sending": _between(call.answered, end),
                    "request_bytes": call.request_bytes,
                    "response_bytes": call.response_bytes,
                },
            )

    def page(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self._registry)


class MeasuredCall:
    """One call, from its first byte to its answer; times are those of `time.monotonic`.

    Attributes:
        caller: who calls, as soon as that is known.
        model: what is called, as soon as that is known.
        start, read, answered: when it began, was read, and was answered by Triton.
        request_bytes, response_bytes: what was read and what is sent.
    """

    def __init__(self, under_way: Gauge) -> None:
        """Begin now."""
        self._under_way = under_way
        self.caller: str | None = None
        self.model = UNKNOWN_MODEL
        self.start = time.monotonic()
        self.read: float | None = None
        self.answered: float | None = None
        self.request_bytes: int | None = None
        self.response_bytes: int | None = None

    def is_for(self, model: str) -> None:
        """Tell which model it calls; it has to be one of few, as each has series of its own."""
        self.model = model
        self.read = time.monotonic()
        self._under_way.labels(model).inc()

    def is_answered(self, response_bytes: int) -> None:
        """Tell that Triton has answered."""
        self.answered = time.monotonic()
        self.response_bytes = response_bytes


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 6)


def _code(error: BaseException | None) -> str:
    if error is None:
        return "OK"
    if isinstance(error, RefusedError):
        return str(error.code.name)
    return "CANCELLED" if isinstance(error, asyncio.CancelledError) else "UNKNOWN"
