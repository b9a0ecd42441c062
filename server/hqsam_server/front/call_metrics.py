"""What the front measures of each call to a model, in Prometheus's text format.

Triton counts errors that a Python model answers as successes, and does not see how long requests
wait inside a model. The front sees what callers see.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType

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
        self.log = log or CallLog(None)
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

    def measure(self, metadata: Mapping[str, str]) -> MeasuredCall:
        """Return what measures one call within its block."""
        return MeasuredCall(self, metadata)

    def page(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self._registry)


class MeasuredCall:
    """One call, from its first byte to its answer.

    Attributes:
        caller: who calls, as soon as that is known.
        request_bytes, response_bytes: what was read and what is sent.
    """

    def __init__(self, metrics: CallMetrics, metadata: Mapping[str, str]) -> None:
        """Prepare; the call counts within the block."""
        self.caller: str | None = None
        self.request_bytes: int | None = None
        self.response_bytes: int | None = None
        self._metrics = metrics
        self._metadata = metadata
        self._model = UNKNOWN_MODEL
        self._start = 0.0
        self._read: float | None = None
        self._answered: float | None = None

    def is_for(self, model: str) -> None:
        """Tell which model it calls; it has to be one of few, as each has series of its own."""
        self._model = model
        self._read = time.monotonic()
        self._metrics.under_way.labels(model).inc()

    def is_answered(self, response_bytes: int) -> None:
        """Tell that Triton has answered."""
        self._answered = time.monotonic()
        self.response_bytes = response_bytes

    def __enter__(self) -> MeasuredCall:
        """Begin to measure."""
        self._start = time.monotonic()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count the call."""
        end = time.monotonic()
        if self._model != UNKNOWN_MODEL:
            self._metrics.under_way.labels(self._model).dec()
        self._metrics.seconds.labels(self._model).observe(end - self._start)
        self._metrics.calls.labels(self._model, _code(exc)).inc()
        self._metrics.log.write(
            self._metadata,
            {
                "caller": self.caller,
                "model": self._model,
                "code": _code(exc),
                "message": exc.message if isinstance(exc, RefusedError) else None,
                "seconds": round(end - self._start, 6),
                "seconds_reading": _between(self._start, self._read),
                "seconds_in_triton": _between(self._read, self._answered or end),
                "seconds_sending": _between(self._answered, end),
                "request_bytes": self.request_bytes,
                "response_bytes": self.response_bytes,
            },
        )


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 6)


def _code(error: BaseException | None) -> str:
    if error is None:
        return "OK"
    if isinstance(error, RefusedError):
        return str(error.code.name)
    return "CANCELLED" if isinstance(error, asyncio.CancelledError) else "UNKNOWN"
