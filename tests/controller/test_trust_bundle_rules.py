"""The rules of the ClusterTrustBundle, without a cluster: taking it apart, what is said of it, what gates count."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.clusters.trust_bundles import SIGNER, VERSIONS
from federation.controller.publication.cluster_trust_bundle import (
    BundleDecoder,
    BundleStatus,
    BundleTarget,
    Observed,
    ObservedTrustBundle,
    assess,
    with_bundle,
)
from federation.controller.publication.config_map import MOST_WRITERS, Contents
from federation.controller.publication.joining import MemberFacts
from federation.controller.rotation.observer import joined, trust_bundles
from federation.controller.rotation.store import RotationStore
from federation.core.config.hub import PublicationConfig
from federation.core.errors import ClusterForbidden, ClusterInvalid, ClusterTimeout
from federation.core.rotation.world import ClusterFacts
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from tests.controller.test_publication import PEM, SHA, generation

NAME = "istio.io:istiod-ca:root-cert"
TARGET = BundleTarget.of(generation(), PublicationConfig())
UP_TO_DATE = ObservedTrustBundle(SHA)


def bundle(pem: Any = PEM, managed: Any = None, **more: Any) -> bytes:
    meta = {"name": NAME, "resourceVersion": "7", "managedFields": managed}
    return json.dumps({"metadata": meta, "spec": {"signerName": SIGNER, "trustBundle": pem}, **more}).encode()


def owner(manager: str, *fields: str) -> dict[str, Any]:
    return {"manager": manager, "fieldsV1": {"f:spec": {f"f:{name}": {} for name in fields}}}


def decode(payload: bytes) -> ObservedTrustBundle:
    return BundleDecoder(Contents())(payload).value


@pytest.mark.parametrize("version", VERSIONS)
def test_the_object_is_istios_in_each_version(version: str) -> None:
    assert json.loads(TARGET.body(version)) == {
        "apiVersion": f"certificates.k8s.io/{version}",
        "kind": "ClusterTrustBundle",
        "metadata": {"name": NAME},
        "spec": {"signerName": "istio.io/istiod-ca", "trustBundle": PEM},
    }
    assert TARGET.path(version) == f"/apis/certificates.k8s.io/{version}/clustertrustbundles/{NAME}"


@pytest.mark.parametrize(
    ("pem", "met"), [(PEM, True), (PEM + "\n", False), ("", False), (f"# comment\n{PEM}", False)]
)
def test_only_the_bundle_to_the_byte_meets_the_target(pem: str, met: bool) -> None:
    assert TARGET.is_met_by(decode(bundle(pem))) is met
    assert TARGET.is_met_by(None) is False


def test_writers_of_the_certificates_are_named_and_the_hub_knows_its_own() -> None:
    managed = [
        owner("federation-hub", "signerName"),
        owner("pilot-discovery", "trustBundle"),
        owner("labeller", "signerName"),
        {"manager": "odd"},
    ]
    observed = decode(bundle(managed=managed))
    assert (observed.writers, observed.ours) == (("pilot-discovery",), True)
    flood = decode(bundle(managed=[owner(f"{n:03}" + "m" * 5000, "trustBundle") for n in range(100)]))
    assert len(flood.writers) == MOST_WRITERS
    assert all(len(writer) <= 128 for writer in flood.writers)
    assert flood.ours is False


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"metadata": []}', bundle(7), bundle(spec=[])])
def test_what_is_no_trust_bundle_is_an_error_of_decoding(payload: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(payload)


FORBIDDEN = ClusterForbidden("403 no")
PROBLEMS = st.sampled_from([None, FORBIDDEN, ClusterTimeout("late"), ClusterInvalid("422 no")])


@st.composite
def observations(draw: st.DrawFn) -> Observed:
    """Any observation a publisher can make; only a bundle that is there meets the target."""
    observed = draw(st.sampled_from([None, UP_TO_DATE, ObservedTrustBundle("other", ("pilot-discovery",))]))
    met = observed == UP_TO_DATE
    return Observed(
        version=draw(st.sampled_from([None, "", *VERSIONS])),
        problem=draw(PROBLEMS),
        readable=draw(st.booleans()),
        bundle=observed,
        met=met,
        refusal=draw(PROBLEMS),
        joining=not met and draw(st.booleans()),
        yielded=not met and draw(st.booleans()),
        contested=draw(st.booleans()),
        writers=draw(st.sampled_from([(), ("pilot-discovery",)])),
        known=draw(st.booleans()) or observed is not None,
    )


@given(observations())
def test_nothing_is_current_that_was_not_read_back(seen: Observed) -> None:
    status = assess(seen)
    if status.state == "current":
        assert seen.version
        assert seen.readable
        assert seen.met
        assert not seen.contested
    if seen.version and seen.readable and seen.met and not seen.contested:
        assert status.state == "current"


@given(observations())
def test_what_was_seen_once_counts_in_every_state(seen: Observed) -> None:
    assert assess(replace(seen, known=True)).counted
    if not seen.known and assess(seen).counted:
        assert seen.version is None or not seen.readable, "only what is not known at all counts as well"


@given(observations())
def test_every_state_but_the_best_says_why_and_what_is_forbidden_what_to_do(seen: Observed) -> None:
    status = assess(seen)
    assert bool(status.detail) is (status.state != "current")
    if status.state in {"forbidden", "contested"} or (
        isinstance(seen.problem, ClusterForbidden) and not seen.readable
    ):
        assert status.remedy
    if status.state == "not_served":
        assert not status.counted


KNOWN = Observed(version="v1", readable=True, bundle=UP_TO_DATE, met=True, known=True)


@pytest.mark.parametrize(
    ("seen", "state", "counted", "words"),
    [
        (Observed(), "unknown", True, "was not queried yet"),
        (Observed(problem=ClusterTimeout("late")), "unknown", True, "late"),
        (Observed(problem=FORBIDDEN), "forbidden", False, "403"),
        (Observed(version=""), "not_served", False, "serves no"),
        (Observed(version="", known=True), "unknown", True, "may still trust"),
        (Observed(version="v1"), "unknown", True, "being listed"),
        (Observed(version="v1", readable=True), "pending", False, "not there yet"),
        (Observed(version="v1", readable=True, known=True), "pending", True, "not there yet"),
        (Observed(version="v1", readable=True, refusal=FORBIDDEN), "forbidden", False, "403"),
        (Observed(version="v1", readable=True, refusal=FORBIDDEN, known=True), "forbidden", True, "403"),
        (KNOWN, "current", True, ""),
        (replace(KNOWN, contested=True, writers=("x",)), "contested", True, "x keeps rewriting"),
        (replace(KNOWN, readable=False, problem=FORBIDDEN), "unknown", True, "may not read it any more"),
        (replace(KNOWN, readable=False, problem=ClusterTimeout("late")), "unknown", True, "late"),
        (replace(KNOWN, met=False), "pending", True, "another bundle"),
        (replace(KNOWN, met=False, refusal=FORBIDDEN), "forbidden", True, "may not write"),
        (replace(KNOWN, met=False, refusal=ClusterInvalid("422 x")), "pending", True, "422 x"),
        (replace(KNOWN, met=False, joining=True), "pending", True, "a CA of its own"),
        (replace(KNOWN, met=False, yielded=True, writers=("x",)), "pending", True, "x"),
    ],
)
def test_each_observation_gives_its_state_and_reason(
    seen: Observed, state: str, counted: bool, words: str
) -> None:
    status = assess(seen)
    assert (status.state, status.counted) == (state, counted)
    assert words in status.detail


ROOTS = st.frozensets(st.sampled_from("abc"))


@given(
    st.builds(
        MemberFacts,
        anchors=st.none() | ROOTS,
        current=st.booleans(),
        read_back_at=st.floats(0, 100),
        detail=st.just("all namespaces hold it"),
    ),
    observations(),
    ROOTS,
    st.floats(0, 100),
)
def test_the_object_never_adds_trust_and_what_is_unknown_holds_nothing(
    facts: MemberFacts, seen: Observed, anchors: frozenset[str], at: float
) -> None:
    status = assess(seen)
    after = with_bundle(
        facts,
        NAME,
        status,
        met=seen.readable and seen.met,
        anchors=anchors if seen.bundle is not None else None,
        read_back_at=at,
    )
    if not status.counted or facts.anchors is None:
        assert after == facts
        return
    assert NAME in after.detail
    if status.state == "unknown":
        assert (after.anchors, after.current) == (None, False)
        return
    assert after.anchors == (facts.anchors & anchors if seen.bundle is not None else frozenset())
    assert after.current is (facts.current and seen.met)
    assert after.read_back_at == min(facts.read_back_at, at)


def test_a_cluster_has_not_joined_before_its_bundle_is_the_hubs() -> None:
    facts = MemberFacts(anchors=frozenset("a"), current=True, detail="x")
    pending = BundleStatus(state="pending", counted=True, detail="y")
    behind = with_bundle(facts, NAME, pending, met=False, anchors=frozenset("a"), read_back_at=0)
    current = BundleStatus(state="current", counted=True)
    there = with_bundle(facts, NAME, current, met=True, anchors=frozenset("a"), read_back_at=0)
    assert joined({"east": facts, "west": behind, "north": there}) == {"east", "north"}


async def test_it_is_remembered_until_the_operator_switches_it_off(tmp_path: Any) -> None:
    rotation_store = RotationStore(FileStore(tmp_path, SystemClock()))

    async def arrive(**seen: bool | None) -> list[str]:
        clusters: dict[str, ClusterFacts] = {
            name: MemberFacts(anchors=None, trust_bundle=bundle) for name, bundle in seen.items()
        }
        arrivals = await rotation_store.arrive(clusters, 1.0, trust_bundles=trust_bundles(clusters))
        return arrivals.trust_bundles

    assert await arrive(east=True, west=None) == ["east"]
    assert await arrive(east=None, west=None) == ["east"]
    east, west = rotation_store.remembered("east"), rotation_store.remembered("west")
    assert east is not None
    assert west is not None
    assert (east.trust_bundle, west.trust_bundle) == (True, False)
    assert await arrive(east=None, west=True) == ["east", "west"]
    assert await arrive(east=False, west=None) == ["west"]
    assert await arrive(east=None) == [], "a cluster that is not registered is not remembered"
