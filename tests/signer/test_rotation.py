"""A rotation as the signer's callers see it: who signs where, what is delivered, and who gets nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.core.documents.encoding import decode
from federation.core.documents.signer import AuthorityReport, ExpiryBoundTable, SignerClusterReport
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import State
from federation.signer.authorities.authority import (
    IssuedLeaf,
    LeafRequest,
)
from federation.signer.authorities.hub_built import HubBuiltAuthority
from tests.signer.running_signer import (
    Answer,
    RunningSigner,
    authority,
    bundle_of,
    eventually,
    local_table,
    running_signer,
)
from tests.support import pki

OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def tables(hub: RunningSigner, ca: pki.Authority, section: str, name: str) -> str:
    """``[signer.<section>]`` of files of that authority, which are written."""
    chain, key, _ = ca.write(hub.directory / f"files of {ca.certificate.sha256[:8]}")
    return local_table(section, name, chain, key)


@dataclass
class Rotating:
    """A signer with two clusters, an authority of the root A and a successor of the root B."""

    hub: RunningSigner
    a: pki.Authority
    b: pki.Authority
    tokens: dict[str, str]
    number: int = 1

    def directives(self, state: State, **more: object) -> SigningDirectives:
        new = state in {State.ACTIVE, State.UNPUBLISHING, State.RETIRED, State.EMERGENCY}
        signs = self.b if new else self.a
        at_rest = state in {State.STABLE, State.RETIRED}
        fields = {
            "rotation": self.number,
            "state": state.value,
            "issuer": signs.certificate.sha256,
            "root": signs.root.sha256 if at_rest else "",
            "strict": not at_rest,
        } | more
        return SigningDirectives(**fields)  # type: ignore[arg-type]

    async def enter(self, state: State, **more: object) -> None:
        directives = self.directives(state, **more)
        await self.hub.direct(directives)
        await self.hub.follows(directives)

    async def publish(self, *roots: pki.Authority, **more: Any) -> None:
        """A generation that the signer follows: the gates give it no directives that build on one it has not read."""
        await self.hub.publish(*roots, **more)
        await eventually(lambda: self.hub.role.report().generation == self.hub.generation)

    async def ask(self, cluster: str, **options: object) -> Answer:
        return await self.hub.ask(cluster, self.tokens[cluster], trust=bundle_of(self.a, self.b), **options)  # type: ignore[arg-type]

    def signed_by(self, answer: Answer) -> str:
        names = {ca.certificate.pem.decode(): name for name, ca in (("a", self.a), ("b", self.b))}
        return names[answer.elements[1]] if answer.elements else answer.code.name

    async def signers(self) -> tuple[str, str]:
        """Who signs for east and for west."""
        return self.signed_by(await self.ask("east")), self.signed_by(await self.ask("west"))

    @property
    def authority(self) -> AuthorityReport:
        report = self.hub.role.report().authority
        return report or AuthorityReport(name="none", kind="", state="none")

    @property
    def successor(self) -> AuthorityReport:
        report = self.hub.role.report().successor
        return report or AuthorityReport(name="none", kind="", state="none")

    def cluster(self, name: str) -> SignerClusterReport:
        return self.hub.role.report().clusters[name]

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[list[tuple[str, Answer]]]:
        """Callers of both clusters that ask again and again meanwhile."""
        answers: list[tuple[str, Answer]] = []

        async def ask(cluster: str) -> None:
            while True:
                answers.append((cluster, await self.ask(cluster, seconds=60)))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(name)) for name in ("east", "west") * 2]
            yield answers
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def rotating(
    directory: Path, *, setup: Callable[[RunningSigner, pki.Authority], None] | None = None
) -> AsyncIterator[Rotating]:
    a, b = authority("a"), authority("b")

    def both(hub: RunningSigner) -> None:
        hub.pins = [b]
        hub.successor_table = tables(hub, b, "successor", "new")
        if setup is not None:
            setup(hub, b)

    async with running_signer(directory, ("east", "west"), ca=a, setup=both) as hub:
        tokens = {name: hub.pod(name) for name in ("east", "west")}
        yield Rotating(hub, a, b, tokens)


async def test_a_successor_is_ready_before_its_root_is_published_and_signs_nothing(tmp_path: Path) -> None:
    async with rotating(tmp_path) as it:
        await eventually(lambda: it.successor.state == "ready", describe=lambda: it.successor)
        assert it.successor.sha256 == it.b.certificate.sha256
        assert it.successor.chain_pem == it.b.chain_pem.decode()
        assert it.successor.not_after > it.hub.clock.now().timestamp()
        assert it.hub.role.report().ready
        assert await it.signers() == ("a", "a")
        await it.hub.direct(it.directives(State.ACTIVE))
        assert await it.signers() == ("UNAVAILABLE", "UNAVAILABLE"), "directives alone publish nothing"
        assert it.hub.refused("east") == {"unpublished_anchor": 1}
        assert it.cluster("east").reason == "unpublished_anchor"
        assert it.hub.role.report().directives != State.ACTIVE.value, "its listener cannot follow"


async def test_a_successor_whose_root_is_not_pinned_is_not_ready(tmp_path: Path) -> None:
    def setup(hub: RunningSigner, _: pki.Authority) -> None:
        hub.pins = []

    async with rotating(tmp_path, setup=setup) as it:
        await eventually(lambda: it.successor.reason == "no_anchor", describe=lambda: it.successor)
        assert it.successor.state == "unavailable"
        assert it.successor.remedy
        assert it.hub.role.report().ready
        it.hub.pins = [it.b]
        await it.hub.reconfigure()
        await eventually(lambda: it.successor.state == "ready", describe=lambda: it.successor)


async def test_a_successor_that_does_not_sign_is_not_ready(tmp_path: Path) -> None:
    def setup(hub: RunningSigner, b: pki.Authority) -> None:
        (hub.directory / f"files of {b.certificate.sha256[:8]}" / "ca-key.pem").unlink()

    async with rotating(tmp_path, setup=setup) as it:
        await eventually(lambda: "cannot read" in it.successor.detail, describe=lambda: it.successor)
        assert it.hub.role.report().ready
        await it.publish(it.a, it.b)
        await it.hub.direct(it.directives(State.ACTIVE))
        await eventually(lambda: not it.hub.role.report().ready)
        reasons = "; ".join(it.hub.role.report().reasons)
        assert "no authority may sign" in reasons
        assert "cannot read" in reasons
        assert await it.signers() == ("UNAVAILABLE", "UNAVAILABLE"), "no other one may"
        assert it.hub.refused("west") == {"directed_authority_missing": 1}
        tables(it.hub, it.b, "successor", "new")
        await eventually(lambda: it.hub.role.report().ready, describe=lambda: it.hub.role.report().reasons)
        assert await it.signers() == ("b", "b")


async def test_a_whole_rotation_and_no_request_fails(tmp_path: Path) -> None:
    """Canary by cluster, all, the old root removed in waves, the settings moved, another one begun."""
    async with rotating(tmp_path) as it:
        hub = it.hub
        await eventually(lambda: it.successor.state == "ready")
        async with it.asking() as answers:

            async def settled(east: str, west: str) -> None:
                """Both clusters are signed for so, many times, before anything else changes."""
                begun = len(answers)
                await eventually(lambda: len(answers) > begun + 16)
                last = {cluster: it.signed_by(answer) for cluster, answer in answers[begun + 8 :]}
                assert last == {"east": east, "west": west}

            await it.enter(State.STAGED)
            await settled("a", "a")
            await it.publish(it.a, it.b)
            await it.enter(State.PUBLISHING)
            await eventually(lambda: hub.role.report().generation == 2)
            await it.enter(State.CANARY, clusters={"west": it.b.certificate.sha256})
            await settled("a", "b")
            await it.enter(State.SOAKED)
            await settled("a", "a")
            await it.enter(State.CANARY, clusters={"west": it.b.certificate.sha256})
            await it.enter(State.ACTIVE)
            await settled("b", "b")
            await it.publish(it.b, behind={"west": 2})
            await it.enter(State.UNPUBLISHING)
            await eventually(lambda: hub.role.report().generation == 3)
            await settled("b", "b")
            answer = {cluster: await it.ask(cluster) for cluster in ("east", "west")}
            assert answer["east"].elements[-1] == bundle_of(it.b).decode()
            assert answer["west"].elements[-1] == bundle_of(it.a, it.b).decode()
            await it.publish(it.b)
            await it.enter(State.RETIRED)
            await settled("b", "b")
            assert hub.role.report().ready
            authority_now = hub.role.report().authority
            assert authority_now is not None
            assert authority_now.state == "unavailable", "its root is gone, and the successor signs"

            made = len(hub.back_ends)
            hub.authority_table = tables(hub, it.b, "authority", "new")
            hub.successor_table = ""
            await hub.reconfigure()
            await eventually(lambda: hub.role.report().successor is None)
            assert len(hub.back_ends) == made, "the very same authority goes on"
            await settled("b", "b")
            it.number = 2
            await it.hub.direct(it.directives(State.STAGED, issuer=it.b.certificate.sha256))
            await settled("b", "b")
        assert Counter(answer.code for _, answer in answers) == {OK: len(answers)}


async def test_settings_that_are_moved_under_another_name_take_over_first(tmp_path: Path) -> None:
    async with rotating(tmp_path) as it:
        hub = it.hub
        await eventually(lambda: it.successor.state == "ready")
        await it.publish(it.a, it.b)
        await it.enter(State.RETIRED)
        made = len(hub.back_ends)
        async with it.asking() as answers:
            await eventually(lambda: len(answers) > 8)
            hub.authority_table = tables(hub, it.b, "authority", "renamed")
            hub.successor_table = ""
            await hub.reconfigure()
            await eventually(lambda: hub.role.report().successor is None)
            report = hub.role.report().authority
            assert report is not None
            assert (report.name, report.sha256) == ("renamed", it.b.certificate.sha256)
            assert len(hub.back_ends) == made + 1, "it is not the former successor that goes on"
            begun = len(answers)
            await eventually(lambda: len(answers) > begun + 8)
        assert {(answer.code, it.signed_by(answer)) for _, answer in answers} == {(OK, "b")}


async def refused(it: Rotating) -> AuthorityReport:
    """The report of ``[signer.authority]`` once a change to another one is refused."""

    def withheld() -> AuthorityReport | None:
        report = it.hub.role.report().authority
        return report if report is not None and report.reason == "authority_not_in_force" else None

    await eventually(lambda: withheld() is not None, describe=lambda: it.hub.role.report().authority)
    report = withheld()
    assert report is not None
    return report


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_successor_that_is_moved_too_early_does_not_take_over(tmp_path: Path, recorded: bool) -> None:
    """Neither before its root is published nor after it: only a rotation makes sure that all trust it."""
    async with rotating(tmp_path) as it:
        hub = it.hub
        await eventually(lambda: it.successor.state == "ready")
        if recorded:
            await it.enter(State.STABLE)
        hub.authority_table = tables(hub, it.b, "authority", "new")
        hub.successor_table = ""
        await hub.reconfigure()
        await eventually(lambda: "cannot take over" in (hub.role.report().authority or it.successor).detail)
        assert await it.signers() == ("a", "a")
        await it.publish(it.a, it.b)
        report = await refused(it)
        assert (report.state, report.sha256) == ("degraded", it.a.certificate.sha256)
        assert "federation rotate start" in report.remedy
        assert it.b.root.sha256[:16] in report.detail
        assert await it.signers() == ("a", "a")
        await it.enter(State.RETIRED)
        await eventually(lambda: hub.role.report().successor is None)
        assert await it.signers() == ("b", "b")


async def test_another_authority_signs_nothing_after_a_restart(tmp_path: Path) -> None:
    """It is all there is then: nothing is signed, the report says why, and the former one signs once it is back."""
    async with rotating(tmp_path) as it:
        hub = it.hub
        await it.publish(it.a, it.b)
        await it.enter(State.STABLE)
        assert await it.signers() == ("a", "a")
        former = hub.authority_table
        hub.authority_table, hub.successor_table = tables(hub, it.b, "authority", "new"), ""
        await hub.reconfigure()
        await refused(it)
        assert await it.signers() == ("a", "a")
        await hub.kill()
        await hub.start()
        report = await refused(it)
        assert (report.state, report.sha256) == ("unavailable", it.b.certificate.sha256)
        assert "federation rotate start" in report.remedy
        assert not hub.role.report().ready
        assert hub.role.report().signs == ""
        assert any(it.b.root.sha256[:16] in reason for reason in hub.role.report().reasons)
        hub.authority_table = former
        await hub.reconfigure()
        await hub.ready()
        assert await it.signers() == ("a", "a")
        assert hub.role.report().signs == it.a.certificate.sha256


@pytest.mark.parametrize("state", [State.SOAKED, State.CANARY, State.ACTIVE])
async def test_settings_that_are_moved_in_the_middle_of_a_rotation_stop_nothing(
    tmp_path: Path, state: State
) -> None:
    """Both sides are kept, whatever is configured: the one that signs, and the one that an abort needs."""
    async with rotating(tmp_path) as it:
        hub = it.hub
        await eventually(lambda: it.successor.state == "ready")
        await it.publish(it.a, it.b)
        await eventually(lambda: hub.role.report().generation == 2)
        canary = {"west": it.b.certificate.sha256} if state is State.CANARY else {}
        await it.enter(state, clusters=canary)
        expected = {"SOAKED": ("a", "a"), "CANARY": ("a", "b"), "ACTIVE": ("b", "b")}[state.value]
        async with it.asking() as answers:
            for authority_table, successor_table in (
                (tables(hub, it.b, "authority", "new"), ""),
                (tables(hub, it.b, "authority", "renamed"), ""),
                (tables(hub, it.a, "authority", "local"), ""),
            ):
                hub.authority_table, hub.successor_table = authority_table, successor_table
                await hub.reconfigure()
                begun = len(answers)
                await eventually(lambda begun=begun: len(answers) > begun + 8)  # type: ignore[misc]
                assert await it.signers() == expected
        assert Counter(answer.code for _, answer in answers) == {OK: len(answers)}


async def test_settings_that_change_places(tmp_path: Path) -> None:
    async with rotating(tmp_path) as it:
        hub = it.hub
        await eventually(lambda: it.successor.state == "ready")
        await it.publish(it.a, it.b)
        await eventually(lambda: hub.role.report().generation == 2)
        await it.enter(State.STABLE)
        hub.authority_table = tables(hub, it.b, "authority", "new")
        hub.successor_table = tables(hub, it.a, "successor", "local")
        await hub.reconfigure()
        await refused(it)
        assert await it.signers() == ("a", "a")
        await it.enter(State.RETIRED)
        await eventually(
            lambda: it.successor.sha256 == it.a.certificate.sha256, describe=lambda: it.successor
        )
        assert await it.signers() == ("b", "b")


async def test_another_successor_takes_the_place_of_the_one_that_inherited(tmp_path: Path) -> None:
    c = authority("c")
    async with rotating(tmp_path) as it:
        hub = it.hub
        await eventually(lambda: it.successor.state == "ready")
        await it.publish(it.b)
        await it.enter(State.RETIRED)
        hub.pins = [it.b, c]
        hub.authority_table = tables(hub, it.b, "authority", "new")
        hub.successor_table = tables(hub, c, "successor", "next")
        async with it.asking() as answers:
            await hub.reconfigure()
            await eventually(lambda: (it.successor.name, it.successor.state) == ("next", "ready"))
            assert it.successor.sha256 == c.certificate.sha256
            begun = len(answers)
            await eventually(lambda: len(answers) > begun + 8)
        assert {(answer.code, it.signed_by(answer)) for _, answer in answers} == {(OK, "b")}


async def test_a_quarantined_cluster_gets_nothing_and_others_all(tmp_path: Path) -> None:
    async with rotating(tmp_path) as it:
        assert await it.signers() == ("a", "a")
        await it.hub.direct(SigningDirectives(stopped={"west": "broken into"}))
        assert await it.signers() == ("a", "UNAVAILABLE")
        assert it.hub.refused("west") == {"quarantined": 1}
        report = it.cluster("west")
        assert (report.state, report.reason) == ("unavailable", "quarantined")
        assert "broken into" in report.detail
        assert it.cluster("east").state == "ready"
        assert it.hub.role.report().ready
        await it.hub.direct(SigningDirectives())
        assert await it.signers() == ("a", "a")


async def test_a_generation_behind_that_is_not_believed_stops_that_cluster_alone(tmp_path: Path) -> None:
    async with rotating(tmp_path) as it:
        await it.hub.publish(behind={"west": 7})
        await eventually(lambda: it.hub.role.report().generation == 2)
        assert await it.signers() == ("a", "UNAVAILABLE")
        assert it.cluster("west").reason == "generation_ahead"
        assert it.hub.role.report().ready


async def test_a_cap_on_lifetimes_applies_to_workloads_and_the_listener(tmp_path: Path) -> None:
    async with rotating(tmp_path) as it:
        await it.publish(it.a, it.b)
        await it.enter(State.EMERGENCY, ttl_cap=90.0)
        now = it.hub.clock.now()
        for asked in (0, 30, 86400):
            leaf = (await it.ask("east", seconds=asked)).leaf
            lifetime = (leaf.not_after - now).total_seconds()
            assert min(asked or 90, 90) - 1 <= lifetime <= min(asked or 90, 90) + 5
        listener, *_ = it.hub.serving
        assert (listener.not_after - now).total_seconds() <= 95


async def test_the_listener_follows_the_directives(tmp_path: Path) -> None:
    async with rotating(tmp_path) as it:
        await eventually(lambda: it.successor.state == "ready")
        await it.publish(it.a, it.b)
        await it.enter(State.CANARY, clusters={"west": it.b.certificate.sha256})
        assert it.hub.role.report().serving_issuer == it.a.certificate.sha256
        only_old = await it.hub.ask("east", it.tokens["east"], trust=bundle_of(it.a))
        assert only_old.code is OK
        await it.enter(State.ACTIVE)
        assert it.hub.role.report().serving_issuer == it.b.certificate.sha256


async def test_a_kill_forgets_nothing(tmp_path: Path) -> None:
    """Bounds, directives and generations are as before after it, and a store that fails at the start stops issuing."""
    async with rotating(tmp_path) as it:
        hub = it.hub
        await eventually(lambda: it.successor.state == "ready")
        await it.publish(it.a, it.b)
        await it.enter(State.CANARY, clusters={"west": it.b.certificate.sha256})
        answers = {name: await it.ask(name) for name in ("east", "west")}
        await hub.kill()
        rows = await expiry_bound_rows(hub)
        for name, ca in (("east", it.a), ("west", it.b)):
            assert rows[name, ca.certificate.sha256, 2] >= answers[name].leaf.not_after.timestamp()
        assert await hub.stored_report() is not None, "it did not end in good order"

        orders_file = hub.directory / "state" / "documents" / "orders"
        sound = orders_file.read_bytes()
        orders_file.write_bytes(b"damaged")
        await hub.start()
        await eventually(lambda: any("directives were not read" in r for r in hub.role.report().reasons))
        assert hub.role.address is None, "it does not guess who is to sign"
        orders_file.write_bytes(sound)
        await hub.ready()
        await eventually(lambda: it.successor.state == "ready")
        assert await it.signers() == ("a", "b")
        after = await expiry_bound_rows(hub)
        assert all(after[key] >= until for key, until in rows.items())


async def test_bounds_that_cannot_be_read_at_the_start_stop_issuing(tmp_path: Path) -> None:
    async with rotating(tmp_path) as it:
        hub = it.hub
        await it.signers()
        await hub.kill()
        file = hub.directory / "state" / "documents" / "horizons@signer-0"
        sound = file.read_bytes()
        file.write_bytes(sound[:-9])
        await hub.start()
        await eventually(lambda: hub.role.address, describe=lambda: hub.role.report().reasons)
        assert any("how far leaves reach" in reason for reason in hub.role.report().reasons)
        assert await it.signers() == ("UNAVAILABLE", "UNAVAILABLE")
        assert file.read_bytes() == sound[:-9]
        file.write_bytes(sound)
        await hub.ready()
        assert await it.signers() == ("a", "a")


async def expiry_bound_rows(hub: RunningSigner) -> dict[tuple[str, str, int], float]:
    stored = await hub.store.read("horizons/signer-0")
    assert stored is not None
    rows = decode(stored.data, ExpiryBoundTable, key="horizons/signer-0").rows
    return {(row.cluster, row.issuer, row.generation): row.until for row in rows}


@pytest.mark.parametrize("what", ["orders", "generation", "quarantine"])
async def test_what_changes_behind_its_back_is_seen_before_a_leaf_leaves(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller writes right after the signer has persisted a bound; the caller gets what holds then."""
    async with rotating(tmp_path) as it:
        hub = it.hub
        await eventually(lambda: it.successor.state == "ready")
        await it.publish(it.a, it.b)
        await it.enter(State.PUBLISHING)
        await eventually(lambda: hub.role.report().generation == 2)
        write, done = hub.store.write, asyncio.Event()

        async def and_then(key: str, data: bytes, **options: object) -> str:
            version = await write(key, data, **options)  # type: ignore[arg-type]
            if key.startswith("horizons/") and not done.is_set():
                done.set()
                match what:
                    case "orders":
                        await hub.direct(it.directives(State.ACTIVE))
                    case "generation":
                        await hub.publish(it.a, it.b)
                    case _:
                        await hub.direct(it.directives(State.PUBLISHING, stopped={"east": "broken into"}))
            return version

        monkeypatch.setattr(hub.store, "write", and_then)
        answer = await it.ask("east")
        assert done.is_set()
        rows = await expiry_bound_rows(hub)
        if what == "orders":
            assert it.signed_by(answer) == "b"
        elif what == "generation":
            assert ("east", it.a.certificate.sha256, 3) in rows
        else:
            assert (answer.code, answer.elements) == (UNAVAILABLE, ())
            assert hub.refused("east") == {"quarantined": 1}
        assert ("east", it.a.certificate.sha256, 2) in rows, "the bound only makes the gates more careful"


