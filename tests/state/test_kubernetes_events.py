"""Events on the objects of the state, as an operator finds them, and that nothing depends on them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import ClusterTimeout
from federation.core.identity import ClusterName
from federation.kubernetes.session import ClusterSession
from federation.state.kubernetes_events import AGAIN, BURST, EVERY, MOST_NOTE, About, EventWriter, StateEvent
from federation.state.kubernetes_store import object_name
from federation_sandbox.cluster import SandboxCluster
from tests.support.clock import VirtualClock

NAMESPACE = "federation-state"


@dataclass
class Hub:
    """The hub's cluster, and what writes Events there."""

    box: SandboxCluster
    writer: EventWriter
    clock: VirtualClock

    def events(self) -> list[dict[str, Any]]:
        return list(self.box.objects("events", NAMESPACE))


@pytest.fixture
async def box() -> AsyncIterator[SandboxCluster]:
    async with SandboxCluster("events", controllers=False, signing_algorithm="ES256") as cluster:
        cluster.create_namespace(NAMESPACE)
        for key in ("current", "rotation"):
            cluster.create("configmaps", {"metadata": {"name": object_name(key)}}, namespace=NAMESPACE)
        cluster.create(
            "leases",
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": object_name("controller")},
                "spec": {},
            },
            namespace=NAMESPACE,
        )
        yield cluster


@pytest.fixture
async def hub(box: SandboxCluster, tmp_path: Path) -> AsyncIterator[Hub]:
    clock = VirtualClock()
    session = await ClusterSession.open(
        Credentials(kubeconfig=box.write_kubeconfig(tmp_path / "kubeconfig")),
        cluster=ClusterName("state"),
        timeouts=ClusterTimeouts(),
        clock=clock,
    )
    async with session:
        yield Hub(box, EventWriter(session, clock, NAMESPACE, "controller-0"), clock)


def always() -> bool:
    return True


def event(**changes: Any) -> StateEvent:
    return StateEvent(
        **{"about": About.TRUST, "reason": "GenerationInForce", "note": "generation 5 is in force", **changes}
    )


@pytest.mark.parametrize("about", About)
async def test_an_event_is_on_its_object(hub: Hub, about: About) -> None:
    await hub.writer.write(event(about=about, is_warning=about is About.ROTATION), permitted=always)

    (found,) = hub.events()
    regarding = found["involvedObject"]
    plural = {"ConfigMap": "configmaps", "Lease": "leases"}[regarding["kind"]]
    (there,) = [
        item for item in hub.box.objects(plural, NAMESPACE) if item["metadata"]["name"] == regarding["name"]
    ]
    assert regarding["uid"] == there["metadata"]["uid"]
    assert (found["reason"], found["message"]) == ("GenerationInForce", "generation 5 is in force")
    assert found["type"] == ("Warning" if about is About.ROTATION else "Normal")
    assert found["source"] == {"component": "federation-hub", "host": "controller-0"}
    assert found["count"] == 1


async def test_what_happens_again_is_counted_in_the_same_event(hub: Hub) -> None:
    for note in ("first", "second", "third"):
        await hub.writer.write(event(note=note, of="x"), permitted=always)
        hub.clock.jump(60)
    await hub.writer.write(event(note="another", of="y"), permitted=always)

    by_note = {found["message"]: found for found in hub.events()}
    assert {note: found["count"] for note, found in by_note.items()} == {"third": 3, "another": 1}
    assert by_note["third"]["firstTimestamp"] < by_note["third"]["lastTimestamp"]
    hub.clock.jump(AGAIN + 1)
    await hub.writer.write(event(note="later", of="x"), permitted=always)
    assert {found["message"] for found in hub.events()} == {"third", "another", "later"}


async def test_an_event_that_has_ended_is_written_anew(hub: Hub) -> None:
    await hub.writer.write(event(), permitted=always)
    (found,) = hub.events()
    hub.box.delete("events", NAMESPACE, found["metadata"]["name"])
    await hub.writer.write(event(), permitted=always)
    (again,) = hub.events()
    assert again["metadata"]["name"] != found["metadata"]["name"]
    assert again["count"] == 1
    assert hub.writer.counts.failed == 0


async def test_no_more_are_written_than_a_person_reads(hub: Hub) -> None:
    for number in range(BURST + 5):
        await hub.writer.write(event(of=str(number)), permitted=always)
    assert (hub.writer.counts.written, hub.writer.counts.dropped) == (BURST, 5)
    hub.clock.jump(2 * EVERY)
    for number in range(5):
        await hub.writer.write(event(of=f"later {number}"), permitted=always)
    assert (hub.writer.counts.written, hub.writer.counts.dropped) == (BURST + 2, 8)
    assert len(hub.events()) == BURST + 2


@pytest.mark.parametrize("again", [False, True])
async def test_none_is_written_by_a_process_that_leads_no_more(hub: Hub, again: bool) -> None:
    """It asked for the object before, and may have been stopped meanwhile: what counts is when a write is sent."""
    if again:
        await hub.writer.write(event(), permitted=always)
    before = hub.events()
    asked = hub.box.requests.count(verb="get")
    await hub.writer.write(event(), permitted=lambda: False)
    assert hub.events() == before
    assert again or hub.box.requests.count(verb="get") > asked
    assert (hub.writer.counts.dropped, hub.writer.counts.failed) == (1, 0)


async def test_a_long_note_is_cut(hub: Hub) -> None:
    await hub.writer.write(event(note="x" * 5000), permitted=always)
    (found,) = hub.events()
    assert found["message"] == "x" * MOST_NOTE


async def test_what_cannot_be_written_is_counted_and_said_once(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    class Refuses:
        async def request(self, method: str, path: str, **_: Any) -> bytes:
            raise ClusterTimeout(f"{method} {path} was not answered", where="state")

    writer = EventWriter(Refuses(), hub.clock, NAMESPACE, "controller-0")
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            await writer.write(event(of=str(number)), permitted=always)
    assert writer.counts.failed == 3
    assert len(caplog.records) == 1
    assert "nothing else is affected" in caplog.text


async def test_an_object_that_is_gone_costs_its_event_alone(hub: Hub) -> None:
    with contextlib.ExitStack() as stack:
        hub.box.delete("configmaps", NAMESPACE, object_name("rotation"))
        stack.callback(
            hub.box.create,
            "configmaps",
            {"metadata": {"name": object_name("rotation")}},
            namespace=NAMESPACE,
        )
        await hub.writer.write(event(about=About.ROTATION), permitted=always)
        await hub.writer.write(event(), permitted=always)
    assert (hub.writer.counts.written, hub.writer.counts.failed) == (1, 1)
