"""An authority slot that runs, in virtual time, with back ends that fail when a test says so."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from federation.core.config.authorities.settings import CertManagerAuthorityConfig
from federation.core.config.clusters import Credentials
from federation.core.errors import AuthorityUnavailable, AuthorityUncertain, FederationError, NotReady
from federation.core.rotation.effects import SigningDirectives
from federation.signer.authorities.authority import (
    AuthorityBasics,
    AuthoritySettings,
    BackEndContext,
    LeafRequest,
    ManagedAuthority,
    ServiceAnswer,
    ServiceView,
)
from federation.signer.authorities.authority_set import AuthoritySlot, SlotContext
from federation.signer.authorities.limiter import FAILURES, FIRST_PROBE, Limiter
from federation.signer.authorities.selection import choose
from federation.signer.authorities.service import SOON, ServiceAuthority
from tests.authorities.back_end import SERVER_NAME, TRUST_DOMAIN, order
from tests.authorities.test_service import CA, issued
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

POLL = 30.0
QUOTA = 40.0  # certificates a second


class Service:
    """A service that issues rightly; a test sets whether it hangs, fails, and shows its chain beforehand."""

    def __init__(self, *, shows_chain: bool = True) -> None:
        self.shows_chain = shows_chain
        self.ca = CA
        self.failing: Exception | None = None
        self.blind: FederationError | None = None
        self.hanging: asyncio.Event | None = None
        self.asked = 0
        self.polled = 0

    async def poll(self) -> ServiceView:
        self.polled += 1
        if self.blind is not None:
            raise self.blind
        return ServiceView((CA.certificate, CA.root)) if self.shows_chain else ServiceView()

    async def issue(self, wanted: LeafRequest) -> ServiceAnswer:
        self.asked += 1
        if self.hanging is not None:
            await self.hanging.wait()
        if self.failing is not None:
            raise self.failing
        return ServiceAnswer(issued(wanted, self.ca).der, (self.ca.certificate,))

    async def close(self) -> None:
        """Nothing is open."""


class Setup:
    """A slot with such services, by their names."""

    def __init__(self, **services: Service) -> None:
        self.clock = VirtualClock(pki.NOW)
        self.directives: SigningDirectives | None = None
        self.services = services
        context = SlotContext(
            back_ends=BackEndContext(
                TRUST_DOMAIN, self.clock, os.urandom, random.Random(1), hosts=lambda: (SERVER_NAME,)
            ),
            deadline=10.0,
            lifetime=lambda: 3600.0,
            directives=lambda: self.directives,
            make=self._make,
        )
        first = settings_of(next(iter(services)), quota=QUOTA)
        self.slot = AuthoritySlot(first, context, on_change=lambda: None)
        self.slot.trust([CA.root])

    def _make(
        self, settings: AuthoritySettings, context: BackEndContext, limiter: Limiter | None
    ) -> ManagedAuthority:
        return ServiceAuthority(
            self.services[settings.authority.name],
            AuthorityBasics(
                name=settings.authority.name,
                kind="test",
                poll_seconds=POLL,
                context=context,
                limiter=limiter,
            ),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AuthoritySlot]:
        task = asyncio.create_task(self.slot.run())
        try:
            await self.until(lambda: self.slot.usable)
            yield self.slot
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, true: Callable[[], bool]) -> None:
        """Let the loop and its threads run, and no time pass."""
        async with asyncio.timeout(PATIENCE):
            while not true():
                await self.clock.settle()
                await asyncio.sleep(0.001)  # the keys of throw-away leaves are made in a thread

    async def ask(self) -> None:
        await self.slot.current.issue(order(now=self.clock.now()))

    async def seconds_until_served(self) -> float:
        """How long callers that ask all the time are refused."""
        began = self.clock.monotonic()
        while True:
            try:
                await self.ask()
            except FederationError:
                await self.clock.advance(0.1)
            else:
                return self.clock.monotonic() - began


def settings_of(name: str, quota: float = 0.0) -> AuthoritySettings:
    nowhere = Credentials(kubeconfig=None)
    return AuthoritySettings(
        CertManagerAuthorityConfig(
            name=name, quota=quota, timeout=5.0, credentials=nowhere, namespace="hub", issuer_name=name
        )
    )


async def break_it(setup: Setup, service: Service) -> None:
    """Open the circuit; the back end is well again at once."""
    service.failing = AuthorityUncertain("cut off")
    for _ in range(FAILURES):
        with pytest.raises(AuthorityUncertain):
            await setup.ask()
    service.failing = None
    with pytest.raises(AuthorityUnavailable, match="left alone"):
        await setup.ask()


async def test_a_circuit_that_opens_between_two_polls_is_probed_soon() -> None:
    service = Service()
    setup = Setup(first=service)
    async with setup.running():
        await setup.clock.advance(POLL / 10)  # the next regular poll is far away
        await break_it(setup, service)
        assert await setup.seconds_until_served() <= FIRST_PROBE + 0.2


async def test_one_poll_that_fails_stops_no_caller() -> None:
    service = Service()
    setup = Setup(first=service)
    async with setup.running() as slot:
        service.blind = AuthorityUnavailable("no answer", reason="timeout")
        await setup.clock.advance(POLL + 0.1)
        assert slot.describe().state == "degraded"
        assert await setup.seconds_until_served() == 0.0
        service.blind = None
        await setup.clock.advance(SOON)
        assert slot.describe().state == "ready"


async def test_a_replacement_that_crashes_on_trial_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    service, broken = Service(), Service()
    broken.failing = ZeroDivisionError("a mistake of ours")
    setup = Setup(first=service, second=broken)
    async with setup.running() as slot:
        slot.configure(settings_of("second"))
        await setup.until(lambda: broken.asked > 0)
        await setup.until(lambda: "unexpectedly" in slot.describe().detail)
        assert "a mistake of ours" not in slot.describe().detail
        assert "unexpectedly" in caplog.text
        await setup.ask()
        broken.failing = None
        await setup.clock.advance(POLL + 0.1)
        await setup.until(lambda: slot.settings.authority.name == "second")


async def test_a_replacement_that_hangs_on_trial_delays_no_probe_of_the_one_in_use() -> None:
    service, hanging = Service(), Service()
    hanging.hanging = asyncio.Event()
    setup = Setup(first=service, second=hanging)
    async with setup.running() as slot:
        slot.configure(settings_of("second"))
        await setup.until(lambda: hanging.asked > 0)
        await break_it(setup, service)
        assert await setup.seconds_until_served() <= FIRST_PROBE + 0.2
        polled = service.polled
        await setup.clock.advance(POLL + 1)
        assert service.polled > polled
        hanging.hanging.set()
        await setup.until(lambda: slot.settings.authority.name == "second")


async def test_a_replacement_that_is_given_up_while_it_hangs_is_closed_later() -> None:
    hanging = Service()
    hanging.hanging = asyncio.Event()
    setup = Setup(first=Service(), second=hanging)
    async with setup.running() as slot:
        slot.configure(settings_of("second"))
        await setup.until(lambda: hanging.asked > 0)
        slot.configure(settings_of("first", quota=QUOTA))
        await setup.clock.advance(POLL + 1)
        hanging.hanging.set()
        await setup.until(lambda: hanging.asked == 2)  # the canary that was under way ends
        await setup.clock.advance(POLL + 1)
        assert slot.settings.authority.name == "first"
        assert slot.describe().state == "ready"


async def test_an_authority_that_only_a_leaf_shows_is_known_before_directives_name_it() -> None:
    """A signer that starts in the middle of a rotation, with cert-manager."""
    service = Service(shows_chain=False)
    setup = Setup(first=service)
    directives = SigningDirectives(rotation=1, state="PUBLISHING", issuer=CA.certificate.sha256, strict=True)
    async with setup.running() as slot:
        await setup.until(lambda: bool(slot.issuers))
        assert choose(directives, "east", [slot], (CA.root,)) is slot
        asked = service.asked
        await setup.clock.advance(3 * POLL)
        assert service.asked == asked, "once it is known, nothing is issued that no caller needs"


async def test_a_back_end_that_only_a_leaf_shows_is_changed_on_its_own_side_and_put_back() -> None:
    """It is not asked for callers while it signs under another root, and found to be good again by itself."""
    service, other = Service(shows_chain=False), pki.intermediate("another", pki.root("another"))
    setup = Setup(first=service)
    setup.directives = SigningDirectives(issuer=CA.certificate.sha256, root=CA.root.sha256)
    anchors = (CA.root, other.root)
    async with setup.running() as slot:
        slot.trust(anchors)
        await setup.until(lambda: bool(slot.issuers))
        assert choose(setup.directives, "east", [slot], anchors) is slot
        service.ca = other
        await setup.ask()  # what it returns is judged by who asked
        assert slot.issuers[0] == other.certificate
        with pytest.raises(NotReady) as refused:
            choose(setup.directives, "east", [slot], anchors)
        assert refused.value.reason == "authority_not_in_force"
        service.ca = CA
        await setup.clock.advance(POLL)
        await setup.until(lambda: slot.issuers[:1] == (CA.certificate,))
        assert choose(setup.directives, "east", [slot], anchors) is slot


@pytest.mark.parametrize("ended", [False, True], ids=["alive", "ended"])
async def test_what_has_ended_gives_way_to_a_renewal_in_the_middle_of_a_rotation(ended: bool) -> None:
    """What the directives name goes on while it can; then only a renewal can be recorded, and be named."""
    ends = pki.NOW + timedelta(seconds=POLL * 2)
    ending = pki.intermediate("ending", not_after=ends) if ended else CA
    first, second = Service(shows_chain=False), Service(shows_chain=False)
    first.ca, second.ca = ending, pki.intermediate("renewed")
    setup = Setup(first=first, second=second)
    setup.directives = SigningDirectives(
        rotation=1, state="PUBLISHING", strict=True, issuer=ending.certificate.sha256, root=ending.root.sha256
    )
    async with setup.running() as slot:
        await setup.ask()
        assert slot.issuers[:1] == (ending.certificate,)
        slot.configure(settings_of("second"))
        for _ in range(4):
            await setup.clock.advance(POLL)
            await asyncio.sleep(0.05)
        if ended:
            await setup.until(lambda: slot.settings.authority.name == "second")
        assert slot.settings.authority.name == ("second" if ended else "first")


async def test_while_a_switch_is_pending_the_quota_of_the_one_in_use_is_shared_as_before() -> None:
    hanging = Service()
    hanging.hanging = asyncio.Event()
    setup = Setup(first=Service(), second=hanging)
    async with setup.running() as slot:
        assert slot.quotas == {"first"}
        slot.configure(settings_of("second", quota=8.0))
        await setup.until(lambda: hanging.asked > 0)
        assert slot.quotas == {"first", "second"}
        slot.take_share({"first": 0.5, "second": 1.0}.__getitem__)
        assert slot.describe().share == QUOTA / 2
        hanging.hanging.set()
        await setup.until(lambda: slot.settings.authority.name == "second")
        assert slot.describe().share == 8.0
        assert slot.quotas == {"second"}
