"""A keeper that runs, in virtual time, with back ends that fail as they are told."""

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
from federation.signer.authorities import authority_set as keeper_module
from federation.signer.authorities.authority import (
    Answer,
    AuthoritySettings,
    BackEndContext,
    LeafRequest,
    ManagedAuthority,
    ServiceView,
)
from federation.signer.authorities.authority_set import AuthoritySlot
from federation.signer.authorities.limiter import FAILURES, FIRST_PROBE
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
    """A service that issues rightly; it hangs, fails, and tells its chain beforehand as it is told."""

    def __init__(self, *, tells: bool = True) -> None:
        self.tells = tells
        self.ca = CA
        self.failing: Exception | None = None
        self.blind: FederationError | None = None
        self.hanging: asyncio.Event | None = None
        self.asked = 0
        self.looked = 0

    async def look(self) -> ServiceView:
        self.looked += 1
        if self.blind is not None:
            raise self.blind
        return ServiceView((CA.certificate, CA.root)) if self.tells else ServiceView()

    async def issue(self, wanted: LeafRequest) -> Answer:
        self.asked += 1
        if self.hanging is not None:
            await self.hanging.wait()
        if self.failing is not None:
            raise self.failing
        return Answer(issued(wanted, self.ca).der, (self.ca.certificate,))

    async def close(self) -> None:
        """Nothing is held."""


class Kept:
    """A keeper of such services, by their names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **services: Service) -> None:
        self.clock = VirtualClock(pki.NOW)
        self.directives: SigningDirectives | None = None
        self.services = services
        monkeypatch.setattr(keeper_module, "make_authority", self._make)
        self.slot = AuthoritySlot(
            settings_of(next(iter(services)), quota=QUOTA),
            BackEndContext(TRUST_DOMAIN, self.clock, os.urandom, random.Random(1)),
            deadline=10.0,
            lifetime=lambda: 3600.0,
            hosts=lambda: (SERVER_NAME,),
            on_change=lambda: None,
            directives=lambda: self.directives,
        )
        self.slot.trust([CA.root])

    def _make(self, settings: AuthoritySettings, around: BackEndContext) -> ManagedAuthority:
        return ServiceAuthority(
            self.services[settings.authority.name],
            name=settings.authority.name,
            kind="test",
            poll_seconds=POLL,
            trust_domain=around.trust_domain,
            clock=around.clock,
            jitter=around.jitter,
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


async def break_it(kept: Kept, service: Service) -> None:
    """Open the circuit; the back end is well again at once."""
    service.failing = AuthorityUncertain("cut off")
    for _ in range(FAILURES):
        with pytest.raises(AuthorityUncertain):
            await kept.ask()
    service.failing = None
    with pytest.raises(AuthorityUnavailable, match="left alone"):
        await kept.ask()


async def test_a_circuit_that_opens_between_two_looks_is_probed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    kept = Kept(monkeypatch, first=service)
    async with kept.running():
        await kept.clock.advance(POLL / 10)  # the next regular look is far away
        await break_it(kept, service)
        assert await kept.seconds_until_served() <= FIRST_PROBE + 0.2


async def test_one_look_that_fails_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    kept = Kept(monkeypatch, first=service)
    async with kept.running() as slot:
        service.blind = AuthorityUnavailable("no answer", reason="timeout")
        await kept.clock.advance(POLL + 0.1)
        assert slot.describe().state == "degraded"
        assert await kept.seconds_until_served() == 0.0
        service.blind = None
        await kept.clock.advance(SOON)
        assert slot.describe().state == "ready"


async def test_a_follower_that_crashes_on_trial_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service, broken = Service(), Service()
    broken.failing = ZeroDivisionError("a mistake of ours")
    kept = Kept(monkeypatch, first=service, second=broken)
    async with kept.running() as slot:
        slot.configure(settings_of("second"))
        await kept.until(lambda: broken.asked > 0)
        await kept.until(lambda: "nobody foresaw" in slot.describe().detail)
        assert "a mistake of ours" not in slot.describe().detail
        assert "nobody foresaw" in caplog.text
        await kept.ask()
        broken.failing = None
        await kept.clock.advance(POLL + 0.1)
        await kept.until(lambda: slot.settings.authority.name == "second")


async def test_a_follower_that_hangs_on_trial_delays_no_probe_of_the_one_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service, hanging = Service(), Service()
    hanging.hanging = asyncio.Event()
    kept = Kept(monkeypatch, first=service, second=hanging)
    async with kept.running() as slot:
        slot.configure(settings_of("second"))
        await kept.until(lambda: hanging.asked > 0)
        await break_it(kept, service)
        assert await kept.seconds_until_served() <= FIRST_PROBE + 0.2
        looked = service.looked
        await kept.clock.advance(POLL + 1)
        assert service.looked > looked
        hanging.hanging.set()
        await kept.until(lambda: slot.settings.authority.name == "second")


async def test_a_follower_that_is_given_up_while_it_hangs_is_closed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hanging = Service()
    hanging.hanging = asyncio.Event()
    kept = Kept(monkeypatch, first=Service(), second=hanging)
    async with kept.running() as slot:
        slot.configure(settings_of("second"))
        await kept.until(lambda: hanging.asked > 0)
        slot.configure(settings_of("first", quota=QUOTA))
        await kept.clock.advance(POLL + 1)
        hanging.hanging.set()
        await kept.until(lambda: hanging.asked == 2)  # the trial that was under way ends
        await kept.clock.advance(POLL + 1)
        assert slot.settings.authority.name == "first"
        assert slot.describe().state == "ready"


async def test_an_authority_that_only_a_leaf_tells_of_is_known_before_orders_name_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signer that starts in the middle of a rotation, with cert-manager."""
    service = Service(tells=False)
    kept = Kept(monkeypatch, first=service)
    directives = SigningDirectives(rotation=1, state="PUBLISHING", issuer=CA.certificate.sha256, strict=True)
    async with kept.running() as slot:
        await kept.until(lambda: bool(slot.issuers))
        assert choose(directives, "east", [slot], (CA.root,)) is slot
        asked = service.asked
        await kept.clock.advance(3 * POLL)
        assert service.asked == asked, "once it is known, nothing is issued that nobody needs"


