"""How one cluster fares, put into the words and numbers of its report. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from federation.clusters.health import ClusterHealth
from federation.controller.in_force import TrustState
from federation.controller.publication.namespace_count import MOST_CONTENTS, ReadBack
from federation.controller.publication.publisher import Tally
from federation.core.documents.controller import PublicationReport
from federation.core.errors import FederationError
from federation.kubernetes.objects import stop_writers

MOST_CONTESTED = 50
STARTING = ClusterHealth("unavailable", "starting", "it is being listed")
SILENT = ClusterHealth("unavailable", "timeout", "its watches are silent: nothing is read back")


def derive_health(
    problems: Iterable[FederationError | None],
    *,
    clock_skew: float,
    synced: bool,
    fresh: bool,
    counted: ReadBack,
    contested: Sequence[str],
    writers: Sequence[str],
    config_map: str,
    remedy: str = "",
) -> ClusterHealth:
    """The worst that is known: of the connection first, then of the read-back, then of publication.

    ``remedy`` is that of the refusal which is reported, where namespaces refuse the bundle.
    """
    health = ClusterHealth.derive(problems, clock_skew=clock_skew)
    if health.state != "ready":
        return health
    if not synced:
        return STARTING
    if not fresh:
        return SILENT
    if counted.forbidden or counted.failed:
        refused = counted.forbidden + counted.failed
        return ClusterHealth(
            "degraded",
            "forbidden_writes" if counted.forbidden else "publication",
            f"{refused} of {counted.selected} namespaces refuse the bundle: {_first(counted)}",
            remedy,
        )
    if contested:
        names = ", ".join(writers) or "another writer"
        return ClusterHealth(
            "degraded",
            "other_writers",
            f"{names} keeps rewriting {config_map} in {len(contested)} namespaces",
            f"{stop_writers(writers)}; or exclude these namespaces (controller.publication.excluded_namespaces)",
        )
    return health


def publication_report(
    counted: ReadBack,
    tally: Tally,
    trust: TrustState,
    *,
    fresh: bool,
    lag: float,
    read_back: float,
    writers: Sequence[str],
    contested: Sequence[str] = (),
    rival: str = "",
) -> PublicationReport:
    """The counts of the read-back beside what was done; ``read_back`` is in seconds since the epoch."""
    shown = sorted(counted.contents.items(), key=lambda item: (not trust.is_ours(item[0]), -item[1]))
    return PublicationReport(
        selected=counted.selected,
        current=counted.current,
        pending=counted.pending,
        failed=counted.failed,
        terminating=counted.terminating,
        forbidden=counted.forbidden,
        excluded=counted.excluded,
        joining=counted.joining + counted.yielded,
        writes=tally.writes,
        restored=tally.restored,
        generation=counted.generation(trust.numbers) if fresh else 0,
        lag=lag,
        read_back=read_back,
        problems=list(counted.problems),
        contents=dict(shown[:MOST_CONTENTS]),
        other_writers=list(writers),
        contested=list(contested[:MOST_CONTESTED]),
        rival=rival,
    )


def _first(counted: ReadBack) -> str:
    return counted.problems[0] if counted.problems else "no reason is known"
