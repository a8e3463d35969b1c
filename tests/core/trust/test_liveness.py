"""What the counts of a cluster's workloads say: at least half hold a certificate, or it is said what is wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.core.trust.liveness import FINE, RESTART, WAIT, WATCH, SignsOfLife, Vitality, assess

NOW = 1_000_000.0
COUNTS = st.integers(0, 5)


@st.composite
def signs(draw: st.DrawFn) -> SignsOfLife:
    with_certificate, lapsed, never = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    return SignsOfLife(
        workloads=draw(st.sampled_from([None, with_certificate + lapsed + never])),
        with_certificate=with_certificate,
        lapsed=lapsed,
        ambient=draw(COUNTS),
        known_from=draw(st.sampled_from([0.0, NOW + 60.0])),
        watched=draw(st.booleans()),
        refusal=draw(st.sampled_from(["", "csr_identity"])),
        detail=draw(st.sampled_from(["", "the watch is down"])),
    )


@given(signs())
def test_a_mesh_without_any_certificate_is_never_alive(life: SignsOfLife) -> None:
    found = assess(life, NOW)
    assert (found.vitality in FINE) == found.fine
    if not life.with_certificate:
        assert found.vitality is not Vitality.ALIVE
    if found.vitality is Vitality.EMPTY:
        assert (life.workloads, life.ambient) == (0, 0)
        assert life.known_from <= NOW
    if life.workloads and 2 * life.with_certificate < life.workloads:
        assert not found.fine
    if not found.fine and life.workloads:
        assert found.remedy == (WAIT if found.vitality is Vitality.UNKNOWN else RESTART)
        assert found.until in {0.0, life.known_from}


@given(signs(), COUNTS)
def test_more_workloads_with_a_certificate_never_worsen_the_vitality(life: SignsOfLife, more: int) -> None:
    if life.workloads is None or not assess(life, NOW).fine:
        return
    grown = SignsOfLife(
        workloads=life.workloads + more,
        with_certificate=life.with_certificate + more,
        lapsed=life.lapsed,
        known_from=life.known_from,
    )
    assert assess(grown, NOW).fine


def test_expired_certificates_and_workloads_that_never_requested_one_are_distinguished() -> None:
    stopped = assess(SignsOfLife(workloads=10, with_certificate=2, lapsed=7, refusal="csr_identity"), NOW)
    assert stopped.vitality is Vitality.STOPPED
    assert stopped.detail == (
        "2 of 10 workloads hold a certificate (of 7 it has ended, 1 never requested one);"
        " callers are refused: csr_identity"
    )
    moving = assess(SignsOfLife(workloads=10, with_certificate=2, lapsed=1), NOW)
    assert moving.vitality is Vitality.NEVER_REQUESTED
    assert assess(SignsOfLife(workloads=10, with_certificate=5), NOW).fine


def test_the_vitality_is_unknown_while_there_may_be_certificates_that_no_signer_counts() -> None:
    for life in (
        SignsOfLife(workloads=0, known_from=NOW + 60),
        SignsOfLife(workloads=4, known_from=NOW + 60),
    ):
        found = assess(life, NOW)
        assert (found.vitality, found.until) == (Vitality.UNKNOWN, NOW + 60)
    assert assess(SignsOfLife(workloads=4, known_from=NOW), NOW).vitality is Vitality.NEVER_REQUESTED


def test_ambient_pods_without_a_requesting_ztunnel_do_not_count_as_an_empty_cluster() -> None:
    found = assess(SignsOfLife(workloads=0, ambient=12), NOW)
    assert found.vitality is Vitality.NEVER_REQUESTED
    assert "12 pods are in ambient mode" in found.detail


def test_a_cluster_without_a_watch_is_judged_by_issued_certificates_alone() -> None:
    some = assess(SignsOfLife(with_certificate=3, watched=False, detail="attestation is token-review"), NOW)
    none = assess(SignsOfLife(watched=False, detail="attestation is token-review"), NOW)
    assert some.fine
    assert (none.vitality, none.remedy) == (Vitality.UNKNOWN, WATCH)
    down = assess(SignsOfLife(with_certificate=3, detail="the watch is down"), NOW)
    assert (down.vitality, "the watch is down" in down.detail) == (Vitality.UNKNOWN, True)
    assert assess(None, NOW).vitality is Vitality.UNKNOWN
