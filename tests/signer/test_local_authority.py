"""The local authority: every accepted kind of key, and every file that must not be taken up."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.documents.signer import AuthorityReport
from federation.core.errors import AuthorityError, AuthorityRefused, AuthorityUnavailable, AuthorityViolation
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.der import SubjectAltName
from federation.core.pki.keys import KeyKind, private_key_pem, spki
from federation.core.pki.leaf import LeafProfile, Validity
from federation.signer.authorities.authority import (
    Alarms,
    AuthorityBasics,
    BackEndContext,
    IssuedLeaf,
    LeafRequest,
    ManagedAuthority,
    issue_checked,
)
from federation.signer.authorities.credentials import mode_is_private
from federation.signer.authorities.hub_built import HubBuiltAuthority
from federation.signer.authorities.local import PairOfFiles
from federation.signer.revalidation import Superseded
from tests.support import pki
from tests.support.clock import VirtualClock

CLOCK = VirtualClock(pki.NOW)


def made(
    config: LocalAuthorityConfig,
    *,
    clock: VirtualClock = CLOCK,
    trust_domain: str = "cluster.local",
    hosts: Callable[[], tuple[str, ...]] = tuple,
) -> HubBuiltAuthority:
    return HubBuiltAuthority(
        PairOfFiles(config),
        AuthorityBasics(
            name=config.name,
            kind=config.kind,
            poll_seconds=config.poll_seconds,
            context=BackEndContext(
                TrustDomain(trust_domain), clock, os.urandom, random.Random(1), hosts=hosts
            ),
        ),
    )


async def loaded(
    directory: Path,
    ca: pki.Authority,
    *,
    anchors: tuple[Certificate, ...] | None = None,
    clock: VirtualClock = CLOCK,
    trust_domain: str = "cluster.local",
    hosts: Callable[[], tuple[str, ...]] = tuple,
) -> HubBuiltAuthority:
    ca.write(directory)
    config = LocalAuthorityConfig(
        name="local", certificate_file=directory / "ca-chain.pem", key_file=directory / "ca-key.pem"
    )
    authority = made(config, clock=clock, trust_domain=trust_domain, hosts=hosts)
    authority.trust((ca.root,) if anchors is None else anchors)
    await authority.refresh()
    return authority


def order(profile: LeafProfile = LeafProfile.WORKLOAD, *hosts: str) -> LeafRequest:
    return LeafRequest(
        profile=profile,
        public_key=pki.key("workload").public_key(),
        spki_der=spki(pki.key("workload").public_key()),
        names=hosts or (str(pki.IDENTITY),),
        san=SubjectAltName.of_hosts(hosts) if hosts else SubjectAltName.of_identity(pki.IDENTITY),
        serial=4711,
        validity=Validity(pki.NOW - timedelta(minutes=2), pki.NOW + timedelta(hours=1)),
        csr_pem="",
    )


async def test_a_leaf_that_was_ordered_before_a_shorter_intermediate_came_is_made_anew(
    tmp_path: Path,
) -> None:
    """Promise 2: no certificate outlives its issuer."""
    authority = await loaded(tmp_path, pki.intermediate())
    wanted = order()
    shorter = pki.intermediate("ends soon", not_after=pki.NOW + timedelta(minutes=5))
    shorter.write(tmp_path)
    await authority.refresh()
    assert authority.issuers[0] == shorter.certificate
    with pytest.raises(Superseded, match="taken up meanwhile ends at"):
        await authority.issue(wanted)


KINDS = [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048, KeyKind.RSA_3072, KeyKind.RSA_4096]


@pytest.mark.parametrize("kind", KINDS)
async def test_signs_with_every_accepted_kind_of_key(tmp_path: Path, kind: KeyKind) -> None:
    ca = pki.intermediate(f"of kind {kind.value}", kind=kind)
    authority = await loaded(tmp_path, ca)
    assert isinstance(authority, ManagedAuthority)
    assert authority.issuers == (ca.certificate, ca.root)
    assert authority.describe().state == "ready"
    assert authority.describe().not_after == ca.certificate.not_after.timestamp()
    for profile in LeafProfile:
        issued = await authority.issue(order(profile))
        assert Certificate.from_der(issued.der).is_signed_by(ca.certificate)
        assert issued.built_by_hub


ROOT = pki.root()
STRANGER = pki.root("a stranger")
CA = pki.intermediate()
NOT_CA = pki.leaf(pki.intermediate(), private_key=CA.key)


def wrong(name: str) -> pki.Authority:
    match name:
        case "another key":
            return pki.Authority(CA.certificate, pki.key("another"), CA.chain, CA.root)
        case "not a CA":
            return pki.Authority(NOT_CA, CA.key, (NOT_CA, CA.certificate), CA.root)
        case "the root itself":
            return pki.Authority(ROOT.certificate, ROOT.key, (ROOT.certificate,), ROOT.root)
        case "path length":
            above = pki.intermediate("that allows none below", ROOT)
            return pki.intermediate("one too many", above)
        case "expired":
            return pki.intermediate("expired", not_after=pki.NOW - timedelta(seconds=1))
        case "not valid yet":
            return pki.intermediate("early", not_before=pki.NOW + timedelta(minutes=1))
        case _:
            raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("another key", "private key is not the one"),
        ("not a CA", "CA"),
        ("the root itself", "self-signed"),
        ("path length", "allows 0 intermediates"),
        ("expired", "expired"),
        ("not valid yet", "valid"),
    ],
)
async def test_refuses_what_may_not_sign(tmp_path: Path, name: str, words: str) -> None:
    authority = await loaded(tmp_path, wrong(name))
    report = authority.describe()
    assert report.state == "unavailable"
    assert words in report.detail
    assert report.remedy
    assert authority.issuers == ()
    with pytest.raises(AuthorityError):
        await authority.issue(order())


CONFINED = pki.confined([x509.DNSName("corp.example")])


async def test_an_intermediate_constrained_from_the_listeners_name_signs_nothing(tmp_path: Path) -> None:
    """Every client would refuse the listener's certificate, and all workloads end without one."""
    authority = await loaded(tmp_path, CONFINED, hosts=lambda: ("hub.corp.example", "hub.mesh"))
    report = authority.describe()
    assert (report.state, report.reason) == ("unavailable", "name_constraints")
    for part in ("CN=confined", "'hub.mesh'", "'corp.example'"):
        assert part in report.detail
    assert report.remedy
    with pytest.raises(AuthorityError, match="name constraints"):
        await authority.issue(order())


