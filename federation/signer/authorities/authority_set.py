"""The authorities of a signer: the one in use, the successor that a rotation leads to, and those that drain.

``[signer.authority]`` is judged by the bundle in force. ``[signer.successor]`` is judged by the pinned roots as well,
so that it can be found good before its root is published; whether it may sign for any cluster is another question
(``selection.py``).

**Another authority takes the place of the one in use without failing a request.** A changed configuration makes a new
authority. It takes over as soon as it has signed: throw-away leaves, for a workload and for the listener, which are
verified (``canary.py``). Until then the old one goes on, even where it cannot sign just now, and the report says why.
An edit is a wish: one that is not what is in force does not take the place of one that is (``selection.py``). One
that is on trial is not counted on before it has signed so either, anew for every intermediate: that is how a
successor is known to be good before anything depends on it.

**When a rotation is over,** its settings are moved into ``[signer.authority]``. The very same authority goes on then,
if it can: nothing is made anew that requests depend on. Otherwise it stays until another one of these settings has
signed and taken over. What is no longer configured as the successor may be all that signs, so it goes only while the
authority can.

**Draining:** an authority that is no longer used is closed once nothing is under way with it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, Protocol

import msgspec

from federation.core.clock import Clock
from federation.core.config.authorities.settings import RemoteAuthorityConfig
from federation.core.documents.signer import AuthorityReport
from federation.core.errors import AuthorityMisconfigured, FederationError
from federation.core.pki.certificate import Certificate
from federation.core.rotation.effects import NOT_IN_FORCE, SigningDirectives
from federation.core.rotation.record import State
from federation.signer.authorities.authority import (
    Alarms,
    AuthoritySettings,
    BackEndContext,
    ManagedAuthority,
)
from federation.signer.authorities.back_ends import make_authority
from federation.signer.authorities.canary import CanarySigning, awaits_canary, withheld
from federation.signer.authorities.limiter import GuardedAuthority, guard
from federation.signer.authorities.selection import exchange, not_in_force

_logger = logging.getLogger(__name__)

CLOSE_TIMEOUT: Final = 10.0


class DrainingSlots:
    """Keeps them until they are closed."""

    def __init__(self) -> None:
        self._all: list[ManagedAuthority] = []

    def add(self, *authorities: ManagedAuthority) -> None:
        """Nobody chooses these from now on."""
        self._all += authorities

    @property
    def under_way(self) -> bool:
        """True while requests wait for one of them or are being answered by it."""
        return any(under_way(authority) for authority in self._all)

    async def close(self, *, spare: ManagedAuthority | None = None, finally_: bool = False) -> None:
        """Close those that nobody needs, ``spare`` excepted; ``finally_`` closes them all."""
        draining, self._all = self._all, []
        for authority in draining:
            if not finally_ and (authority is spare or under_way(authority)):
                self._all.append(authority)  # whoever began with it ends with it
                continue
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await authority.close()
            except TimeoutError:
                _logger.warning("an authority that is no longer used did not close in time")


def under_way(authority: ManagedAuthority) -> bool:
    """True while requests wait for it or are being answered by it."""
    return isinstance(authority, GuardedAuthority) and authority.under_way


DRAIN_POLL: Final = 0.5  # seconds between looks whether one that is no longer used may be closed


class AuthoritySlot:
    """Keeps one authority, and exchanges it with the configuration.

    ``deadline`` is the listener's, in seconds, ``hosts`` are its names, and ``lifetime`` is how long leaves live at
    present. ``on_change`` is told that another authority is in use, that a trial was passed, and that it can sign now
    or cannot any more. Raises AuthorityMisconfigured where an authority of that kind cannot be made at all.
    """

    def __init__(
        self,
        settings: AuthoritySettings,
        around: BackEndContext,
        *,
        deadline: float,
        lifetime: Callable[[], float],
        hosts: Callable[[], tuple[str, ...]],
        on_change: Callable[[], None],
        needs_canary: bool = False,
        directives: Callable[[], SigningDirectives | None] = lambda: None,
    ) -> None:
        self._around = replace(around, exchange=self._exchange)
        self._clock: Clock = around.clock
        self._deadline = deadline
        self._lifetime = lifetime
        self._proves, self._tries = CanarySigning(around, hosts), CanarySigning(around, hosts)
        self._on_change = on_change
        self._anchors: tuple[Certificate, ...] = ()
        self._share_of: Callable[[str], float] = lambda _: 1.0
        self._needs_canary = needs_canary
        self._directives = directives
        self._passed: tuple[ManagedAuthority, tuple[Certificate, ...]] | None = None
        self._failed: FederationError | None = None
        self._was_good: bool | None = None  # None until the authority in use was looked at
        self._was_usable = False
        self._retired = False
        self.settings = settings
        self.alarms = Alarms(around.clock)
        self._next: tuple[AuthoritySettings, ManagedAuthority] | None = None
        self._refused: tuple[AuthoritySettings, AuthorityMisconfigured] | None = None
        self._canary: FederationError | None = None
        self._departs: AuthorityMisconfigured | None = None
        self._told = ""
        self._draining = DrainingSlots()
        self._trying: ManagedAuthority | None = None
        self._changed = asyncio.Event(), asyncio.Event()  # for those that look after the two
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
        if not self._needs_canary:
            return True
        passed = self._passed
        return passed is not None and passed[0] is self.current and passed[1] == self.current.issuers

    def rely(self) -> None:
        """Nothing is on trial from now on: requests have come to depend on it."""
        self._needs_canary = False

    def test(self) -> None:
        """It is on trial from now on."""
        self._needs_canary = True
        self._wake()

    def retire(self) -> None:
        """Close it once nothing is under way with it; :meth:`run` ends then."""
        self._retired = True
        self._wake()

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
            _logger.error("the new authority cannot be made: %s", error.diagnostics())
            self._refused = settings, error
        self._wake()

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on."""
        self._anchors = tuple(anchors)
        for authority in self._both:
            authority.trust(self._anchors)
        self._wake()

    @property
    def quotas(self) -> frozenset[str]:
        """The names of those, of the authority in use and its follower, whose quota several signers share."""
        both = (self.settings, self._next[0]) if self._next is not None else (self.settings,)
        configs = [settings.authority for settings in both]
        return frozenset(one.name for one in configs if isinstance(one, RemoteAuthorityConfig) and one.quota)

    def take_share(self, share_of: Callable[[str], float]) -> None:
        """Take of each quota the part that is given for the authority's name."""
        self._share_of = share_of
        self._share_out(self.settings, self.current)
        if self._next is not None:
            self._share_out(*self._next)

    async def refresh(self) -> None:
        """Look at the authority in use and at its follower, and exchange them where the follower can sign."""
        await self._look()
        await self._try_next()

    async def run(self) -> None:
        """Keep looking until cancelled or retired; closes every authority then.

        Beside each other: a follower that hangs while it is tried must not delay a look at the one in use.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for look, changed in zip((self._look, self._try_next), self._changed, strict=True):
                    group.create_task(self._repeat(look, changed))
            await self._clock.sleep(self._deadline)  # whoever has chosen it before has asked it by then
            while self._draining.under_way or any(map(under_way, self._both)):
                await self._clock.sleep(DRAIN_POLL)
        finally:
            self._draining.add(*self._both)
            self._next = None
            await self._draining.close(finally_=True)

    async def _repeat(self, look: Callable[[], Awaitable[None]], changed: asyncio.Event) -> None:
        """Look again and again, at once where something has changed meanwhile."""
        while not self._retired:
            changed.clear()
            await look()
            seconds = min(authority.pause for authority in self._both)
            async with asyncio.TaskGroup() as group:
                waits = [group.create_task(changed.wait()), group.create_task(self._clock.sleep(seconds))]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()

    def _wake(self) -> None:
        for changed in self._changed:
            changed.set()

    async def _look(self) -> None:
        """Look at the authority in use, have it prove itself where it has to, and close those that left."""
        looked_at = self.current
        good = looked_at.can_sign
        await looked_at.refresh()
        if looked_at is self.current:
            self._was_good = self._was_good or good or looked_at.can_sign
        await self._draining.close(spare=self._trying)
        await self._prove()
        self._tell()

    async def _try_next(self) -> None:
        """Have the follower take over where it signs as it should, or where nothing can be lost by it."""
        if self._next is None:
            return
        settings, follower = self._next
        self._trying = follower
        try:
            await follower.refresh()
            departs = self._exchange(self.current.issuers, follower.issuers)
            tried = follower.can_sign and departs is None
            canary = await self._tries.run(follower, self._anchors) if tried else None
            departs = departs or self._exchange(self.current.issuers, follower.issuers)  # a leaf tells more
            signs = follower.can_sign and canary is None
        finally:
            self._trying = None
        if follower not in self._both:
            return  # the configuration changed once more meanwhile
        self._canary, self._departs = canary, departs
        if departs is not None:
            if self._told != departs.what:
                _logger.error("the authority is not taken up: %s", departs.diagnostics())
            self._told = departs.what
            return
        # One that was good once may be so again in a moment. One that never was loses nothing by another.
        if signs or (self._was_good is False and not self.current.can_sign):
            self._draining.add(self.current)
            self.settings, self.current, self._next = settings, follower, None
            self._passed = (follower, follower.issuers) if signs else None
            self._was_good = signs
            _logger.info("the authority %s takes over", settings.authority.name)
            self._was_usable = self.usable
            self._on_change()
            self._wake()

    def _tell(self) -> None:
        if self.usable != self._was_usable:
            self._was_usable = self.usable
            self._on_change()

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
        if not self.proved:
            report = awaits_canary(report, self._failed)
        if self._next is not None:
            waiting, failed, departs = self._next[1].describe(), self._canary, self._departs
            if departs is not None:
                return withheld(report, waiting.name, departs.what, departs.remedy, reason=departs.reason)
            if failed is not None:
                return withheld(report, waiting.name, f"on trial: {failed}", failed.remedy)
            return withheld(report, waiting.name, waiting.detail, waiting.remedy)
        if self._refused is not None:
            settings, error = self._refused
            return withheld(report, settings.authority.name, error.what, error.remedy)
        return report

    @property
    def _both(self) -> tuple[ManagedAuthority, ...]:
        return (self.current,) if self._next is None else (self.current, self._next[1])

    async def _prove(self) -> None:
        """Have the authority in use sign: on trial once for each intermediate, and where only a leaf tells its chain.

        Directives name an intermediate, so that an authority with one that is not known would never be asked. Nor is
        one that was seen to be under another root than the one in force: whether its back end was put back is tried
        here.
        """
        tried, issuers, proved = self.current, self.current.issuers, self.proved
        if not tried.can_sign or (proved and issuers and not self._departed(issuers)):
            return
        failed = await self._proves.run(tried, self._anchors)
        if tried is not self.current:
            return  # another one has taken over meanwhile
        self._failed = failed
        if failed is None:
            self._passed = tried, issuers or tried.issuers
            if not proved:
                _logger.info("the authority %s signs as it should", self.settings.authority.name)
                self._on_change()

    def _departed(self, issuers: Sequence[Certificate]) -> bool:
        """Whether ``[signer.authority]`` is under another root than the one in force, and no rotation is under way."""
        directives = self._directives()
        if (
            directives is None
            or directives.strict
            or self._needs_canary
            or issuers[-1].sha256 == directives.root
        ):
            return False
        return not_in_force(issuers, directives) is not None

    def _exchange(
        self, old: Sequence[Certificate], new: Sequence[Certificate]
    ) -> AuthorityMisconfigured | None:
        return exchange(old, new, self._directives(), reserve=self._needs_canary)

    def _drop_next(self) -> None:
        self._canary = self._departs = None
        if self._next is not None:
            self._draining.add(self._next[1])
            self._next = None

    def _make(self, settings: AuthoritySettings) -> ManagedAuthority:
        inner = make_authority(settings, self._around)
        inner.trust(self._anchors)
        config = settings.authority
        if not isinstance(config, RemoteAuthorityConfig):
            return inner
        guarded = guard(
            inner,
            config,
            deadline=self._deadline,
            lifetime=self._lifetime,
            clock=self._clock,
            jitter=self._around.jitter,
            on_open=self._wake,
        )
        self._share_out(settings, guarded)
        return guarded

    def _share_out(self, settings: AuthoritySettings, authority: ManagedAuthority) -> None:
        if isinstance(authority, GuardedAuthority):
            authority.take_share(self._share_of(settings.authority.name))


class MakesSlots(Protocol):
    """Makes a keeper of these settings; raises AuthorityMisconfigured where its kind cannot be made."""

    def __call__(
        self, settings: AuthoritySettings, *, on_change: Callable[[], None], needs_canary: bool
    ) -> AuthoritySlot:
        """A keeper that nobody runs yet."""
        ...


class AuthoritySet:
    """``authority`` and, where there is one, ``successor``; ``in_order`` are both, the authority first."""

    def __init__(
        self,
        make: MakesSlots,
        authority: AuthoritySettings,
        successor: AuthoritySettings | None,
        *,
        directives: Callable[[], SigningDirectives | None] = lambda: None,
    ) -> None:
        self._make = make
        self._directives = directives
        self._bundle: tuple[Certificate, ...] = ()
        self._pinned: tuple[Certificate, ...] = ()
        self._wanted = authority, successor
        self._refused: tuple[AuthoritySettings, AuthorityMisconfigured] | None = None
        self._to_run: asyncio.Queue[AuthoritySlot] = asyncio.Queue()
        self.authority = make(authority, on_change=self._arrange, needs_canary=False)
        self.successor: AuthoritySlot | None = None
        self.in_order: tuple[AuthoritySlot, ...] = (self.authority,)
        self._to_run.put_nowait(self.authority)
        self._arrange()

    def configure(self, authority: AuthoritySettings, successor: AuthoritySettings | None) -> None:
        """Use these settings as soon as that costs no request."""
        if self._refused is not None and self._refused[0] != successor:
            self._refused = None
        self._wanted = authority, successor
        self._arrange()

    def trust(self, bundle: Iterable[Certificate]) -> None:
        """Judge both by these anchors of the bundle from now on."""
        self._bundle = tuple(bundle)
        self._judge()
        self._arrange()

    def pin(self, roots: Iterable[Certificate]) -> None:
        """Judge the successor by these pinned roots as well."""
        self._pinned = tuple(roots)
        self._judge()

    @property
    def quotas(self) -> frozenset[str]:
        """The names of the authorities kept here whose quota several signers share, whatever is configured by now."""
        return frozenset().union(*(slot.quotas for slot in self.in_order))

    def recall(self, reports: Iterable[AuthorityReport]) -> None:
        """Take over the alarms that this signer reported before it was killed, each by the name of its authority."""
        for report in reports:
            for slot in self.in_order:
                if slot.settings.authority.name == report.name:
                    slot.alarms.recall(report)

    def take_share(self, share_of: Callable[[str], float]) -> None:
        """Take of each quota the part that is given for the authority's name."""
        for slot in self.in_order:
            slot.take_share(share_of)

    async def run(self) -> None:
        """Keep both until cancelled; closes them then."""
        async with asyncio.TaskGroup() as group:
            while True:
                slot = await self._to_run.get()
                group.create_task(slot.run(), name=f"authority {slot.settings.authority.name}")

    def describe_authority(self) -> AuthorityReport:
        """``[signer.authority]`` and how it fares: unavailable where it is not what is in force, and all there is."""
        report, directives = self._describe(self.authority), self._directives()
        if directives is None or directives.strict:
            return report
        problem = not_in_force(self.authority.issuers, directives)
        if problem is None or self._successor_signs(directives):
            return report
        return msgspec.structs.replace(
            report, state="unavailable", reason=problem.reason, detail=problem.what, remedy=problem.remedy
        )

    def describe_successor(self) -> AuthorityReport | None:
        """What the successor is and how it fares; None where none is configured."""
        if self.successor is not None:
            return self._describe(self.successor)
        if self._refused is None:
            return None
        settings, error = self._refused
        return AuthorityReport(
            name=settings.authority.name,
            kind=settings.authority.kind,
            state="unavailable",
            reason=error.reason,
            detail=str(error),
            remedy=error.remedy,
        )

    def _describe(self, slot: AuthoritySlot) -> AuthorityReport:
        """How it fares, and whether a restart would have it still."""
        report = slot.describe()
        kept = slot.settings not in self._wanted or (report.reason == NOT_IN_FORCE and slot.usable)
        return msgspec.structs.replace(report, kept=kept)

    def arrange(self) -> None:
        """Bring what is kept closer to what is configured, as far as the directives allow it by now."""
        self._arrange()

    def _arrange(self) -> None:
        authority, successor = self._wanted
        heir = self.successor
        if heir is not None and self._inherits(heir, authority):
            if self._under_way and self.authority.settings != successor:
                return  # a rotation needs both sides until it has ended: the old one for an abort
            self._promote(heir)
        self.authority.configure(authority)
        held = self.successor
        if held is None:
            if successor is not None and self._refused is None:
                self._add(successor)
        elif self.authority.settings != authority:
            return  # the successor may be what signs now: it stays until the authority has taken over
        elif successor is None:
            if self.authority.usable and not self._needed(held):
                self._remove(held)
        else:
            held.configure(successor)

    def _inherits(self, heir: AuthoritySlot, authority: AuthoritySettings) -> bool:
        """True where the successor is to be the authority, and can be without a pause."""
        published = bool(heir.issuers) and heir.issuers[-1] in self._bundle
        may = (
            exchange(self.authority.current.issuers, heir.issuers, self._directives(), reserve=False) is None
        )
        return heir.settings == authority != self.authority.settings and heir.usable and published and may

    @property
    def _under_way(self) -> bool:
        directives = self._directives()
        return directives is not None and directives.strict

    def _needed(self, held: AuthoritySlot) -> bool:
        """Whether nothing else may sign, for some cluster at least, by the directives."""
        directives = self._directives()
        if directives is None or not held.issuers:
            return False
        if directives.strict and held.issuers[0].sha256 in {directives.issuer, *directives.clusters.values()}:
            return True
        return not_in_force(self.authority.issuers, directives) is not None

    def _successor_signs(self, directives: SigningDirectives) -> bool:
        """Whether the successor is what signs at rest: since a rotation led to it."""
        heir = self.successor
        after = directives.state == State.RETIRED.value
        return after and heir is not None and heir.usable and not_in_force(heir.issuers, directives) is None

    def _promote(self, heir: AuthoritySlot) -> None:
        former, self.authority = self.authority, heir
        heir.rely()
        self.successor = None
        if former.settings == self._wanted[1]:  # they have changed places
            former.test()
            self.successor = former
        else:
            self._let_go(former)
        self._list()
        _logger.info("the successor %s is the authority from now on", heir.settings.authority.name)

    def _add(self, settings: AuthoritySettings) -> None:
        try:
            self.successor = self._make(settings, on_change=self._arrange, needs_canary=True)
        except AuthorityMisconfigured as error:
            _logger.error("the successor cannot be made: %s", error.diagnostics())
            self._refused = settings, error
            return
        self._to_run.put_nowait(self.successor)
        self._list()

    def _remove(self, successor: AuthoritySlot) -> None:
        self.successor = None
        self._let_go(successor)
        self._list()

    def _let_go(self, slot: AuthoritySlot) -> None:
        self.authority.alarms.absorb(slot.alarms)
        slot.retire()

    def _list(self) -> None:
        self.in_order = (self.authority,) if self.successor is None else (self.authority, self.successor)
        self._judge()

    def _judge(self) -> None:
        self.authority.trust(self._bundle)
        if self.successor is not None:
            self.successor.trust(dict.fromkeys((*self._bundle, *self._pinned)))
