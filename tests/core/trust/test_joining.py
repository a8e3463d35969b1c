"""Which step a joining cluster is at: each by its evidence, none skipped, and unknown never counts as done."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.rotation.cluster_conditions import unmet
from federation.core.rotation.world import ClusterFacts, ControlPlane, Webhook, World
from federation.core.trust.expiry_bounds import Delivered
from federation.core.trust.joining import (
    ISTIOD,
    Arrival,
    IstiodSeen,
    IstioSeen,
    JoinStep,
    Position,
    SidecarsSeen,
    concerns,
    position,
    serves,
)

HUB, OWN = "hub", "own"
NOW = 1000.0
LIFE = 100.0
BOTH = frozenset({HUB, OWN})


def facts(**changes: Any) -> ClusterFacts:
    return replace(ClusterFacts(anchors=BOTH, current=True, own_issues=True), **changes)


def world(**changes: Any) -> World:
    made = World(
        now=NOW,
        clusters={"east": facts(own_issues=False), "west": facts()},
        expiry_bounds={},
        generations={1: frozenset({HUB}), 2: BOTH},
        in_force=2,
        skew=0.0,
    )
    return replace(made, **changes)


SETTINGS = IstioSeen(
    istiods=(IstiodSeen(name="istio-system/istiod", ca_server=True, settled=True, rolled_out=950.0),),
    addresses={"istio-sidecar-injector": "hub.example:15443"},
    trust_domains={"istio-system/istio": "mesh.example"},
)

JOINED = Arrival(
    name="west",
    facts=facts(
        control_planes=(ControlPlane(name="istio-system/istiod-tls", issuer="i", current=True),),
        webhooks=(Webhook(name="injector", istiod="istio-system/istiod", anchors=BOTH),),
    ),
    own=frozenset({OWN}),
    accepted=frozenset({OWN}),
    served_since=NOW - LIFE - 1,
    provided_since=940.0,
    longest=LIFE,
    distributors=(ISTIOD,),
    listeners=frozenset({"hub.example"}),
    trust_domain="mesh.example",
    istio=replace(SETTINGS, istiods=(replace(SETTINGS.istiods[0], ca_server=False),)),
    sidecars=SidecarsSeen(pods=3, with_certificate=3),
    dropping=(unmet("own_earlier", "leaves of its own CA may live", "west", NOW + LIFE),),
)
"""Everything is done but that the takeover is declared."""


def at(arrival: Arrival, seen: World | None = None) -> Position:
    return position(arrival, seen or world(), frozenset({HUB}))


def test_the_takeover_is_the_next_step_once_everything_before_was_observed() -> None:
    found = at(JOINED)
    assert found.current is JoinStep.TAKEOVER
    assert all(seen.done for seen in found.steps[: list(JoinStep).index(JoinStep.TAKEOVER)])
    assert not found.past(JoinStep.TAKEOVER)
    assert found.past(JoinStep.SWITCH_OFF)


@pytest.mark.parametrize(
    ("step", "changes", "expected"),
    [
        (
            JoinStep.ACCEPT,
            {"istio": replace(SETTINGS, trust_domains={"istio-system/istio": "cluster.local"})},
            "has the trust domain cluster.local, and the hub signs for mesh.example alone",
        ),
        (JoinStep.ACCEPT, {"unaccepted": ("CN=own (SHA-256 abc)",)}, "CN=own"),
        (JoinStep.ACCEPT, {"own": frozenset()}, "not written down"),
        (JoinStep.SERVE, {"served_since": None, "facts": facts(anchors=frozenset({OWN}))}, "without hub"),
        (JoinStep.SERVE, {"served_since": None, "facts": facts(current=False)}, "other bytes"),
        (JoinStep.SERVE, {"served_since": None, "facts": facts(anchors=None, detail="timeout")}, "timeout"),
        (JoinStep.RENEW, {"served_since": NOW - LIFE + 1}, "may live until"),
        (JoinStep.CONTROL_PLANE, {"istio": None}, "not read yet"),
        (JoinStep.CONTROL_PLANE, {"istio": replace(SETTINGS, unread=("list x: forbidden",))}, "forbidden"),
        (JoinStep.CONTROL_PLANE, {"provided_since": None}, "does not provide"),
        (JoinStep.CONTROL_PLANE, {"provided_since": None, "facts": facts()}, "federation rotate takeover"),
        (JoinStep.CONTROL_PLANE, {"provided_since": 960.0}, "was not restarted"),
        (
            JoinStep.CONTROL_PLANE,
            {"facts": facts(webhooks=(Webhook(name="injector", istiod="i", anchors=frozenset({OWN})),))},
            "injector does not verify hub",
        ),
        (
            JoinStep.CONTROL_PLANE,
            {"facts": facts(webhooks=None, webhooks_detail="forbidden")},
            "webhooks cannot be read",
        ),
        (JoinStep.MOVE, {"sidecars": None}, "not known which pods"),
        (
            JoinStep.MOVE,
            {"sidecars": SidecarsSeen(pods=3, with_certificate=2, never_requested=("shop/a",))},
            "1 of 3 pods with a sidecar have no certificate of the hub yet: shop/a",
        ),
        (JoinStep.MOVE, {"istio": replace(SETTINGS, addresses={"injector": ""})}, "to istiod"),
        (JoinStep.MOVE, {"istio": replace(SETTINGS, addresses={"ztunnel": "other:1"})}, "to other:1"),
        (JoinStep.SWITCH_OFF, {"istio": SETTINGS}, "has its CA on"),
        (
            JoinStep.SWITCH_OFF,
            {"istio": replace(SETTINGS, istiods=(replace(SETTINGS.istiods[0], ca_server=None),))},
            "not known",
        ),
        (JoinStep.SWITCH_OFF, {"distributors": ("cert-manager-istio-csr",)}, "cannot be seen"),
        (JoinStep.DROP, {"issuing": False}, "may live"),
        (JoinStep.DROP, {"issuing": False, "dropping": ()}, "in the bundle still"),
    ],
)
def test_the_first_step_that_was_not_observed_is_the_current_one(
    step: JoinStep, changes: dict[str, Any], expected: str
) -> None:
    found = at(replace(JOINED, **changes))
    assert found.current is step
    assert expected in "; ".join(condition.detail for condition in found.waits_for)


def test_the_root_has_to_be_in_the_bundle_before_it_can_be_served() -> None:
    assert at(replace(JOINED, served_since=None), world(in_force=1)).current is JoinStep.ACCEPT


def test_certificates_of_the_hub_and_other_clusters_are_waited_for_as_well() -> None:
    late = world(expiry_bounds={Delivered("east", "i", 1): NOW + 50})
    (waits,) = at(JOINED, late).waits_for
    assert (waits.cluster, waits.until) == ("east", NOW + 50)
    unread = world(clusters={"east": facts(anchors=None, detail="unreachable"), "west": facts()})
    assert [c.detail for c in at(JOINED, unread).waits_for] == ["unreachable"]
    lacking = world(clusters={"east": facts(anchors=frozenset({HUB})), "west": facts()})
    assert [c.detail for c in at(JOINED, lacking).waits_for] == ["some namespace lacks own"]


def test_a_cluster_that_came_with_the_hubs_own_root_needs_no_drop() -> None:
    came = replace(JOINED, own=frozenset({HUB}), accepted=frozenset())
    assert at(came).current is JoinStep.TAKEOVER
    over = replace(came, issuing=False)
    assert at(over).current is None
    assert not concerns(over, world())


def test_it_concerns_clusters_with_a_ca_of_their_own_alone() -> None:
    assert not concerns(replace(JOINED, own=frozenset(), accepted=frozenset()), world())
    assert concerns(replace(JOINED, own=frozenset(), unaccepted=("x",)), world())
    assert concerns(replace(JOINED, issuing=False), world())
    assert not concerns(replace(JOINED, issuing=False), world(in_force=1))


def test_serving_starts_with_equal_bytes_and_ends_with_a_missing_root() -> None:
    roots = frozenset({HUB})
    assert serves(facts(), roots) is True
    assert serves(facts(current=False), roots) is None, "the same roots: another writer puts its bytes back"
    assert serves(facts(anchors=None), roots) is None
    assert serves(facts(anchors=frozenset({OWN})), roots) is False
    assert serves(facts(anchors=frozenset({OWN}), current=True), roots) is False


@given(
    st.fixed_dictionaries(
        {
            "served_since": st.sampled_from([None, NOW - LIFE - 1, NOW]),
            "provided_since": st.sampled_from([None, 940.0, 960.0]),
            "istio": st.sampled_from([None, SETTINGS, JOINED.istio, replace(SETTINGS, addresses={"i": ""})]),
            "sidecars": st.sampled_from(
                [None, SidecarsSeen(pods=2, with_certificate=1), SidecarsSeen(pods=2, with_certificate=2)]
            ),
            "issuing": st.booleans(),
            "unaccepted": st.sampled_from([(), ("x",)]),
        }
    )
)
def test_steps_are_listed_in_order_and_the_current_one_has_what_it_waits_for(
    changes: dict[str, Any],
) -> None:
    found = at(replace(JOINED, **changes))
    assert [seen.step for seen in found.steps] == list(JoinStep)
    present = found.current
    assert (present is None) == (not found.waits_for)
    for step in JoinStep:
        assert found.past(step) is all(seen.done for seen in found.steps[: list(JoinStep).index(step) + 1])


def test_a_later_restart_of_istiod_does_not_reset_finished_steps() -> None:
    """Settings of later steps restart istiod as well: what is waited for is that version, in the step it is for."""
    (istiod,) = JOINED.istio.istiods if JOINED.istio is not None else ()
    assert JOINED.istio is not None
    restarting = replace(JOINED.istio, istiods=(replace(istiod, settled=False),))
    found = at(replace(JOINED, istio=restarting))
    assert found.current is JoinStep.SWITCH_OFF
    passed = [step for step in found.steps if step.step is JoinStep.CONTROL_PLANE]
    assert all(condition.met for step in passed for condition in step.conditions)


@given(provided=st.floats(900.0, 940.0), after=st.floats(0.001, 5.0))
def test_a_restart_counts_from_the_moment_that_the_certificate_is_provided(
    provided: float, after: float
) -> None:
    """Kubernetes records whole seconds: a restart in the same second appears earlier, and a join waited for ever."""
    assert JOINED.istio is not None
    (istiod,) = JOINED.istio.istiods
    restarted = replace(istiod, rolled_out=float(math.floor(provided + after)))
    seen = replace(JOINED.istio, istiods=(restarted,))
    assert at(replace(JOINED, istio=seen, provided_since=provided)).current is not JoinStep.CONTROL_PLANE