async def test_an_intermediate_constrained_from_the_listeners_name_does_not_replace_a_good_one(
    tmp_path: Path,
) -> None:
    authority = await loaded(tmp_path, CA, hosts=lambda: ("hub.mesh",))
    CONFINED.write(tmp_path)
    await authority.refresh()
    report = authority.describe()
    assert (report.state, report.reason) == ("degraded", "name_constraints")
    assert "still signing with" in report.detail
    assert (await authority.issue(order())).issuers[0] == CA.certificate


async def test_a_listener_name_outside_the_constraints_stops_no_workload(tmp_path: Path) -> None:
    """What the new name may not have is refused by itself: an edit must stop no one else."""
    hosts = ("hub.corp.example",)
    authority = await loaded(tmp_path, CONFINED, hosts=lambda: hosts)
    assert authority.describe().state == "ready"
    assert (await authority.issue(order(LeafProfile.SERVING, *hosts))).der
    hosts = ("hub.mesh",)
    await authority.refresh()
    assert authority.describe().reason == "name_constraints"
    assert (await authority.issue(order())).issuers[0] == CONFINED.certificate
    with pytest.raises(AuthorityRefused, match=r"'hub\.mesh' is not among the permitted names") as error:
        await authority.issue(order(LeafProfile.SERVING, *hosts))
    assert error.value.reason == "name_constraints"
    assert (await authority.issue(order(LeafProfile.SERVING, "other.corp.example"))).der


