"""From one back end to another under the same root, and a back end that fails, as callers of the listener see it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from federation.core.documents.signer import AuthorityReport
from federation.core.rotation.effects import SigningDirectives
from federation.signer.authorities.canary import PROBE
from tests.authorities.vault_hub import given_token, secret_file, server_context
from tests.authorities.vault_server import VaultServer, vault_server
from tests.signer.running_signer import (
    SERVER_NAME,
    Answer,
    RunningSigner,
    authority,
    bundle_of,
    eventually,
    identity_of,
    running_signer,
)

CALLER = str(identity_of("foo", "bar"))
THROWN_AWAY = str(identity_of(PROBE.namespace, PROBE.name))
"""Who the leaf of a trial is for."""


def vault_table(
    server: VaultServer, directory: Path, ca_file: Path, *, more: str = "", section: str = "authority"
) -> str:
    """``[signer.authority]`` for the PKI engine of that server."""
    token, _ = given_token(server, directory)
    file = secret_file(directory, "vault-token", token.secret)
    return (
        f'[signer.{section}]\nkind = "vault"\nname = "vault"\naddress = "{server.address}"\n'
        f'ca_file = "{ca_file}"\nrole = "mesh-workload"\nserving_role = "mesh-listener"\n'
        f'poll_seconds = "1s"\ntimeout = "2s"\n{more}\n'
        f'[signer.{section}.auth]\nmethod = "token"\ntoken = "file:{file}"\n'
    )


def report_of(hub: RunningSigner) -> AuthorityReport:
    report = hub.role.report().authority
    assert report is not None
    return report


@asynccontextmanager
async def asking(hub: RunningSigner, token: str) -> AsyncIterator[list[Answer]]:
    """Callers that ask again and again meanwhile."""
    answers: list[Answer] = []

    async def ask() -> None:
        while True:
            answers.append(await hub.ask("east", token))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask()) for _ in range(4)]
        yield answers
        for task in tasks:
            task.cancel()


async def test_another_kind_of_authority_takes_over_and_no_request_fails(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server, running_signer(tmp_path / "hub", ca=server.pki.ca) as hub:
        token = hub.pod("east")
        async with asking(hub, token) as answers:
            await eventually(lambda: len(answers) > 20)
            hub.authority_table = vault_table(server, tmp_path, ca_file)
            await hub.reconfigure()
            await eventually(lambda: report_of(hub).kind == "vault", describe=lambda: report_of(hub))
            before = len(answers)
            await eventually(lambda: len(answers) > before + 20)
            hub.authority_table = ""
            await hub.reconfigure()
            await eventually(lambda: report_of(hub).kind == "local", describe=lambda: report_of(hub))
            before = len(answers)
            await eventually(lambda: len(answers) > before + 20)
        assert Counter((each.code, each.details) for each in answers) == {
            (grpc.StatusCode.OK, ""): len(answers)
        }
        assert server.count("pki/issuer/default/sign/mesh-workload") >= 15
        assert {answer.elements[1] for answer in answers} == {server.pki.ca.certificate.pem.decode()}


async def test_a_back_end_that_cannot_sign_does_not_take_over(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server, running_signer(tmp_path / "hub", ca=server.pki.ca) as hub:
        async with server.stopped():
            hub.authority_table = vault_table(server, tmp_path, ca_file)
            await hub.reconfigure()
            # Before the first attempt it cannot take over either, and there is nothing to correct yet.
            await eventually(lambda: report_of(hub).remedy != "", describe=lambda: report_of(hub))
            report = report_of(hub)
            assert "cannot take over" in report.detail
            assert (report.kind, report.state) == ("local", "degraded")
            assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK
        await eventually(lambda: report_of(hub).kind == "vault", describe=lambda: report_of(hub))


async def test_a_missing_vault_role_is_found_before_the_back_end_is_used(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server, running_signer(tmp_path / "hub", ca=server.pki.ca) as hub:
        role = server.pki.roles.pop("mesh-listener")
        hub.authority_table = vault_table(server, tmp_path, ca_file)
        await hub.reconfigure()
        await eventually(lambda: "on trial" in report_of(hub).detail, describe=lambda: report_of(hub))
        assert report_of(hub).kind == "local"
        assert "mesh-listener" in report_of(hub).detail
        server.pki.roles["mesh-listener"] = role
        await eventually(lambda: report_of(hub).kind == "vault", describe=lambda: report_of(hub))


async def test_an_outage_opens_the_circuit_and_what_was_issued_stays_good(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server:

        def setup(hub: RunningSigner) -> None:
            hub.authority_table = vault_table(server, tmp_path, ca_file)

        async with running_signer(tmp_path / "hub", ca=server.pki.ca, setup=setup) as hub:
            token = hub.pod("east")
            leaf = (await hub.ask("east", token)).leaf
            async with server.stopped():
                answers = [await hub.ask("east", token) for _ in range(8)]
                assert {answer.code for answer in answers} == {grpc.StatusCode.UNAVAILABLE}
                await eventually(lambda: not hub.role.report().ready)
                assert report_of(hub).state == "unavailable"
                assert any("cannot sign" in reason for reason in hub.role.report().reasons)
                assert hub.serving, "the listener still shows its certificate"
            await eventually(lambda: hub.role.report().ready, describe=lambda: hub.role.report())
            await eventually(lambda: report_of(hub).state in {"ready", "degraded"})
            assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
            await eventually(lambda: report_of(hub).circuit == "closed")
            assert leaf.not_after > hub.clock.now()


async def test_calls_beyond_the_quota_are_refused_early_and_reported(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server:

        def setup(hub: RunningSigner) -> None:
            hub.authority_table = vault_table(server, tmp_path, ca_file, more="quota = 4")
            hub.listener_options = 'deadline = "3s"'

        async with running_signer(tmp_path / "hub", ca=server.pki.ca, setup=setup) as hub:
            token = hub.pod("east")
            await eventually(lambda: report_of(hub).share == 4.0, describe=lambda: report_of(hub))
            answers = await asyncio.gather(*(hub.ask("east", token) for _ in range(30)))
            codes = Counter(answer.code for answer in answers)
            # On a busy machine some that waited for their turn come to it too late.
            late = codes.pop(grpc.StatusCode.UNAVAILABLE, 0)
            assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert late <= 12
            assert 4 <= codes[grpc.StatusCode.OK] <= 12
            report = report_of(hub)
            assert report.quota == 4.0
            assert report.refused_early == codes[grpc.StatusCode.RESOURCE_EXHAUSTED]
            assert report.capacity > 0
            assert hub.refused("east")["authority_quota"] == report.refused_early


async def test_the_listeners_certificate_comes_from_the_back_end_too(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server:

        def setup(hub: RunningSigner) -> None:
            hub.authority_table = vault_table(server, tmp_path, ca_file)

        async with running_signer(tmp_path / "hub", ca=server.pki.ca, setup=setup) as hub:
            shown, *_ = hub.serving
            assert server.count("pki/issuer/default/sign/mesh-listener") == 1
            assert SERVER_NAME in str(shown.extensions)


async def test_a_violation_is_an_alarm_in_the_report(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server, running_signer(tmp_path / "hub", ca=server.pki.ca) as hub:
        hub.authority_table = vault_table(server, tmp_path, ca_file)
        await hub.reconfigure()
        await eventually(lambda: report_of(hub).kind == "vault")
        server.pki.roles["mesh-workload"].client_flag = False
        answer = await hub.ask("east", hub.pod("east"))
        assert answer.code is grpc.StatusCode.INTERNAL
        report = report_of(hub)
        assert report.violations == 1
        assert "authentication" in report.last_violation
        assert report.last_violation_at > 0


async def test_a_successor_of_another_kind_and_another_root(tmp_path: Path) -> None:
    """Its root is proposed, then pinned; it signs on trial, and for callers once its root is published and ordered."""
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server:
        old, new = authority("a"), server.pki.ca

        def setup(hub: RunningSigner) -> None:
            more = "quota = 50"
            hub.successor_table = vault_table(server, tmp_path, ca_file, more=more, section="successor")

        async with running_signer(tmp_path / "hub", ca=old, setup=setup) as hub:

            def successor() -> AuthorityReport:
                report = hub.role.report().successor
                assert report is not None
                return report

            await eventually(lambda: successor().proposals, describe=successor)
            (proposal,) = successor().proposals
            assert (proposal.sha256, proposal.pem) == (new.root.sha256, new.root.pem.decode())
            assert successor().state == "unavailable"
            assert server.count("pki/issuer/default/sign/mesh-workload") == 0
            hub.pins = [new]
            role = server.pki.roles.pop("mesh-listener")
            await hub.reconfigure()
            await eventually(lambda: "on trial" in successor().detail, describe=successor)
            assert successor().state == "unavailable"
            assert successor().chain_pem == new.chain_pem.decode(), "a controller can judge it all the same"
            server.pki.roles["mesh-listener"] = role
            await eventually(lambda: successor().state == "ready", describe=successor)
            assert successor().proposals == []
            await eventually(lambda: successor().share == 50.0, describe=successor)

            token, trust = hub.pod("east"), bundle_of(old, new)
            asked = server.count("pki/issuer/default/sign/mesh-workload")
            assert (await hub.ask("east", token)).elements[1] == old.certificate.pem.decode()
            assert server.count("pki/issuer/default/sign/mesh-workload") == asked, (
                "it is not asked for callers"
            )
            await hub.publish(old, new)
            await hub.direct(
                SigningDirectives(rotation=1, state="ACTIVE", issuer=new.certificate.sha256, strict=True)
            )
            await eventually(lambda: hub.role.report().generation == 2)
            answer = await hub.ask("east", token, trust=trust)
            assert answer.elements[1:] == (new.certificate.pem.decode(), trust.decode())
            server.pki.roles["mesh-workload"].client_flag = False
            assert (await hub.ask("east", token, trust=trust)).code is grpc.StatusCode.INTERNAL
            assert (successor().violations, report_of(hub).violations) == (1, 0)


async def test_a_back_end_whose_issuer_is_changed_on_its_own_side(tmp_path: Path) -> None:
    """Under the root in force its new intermediate signs; under another one nothing is signed, published or not."""
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server:
        first, other = server.pki.ca, authority("another root")

        def setup(hub: RunningSigner) -> None:
            hub.authority_table = vault_table(server, tmp_path, ca_file)
            hub.pins = [other]

        async with running_signer(tmp_path / "hub", ca=first, setup=setup) as hub:
            token, trust = hub.pod("east"), bundle_of(first, other)
            await hub.publish(first, other)
            await hub.direct(SigningDirectives(issuer=first.certificate.sha256, root=first.root.sha256))
            await eventually(lambda: hub.role.report().generation == 2)
            assert (await hub.ask("east", token, trust=trust)).elements[1] == first.certificate.pem.decode()

            server.pki.issuers["default"] = other
            asked_for = server.pki.asked_for
            begun = asked_for.count(CALLER)
            assert (await hub.ask("east", token, trust=trust)).code is grpc.StatusCode.UNAVAILABLE
            assert asked_for.count(CALLER) <= begun + 1, "it was not known before"
            await eventually(
                lambda: report_of(hub).reason == "authority_not_in_force", describe=lambda: report_of(hub)
            )
            report = report_of(hub)
            assert (report.state, report.sha256) == ("unavailable", other.certificate.sha256)
            assert other.root.sha256[:16] in report.detail
            assert "federation rotate start" in report.remedy
            assert report.violations == 0, "it did nothing that it must never do"
            assert not hub.role.report().ready
            before, began = Counter(asked_for), time.monotonic()
            for _ in range(20):
                assert (await hub.ask("east", token, trust=trust)).code is grpc.StatusCode.UNAVAILABLE
            thrown_away = (THROWN_AWAY, SERVER_NAME)
            await eventually(lambda: all(asked_for.count(name) > before[name] for name in thrown_away))
            asked, seconds = Counter(asked_for) - before, time.monotonic() - began
            assert asked.keys() == {*thrown_away}, "it is asked for no caller any more"
            assert asked[THROWN_AWAY] <= seconds + 2, "only to see whether it was put back, once at each look"

            server.pki.issuers["default"] = first
            await eventually(lambda: report_of(hub).state == "ready", describe=lambda: report_of(hub))
            assert (await hub.ask("east", token, trust=trust)).elements[1] == first.certificate.pem.decode()
