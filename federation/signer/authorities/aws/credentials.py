"""Credentials for AWS: by AWS's own chain, or of a role that is assumed with the hub's own JWT.

AWS's chain is botocore's: environment, web identity (IRSA), shared files, container (EKS Pod Identity, ECS)
and instance metadata, each renewed by itself. A role is assumed with a token that is read anew every time, so
that projected tokens and JWT-SVIDs rotate in place. Requests do not wait for that: it is done again by health polls,
well before the keys expire.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError

from federation.core.config.authorities.settings import (
    AwsConfig,
    AwsKmsAuthorityConfig,
    AwsPcaAuthorityConfig,
    JwtRef,
)
from federation.core.errors import AuthorityError, AuthorityMisconfigured, AuthorityUnavailable
from federation.signer.authorities.authority import BackEndContext
from federation.signer.authorities.aws.client import AwsCall, AwsClient, AwsLogin, quieten, refusal_of
from federation.signer.authorities.credentials import OwnCredentials

_logger = logging.getLogger(__name__)

CHAIN_TIMEOUT: Final = 10.0  # seconds; instance metadata answers within one, web identity asks STS
STS_TIMEOUT: Final = 5.0  # seconds
ASSUME: Final = "AssumeRoleWithWebIdentity"
SESSION_NAME: Final = "federation-hub"  # what CloudTrail shows

RENEW_FROM, RENEW_UNTIL = 0.5, 0.75
"""The part of their life after which keys are renewed, drawn anew each time so that replicas spread out."""

LAST_MOMENT: Final = timedelta(minutes=1)
"""Keys are not used any more so shortly before they expire: a request may be on its way as long, and clocks differ."""


class AwsAccount:
    """One service of AWS as an authority uses it: the login, and a client that signs with it.

    Closes the credentials with itself.
    """

    def __init__(
        self,
        service: str,
        config: AwsKmsAuthorityConfig | AwsPcaAuthorityConfig,
        credentials: OwnCredentials,
        context: BackEndContext,
    ) -> None:
        self._credentials = credentials
        self._login = login_of(config.aws, credentials, context, where=config.name)
        self.client: Final = AwsClient(
            service,
            config.aws,
            where=config.name,
            timeout=config.timeout / 2,  # a hung first attempt leaves time for a second
            login=self._login,
            connections=config.max_in_flight + 2,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """A login that could not be renewed, while the keys of the last one are still valid."""
        return (self._login.warning,) if self._login.warning is not None else ()

    async def renew(self) -> None:
        """Renew the login where that is due. Raises AuthorityMisconfigured or AuthorityUnavailable."""
        await self._login.keys(renew=True)

    async def close(self) -> None:
        """Close connections, login and credentials."""
        await self.client.close()
        await self._login.close()
        await self._credentials.close()


def login_of(aws: AwsConfig, own: OwnCredentials, context: BackEndContext, *, where: str) -> AwsLogin:
    """The way that the configuration names."""
    if aws.jwt is None or not aws.role_arn:
        return OwnChain(where)
    return AssumedRole(aws, aws.jwt, own, context, where=where)


class OwnChain:
    """Implements AwsLogin by AWS's own chain. Files and environment are read anew when AWS refuses the keys."""

    warning: str | None = None

    def __init__(self, where: str) -> None:
        self._where = where
        self._reading = asyncio.Lock()
        self._found: Any = None
        self._suspect = False

    async def keys(self, *, renew: bool = False) -> ReadOnlyCredentials:
        """As in :class:`AwsLogin`; the reasons are ``credential_missing`` and ``credentials_unavailable``."""
        try:
            async with asyncio.timeout(CHAIN_TIMEOUT):
                keys = await (await self._look_up(renew)).get_frozen_credentials()
        except TimeoutError:
            raise self._unavailable(f"AWS's chain gave no credentials within {CHAIN_TIMEOUT:g} s") from None
        except ClientError as error:
            raise refusal_of(error, AwsCall(f"sts:{error.operation_name}", self._where)) from None
        except (BotoCoreError, OSError, ValueError) as error:
            # the text may quote what a metadata service or a program answered: keys among it
            raise self._unavailable(f"AWS's chain gave no credentials ({_kind(error)})") from None
        if not isinstance(keys, ReadOnlyCredentials):
            raise self._unavailable("AWS's chain gave something else than credentials")
        return keys

    def suspect(self) -> None:
        """As in :class:`AwsLogin`."""
        self._suspect = True

    async def close(self) -> None:
        """Forget what was found."""
        self._found = None

    async def _look_up(self, renew: bool) -> Any:
        async with self._reading:
            if self._found is None or (renew and self._suspect):
                quieten()
                # a new session: each reads the environment and the files once
                found = await AioSession().get_credentials()
                if found is None:
                    raise AuthorityMisconfigured(
                        "AWS's chain of credentials is empty",
                        where=self._where,
                        reason="credential_missing",
                        remedy="give the pod an IAM role (IRSA, Pod Identity, instance profile) or role_arn and jwt",
                    )
                self._found, self._suspect = found, False
            return self._found

    def _unavailable(self, what: str) -> AuthorityUnavailable:
        return AuthorityUnavailable(
            what,
            where=self._where,
            reason="credentials_unavailable",
            remedy="check the pod's IAM role, its token file and the way to STS or to the metadata service",
        )