async def test_leaves_that_show_an_authority_is_good_are_verified_even_if_the_hub_built_them(
    tmp_path: Path,
) -> None:
    """The leaves of a trial, of ``authority check`` and of the listener: a mistake in building them is found here."""
    good = await loaded(tmp_path, CA)

    class Mistaken:
        def describe(self) -> AuthorityReport:
            return good.describe()

        async def issue(self, _: LeafRequest) -> IssuedLeaf:
            return await good.issue(order(LeafProfile.SERVING, "other.example"))

    asked = order(LeafProfile.SERVING, "hub.example")
    terms = {"anchors": [CA.root], "at": pki.NOW, "alarms": Alarms(CLOCK)}
    assert (await issue_checked(good, asked, **terms, thorough=True)).der  # type: ignore[arg-type]
    with pytest.raises(AuthorityViolation, match="other names"):
        await issue_checked(Mistaken(), asked, **terms, thorough=True)  # type: ignore[arg-type]


async def test_no_leaf_is_named_as_its_issuers_may_not_name_it(tmp_path: Path) -> None:
    """Whatever was judged beforehand: of each leaf the names are looked at."""
    ca = pki.confined([x509.UniformResourceIdentifier("cluster.local")], [x509.DNSName("evil.example")])
    authority = await loaded(tmp_path, ca)
    assert (await authority.issue(order())).der
    assert (await authority.issue(order(LeafProfile.SERVING, "good.example", "10.0.0.1"))).der
    with pytest.raises(AuthorityRefused, match=r"'a\.evil\.example' is excluded by DNS 'evil\.example'"):
        await authority.issue(order(LeafProfile.SERVING, "good.example", "a.evil.example"))
    stranger = msgspec.structs.replace(order(), names=("spiffe://other.domain/ns/foo/sa/bar",))
    with pytest.raises(AuthorityRefused, match=r"other\.domain"):
        await authority.issue(stranger)


@pytest.mark.parametrize("curve", [ec.BrainpoolP256R1(), ec.SECP256K1(), ec.SECP521R1()])
async def test_a_root_that_no_verifier_takes_has_nothing_signed_below_it(
    tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    _, below = pki.root_of_curve(curve, not_before=pki.NOW - pki.DAY, not_after=pki.NOW + pki.YEAR)
    report = (await loaded(tmp_path, below)).describe()
    assert (report.state, report.reason) == ("unavailable", "weak_key")
    assert f"CN=Root on {curve.name}" in report.detail


async def test_refuses_a_chain_that_reaches_no_pinned_root(tmp_path: Path) -> None:
    authority = await loaded(tmp_path, CA, anchors=(STRANGER.certificate,))
    assert "no path to an anchor" in authority.describe().detail
    as_anchor = await loaded(tmp_path / "b", CA, anchors=(CA.certificate,))
    assert as_anchor.describe().state == "unavailable", "an intermediate in the bundle is no root"


async def test_without_a_bundle_it_signs_nothing(tmp_path: Path) -> None:
    authority = await loaded(tmp_path, CA, anchors=())
    with pytest.raises(AuthorityUnavailable):
        await authority.issue(order())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o602, 0o777])
async def test_refuses_a_key_that_others_may_read_or_change(tmp_path: Path, mode: int) -> None:
    CA.write(tmp_path)
    (tmp_path / "ca-key.pem").chmod(mode)
    config = LocalAuthorityConfig(
        name="local", certificate_file=tmp_path / "ca-chain.pem", key_file=tmp_path / "ca-key.pem"
    )
    authority = made(config)
    authority.trust((CA.root,))
    await authority.refresh()
    assert f"mode {mode:04o}" in authority.describe().detail
    (tmp_path / "ca-key.pem").chmod(0o400)
    await authority.refresh()
    assert authority.describe().state == "ready"


