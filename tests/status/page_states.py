"""The states in which the page is looked at: by name, the clusters there are and what is different in their world.

``tests.status.screenshots`` takes pictures of all of them; the tests check some by rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from federation.core.documents.controller import RotationReport
from federation.core.documents.signer import SignerClusterReport, SignerReport, WorkloadsReport
from federation.core.documents.trust import Proposal
from federation.core.rotation.record import State
from federation.status.history import EVERY, KEPT, STEP, History
from federation.status.model import HistoryView
from tests.status.rotations import met, plan, quarantine, report_rotation, rotate, unmet
from tests.status.worlds import DAY, INTERMEDIATE, World

THREE = ("east", "west", "north")
REGIONS = ("eu", "us", "ap", "sa")


def fleet(count: int) -> tuple[str, ...]:
    """Names as a fleet has them."""
    return tuple(f"prod-{REGIONS[number % 4]}-{number // 4:02d}" for number in range(count))


@dataclass(frozen=True, slots=True)
class PageState:
    """What there is, and where it is looked at: the part of the address after ``#``, a button that is pressed."""

    names: tuple[str, ...] = THREE
    change: Callable[[World], None] = lambda _: None
    place: str = ""
    press: str = ""
    operates: bool = False


def loses(name: str) -> Callable[[World], None]:
    """That cluster is gone: neither role reaches it, and its certificates end one after another."""

    def change(world: World) -> None:
        trouble = {
            "state": "unavailable",
            "reason": "unreachable",
            "detail": "no connection to 10.0.0.7:6443: Connection refused",
            "remedy": "check the network between the hub and the cluster's API server, and that it runs",
        }
        world.edit_seen(name, **trouble, since=world.now - 31680)
        last = WorkloadsReport(
            detail="its pods are not watched at present",
            first_end=world.now + 3600,
            last_end=world.now + 11400,
        )
        for replica in world.signers:
            world.edit_on_signer(replica, name, **trouble, workloads=last)

    return change


def _well(world: World) -> None:
    for replica in world.signers:
        for number, name in enumerate(world.names):
            seen = world.signers[replica].clusters[name]
            ends = {
                "first_end": world.now + 3600 * (1 + number % 7),
                "last_end": world.now + 82000 - 600 * number,
            }
            world.edit_on_signer(replica, name, workloads=replace(seen.workloads, **ends))


def _proposals(world: World) -> None:
    found = [
        Proposal(
            sha256=f"{number:02x}" * 32,
            subject=f"CN=istio-ca of {name},O=cluster.local",
            cluster=name,
            origin="ConfigMap istio-system/istio-ca-root-cert",
            not_after=world.now + 3000 * DAY,
            first_seen=world.now - 3600,
        )
        for number, name in enumerate(world.names[:2], start=0xC1)
    ]
    world.edit_leader(proposals=found)


def _expired(world: World) -> None:
    ended = world.now - 5400
    generation = world.generations[7]
    anchors = [replace(a, not_after=ended) if a.sha256 == INTERMEDIATE else a for a in generation.anchors]
    world.generations[7] = replace(generation, anchors=anchors)
    for replica, signer in world.signers.items():
        assert signer.authority is not None
        world.edit_signer(replica, authority=replace(signer.authority, not_after=ended))


def _quarantined(world: World) -> None:
    quarantine(world, "north")


def _plan(world: World) -> None:
    report_rotation(world, plan(world.now))


def _gate_unknown(world: World) -> None:
    rotate(world, State.PUBLISHING)
    report_rotation(world, RotationReport(computed=world.now - 900))


def rotating(state: State) -> Callable[[World], None]:
    """A rotation in that state, which waits for two clusters where it waits."""

    def change(world: World) -> None:
        later = world.now + 5400
        waits = (
            unmet(
                "leaves", "west", later, "leaves that were delivered without the new root may live until then"
            ),
            unmet("read_back", "north", 0.0, "40 of 48 namespaces hold generation 7"),
            met("matrix", "every ordered pair validates with both roots"),
            met("issuer", "every signer has the new intermediate and has tried it"),
        )
        more: dict[str, object] = {}
        if state is State.EMERGENCY:
            more = {"deadline": world.now + 7200, "ttl_cap": 3600.0}
        if state is State.SOAKED:
            more = {"paused": "the canary failed: east refused a certificate of the new authority"}
        if state is not State.RETIRED:
            rotate(world, state, *waits, opens_at=later, **more)
            world.edit_publication("north", current=40, pending=8)
            world.edit_signer("signer-1", directives="STAGED")
        else:
            rotate(world, state)

    return change


def _hundred_faults(world: World) -> None:
    loses(world.names[17])(world)
    lacking = world.names[42]
    cells = {(name, lacking): "x" for name in world.names if name not in {lacking, world.names[17]}}
    reason = "its server certificate does not chain to an anchor that the caller holds"
    world.set_cells(cells, {f"{client}>{server}": reason for client, server in cells})


def _forty_faults(world: World) -> None:
    loses(world.names[5])(world)
    loses(world.names[23])(world)
    world.edit_publication(world.names[31], current=47, pending=1)


STATES: Mapping[str, PageState] = {
    "healthy": PageState(change=_well),
    "down": PageState(change=loses("west")),
    "down-cluster": PageState(change=loses("west"), place="/clusters/west"),
    "down-pair": PageState(change=loses("west"), place="/pairs/east/west"),
    "generation": PageState(place="/generations/7"),
    "nowhere": PageState(place="/clusters/nowhere"),
    "proposals": PageState(change=_proposals),
    "expired": PageState(change=_expired),
    "quarantined": PageState(change=_quarantined),
    "plan": PageState(change=_plan, operates=True),
    "gate-unknown": PageState(change=_gate_unknown),
    **{
        f"rotation-{state.value.lower()}": PageState(change=rotating(state), operates=True)
        for state in State
        if state is not State.STABLE
    },
    "forty": PageState(names=fleet(40), change=_forty_faults),
    "hundred": PageState(names=fleet(100), change=_hundred_faults),
    "forty-pairs": PageState(names=fleet(40), change=_forty_faults, press="Every pair"),
    "hundred-pairs": PageState(names=fleet(100), change=_hundred_faults, press="Every pair"),
    "hundred-healthy": PageState(names=fleet(100), change=_well),
}


def hours(now: float) -> HistoryView:
    """Six hours as they would have been counted: a wave over the day, a burst of refusals, a gap, a few that ended."""
    history = History(now - KEPT * STEP)
    issued = refused = 0
    for number in range(int(KEPT * STEP / EVERY)):
        at = now - KEPT * STEP + number * EVERY
        minute = number // 3
        issued += 2 + (minute % 40) // 8 + (6 if minute % 90 < 4 else 0)
        refused += 5 if 200 <= minute < 214 else minute % 61 == 0
        if 120 <= minute < 131:
            continue  # the state could not be read
        ended = 3 if 210 <= minute < 240 else 0
        report = SignerClusterReport(
            state="ready",
            issued=issued,
            refused={"policy": refused},
            workloads=WorkloadsReport(workloads=12, with_certificate=12 - ended, lapsed=ended, detail=""),
        )
        signer = SignerReport(
            replica="signer-0",
            started=now - DAY,
            updated=at,
            heartbeat=2.0,
            ready=True,
            clusters={"east": report},
        )
        history.observe({"signer-0": signer}, at)
    return history.view(now)
