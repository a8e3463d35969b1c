"""From a configuration to its authority: the one place that knows every kind of back end.

A further back end is a settings class, a module that gives a ``PairSource`` or a ``CertificateService``, and one more
case here; CONTRIBUTING.md has every step. Modules are imported when their kind is configured, so that no other back
end needs their packages.
"""

from __future__ import annotations

from typing import Final, assert_never

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
    AuthorityBasics,
    AuthoritySettings,
    BackEndContext,
    ManagedAuthority,
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
    config, conjur = settings.authority, settings.conjur
    basics = AuthorityBasics(
        name=config.name,
        kind=config.kind,
        poll_seconds=_poll_seconds(settings),
        context=context,
        limiter=limiter,
    )
    match config:
        case LocalAuthorityConfig():
            from federation.signer.authorities.local import PairOfFiles

            return HubBuiltAuthority(PairOfFiles(config), basics)
        case ConjurAuthorityConfig():
            from federation.signer.authorities.conjur import PairOfVariables

            if conjur is None:
                raise AuthorityMisconfigured("no Conjur is configured", remedy="add [signer.conjur]")
            credentials = own_credentials(settings, context)
            return HubBuiltAuthority(
                PairOfVariables(config, conjur, credentials, clock=context.clock), basics
            )
        case VaultAuthorityConfig():
            from federation.signer.authorities.vault.pki import VaultPki

            return ServiceAuthority(VaultPki(config, own_credentials(settings, context), context), basics)
        case VaultTransitAuthorityConfig():
            from federation.signer.authorities.vault.transit import TransitPair

            return HubBuiltAuthority(TransitPair(config, own_credentials(settings, context), context), basics)
        case Pkcs11AuthorityConfig():
            from federation.signer.authorities.pkcs11.pair import TokenPair

            return HubBuiltAuthority(TokenPair(config, own_credentials(settings, context)), basics)
        case CertManagerAuthorityConfig():
            from federation.signer.authorities.cert_manager.service import CertManager

            return ServiceAuthority(CertManager(config, context), basics)
        case AwsPcaAuthorityConfig():
            from federation.signer.authorities.aws.private_ca import PrivateCa

            return ServiceAuthority(PrivateCa(config, own_credentials(settings, context), context), basics)
        case AwsKmsAuthorityConfig():
            from federation.signer.authorities.aws.kms import KmsPair

            return HubBuiltAuthority(KmsPair(config, own_credentials(settings, context), context), basics)
        case _:
            assert_never(config)


def _poll_seconds(settings: AuthoritySettings) -> float:
    """How often the back end is polled: Conjur's variables by Conjur's own table."""
    config = settings.authority
    if not isinstance(config, ConjurAuthorityConfig):
        return config.poll_seconds
    return settings.conjur.poll if settings.conjur is not None else 0.0


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
