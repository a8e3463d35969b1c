"""Which pods hold certificates, known by every signer whichever of them issued, or said not to be known."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import StateDamaged
from federation.core.documents.signer import (
    CallersOfCluster,
    CallersTable,
    ExpiryBound,
    ExpiryBoundTable,
    SignerReport,
)
from federation.signer.attestation.token_keys import KeyClaims
from federation.signer.callers import (
    DIGEST,
    KEPT,
    MOST_PODS,
    Callers,
    SharedCallers,
    digest_of,
    packed,
    unpacked,
)
from federation.state.files import FileStore
from federation.state.kubernetes_documents import pack
from federation.state.record import MAX_DATA_BYTES
from tests.support.clock import VirtualClock

EAST = "east"
LIFE = 3600.0


@dataclass
class Signer:
    """The part of a signer that keeps callers; its expiry bound and its report are written as the real ones are."""

    store: FileStore
    clock: VirtualClock
    replica: str
    callers: Callers = field(default_factory=Callers)
    reach: float = 0.0

    def __post_init__(self) -> None:
        self.shared = SharedCallers(
            self.store,
            replica=self.replica,
            clock=self.clock,
            callers=self.callers,
            usual_life=lambda: LIFE,
        )

    async def report(self) -> None:
        now = self.clock.now().timestamp()
        report = SignerReport(replica=self.replica, started=now, updated=now, heartbeat=2.0, ready=True)
        await self.store.write(f"signers/{self.replica}", encode(report))

    async def share(self) -> None:
        await self.report()
        await self.shared.share()
        assert self.shared.problem is None

    async def issue(self, pod: str) -> float:
        """Issue a certificate, its bound written ahead; returns when it ends."""
        now = self.clock.now()
        not_after = now + timedelta(seconds=LIFE)
        rows = [
            ExpiryBound(cluster=EAST, issuer="1", generation=1, until=not_after.timestamp() + 60),
        ]
        await self.store.write(
            f"horizons/{self.replica}", encode(ExpiryBoundTable(replica=self.replica, rows=rows))
        )
        self.callers.issued(EAST, pod, at=now, not_after=not_after)
        return not_after.timestamp()

    async def stop(self) -> None:
        await self.shared.close()
        await self.store.delete(f"signers/{self.replica}")

    def knows(self, pod: str) -> int:
        own, others = self.callers.ends(EAST)
        return max(own.get(digest_of(pod), 0), others.get(digest_of(pod), 0))

    def may_miss_pods(self) -> bool:
        return self.callers.known_from(EAST) > self.clock.now().timestamp()


@pytest.fixture
def signers(tmp_path: Path) -> dict[str, Signer]:
    clock = VirtualClock()
    store = FileStore(tmp_path, clock)
    return {name: Signer(store, clock, name) for name in ("one", "two")}


async def test_what_one_has_issued_the_other_knows(signers: dict[str, Signer]) -> None:
    one, two = signers["one"], signers["two"]
    await one.share()
    ends = await one.issue("a")
    await one.share()
    await two.share()
    assert two.knows("a") == pytest.approx(ends, abs=1)
    assert two.knows("b") == 0
    assert not two.may_miss_pods()


async def test_a_new_hub_knows_everything_from_its_first_moment(signers: dict[str, Signer]) -> None:
    await signers["one"].share()
    assert not signers["one"].may_miss_pods()


async def test_one_that_ended_in_good_order_leaves_no_doubt(signers: dict[str, Signer]) -> None:
    one, two = signers["one"], signers["two"]
    await one.share()
    await one.issue("a")
    await one.stop()
    again = Signer(one.store, one.clock, "one")
    await again.share()
    await two.share()
    for signer in (again, two):
        assert signer.knows("a")
        assert not signer.may_miss_pods()


async def test_after_a_kill_it_is_in_doubt_who_holds_one_for_as_long_as_any_may(
    signers: dict[str, Signer],
) -> None:
    one, two = signers["one"], signers["two"]
    await one.share()
    await one.issue("a")  # and killed before it was written
    await two.share()
    assert not two.may_miss_pods(), "its report is new, so it counts as alive, and writes soon"
    await one.clock.advance(60)
    await two.share()
    again = Signer(one.store, one.clock, "one")
    await again.share()
    assert two.may_miss_pods()
    assert again.may_miss_pods()
    await one.clock.advance(LIFE + 60)
    for signer in (two, again):
        await signer.share()
        assert not signer.may_miss_pods()


async def test_a_signer_of_a_release_without_tables_leaves_it_in_doubt(signers: dict[str, Signer]) -> None:
    one, two = signers["one"], signers["two"]
    await one.issue("a")
    await two.share()
    assert two.may_miss_pods()


async def test_what_a_signer_that_is_gone_knew_outlives_its_document(signers: dict[str, Signer]) -> None:
    one, two = signers["one"], signers["two"]
    await one.share()
    await one.issue("a")
    await one.stop()
    await two.share()
    await one.store.delete("callers/one")
    await one.store.delete("horizons/one")
    await two.share()
    assert two.knows("a")
    again = Signer(one.store, one.clock, "two")
    await again.share()
    assert again.knows("a")


async def test_a_damaged_table_leaves_it_in_doubt_and_stops_nothing(signers: dict[str, Signer]) -> None:
    one, two = signers["one"], signers["two"]
    await one.share()
    await one.issue("a")
    await one.share()
    await one.store.write("callers/one", b"garbage")
    await two.share()
    assert two.may_miss_pods()


async def test_bounds_of_another_that_are_damaged_leave_all_in_doubt_and_stop_nothing(
    signers: dict[str, Signer],
) -> None:
    """Promise 5: a signer that starts goes on to share what it knows and to learn whose token keys are whose."""
    one, two = signers["one"], signers["two"]
    await one.share()
    await one.issue("a")
    await one.share()
    reach = await one.store.read("horizons/one")
    assert reach is not None
    await one.clock.advance(60)  # it was killed
    await one.store.write("horizons/one", b"garbage")
    claims = KeyClaims()
    two.shared = SharedCallers(
        two.store, replica="two", clock=two.clock, callers=two.callers, usual_life=lambda: LIFE, claims=claims
    )
    for _ in range(2):
        await two.share()
        assert two.knows("a")
        assert two.may_miss_pods()
        assert two.callers.known_from("a cluster of no table") > two.clock.now().timestamp()
        assert claims.open
    await one.store.write("horizons/one", reach.data)
    await two.clock.advance(LIFE + 120)
    await two.share()
    assert not two.may_miss_pods()


async def test_a_pod_is_forgotten_once_it_is_gone_or_another_signer_knows_better(
    signers: dict[str, Signer],
) -> None:
    one, two = signers["one"], signers["two"]
    live = frozenset({digest_of("a"), digest_of("b")})

    async def later() -> None:
        await one.clock.advance(61)
        for signer in (one, two):
            await signer.report()
        for signer in (one, two):
            await signer.share()
            signer.callers.prune(EAST, live, one.clock.now().timestamp())

    await one.share()
    for pod in ("a", "b", "c"):
        await one.issue(pod)
    await later()
    assert one.knows("c"), "it may be newer than the watch"
    await two.issue("b")
    for _ in range(3):
        await later()
    own, others = one.callers.ends(EAST)
    assert set(own) == {digest_of("a")}
    assert set(others) == {digest_of("b")}
    assert one.knows("b") == two.knows("b") > one.knows("a")
    assert one.knows("c") == 0


def test_without_a_watch_what_has_ended_long_ago_is_forgotten() -> None:
    callers, clock = Callers(), VirtualClock()
    now = clock.now()
    callers.issued(EAST, "a", at=now, not_after=now + timedelta(seconds=LIFE))
    for later in (LIFE + 61, LIFE + 122, LIFE + KEPT - 1):
        callers.prune(EAST, None, now.timestamp() + later)
        assert callers.ends(EAST)[0]
    callers.prune(EAST, None, now.timestamp() + LIFE + KEPT + 61)
    assert not callers.ends(EAST)[0]


def test_a_full_table_says_from_when_on_it_is_complete_again() -> None:
    callers, clock = Callers(), VirtualClock()
    now = clock.now()
    ends = now + timedelta(seconds=LIFE)
    for number in range(MOST_PODS):
        callers.issued(EAST, f"pod-{number}", at=now, not_after=ends)
    assert callers.known_from(EAST) == 0
    callers.issued(EAST, "one-more", at=now, not_after=ends)
    assert callers.known_from(EAST) == ends.timestamp()
    data = encode(callers.table("one", closed=False))
    assert len(data) < MAX_DATA_BYTES
    pack("callers/one", "0" * 32, data)  # raises where a ConfigMap cannot hold it


def test_others_that_know_of_too_many_leave_it_in_doubt() -> None:
    callers = Callers()
    tables = [{EAST: (dict.fromkeys(range(k * MOST_PODS, (k + 1) * MOST_PODS), 5000), 0.0)} for k in range(2)]
    callers.learn(tables, {})
    assert len(callers.ends(EAST)[1]) == MOST_PODS
    assert callers.known_from(EAST) == 5000


def test_one_member_cannot_use_up_what_the_others_need() -> None:
    """A hostile member attests as many pods as it likes. What the others hold stays known."""
    callers, now = Callers(), VirtualClock().now()
    ends = now + timedelta(seconds=LIFE)
    for number in range(MOST_PODS + 10):
        callers.issued("west", f"pod-{number}", at=now, not_after=ends)
    for number in range(3000):
        callers.issued(EAST, f"pod-{number}", at=now, not_after=ends)
    assert len(callers.ends(EAST)[0]) == 3000
    assert (callers.known_from(EAST), callers.known_from("west")) == (0, ends.timestamp())
    table = callers.table("one", closed=False)
    assert sum(map(len, (known for known, _ in unpacked(table, key="callers/one").values()))) <= MOST_PODS

    other = Callers()
    west = dict.fromkeys(range(MOST_PODS), 5000)
    east = dict.fromkeys(range(3000), 4000)
    for tables in ([{"west": (west, 0.0)}, {EAST: (east, 0.0)}], [{"west": (west, 0.0), EAST: (east, 0.0)}]):
        other.learn(tables, {})
        assert len(other.ends(EAST)[1]) == 3000
        assert (other.known_from(EAST), other.known_from("west")) == (0, 5000)
        assert len(other.ends(EAST)[1]) + len(other.ends("west")[1]) <= MOST_PODS


@given(st.dictionaries(st.integers(0, 2 ** (8 * DIGEST) - 1), st.integers(0, 2**32 - 1), max_size=20))
def test_what_is_packed_is_read_again(pods: dict[int, int]) -> None:
    table = decode(
        encode(CallersTable(replica="x", clusters={EAST: packed(pods, 7.5)})), CallersTable, key="x"
    )
    assert unpacked(table, key="x") == {EAST: (pods, 7.5)}


@pytest.mark.parametrize(
    "table",
    [
        {"../x": CallersOfCluster()},
        {EAST: CallersOfCluster(pods=b"12345")},
        {EAST: CallersOfCluster(ends=b"1234")},
        {EAST: CallersOfCluster(pods=b"1234", ends=b"1234")},
        {EAST: CallersOfCluster(known_from=1e300)},
        {EAST: CallersOfCluster(pods=bytes(5 * (MOST_PODS + 1)), ends=bytes(4 * (MOST_PODS + 1)))},
    ],
)
def test_what_cannot_be_a_table_is_damaged(table: dict[str, CallersOfCluster]) -> None:
    with pytest.raises(StateDamaged):
        unpacked(CallersTable(replica="x", clusters=table), key="callers/x")


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["issue", "share", "kill", "stop", "wait", "remove"]),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(EVENTS)
def test_no_pod_that_holds_a_certificate_is_taken_for_one_that_holds_none(
    events: list[tuple[str, int, int]],
) -> None:
    """Whatever is killed and whenever: once a signer has read, it knows each certificate, or that it may miss one."""

    async def run(directory: Path) -> None:
        clock = VirtualClock()
        store = FileStore(directory, clock)
        signers = {number: Signer(store, clock, f"signer-{number}") for number in range(3)}
        alive: dict[str, float] = {}
        down: set[int] = set()
        for signer in signers.values():
            await signer.share()
        for event, which, pod in events:
            signer = signers[which]
            match event:
                case "issue" if signer.callers.open and which not in down:
                    alive[f"pod-{pod}"] = await signer.issue(f"pod-{pod}")
                case "share":
                    await signer.share()
                    down.discard(which)
                case "kill" | "stop":
                    if event == "stop":
                        await signer.stop()
                    signers[which] = Signer(store, clock, signer.replica)
                    down.add(which)
                case "wait":
                    await clock.advance((5.0, 70.0, 900.0)[which])
                case "remove":  # what the leader removes, by the same rule
                    stored = await store.read(f"horizons/signer-{which}")
                    if stored is not None and all(
                        row.until + KEPT < clock.now().timestamp()
                        for row in decode(stored.data, ExpiryBoundTable, key="x").rows
                    ):
                        await store.delete(f"horizons/signer-{which}")
        await clock.advance(10.0)  # longer than a report counts: one that was killed is seen to be gone
        for number in sorted({*signers} - down - {0}):
            await signers[number].share()
        looking = signers[0]
        await looking.share()
        now = clock.now().timestamp()
        for name, ends in alive.items():
            if ends > now:
                assert looking.knows(name) >= ends - 1 or looking.callers.known_from(EAST) >= ends, events

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))
