"""A member that publishes another's token key gets none of its tokens to see, and changes nothing for its callers.

Clusters in a box, a real signer and its listener. ``west`` is hostile: it is an honest cluster that publishes the
public key of ``east`` besides its own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from federation.core.documents.signer import SharedTokenKey
from federation_sandbox.apiserver.authentication import SigningKey
from federation_sandbox.apiserver.faults import Answer as Status
from federation_sandbox.apiserver.faults import Hang, Silence
from federation_sandbox.cluster import SandboxCluster
from federation_sandbox.hostile import publish_keys_of
from tests.signer.running_signer import Answer, RunningSigner, eventually, identity_of, running_signer

KEYS_PATH = "/openid/v1/jwks"
OK = grpc.StatusCode.OK


def reviews(box: SandboxCluster) -> int:
    return box.requests.count(verb="create", resource="tokenreviews")


def refused(answer: Answer) -> bool:
    return answer.code is grpc.StatusCode.UNAUTHENTICATED


def unavailable(answer: Answer) -> bool:
    return answer.code is grpc.StatusCode.UNAVAILABLE


async def keys_read(hub: RunningSigner, *names: str) -> None:
    """Have the signer read the keys of these clusters now."""
    for name in names:
        await hub.attestors[name].keys.refresh()


def keys(hub: RunningSigner, name: str) -> int:
    """How many keys of that cluster the signer knows."""
    report = hub.role.report().clusters.get(name)
    return report.keys if report is not None else 0


async def poison(hub: RunningSigner, victim: str = "east", by: str = "west") -> None:
    publish_keys_of(hub.clusters[victim], on=hub.clusters[by])
    await keys_read(hub, by)


def shared(hub: RunningSigner) -> list[SharedTokenKey]:
    return hub.role.report().shared_keys


async def prove(hub: RunningSigner, name: str) -> None:
    """What the controller's probe does all the time."""
    box = hub.clusters[name]
    token = box.token("federation-system", "federation-probe")
    identity = identity_of("federation-system", "federation-probe")
    assert (await hub.ask(name, token, identity=identity)).code is OK


@pytest.mark.parametrize("cluster_id", [None, "Kubernetes", "east"])
async def test_a_published_key_takes_nothing_from_the_one_that_published_it_first(
    tmp_path: Path, cluster_id: str | None
) -> None:
    async with running_signer(tmp_path, ("east", "west")) as hub:
        token = hub.pod("east")
        await poison(hub)
        for name in ("bar-1", "bar-2", "bar-3"):  # new pods, some of which only a review can decide
            assert (await hub.ask(cluster_id, hub.pod("east", name=name))).code is OK
        assert (await hub.ask(cluster_id, token)).code is OK
        assert reviews(hub.clusters["west"]) == 0
        (finding,) = shared(hub)
        assert (finding.clusters, finding.holder) == (["east", "west"], "east")


@pytest.mark.parametrize("attestation", ["auto", "token-review"])
@pytest.mark.parametrize("cluster_id", [None, "Kubernetes", "east"])
async def test_while_the_victim_reconnects_its_tokens_go_nowhere_else(
    tmp_path: Path, cluster_id: str | None, attestation: str
) -> None:
    """Seen once: they were sent to the hostile member's TokenReview."""

    def setup(hub: RunningSigner) -> None:
        hub.options = dict.fromkeys(hub.clusters, f'attestation = "{attestation}"')

    async with running_signer(tmp_path, ("east", "west"), setup=setup) as hub:
        await eventually(lambda: keys(hub, "east") and keys(hub, "west"))
        token = hub.pod("east")
        await poison(hub)
        await hub.stop()
        with hub.clusters["east"].faults.inject(Status.server_error(), path=KEYS_PATH):
            await hub.start()
            await eventually(lambda: hub.role.report().ready and keys(hub, "west") == 2)
            answer = await hub.ask(cluster_id, token)
            assert answer.code is OK, "its own API server confirms it, though its keys were not read"
        assert reviews(hub.clusters["west"]) == 0
        assert reviews(hub.clusters["east"]) > 0


