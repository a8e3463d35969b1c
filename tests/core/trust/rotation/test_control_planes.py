"""What a gate asks of Istio's control planes, and what it says of those that are in the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as changed

from federation.core.rotation.cluster_conditions import MOST_NAMED, obstacles
from federation.core.rotation.effects import (
    ISTIOD_OF_ANOTHER,
    ISTIOD_OF_LEFT,
    ISTIOD_REFUSES,
    WEBHOOKS_REFUSE,
    losses,
)
from federation.core.rotation.gates import gate, return_gate, trusts
from federation.core.rotation.record import Quarantine, State
from federation.core.rotation.transitions import advance
from federation.core.rotation.world import ClusterFacts, ControlPlane, Webhook, World
from tests.core.trust.rotation.certificates import ISSUER, ROOT, SIDES
from tests.core.trust.rotation.test_gates import (
    BOTH,
    HEALTHY,
    NOW,
    OLD,
    REMOVED,
    WORLD,
    followed,
    rotation_record,
)

NEW = frozenset({ROOT["b"]})
PLANE = ControlPlane(
    name="istio-system/istiod-tls",
    issuer=ISSUER["b1"],
    anchors=BOTH,
    current=True,
    not_after=NOW + 600.0,
    read_back_at=NOW,
)
HOOK = Webhook(
    name="MutatingWebhookConfiguration/istio-sidecar-injector", istiod="istio-system/istiod", anchors=BOTH
)
OTHER = replace(HOOK, name="MutatingWebhookConfiguration/other", istiod="other-system/istiod")
SERVED = replace(HEALTHY, control_planes=(PLANE,), webhooks=(HOOK,), webhooks_read_at=NOW)
BEFORE_SIGNING = (State.PUBLISHING, State.SOAKED, State.CANARY)
BEFORE_REMOVAL = (State.ACTIVE, State.EMERGENCY, State.ABORTING)
NAMES = frozenset({"istiod_trust", "istiod_issuer", "webhooks"})


def one(facts: ClusterFacts, state: State = State.ACTIVE) -> World:
    base = REMOVED if state is State.UNPUBLISHING else WORLD
    return followed(state, replace(base, clusters={"one": facts, "two": HEALTHY}))


def of_side(state: State) -> ControlPlane:
    """As it is to be in that state."""
    return replace(PLANE, issuer=ISSUER["a1"]) if state is State.ABORTING else PLANE


def unmet(state: State, facts: ClusterFacts, *, new: str = "b1", wave: int = 0) -> list[tuple[str, str]]:
    verdict = gate(rotation_record(state, new=new, wave=wave), one(facts, state))
    found = [c for c in verdict.unmet if c.name in NAMES or c.name == "observed"]
    assert {c.cluster for c in found} <= {"one"}
    return [(c.name, c.detail) for c in found]


def with_plane(plane: ControlPlane, **more: object) -> ClusterFacts:
    return replace(SERVED, control_planes=(plane,), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [*BEFORE_SIGNING, *BEFORE_REMOVAL, State.UNPUBLISHING])
def test_a_healthy_control_plane_blocks_no_gate(state: State) -> None:
    facts = with_plane(of_side(state))
    assert unmet(state, facts) == []
    assert unmet(state, HEALTHY) == [], "a cluster without Istio has none"
    met = {
        c.name
        for c in gate(rotation_record(state), one(facts, state)).conditions
        if c.met and c.cluster == "one"
    }
    required = {"observed"} if state is State.UNPUBLISHING else {"istiod_trust", "webhooks"}
    assert required <= met
    assert ("istiod_issuer" in met) == (state in BEFORE_REMOVAL)


@pytest.mark.parametrize("state", [*BEFORE_SIGNING, *BEFORE_REMOVAL])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"anchors": None, "detail": "forbidden; grant it"}, "is not known: forbidden; grant it"),
        ({"read_back_at": NOW - 61.0}, "61 s ago"),
        ({"read_back_at": NOW - 10.0}, "not read back since"),
    ],
)
def test_a_ca_file_that_is_unknown_or_was_read_back_too_long_ago_does_not_count(
    state: State, change: dict[str, object], words: str
) -> None:
    found = unmet(state, with_plane(replace(of_side(state), **change)))  # type: ignore[arg-type]
    names = {"istiod_trust", "istiod_issuer"} if state in BEFORE_REMOVAL else {"istiod_trust"}
    assert {name for name, _ in found} == names
    assert all(words in detail and detail.startswith("istio-system/istiod-tls: ") for _, detail in found)


@pytest.mark.parametrize("state", [*BEFORE_SIGNING, *BEFORE_REMOVAL])
def test_webhooks_that_could_not_be_read_shut_every_gate(state: State) -> None:
    why = "forbidden; apply manifests/member again"
    ((name, detail),) = unmet(state, with_plane(of_side(state), webhooks=None, webhooks_detail=why))
    assert name == "webhooks"
    assert why in detail
    ((name, detail),) = unmet(state, replace(HEALTHY, webhooks=None))
    assert (name, "were not read yet" in detail) == ("webhooks", True)
    ((_, detail),) = unmet(state, with_plane(of_side(state), webhooks_read_at=NOW - 61.0))
    assert "61 s ago" in detail
    ((_, detail),) = unmet(state, with_plane(of_side(state), webhooks_read_at=NOW - 10.0))
    assert "not read since" in detail
    assert unmet(state, with_plane(of_side(state), webhooks=(), webhooks_read_at=0.0)) == []


@pytest.mark.parametrize("anchors", [OLD, NEW, frozenset[str]()])
def test_both_roots_are_trusted_before_anything_is_signed_under_the_new_one(anchors: frozenset[str]) -> None:
    for state in BEFORE_SIGNING:
        ((name, detail),) = unmet(
            state, with_plane(replace(PLANE, anchors=anchors, detail="not written yet"))
        )
        assert name == "istiod_trust"
        assert "lacks" in detail
        assert detail.endswith(": not written yet")
        ((name, detail),) = unmet(state, replace(SERVED, webhooks=(replace(HOOK, anchors=anchors),)))
        assert name == "webhooks"
        assert "istio-sidecar-injector" in detail
        assert "restart istiod" in detail


@pytest.mark.parametrize(
    ("state", "stays", "leaves"),
    [
        (State.ACTIVE, NEW, OLD),
        (State.EMERGENCY, NEW, OLD),
        (State.ABORTING, OLD, NEW),
    ],
)
def test_the_side_that_stays_is_trusted_before_the_other_is_removed(
    state: State, stays: frozenset[str], leaves: frozenset[str]
) -> None:
    plane = of_side(state)
    assert (
        unmet(state, with_plane(replace(plane, anchors=stays), webhooks=(replace(HOOK, anchors=stays),)))
        == []
    )
    found = unmet(
        state, with_plane(replace(plane, anchors=leaves), webhooks=(replace(HOOK, anchors=leaves),))
    )
    assert [name for name, _ in found] == ["istiod_trust", "webhooks"]


@pytest.mark.parametrize(
    ("state", "new", "issuer", "met"),
    [
        pytest.param(State.ACTIVE, "b1", ISSUER["b1"], True, id="new"),
        pytest.param(State.ACTIVE, "b1", ISSUER["a1"], False, id="old"),
        pytest.param(State.ACTIVE, "b1", ISSUER["a2"], False, id="an earlier one of the old root"),
        pytest.param(State.ACTIVE, "b1", "", False, id="not known"),
        pytest.param(State.EMERGENCY, "b1", ISSUER["a1"], False, id="emergency"),
        pytest.param(State.ABORTING, "b1", ISSUER["a1"], True, id="abort, old"),
        pytest.param(State.ABORTING, "b1", ISSUER["b1"], False, id="abort, new"),
        pytest.param(State.ACTIVE, "a2", ISSUER["a2"], True, id="same root, new"),
        pytest.param(State.ACTIVE, "a2", ISSUER["a1"], False, id="same root, old"),
        pytest.param(State.ABORTING, "a2", ISSUER["a2"], False, id="same root, abort"),
    ],
)
def test_istiods_certificate_is_of_the_side_that_stays(
    state: State, new: str, issuer: str, met: bool
) -> None:
    found = unmet(state, with_plane(replace(PLANE, issuer=issuer)), new=new)
    assert [name for name, _ in found] == ([] if met else ["istiod_issuer"])


def test_a_certificate_that_has_expired_serves_nothing() -> None:
    ((name, detail),) = unmet(State.ACTIVE, with_plane(replace(PLANE, not_after=NOW)))
    assert (name, "expired" in detail) == ("istiod_issuer", True)


@pytest.mark.parametrize("wave", [0, 1])
def test_a_removal_ends_once_each_ca_file_is_what_is_meant(wave: int) -> None:
    """An abort waits for it after its removal; before that it waits for the side that stays."""
    late = replace(PLANE, current=False, detail="generation 2 is there")
    if not wave:
        ((name, detail),) = unmet(State.UNPUBLISHING, with_plane(late))
        assert (name, detail.endswith("generation 2 is there")) == ("observed", True)
    aborted = replace(late, issuer=ISSUER["a1"])
    found = [name for name, _ in unmet(State.ABORTING, with_plane(aborted), wave=wave)]
    assert found == (["observed"] if wave else [])
    gone = replace(aborted, issuer=ISSUER["b1"], anchors=NEW)
    assert [name for name, _ in unmet(State.ABORTING, with_plane(gone), wave=1)] == ["observed"]


@pytest.mark.parametrize(
    ("anchors", "state", "met"),
    [
        (frozenset({"c" * 64}), State.SOAKED, True),
        (frozenset({"c" * 64}), State.ACTIVE, True),
        (frozenset[str](), State.ACTIVE, True),
        (NEW, State.ACTIVE, True),
        (BOTH, State.ACTIVE, True),
        (OLD, State.SOAKED, False),
        (OLD, State.ACTIVE, False),
        (OLD, State.ABORTING, True),
        (NEW, State.ABORTING, False),
    ],
)
def test_an_istiod_whose_certificate_the_hub_does_not_provide(
    anchors: frozenset[str], state: State, met: bool
) -> None:
    """No rotation re-signs it: it is in the way only where the side that is left is all that verifies it."""
    facts = with_plane(of_side(state), webhooks=(HOOK, replace(OTHER, anchors=anchors)))
    found = unmet(state, facts)
    assert [name for name, _ in found] == ([] if met else ["webhooks"])
    if met:
        (said,) = [
            c.detail
            for c in gate(rotation_record(state), one(facts, state)).conditions
            if c.name == "webhooks" and c.cluster == "one"
        ]
        assert "another CA" in said
    else:
        assert "does not provide" in found[0][1]


def test_many_webhooks_are_named_by_a_few() -> None:
    hooks = tuple(replace(HOOK, name=f"hook {number}", anchors=OLD) for number in range(40))
    assert len(unmet(State.ACTIVE, replace(SERVED, webhooks=hooks))) == MOST_NAMED


def test_a_quarantined_cluster_is_not_waited_for_and_an_emergencys_deadline_overrides() -> None:
    bad = with_plane(replace(PLANE, issuer=ISSUER["a1"], anchors=OLD), webhooks=None)
    quarantine = Quarantine(reason="lost", author="operator", since=NOW)
    for state in (*BEFORE_SIGNING, *BEFORE_REMOVAL):
        assert unmet(state, bad)
        quarantined = changed(rotation_record(state), quarantined={"one": quarantine})
        found = {c.name for c in gate(quarantined, one(bad, state)).unmet}
        assert not found & (NAMES | {"observed"})
    declared = rotation_record(State.EMERGENCY)
    assert declared.rotation is not None
    for deadline, after in ((NOW + 1.0, State.EMERGENCY), (NOW, State.UNPUBLISHING)):
        urgent = changed(declared, rotation=changed(declared.rotation, deadline=deadline))
        moved = advance(urgent, one(bad, State.EMERGENCY)).rotation
        assert moved is not None
        assert moved.state is after


def test_the_way_back_from_a_quarantine() -> None:
    for facts, name in (
        (with_plane(replace(PLANE, anchors=OLD)), "return_istiod_trust"),
        (with_plane(PLANE, webhooks=(replace(HOOK, anchors=OLD),)), "return_webhooks"),
        (with_plane(PLANE, webhooks=None), "return_webhooks"),
    ):
        verdict = return_gate(rotation_record(State.ACTIVE), "one", one(facts))
        assert [c.name for c in verdict.unmet] == [name]
        assert [c.name for c in return_gate(rotation_record(State.RETIRED), "one", one(facts)).unmet] == [
            name
        ]
    old_alone = with_plane(replace(PLANE, anchors=OLD), webhooks=(replace(HOOK, anchors=OLD),))
    assert return_gate(rotation_record(State.STAGED), "one", one(old_alone)).open
    idle = replace(PLANE, anchors=None)
    for state in (State.ACTIVE, State.RETIRED):  # it gets a certificate only once it has returned
        served_nothing = with_plane(idle, webhooks=(replace(HOOK, anchors=OLD),))
        assert return_gate(rotation_record(state), "one", one(served_nothing)).open
        unread = with_plane(replace(idle, read_back_at=0.0), webhooks=(HOOK,))
        found = return_gate(rotation_record(state), "one", one(unread)).unmet
        assert [c.name for c in found] == ["return_istiod_trust"]
    nothing_signed = with_plane(replace(PLANE, anchors=None), webhooks=None)
    assert return_gate(changed(rotation_record(State.ACTIVE), rotation=None), "one", one(nothing_signed)).open


def test_an_abort_after_a_removal_waits_until_webhooks_have_settled() -> None:
    restored = changed(rotation_record(State.ACTIVE, since=NOW - 10.0))
    (condition,) = trusts(restored, one(SERVED), OLD).unmet
    assert (condition.name, condition.until) == ("webhooks_settled", NOW - 10.0 + WORLD.fresh)
    later = replace(one(SERVED), now=condition.until)
    assert trusts(restored, later, OLD).open
    assert trusts(restored, one(HEALTHY), OLD).open, "there is no istiod"
    for facts, name in (
        (with_plane(replace(PLANE, anchors=NEW)), "istiod_trust"),
        (with_plane(PLANE, webhooks=(replace(HOOK, anchors=NEW),)), "webhooks"),
    ):
        late = replace(later, clusters={"one": facts, "two": HEALTHY})
        assert [c.name for c in trusts(restored, late, OLD).unmet] == [name]


@pytest.mark.parametrize(
    ("facts", "lost"),
    [
        (SERVED, {}),
        (HEALTHY, {}),
        (with_plane(replace(PLANE, issuer=ISSUER["a1"])), {ISTIOD_OF_LEFT: NOW + 20.0}),
        (with_plane(replace(PLANE, anchors=OLD)), {ISTIOD_REFUSES: NOW}),
        (with_plane(replace(PLANE, anchors=None)), {ISTIOD_REFUSES: NOW}),
        (with_plane(PLANE, webhooks=(replace(HOOK, anchors=OLD),)), {WEBHOOKS_REFUSE: NOW}),
        (with_plane(PLANE, webhooks=None), {WEBHOOKS_REFUSE: NOW}),
        (with_plane(PLANE, webhooks=(HOOK, replace(OTHER, anchors=OLD))), {ISTIOD_OF_ANOTHER: NOW + 20.0}),
        (with_plane(PLANE, webhooks=(HOOK, replace(OTHER, anchors=frozenset()))), {}),
    ],
)
def test_what_an_emergency_costs_the_control_plane(facts: ClusterFacts, lost: dict[str, float]) -> None:
    rotation = rotation_record(State.ACTIVE).rotation
    assert rotation is not None
    found = losses(rotation, one(facts), at=NOW + 20.0)
    assert {loss.what: loss.begins for loss in found} == lost
    assert {loss.cluster for loss in found} <= {"one"}
    assert all(loss.ends == 0.0 for loss in found)
    at_once = losses(rotation, one(facts), at=float("inf"))
    assert {loss.what for loss in at_once} == {what for what, begins in lost.items() if begins == NOW}
    mirrored = losses(
        rotation,
        one(with_plane(replace(PLANE, anchors=NEW), webhooks=(replace(HOOK, anchors=NEW),))),
        at=NOW + 20.0,
        leaving_new=True,
    )
    assert {loss.what for loss in mirrored} == {WEBHOOKS_REFUSE, ISTIOD_REFUSES, ISTIOD_OF_LEFT}


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (HEALTHY, {}),
        (with_plane(replace(PLANE, anchors=OLD), webhooks=(replace(HOOK, anchors=OLD),)), {}),
        (
            with_plane(replace(PLANE, anchors=None, detail="forbidden")),
            {PLANE.name: "istiod_trust: forbidden"},
        ),
        (with_plane(replace(PLANE, anchors=NEW)), {PLANE.name: "istiod_trust: its ca.crt lacks"}),
        (
            with_plane(PLANE, webhooks=(replace(HOOK, anchors=frozenset()),)),
            {HOOK.name: "webhooks: its caBundle"},
        ),
        (with_plane(PLANE, webhooks=(replace(OTHER, anchors=OLD),)), {OTHER.name: "webhooks: it verifies"}),
        (with_plane(PLANE, webhooks=(replace(OTHER, anchors=frozenset({"c" * 64})),)), {}),
    ],
)
def test_a_plan_names_what_a_rotation_would_wait_for_as_things_are(
    facts: ClusterFacts, found: dict[str, str]
) -> None:
    """And nothing that the rotation itself brings about: nothing has the new root yet."""
    obstacles_found = obstacles(facts, SIDES["a1"], SIDES["b1"])
    assert obstacles_found.keys() == found.keys()
    assert all(obstacles_found[name].startswith(start) for name, start in found.items())
