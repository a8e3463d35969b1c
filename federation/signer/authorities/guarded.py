"""An authority behind a network or a device, with what protects both sides: its lane and its circuit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import msgspec

from federation.core.clock import Clock
from federation.core.config.authority_model import RemoteAuthorityConfig
from federation.core.errors import (
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityThrottled,
    AuthorityUnavailable,
    AuthorityViolation,
)
from federation.core.pki.certificate import Certificate
from federation.signer.authorities.circuit import Circuit
from federation.signer.authorities.interface import IssuedLeaf, KeptAuthority, LeafOrder
from federation.signer.authorities.lane import Lane
from federation.signer.authorities.turns import NOTHING_HELD
from federation.state.documents import AuthorityReport

LEAST_PATIENCE: Final = 1.0  # seconds a request may wait for its turn, however short the door's deadline is

RENEWED_AT: Final = 0.5
"""Of its life: when Istio's agents and ztunnel renew a certificate."""


class GuardedAuthority:
    """Implements KeptAuthority and KnowsIssuers around another one.

    ``lifetime`` says how long leaves live at present, in seconds: what the quota can carry depends on it.
    """

    def __init__(
        self,
        inner: KeptAuthority,
        *,
        lane: Lane,
        circuit: Circuit,
        lifetime: Callable[[], float],
        clock: Clock,
    ) -> None:
        self._inner = inner
        self._lane = lane
        self._circuit = circuit
        self._lifetime = lifetime
        self._clock = clock
        self._throttled: AuthorityThrottled | None = None

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Of the authority within."""
        return self._inner.issuers

    @property
    def can_sign(self) -> bool:
        """True while the authority within can, and was not left alone."""
        return self._inner.can_sign and self._circuit.state != "open"

    @property
    def pause(self) -> float:
        """Until the next regular look, or until the next probe of an open circuit."""
        if self._circuit.state == "open":
            return max(0.05, self._circuit.until_probe)
        return self._inner.pause

    @property
    def under_way(self) -> bool:
        """True while requests wait for it or are being answered by it."""
        return self._lane.busy

    def take_share(self, share: float) -> None:
        """Take this part of the quota: the others are taken by other signers."""
        self._lane.share = share

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on."""
        self._inner.trust(anchors)

    async def issue(self, order: LeafOrder) -> IssuedLeaf:
        """The leaf, when its turn has come. Raises Overloaded early where it would not come in time."""
        self._circuit.check()  # before it waits: nobody queues for a back end that is left alone
        async with self._lane.admitted(order.cluster, _urgency(order.replaces)):
            self._circuit.enter()
            try:
                issued = await self._inner.issue(order)
            except (AuthorityRefused, AuthorityViolation):
                self._circuit.succeeded()  # it answers; that its answer is no is another matter
                raise
            except AuthorityThrottled as error:
                self._circuit.abandoned()
                self._lane.throttled(error.retry_after)
                self._throttled = error
                raise
            except (AuthorityUnavailable, AuthorityMisconfigured) as error:
                self._circuit.failed(error)
                raise
            except BaseException:
                self._circuit.abandoned()
                raise
            self._circuit.succeeded()
            self._throttled = None
            return issued

    async def refresh(self) -> bool:
        """Look at the back end; a good look lets one request try an open circuit."""
        if self._circuit.state == "open" and self._circuit.until_probe:
            return False
        good = await self._inner.refresh()
        if self._circuit.state != "open":
            return good
        if good and self._inner.can_sign:
            self._circuit.probed()
        else:
            report = self._inner.describe()
            self._circuit.failed(
                AuthorityUnavailable(report.detail, reason=report.reason, remedy=report.remedy)
            )
        return good

    async def close(self) -> None:
        """Close the authority within."""
        await self._inner.close()

    def describe(self) -> AuthorityReport:
        """What the authority within says, with the circuit, the quota and its use."""
        report = self._inner.describe()
        circuit, lane = self._circuit, self._lane
        retry_at = self._clock.now().timestamp() + circuit.until_probe if circuit.state == "open" else 0.0
        report = msgspec.structs.replace(
            report,
            quota=lane.quota,
            share=lane.quota * lane.share,
            rate=lane.rate,
            queued=lane.queued,
            refused_early=lane.refused,
            capacity=int(lane.quota * self._lifetime() * RENEWED_AT),
            circuit=circuit.state,
            retry_at=retry_at,
        )
        cause = circuit.cause
        if circuit.state == "open" and report.state != "unavailable" and cause is not None:
            return msgspec.structs.replace(
                report,
                state="unavailable",
                reason=cause.reason,
                detail=f"left alone after repeated failures, the last: {cause}",
                remedy=cause.remedy,
            )
        if circuit.state == "half-open" and report.state == "ready":
            detail = "it answers again; the next request tells whether it signs"
            return msgspec.structs.replace(report, state="degraded", reason="recovering", detail=detail)
        throttled = self._throttled
        if throttled is not None and report.state == "ready":
            return msgspec.structs.replace(
                report,
                state="degraded",
                reason=throttled.reason,
                detail=f"the last request was throttled: {throttled}",
                remedy=throttled.remedy,
            )
        return report


def guard(
    inner: KeptAuthority,
    config: RemoteAuthorityConfig,
    *,
    deadline: float,
    lifetime: Callable[[], float],
    clock: Clock,
    jitter: random.Random,
    on_open: Callable[[], None],
) -> GuardedAuthority:
    """The authority with a lane and a circuit by its settings; ``deadline`` is the door's, in seconds."""
    lane = Lane(
        quota=config.quota,
        max_in_flight=config.max_in_flight,
        max_queued=config.max_queued,
        patience=max(LEAST_PATIENCE, deadline - config.timeout),
        clock=clock,
        where=config.name,
    )
    circuit = Circuit(clock=clock, jitter=jitter, where=config.name, on_open=on_open)
    return GuardedAuthority(inner, lane=lane, circuit=circuit, lifetime=lifetime, clock=clock)


def _urgency(replaces: datetime | None) -> float:
    return replaces.timestamp() if replaces is not None else NOTHING_HELD
