"""Whether a cluster's workloads still get certificates: what is counted of them, and what follows from that. Pure.

"Nothing needs the old root any more" is also what a mesh looks like in which every certificate has ended. So the
counts are of pods that are there, and of what each of them holds: a pod renews before its certificate ends (Istio's
agents and ztunnel at half of its life), and one that has not is cut off, however many certificates others get.

A pod needs a certificate of the hub where it has a sidecar or has requested one before. One that has just been created
is not counted until it had time to request one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class SignsOfLife:
    """The workloads of one cluster and their certificates; the hub's own accounts do not count.

    ``workloads`` are live pods that need certificates (None: not known, and ``detail`` says why). Of these
    ``with_certificate`` hold one that has not ended, and ``lapsed`` had one that has ended and was not renewed; the
    others never requested one. ``ambient`` are pods whose certificates the ztunnel of their node requests: only the
    ztunnels are among the workloads.

    Before ``known_from`` (seconds since the epoch) there may be certificates that are not accounted for.
    ``watched`` is False where the configuration allows no watch of pods: ``with_certificate`` then counts those that
    were issued and have not ended, of pods that may be gone. ``refusal`` says why callers were refused since the last
    certificate; empty where none was.
    """

    workloads: int | None = None
    with_certificate: int = 0
    lapsed: int = 0
    ambient: int = 0
    known_from: float = 0.0
    watched: bool = True
    refusal: str = ""
    detail: str = ""

    @property
    def never_requested(self) -> int:
        """Workloads that have no certificate of the hub and never had one."""
        return max(0, (self.workloads or 0) - self.with_certificate - self.lapsed)


class Vitality(StrEnum):
    """What the counts say."""

    ALIVE = "alive"  # at least half of the workloads hold a certificate
    EMPTY = "no_workloads"
    STOPPED = "stopped"  # most of those without one had one, and did not renew it
    NEVER_REQUESTED = "never_requested"  # most of those without one never requested one
    UNKNOWN = "unknown"


FINE: Final = frozenset({Vitality.ALIVE, Vitality.EMPTY})

RESTART: Final = (
    "restart the pods that `federation status` names, or correct what their callers are refused for; quarantine the"
    " cluster where that cannot be done now"
)
WAIT: Final = "nothing: it is known by then; of pods that are restarted it is known at once"
WATCH: Final = (
    'grant the signer the watch of pods (manifests/member) and set attestation = "auto",'
    " or quarantine the cluster"
)


@dataclass(frozen=True, slots=True)
class LivenessVerdict:
    """The verdict in words. ``until`` is when more will be known (seconds since the epoch; 0: that is not known)."""

    vitality: Vitality
    detail: str
    remedy: str = ""
    until: float = 0.0

    @property
    def fine(self) -> bool:
        """True where nothing speaks against going on."""
        return self.vitality in FINE


def assess(life: SignsOfLife | None, now: float) -> LivenessVerdict:
    """What is to be made of these counts at ``now`` (seconds since the epoch). Anything unknown is not fine."""
    if life is None:
        return LivenessVerdict(Vitality.UNKNOWN, "no signer reports the certificates of its workloads")
    refused = f"; callers are refused: {life.refusal}" if life.refusal else ""
    if life.workloads is None:
        return _assess_uncounted(life, refused)
    if life.workloads and 2 * life.with_certificate >= life.workloads:
        return LivenessVerdict(Vitality.ALIVE, f"{_share(life)}{_rest(life)}")
    if now < life.known_from:
        detail = f"{_share(life)}; others may hold one from before that was accounted for{refused}"
        return LivenessVerdict(Vitality.UNKNOWN, detail, WAIT, life.known_from)
    if not life.workloads:
        if not life.ambient:
            return LivenessVerdict(Vitality.EMPTY, "no workload there needs a certificate")
        detail = (
            f"{life.ambient} pods are in ambient mode, and no ztunnel has requested a certificate{refused}"
        )
        return LivenessVerdict(Vitality.NEVER_REQUESTED, detail, RESTART)
    vitality = Vitality.STOPPED if life.lapsed >= life.never_requested else Vitality.NEVER_REQUESTED
    return LivenessVerdict(vitality, f"{_share(life)}{_rest(life)}{refused}", RESTART)


def _assess_uncounted(life: SignsOfLife, refused: str) -> LivenessVerdict:
    """The verdict where its pods are not known: certificates that were issued show only that some pods are alive."""
    if life.watched:
        why = life.detail or "its pods were not listed yet"
        return LivenessVerdict(Vitality.UNKNOWN, f"how many workloads it has is not known: {why}{refused}")
    if life.with_certificate:
        detail = (
            f"{life.with_certificate} callers hold certificates; how many do not is not known: {life.detail}"
        )
        return LivenessVerdict(Vitality.ALIVE, detail)
    detail = (
        f"no caller holds a certificate, and whether it has workloads is not known: {life.detail}{refused}"
    )
    return LivenessVerdict(Vitality.UNKNOWN, detail, WATCH, life.known_from)


def _share(life: SignsOfLife) -> str:
    return f"{life.with_certificate} of {life.workloads} workloads hold a certificate"


def _rest(life: SignsOfLife) -> str:
    parts = [f"of {life.lapsed} it has ended"] if life.lapsed else []
    parts += [f"{life.never_requested} never requested one"] if life.never_requested else []
    return f" ({', '.join(parts)})" if parts else ""
