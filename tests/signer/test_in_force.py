"""Whether an authority is what is in force, and whether another one may take its place: by the directives alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from federation.core.errors import NotReady
from federation.core.pki.certificate import Certificate
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import State
from federation.signer.authorities.selection import exchange, not_in_force
from federation.signer.revalidation import Superseded, require_directed
from tests.support import pki

NAMES = ("a1", "a2", "b1", "b2")
ALL = {name: pki.intermediate(f"force {name}", pki.root(f"force {name[0]}")) for name in NAMES}


def path(name: str) -> tuple[Certificate, Certificate]:
    return ALL[name].certificate, ALL[name].root


def sha(name: str) -> str:
    return ALL[name].certificate.sha256


def at_rest(name: str, state: str = "", *, left: tuple[str, ...] = ()) -> SigningDirectives:
    return SigningDirectives(
        rotation=1 if state else 0,
        state=state,
        issuer=sha(name),
        root=ALL[name].root.sha256,
        left=[sha(each) for each in left],
    )


CANARY = SigningDirectives(
    rotation=1, state="CANARY", issuer=sha("a1"), clusters={"east": sha("b1")}, strict=True
)
REST, RETIRED = at_rest("a1"), at_rest("a2", "RETIRED", left=("a1",))


@pytest.mark.parametrize(
    ("directives", "old", "new", "reserve", "may"),
    [
        (None, "a1", "a2", False, True),  # nothing is known to be in force: what has the place is
        (None, "a1", "b1", False, False),
        (None, "a1", "b1", True, True),
        (SigningDirectives(), "a1", "b1", False, False),
        (REST, "a1", "a2", False, True),
        (REST, "a1", "b1", False, False),
        (REST, "b1", "b2", False, True),  # what has the place signs nothing
        (REST, "b1", "a1", False, True),
        (REST, "b1", "b2", True, True),
        (REST, "a2", "b1", True, True),  # a successor that nothing has led to
        (RETIRED, "a2", "a1", False, False),  # what a rotation has left
        (RETIRED, "a2", "b1", True, False),  # the successor is what signs
        (RETIRED, "a1", "b1", False, True),
        (RETIRED, "a1", "a2", False, True),
        (CANARY, "a1", "a2", False, False),  # under way: not even under the same root
        (CANARY, "a1", "b1", False, False),
        (CANARY, "b1", "b2", True, False),
        (CANARY, "a2", "a1", False, True),
    ],
)
def test_what_may_take_the_place_of_what(
    directives: SigningDirectives | None, old: str, new: str, reserve: bool, may: bool
) -> None:
    problem = exchange(path(old), path(new), directives, reserve=reserve)
    assert (problem is None) == may
    if problem is not None:
        assert problem.reason == "authority_not_in_force"
        assert problem.remedy
        assert sha(new)[:16] in problem.what
    assert exchange(path(old), path(old), directives, reserve=reserve) is None
    assert exchange((), path(new), directives, reserve=reserve) is None, "nothing has the place"


DIRECTIVES = st.builds(
    SigningDirectives,
    issuer=st.sampled_from(["", *map(sha, NAMES)]),
    root=st.sampled_from(["", ALL["a1"].root.sha256, ALL["b1"].root.sha256]),
    strict=st.booleans(),
    state=st.sampled_from(["", *(state.value for state in State)]),
    left=st.lists(st.sampled_from([sha(name) for name in NAMES]), max_size=2),
)


@given(DIRECTIVES, st.sampled_from(NAMES), st.sampled_from(NAMES), st.booleans())
def test_what_may_sign_is_never_given_up_for_what_may_not(
    directives: SigningDirectives, old: str, new: str, reserve: bool
) -> None:
    """Of ``[signer.successor]`` what the directives name; of ``[signer.authority]`` whatever they permit."""
    may = exchange(path(old), path(new), directives, reserve=reserve) is None
    if may and directives.binding and not_in_force(path(new), directives) is not None:
        assert not_in_force(path(old), directives) is not None or (reserve and sha(old) != directives.issuer)


@pytest.mark.parametrize(
    ("directives", "signed", "error", "reason"),
    [
        (REST, "a1", None, ""),
        (REST, "a2", None, ""),
        (REST, "b1", NotReady, "authority_not_in_force"),
        (replace(REST, left=[sha("a2")]), "a2", NotReady, "authority_not_in_force"),
        (replace(REST, forbidden=[sha("a2")]), "a2", Superseded, "compromised_authority"),
        (CANARY, "a2", Superseded, "superseded"),
        (SigningDirectives(), "b1", None, ""),
    ],
)
def test_what_a_back_end_returns_is_judged_before_it_is_handed_out(
    directives: SigningDirectives, signed: str, error: type[NotReady] | None, reason: str
) -> None:
    """Some show who signs with the leaf alone, and any of them may change it between a poll and a request."""
    if error is None:
        require_directed(path(signed), directives, "west")
        return
    with pytest.raises(error) as refused:
        require_directed(path(signed), directives, "west")
    assert (refused.value.reason, refused.value.where) == (reason, "west")
    assert refused.value.remedy