async def test_a_back_end_that_only_a_leaf_tells_of_is_changed_on_its_own_side_and_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not asked for callers while it signs under another root, and found to be good again by itself."""
    service, other = Service(tells=False), pki.intermediate("another", pki.root("another"))
    kept = Kept(monkeypatch, first=service)
    kept.directives = SigningDirectives(issuer=CA.certificate.sha256, root=CA.root.sha256)
    anchors = (CA.root, other.root)
    async with kept.running() as slot:
        slot.trust(anchors)
        await kept.until(lambda: bool(slot.issuers))
        assert choose(kept.directives, "east", [slot], anchors) is slot
        service.ca = other
        await kept.ask()  # what it returns is judged by who asked
        assert slot.issuers[0] == other.certificate
        with pytest.raises(NotReady) as refused:
            choose(kept.directives, "east", [slot], anchors)
        assert refused.value.reason == "authority_not_in_force"
        service.ca = CA
        await kept.clock.advance(POLL)
        await kept.until(lambda: slot.issuers[:1] == (CA.certificate,))
        assert choose(kept.directives, "east", [slot], anchors) is slot


@pytest.mark.parametrize("ended", [False, True], ids=["alive", "ended"])
async def test_what_has_ended_gives_way_to_a_renewal_in_the_middle_of_a_rotation(
    ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the directives name goes on while it can; then only a renewal can be recorded, and be named."""
    ends = pki.NOW + timedelta(seconds=POLL * 2)
    held = pki.intermediate("held", not_after=ends) if ended else CA
    first, second = Service(tells=False), Service(tells=False)
    first.ca, second.ca = held, pki.intermediate("renewed")
    kept = Kept(monkeypatch, first=first, second=second)
    kept.directives = SigningDirectives(
        rotation=1, state="PUBLISHING", strict=True, issuer=held.certificate.sha256, root=held.root.sha256
    )
    async with kept.running() as slot:
        await kept.ask()
        assert slot.issuers[:1] == (held.certificate,)
        slot.configure(settings_of("second"))
        for _ in range(4):
            await kept.clock.advance(POLL)
            await asyncio.sleep(0.05)
        if ended:
            await kept.until(lambda: slot.settings.authority.name == "second")
        assert slot.settings.authority.name == ("second" if ended else "first")


async def test_while_a_switch_is_pending_the_quota_of_the_one_in_use_is_shared_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hanging = Service()
    hanging.hanging = asyncio.Event()
    kept = Kept(monkeypatch, first=Service(), second=hanging)
    async with kept.running() as slot:
        assert slot.quotas == {"first"}
        slot.configure(settings_of("second", quota=8.0))
        await kept.until(lambda: hanging.asked > 0)
        assert slot.quotas == {"first", "second"}
        slot.take_share({"first": 0.5, "second": 1.0}.__getitem__)
        assert slot.describe().share == QUOTA / 2
        hanging.hanging.set()
        await kept.until(lambda: slot.settings.authority.name == "second")
        assert slot.describe().share == 8.0
        assert slot.quotas == {"second"}
