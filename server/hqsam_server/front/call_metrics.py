"""What the front measures of each call to a model, in Prometheus's text format.

Triton counts errors that a Python model answers as successes, and does not see how long requests
wait inside a model. The front sees what callers see.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from hqsam_server.front.errors import RefusedError

BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 100.0)
"""Upper bounds of the histogram's buckets: from a click to an image in a long line."""

UNKNOWN_MODEL = "unknown"
"""The model of calls that were refused before their model was known."""


class CallMetrics:
    """Counts calls, and measures how long they take."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
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

    def measure(self) -> MeasuredCall:
        """Return what measures one call within its block."""
        return MeasuredCall(self)

    def page(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self._registry)


class MeasuredCall:
    """One call, from its first byte to its answer."""

    def __init__(self, metrics: CallMetrics) -> None:
        """Prepare; the call counts within the block."""
        self._metrics = metrics
        self._model = UNKNOWN_MODEL
        self._start = 0.0

    def is_for(self, model: str) -> None:
        """Tell which model it calls; it has to be one of few, as each has series of its own."""
        self._model = model
        self._metrics.under_way.labels(model).inc()

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
        if self._model != UNKNOWN_MODEL:
            self._metrics.under_way.labels(self._model).dec()
        self._metrics.seconds.labels(self._model).observe(time.monotonic() - self._start)
        self._metrics.calls.labels(self._model, _code(exc)).inc()


def _code(error: BaseException | None) -> str:
    if error is None:
        return "OK"
    if isinstance(error, RefusedError):
        return str(error.code.name)
    return "CANCELLED" if isinstance(error, asyncio.CancelledError) else "UNKNOWN"
