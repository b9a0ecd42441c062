"""This project's metrics, on the same Prometheus endpoint as Triton's own.

Triton sums up what its processes report under one name, so each instance of each model counts for
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, Protocol


class Counter(Protocol):
    """A number that only grows."""

    def increment(self, value: float, /) -> None:
        """Add to it."""


class Gauge(Protocol):
    """A number that goes up and down."""

    def set(self, value: float, /) -> None:
        """Set it."""


@dataclass(frozen=True)
class Metrics:
    """The metrics of `embed` and `segment`; `DESCRIPTIONS` has their names and meaning."""

    store_hits: Counter
    store_misses: Counter
    store_evictions: Counter
    store_bytes: Gauge
    store_entries: Gauge
    encodes: Counter
    prompts: Counter
    resident_images: Gauge
    resident_bytes: Gauge


DESCRIPTIONS: dict[str, tuple[Literal["counter", "gauge"], str, str]] = {
    "store_hits": (
        "counter",
        "hqsam_store_hits_total",
        "Requests to embed or segment whose image was in the embedding store",
    ),
    "store_misses": (
        "counter",
        "hqsam_store_misses_total",
        "Requests to embed or segment whose image was not in the embedding store",
    ),
    "store_evictions": (
        "counter",
        "hqsam_store_evictions_total",
        "Embeddings removed to make room for others",
    ),
    "store_bytes": ("gauge", "hqsam_store_bytes", "Size of the embedding store in bytes"),
    "store_entries": ("gauge", "hqsam_store_entries", "Embeddings in the store"),
    "encodes": ("counter", "hqsam_encodes_total", "Images that were encoded"),
    "prompts": ("counter", "hqsam_prompts_total", "Prompts that were decoded to masks"),
    "resident_images": (
        "gauge",
        "hqsam_resident_images",
        "Images whose embeddings segment holds where it decodes",
    ),
    "resident_bytes": ("gauge", "hqsam_resident_bytes", "Size of these embeddings in bytes"),
}
"""Kind, Prometheus name and description of each of `Metrics`."""


def build(
    make_counter: Callable[[str, str], Counter], make_gauge: Callable[[str, str], Gauge]
) -> Metrics:
    """Make every metric, given how to make one of a name and a description."""
    makers = {"counter": make_counter, "gauge": make_gauge}
    made = {}
    for field in fields(Metrics):
        kind, name, description = DESCRIPTIONS[field.name]
        made[field.name] = makers[kind](name, description)
    return Metrics(**made)  # type: ignore[arg-type]


@dataclass(frozen=True)
class EmbedMetrics:
    """The metrics of `embed` alone; `EMBED_DESCRIPTIONS` has their names and meaning."""

    encodes_waiting: Gauge
    encodes_running: Gauge


EMBED_DESCRIPTIONS: dict[str, tuple[str, str]] = {
    "encodes_waiting": ("hqsam_encodes_waiting", "Images that wait for an encode"),
    "encodes_running": (
        "hqsam_encodes_running",
        "Images that are being decoded or encoded",
    ),
}
"""Prometheus name and description of each of `EmbedMetrics`."""


def build_embed(make_gauge: Callable[[str, str], Gauge]) -> EmbedMetrics:
    """Make every metric of `embed`, given how to make one of a name and a description."""
    return EmbedMetrics(**{it: make_gauge(*about) for it, about in EMBED_DESCRIPTIONS.items()})
