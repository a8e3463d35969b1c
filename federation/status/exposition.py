"""Prometheus' text exposition format 0.0.4 over families made on the spot, without a global registry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from federation.state.documents import Histogram
from federation.status.freshness import finite

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
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
