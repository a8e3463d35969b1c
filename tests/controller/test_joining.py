"""A cluster that joins with a CA of its own: what it holds stays until a person accepts it, and not a moment longer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from federation.controller.generations import anchor_record
from federation.controller.in_force import TrustState
from federation.controller.publication.config_map import Contents, ObservedConfigMap
from federation.controller.publication.joining import GRACE, Joining, JoiningMemory, no_memory
from federation.controller.publication.namespace_count import ReadBack
from federation.controller.rotation.store import RotationStore
from federation.core.config.hub import PublicationConfig
from federation.core.documents.controller import ControllerReport
from federation.core.documents.trust import Generation
from federation.core.identity import TrustDomain
from federation.core.pki.pem import encode_certificates
from federation.core.trust.bundle import Anchor, TrustBundle
from federation_sandbox.cluster import SandboxCluster
from tests.controller.test_rotation import Signer, operate, prepare, record_of
from tests.controller.world import KEY, NAME, World, eventually, in_force, root
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

ISTIOD = "pilot-discovery"
HUB = pki.root("hub")
OWN = pki.root("own")
OWN_INTERMEDIATE = pki.intermediate("own", OWN)
EXPIRED = pki.root("expired", not_before=pki.NOW - pki.YEAR, not_after=pki.NOW - pki.DAY)


def generation(*accepted: pki.Authority, number: int = 1) -> Generation:
    bundle = TrustBundle.merge(
        [
            Anchor(
                certificate=authority.certificate,
                origin="test",
                kind="root" if authority is HUB else "accepted",
                trust_domain=TrustDomain("mesh.example"),
            )
            for authority in (HUB, *accepted)
        ]
    )
    return Generation(
        number=number,
        created=0.0,
        reason="test",
        author="test",
        trust_domain="mesh.example",
        sha256=bundle.sha256,
        bundle_pem=bundle.pem.decode(),
        anchors=[anchor_record(anchor) for anchor in bundle.anchors],
    )


class Istiod:
    """What an istiod whose CA is on does about the bundle: in every namespace it puts ``serves`` back at once.

    ``writes`` counts by namespace; as istiod it writes nothing where its bytes stand already.
    """

    def __init__(self, cluster: SandboxCluster, serves: str) -> None:
        self.cluster = cluster
        self.serves = serves
        self.writes: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Istiod]:
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            for namespace in self.cluster.objects("namespaces"):
                name = namespace["metadata"]["name"]
                if name not in PublicationConfig().excluded_namespaces:
                    self._write(name)
            await asyncio.sleep(0.01)

    def _write(self, namespace: str) -> None:
        found = self.cluster.config_map(namespace, NAME)
        if found is None:  # in one request, as istiod does it: what is there and empty is the hub's to write
            self.writes[namespace] += 1
            made = {
                "metadata": {"name": NAME, "labels": {"istio.io/config": "true"}},
                "data": {KEY: self.serves},
            }
            self.cluster.create("configmaps", made, namespace=namespace, manager=ISTIOD)
        elif found.get("data", {}).get(KEY) != self.serves:
            self.writes[namespace] += 1
            self.cluster.patch("configmaps", namespace, NAME, {"data": {KEY: self.serves}}, manager=ISTIOD)


class Case:
    """One cluster, and what its namespaces are seen to hold."""

    def __init__(
        self,
        *,
        replaces: bool = False,
        nothing_earlier: bool = False,
        remembered: JoiningMemory | None = None,
    ) -> None:
        self.contents, self.trust = Contents(), TrustState()
        self.remembered = remembered
        self.trust.adopt(generation())
        self.clock = VirtualClock(pki.NOW)
        self.joining = Joining(
            "west",
            replaces=replaces,
            nothing_earlier=nothing_earlier,
            contents=self.contents,
            trust=self.trust,
            remembered=no_memory if remembered is None else lambda _: self.remembered,
            clock=self.clock,
        )

    def holds(self, pem: bytes | str, namespace: str = "shop", *, ours: bool = False) -> bool:
        """Whether the namespace keeps that, which the watch has just shown."""
        text = pem if isinstance(pem, str) else pem.decode()
        observed = ObservedConfigMap(self.contents.note(text), labelled=True, ours=ours)
        self.joining.notice(namespace, observed)
        return self.joining.keeps(namespace, observed)

    def yields(self, pem: bytes | str, *writers: str, namespace: str = "shop") -> bool:
        """Whether the namespace is left to these field managers, who own its bundle."""
        text = pem if isinstance(pem, str) else pem.decode()
        observed = ObservedConfigMap(self.contents.note(text), labelled=True, writers=writers)
        self.joining.notice(namespace, observed)
        return self.joining.yields(namespace, observed)


CONTENTS: dict[str, tuple[bytes, bool]] = {
    "own root": (OWN.pem, True),
    "own root beside the hub's": (OWN.pem + HUB.pem, True),
    "the hub's root": (HUB.pem, False),
    "the hub's root in another form": (HUB.pem + b"\n", False),
    "expired root": (EXPIRED.pem, False),
    "own intermediate": (OWN_INTERMEDIATE.certificate.pem, True),
    "intermediate below the hub's root": (pki.intermediate("hub's", HUB).certificate.pem + HUB.pem, False),
    "cut short": (OWN.pem[:100], True),
    "with a comment": (b"# istio\n" + OWN.pem, True),
    "no PEM": (b"not a certificate", False),
    "empty": (b"", False),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_what_the_generation_does_not_contain_is_kept(name: str) -> None:
    content, kept = CONTENTS[name]
    assert Case().holds(content) is kept


def test_nothing_is_kept_where_there_is_nothing() -> None:
    case = Case()
    assert not case.joining.keeps("shop", None)
    assert not case.joining.keeps("shop", ObservedConfigMap("", labelled=False))


def test_a_namespace_that_the_hub_has_written_keeps_no_other_content() -> None:
    case = Case()
    assert case.holds(generation().bundle_pem) is False
    assert case.holds(OWN.pem) is False, "an edit of what was a generation's content a moment ago"
    assert case.holds(OWN.pem, "bank", ours=True) is False
    assert case.holds(OWN.pem, "bank") is False, "deleted and created again by another writer"
    assert case.holds(OWN.pem, "team")
    case.joining.forget("bank")
    assert case.holds(OWN.pem, "bank"), "another namespace of that name"


def test_an_own_ca_is_no_longer_kept_once_it_is_accepted() -> None:
    case = Case()
    both = OWN.pem + OWN_INTERMEDIATE.certificate.pem
    assert case.holds(both)
    case.trust.adopt(generation(OWN, number=2))
    assert not case.holds(both)
    assert case.joining.own == {OWN.certificate.sha256, OWN_INTERMEDIATE.certificate.sha256}


def test_an_accepted_ca_is_overwritten_only_once_its_arrival_is_remembered() -> None:
    case = Case(remembered=JoiningMemory())
    case.trust.adopt(generation(OWN, number=2))
    assert case.joining.memory_changed()
    assert not case.joining.memory_changed()
    assert case.holds(OWN.pem)
    assert case.joining.health([case.contents.note(OWN.pem.decode())]).detail == "its own CA is accepted"
    case.remembered = JoiningMemory(own=frozenset({OWN.certificate.sha256}))
    assert case.joining.memory_changed()
    assert not case.holds(OWN.pem)


def came_with(*authorities: pki.Authority, issuing: bool = True) -> JoiningMemory:
    own = frozenset(authority.certificate.sha256 for authority in authorities)
    return JoiningMemory(joined=True, own=own, issuing=issuing)


def test_what_another_writer_would_put_back_is_left_to_it_until_the_takeover() -> None:
    case = Case(remembered=came_with(OWN))
    accepted = generation(OWN, number=2)
    case.trust.adopt(accepted)
    assert case.yields(OWN.pem, ISTIOD)
    assert case.yields(accepted.bundle_pem + "\n", ISTIOD), "the same roots in other bytes: it puts them back"
    assert not case.yields(accepted.bundle_pem, ISTIOD), (
        "its bytes are the hub's: no other writer changes them back"
    )
    assert not case.yields(OWN.pem), "no writer but the hub owns it"
    assert not case.yields(pki.root("intruder").pem, ISTIOD), "an unknown CA is an edit"
    assert not case.yields(OWN.pem + b"-----BEGIN x", ISTIOD), "nor what cannot be read"
    case.remembered = came_with(OWN, issuing=False)
    assert not case.yields(OWN.pem, ISTIOD)


def test_nothing_is_left_to_others_against_the_operators_word() -> None:
    assert not Case(remembered=came_with(OWN), replaces=True).yields(OWN.pem, ISTIOD)
    fresh = Case(remembered=came_with(HUB), nothing_earlier=True)
    assert not fresh.yields(HUB.pem + b"\n", ISTIOD), "there is no certificate from before the hub"
    own = Case(remembered=came_with(OWN), nothing_earlier=True)
    own.trust.adopt(generation(OWN, number=2))
    assert own.yields(OWN.pem, ISTIOD), "but it has an accepted CA, which issues"


def test_what_istiod_puts_back_over_the_hubs_bundle_is_not_fought_over_while_it_joins() -> None:
    case = Case(remembered=JoiningMemory())
    assert case.holds(OWN.pem)
    assert not case.holds(generation().bundle_pem, "new")
    back = ObservedConfigMap(
        case.contents.note(OWN.pem.decode()), labelled=True, ours=True, writers=(ISTIOD,)
    )
    assert case.joining.keeps("new", back)
    other = ObservedConfigMap(
        case.contents.note(pki.root("intruder").pem.decode()), labelled=True, writers=(ISTIOD,)
    )
    assert not case.joining.keeps("new", other)


async def test_a_missing_object_is_left_to_the_other_writer_for_a_moment() -> None:
    case = Case(remembered=came_with(OWN))
    assert case.joining.stays("new", None)
    await case.clock.advance(GRACE - 1)
    assert case.joining.overdue() == []
    await case.clock.advance(1)
    assert case.joining.overdue() == ["new"]
    assert not case.joining.stays("new", None)
    assert case.joining.overdue() == []
    case.holds(OWN.pem, "new")
    assert case.joining.stays("new", None), "deleted later"
    assert not Case(remembered=came_with(OWN, issuing=False)).joining.stays("new", None)


def test_what_the_other_writer_writes_and_lacks_is_named_with_the_next_step() -> None:
    case = Case(remembered=came_with(OWN))
    case.trust.adopt(generation(OWN, number=2))
    health = case.joining.yielding([case.contents.note(OWN.pem.decode())], (ISTIOD,), 7)
    assert (health.state, health.reason) == ("degraded", "other_writers")
    assert "pilot-discovery" in health.detail
    assert "in 7 namespaces" in health.detail
    observed, lacks = health.detail.split(" and lack ")
    assert OWN.certificate.sha256 in observed
    assert HUB.certificate.sha256 in lacks
    assert "federation clusters join west" in health.remedy


@pytest.mark.parametrize(
    ("counted", "over"),
    [
        (ReadBack(selected=2, current=2), True),
        (ReadBack(selected=2, current=1), False),
        (ReadBack(), False),
        (ReadBack(selected=2, current=2, forbidden=1), False),
    ],
)
def test_it_is_over_once_every_namespace_holds_the_bundle(counted: ReadBack, over: bool) -> None:
    case = Case()
    case.joining.complete(counted)
    assert case.holds(OWN.pem) is not over
    assert bool(case.joining.own) is not over


def test_nothing_is_kept_in_a_cluster_that_has_joined_or_is_to_be_replaced() -> None:
    assert not Case(remembered=JoiningMemory(joined=True)).holds(OWN.pem)
    assert not Case(replaces=True).holds(OWN.pem)


def test_health_names_the_authority_and_what_to_do() -> None:
    case = Case()
    digests = [case.contents.note(text.decode()) for text in (OWN.pem, HUB.pem, OWN.pem[:90])]
    health = case.joining.health([*digests, case.trust.current.sha256])
    assert (health.state, health.reason) == ("degraded", "joining")
    assert OWN.certificate.sha256 in health.detail
    assert HUB.certificate.sha256 not in health.detail
    assert "cannot be read" in health.detail
    assert f"federation clusters join west --accept {OWN.certificate.sha256}" in health.remedy
    assert 'member_cas = "replace"' in health.remedy
    only = case.joining.health([case.contents.note(OWN_INTERMEDIATE.certificate.pem.decode())])
    assert "--from-file" in only.remedy


def test_many_authorities_are_named_in_a_few_words() -> None:
    case = Case()
    certificates = [pki.root(f"flood {number}").certificate for number in range(40)]
    health = case.joining.health([case.contents.note(encode_certificates(certificates).decode())])
    assert "37 more" in health.detail
    assert len(health.detail) < 2000


def give_own_ca(world: World, cluster: str, authority: pki.Authority, *namespaces: str) -> None:
    """What istiod has written there before the hub came."""
    for namespace in namespaces:
        world.clusters[cluster].create(
            "configmaps",
            {
                "metadata": {"name": NAME, "labels": {"istio.io/config": "true"}},
                "data": {"root-cert.pem": authority.pem.decode()},
            },
            namespace=namespace,
        )


async def test_a_cluster_keeps_its_own_ca_until_it_is_accepted(two: World) -> None:
    own = root("own of west")
    give_own_ca(two, "west", own, "default", "kube-system")
    async with two.controller():
        report = await two.until(lambda r: r.clusters["west"].reason == "joining" and bool(r.proposals))
        report = await two.until(
            lambda r: r.clusters["west"].publication.joining == 2 and r.clusters["east"].state == "ready"
        )
        await eventually(lambda: two.observed("west", "federation-system") == root().pem.decode())
        (proposal,) = report.proposals
        assert (proposal.sha256, proposal.cluster, proposal.pem) == (
            own.certificate.sha256,
            "west",
            own.pem.decode(),
        )
        west = report.clusters["west"]
        assert west.state == "degraded"
        assert own.certificate.sha256 in west.detail
        assert "federation clusters join west --accept" in west.remedy
        assert (west.publication.generation, west.publication.joining) == (0, 2)
        assert any(problem.startswith("default: ") for problem in west.publication.problems)
        assert report.clusters["east"].state == "ready"
        report = await two.until(lambda r: "a CA of its own" in r.matrix.reasons.get("east>west", ""))
        assert report.matrix.rows == ["-?", "?-"]
        assert (await operate(two, "takeover", cluster="west")).outcome == "refused", "it is not accepted"
        assert two.observed("west", "default") == own.pem.decode()
    async with two.controller("two"):
        await two.until(lambda r: r.clusters["west"].reason == "joining", replica="two")
        two.accept(own, "west")
        report = await two.until(lambda r: r.clusters["west"].reason == "other_writers", replica="two")
        assert "federation clusters join west" in report.clusters["west"].remedy
        assert report.clusters["west"].publication.joining == 2
        assert two.observed("west", "default") == own.pem.decode(), "who has written it would put it back"
        serve(two, "west", await merged(two, replica="two"))
        generation = await two.published(replica="two")
        assert generation.bundle_pem.count("BEGIN CERTIFICATE") == 2
        await two.until(lambda r: r.matrix.valid == 2 and not r.proposals, replica="two")
        assert two.observed("east", "default") == two.observed("west", "default") == generation.bundle_pem
        for namespace in ("default", "later"):
            if namespace == "later":
                two.clusters["west"].create_namespace(namespace)
            else:
                two.clusters["west"].delete("configmaps", namespace, NAME)
            give_own_ca(two, "west", root("intruder"), namespace)
            await eventually(
                lambda name=namespace: two.observed("west", name) == generation.bundle_pem  # type: ignore[misc]
            )


async def merged(world: World, *, replica: str = "one") -> str:
    """The bundle of the hub's root and of one that is accepted, once the controller goes by it."""
    generation = await in_force(world.store)
    async with asyncio.timeout(PATIENCE):
        while generation is None or generation.bundle_pem.count("BEGIN CERTIFICATE") != 2:
            await asyncio.sleep(0.05)
            generation = await in_force(world.store)
    number = generation.number
    await world.until(lambda r: r.generation == number, replica=replica)
    return generation.bundle_pem


