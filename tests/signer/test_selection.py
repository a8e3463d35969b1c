"""Who signs for a cluster: whatever the directives and the authorities, nothing that they do not allow."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from federation.core.errors import NotReady
from federation.core.pki.certificate import Certificate
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import State
from federation.signer.authorities.selection import choose
from tests.support import pki

A1, A2, A3 = (
    pki.intermediate("choice a1", pki.root("choice a")),
    pki.intermediate("choice a2", pki.root("choice a")),
    pki.intermediate("choice a3", pki.root("choice a")),
)
B1, C1 = (
    pki.intermediate("choice b1", pki.root("choice b")),
    pki.intermediate("choice c1", pki.root("choice c")),
)
SOME = (A1, A2, A3, B1, C1)
A, B, C = A1.root, B1.root, C1.root


@dataclass(frozen=True)
class One:
    """An authority as the choice sees it."""

    issuers: tuple[Certificate, ...]
    usable: bool = True


def one(ca: pki.Authority, *, usable: bool = True) -> One:
    return One((ca.certificate, ca.root), usable)


def sha(ca: pki.Authority) -> str:
    return ca.certificate.sha256


OLD, NEW, UNKNOWN = one(A1), one(B1), One(())
OLD_DOWN_ELSEWHERE = one(C1, usable=False)
DOWN, DOWN2, NEW_DOWN = one(A1, usable=False), one(A2, usable=False), one(B1, usable=False)
GONE = One((), usable=False)  # an authority whose root is not published any more knows no issuers


def at_rest(state: State, ca: pki.Authority) -> SigningDirectives:
    return SigningDirectives(rotation=1, state=state.value, issuer=sha(ca))


def in_force(
    ca: pki.Authority, state: State | None = None, *, left: list[str] | None = None
) -> SigningDirectives:
    """At rest, and it is recorded what is in force."""
    known = at_rest(state, ca) if state is not None else SigningDirectives(issuer=sha(ca))
    return replace(known, root=ca.root.sha256, left=left or [])


def ordered(ca: pki.Authority, state: State = State.PUBLISHING, **more: object) -> SigningDirectives:
    return SigningDirectives(rotation=1, state=state.value, issuer=sha(ca), strict=True, **more)  # type: ignore[arg-type]


def left(ca: pki.Authority, named: str, state: State = State.RETIRED) -> SigningDirectives:
    """At rest after an emergency was declared against the one named."""
    return SigningDirectives(rotation=1, state=state.value, issuer=sha(ca), forbidden=[named])


@pytest.mark.parametrize(
    ("directives", "authorities", "anchors", "chosen"),
    [
        (SigningDirectives(), (OLD,), (A,), OLD),
        (SigningDirectives(), (OLD, NEW), (A, B), OLD),
        (SigningDirectives(), (UNKNOWN, NEW), (A, B), UNKNOWN),
        (
            SigningDirectives(),
            (DOWN, NEW),
            (A, B),
            DOWN,
        ),  # it says why it cannot; nothing has proved that B is trusted
        (at_rest(State.STABLE, A1), (DOWN, NEW), (A, B), DOWN),
        (at_rest(State.RETIRED, B1), (GONE, NEW), (B,), NEW),
        (at_rest(State.RETIRED, B1), (OLD, NEW), (A, B), NEW),
        (at_rest(State.RETIRED, B1), (NEW,), (B,), NEW),  # its settings were moved
        (at_rest(State.RETIRED, B1), (NEW, one(C1)), (B, C), NEW),
        (at_rest(State.RETIRED, A2), (OLD, DOWN2), (A,), DOWN2),  # what was rotated away from signs no more
        (at_rest(State.RETIRED, A2), (DOWN2, OLD), (A,), DOWN2),
        (at_rest(State.RETIRED, B1), (OLD, NEW_DOWN), (A, B), NEW_DOWN),
        (at_rest(State.RETIRED, A2), (OLD,), (A,), OLD),  # an operator has taken the new one out
        (in_force(A1), (OLD, NEW), (A, B), OLD),
        (in_force(A1), (DOWN, one(A2)), (A,), DOWN),  # nothing replaces it
        (in_force(A1), (one(A2), NEW), (A, B), one(A2)),  # another intermediate under the root in force
        (in_force(A1), (UNKNOWN,), (A, B), UNKNOWN),  # what it signs is judged
        (in_force(B1, State.RETIRED), (OLD, NEW_DOWN), (A, B), NEW_DOWN),
        (
            in_force(A2, State.RETIRED),
            (NEW, one(A3)),
            (A, B),
            one(A3),
        ),  # renewed before its settings were moved
        (in_force(A2, State.RETIRED, left=[sha(A1)]), (one(A3),), (A,), one(A3)),
        (at_rest(State.STABLE, A2), (OLD, DOWN2), (A,), OLD),
        (at_rest(State.RETIRED, A2), (GONE, NEW), (B,), NEW),  # the back end has another intermediate since
        (at_rest(State.RETIRED, A2), (GONE, NEW), (A,), GONE),
        (left(A2, sha(A1)), (OLD, one(A2)), (A,), one(A2)),
        (left(A2, sha(A1)), (OLD, NEW), (A, B), NEW),
        (left(A2, sha(A1)), (UNKNOWN, NEW), (A, B), UNKNOWN),  # the fence looks again at what has signed
        (ordered(A1), (OLD, NEW), (A, B), OLD),
        (ordered(A1), (NEW, OLD), (A, B), OLD),
        (ordered(A1), (DOWN, NEW), (A, B), DOWN),
        (ordered(B1, State.ACTIVE), (OLD, NEW), (A, B), NEW),
        (ordered(A1), (DOWN, OLD), (A,), OLD),
        (ordered(A1, State.CANARY, clusters={"east": sha(B1)}), (OLD, NEW), (A, B), NEW),
        (ordered(A1, State.CANARY, clusters={"west": sha(B1)}), (OLD, NEW), (A, B), OLD),
    ],
)
def test_the_choice(
    directives: SigningDirectives, authorities: tuple[One, ...], anchors: tuple[Certificate, ...], chosen: One
) -> None:
    assert choose(directives, "east", authorities, anchors) == chosen


@pytest.mark.parametrize(
    ("directives", "authorities", "anchors", "reason"),
    [
        (SigningDirectives(stopped={"east": "broken into"}), (OLD,), (A,), "quarantined"),
        (ordered(B1), (OLD,), (A, B), "directed_authority_missing"),
        (ordered(B1), (UNKNOWN,), (A, B), "directed_authority_missing"),
        (ordered(B1), (OLD, One((), usable=False)), (A, B), "directed_authority_missing"),
        (ordered(B1), (OLD, NEW), (A,), "unpublished_anchor"),
        (SigningDirectives(), (OLD, NEW), (B,), "unpublished_anchor"),
        (at_rest(State.RETIRED, B1), (OLD, NEW), (C,), "unpublished_anchor"),
        (at_rest(State.RETIRED, B1), (OLD, NEW), (A,), "unpublished_anchor"),
        (in_force(A1), (NEW,), (A, B), "authority_not_in_force"),
        (in_force(A1), (NEW, OLD_DOWN_ELSEWHERE), (A, B), "authority_not_in_force"),
        (
            in_force(A1),
            (NEW, one(A2)),
            (A, B),
            "authority_not_in_force",
        ),  # the successor replaces nothing
        (in_force(A2, State.RETIRED, left=[sha(A1)]), (OLD,), (A,), "authority_not_in_force"),
        (in_force(B1, State.RETIRED), (OLD,), (A, B), "authority_not_in_force"),
        (in_force(A2, State.RETIRED, left=[sha(A1)]), (NEW, OLD), (A, B), "authority_not_in_force"),
        (left(A2, sha(A1)), (OLD, UNKNOWN), (A,), "compromised_authority"),  # after a restart of the signer
        (left(C1, sha(B1), State.STABLE), (NEW, one(C1, usable=False)), (B, C), "compromised_authority"),
    ],
)
def test_no_authority_may_sign(
    directives: SigningDirectives, authorities: tuple[One, ...], anchors: tuple[Certificate, ...], reason: str
) -> None:
    with pytest.raises(NotReady) as refused:
        choose(directives, "east", authorities, anchors)
    assert refused.value.reason == reason
    assert refused.value.where == "east"
    assert refused.value.remedy


ONES = st.builds(
    lambda ca, usable, known: One((ca.certificate, ca.root) if known else (), usable),
    st.sampled_from(SOME),
    st.booleans(),
    st.sampled_from((True, True, True, False)),
)
ISSUER = st.sampled_from(("", *map(sha, SOME)))
DIRECTIVES = st.builds(
    SigningDirectives,
    state=st.sampled_from(["", *(state.value for state in State)]),
    issuer=ISSUER,
    clusters=st.dictionaries(st.sampled_from(("east", "west")), ISSUER),
    strict=st.booleans(),
    root=st.sampled_from(("", *(ca.root.sha256 for ca in SOME))),
    left=st.lists(ISSUER.filter(bool), max_size=2),
    forbidden=st.lists(ISSUER.filter(bool), max_size=1),
    stopped=st.dictionaries(st.sampled_from(("east", "west")), st.just("broken into"), max_size=1),
)


def permitted(directives: SigningDirectives, one: One) -> bool:
    """By what is in force: an oracle of its own."""
    if not one.issuers:
        return True
    intermediate, root = one.issuers
    return intermediate.sha256 == directives.issuer or (
        root.sha256 == directives.root and intermediate.sha256 not in directives.left
    )


@settings(max_examples=1000)
@given(
    DIRECTIVES,
    st.lists(ONES, min_size=1, max_size=2),
    st.lists(st.sampled_from((A, B, C)), unique=True),
    st.sampled_from(("east", "")),
)
def test_never_what_is_not_allowed(
    directives: SigningDirectives, authorities: list[One], anchors: list[Certificate], cluster: str
) -> None:
    trusted = tuple(anchors)
    asked = directives.issuer_for(cluster)
    there = [a for a in authorities if asked and a.issuers and a.issuers[0].sha256 == asked]
    retired = directives.state == State.RETIRED.value
    try:
        chosen = choose(directives, cluster, authorities, trusted)
    except NotReady:
        if (
            not directives.stopped.get(cluster)
            and not (directives.strict and asked)
            and not (retired and there)
        ):
            first = authorities[0]
            barred = any(issuer.sha256 in directives.forbidden for issuer in first.issuers)
            barred = barred or (bool(directives.root) and not permitted(directives, first))
            assert barred or not (first.usable and first.issuers and first.issuers[-1] in trusted)
        return
    if not directives.strict:  # and the core directives nothing that it forbids
        assert asked in directives.forbidden or not any(
            issuer.sha256 in directives.forbidden for issuer in chosen.issuers
        )
    assert cluster not in directives.stopped
    if chosen.issuers:
        assert chosen.issuers[-1] in trusted, "its leaves would chain to nothing that is delivered with them"
    if directives.root and chosen.issuers and not directives.strict:
        assert permitted(directives, chosen) or chosen in there, (
            "only a rotation changes the root that is signed under"
        )
    if directives.strict and asked:
        assert chosen.issuers
        assert chosen.issuers[0].sha256 == asked
    elif directives.root and chosen not in there:
        assert not any(one.usable and one.issuers[-1] in trusted for one in there), (
            "the one in force signs if it can"
        )
    elif retired and there:
        assert chosen in there, "no other replaces what was rotated to"
    elif chosen is not authorities[0]:
        prefers = bool(chosen.issuers) and chosen.issuers[0].sha256 == asked
        assert chosen.usable or directives.root
        assert prefers or retired, "nothing has made sure that all trust it"
