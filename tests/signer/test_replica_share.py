"""How signers share a back end's quota, and what is remembered of the certificates that callers hold."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from federation.core.documents.encoding import encode
from federation.core.documents.signer import AuthorityReport, SignerReport
from federation.signer import accounting
from federation.signer.accounting import Renewals
from federation.signer.authorities.limiter import ReplicaShare
from federation.state.files import FileStore
from tests.support import pki
from tests.support.clock import VirtualClock


def report(replica: str, clock: VirtualClock, *, age: float = 0.0, authority: str = "vault") -> bytes:
    return encode(
        SignerReport(
            replica=replica,
            started=0.0,
            updated=clock.now().timestamp() - age,
            heartbeat=2.0,
            ready=True,
            authority=AuthorityReport(name=authority, kind="vault", state="ready"),
        )
    )


async def test_each_takes_its_part_of_a_quota_that_all_share(tmp_path: Path) -> None:
    clock = VirtualClock(pki.NOW)
    store = FileStore(tmp_path, clock)
    replicas = ReplicaShare(store, replica="a", clock=clock, expected=4)
    assert replicas.share("vault") == 1 / 4, "those that start beside it, until they were counted"
    await store.write("signers/a", report("a", clock))
    await replicas.count(["vault"])
    assert replicas.share("vault") == 1
    await store.write("signers/b", report("b", clock))
    await store.write("signers/gone", report("gone", clock, age=7.0))
    await store.write("signers/other", report("other", clock, authority="another"))
    await replicas.count(["vault"])
    assert replicas.share("vault") == 1 / 2


async def test_a_successor_is_shared_as_well(tmp_path: Path) -> None:
    clock = VirtualClock(pki.NOW)
    store = FileStore(tmp_path, clock)
    replicas = ReplicaShare(store, replica="a", clock=clock, expected=1)
    rotating = SignerReport(
        replica="b",
        started=0.0,
        updated=clock.now().timestamp(),
        heartbeat=2.0,
        ready=True,
        authority=AuthorityReport(name="vault", kind="vault", state="ready"),
        successor=AuthorityReport(name="next", kind="vault", state="ready"),
    )
    await store.write("signers/b", encode(rotating))
    await store.write("signers/c", report("c", clock, authority="next"))
    await replicas.count(["vault", "next", "unused"])
    assert [replicas.share(name) for name in ("vault", "next", "unused")] == [1 / 2, 1 / 3, 1]


async def test_a_damaged_report_counts_and_a_store_that_fails_changes_nothing(tmp_path: Path) -> None:
    clock = VirtualClock(pki.NOW)
    store = FileStore(tmp_path, clock)
    replicas = ReplicaShare(store, replica="a", clock=clock, expected=1)
    await store.write("signers/b", report("b", clock))
    await store.write("signers/c", b"garbage")
    await replicas.count(["vault"])
    assert replicas.share("vault") == 1 / 3
    documents = tmp_path / "documents"
    documents.rename(tmp_path / "away")
    documents.write_text("no directory")
    await replicas.count(["vault"])
    assert replicas.share("vault") == 1 / 3


def test_what_a_caller_holds_is_known_until_it_is_forgotten() -> None:
    memory = Renewals(timedelta(hours=24))
    first = ("east", "shop/cart", "cart-0")
    assert memory.end_of(first) is None
    memory.issued(first, at=pki.NOW, not_after=pki.NOW + timedelta(hours=1))
    assert memory.end_of(first) == pki.NOW + timedelta(hours=1)
    assert memory.end_of(("west", "shop/cart", "cart-0")) is None
    for number in range(accounting.MOST):
        memory.issued(("east", "x", str(number)), at=pki.NOW, not_after=pki.NOW + timedelta(hours=1))
    assert memory.end_of(first) is None
    assert abs(memory.lifetime - 3600) < 1


def test_no_member_makes_another_s_callers_be_forgotten_or_their_leaves_seem_short() -> None:
    """Promise 7: a hostile member that asks for ever more changes nothing of what is known of others."""
    memory = Renewals(timedelta(hours=24), most=100)
    honest = [("east", "shop/cart", f"cart-{number}") for number in range(50)]
    for caller in honest:
        memory.issued(caller, at=pki.NOW, not_after=pki.NOW + timedelta(hours=24))
    for number in range(2_000):
        memory.issued(("west", "x", str(number)), at=pki.NOW, not_after=pki.NOW + timedelta(seconds=60))
    assert all(memory.end_of(caller) is not None for caller in honest)
    assert sum(memory.end_of(("west", "x", str(number))) is not None for number in range(2_000)) == 50
    assert memory.lifetime > timedelta(hours=12).total_seconds(), "each member counts once"
