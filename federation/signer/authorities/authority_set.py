"""The authorities of a signer, in slots: the one in use, the successor that a rotation leads to, those that drain.

Rules:

1. **One slot for each table of the configuration.** ``[signer.authority]`` is judged by the bundle in force,
   ``[signer.successor]`` by the pinned roots as well, so that it can be found good before its root is published.
   Whether it may sign for any cluster is another question (``selection.py``).
2. **An edit is a pending change.** Other settings make a replacement, which takes over as soon as it has signed:
   throw-away leaves, for a workload and for the listener, which are verified (``canary.py``). Until then the authority
   in use goes on, even where it cannot sign just now, and the report says why. A replacement that is not what is in
   force never takes the place of one that is (``selection.py``).
3. **A successor counts once it has signed,** anew for every intermediate: so it is known to be good before anything
   depends on it.
4. **When a rotation is over,** its settings are moved into ``[signer.authority]``. The very same authority goes on
   then, if it can: nothing is made anew that requests depend on. Otherwise it stays until another one of these
   settings has signed and taken over. What is no longer configured as the successor may be all that signs, so it goes
   only while the authority can.
5. **Draining:** an authority that is no longer used is closed once nothing is under way with it any more. No request
   fails because another authority takes over.

The signer's role makes one :class:`AuthoritySet` and runs it; issuance gets the slots of ``in_order`` to select from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

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
from federation.signer.authorities.canary import CanarySigning
from federation.signer.authorities.limiter import Limiter
from federation.signer.authorities.reports import awaits_canary, with_problem, withheld
from federation.signer.authorities.selection import exchange, not_in_force

_logger = logging.getLogger(__name__)

CLOSE_TIMEOUT: Final = 10.0  # seconds for one authority to close
DRAIN_POLL: Final = 0.5  # seconds between checks whether one that is no longer used may be closed

MakeAuthority = Callable[[AuthoritySettings, BackEndContext, Limiter | None], ManagedAuthority]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotContext:
    """What the slots of one signer share.

    ``deadline`` is the listener's, in seconds, and ``lifetime`` is how long leaves live at present. ``directives`` are
    None while none were read.
    """

    back_ends: BackEndContext
    deadline: float
    lifetime: Callable[[], float]
    directives: Callable[[], SigningDirectives | None] = lambda: None
    make: MakeAuthority = make_authority


class Draining:
    """Authorities that are no longer used, until they are closed."""

    def __init__(self) -> None:
        self._all: list[ManagedAuthority] = []

    def add(self, *authorities: ManagedAuthority) -> None:
        """Nothing chooses these from now on."""
        self._all += authorities

    @property
    def busy(self) -> bool:
        """True while requests wait for one of them or are being answered by it."""
        return any(authority.busy for authority in self._all)

    async def close(self, *, spare: ManagedAuthority | None = None, finally_: bool = False) -> None:
        """Close those that are not needed any more, ``spare`` excepted; ``finally_`` closes them all."""
        draining, self._all = self._all, []
        for authority in draining:
            if not finally_ and (authority is spare or authority.busy):
                self._all.append(authority)  # a request that began with it ends with it
                continue
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await authority.close()
            except TimeoutError:
                _logger.warning("an authority that is no longer used did not close in time")


@dataclass(slots=True)
class _Replacement:
    """What other settings have made, until it takes over; ``authority`` is None where it cannot be made.

    Why it does not take over: ``not_made``, or that it is not what is in force (``barred``), or what was wrong with
    the leaves that it signed last (``failed``).
    """

    settings: AuthoritySettings
    authority: ManagedAuthority | None = None
    not_made: AuthorityMisconfigured | None = None
    barred: AuthorityMisconfigured | None = None
    failed: FederationError | None = None

    def explain(self, report: AuthorityReport) -> AuthorityReport:
        """The report of the authority in use, with why this one has not taken over."""
        name = self.settings.authority.name
        if self.barred is not None:
            return withheld(report, name, self.barred.what, self.barred.remedy, reason=self.barred.reason)
        if self.failed is not None:
            return withheld(report, name, f"on trial: {self.failed}", self.failed.remedy)
        if self.not_made is not None:
            return withheld(report, name, self.not_made.what, self.not_made.remedy)
        if self.authority is None:
            return report
        waiting = self.authority.describe()
        return withheld(report, name, waiting.detail, waiting.remedy)


class AuthoritySlot:
    """One authority, exchanged with its configuration: the one in use, its replacement, and those that drain.

    ``on_change`` is called when another authority is in use, when the canary was signed, and when it has become or
    ceased to be usable. Raises AuthorityMisconfigured where an authority of that kind cannot be made at all.
    """

    def __init__(
        self,
        settings: AuthoritySettings,
        context: SlotContext,
        *,
        on_change: Callable[[], None],
        needs_canary: bool = False,
    ) -> None:
        self._context = context
        self._clock = context.back_ends.clock
        self._on_change = on_change
        self._needs_canary = needs_canary
        self._anchors: tuple[Certificate, ...] = ()
        self._share_of: Callable[[str], float] = lambda _: 1.0
        self._own_canary = CanarySigning(context.back_ends)
        self._replacement_canary = CanarySigning(context.back_ends)
        self._signed: tuple[ManagedAuthority, tuple[Certificate, ...]] | None = None
        """Which authority has signed its canary, and under which issuers."""
        self._failed: FederationError | None = None  # what was wrong with the last canary of the one in use
        self._could_sign: bool | None = None  # whether the one in use ever could; None until it was polled
        self._was_usable = False
        self._retired = False
        self._replacement: _Replacement | None = None
        self._being_tried: ManagedAuthority | None = None
        self._draining = Draining()
        self._changed = asyncio.Event(), asyncio.Event()  # for the two loops of run()
        self.settings = settings
        self.alarms = Alarms(self._clock)
        self.current = self._make(settings)

    @property
    def usable(self) -> bool:
        """True while it can sign, and has signed a canary where it has to."""
        return self.current.can_sign and self.proved

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Of the authority in use; empty while they are not known or not proved."""
        return self.current.issuers if self.proved else ()

    @property
    def proved(self) -> bool:
        """False while a canary is still to be signed under the issuers of now."""
        if not self._needs_canary:
            return True
        signed = self._signed
        return signed is not None and signed[0] is self.current and signed[1] == self.current.issuers

    def rely(self) -> None:
        """No canary is needed from now on: requests have come to depend on it."""
        self._needs_canary = False

    def test(self) -> None:
        """A canary is needed from now on."""
        self._needs_canary = True
        self._wake()

    def retire(self) -> None:
        """Close it once nothing is under way with it; :meth:`run` ends then."""
        self._retired = True
        self._wake()

    def configure(self, settings: AuthoritySettings) -> None:
        """Use an authority of these settings as soon as it can sign."""
        if self._replacement is not None and self._replacement.settings == settings:
            return
        self._drop_replacement()
        if settings == self.settings:
            return
        try:
            self._replacement = _Replacement(settings, self._make(settings))
        except AuthorityMisconfigured as error:
            _logger.error("the new authority cannot be made: %s", error.diagnostics())
            self._replacement = _Replacement(settings, not_made=error.without_frames())
        self._wake()

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on."""
        self._anchors = tuple(anchors)
        for authority in self._authorities:
            authority.trust(self._anchors)
        self._wake()

    @property
    def quotas(self) -> frozenset[str]:
        """The names of those, of the authority in use and its replacement, whose quota several signers share."""
        configs = [settings.authority for settings in self._all_settings]
        return frozenset(one.name for one in configs if isinstance(one, RemoteAuthorityConfig) and one.quota)

    def take_share(self, share_of: Callable[[str], float]) -> None:
        """Take of each quota the part that is given for the authority's name."""
        self._share_of = share_of
        for settings, authority in zip(self._all_settings, self._authorities, strict=True):
            authority.take_share(share_of(settings.authority.name))

    def describe(self) -> AuthorityReport:
        """The authority in use with its alarms, and why its replacement has not taken over."""
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
        return report if self._replacement is None else self._replacement.explain(report)

    async def refresh(self) -> None:
        """Poll the authority in use and its replacement, and exchange them where the replacement can sign."""
        await self._poll()
        await self._try_replacement()

    async def run(self) -> None:
        """Poll until cancelled or retired; closes every authority then.

        In two loops beside each other: a replacement that hangs while it is tried delays no poll of the one in use.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for step, changed in zip((self._poll, self._try_replacement), self._changed, strict=True):
                    group.create_task(self._repeat(step, changed))
            await self._clock.sleep(
                self._context.deadline
            )  # a call that has selected it has asked it by then
            while self._draining.busy or any(authority.busy for authority in self._authorities):
                await self._clock.sleep(DRAIN_POLL)
        finally:
            self._draining.add(*self._authorities)
            self._replacement = None
            await self._draining.close(finally_=True)

    async def _repeat(self, step: Callable[[], Awaitable[None]], changed: asyncio.Event) -> None:
        """Take the step again and again, at once where something has changed meanwhile."""
        while not self._retired:
            changed.clear()
            await step()
            seconds = min(authority.pause for authority in self._authorities)
            async with asyncio.TaskGroup() as group:
                waits = [group.create_task(changed.wait()), group.create_task(self._clock.sleep(seconds))]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()

    def _wake(self) -> None:
        for changed in self._changed:
            changed.set()

    # --- the authority in use --------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Poll the authority in use, have it sign its canary where it has to, and close those that have drained."""
        polled = self.current
        before = polled.can_sign
        await polled.refresh()
        if polled is self.current:
            self._could_sign = self._could_sign or before or polled.can_sign
        await self._draining.close(spare=self._being_tried)
        await self._prove()
        self._report_change()

    async def _prove(self) -> None:
        """Have the authority in use sign a canary: once for each intermediate, and where only a leaf shows its chain.

        Directives name an intermediate, so that an authority whose intermediate is not known would never be asked. Nor
        would one that was seen to be under another root than the one in force: whether its back end was put back is
        found out here.
        """
        tried, issuers, proved = self.current, self.current.issuers, self.proved
        if not tried.can_sign or (proved and issuers and not self._has_departed(issuers)):
            return
        failed = await self._own_canary.run(tried, self._anchors)
        if tried is not self.current:
            return  # another one has taken over meanwhile
        self._failed = failed
        if failed is None:
            self._signed = tried, issuers or tried.issuers
            if not proved:
                _logger.info("the authority %s signs as it should", self.settings.authority.name)
                self._on_change()

    def _has_departed(self, issuers: Sequence[Certificate]) -> bool:
        """Whether ``[signer.authority]`` is under another root than the one in force, and no rotation is under way."""
        directives = self._context.directives()
        if directives is None or directives.strict or self._needs_canary:
            return False
        return issuers[-1].sha256 != directives.root and not_in_force(issuers, directives) is not None

    def _report_change(self) -> None:
        if self.usable != self._was_usable:
            self._was_usable = self.usable
            self._on_change()

    # --- its replacement -------------------------------------------------------------------------------------------

    async def _try_replacement(self) -> None:
        """Have it take over where it signs as it should, or where nothing can be lost by it."""
        replacement = self._replacement
        if replacement is None or replacement.authority is None:
            return
        candidate = self._being_tried = replacement.authority
        try:
            await candidate.refresh()
            barred = self._exchange(self.current.issuers, candidate.issuers)
            tried = candidate.can_sign and barred is None
            failed = await self._replacement_canary.run(candidate, self._anchors) if tried else None
        finally:
            self._being_tried = None
        if replacement is not self._replacement:
            return  # the configuration has changed once more meanwhile
        barred = barred or self._exchange(
            self.current.issuers, candidate.issuers
        )  # a leaf may show other issuers
        if barred is not None and (replacement.barred is None or replacement.barred.what != barred.what):
            _logger.error("the authority is not taken up: %s", barred.diagnostics())
        replacement.barred, replacement.failed = barred, failed
        signs = candidate.can_sign and failed is None
        # One that could sign before may do so again in a moment. One that never could loses nothing by another.
        if barred is None and (signs or (self._could_sign is False and not self.current.can_sign)):
            self._take_over(replacement.settings, candidate, signs=signs)

    def _take_over(self, settings: AuthoritySettings, candidate: ManagedAuthority, *, signs: bool) -> None:
        self._draining.add(self.current)
        self.settings, self.current, self._replacement = settings, candidate, None
        self._signed = (candidate, candidate.issuers) if signs else None
        self._could_sign = signs
        _logger.info("the authority %s takes over", settings.authority.name)
        self._was_usable = self.usable
        self._on_change()
        self._wake()

    def _exchange(
        self, old: Sequence[Certificate], new: Sequence[Certificate]
    ) -> AuthorityMisconfigured | None:
        return exchange(old, new, self._context.directives(), reserve=self._needs_canary)

    def _drop_replacement(self) -> None:
        replacement, self._replacement = self._replacement, None
        if replacement is not None and replacement.authority is not None:
            self._draining.add(replacement.authority)

    @property
    def _authorities(self) -> tuple[ManagedAuthority, ...]:
        """The one in use and, where there is one, its replacement."""
        replacement = self._replacement
        if replacement is None or replacement.authority is None:
            return (self.current,)
        return self.current, replacement.authority

    @property
    def _all_settings(self) -> tuple[AuthoritySettings, ...]:
        """Those of :attr:`_authorities`."""
        replacement = self._replacement
        if replacement is None or replacement.authority is None:
            return (self.settings,)
        return self.settings, replacement.settings

    def _make(self, settings: AuthoritySettings) -> ManagedAuthority:
        context, config = self._context, settings.authority
        limiter = None
        if isinstance(config, RemoteAuthorityConfig):
            limiter = Limiter.of(
                config,
                deadline=context.deadline,
                lifetime=context.lifetime,
                clock=self._clock,
                jitter=context.back_ends.jitter,
                on_open=self._wake,
            )
            limiter.share = self._share_of(config.name)
        authority = context.make(settings, replace(context.back_ends, exchange=self._exchange), limiter)
        authority.trust(self._anchors)
        return authority


