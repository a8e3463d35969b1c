"""New connections to the signers' listener: what a workload that starts now would meet, of every signer."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import timedelta
from itertools import cycle

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.controller.proof.listener_check import EACH, MOST_CONNECTIONS, Aim, ListenerCheck
from federation.core.config.types import Address
from federation.core.documents.controller import ListenerReport
from federation.core.documents.signer import SignerReport
from federation.core.pki.certificate import Certificate
from tests.controller.world import HUB, World, intermediate, root
from tests.support import pki
from tests.support.clock import VirtualClock

CA = pki.intermediate()
AIM = Aim(Address("127.0.0.1", 1), HUB, (CA.root,), 3)


def served(name: str = HUB, ca: pki.Authority = CA, number: int = 0) -> Certificate:
    """A certificate of a listener."""
    own = pki.key(f"listener {number}")
    return pki.leaf(ca, san=x509.SubjectAlternativeName([x509.DNSName(name)]), private_key=own)


def signer(replica: str, *chain: Certificate) -> SignerReport:
    return SignerReport(
        replica=replica,
        started=0.0,
        updated=0.0,
        heartbeat=2.0,
        ready=True,
        address="127.0.0.1:1",
        serving_pem=b"".join(c.pem for c in chain).decode(),
    )


class Network:
    """Hands out, in turn, what new connections meet."""

    def __init__(self, answers: Sequence[Certificate | Exception]) -> None:
        self.answers = cycle(answers)
        self.connections = 0

    async def greet(self) -> str:
        self.connections += 1
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer.sha256


def states(report: ListenerReport) -> dict[str, str]:
    return {listener.replica: listener.state for listener in report.signers}


async def test_connections_are_made_until_every_signer_was_met() -> None:
    one, two = served(number=1), served(number=2)
    network, arrival = Network([one, one, one, two]), ListenerCheck(VirtualClock(pki.NOW))
    signers = [signer("one", one, CA.certificate), signer("two", two, CA.certificate)]
    report = await arrival.prove(AIM, signers, interval=30.0, greet=network.greet)
    assert states(report) == {"one": "proved", "two": "proved"}
    assert report.connections == network.connections == 4
    assert {listener.generation for listener in report.signers} == {3}
    assert {listener.proved_at for listener in report.signers} == {pki.NOW.timestamp()}


async def test_what_was_met_is_met_again_when_anything_has_changed_and_from_time_to_time() -> None:
    one, two = served(number=1), served(number=2)
    clock = VirtualClock(pki.NOW)
    network, arrival = Network([one]), ListenerCheck(clock)

    async def connections(aim: Aim, shown: Certificate) -> int:
        before = network.connections
        await arrival.prove(aim, [signer("one", shown, CA.certificate)], interval=30.0, greet=network.greet)
        return network.connections - before

    assert await connections(AIM, one) == 1
    assert await connections(AIM, one) == 0
    network.answers = cycle([two])
    assert await connections(AIM, two) == 1, "another certificate"
    for changed in (
        Aim(AIM.address, "other", AIM.anchors, 3),
        Aim(AIM.address, HUB, (CA.root, pki.root("b").certificate), 4),
        Aim(Address("127.0.0.1", 2), HUB, AIM.anchors, 3),
    ):
        assert await connections(changed, two) == 1
    assert await connections(changed, two) == 0
    await clock.advance(30.0)
    assert await connections(changed, two) == 1, "from time to time"


async def test_a_signer_that_no_connection_meets_is_not_proved() -> None:
    one, two = served(number=1), served(number=2)
    network, arrival = Network([one]), ListenerCheck(VirtualClock(pki.NOW))
    signers = [signer("one", one, CA.certificate), signer("two", two, CA.certificate)]
    report = await arrival.prove(AIM, signers, interval=30.0, greet=network.greet)
    assert states(report) == {"one": "proved", "two": "not_met"}
    assert network.connections == EACH * 2
    (found,) = (listener for listener in report.signers if listener.replica == "two")
    assert "taken by another signer" in found.detail
    many = [signer(f"s{n}", served(number=n), CA.certificate) for n in range(20)]
    report = await arrival.prove(AIM, many, interval=30.0, greet=Network([OSError("down")]).greet)
    assert report.connections == MOST_CONNECTIONS
    assert set(states(report).values()) == {"not_met"}


@pytest.mark.parametrize(
    ("shown", "reported"),
    [
        (served("other.example"), f"agents verify it for {HUB}, and it is for other.example"),
        (served(ca=pki.intermediate("z1", pki.root("z"))), "no path to an anchor"),
    ],
)
async def test_a_certificate_that_mesh_agents_refuse_is_refused_even_if_the_connection_succeeds(
    shown: Certificate, reported: str
) -> None:
    arrival = ListenerCheck(VirtualClock(pki.NOW))
    report = await arrival.prove(
        AIM, [signer("one", shown, CA.certificate)], interval=30.0, greet=Network([shown]).greet
    )
    assert states(report) == {"one": "refused"}
    assert reported in report.signers[0].detail


async def test_an_expired_one_is_refused_and_one_that_new_connections_refuse_as_well() -> None:
    clock, shown = VirtualClock(pki.NOW), served()
    arrival, refusal = ListenerCheck(clock), ssl.SSLCertVerificationError("refused")
    refusal.verify_message, refusal.verify_code = "permitted subtree violation", 47
    report = await arrival.prove(
        AIM, [signer("one", shown, CA.certificate)], interval=30.0, greet=Network([refusal]).greet
    )
    assert states(report) == {"one": "refused"}
    assert "permitted subtree violation" in report.signers[0].detail
    await clock.advance(timedelta(hours=2).total_seconds())
    report = await arrival.prove(
        AIM, [signer("one", shown, CA.certificate)], interval=30.0, greet=Network([shown]).greet
    )
    assert "expired" in report.signers[0].detail


async def test_a_signer_that_does_not_report_its_listener_certificate_is_not_proved() -> None:
    arrival = ListenerCheck(VirtualClock(pki.NOW))
    report = await arrival.prove(AIM, [signer("one")], interval=30.0, greet=Network([served()]).greet)
    assert states(report) == {"one": "not_met"}
    assert "does not report" in report.signers[0].detail


@settings(max_examples=100, deadline=None)
@given(data=st.data())
async def test_proved_is_only_what_a_connection_of_this_round_has_met(data: st.DataObject) -> None:
    listeners = [served(number=n) for n in range(3)]
    answers: list[Certificate | Exception] = [*listeners, OSError("down")]
    met = data.draw(st.lists(st.sampled_from(answers), min_size=1, max_size=6))
    signers = [signer(f"s{n}", listener, CA.certificate) for n, listener in enumerate(listeners)]
    report = await ListenerCheck(VirtualClock(pki.NOW)).prove(
        AIM, signers, interval=30.0, greet=Network(met).greet
    )
    for listener in report.signers:
        assert (listener.state == "proved") is any(
            isinstance(answer, Certificate) and answer.sha256 == listener.sha256 for answer in met
        )


async def test_a_new_listener_certificate_that_callers_refuse_is_found_despite_an_open_channel(
    one: World,
) -> None:
    """With a real controller and real TLS; callers that are already connected notice nothing."""
    one.proof_interval = 0.5
    one.write_config()

    async def reported() -> None:
        await one.report_signer()

    await reported()
    async with one.controller():
        await one.until(lambda r: [d.state for d in r.listener.signers] == ["proved"])
        calls = len(one.listener.calls)
        one.listener.show(intermediate(), "other.example")
        await reported()
        await one.until(
            lambda r: any("it is for other.example" in each.detail for each in r.listener.signers)
        )
        one.listener.show(pki.intermediate("unpinned", root("unpinned")))
        await reported()
        await one.until(lambda r: any("no path to an anchor" in each.detail for each in r.listener.signers))
        one.listener.show(intermediate())
        await reported()
        await one.until(lambda r: [d.state for d in r.listener.signers] == ["proved"])
        assert len(one.listener.calls) >= calls