@pytest.mark.parametrize("cluster_id", [None, "Kubernetes"])
async def test_no_member_is_left_over(tmp_path: Path, cluster_id: str | None) -> None:
    """The keys of one are not known: a token that no other signed may be its own, and is shown to none."""
    boxes = {"east": SandboxCluster("east"), "west": SandboxCluster("west", issuer="https://west.example")}
    boxes["west"].faults.inject(Status.server_error(), path=KEYS_PATH)
    async with running_signer(tmp_path, clusters=boxes, start=False) as hub:
        await hub.publish()
        await hub.start()
        await eventually(lambda: hub.role.report().ready and keys(hub, "east"))
        assert unavailable(await hub.ask(cluster_id, hub.pod("west")))
        assert (await hub.ask(cluster_id, hub.pod("east"))).code is OK
        assert (await hub.ask("west", hub.pod("west"))).code is OK, "named, it is asked"
        assert reviews(boxes["west"]) == 1
        stranger = SandboxCluster("north")
        stranger.create_namespace("foo")
        stranger.create_service_account("foo", "bar")
        stranger.create_pod("foo", "bar-0", "bar")
        assert unavailable(await hub.ask(cluster_id, stranger.token("foo", "bar", pod="bar-0")))
        assert (reviews(boxes["east"]), reviews(boxes["west"])) == (0, 1)


async def test_who_can_sign_with_a_key_holds_it_even_if_another_published_it_first(tmp_path: Path) -> None:
    """A public key can be read by all, and so be published by a hostile member before the hub has seen it."""
    async with running_signer(tmp_path, ("east", "west")) as hub:
        east, west = hub.clusters["east"], hub.clusters["west"]
        await prove(hub, "east")
        await prove(hub, "west")
        new = SigningKey.generate("RS256")
        west.keys.keys.append(new)
        await keys_read(hub, "west")
        east.keys.keys.insert(0, new)  # from now on it signs
        assert (await hub.ask("east", hub.pod("east"))).code is OK
        await keys_read(hub, "east")
        await prove(hub, "east")
        for cluster_id in (None, "Kubernetes", "east"):
            assert (await hub.ask(cluster_id, hub.pod("east"))).code is OK
        assert refused(await hub.ask("west", hub.pod("east"))), "known to be another's, it is not shown there"
        assert reviews(west) == 0
        (finding,) = shared(hub)
        assert (finding.holder, finding.proved) == ("east", True)


async def test_a_token_of_an_unproved_key_is_not_reviewed_until_all_other_keys_are_known(
    tmp_path: Path,
) -> None:
    """The hostile member publishes a key of the victim's that the hub has not seen there, and the victim is away."""
    async with running_signer(tmp_path, ("east", "west")) as hub:
        east, west = hub.clusters["east"], hub.clusters["west"]
        await prove(hub, "west")
        new = SigningKey.generate("RS256")
        west.keys.keys.append(new)
        east.keys.keys.insert(0, new)
        with east.faults.inject(Status.server_error(), path=KEYS_PATH):
            await keys_read(hub, "west", "east")
            assert unavailable(await hub.ask(None, hub.pod("east")))
            assert reviews(west) == 0


async def test_what_is_known_of_keys_outlives_the_process(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ("east", "west")) as hub:
        token = hub.pod("east")
        await poison(hub)
        await eventually(lambda: shared(hub))
        for end in (hub.stop, hub.kill):
            await asyncio.sleep(0.3)  # written as soon as it is known
            await end()
            with hub.clusters["east"].faults.inject(Hang(), path=KEYS_PATH):
                await hub.start()
                await eventually(lambda: hub.role.report().ready and keys(hub, "west") == 2)
            await hub.ready()
            assert (await hub.ask(None, token)).code is OK
            assert reviews(hub.clusters["west"]) == 0
            (finding,) = shared(hub)
            assert finding.holder == "east"


async def test_a_key_that_both_had_at_the_first_start_is_proved_by_the_probe(tmp_path: Path) -> None:
    """No order shows which was first. The finding names both, and the first token of the probe decides."""
    east, west = SandboxCluster("east"), SandboxCluster("west")
    publish_keys_of(east, on=west)
    async with running_signer(tmp_path, clusters={"east": east, "west": west}) as hub:
        token = hub.pod("east")
        assert refused(await hub.ask(None, token))
        assert [(s.clusters, s.holder) for s in shared(hub)] == [(["east", "west"], "")]
        assert (await hub.ask("east", token)).code is OK
        await prove(hub, "east")
        assert (await hub.ask(None, token)).code is OK
        assert [(s.clusters, s.holder) for s in shared(hub)] == [(["east", "west"], "east")]
        assert reviews(west) == 0


