"""What ``/sys/health`` says of one node (API documentation, "/sys/health"), and what it means for signing.

A standby is not down: it answers what it can by itself (473, and OpenBao with standby reads), forwards to the
active node, or answers 307 with that one's address. So it is a warning here, and an error only where a request
finds no way (``client.py``).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from federation.core.clock import Clock
from federation.core.errors import AuthorityMisconfigured, AuthorityThrottled, AuthorityUnavailable
from federation.core.pki.issued import CLOCK_TOLERANCE
from federation.signer.authorities.vault.answers import NOT_VAULT, VaultAnswer, retry_after

_SYNCHRONISE: Final = "synchronise the clocks of Vault's machines and of the hub's"


class _Health(msgspec.Struct, frozen=True):
    initialized: bool
    sealed: bool
    standby: bool
    server_time_utc: int = 0
    version: str = ""


def judge_health(answer: VaultAnswer, *, clock: Clock) -> tuple[str, ...]:
    """What is odd about a node that can be used, as warnings.

    Raises AuthorityUnavailable with the reason ``vault_sealed``, ``vault_uninitialised``, ``vault_standby``,
    ``vault_removed``, ``dr_secondary``, ``server_error`` or ``garbage``, AuthorityThrottled, and
    AuthorityMisconfigured (``clock_skew``) where leaves would end later than they were asked for.
    """
    status = answer.status
    health = _read(answer, clock)
    if status == 472:
        raise AuthorityUnavailable(
            "it is a disaster recovery secondary, which answers no requests",
            reason="dr_secondary",
            remedy="point the address at the primary, or promote this one",
        )
    if status == 530:
        raise AuthorityUnavailable(
            "this node was removed from its cluster",
            reason="vault_removed",
            remedy="point the address at nodes that are members, or have this one join anew with empty storage",
        )
    if status == 501 or not health.initialized:
        raise AuthorityUnavailable(
            "it is not initialised",
            reason="vault_uninitialised",
            remedy="initialise it (`bao operator init`), or point the address at the right one",
        )
    if status == 503 or health.sealed:
        raise AuthorityUnavailable(
            "it is sealed",
            reason="vault_sealed",
            remedy="unseal it (`bao operator unseal`, `vault operator unseal`), and see why it was sealed",
        )
    if status == 474:
        raise AuthorityUnavailable(
            "it is a standby that cannot reach the active node",
            reason="vault_standby",
            remedy="see whether the cluster has an active node, and whether its nodes reach each other's cluster_addr",
        )
    warnings = []
    if health.standby:
        warnings.append("the address reaches a standby node, which may lag behind the active one")
    skew = _ahead(health.server_time_utc, clock)
    if skew > CLOCK_TOLERANCE:
        raise AuthorityMisconfigured(
            f"its clock is {skew.total_seconds():.0f} s ahead: leaves would end later than asked for",
            reason="clock_skew",
            remedy=_SYNCHRONISE,
        )
    if skew < -CLOCK_TOLERANCE:
        warnings.append(f"its clock is {-skew.total_seconds():.0f} s behind: {_SYNCHRONISE}")
    return tuple(warnings)


def _read(answer: VaultAnswer, clock: Clock) -> _Health:
    if answer.status not in {200, 429, 472, 473, 474, 501, 503, 530}:
        raise AuthorityUnavailable(
            f"its health is answered with {answer.why}",
            reason="server_error" if answer.status >= 500 else "garbage",
            remedy=NOT_VAULT,
        )
    try:
        return answer.read(_Health, what="GET /v1/sys/health")
    except AuthorityUnavailable:
        if answer.status == 429:
            after = retry_after(answer.headers.get("Retry-After", ""), clock)
            raise AuthorityThrottled(f"its health is answered with {answer.why}", retry_after=after) from None
        raise


def _ahead(server_time: int, clock: Clock) -> timedelta:
    """How far its clock is ahead of ours, to about a second; nothing where it does not tell."""
    try:
        return datetime.fromtimestamp(server_time, UTC) - clock.now() if server_time > 0 else timedelta(0)
    except (OverflowError, OSError, ValueError):
        return timedelta(0)
