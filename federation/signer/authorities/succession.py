"""The two authorities of a signer: the one in use, and the one that a rotation leads to.

``[signer.authority]`` is judged by the bundle in force. ``[signer.successor]`` is judged by the pinned roots as
well, so that it can be found good before its root is published; whether it may sign for anybody is another
question (``choosing.py``).

When a rotation is over, its settings are moved into ``[signer.authority]``. The very same authority goes on
then, if it can: nothing is made anew that requests depend on. Otherwise it stays until another one of these
settings has signed and taken over. What is no longer configured as the successor may be all that signs, so it
goes only while the authority can.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from federation.core.errors import AuthorityMisconfigured
from federation.core.pki.certificate import Certificate
from federation.core.trust.rotation.effects import Orders
from federation.core.trust.rotation.record import State
from federation.core.trust.rotation.signing import NOT_IN_FORCE
from federation.signer.authorities.catalogue import AuthoritySettings
from federation.signer.authorities.keeper import AuthorityKeeper
from federation.signer.in_force import exchange, not_in_force
from federation.state.documents import AuthorityReport

_logger = logging.getLogger(__name__)


class MakesKeepers(Protocol):
    """Makes a keeper of these settings; raises AuthorityMisconfigured where its kind cannot be made."""

    def __call__(
        self, settings: AuthoritySettings, *, on_change: Callable[[], None], on_trial: bool
    ) -> AuthorityKeeper:
        """A keeper that nobody runs yet."""
        ...


class Succession:
    """``authority`` and, where there is one, ``successor``; ``in_order`` are both, the authority first."""

    def __init__(
        self,
        make: MakesKeepers,
        authority: AuthoritySettings,
        successor: AuthoritySettings | None,
        *,
        orders: Callable[[], Orders | None] = lambda: None,
    ) -> None:
        self._make = make
        self._orders = orders
        self._bundle: tuple[Certificate, ...] = ()
        self._pinned: tuple[Certificate, ...] = ()
        self._wanted = authority, successor
        self._refused: tuple[AuthoritySettings, AuthorityMisconfigured] | None = None
        self._to_run: asyncio.Queue[AuthorityKeeper] = asyncio.Queue()
        self.authority = make(authority, on_change=self._arrange, on_trial=False)
        self.successor: AuthorityKeeper | None = None
        self.in_order: tuple[AuthorityKeeper, ...] = (self.authority,)
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
        return frozenset().union(*(keeper.quotas for keeper in self.in_order))

    def recall(self, reports: Iterable[AuthorityReport]) -> None:
        """Take over the alarms that this signer reported before it was killed, each by the name of its authority."""
        for report in reports:
            for keeper in self.in_order:
                if keeper.settings.authority.name == report.name:
                    keeper.alarms.recall(report)

    def take_share(self, share_of: Callable[[str], float]) -> None:
        """Take of each quota the part that is given for the authority's name."""
        for keeper in self.in_order:
            keeper.take_share(share_of)

    async def run(self) -> None:
        """Keep both until cancelled; closes them then."""
        async with asyncio.TaskGroup() as group:
            while True:
                keeper = await self._to_run.get()
                group.create_task(keeper.run(), name=f"authority {keeper.settings.authority.name}")

    def describe_authority(self) -> AuthorityReport:
        """``[signer.authority]`` and how it fares: unavailable where it is not what is in force, and all there is."""
        report, orders = self._describe(self.authority), self._orders()
        if orders is None or orders.strict:
            return report
        problem = not_in_force(self.authority.issuers, orders)
        if problem is None or self._successor_signs(orders):
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

    def _describe(self, keeper: AuthorityKeeper) -> AuthorityReport:
        """How it fares, and whether a restart would have it still."""
        report = keeper.describe()
        kept = keeper.settings not in self._wanted or (report.reason == NOT_IN_FORCE and keeper.usable)
        return msgspec.structs.replace(report, kept=kept)

    def arrange(self) -> None:
        """Bring what is kept closer to what is configured, as far as the orders allow it by now."""
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

    def _inherits(self, heir: AuthorityKeeper, authority: AuthoritySettings) -> bool:
        """True where the successor is to be the authority, and can be without a pause."""
        published = bool(heir.issuers) and heir.issuers[-1] in self._bundle
        may = exchange(self.authority.current.issuers, heir.issuers, self._orders(), reserve=False) is None
        return heir.settings == authority != self.authority.settings and heir.usable and published and may

    @property
    def _under_way(self) -> bool:
        orders = self._orders()
        return orders is not None and orders.strict

    def _needed(self, held: AuthorityKeeper) -> bool:
        """Whether nothing else may sign, for some cluster at least, by the orders."""
        orders = self._orders()
        if orders is None or not held.issuers:
            return False
        if orders.strict and held.issuers[0].sha256 in {orders.issuer, *orders.clusters.values()}:
            return True
        return not_in_force(self.authority.issuers, orders) is not None

    def _successor_signs(self, orders: Orders) -> bool:
        """Whether the successor is what signs at rest: since a rotation led to it."""
        heir = self.successor
        after = orders.state == State.RETIRED.value
        return after and heir is not None and heir.usable and not_in_force(heir.issuers, orders) is None

    def _promote(self, heir: AuthorityKeeper) -> None:
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
            self.successor = self._make(settings, on_change=self._arrange, on_trial=True)
        except AuthorityMisconfigured as error:
            _logger.error("the successor cannot be made: %s", error.diagnostics())  # noqa: TRY400
            self._refused = settings, error
            return
        self._to_run.put_nowait(self.successor)
        self._list()

    def _remove(self, successor: AuthorityKeeper) -> None:
        self.successor = None
        self._let_go(successor)
        self._list()

    def _let_go(self, keeper: AuthorityKeeper) -> None:
        self.authority.alarms.absorb(keeper.alarms)
        keeper.retire()

    def _list(self) -> None:
        self.in_order = (self.authority,) if self.successor is None else (self.authority, self.successor)
        self._judge()

    def _judge(self) -> None:
        self.authority.trust(self._bundle)
        if self.successor is not None:
            self.successor.trust(dict.fromkeys((*self._bundle, *self._pinned)))
