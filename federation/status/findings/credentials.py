"""What needs attention of the hub's own credentials for member clusters: one that ends, or is not renewed. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from federation.status.model import Attention, ClusterView, CredentialView
from federation.status.snapshot import instant_text

DAY: Final = 86400.0
WARNED: Final = (30 * DAY, 1 / 6)
"""Seconds before its end, and the part of its life, whichever is less: a kubelet renews with a fifth of it left, and
the hub with a third."""
URGENT: Final = (3 * DAY, 1 / 30)


def credential_attention(view: ClusterView, now: float) -> Iterator[Attention]:
    """The credentials of both roles for one cluster."""
    for credential in view.credentials:
        ends = f"{'ended' if credential.expires <= now else 'ends'} {instant_text(credential.expires)}"
        urgent = _left(credential, now, URGENT)
        if credential.problem:
            yield Attention(
                severity="critical" if urgent else "warning",
                code="credential_not_renewed",
                detail=f"the {credential.role}'s credential {ends}, and was not renewed at the last try, "
                f"{instant_text(credential.failed)}: {credential.problem}",
                where=view.name,
                remedy=credential.remedy,
            )
        elif urgent or _left(credential, now, WARNED):
            yield Attention(
                severity="critical" if urgent else "warning",
                code="credential_expires",
                detail=f"the {credential.role}'s credential {ends}, and the hub does not renew it",
                where=view.name,
                remedy=f"run `federation clusters add {view.name}` again, which makes those anew that it made; replace "
                "any other in place: the hub takes it up",
            )


def _left(credential: CredentialView, now: float, bound: tuple[float, float]) -> bool:
    """Whether less than that is left of it."""
    seconds, part = bound
    if not credential.expires:
        return False
    if credential.issued:
        seconds = min(seconds, (credential.expires - credential.issued) * part)
    return credential.expires - now < seconds