async def test_directives_that_change_while_a_leaf_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rotating(tmp_path) as it:
        hub = it.hub
        await eventually(lambda: it.successor.state == "ready")
        await it.publish(it.a, it.b)
        await it.enter(State.PUBLISHING)
        await eventually(lambda: hub.role.report().generation == 2)
        issue, signed = HubBuiltAuthority.issue, []

        async def slowly(self: HubBuiltAuthority, order: LeafRequest) -> IssuedLeaf:
            issued = await issue(self, order)
            if issued.issuers[0] == it.a.certificate:
                signed.append(issued)
                if len(signed) == 1:
                    await hub.direct(it.directives(State.ACTIVE))
            return issued

        monkeypatch.setattr(HubBuiltAuthority, "issue", slowly)
        assert it.signed_by(await it.ask("east")) == "b", "what was signed before is not handed out"
        assert len(signed) == 1


async def test_files_that_are_exchanged_in_the_middle_of_a_rotation(tmp_path: Path) -> None:
    """What the directives name goes on while the process holds it; without it nothing is signed."""
    async with rotating(tmp_path) as it:
        hub = it.hub
        other = beside(it.a, "a exchanged", hub)
        assert await it.signers() == ("a", "a")
        await it.enter(State.STAGED)
        other.write(hub.directory / "authority")
        report = await refused(it)
        assert (report.state, report.sha256) == ("degraded", it.a.certificate.sha256)
        assert "rotation 1 is under way" in report.detail
        assert await it.signers() == ("a", "a")
        await hub.kill()
        await hub.start()
        await eventually(lambda: it.authority.sha256 == other.certificate.sha256)
        await eventually(lambda: hub.role.report().generation == 1)
        await eventually(
            lambda: not any("directives were not read" in why for why in hub.role.report().reasons)
        )
        assert any(it.a.certificate.sha256[:16] in reason for reason in hub.role.report().reasons)
        assert hub.role.address is None, "nothing may sign for the listener either"
        it.a.write(hub.directory / "authority")
        await hub.ready()
        assert await it.signers() == ("a", "a")


