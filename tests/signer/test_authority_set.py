"""The two authorities of a signer and the roots that the second is judged by: what is made, kept and reported."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from federation.controller.rotation.observer import signer_facts
from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.config.hub import AnchorPin
from federation.core.documents.controller import SignerListenerReport
from federation.core.documents.signer import SignerReport
from federation.core.errors import AuthorityMisconfigured, AuthorityViolation
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.rotation.effects import SigningDirectives
from federation.signer.authorities.authority import AuthoritySettings, BackEndContext, ManagedAuthority
from federation.signer.authorities.authority_set import AuthoritySet, AuthoritySlot, SlotContext
from federation.signer.authorities.back_ends import make_authority
from federation.signer.authorities.limiter import Limiter
from federation.signer.authorities.selection import choose
from federation.signer.generations import PinnedRoots
from tests.signer.running_signer import SERVER_NAME, TRUST_DOMAIN
from tests.support import pki
from tests.support.clock import VirtualClock

A, B = (
    pki.intermediate("authority a1", pki.root("authority a")),
    pki.intermediate("authority b1", pki.root("authority b")),
)


class Packages:
    """Whether the packages of every kind of back end are installed."""

    def __init__(self) -> None:
        self.missing = False

    def make(
        self, settings: AuthoritySettings, context: BackEndContext, limiter: Limiter | None
    ) -> ManagedAuthority:
        if self.missing:
            raise AuthorityMisconfigured(
                "a package is not installed", reason="package_missing", remedy="install it"
            )
        return make_authority(settings, context, limiter)


def context(
    packages: Packages | None = None, directives: Callable[[], SigningDirectives | None] = lambda: None
) -> SlotContext:
    """What the role gives to its slots."""
    clock = VirtualClock(pki.NOW)
    return SlotContext(
        back_ends=BackEndContext(
            TRUST_DOMAIN, clock, os.urandom, random.Random(1), hosts=lambda: (SERVER_NAME,)
        ),
        deadline=10.0,
        lifetime=lambda: 3600.0,
        directives=directives,
        make=(packages or Packages()).make,
    )


def settings_of(ca: pki.Authority, directory: Path, name: str) -> AuthoritySettings:
    chain, key, _ = ca.write(directory / name)
    return AuthoritySettings(LocalAuthorityConfig(name=name, certificate_file=chain, key_file=key))


async def test_a_successor_that_cannot_be_made_disturbs_nothing_and_is_reported(tmp_path: Path) -> None:
    first, second = settings_of(A, tmp_path, "first"), settings_of(B, tmp_path, "second")
    packages = Packages()
    both = AuthoritySet(context(packages), first, None)
    assert both.describe_successor() is None
    packages.missing = True
    both.configure(first, second)
    report = both.describe_successor()
    assert report is not None
    assert (report.name, report.state, report.reason) == ("second", "unavailable", "package_missing")
    assert report.remedy
    both.trust([A.root])
    await both.authority.refresh()
    assert both.authority.usable
    packages.missing = False
    both.configure(first, None)
    assert both.describe_successor() is None
    both.configure(first, second)
    assert both.successor is not None


async def test_a_successor_is_not_counted_on_before_it_has_signed(tmp_path: Path) -> None:
    both = AuthoritySet(context(), settings_of(A, tmp_path, "first"), settings_of(B, tmp_path, "second"))
    both.trust([A.root])
    successor = both.successor
    assert successor is not None
    await successor.refresh()
    assert (successor.usable, successor.issuers) == (False, ())
    assert successor.describe().state == "unavailable"
    both.pin([A.root, B.root])
    await successor.current.refresh()
    assert successor.current.can_sign
    assert (successor.usable, successor.issuers) == (False, ())
    assert successor.describe().reason == "on_trial"
    await successor.refresh()
    assert (successor.usable, successor.issuers) == (True, (B.certificate, B.root))
    assert successor.describe().state == "ready"
    assert successor.describe().violations == 0, "a trial is no alarm"


def is_usable(slot: AuthoritySlot) -> bool:
    return slot.usable


def successor_of(both: AuthoritySet) -> AuthoritySlot | None:
    return both.successor


async def test_a_new_intermediate_of_the_successor_is_on_trial_again(tmp_path: Path) -> None:
    second = settings_of(B, tmp_path, "second")
    both = AuthoritySet(context(), settings_of(A, tmp_path, "first"), second)
    both.pin([B.root])
    successor = both.successor
    assert successor is not None
    await successor.refresh()
    assert is_usable(successor)
    renewed = pki.intermediate("authority b2", pki.root("authority b"))
    renewed.write(tmp_path / "second")
    await successor.current.refresh()
    assert not is_usable(successor)
    await successor.refresh()
    assert successor.issuers[0] == renewed.certificate


async def after_a_rotation(directory: Path, *, at_rest_before: bool) -> AuthoritySet:
    """The bundle holds the new root alone; the old authority was in use ``at_rest_before``, in this very process."""
    both = AuthoritySet(context(), settings_of(A, directory, "first"), settings_of(B, directory, "second"))
    if at_rest_before:
        both.trust([A.root])
        await both.authority.refresh()
        assert both.authority.usable
    both.trust([B.root])
    await both.authority.refresh()
    assert both.successor is not None
    await both.successor.refresh()
    assert [slot.usable for slot in both.in_order] == [False, True]
    return both


@pytest.mark.parametrize("at_rest_before", [True, False])
async def test_a_typo_in_what_was_moved_takes_nothing_from_the_one_that_signs(
    tmp_path: Path, at_rest_before: bool
) -> None:
    both = await after_a_rotation(tmp_path, at_rest_before=at_rest_before)
    moved = both.in_order[1].settings
    assert isinstance(moved.authority, LocalAuthorityConfig)
    typo = AuthoritySettings(replace(moved.authority, key_file=tmp_path / "typo.pem"))
    both.configure(typo, None)
    for _ in range(3):
        for slot in both.in_order:
            await slot.refresh()
    directives = SigningDirectives(rotation=1, state="RETIRED", issuer=B.certificate.sha256)
    chosen = choose(directives, "east", both.in_order, (B.root,))
    assert chosen.usable
    assert chosen.issuers == (B.certificate, B.root)
    assert "typo.pem" in both.authority.describe().detail
    both.configure(moved, None)
    assert [slot.settings for slot in both.in_order] == [moved]
    assert both.authority.usable


async def test_a_successor_that_was_taken_out_goes_once_the_authority_can_sign(tmp_path: Path) -> None:
    renewed = pki.intermediate("authority b2", pki.root("authority b"))
    first = settings_of(renewed, tmp_path, "first")
    assert isinstance(first.authority, LocalAuthorityConfig)
    key = first.authority.key_file.rename(tmp_path / "not-there-yet.pem")
    both = AuthoritySet(context(), first, settings_of(B, tmp_path, "second"))
    both.trust([B.root])
    for slot in both.in_order:
        await slot.refresh()
    both.configure(first, None)
    assert successor_of(both) is not None, "it is all that signs"
    key.rename(first.authority.key_file)
    await both.authority.refresh()
    assert successor_of(both) is None
    assert both.authority.usable


async def test_an_authority_that_was_good_goes_only_for_one_that_signs(tmp_path: Path) -> None:
    both = AuthoritySet(context(), settings_of(A, tmp_path, "first"), None)
    slot = both.authority
    both.trust([A.root])
    await slot.refresh()
    both.configure(settings_of(B, tmp_path, "second"), None)  # its root is not published: it cannot sign
    slot.current.trust([])  # and the one in use cannot for a moment
    assert not slot.current.can_sign
    await slot.refresh()
    assert slot.settings.authority.name == "first"
    both.trust([A.root])
    await slot.refresh()
    assert slot.usable


async def test_of_two_that_never_were_good_the_configured_one_is_reported(tmp_path: Path) -> None:
    both = AuthoritySet(context(), settings_of(A, tmp_path, "first"), None)
    both.configure(settings_of(B, tmp_path, "second"), None)
    await both.authority.refresh()
    assert both.authority.describe().name == "second"


async def test_alarms_outlive_the_authority_that_raised_them(tmp_path: Path) -> None:
    first, second = settings_of(A, tmp_path, "first"), settings_of(B, tmp_path, "second")
    both = AuthoritySet(context(), first, second)
    both.trust([A.root, B.root])
    successor = both.successor
    assert successor is not None
    await successor.refresh()
    both.authority.alarms.violated(AuthorityViolation("another key", reason="wrong_key"))
    both.configure(second, None)
    assert both.authority is successor
    assert both.describe_successor() is None
    report = both.authority.describe()
    assert (report.name, report.violations, report.last_violation) == ("second", 1, "another key")


async def test_a_pinned_root_is_known_once_it_was_read(tmp_path: Path) -> None:
    given: list[tuple[Certificate, ...]] = []
    roots = PinnedRoots(trust_domain=TRUST_DOMAIN, clock=VirtualClock(pki.NOW), on_change=given.append)
    file = tmp_path / "roots.pem"
    pins = [AnchorPin(file=file, sha256=ca.root.sha256, trust_domain=TRUST_DOMAIN) for ca in (A, B)]
    elsewhere = TrustDomain("elsewhere.example")
    foreign = AnchorPin(file=file, sha256=pki.root("successor c").root.sha256, trust_domain=elsewhere)
    roots.configure([*pins, foreign])
    await roots.read()
    file.write_bytes(b"garbage")
    await roots.read()
    assert given == []
    file.write_bytes(A.root.pem)
    await roots.read()
    assert given == [(A.root,)]
    file.write_bytes(B.root.pem + pki.root("successor c").root.pem)
    await roots.read()
    assert given[-1] == (A.root, B.root), "what a fingerprint names does not change, nor vanish with a file"
    roots.configure(pins[1:])
    assert given.pop() == (B.root,), "and nothing is known that is not pinned"


async def test_an_old_side_that_is_configured_no_longer_is_kept_and_reported_as_such(tmp_path: Path) -> None:
    """A rotation may still go back to it, but only until this process is restarted."""
    first, second = settings_of(A, tmp_path, "first"), settings_of(B, tmp_path, "second")
    directives = SigningDirectives(rotation=1, state="ACTIVE", issuer=B.certificate.sha256, strict=True)
    both = AuthoritySet(context(directives=lambda: directives), first, second)
    both.trust([A.root, B.root])
    for slot in both.in_order:
        await slot.refresh()

    def kept() -> dict[str, bool]:
        reports = (both.describe_authority(), both.describe_successor())
        return {report.sha256: report.kept for report in reports if report is not None}

    assert kept() == {A.certificate.sha256: False, B.certificate.sha256: False}
    both.configure(second, None)
    assert kept() == {A.certificate.sha256: True, B.certificate.sha256: False}
    report = SignerReport(
        replica="signer-0",
        started=0.0,
        updated=0.0,
        heartbeat=2.0,
        ready=True,
        authority=both.describe_authority(),
        successor=both.describe_successor(),
    )
    facts = signer_facts(report, SignerListenerReport(replica="signer-0"))
    assert facts.ready_with == {A.certificate.sha256, B.certificate.sha256}
    assert facts.until_restart == {A.certificate.sha256}
    both.configure(second, first)
    assert not any(kept().values())