@dataclass(frozen=True, slots=True)
class _CachedCredentials:
    keys: ReadOnlyCredentials = field(repr=False)
    renew_at: datetime
    last_moment: datetime


class AssumedRole:
    """Implements AwsLogin by assuming ``role_arn`` with a JWT (AssumeRoleWithWebIdentity)."""

    def __init__(
        self, aws: AwsConfig, jwt: JwtRef, own: OwnCredentials, context: BackEndContext, *, where: str
    ) -> None:
        self._role_arn = aws.role_arn
        self._jwt = jwt
        self._own = own
        self._clock = context.clock
        self._jitter = context.jitter
        self._where = where
        self._sts = AwsClient("sts", aws, where=where, timeout=STS_TIMEOUT)
        self._assuming = asyncio.Lock()
        self._cached: _CachedCredentials | None = None
        self._suspect = False
        self.warning: str | None = None

    async def keys(self, *, renew: bool = False) -> ReadOnlyCredentials:
        """As in :class:`AwsLogin`. Keys that are still good outlive a renewal that fails."""
        cached = self._cached
        if cached is not None and not self._is_due(cached, renew):
            return cached.keys
        async with self._assuming:
            cached = self._cached
            if cached is not None and not self._is_due(cached, renew):
                return cached.keys
            try:
                cached = await self._assume()
            except (AuthorityError, AuthorityUnavailable) as error:
                if cached is None or self._suspect or self._clock.now() >= cached.last_moment:
                    raise
                warning = f"the role's credentials are not renewed: {error.diagnostics()}"
                if warning != self.warning:
                    _logger.warning("%s", warning, extra={"authority": self._where, "reason": error.reason})
                self.warning = warning
                return cached.keys
            self._cached, self._suspect, self.warning = cached, False, None
            return cached.keys

    def suspect(self) -> None:
        """As in :class:`AwsLogin`."""
        self._suspect = True

    async def close(self) -> None:
        """As in :class:`AwsLogin`."""
        self._cached = None
        await self._sts.close()

    def _is_due(self, cached: _CachedCredentials, renew: bool) -> bool:
        now = self._clock.now()
        return now >= cached.last_moment or (renew and (self._suspect or now >= cached.renew_at))

    async def _assume(self) -> _CachedCredentials:
        begun = self._clock.now()
        token = await self._own.jwt(self._jwt)
        answer = await self._sts.call(
            ASSUME,
            {"RoleArn": self._role_arn, "RoleSessionName": SESSION_NAME, "WebIdentityToken": token},
            secret=token,
        )
        given = answer.get("Credentials", {})
        ends = given.get("Expiration")
        texts = [given.get(name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")]
        if not isinstance(ends, datetime) or not all(isinstance(text, str) and text for text in texts):
            raise AwsCall(f"sts:{ASSUME}", self._where).garbage()
        life = ends - begun
        renew_at = begun + life * self._jitter.uniform(RENEW_FROM, RENEW_UNTIL)
        return _CachedCredentials(ReadOnlyCredentials(*texts), renew_at, ends - LAST_MOMENT)


def _kind(error: Exception) -> str:
    provider = getattr(error, "kwargs", {}).get("provider", "")
    name = type(error).__name__
    return (
        f"{name} of {provider}" if isinstance(provider, str) and provider.replace("-", "").isalnum() else name
    )
