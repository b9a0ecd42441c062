"""Stand-ins for Triton's metrics, whose values can be read."""

from __future__ import annotations

from dataclasses import dataclass

from hqsam_server.models import metrics


@dataclass
class Number:
    """A counter, a gauge, or the sum of a histogram."""

    value: float = 0

    def increment(self, value: float, /) -> None:
        self.value += value

    def set(self, value: float, /) -> None:
        self.value = value

    def observe(self, value: float, /) -> None:
        self.value += value


class Metrics:
    """`metrics` for the code under test, and their values by Prometheus name."""

    def __init__(self) -> None:
        self._numbers: dict[str, Number] = {}
        self.metrics = metrics.build(self._make, self._make)
        self.own = metrics.build_embed(self._make)

    def _make(self, name: str, description: str) -> Number:
        assert description
        return self._numbers.setdefault(name, Number())

    def __getitem__(self, name: str) -> float:
        return self._numbers[f"hqsam_{name}"].value