@pytest.mark.parametrize(
    ("mode", "owned", "in_group", "private"),
    [
        (0o600, True, True, True),
        (0o400, False, False, True),
        (0o440, False, True, True),
        (0o640, False, True, True),
        (0o440, True, True, False),
        (0o440, False, False, False),
        (0o444, False, True, False),
        (0o460, False, True, False),
        (0o450, False, True, False),
    ],
)
def test_a_group_may_read_only_a_mounted_secret(
    mode: int, owned: bool, in_group: bool, private: bool
) -> None:
    assert mode_is_private(mode, owned=owned, in_group=in_group) is private


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("ca-chain.pem", b"", "no certificate"),
        ("ca-chain.pem", b"garbage", "no certificate"),
        ("ca-chain.pem", CA.certificate.pem[:-30], "ca-chain.pem"),
        ("ca-chain.pem", CA.chain_pem + CA.key_pem, "private key"),
        ("ca-chain.pem", b"x" * (2 * 1024 * 1024), "bytes"),
        ("ca-key.pem", b"", "not a PEM private key"),
        ("ca-key.pem", CA.key_pem[:-40], "not a PEM private key"),
        ("ca-key.pem", CA.certificate.pem, "not a PEM private key"),
        ("ca-key.pem", CA.key_pem + CA.key_pem, "more than one PEM block"),
        ("ca-key.pem", b"x" * 100_000, "larger"),
    ],
)
async def test_broken_files_leave_the_last_good_pair(
    tmp_path: Path, file: str, content: bytes, words: str
) -> None:
    authority = await loaded(tmp_path, CA)
    (tmp_path / file).write_bytes(content)
    await authority.refresh()
    report = authority.describe()
    assert report.state == "degraded"
    assert words in report.detail
    assert "still signing with" in report.detail
    secret = private_key_pem(CA.key).decode().splitlines()[1]
    assert secret not in report.detail
    assert (await authority.issue(order())).issuers == (CA.certificate, CA.root)
    CA.write(tmp_path)
    await authority.refresh()
    assert authority.describe().state == "ready"


async def test_missing_files_and_directories_are_reported(tmp_path: Path) -> None:
    authority = await loaded(tmp_path, CA)
    (tmp_path / "ca-key.pem").unlink()
    (tmp_path / "ca-key.pem").mkdir(mode=0o700)
    await authority.refresh()
    assert "Is a directory" in authority.describe().detail
    (tmp_path / "ca-chain.pem").unlink()
    await authority.refresh()
    assert "No such file" in authority.describe().detail


async def test_the_same_files_cost_no_new_issuers(tmp_path: Path) -> None:
    authority = await loaded(tmp_path, CA)
    before = authority.issuers
    await authority.refresh()
    authority.trust((CA.root, STRANGER.certificate))
    assert authority.issuers is before


async def test_time_makes_it_unavailable(tmp_path: Path) -> None:
    clock = VirtualClock(pki.NOW)
    authority = await loaded(tmp_path, CA, clock=clock)
    clock.step((CA.certificate.not_after - pki.NOW).total_seconds() - 30)
    report = authority.describe()
    assert (report.state, report.detail != "") == ("unavailable", True)
    clock.step(60)
    await authority.refresh()
    assert authority.describe().state == "unavailable"
    assert authority.issuers == ()


async def test_symlinks_are_followed_as_mounted_secrets_need(tmp_path: Path) -> None:
    CA.write(tmp_path / "..2026_11_24")
    (tmp_path / "..data").symlink_to("..2026_11_24")
    for name in ("ca-chain.pem", "ca-key.pem"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    config = LocalAuthorityConfig(
        name="local", certificate_file=tmp_path / "ca-chain.pem", key_file=tmp_path / "ca-key.pem"
    )
    authority = made(config)
    authority.trust((CA.root,))
    await authority.refresh()
    assert authority.describe().sha256 == CA.certificate.sha256
    second = pki.intermediate("swapped in")
    second.write(tmp_path / "..2026_11_25")
    (tmp_path / "..data_tmp").symlink_to("..2026_11_25")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    await authority.refresh()
    assert authority.describe().sha256 == second.certificate.sha256
