"""The authority in use, and how another one takes its place without failing a request.

A changed configuration makes a new authority. It takes over as soon as it has signed: throw-away leaves, for
a workload and for the door, which are verified. Until then the old one goes on, even where it cannot sign just
now, and the report says why. The old one is closed once nothing is under way with it any more.

A keeper whose authority is on trial does not count on it before it has signed so either, anew for every
intermediate: that is how a successor is known to be good before anything depends on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from federation.core.clock import Clock
from federation.core.config.authority_model import RemoteAuthorityConfig
from federation.core.errors import AuthorityMisconfigured, FederationError
from federation.core.pki.certificate import Certificate
from federation.core.pki.leaf import LeafProfile
from federation.signer.authorities.catalogue import AuthoritySettings, Surroundings, make_authority
from federation.signer.authorities.checked import Alarms
from federation.signer.authorities.circuit import Circuit
from federation.signer.authorities.guarded import GuardedAuthority
from federation.signer.authorities.interface import KeptAuthority
from federation.signer.authorities.lane import Lane
from federation.signer.authorities.probe import probe_once
from federation.state.documents import AuthorityReport

LEAST_PATIENCE: Final = 1.0  # seconds a request may wait for its turn, however short the door's deadline is
CLOSE_TIMEOUT: Final = 10.0
LEAVING: Final = 0.5  # seconds between looks whether one that is no longer used may be closed

_logger = logging.getLogger(__name__)


class AuthorityKeeper:
    """Keeps one authority, and exchanges it with the configuration.

    ``deadline`` is the door's, in seconds, ``hosts`` are its names, and ``lifetime`` is how long leaves live at
    present. ``on_change`` is told that another authority is in use, that a trial was passed, and that it can sign now
    or cannot any more. Raises AuthorityMisconfigured where an authority of that kind cannot be made at all.
    """

    def __init__(
        self,
        settings: AuthoritySettings,
        around: Surroundings,
        *,
        deadline: float,
        lifetime: Callable[[], float],
        hosts: Callable[[], tuple[str, ...]],
        on_change: Callable[[], None],
        on_trial: bool = False,
    ) -> None:
        self._around = around
        self._clock: Clock = around.clock
        self._deadline = deadline
        self._lifetime = lifetime
        self._hosts = hosts
        self._on_change = on_change
        self._anchors: tuple[Certificate, ...] = ()
        self._share = 1.0
        self._on_trial = on_trial
        self._passed: tuple[KeptAuthority, tuple[Certificate, ...]] | None = None
        self._failed: FederationError | None = None
        self._has_been_good = False
        self._was_usable = False
        self._retired = False
        self.settings = settings
        self.alarms = Alarms(around.clock)
        self._next: tuple[AuthoritySettings, KeptAuthority] | None = None
        self._refused: tuple[AuthoritySettings, AuthorityMisconfigured] | None = None
        self._trial: FederationError | None = None
        self._leaving: list[KeptAuthority] = []
        self._changed = asyncio.Event()
        self.current = self._make(settings)

    @property
    def usable(self) -> bool:
        """True while it can sign and is not on trial."""
        return self.current.can_sign and self.proved

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Of the authority in use; empty while they are not known or not proved."""
        return self.current.issuers if self.proved else ()

    @property
    def proved(self) -> bool:
        """False while a trial is still to be passed with the intermediate of now."""
        if not self._on_trial:
            return True
        passed = self._passed
        return passed is not None and passed[0] is self.current and passed[1] == self.current.issuers

    def rely(self) -> None:
        """Nothing is on trial from now on: requests have come to depend on it."""
        self._on_trial = False

    def test(self) -> None:
        """It is on trial from now on."""
        self._on_trial = True
        self._changed.set()

    def retire(self) -> None:
        """Close it once nothing is under way with it; :meth:`run` ends then."""
        self._retired = True
        self._changed.set()

    def configure(self, settings: AuthoritySettings) -> None:
        """Use an authority of these settings as soon as it can sign."""
        if self._refused is not None and settings != self._refused[0]:
            self._refused = None
        if settings == self.settings:
            self._drop_next()
            return
        if (self._next is not None and settings == self._next[0]) or self._refused is not None:
            return
        self._drop_next()
        try:
            self._next = settings, self._make(settings)
        except AuthorityMisconfigured as error:
            _logger.error("the new authority cannot be made: %s", error.diagnostics())  # noqa: TRY400
            self._refused = settings, error
        self._changed.set()

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on."""
        self._anchors = tuple(anchors)
        for authority in self._both:
            authority.trust(self._anchors)
        self._changed.set()

    def take_share(self, share: float) -> None:
        """Take this part of a quota that several signers share."""
        self._share = share
        for authority in self._both:
            if isinstance(authority, GuardedAuthority):
                authority.take_share(share)

    async def refresh(self) -> None:
        """Look at the authority in use and at its follower, and exchange them where the follower can sign."""
        self._has_been_good |= self.current.can_sign
        await self.current.refresh()
        self._has_been_good |= self.current.can_sign
        await self._close_those_that_left()
        await self._prove()
        await self._try_next()
        if self.usable != self._was_usable:
            self._was_usable = self.usable
            self._on_change()

    async def _try_next(self) -> None:
        """Have the follower take over where it signs as it should, or where nothing can be lost by it."""
        if self._next is None:
            return
        settings, follower = self._next
        await follower.refresh()
        signs = False
        if follower.can_sign:
            self._trial = await self._try(follower)
            signs = self._trial is None
        if follower not in self._both:
            return  # the configuration changed once more meanwhile
        # One that was good once may be so again in a moment; of one that never was nothing is known but the report.
        if signs or not (self._has_been_good or self.current.can_sign):
            self._leaving.append(self.current)
            self.settings, self.current, self._next = settings, follower, None
            self._passed = (follower, follower.issuers) if signs else None
            self._has_been_good = signs
            _logger.info("the authority %s takes over", settings.authority.name)
            self._on_change()

    async def run(self) -> None:
        """Keep looking until cancelled or retired; closes every authority then."""
        try:
            while not self._retired:
                self._changed.clear()
                await self.refresh()
                await self._pause(min(authority.pause for authority in self._both))
            await self._clock.sleep(self._deadline)  # whoever has chosen it before has asked it by then
            while any(_under_way(authority) for authority in (*self._both, *self._leaving)):
                await self._clock.sleep(LEAVING)
        finally:
            self._leaving += [*self._both]
            self._next = None
            await self._close_those_that_left(finally_=True)

    def describe(self) -> AuthorityReport:
        """The authority in use with its alarms, and why the one that is to follow does not."""
        alarms = self.alarms
        report = msgspec.structs.replace(
            self.current.describe(),
            uncertain=alarms.uncertain,
            violations=alarms.violations,
            last_violation=alarms.last_violation,
            last_violation_at=alarms.last_violation_at,
        )
        if not self.proved and report.state != "unavailable":
            failed = self._failed
            report = msgspec.structs.replace(
                report,
                state="unavailable",
                reason=failed.reason if failed is not None else "on_trial",
                detail=f"on trial: {failed or 'it has not signed yet'}",
                remedy=failed.remedy if failed is not None else "",
            )
        if self._next is not None:
            waiting, trial = self._next[1].describe(), self._trial
            name, why, remedy = waiting.name, waiting.detail, waiting.remedy
            if trial is not None:
                why, remedy = f"on trial: {trial}", trial.remedy
        elif self._refused is not None:
            settings, error = self._refused
            name, why, remedy = settings.authority.name, error.what, error.remedy
        else:
            return report
        return msgspec.structs.replace(
            report,
            state="degraded" if report.state == "ready" else report.state,
            reason=report.reason or "cannot_take_over",
            detail="; ".join(filter(None, (report.detail, f"{name} cannot take over: {why}"))),
            remedy=remedy or report.remedy,
        )

    @property
    def _both(self) -> tuple[KeptAuthority, ...]:
        return (self.current,) if self._next is None else (self.current, self._next[1])

    async def _pause(self, seconds: float) -> None:
        """Sleep by the clock, or less where something has changed."""
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(self._changed.wait()), group.create_task(self._clock.sleep(seconds))]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _prove(self) -> None:
        """Have the authority in use sign where it is on trial; once for each intermediate."""
        tried = self.current
        if self.proved or not tried.can_sign:
            return
        issuers = tried.issuers
        self._failed = await self._try(tried)
        if self._failed is None:
            self._passed = tried, issuers
            _logger.info("the authority %s signs as it should", self.settings.authority.name)
            self._on_change()

    async def _try(self, authority: KeptAuthority) -> FederationError | None:
        """What is wrong with what it signs; None where it signs as it should."""
        try:
            for profile in LeafProfile:
                await probe_once(
                    authority, profile, anchors=self._anchors, hosts=self._hosts(), around=self._around
                )
        except FederationError as error:
            if str(error) not in {str(self._trial), str(self._failed)}:
                _logger.warning("the new authority does not sign as it should: %s", error.diagnostics())
            return error
        return None

    def _drop_next(self) -> None:
        self._trial = None
        if self._next is not None:
            self._leaving.append(self._next[1])
            self._next = None

    async def _close_those_that_left(self, *, finally_: bool = False) -> None:
        leaving, self._leaving = self._leaving, []
        for authority in leaving:
            if not finally_ and _under_way(authority):
                self._leaving.append(authority)  # whoever began with it ends with it
                continue
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await authority.close()
            except TimeoutError:
                _logger.warning("an authority that is no longer used did not close in time")

    def _make(self, settings: AuthoritySettings) -> KeptAuthority:
        inner = make_authority(settings, self._around)
        inner.trust(self._anchors)
        config = settings.authority
        if not isinstance(config, RemoteAuthorityConfig):
            return inner
        lane = Lane(
            quota=config.quota,
            max_in_flight=config.max_in_flight,
            max_queued=config.max_queued,
            patience=max(LEAST_PATIENCE, self._deadline - config.timeout),
            clock=self._clock,
            where=config.name,
        )
        circuit = Circuit(clock=self._clock, jitter=self._around.jitter, where=config.name)
        guarded = GuardedAuthority(
            inner, lane=lane, circuit=circuit, lifetime=self._lifetime, clock=self._clock
        )
        guarded.take_share(self._share)
        return guarded


def _under_way(authority: KeptAuthority) -> bool:
    """True while requests wait for it or are being answered by it."""
    return isinstance(authority, GuardedAuthority) and authority.under_way
