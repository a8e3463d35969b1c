"""Authorities as status tells them: all signers' views of each merged. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from federation.state.documents import AuthorityReport
from federation.status.freshness import days_left, expiry, finite, instant
from federation.status.model import AuthorityUse, AuthorityView
from federation.status.scene import Scene
from federation.status.signing import WORST_FIRST, known_state

LEFT: Final = 86400.0
"""Seconds for which the report of a signer that was killed stays in the state store at the least."""


def authority_views(scene: Scene) -> list[AuthorityView]:
    """Every authority that a signer which is heard of has; the worst state of those that share one.

    Those of ``[signer.authority]`` come first.
    """
    found: dict[tuple[AuthorityUse, str, str], list[tuple[str, AuthorityReport]]] = {}
    for replica, signer in sorted(scene.signers.items()):
        each: tuple[tuple[AuthorityUse, AuthorityReport | None], ...] = (
            ("authority", signer.authority),
            ("successor", signer.successor),
        )
        for use, report in each:
            if report is not None:
                found.setdefault((use, report.name, report.sha256), []).append((replica, report))
    ordered = sorted(found.items(), key=lambda item: item[0][0] != "authority")
    alarms = _left_alarms(scene)
    return [_view(scene, use, each, alarms.pop(name, [])) for (use, name, _), each in ordered]


def _left_alarms(scene: Scene) -> dict[str, list[AuthorityReport]]:
    """By name, the authorities of signers that were killed in the last day, where these had raised an alarm.

    One that ends in good order takes its report back, and one that is started again under its name goes on with it. In
    a cluster a pod that takes the place of a killed one has a name of its own, and nobody has answered the alarm.
    """
    found: dict[str, list[AuthorityReport]] = {}
    for replica, signer in sorted(scene.snapshot.signers.items()):
        if replica in scene.signers or abs(scene.now - finite(signer.updated)) > LEFT:
            continue
        for report in (signer.authority, signer.successor):
            if report is not None and report.violations > 0:
                found.setdefault(report.name, []).append(report)
    return found


def signs_now(scene: Scene, use: AuthorityUse, sha256: str) -> bool:
    """Whether an authority signs for some cluster: the one that the orders name, else ``[signer.authority]``.

    Without a rotation under way orders are a preference: where no authority is the one they name, the first
    one signs.
    """
    orders = scene.snapshot.orders
    ordered = {orders.issuer, *orders.clusters.values()} - {""} if orders else set()
    held = {a.sha256 for s in scene.signers.values() for a in (s.authority, s.successor) if a is not None}
    if ordered and (ordered & held or (orders is not None and orders.strict)):
        return sha256 in ordered
    return use == "authority"


def _view(
    scene: Scene,
    use: AuthorityUse,
    reports: Sequence[tuple[str, AuthorityReport]],
    left: Sequence[AuthorityReport],
) -> AuthorityView:
    """``left`` are reports by signers that were killed: their alarms count, and nothing else of them."""
    each = [report for _, report in reports]
    alarmed = [*each, *left]
    worst = min(each, key=lambda report: WORST_FIRST.index(known_state(report.state)))
    latest = max(alarmed, key=lambda report: finite(report.last_violation_at))
    return AuthorityView(
        name=worst.name,
        kind=worst.kind,
        use=use,
        signs=signs_now(scene, use, worst.sha256),
        state=known_state(worst.state),
        subject=worst.subject,
        sha256=worst.sha256,
        not_after=instant(worst.not_after),
        days_left=days_left(worst.not_after, scene.now),
        expiry=expiry(worst.not_after, scene.now),
        reason=worst.reason,
        detail=worst.detail,
        remedy=worst.remedy,
        signers=[replica for replica, _ in reports],
        quota=max(finite(report.quota) for report in each),
        rate=round(sum(finite(report.rate) for report in each), 2),
        queued=sum(report.queued for report in each),
        refused_early=sum(report.refused_early for report in each),
        capacity=min((report.capacity for report in each if report.capacity > 0), default=0),
        circuit=next((r.circuit for r in (worst, *each) if r.circuit not in {"", "closed"}), worst.circuit),
        retry_at=instant(min((r.retry_at for r in each if finite(r.retry_at) > 0), default=0.0)),
        uncertain=sum(report.uncertain for report in each),
        violations=sum(report.violations for report in alarmed),
        last_violation=latest.last_violation,
        last_violation_at=instant(latest.last_violation_at),
        crl_next_update=instant(max(finite(report.crl_next_update) for report in each)),
        crl_revoked=max(report.crl_revoked for report in each),
    )
