"""From a configuration to its authority: the one place that knows every kind of back end.

A further back end is a settings class, a module that gives a :class:`PairSource` or a :class:`CertificateService`,
and one more case here. Modules are imported when their kind is configured: what one back end needs is no other's
business.
"""

from __future__ import annotations

from typing import Final

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
    PairSource,
)
from federation.signer.authorities.credentials import OwnCredentials
from federation.signer.authorities.hub_built import HubBuiltAuthority
from federation.signer.authorities.limiter import Limiter
from federation.signer.authorities.service import ServiceAuthority

_PACKAGES: Final = {"pkcs11": "pkcs11", "aiobotocore": "aws", "botocore": "aws"}
"""Modules that only an extra of the package brings -> the extra."""


def make_authority(
    settings: AuthoritySettings, context: BackEndContext, limiter: Limiter | None = None
) -> ManagedAuthority:
    """The authority of these settings; nothing is asked of its back end yet.

    Raises AuthorityMisconfigured where a package that its kind needs is not installed.
    """
    try:
        return _make(settings, context, limiter)
    except ModuleNotFoundError as error:
        extra = _PACKAGES.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        config = settings.authority
        raise AuthorityMisconfigured(
            f"the package {error.name}, which an authority of kind {config.kind} needs, is not installed",
            where=config.name,
            reason="package_missing",
            remedy=f"install federation-hub[{extra}]",
        ) from None


def _make(settings: AuthoritySettings, context: BackEndContext, limiter: Limiter | None) -> ManagedAuthority:
    config = settings.authority

    def signs(source: PairSource, poll_seconds: float) -> ManagedAuthority:
        return HubBuiltAuthority(
            source,
            name=config.name,
            kind=config.kind,
            poll_seconds=poll_seconds,
            context=context,
            limiter=limiter,
        )

    def issues(service: CertificateService, poll_seconds: float) -> ManagedAuthority:
        return ServiceAuthority(
            service,
            name=config.name,
            kind=config.kind,
            poll_seconds=poll_seconds,
            context=context,
            limiter=limiter,
        )

    match config:
        case LocalAuthorityConfig():
            from federation.signer.authorities.local import PairOfFiles

            return signs(PairOfFiles(config), config.poll_seconds)
        case ConjurAuthorityConfig():
            from federation.signer.authorities.conjur import PairOfVariables

            conjur = settings.conjur
            if conjur is None:
                raise AuthorityMisconfigured("no Conjur is configured", remedy="add [signer.conjur]")
            credentials = own_credentials(settings, context)
            return signs(PairOfVariables(config, conjur, credentials, clock=context.clock), conjur.poll)
        case VaultAuthorityConfig():
            from federation.signer.authorities.vault.pki import VaultPki

            return issues(VaultPki(config, own_credentials(settings, context), context), config.poll_seconds)
        case VaultTransitAuthorityConfig():
            from federation.signer.authorities.vault.transit import TransitPair

            return signs(
                TransitPair(config, own_credentials(settings, context), context), config.poll_seconds
            )
        case Pkcs11AuthorityConfig():
            from federation.signer.authorities.pkcs11.pair import TokenPair

            return signs(TokenPair(config, own_credentials(settings, context)), config.poll_seconds)
        case CertManagerAuthorityConfig():
            from federation.signer.authorities.cert_manager.service import CertManager

            return issues(CertManager(config, context), config.poll_seconds)
        case AwsPcaAuthorityConfig():
            from federation.signer.authorities.aws.private_ca import PrivateCa

            return issues(PrivateCa(config, own_credentials(settings, context), context), config.poll_seconds)
        case AwsKmsAuthorityConfig():
            from federation.signer.authorities.aws.kms import KmsPair

            return signs(KmsPair(config, own_credentials(settings, context), context), config.poll_seconds)


def own_credentials(settings: AuthoritySettings, context: BackEndContext) -> OwnCredentials:
    """What the hub proves itself with, by these settings."""
    spiffe = None
    if settings.spiffe is not None:
        from federation.signer.authorities.spiffe import WorkloadApi

        spiffe = WorkloadApi(settings.spiffe, clock=context.clock)
    conjur = None
    if settings.conjur is not None:
        from federation.signer.authorities.conjur import Conjur

        conjur = Conjur(settings.conjur, OwnCredentials(spiffe=spiffe), clock=context.clock)
    return OwnCredentials(spiffe=spiffe, conjur=conjur)
