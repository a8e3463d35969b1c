"""From a configuration to its authority: the one place that knows every kind of back end.

A further back end is a settings class, a module that gives a :class:`PairSource` or a :class:`CertificateService`,
and one more case here. Modules are imported when their kind is configured: what one back end needs is no other's
business.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from federation.core.config.authorities.settings import (
    AwsKmsAuthorityConfig,
    AwsPcaAuthorityConfig,
    CertManagerAuthorityConfig,
    ConjurAuthorityConfig,
    LocalAuthorityConfig,
    Pkcs11AuthorityConfig,
    VaultAuthorityConfig,
    VaultTransitAuthorityConfig,
)
from federation.core.errors import AuthorityMisconfigured
from federation.signer.authorities.authority import (
    AuthoritySettings,
    BackEndContext,
    CertificateService,
    ManagedAuthority,
    MayExchange,
    PairSource,
)
from federation.signer.authorities.credentials import OwnCredentials
from federation.signer.authorities.hub_built import HubBuiltAuthority
from federation.signer.authorities.service import ServiceAuthority

_PACKAGES = {"pkcs11": "pkcs11", "aiobotocore": "aws", "botocore": "aws"}
"""Modules that only an extra of the package brings -> the extra."""


def make_authority(settings: AuthoritySettings, around: BackEndContext) -> ManagedAuthority:
    """The authority of these settings; nothing is asked of it yet.

    Raises AuthorityMisconfigured where a package that its kind needs is not installed.
    """
    config = settings.authority
    try:
        made = _back_end(settings, around)
    except ModuleNotFoundError as error:
        extra = _PACKAGES.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise AuthorityMisconfigured(
            f"the package {error.name}, which an authority of kind {config.kind} needs, is not installed",
            where=config.name,
            reason="package_missing",
            remedy=f"install federation-hub[{extra}]",
        ) from None
    options: dict[str, Any] = {
        "name": config.name,
        "kind": config.kind,
        "poll_seconds": made.poll_seconds,
        "trust_domain": around.trust_domain,
        "hosts": around.hosts,
        "ztunnel": around.ztunnel,
        "clock": around.clock,
    }
    return made.make(**options)


@dataclass(frozen=True, slots=True)
class _BackEnd:
    """A back end and how often it is looked at."""

    poll_seconds: float
    make: Callable[..., ManagedAuthority]


def _signs(source: PairSource, poll_seconds: float, exchange: MayExchange) -> _BackEnd:
    return _BackEnd(poll_seconds, partial(HubBuiltAuthority, source, exchange=exchange))


def _issues(service: CertificateService, poll_seconds: float, jitter: random.Random) -> _BackEnd:
    return _BackEnd(poll_seconds, partial(ServiceAuthority, service, jitter=jitter))


def _back_end(settings: AuthoritySettings, around: BackEndContext) -> _BackEnd:
    config = settings.authority
    match config:
        case LocalAuthorityConfig():
            from federation.signer.authorities.local import PairOfFiles

            return _signs(PairOfFiles(config), config.poll_seconds, around.exchange)
        case ConjurAuthorityConfig():
            from federation.signer.authorities.conjur import PairOfVariables

            conjur = settings.conjur
            if conjur is None:
                raise AuthorityMisconfigured("no Conjur is configured", remedy="add [signer.conjur]")
            source = PairOfVariables(config, conjur, own_credentials(settings, around), clock=around.clock)
            return _signs(source, conjur.poll, around.exchange)
        case VaultAuthorityConfig():
            from federation.signer.authorities.vault.pki import VaultPki

            credentials = own_credentials(settings, around)
            return _issues(VaultPki(config, credentials, around), config.poll_seconds, around.jitter)
        case VaultTransitAuthorityConfig():
            from federation.signer.authorities.vault.transit import TransitPair

            credentials = own_credentials(settings, around)
            return _signs(TransitPair(config, credentials, around), config.poll_seconds, around.exchange)
        case Pkcs11AuthorityConfig():
            from federation.signer.authorities.pkcs11.pair import TokenPair

            credentials = own_credentials(settings, around)
            return _signs(TokenPair(config, credentials), config.poll_seconds, around.exchange)
        case CertManagerAuthorityConfig():
            from federation.signer.authorities.cert_manager.service import CertManager

            return _issues(CertManager(config, around), config.poll_seconds, around.jitter)
        case AwsPcaAuthorityConfig():
            from federation.signer.authorities.aws.private_ca import PrivateCa

            credentials = own_credentials(settings, around)
            return _issues(PrivateCa(config, credentials, around), config.poll_seconds, around.jitter)
        case AwsKmsAuthorityConfig():
            from federation.signer.authorities.aws.kms import KmsPair

            credentials = own_credentials(settings, around)
            return _signs(KmsPair(config, credentials, around), config.poll_seconds, around.exchange)


def own_credentials(settings: AuthoritySettings, around: BackEndContext) -> OwnCredentials:
    """What the hub proves itself with, by these settings."""
    spiffe = None
    if settings.spiffe is not None:
        from federation.signer.authorities.spiffe import WorkloadApi

        spiffe = WorkloadApi(settings.spiffe, clock=around.clock)
    conjur = None
    if settings.conjur is not None:
        from federation.signer.authorities.conjur import Conjur

        conjur = Conjur(settings.conjur, OwnCredentials(spiffe=spiffe), clock=around.clock)
    return OwnCredentials(spiffe=spiffe, conjur=conjur)
