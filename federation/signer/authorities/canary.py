"""Canary signing: an authority signs throw-away leaves, which are verified, before anything depends on it.

It signs one for a workload and one for the listener. A canary is for a service account of the hub's own namespace
that need not exist, lives for ten minutes, and is of no use to anyone: its key is made for it and never leaves this
process. What goes wrong is no alarm, because no caller was given anything.

Authority slots use :class:`CanarySigning`; ``federation authority check`` uses :func:`probe_authority`, which looks at
everything else as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final, Literal

from federation.core.config.hub import HubConfig
from federation.core.errors import AuthorityUnavailable, FederationError, InvalidValue
from federation.core.identity import ServiceAccountRef, SpiffeId
from federation.core.istio.istiod import istiods_of
from federation.core.pki.certificate import Certificate
from federation.core.pki.development import generate_key
from federation.core.pki.keys import KeyKind
from federation.core.pki.leaf import LeafProfile, leaf_validity
from federation.core.pki.pem import MAX_PEM_BYTES, find_certificate
from federation.files import read_bounded, read_in_time
from federation.signer.authorities.authority import (
    Alarms,
    AuthoritySettings,
    BackEndContext,
    CheckedLeaf,
    ManagedAuthority,
    issue_checked,
    request_for_own_key,
)
from federation.signer.authorities.back_ends import make_authority

_logger = logging.getLogger(__name__)

PROBE: Final = ServiceAccountRef("federation-system", "federation-authority-check")
LIFE: Final = timedelta(minutes=10)
NEW_ROOT: Final = "nothing has to be done now; have the next root made with a positive serial number"
MOST_NAMES: Final = 50  # of istiods in one certificate
TIMEOUT: Final = 30.0  # seconds for each thing that is asked

Outcome = Literal["ok", "warning", "failed"]
_MARKS: Final[dict[str, str]] = {"ok": "ok", "warning": "WARNING", "failed": "FAILED"}


@dataclass(frozen=True, slots=True)
class CanaryCheck:
    """What one check found, and what to do about it."""

    check: str
    outcome: Outcome
    detail: str
    reason: str = ""
    remedy: str = ""

    @property
    def mark(self) -> str:
        """The outcome as a word that is easily seen where it matters."""
        return _MARKS[self.outcome]


async def probe_authority(config: HubConfig, context: BackEndContext) -> list[CanaryCheck]:
    """Everything that was found, in the order of the checks; raises nothing of the authority's."""
    anchors, findings = await _pinned(config)
    if not anchors:
        return findings
    try:
        authority = make_authority(AuthoritySettings.of(config.signer), context)
    except FederationError as error:
        return [*findings, _failed("back end", error)]
    try:
        authority.trust(anchors)
        async with asyncio.timeout(TIMEOUT):
            await authority.refresh()
        findings += _described(authority)
        if authority.can_sign:
            findings += await _signed(authority, config, anchors, context)
    except TimeoutError:
        findings.append(
            CanaryCheck(
                "back end", "failed", f"no answer within {TIMEOUT:g} s", "timeout", "check the path to it"
            )
        )
    finally:
        await authority.close()
    return findings


async def _pinned(config: HubConfig) -> tuple[tuple[Certificate, ...], list[CanaryCheck]]:
    """The pinned roots, as the bundle of a running hub would hold them."""
    found: dict[str, Certificate] = {}
    findings: list[CanaryCheck] = []
    for pin in config.trust.anchors:
        try:
            data = await read_in_time(str(pin.file), partial(read_bounded, pin.file, MAX_PEM_BYTES))
            found[pin.sha256] = find_certificate(data, pin.sha256, where="")
        except (OSError, InvalidValue) as error:
            why = getattr(error, "strerror", None) or str(error)
            findings.append(
                CanaryCheck(
                    "pinned roots",
                    "warning" if found or len(config.trust.anchors) > 1 else "failed",
                    f"{pin.file}: {why}",
                    "anchor_unreadable",
                    "put the root with that fingerprint into the file",
                )
            )
    if not found and not any(finding.outcome == "failed" for finding in findings):
        findings.append(CanaryCheck("pinned roots", "failed", "none of them can be read", "no_anchor"))
    return tuple(found.values()), findings


