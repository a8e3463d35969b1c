"""Sources of trust: a failing one never makes the bundle smaller, and nothing unpinned gets in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from federation.controller.sources.anchors import (
    OK,
    FileContent,
    Gathered,
    SourceFiles,
    combine,
    gather_pins,
    plan_bundle,
)
from federation.controller.sources.bundle import gather_intermediates, reported_chains
from federation.controller.sources.found_anchors import MOST_OF_A_CLUSTER, MOST_OF_ONE, MOST_PEM, Proposals
from federation.core.config.hub import AnchorPin
from federation.core.documents.encoding import encode
from federation.core.documents.signer import AuthorityReport, SignerReport
from federation.core.documents.trust import Dismissal, Proposal
from federation.core.identity import ClusterName, TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import private_key_pem
from federation.core.rotation.record import OperationRefused
from federation.core.trust.bundle import Anchor, TrustBundle
from federation.state.files import FileStore
from tests.support import pki
from tests.support.clock import VirtualClock

DOMAIN = TrustDomain("mesh.example")
NAMES = ("a", "b", "c")
DAMAGE = ("vanished", "empty", "cut", "another", "garbage", "key")


def pin(name: str, **options: object) -> AnchorPin:
    certificate = pki.root(name).certificate
    return AnchorPin(
        file=Path(f"{name}.pem"),
        sha256=certificate.sha256,
        trust_domain=DOMAIN,
        **options,  # type: ignore[arg-type]
    )


def damaged(name: str, how: str) -> FileContent:
    whole = pki.root(name).pem
    match how:
        case "vanished":
            return FileContent(problem="it cannot be read: No such file or directory")
        case "empty":
            return FileContent(b"")
        case "cut":
            return FileContent(whole[: len(whole) // 2])
        case "another":
            return FileContent(pki.root("stranger").pem)
        case "key":
            return FileContent(whole + private_key_pem(pki.root(name).key))
        case _:
            return FileContent(b"\x00\xff not PEM")


def good(name: str) -> FileContent:
    return FileContent(pki.root(name).pem)


def names_of(bundle: TrustBundle | None) -> set[str]:
    assert bundle is not None
    by_fingerprint = {pki.root(name).certificate.sha256: name for name in (*NAMES, "stranger")}
    return {by_fingerprint[certificate.sha256] for certificate in bundle.certificates}


def test_a_good_file_gives_its_anchor_with_its_provenance() -> None:
    gathered = gather_pins([pin("a")], {Path("a.pem"): good("a")}, {})
    (anchor,) = gathered.anchors
    assert (anchor.kind, anchor.cluster, str(anchor.trust_domain)) == ("root", None, "mesh.example")
    assert "a.pem" in anchor.origin
    assert dict(gathered.sources) == {"a.pem": OK}


def test_a_pin_of_many_clusters_names_the_first_few() -> None:
    many = pin("b", clusters=tuple(ClusterName(f"c{n}") for n in range(5)))
    (anchor,) = gather_pins([many], {Path("b.pem"): good("b")}, {}).anchors
    assert (anchor.kind, anchor.cluster) == ("accepted", "c0, c1, c2, 2 more")


def test_a_pin_with_a_cluster_is_an_accepted_anchor_of_it() -> None:
    accepted = pin("b", clusters=(ClusterName("east"),), allow_foreign_trust_domain=True)
    gathered = gather_pins([accepted], {Path("b.pem"): good("b")}, {})
    (anchor,) = gathered.anchors
    assert (anchor.kind, anchor.cluster, anchor.foreign_override) == ("accepted", "east", True)


def test_several_pins_may_share_a_file() -> None:
    both = FileContent(pki.root("a").pem + pki.root("b").pem)
    pins = [pin("a"), AnchorPin(file=Path("a.pem"), sha256=pin("b").sha256, trust_domain=DOMAIN)]
    gathered = gather_pins(pins, {Path("a.pem"): both}, {})
    assert len(gathered.anchors) == 2
    assert list(gathered.sources.values()) == [OK, OK]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_keeps_the_last_known_good_and_says_so(how: str) -> None:
    known = {pki.root("a").certificate.sha256: pki.root("a").certificate}
    gathered = gather_pins([pin("a")], {Path("a.pem"): damaged("a", how)}, known)
    assert [anchor.certificate for anchor in gathered.anchors] == [pki.root("a").certificate]
    assert "the last known good stays" in gathered.sources["a.pem"]
    assert not gathered.lacking


@pytest.mark.parametrize("how", DAMAGE)
def test_an_anchor_that_was_never_read_is_lacking(how: str) -> None:
    gathered = gather_pins([pin("a")], {Path("a.pem"): damaged("a", how)}, {})
    assert gathered.lacking == ("a.pem",)
    plan = plan_bundle(gathered, None)
    assert plan.bundle is None
    assert plan.withheld is not None
    assert "a.pem" in plan.withheld


def test_a_pinned_certificate_that_is_no_root_is_refused() -> None:
    certificate = pki.intermediate().certificate
    wrong = AnchorPin(file=Path("i.pem"), sha256=certificate.sha256, trust_domain=DOMAIN)
    gathered = gather_pins([wrong], {Path("i.pem"): FileContent(certificate.pem)}, {})
    assert not gathered.anchors
    assert "self-signed" in gathered.sources["i.pem"]


def test_a_root_is_not_replaced_by_one_whose_file_cannot_be_read() -> None:
    before = TrustBundle.merge(
        gather_pins([pin("a"), pin("c")], {Path(f"{n}.pem"): good(n) for n in "ac"}, {}).anchors
    )
    pins = [pin("b"), pin("c")]
    known = {certificate.sha256: certificate for certificate in before.certificates}
    gathered = gather_pins(pins, {Path("b.pem"): damaged("b", "vanished"), Path("c.pem"): good("c")}, known)
    plan = plan_bundle(gathered, before)
    assert plan.bundle is None
    assert plan.withheld is not None
    assert "stays until every pinned anchor was read" in plan.withheld
    mended = gather_pins(pins, {Path("b.pem"): good("b"), Path("c.pem"): good("c")}, known)
    both = plan_bundle(mended, before).bundle
    assert names_of(both) == {"a", "b", "c"}, "first every cluster trusts more, then less"
    assert names_of(plan_bundle(mended, both).bundle) == {"b", "c"}


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.sampled_from(NAMES), min_size=1),
    st.lists(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(DAMAGE)), max_size=6),
    st.booleans(),
)
def test_the_bundle_never_shrinks_by_failing_sources(
    first: set[str], failures: list[dict[str, str]], restarts: bool
) -> None:
    """However sources fail, one after the other, all pins stay in the bundle once they were in it."""
    pins = [pin(name) for name in sorted(NAMES)]
    in_force: TrustBundle | None = TrustBundle.merge(
        gather_pins([pin(n) for n in first], {Path(f"{n}.pem"): good(n) for n in first}, {}).anchors
    )
    memory: dict[str, Certificate] = {}
    for failing in failures:
        assert in_force is not None
        contents = {Path(f"{n}.pem"): damaged(n, failing[n]) if n in failing else good(n) for n in NAMES}
        known = {certificate.sha256: certificate for certificate in in_force.certificates}
        gathered = gather_pins(pins, contents, known if restarts else memory | known)
        memory = {anchor.certificate.sha256: anchor.certificate for anchor in gathered.anchors}
        plan = plan_bundle(gathered, in_force)
        before = names_of(in_force)
        if plan.bundle is not None:
            assert before <= names_of(plan.bundle) <= set(NAMES)
            assert set(NAMES) - set(failing) <= names_of(plan.bundle)
            in_force = plan.bundle


def test_intermediates_get_in_only_below_a_pinned_root() -> None:
    anchors = gather_pins([pin("a")], {Path("a.pem"): good("a")}, {}).anchors
    own, strange = pki.intermediate(), pki.intermediate("s1", pki.root("stranger"))

    def gather(content: FileContent, known: tuple[Certificate, ...] = ()) -> Gathered:
        return gather_intermediates(
            "chain.pem", content, anchors=anchors, known=known, trust_domain=DOMAIN, at=pki.NOW
        )

    fine = gather(FileContent(own.chain_pem + own.root.pem))
    assert [anchor.certificate for anchor in fine.anchors] == [own.certificate]
    assert fine.anchors[0].kind == "intermediate"
    refused = gather(FileContent(strange.chain_pem))
    assert not refused.anchors
    assert "none was known before" in refused.sources["chain.pem (intermediates)"]
    kept = gather(FileContent(strange.chain_pem), (own.certificate, strange.certificate))
    assert [anchor.certificate for anchor in kept.anchors] == [own.certificate]
    assert not kept.lacking
    plan = plan_bundle(combine(gather_pins([pin("a")], {Path("a.pem"): good("a")}, {}), fine), None)
    assert plan.bundle is not None
    assert len(plan.bundle.anchors) == 2


def test_an_intermediate_goes_out_with_its_root() -> None:
    own = pki.intermediate()
    anchors = gather_pins([pin("b")], {Path("b.pem"): good("b")}, {}).anchors
    gathered = gather_intermediates(
        "chain.pem",
        FileContent(problem="it cannot be read"),
        anchors=anchors,
        known=(own.certificate,),
        trust_domain=DOMAIN,
        at=pki.NOW,
    )
    assert not gathered.anchors


@pytest.mark.parametrize("damage", ["garbage", "cut", "down"])
async def test_chains_that_signers_report_are_all_of_them_or_a_problem(tmp_path: Path, damage: str) -> None:
    store = FileStore(tmp_path, VirtualClock())
    assert "no signer" in (await reported_chains(store)).problem
    for name in ("a", "b"):
        authority = AuthorityReport(
            name=name, kind="local", state="ready", chain_pem=pki.intermediate(name).chain_pem.decode()
        )
        report = SignerReport(
            replica=name, started=0.0, updated=0.0, heartbeat=2.0, ready=True, authority=authority
        )
        await store.write(f"signers/{name}", encode(report))
    both = pki.intermediate("a").chain_pem + pki.intermediate("b").chain_pem
    assert await reported_chains(store) == FileContent(both)
    if damage == "garbage":
        await store.write("signers/b", b"garbage")
    elif damage == "cut":
        (tmp_path / "documents" / "signers@b").write_bytes(b"cut")
    else:
        (tmp_path / "documents").rename(tmp_path / "elsewhere")
    found = await reported_chains(store)
    assert found.data == b"", "half of them would take the other half out of the bundle"
    assert found.problem


async def test_files_are_read_whole_and_failures_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(pki.root("a").pem)
    (tmp_path / "large.pem").write_bytes(b"\n" * (1024 * 1024 + 1))
    paths = [tmp_path / name for name in ("a.pem", "large.pem", "missing.pem", ".")]
    found = await SourceFiles().read(paths)
    assert found[paths[0]] == FileContent(pki.root("a").pem)
    assert "larger than" in found[paths[1]].problem
    assert "No such file" in found[paths[2]].problem
    assert "directory" in found[paths[3]].problem


def test_what_clusters_hold_becomes_proposals_and_nothing_else() -> None:
    proposals = Proposals()
    own = pki.root("stranger")
    pem = own.pem + pki.intermediate("s1", own).pem + pki.root("a").pem
    proposals.note_content("east", pem, where="shop", now=1.0)
    proposals.note_content("east", pem, where="bank", now=2.0)
    proposals.note_content("east", b"not PEM", where="shop", now=3.0)
    found = proposals.open(pins=frozenset({pki.root("a").certificate.sha256}), clusters=["east"])
    assert [(p.sha256, p.first_seen, p.origin) for p in found] == [(own.certificate.sha256, 1.0, "shop")]
    assert found[0].pem == own.pem.decode(), "the certificate itself is needed to accept it"
    assert proposals.open(pins=frozenset(), clusters=["west"]) == []


@pytest.mark.parametrize("odd", [pki.root("b").pem.replace(b"M", b"!", 1), pki.root("b").pem[40:]])
def test_an_anchor_is_proposed_though_something_odd_stands_before_it(odd: bytes) -> None:
    """Agents, which are written in Go, trust what comes behind it."""
    proposals = Proposals()
    assert proposals.note_content("east", odd + pki.root("a").pem, where="shop", now=1.0) is None
    found = proposals.open(pins=frozenset(), clusters=["east"])
    assert [p.sha256 for p in found] == [pki.root("a").certificate.sha256]


def test_one_that_was_pinned_is_proposed_again_only_where_it_is_found_again() -> None:
    proposals = Proposals()
    own = pki.root("stranger")
    proposals.note_content("east", own.pem, where="shop", now=1.0)
    pins = frozenset({own.certificate.sha256})
    assert proposals.open(pins=frozenset(), clusters=["east"])
    assert proposals.open(pins=pins, clusters=["east"]) == []
    assert proposals.open(pins=frozenset(), clusters=["east"]) == []
    proposals.note_content("east", own.pem, where="shop", now=9.0)
    assert [p.first_seen for p in proposals.open(pins=frozenset(), clusters=["east"])] == [9.0]


def test_what_an_earlier_version_remembered_gets_its_certificate() -> None:
    first, later = Proposals(), Proposals()
    first.note_content("east", pki.root("stranger").pem, where="shop", now=1.0)
    (found,) = first.open(pins=frozenset(), clusters=["east"])
    later.remember([replace(found, pem="")])
    later.note_content("east", pki.root("stranger").pem, where="shop", now=2.0)
    assert later.open(pins=frozenset(), clusters=["east"]) == [found]


def test_certificates_of_proposals_stay_within_what_a_report_holds() -> None:
    proposals = Proposals()
    proposals.remember(
        Proposal(
            sha256=f"{number:064}",
            subject="x",
            cluster=f"c{number}",
            origin="shop",
            not_after=1.0,
            pem="p" * (MOST_OF_ONE + (number == 0)),
        )
        for number in range(40)
    )
    found = proposals.open(pins=frozenset(), clusters=[f"c{number}" for number in range(40)])
    assert len(found) == 40
    assert sum(len(proposal.pem) for proposal in found) == MOST_PEM
    assert not next(proposal for proposal in found if proposal.cluster == "c0").pem


def test_a_cluster_cannot_flood_the_proposals() -> None:
    proposals = Proposals()
    for number in range(MOST_OF_A_CLUSTER + 5):
        proposals.note_content("east", pki.root(f"flood {number}").pem, where="shop", now=1.0)
    proposals.note_content("west", pki.root("a").pem, where="shop", now=1.0)
    found = proposals.open(pins=frozenset(), clusters=["east", "west"])
    assert len([p for p in found if p.cluster == "east"]) == MOST_OF_A_CLUSTER
    assert len([p for p in found if p.cluster == "west"]) == 1


def test_a_flood_of_certificates_leaves_the_other_clusters_theirs() -> None:
    proposals = Proposals()
    proposals.remember(
        Proposal(
            sha256=f"{number:064}", subject="x", cluster="a", origin="s", not_after=1.0, pem="p" * MOST_OF_ONE
        )
        for number in range(MOST_OF_A_CLUSTER)
    )
    proposals.note_content("west", pki.root("a").pem, where="shop", now=1.0)
    found = proposals.open(pins=frozenset(), clusters=["a", "west"])
    assert next(p for p in found if p.cluster == "west").pem
    assert sum(len(p.pem) for p in found) <= MOST_PEM


def hub_holds(places: set[str]) -> Callable[[str], bool]:
    return lambda place: place in places


def test_what_the_hub_wrote_over_stays_and_what_was_taken_back_goes() -> None:
    proposals = Proposals()
    own, rogue = (pki.root(name).certificate.sha256 for name in ("stranger", "rogue"))
    proposals.note_content("east", pki.root("stranger").pem, where="", place="shop", now=1.0)
    proposals.note_content("east", pki.root("rogue").pem, where="", place="shop", now=1.0)
    proposals.note_content("east", pki.root("rogue").pem, where="", place="bank", now=2.0)

    def listed() -> set[str]:
        return {p.sha256 for p in proposals.open(pins=frozenset(), clusters=["east"])}

    proposals.settle("east", frozenset({own}), hides=hub_holds({"bank"}))
    assert listed() == {own, rogue}
    proposals.settle("east", frozenset(), hides=hub_holds({"bank"}))
    assert listed() == {rogue}, "the hub wrote over it in one namespace"
    proposals.settle("west", frozenset(), hides=hub_holds(set()))
    assert listed() == {rogue}, "another cluster says nothing of it"
    proposals.settle("east", frozenset(), hides=hub_holds(set()))
    assert listed() == set()


def dismissal(sha256: str, operation: str = "1") -> Dismissal:
    return Dismissal(sha256=sha256, author="ops", at=5.0, reason="ours, gone", operation=operation)


def test_dismissed_is_dismissed_until_it_has_been_away() -> None:
    proposals = Proposals()
    sha256 = pki.root("stranger").certificate.sha256
    for cluster in ("east", "west"):
        proposals.note_content(cluster, pki.root("stranger").pem, where="", place="shop", now=1.0)

    def listed() -> list[str]:
        return [p.cluster for p in proposals.open(pins=frozenset(), clusters=["east", "west"])]

    assert proposals.dismiss(dismissal(sha256), cluster="east") == ["east"]
    assert proposals.dismiss(dismissal(sha256), cluster="east") == ["east"], "the same operation, seen again"
    with pytest.raises(OperationRefused, match="no open proposal"):
        proposals.dismiss(dismissal(sha256, "2"), cluster="east")
    proposals.note_content("east", pki.root("stranger").pem, where="", place="bank", now=2.0)
    assert listed() == ["west"]
    proposals.settle("east", frozenset({sha256}), hides=hub_holds(set()))
    proposals.note_content("east", pki.root("stranger").pem, where="", place="bank", now=3.0)
    assert listed() == ["west"], "it is still there"
    proposals.settle("east", frozenset(), hides=hub_holds({"bank", "shop"}))
    proposals.note_content("east", pki.root("stranger").pem, where="", place="bank", now=4.0)
    assert listed() == ["east", "west"], "it came back"
    proposals.dismiss(dismissal(sha256, "3"))
    assert listed() == []


def test_accepted_and_pinned_anchors_are_merged_with_their_kind() -> None:
    pins = [pin("a"), pin("b", clusters=(ClusterName("east"),))]
    gathered = gather_pins(pins, {Path(f"{n}.pem"): good(n) for n in "ab"}, {})
    bundle = plan_bundle(gathered, None).bundle
    assert bundle is not None
    kinds: dict[str, Anchor] = {anchor.certificate.sha256: anchor for anchor in bundle.anchors}
    assert kinds[pin("b").sha256].kind == "accepted"
    assert kinds[pin("a").sha256].kind == "root"
