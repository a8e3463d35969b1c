"""Families of metrics in Prometheus' text exposition format 0.0.4, made on the spot, without a global registry."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from federation.core.documents.signer import Histogram
from federation.status.snapshot import finite

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MOST_REASONS: Final = 64
"""Of one replica and cluster. A signer has fewer; what it says comes from outside of this process, and is bounded."""
OTHER: Final = "other"
"""The reason under which those past that are counted together."""

Samples = Iterable[tuple[tuple[str, ...], float]]


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def render(families: Iterable[Metric]) -> bytes:
    """The families in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)


def gauge(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    """A gauge with one sample for each tuple of label values."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, finite(value))
    return family


def counter(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    """A counter, exposed as ``name_total``; it restarts with its process, as ``rate()`` expects."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, max(0.0, finite(value)))
    return family


def histogram(
    name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    """A histogram; one whose counts do not fit its bounds is left out."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, value in samples:
        bounds, counts = value.bounds, value.counts
        if len(counts) not in {len(bounds), len(bounds) + 1}:
            continue
        buckets = [(f"{bound:g}", float(n)) for bound, n in zip(bounds, counts, strict=False)]
        family.add_metric(values, [*buckets, ("+Inf", float(value.count))], finite(value.total))
    return family


def by_reason(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Counts by their reasons, in a stable order, and no more series than :data:`MOST_REASONS`."""
    ordered = sorted(counts.items())
    kept, rest = ordered[:MOST_REASONS], ordered[MOST_REASONS:]
    return [*kept, (OTHER, sum(n for _, n in rest))] if rest else kept


@cache
def hub_version() -> str:
    """The version that is installed, which is where it stands alone."""
    return importlib.metadata.version("federation-hub")
