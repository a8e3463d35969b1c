"""How long a leaf may live: what was asked for, within policy and within every issuer above it.

NotBefore lies a little in the past, so that a peer whose clock is behind still accepts the leaf. It is a small
part of the leaf's life, because ztunnel renews at half of the time between NotBefore and NotAfter
(``refresh_at`` in its ``src/tls/certificate.rs``): a leaf of a minute that began two minutes ago would be due
before it arrived. Istio's agents count from when they received it (``rotateTime`` in istio's ``secretcache.go``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from federation.core.errors import InvalidValue, NotReady
from federation.core.pki.certificate import Certificate

LONGEST_BACKDATING: Final = timedelta(minutes=2)
"""How far NotBefore lies back at most: as far as in Istio's own CA."""

BACKDATED_PART: Final = 10
"""NotBefore lies back by at most the leaf's life divided by this."""

LEAST_USEFUL_LIFE: Final = timedelta(minutes=1)
"""An issuer that ends sooner signs nothing any more: a leaf would expire before it could be renewed once."""

_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when, in UTC and whole seconds, both ends included. Raises InvalidValue."""

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        for instant in (self.not_before, self.not_after):
            if instant.utcoffset() != timedelta(0) or instant.microsecond:
                raise InvalidValue("a validity has whole seconds of UTC")
        if self.not_after <= self.not_before:
            raise InvalidValue(f"a validity cannot end at {self.not_after} and begin at {self.not_before}")


def leaf_validity(
    now: datetime,
    requested: timedelta | int | None,
    longest: timedelta,
    issuers: Sequence[Certificate],
    default: timedelta,
) -> Validity:
    """The validity of a leaf issued at ``now``.

    ``requested`` may be what the caller sent, in seconds and however absurd: none, zero or less means
    ``default``, as in Istio's own CA. Nothing exceeds ``longest`` (the cluster's policy) or any of
    ``issuers``: every certificate above the leaf, the root included. Raises NotReady where an issuer is not
    valid yet or ends within a minute, and InvalidValue where ``longest`` or ``default`` is not positive.
    """
    if longest <= timedelta(0) or default <= timedelta(0):
        raise InvalidValue("the longest and the default lifetime of a leaf must be positive")
    now = now.replace(microsecond=0)
    not_after = now + _lifetime(requested, longest, default)
    for issuer in issuers:
        if issuer.not_before > now:
            raise NotReady(
                f"the issuer {issuer.subject} is valid only from {issuer.not_before:%Y-%m-%d %H:%M:%S} UTC",
                reason="issuer_not_yet_valid",
                remedy="check this machine's clock, or wait",
            )
        if issuer.not_after < not_after:
            if issuer.not_after < now + LEAST_USEFUL_LIFE:
                raise NotReady(
                    f"the issuer {issuer.subject} ends at {issuer.not_after:%Y-%m-%d %H:%M:%S} UTC",
                    reason="issuer_expired" if issuer.not_after <= now else "issuer_expires",
                    remedy="replace the intermediate now; workloads cannot renew",
                )
            not_after = issuer.not_after
    not_before = now - backdating(not_after - now)
    return Validity(max((not_before, *(issuer.not_before for issuer in issuers))), not_after)


def backdating(life: timedelta) -> timedelta:
    """How far in the past a leaf begins that lives for ``life`` from now on, in whole seconds."""
    return min(LONGEST_BACKDATING, life // BACKDATED_PART // _SECOND * _SECOND)


def _lifetime(requested: timedelta | int | None, longest: timedelta, default: timedelta) -> timedelta:
    """What was requested within policy, in whole seconds and at least one."""
    # counted in integers: int64 seconds are more than a timedelta can hold
    seconds = requested // _SECOND if isinstance(requested, timedelta) else requested or 0
    if seconds <= 0:
        seconds = default // _SECOND
    return timedelta(seconds=max(1, min(seconds, longest // _SECOND)))
