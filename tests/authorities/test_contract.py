"""The one contract that every back end keeps, run over each of them.

A back end that cannot be had here is skipped with the reason its module gives (no softhsm2, no Vault named).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
from cryptography import x509

from federation.core.config.authorities.section import KINDS
from federation.core.errors import AuthorityUnavailable, FederationError
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind
from federation.core.pki.leaf import LeafProfile
from federation.runtime.clock import SystemClock
from federation.signer.authorities.authority import (
    Alarms,
    CheckedLeaf,
    LeafRequest,
    ManagedAuthority,
    issue_checked,
)
from tests.authorities.back_end import IDENTITY, ISTIOD_NAMES, SERVER_NAME, BackEnd, authority_of, order
from tests.support import pki

BACK_ENDS = sorted(file.stem.removeprefix("of_") for file in Path(__file__).parent.glob("of_*.py"))
"""What the modules ``of_<kind>.py`` open: every kind, some of them with a substitute and with the real thing."""

IN_THIS_PROCESS = {"local", "pkcs11"}
"""Kinds whose back end is files or a library of this process, so that nothing can cut it off."""


@pytest.fixture(params=BACK_ENDS)
async def back_end(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BackEnd]:
    module = import_module(f"tests.authorities.of_{request.param}")
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(module.open_back_end(tmp_path))


def test_the_contract_is_asked_of_every_kind() -> None:
    modules = {kind.replace("-", "_") for kind in KINDS}
    assert modules <= set(BACK_ENDS), "open each kind in tests/authorities/of_<kind>.py, with _ for -"


async def issue(authority: ManagedAuthority, wanted: LeafRequest, back_end: BackEnd) -> CheckedLeaf:
    clock = SystemClock()
    alarms = Alarms(clock)
    leaf = await issue_checked(authority, wanted, anchors=(back_end.root,), at=clock.now(), alarms=alarms)
    assert alarms.violations == 0
    return leaf


async def test_it_says_what_it_is(back_end: BackEnd) -> None:
    async with authority_of(back_end) as authority:
        await issue(authority, order(), back_end)  # some show their chain only with a leaf
        report = authority.describe()
        assert (report.state, report.detail) == ("ready", "")
        assert report.kind == back_end.settings.authority.kind
        assert report.name == back_end.settings.authority.name
        assert authority.can_sign
        assert authority.issuers[-1] == back_end.root
        assert report.sha256 == authority.issuers[0].sha256
        assert report.not_after == min(c.not_after for c in authority.issuers).timestamp()
        assert "BEGIN CERTIFICATE" in report.chain_pem


@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048])
async def test_a_workload_of_every_usual_key_gets_its_leaf(back_end: BackEnd, kind: KeyKind) -> None:
    async with authority_of(back_end) as authority:
        wanted = order(kind=kind)
        checked = await issue(authority, wanted, back_end)
        leaf = Certificate.from_der(checked.der)
        assert leaf.uris == (str(IDENTITY),)
        assert leaf.public_key == wanted.public_key
        assert leaf.is_signed_by(checked.issuers[0])
        assert checked.issuers[-1] == back_end.root
        assert leaf.not_after == checked.not_after
        assert abs(leaf.not_after - wanted.validity.not_after) <= back_end.coarse


async def test_the_listener_gets_a_serving_certificate(back_end: BackEnd) -> None:
    async with authority_of(back_end) as authority:
        wanted = order(LeafProfile.SERVING)
        leaf = Certificate.from_der((await issue(authority, wanted, back_end)).der)
        names = leaf.extension(x509.SubjectAlternativeName)
        assert names is not None
        assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME]


async def test_istiod_gets_its_own_with_all_its_names(back_end: BackEnd) -> None:
    async with authority_of(back_end) as authority:
        wanted = order(LeafProfile.SERVING, hosts=ISTIOD_NAMES)
        leaf = Certificate.from_der((await issue(authority, wanted, back_end)).der)
        names = leaf.extension(x509.SubjectAlternativeName)
        assert names is not None
        assert tuple(names.get_values_for_type(x509.DNSName)) == ISTIOD_NAMES
        assert leaf.uris == ()


async def test_many_at_once_are_all_different(back_end: BackEnd) -> None:
    async with authority_of(back_end) as authority:
        leaves = await asyncio.gather(*(issue(authority, order(), back_end) for _ in range(12)))
        assert len({Certificate.from_der(leaf.der).serial for leaf in leaves}) == 12


async def test_an_authority_under_an_unpinned_root_signs_nothing(back_end: BackEnd) -> None:
    stranger = pki.root("a stranger to all back ends").certificate
    async with authority_of(back_end, anchors=(stranger,)) as authority:
        clock = SystemClock()
        asked = issue_checked(authority, order(), anchors=(stranger,), at=clock.now(), alarms=Alarms(clock))
        with pytest.raises(FederationError):
            await asked
        assert authority.issuers == ()


async def test_without_a_bundle_it_signs_nothing(back_end: BackEnd) -> None:
    async with authority_of(back_end, anchors=()) as authority:
        assert authority.describe().state == "unavailable"
        with pytest.raises(AuthorityUnavailable):
            await authority.issue(order())


async def test_an_outage_of_the_back_end_is_reported_and_it_signs_after_it(back_end: BackEnd) -> None:
    if back_end.cut_off is None:
        kind = back_end.settings.authority.kind
        assert kind in IN_THIS_PROCESS, (
            f"give the BackEnd of {kind} its cut_off, or name the kind in IN_THIS_PROCESS"
        )
        return
    async with authority_of(back_end) as authority:
        await issue(authority, order(), back_end)
        async with back_end.cut_off():
            if back_end.signs_without_it:
                await issue(authority, order(), back_end)
            else:
                with pytest.raises(AuthorityUnavailable) as caught:
                    await authority.issue(order())
                assert caught.value.remedy
            await authority.refresh()
            report = authority.describe()
            assert report.state in {"unavailable", "degraded"}
            assert report.reason
            assert report.detail
            assert report.remedy
        await authority.refresh()
        await issue(authority, order(), back_end)
        assert authority.describe().state == "ready"


async def test_nothing_secret_is_ever_shown(back_end: BackEnd, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with authority_of(back_end) as authority:
        await issue(authority, order(), back_end)
        shown = f"{authority.describe()!r} {authority!r} {vars(authority)!r} {back_end.settings!r}"
        if back_end.cut_off is not None:
            async with back_end.cut_off():
                await authority.refresh()
                shown += repr(authority.describe())
    assert back_end.secrets
    for secret in back_end.secrets:
        assert len(secret) >= 6
        assert secret not in shown
        assert secret not in caplog.text


async def test_a_cancelled_request_does_not_affect_the_next_one(back_end: BackEnd) -> None:
    async with authority_of(back_end) as authority:
        given_up = [asyncio.create_task(authority.issue(order())) for _ in range(4)]
        await asyncio.sleep(0.002)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        assert (await issue(authority, order(), back_end)).issuers[-1] == back_end.root


async def test_lifetimes_are_those_asked_for(back_end: BackEnd) -> None:
    async with authority_of(back_end) as authority:
        for life in (timedelta(hours=1), timedelta(hours=12)):
            wanted = order(life=life)
            leaf = Certificate.from_der((await issue(authority, wanted, back_end)).der)
            assert abs(leaf.not_after - wanted.validity.not_after) <= back_end.coarse
            assert leaf.not_before <= SystemClock().now()