def serve(world: World, cluster: str, pem: str) -> None:
    """The cluster's own CA writes that in every namespace from now on."""
    for found in world.clusters[cluster].objects("configmaps"):
        if found["metadata"]["name"] == NAME:
            namespace = found["metadata"]["namespace"]
            world.clusters[cluster].patch("configmaps", namespace, NAME, {"data": {KEY: pem}}, manager=ISTIOD)


async def test_istiod_and_the_hub_write_over_one_another_at_no_time(two: World) -> None:
    """Self-signed istiod: registered, accepted, given the merged bundle, and joined by others. Writes are counted."""
    own, other = root("own of west"), root("own of east")
    west = two.clusters["west"]
    istiod = Istiod(west, own.pem.decode())
    async with istiod.running():
        await eventually(lambda: two.observed("west", "federation-system") is not None)
        first = istiod.writes.copy()
        async with two.controller():
            await two.until(lambda r: r.clusters["west"].reason == "joining")
            west.create_namespace("new")
            await eventually(lambda: two.observed("west", "new") == own.pem.decode())
            two.accept(own, "west")
            await two.until(lambda r: r.clusters["west"].reason == "other_writers")
            bundle = await merged(two)
            west.create_namespace("later")
            await asyncio.sleep(2)
            assert written_by_the_hub(west) == 0
            istiod.serves = bundle
            report = await two.until(lambda r: r.matrix.valid == 2)
            assert report.clusters["west"].publication.joining == 0
            assert [plane.state for plane in report.clusters["west"].control_planes] == ["waiting"]
            two.accept(other, "east")  # another generation, which istiod does not know of
            report = await two.until(lambda r: r.clusters["west"].reason == "other_writers")
            assert other.certificate.sha256 in report.clusters["west"].detail
            await asyncio.sleep(2)
            assert two.observed("west", "default") == bundle
            assert written_by_the_hub(west) == 0
    assert istiod.writes == Counter(dict.fromkeys(first, 2) | {"new": 2, "later": 2})