class AuthoritySet:
    """``authority`` and, where there is one, ``successor``; ``in_order`` are both, the authority first."""

    def __init__(
        self, context: SlotContext, authority: AuthoritySettings, successor: AuthoritySettings | None
    ) -> None:
        self._context = context
        self._directives = context.directives
        self._bundle: tuple[Certificate, ...] = ()
        self._pinned: tuple[Certificate, ...] = ()
        self._configured = authority, successor
        self._not_made: tuple[AuthoritySettings, AuthorityMisconfigured] | None = None
        self._to_run: asyncio.Queue[AuthoritySlot] = asyncio.Queue()
        self.authority = AuthoritySlot(authority, context, on_change=self.arrange)
        self.successor: AuthoritySlot | None = None
        self.in_order: tuple[AuthoritySlot, ...] = (self.authority,)
        self._to_run.put_nowait(self.authority)
        self.arrange()

    def configure(self, authority: AuthoritySettings, successor: AuthoritySettings | None) -> None:
        """Use these settings as soon as that costs no request."""
        if self._not_made is not None and self._not_made[0] != successor:
            self._not_made = None
        self._configured = authority, successor
        self.arrange()

    def trust(self, bundle: Iterable[Certificate]) -> None:
        """Judge both by these anchors of the bundle from now on."""
        self._bundle = tuple(bundle)
        self._judge()
        self.arrange()

    def pin(self, roots: Iterable[Certificate]) -> None:
        """Judge the successor by these pinned roots as well."""
        self._pinned = tuple(roots)
        self._judge()

    @property
    def quotas(self) -> frozenset[str]:
        """The names of those in the slots whose quota several signers share, whatever is configured by now."""
        return frozenset().union(*(slot.quotas for slot in self.in_order))

    def recall(self, reports: Iterable[AuthorityReport]) -> None:
        """Take over the alarms that this signer reported before it was killed, each by the name of its authority."""
        for report in reports:
            for slot in self.in_order:
                if slot.settings.authority.name == report.name:
                    slot.alarms.absorb(report)

    def take_share(self, share_of: Callable[[str], float]) -> None:
        """Take of each quota the part that is given for the authority's name."""
        for slot in self.in_order:
            slot.take_share(share_of)

    async def run(self) -> None:
        """Run the slots until cancelled; closes them then."""
        async with asyncio.TaskGroup() as group:
            while True:
                slot = await self._to_run.get()
                group.create_task(slot.run(), name=f"authority {slot.settings.authority.name}")

    def describe_authority(self) -> AuthorityReport:
        """``[signer.authority]`` and how it fares: unavailable where it is all there is, and is not in force."""
        report, directives = self._describe(self.authority), self._directives()
        if directives is None or directives.strict:
            return report
        problem = not_in_force(self.authority.issuers, directives)
        if problem is None or self._successor_signs(directives):
            return report
        return with_problem(report, "unavailable", problem, problem.what)

    def describe_successor(self) -> AuthorityReport | None:
        """What the successor is and how it fares; None where none is configured."""
        if self.successor is not None:
            return self._describe(self.successor)
        if self._not_made is None:
            return None
        settings, error = self._not_made
        config = settings.authority
        return with_problem(
            AuthorityReport(name=config.name, kind=config.kind, state="ready"), "unavailable", error
        )

    def _describe(self, slot: AuthoritySlot) -> AuthorityReport:
        """How it fares, and whether only this process still has it: a restart would not bring it back."""
        report = slot.describe()
        kept = slot.settings not in self._configured or (report.reason == NOT_IN_FORCE and slot.usable)
        return msgspec.structs.replace(report, kept=kept)

    def arrange(self) -> None:
        """Bring the slots closer to what is configured, as far as the directives allow it by now."""
        authority, successor = self._configured
        promoted = self.successor
        if promoted is not None and self._is_inherited(promoted, authority):
            if self._under_way and self.authority.settings != successor:
                return  # a rotation needs both sides until it has ended: the old one for an abort
            self._promote(promoted)
        self.authority.configure(authority)
        current = self.successor
        if current is None:
            if successor is not None and self._not_made is None:
                self._add(successor)
        elif self.authority.settings != authority:
            return  # the successor may be what signs now: it stays until the authority has taken over
        elif successor is None:
            if self.authority.usable and not self._is_needed(current):
                self._remove(current)
        else:
            current.configure(successor)

    def _is_inherited(self, successor: AuthoritySlot, authority: AuthoritySettings) -> bool:
        """True where the successor is to be the authority, and can be without a pause."""
        published = bool(successor.issuers) and successor.issuers[-1] in self._bundle
        barred = exchange(
            self.authority.current.issuers, successor.issuers, self._directives(), reserve=False
        )
        moved = successor.settings == authority != self.authority.settings
        return moved and successor.usable and published and barred is None

    @property
    def _under_way(self) -> bool:
        directives = self._directives()
        return directives is not None and directives.strict

    def _is_needed(self, successor: AuthoritySlot) -> bool:
        """Whether nothing else may sign, for some cluster at least, by the directives."""
        directives = self._directives()
        if directives is None or not successor.issuers:
            return False
        named = {directives.issuer, *directives.clusters.values()}
        if directives.strict and successor.issuers[0].sha256 in named:
            return True
        return not_in_force(self.authority.issuers, directives) is not None

    def _successor_signs(self, directives: SigningDirectives) -> bool:
        """Whether the successor is what signs at rest: since a rotation led to it."""
        after, successor = directives.state == State.RETIRED.value, self.successor
        if not after or successor is None or not successor.usable:
            return False
        return not_in_force(successor.issuers, directives) is None

    def _promote(self, successor: AuthoritySlot) -> None:
        former, self.authority = self.authority, successor
        successor.rely()
        self.successor = None
        if former.settings == self._configured[1]:  # they have changed places
            former.test()
            self.successor = former
        else:
            self._let_go(former)
        self._list()
        _logger.info("the successor %s is the authority from now on", successor.settings.authority.name)

    def _add(self, settings: AuthoritySettings) -> None:
        try:
            self.successor = AuthoritySlot(settings, self._context, on_change=self.arrange, needs_canary=True)
        except AuthorityMisconfigured as error:
            _logger.error("the successor cannot be made: %s", error.diagnostics())
            self._not_made = settings, error.without_frames()
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