async def test_another_intermediate_under_the_root_in_force_signs_at_once(tmp_path: Path) -> None:
    """Whatever verifies the leaves of now verifies those of it. One that a rotation has left does not sign again."""
    async with rotating(tmp_path) as it:
        hub = it.hub
        renewed = beside(it.a, "a renewed", hub)
        await it.enter(State.STABLE)
        assert await it.signers() == ("a", "a")
        renewed.write(hub.directory / "authority")
        await eventually(lambda: hub.role.report().signs == renewed.certificate.sha256)
        assert (await it.ask("east")).elements[1] == renewed.certificate.pem.decode()
        left = [it.a.certificate.sha256]
        await hub.direct(it.directives(State.STABLE, issuer=renewed.certificate.sha256, left=left))
        it.a.write(hub.directory / "authority")
        report = await refused(it)
        assert report.sha256 == renewed.certificate.sha256
        assert "was left by a rotation" in report.detail
        assert (await it.ask("east")).elements[1] == renewed.certificate.pem.decode()


async def test_files_that_are_exchanged_for_another_root_sign_nothing(tmp_path: Path) -> None:
    """Half-written, then whole, and the root is published: what the process holds goes on, and says so."""
    async with rotating(tmp_path) as it:
        hub = it.hub
        await it.publish(it.a, it.b)
        await it.enter(State.STABLE)
        assert await it.signers() == ("a", "a")
        (hub.directory / "authority" / "ca-chain.pem").write_bytes(it.b.chain_pem)
        await eventually(
            lambda: "private key is not the one" in (hub.role.report().authority or it.successor).detail
        )
        assert await it.signers() == ("a", "a")
        it.b.write(hub.directory / "authority")
        report = await refused(it)
        assert (report.state, report.sha256) == ("degraded", it.a.certificate.sha256)
        assert "still signing with" in report.detail
        assert await it.signers() == ("a", "a")
        it.a.write(hub.directory / "authority")
        await eventually(lambda: (hub.role.report().authority or it.successor).state == "ready")


def beside(ca: pki.Authority, name: str, hub: RunningSigner) -> pki.Authority:
    """Another intermediate under the root of that one."""
    root = pki.Authority(ca.root, pki.key("root a of signer"), (), ca.root)
    now = hub.clock.now().replace(microsecond=0)
    return pki.intermediate(name, root, not_before=now - pki.DAY, not_after=now + pki.DAY)