async def test_another_key_under_the_same_name_has_no_influence(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ("east", "west")) as hub:
        east, west = hub.clusters["east"], hub.clusters["west"]
        other = SigningKey.generate("RS256")
        west.keys.keys.append(SigningKey(other.private, other.algorithm, east.keys.signing.key_id))
        await keys_read(hub, "west")
        for cluster_id in (None, "Kubernetes", "east"):
            assert (await hub.ask(cluster_id, hub.pod("east"))).code is OK
        assert refused(await hub.ask("west", hub.pod("east")))
        assert reviews(west) == 0
        assert not shared(hub)


async def test_a_hung_member_does_not_hold_up_callers_that_name_none(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ("east", "west")) as hub:
        token = hub.pod("east")
        await eventually(lambda: hub.role.report().clusters["east"].state == "ready")
        with hub.clusters["west"].hung():
            answers = await asyncio.gather(*(hub.ask(None, token) for _ in range(5)))
            assert {answer.code for answer in answers} == {OK}


async def test_where_one_cluster_is_registered_its_tokens_need_no_name(tmp_path: Path) -> None:
    box = SandboxCluster("east")
    box.faults.inject(Status.forbidden(), path=KEYS_PATH)
    async with running_signer(tmp_path, clusters={"east": box}, start=False) as hub:
        await hub.publish()
        await hub.start()
        await eventually(lambda: hub.role.report().ready)
        for cluster_id in (None, "Kubernetes"):
            assert (await hub.ask(cluster_id, hub.pod("east"))).code is OK


async def test_one_that_reviews_is_not_shown_what_its_keys_did_not_sign(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.options = {"east": 'attestation = "token-review"'}

    stranger = SandboxCluster("north")
    stranger.create_namespace("foo")
    stranger.create_service_account("foo", "bar")
    stranger.create_pod("foo", "bar-0", "bar")
    async with running_signer(tmp_path, setup=setup) as hub:
        await eventually(lambda: keys(hub, "east"))
        assert refused(await hub.ask(None, stranger.token("foo", "bar", pod="bar-0")))
        assert reviews(hub.clusters["east"]) == 0
        assert (await hub.ask(None, hub.pod("east"))).code is OK


async def test_the_cluster_that_is_registered_under_istios_default_name(tmp_path: Path) -> None:
    """That name is what every mesh sends that was given none, so the key decides; without keys it counts as a name."""

    def setup(hub: RunningSigner) -> None:
        hub.cluster_ids = {"west": "Kubernetes"}

    west = SandboxCluster("west")
    fault = west.faults.inject(Status.forbidden(), path=KEYS_PATH)
    boxes = {"east": SandboxCluster("east"), "west": west}
    async with running_signer(tmp_path, clusters=boxes, setup=setup, start=False) as hub:
        await hub.publish()
        await hub.start()
        await eventually(lambda: hub.role.report().ready and keys(hub, "east"))
        await eventually(lambda: hub.attestors["west"].keys.withheld)  # refused, and the answer was read
        assert (await hub.ask("Kubernetes", hub.pod("east"))).code is OK
        assert (await hub.ask("Kubernetes", hub.pod("west"))).code is OK
        assert hub.role.report().clusters["east"].issued == 1
        assert reviews(west) == 1
        fault.lift()
        await keys_read(hub, "west")
        await hub.ready()
        assert (await hub.ask("Kubernetes", hub.pod("west"))).code is OK
        with west.faults.inject(Silence(), resource="pods"):
            assert (await hub.ask("Kubernetes", hub.pod("east", name="new-0"))).code is OK
        assert reviews(west) == 1


async def test_a_member_that_is_reconnected_keeps_its_used_budget(tmp_path: Path) -> None:
    """A reconnect must not give a fresh budget, or forget that the member is over its budget."""
    async with running_signer(tmp_path, ("east", "west")) as hub:
        await eventually(lambda: len(hub.attestors) == 2)
        before, budget = hub.attestors["west"], hub.budgets["west"]
        budget.charge(100.0)
        assert budget.due() is not None
        assert before.over_budget is not None
        hub.options["west"] = 'network = "other"'
        await hub.reconfigure()
        await eventually(lambda: hub.attestors.get("west") not in {None, before})
        assert hub.attestors["west"].over_budget is not None
        assert hub.attestors["east"].over_budget is None
