"""The matrix: equal to the naive computation, cheap for equal clusters, and never green about the unknown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.controller.proof.handshake import Credential, HandshakeError, handshake
from federation.controller.proof.matrix import (
    MOST_REASONS,
    Absent,
    Explainer,
    KnownMatrix,
    Participant,
    ProofPlan,
    apply_staleness,
    prove,
    run_cases,
)
from federation.core.documents.controller import Matrix
from federation.core.documents.trust import Generation
from federation.core.pki.certificate import Certificate
from tests.controller.parties import NOW, content, leaf, party
from tests.controller.world import root

ANCHORS = (root("a").certificate, root("b").certificate)


def generation(number: int = 2) -> Generation:
    return Generation(
        number=number,
        created=NOW.timestamp(),
        reason="test",
        author="test",
        trust_domain="mesh.example",
        sha256="",
        bundle_pem="",
        anchors=[],
    )


def matrix_of(
    parties: Sequence[Participant | Absent], anchors: Sequence[Certificate] = ANCHORS, number: int = 2
) -> Matrix:
    plan = ProofPlan.of(parties, at=NOW)
    outcomes = {pair: run_cases(cases, handshake) for pair, cases in plan.cases.items()}
    return plan.matrix(outcomes, Explainer(generation(number), anchors, NOW))


def naive(parties: Sequence[Participant]) -> list[str]:
    """Every pair, every content of either side."""
    rows = []
    for client in parties:
        row = ""
        for server in parties:
            if client is server:
                row += "-"
                continue
            try:
                for mine, theirs in itertools.product(client.contents, server.contents):
                    handshake(
                        client=Credential(client.chain, client.key_pem, mine.certificates, client.identity),
                        server=Credential(server.chain, server.key_pem, theirs.certificates, server.identity),
                    )
                row += "v"
            except HandshakeError:
                row += "x"
        rows.append(row)
    return rows


CONTENTS = [("a",), ("b",), ("a", "b"), ()]
kinds = st.tuples(
    st.sampled_from(["a", "b"]),
    st.lists(st.sampled_from(CONTENTS), min_size=1, max_size=3, unique=True),
    st.sampled_from(["sound", "sound", "sound", "expired", "foreign", "wrong key", "wrong name", "bare"]),
)


def build(number: int, kind: tuple[str, list[tuple[str, ...]], str]) -> Participant:
    authority, observed, flaw = kind
    built = party(
        f"c{number}",
        authority,
        *observed,
        domain="other.example" if flaw == "foreign" else "mesh.example",
        expired=flaw == "expired",
    )
    if flaw == "wrong name":
        return replace(built, chain=leaf("stranger", authority))
    if flaw == "wrong key":
        return replace(built, key_pem=party("stranger").key_pem)
    if flaw == "bare":
        return replace(built, chain=built.chain[:1])
    return built


@settings(max_examples=40, deadline=None)
@given(st.lists(kinds, min_size=2, max_size=5))
def test_the_matrix_equals_the_naive_computation(
    kinds_of: list[tuple[str, list[tuple[str, ...]], str]],
) -> None:
    parties = [build(number, kind) for number, kind in enumerate(kinds_of)]
    matrix = matrix_of(parties)
    assert matrix.rows == naive(parties)
    assert matrix.valid == sum(row.count("v") for row in matrix.rows)
    failed = {f"{a.cluster}>{b.cluster}" for a, row in zip(parties, matrix.rows, strict=True)
              for b, cell in zip(parties, row, strict=True) if cell == "x"}  # fmt: skip
    assert set(matrix.reasons) == failed


def test_equal_clusters_cost_one_handshake() -> None:
    parties = [party(f"c{number}") for number in range(40)]
    matrix = matrix_of(parties)
    assert (matrix.pairs, matrix.valid, matrix.handshakes) == (1560, 1560, 1)


def test_a_cluster_that_differs_costs_its_own_cases_only() -> None:
    parties = [*(party(f"c{number}") for number in range(10)), party("odd", "b", ("a",), ("a", "b"))]
    matrix = matrix_of(parties)
    assert matrix.handshakes <= 1 + 2 * 2
    assert matrix.valid == 90
    assert matrix.rows[-1] == "x" * 10 + "-"


def test_a_missing_anchor_is_named_with_where_it_is_missing() -> None:
    east = replace(party("east"), contents=(content("a", generation=1),))
    west = replace(party("west", "b"), contents=(content("a", "b", generation=2),))
    matrix = matrix_of([east, west])
    assert matrix.rows == ["-x", "x-"]
    subject = root("b").certificate.subject
    for pair in ("east>west", "west>east"):
        words = matrix.reasons[pair]
        assert words.startswith("east does not accept the leaf of west: ")
        assert f"the anchor {subject} ({root('b').certificate.sha256[:16]}) is missing there" in words
        assert "generation 2 is not yet published, generation 1 is there" in words
        assert "namespace shop in east" in words


def test_content_of_another_writer_is_not_reported_as_an_older_generation() -> None:
    east = replace(party("east"), contents=(content("a", generation=0),))
    matrix = matrix_of([east, party("west", "b", ("a", "b"))])
    assert "another writer's content is there, not generation 2" in matrix.reasons["east>west"]


def test_a_leaf_of_an_unpinned_authority_fails_with_that_reason() -> None:
    matrix = matrix_of([party("east"), party("west", "b")], anchors=(root("a").certificate,))
    assert "it reaches no anchor of generation 2 at all" in matrix.reasons["east>west"]


def test_an_expired_leaf_fails_its_own_pairs_only() -> None:
    matrix = matrix_of([party("east"), party("west", expired=True), party("north")])
    assert matrix.rows == ["-xv", "x-x", "vx-"]
    assert "expired" in matrix.reasons["east>west"]
    assert "east does not accept the leaf of west" in matrix.reasons["west>east"]


def test_a_wrong_trust_domain_fails_with_that_reason() -> None:
    matrix = matrix_of([party("east"), party("west", domain="other.example")])
    assert "wrong trust domain" in matrix.reasons["east>west"]
    assert "other.example" in matrix.reasons["east>west"]


def test_content_that_is_no_bundle_fails_with_that_reason() -> None:
    matrix = matrix_of([party("east", "a", ("a",), ()), party("west")])
    assert matrix.valid == 0
    assert "east does not accept" in matrix.reasons["west>east"]
    assert "no bundle of certificates" in matrix.reasons["east>west"]


def test_one_bad_namespace_is_enough() -> None:
    matrix = matrix_of([party("east", "a", ("a",), ("b",)), party("west")])
    assert matrix.rows == ["-x", "x-"]


def test_the_absent_is_unknown_and_says_why() -> None:
    matrix = matrix_of([party("east"), Absent("west", "not read back: unreachable"), party("north")])
    assert matrix.rows == ["-?v", "?-?", "v?-"]
    assert matrix.reasons["east>west"] == "west: not read back: unreachable"
    assert (matrix.pairs, matrix.valid) == (6, 2)


def test_no_cluster_and_one_cluster_have_no_pairs() -> None:
    assert matrix_of([]).pairs == 0
    alone = matrix_of([party("east")])
    assert (alone.pairs, alone.valid, alone.handshakes, alone.rows) == (0, 0, 0, ["-"])


async def test_two_hundred_clusters_are_proved_off_the_loop() -> None:
    chosen = party("c0")
    parties = [replace(chosen, cluster=f"c{number}") for number in range(200)]
    matrix = await prove(parties, generation=generation(), anchors=ANCHORS, at=NOW)
    assert (matrix.pairs, matrix.valid, matrix.handshakes) == (39_800, 39_800, 1)
    assert matrix.reasons == {}


@given(st.data())
def test_what_was_proved_of_a_cluster_that_is_not_known_now_is_unknown(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from("abcdef"), unique=True))
    rows = ["".join("-" if a == b else data.draw(st.sampled_from("vx?")) for b in names) for a in names]
    stale = data.draw(st.dictionaries(st.sampled_from("abcdefg"), st.just("not read back")))
    matrix = Matrix(clusters=names, rows=rows, valid=sum(row.count("v") for row in rows))
    shown = apply_staleness(matrix, stale)
    for client, before, row in zip(names, rows, shown.rows, strict=True):
        for server, was, cell in zip(names, before, row, strict=True):
            unknown = [name for name in (client, server) if name in stale]
            assert cell == ("?" if was == "v" and unknown else was)
            reason = shown.reasons.get(f"{client}>{server}", "")
            assert reason == ("; ".join(f"{n}: not read back" for n in unknown) if was == "v" else "")
    assert shown.valid == sum(row.count("v") for row in shown.rows)


def test_what_is_known_still_is_put_together_where_it_changes() -> None:
    """The report and the gates ask for it several times a second: 200 clusters have 40,000 cells."""
    names = [f"c{number}" for number in range(200)]
    matrix = Matrix(clusters=names, rows=["".join("-" if a == b else "v" for b in names) for a in names])
    known, stale = KnownMatrix(), {"c7": "not read back"}
    shown = known.of(matrix, stale)
    assert shown.valid == 199 * 198
    assert known.of(matrix, {"c7": "not read back"}) is shown
    assert known.of(matrix, {"c7": "its watches are silent"}).reasons["c1>c7"] == "c7: its watches are silent"
    assert known.of(matrix, {}) is matrix
    stale["c8"] = "not read back"
    assert known.of(matrix, stale).valid == 198 * 197
    assert len(known.of(matrix, dict.fromkeys(names, "away")).reasons) == MOST_REASONS