async def test_without_the_comparison_of_bytes_they_fight(
    two: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above can fail: a hub that writes where istiod writes other bytes is answered for ever."""
    monkeypatch.setattr(Joining, "yields", lambda *_: False)
    own, west = root("own of west"), two.clusters["west"]
    istiod = Istiod(west, own.pem.decode())
    async with istiod.running():
        await eventually(lambda: two.observed("west", "federation-system") is not None)
        before = sum(istiod.writes.values())
        async with two.controller():
            await two.until(lambda r: r.clusters["west"].reason == "joining")
            two.accept(own, "west")
            await merged(two)
            await eventually(lambda: sum(istiod.writes.values()) > before + 4)
            assert written_by_the_hub(west) > 4
            await eventually(lambda: two.observed("west", "default") == own.pem.decode())


def written_by_the_hub(cluster: SandboxCluster) -> int:
    """Requests alone are counted: what a test changes is none."""
    return cluster.requests.count(verb="patch", resource="configmaps")


async def test_a_cluster_with_the_hubs_own_root_joins_at_once(two: World) -> None:
    give_own_ca(two, "west", root(), "default", "kube-system")
    async with two.controller():
        await two.published()
        report = await two.until(lambda r: r.matrix.valid == 2)
    assert report.proposals == []


async def until_joined(world: World, cluster: str) -> None:
    """Wait until it is recorded that the cluster has joined: until then another CA there may be its own."""
    async with asyncio.timeout(PATIENCE):
        while True:
            kept = RotationStore(world.store)
            await kept.meet()
            memory = kept.remembered(cluster)
            if memory is not None and memory.joined:
                return
            await asyncio.sleep(0.1)


async def test_an_edit_made_while_no_controller_ran_is_restored(two: World) -> None:
    async with two.controller():
        generation = await two.published()
        await two.until(lambda r: r.matrix.valid == 2)
        await until_joined(two, "west")
    two.clusters["west"].delete("configmaps", "default", NAME)
    give_own_ca(two, "west", root("intruder"), "default")
    async with two.controller("two"):
        await eventually(lambda: two.observed("west", "default") == generation.bundle_pem)
    assert two.observed("west", "default") == generation.bundle_pem, "and stays"


async def test_what_is_replaced_is_overwritten_at_once(two: World) -> None:
    own = root("own of west")
    give_own_ca(two, "west", own, "default")
    two.extra["west"] = {"member_cas": "replace"}
    two.write_config()
    async with two.controller():
        generation = await two.published()
        report = await two.until(lambda r: bool(r.proposals))
    assert own.pem.decode() not in generation.bundle_pem
    assert [proposal.sha256 for proposal in report.proposals] == [own.certificate.sha256]


def came_with_its_own(world: World) -> tuple[pki.Authority, Signer]:
    """West has joined with a CA of its own that is accepted; its leaves live for two seconds."""
    own, signer = root("own of west"), prepare(world)
    give_own_ca(world, "west", own, "default", "kube-system")
    world.extra["west"]["earlier_longest_ttl"] = 2
    world.accept(own, "west")
    return own, signer


async def test_an_accepted_own_anchor_is_dropped_once_nothing_depends_on_it(two: World) -> None:
    own, signer = came_with_its_own(two)
    async with signer.running():
        async with two.controller():
            await two.until(lambda r: r.clusters["west"].reason == "other_writers")
            serve(two, "west", await merged(two))
            await two.until(lambda r: r.matrix.valid == 2 and r.generation == 1)
            await asyncio.sleep(3)
            before = await two.published()
            assert own.pem.decode() in before.bundle_pem, (
                "its own CA counts as issuing until the takeover is declared"
            )
            assert (await operate(two, "takeover", cluster="unregistered")).outcome == "refused"
            declared = two.clock.now().timestamp()
            await declare_takeover(two, "west")
            report = await two.until(lambda r: r.generation == 2)
            assert report.clusters["west"].publication.other_writers == [], "it was meant to write"
            after = await two.published()
            assert after.created >= declared + 2
            assert after.bundle_pem == two.observed("west", "default") == root().pem.decode()
            assert after.reason == f"removes {own.certificate.subject}"
            assert own.certificate.sha256 in (await record_of(two)).retired
        async with two.controller("two"):
            await two.until(lambda r: r.matrix.valid == 2, replica="two")
            two.anchors.remove(own)  # as a person does who reads that nothing needs the pin any more
            two.write_config()
            await asyncio.sleep(2.5)
            report = await two.until(lambda r: r.matrix.valid == 2, replica="two")
            assert (report.generation, report.proposals) == (2, [])


async def declare_takeover(two: World, cluster: str) -> None:
    """As a person does: asks again where the hub says that it has to read the cluster back first."""
    for _ in range(600):
        decided = await operate(two, "takeover", cluster=cluster)
        if decided.outcome == "done":
            return
        assert decided.remedy.startswith("ask again once it is read back"), decided
        await asyncio.sleep(0.5)
    pytest.fail(f"{cluster} was never read back")


async def test_a_rotation_waits_for_the_takeover_and_nothing_is_dropped_during_it(two: World) -> None:
    own, signer = came_with_its_own(two)
    two.rotation["automatic"] = False
    two.write_config()
    async with signer.running(), two.controller():
        await two.until(lambda r: r.clusters["west"].reason == "other_writers")
        serve(two, "west", await merged(two))
        await two.until(lambda r: r.matrix.valid == 2 and r.generation == 1)
        assert (await operate(two, "start")).outcome == "done"
        assert (await operate(two, "advance")).outcome == "done"

        def waits_for(report: ControllerReport) -> list[str]:
            waits = [c for c in report.rotation.conditions if c.name == "earlier" and not c.met]
            assert all("federation rotate takeover west" in c.detail for c in waits if not c.until)
            return [c.cluster for c in waits]

        await two.until(lambda r: waits_for(r) == ["west"])
        await asyncio.sleep(3)
        assert waits_for(await two.until(lambda r: r.generation == 2)) == ["west"]
        await declare_takeover(two, "west")
        await two.until(lambda r: not waits_for(r) and r.rotation.open)
        await asyncio.sleep(1)
        generation = await two.published()
        assert own.pem.decode() in generation.bundle_pem
        assert generation.number == 2