def _described(authority: ManagedAuthority) -> Iterator[CanaryCheck]:
    report = authority.describe()
    outcome: Outcome = {"ready": "ok", "degraded": "warning"}.get(report.state, "failed")  # type: ignore[assignment]
    detail = report.detail or "it answers, and is ready"
    yield CanaryCheck("back end", outcome, detail, report.reason, report.remedy)
    if report.subject:
        ends = min(issuer.not_after for issuer in authority.issuers)
        path = " < ".join(issuer.subject for issuer in authority.issuers)
        yield CanaryCheck("chain", "ok", f"{path}; the first of them ends at {ends:%Y-%m-%d %H:%M} UTC")
    odd = authority.issuers[-1].odd_serial if authority.issuers else None
    if odd is not None:
        yield CanaryCheck("serial", "warning", odd, "serial", NEW_ROOT)
    for proposal in report.proposals:
        yield CanaryCheck(
            "chain",
            "warning",
            f"it names a root that is not pinned: {proposal.subject} ({proposal.sha256})",
            "anchor_proposed",
            "pin its fingerprint if it is yours; ask where it comes from if it is not",
        )


async def _signed(
    authority: ManagedAuthority, config: HubConfig, anchors: tuple[Certificate, ...], context: BackEndContext
) -> list[CanaryCheck]:
    findings: list[CanaryCheck] = []
    kinds = sorted(
        {kind for cluster in config.clusters for kind in cluster.policy.key_kinds} or {KeyKind.EC_P256},
        key=lambda kind: kind.value,
    )
    workloads = [(f"workload, {kind.value}", LeafProfile.WORKLOAD, kind) for kind in kinds]
    servers = {"listener": config.listener.server_names, "istiod": istiods_of(config)[:MOST_NAMES]}
    served = [(check, LeafProfile.SERVING, KeyKind.EC_P256) for check, hosts in servers.items() if hosts]
    for check, profile, kind in (*workloads, *served):
        try:
            leaf = await probe_once(
                authority, profile, kind, anchors=anchors, hosts=servers.get(check, ()), context=context
            )
        except FederationError as error:
            findings.append(_failed(check, error))
        else:
            findings.append(
                CanaryCheck(check, "ok", f"signed and verified, until {leaf.not_after:%H:%M:%S} UTC")
            )
    return findings


async def probe_once(
    authority: ManagedAuthority,
    profile: LeafProfile,
    kind: KeyKind = KeyKind.EC_P256,
    *,
    anchors: Iterable[Certificate],
    hosts: tuple[str, ...],
    context: BackEndContext,
) -> CheckedLeaf:
    """One throw-away leaf, verified; ``hosts`` are a server's. Raises what the authority raises, or an alarm."""
    key = await asyncio.to_thread(generate_key, kind)
    now = context.clock.now()
    name = hosts if profile is LeafProfile.SERVING else SpiffeId(context.trust_domain, PROBE)
    validity = leaf_validity(now, LIFE, LIFE, authority.issuers, LIFE)
    wanted = request_for_own_key(key, name, validity, context.random_bytes)
    try:
        async with asyncio.timeout(TIMEOUT):
            return await issue_checked(
                authority, wanted, anchors=anchors, at=now, alarms=Alarms(context.clock), thorough=True
            )
    except TimeoutError:
        raise AuthorityUnavailable(f"no answer within {TIMEOUT:g} s", reason="timeout") from None


def _failed(check: str, error: FederationError) -> CanaryCheck:
    return CanaryCheck(check, "failed", str(error), error.reason, error.remedy)


class CanarySigning:
    """Has authorities sign canaries. What was logged last is not logged again."""

    def __init__(self, context: BackEndContext) -> None:
        self._context = context
        self._logged = ""

    async def run(
        self, authority: ManagedAuthority, anchors: Iterable[Certificate]
    ) -> FederationError | None:
        """What is wrong with what it signs, by these anchors; None where it signs as it should."""
        try:
            for profile in LeafProfile:
                await probe_once(
                    authority, profile, anchors=anchors, hosts=self._context.hosts(), context=self._context
                )
        except FederationError as error:
            if str(error) != self._logged:
                _logger.warning("the authority does not sign as it should: %s", error.diagnostics())
            self._logged = str(error)
            return error
        except Exception:  # a mistake in one back end must not end a signer whose other one may be good
            _logger.exception("an authority on trial failed unexpectedly")
            return AuthorityUnavailable(
                "signing failed unexpectedly",
                remedy="look at the log of this signer",
                reason="unforeseen",
            )
        self._logged = ""
        return None
