"""Calls to one AWS service: bounded in time, never repeated behind our back, every failure one typed error.

botocore brings endpoints, signatures and the wire format. What it would take from the environment (proxies, CA
bundles, retries, endpoints of the service) is not taken: the configuration says where AWS is. Its loggers are kept
from writing requests and answers, which hold tokens. Who the hub is to AWS is one interface for both ways of coming
by credentials.

What AWS's errors mean and what to do about them: codes are those of the services' API references ("Errors" of each
action) and of AWS's common errors; the ``Exception`` at their end is left out, because services disagree about it.
AWS's own words are quoted cut, on one line, and without anything that was sent along.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import UNSIGNED, xform_name
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)

from federation.core.config.authorities.settings import AwsConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityThrottled,
    AuthorityUnavailable,
    AuthorityUncertain,
)
from federation.kubernetes.answers import harmless
from federation.signer.authorities.credentials import read_pem_file
from federation.signer.authorities.http import AGENT, CONNECT_TIMEOUT

MAX_QUOTED: Final = 200

CREDENTIAL_REASONS: Final = frozenset({"credentials_expired", "credentials_refused"})
"""Reasons for which credentials are read, or a role assumed, anew."""

_NETWORK: Final = "check region, endpoint, the network path to it, NetworkPolicies, NAT or VPC endpoints"
_CLOCK: Final = "synchronise this machine's clock (NTP); AWS refuses signatures over five minutes off"
_LATER: Final = "AWS failed on its side: look at its health dashboard; the hub asks again"


class StillIssuing(AuthorityUnavailable):
    """The certificate is being issued and cannot be fetched yet."""

    default_reason = "in_progress"


@dataclass(frozen=True, slots=True)
class AwsCall:
    """One API call, as its errors name it.

    ``for_leaf``: what AWS refuses may be this one leaf's fault. ``may_issue``: where the answer is lost, a
    certificate may have been issued. ``secret`` was sent along and must not come back.
    """

    action: str  # in IAM's spelling, such as acm-pca:IssueCertificate
    where: str
    for_leaf: bool = False
    may_issue: bool = False
    secret: str = ""

    def lost(self, what: str, reason: str, remedy: str) -> AuthorityUnavailable:
        """The error for an answer that did not come, or not whole."""
        if self.may_issue:
            return AuthorityUncertain(f"{what}: it may have issued", where=self.where)
        return AuthorityUnavailable(what, where=self.where, reason=reason, remedy=remedy)

    def timed_out(self, seconds: float) -> AuthorityUnavailable:
        """The error for an answer that did not come within that time."""
        return self.lost(f"no answer to {self.action} within {seconds:g} s", "timeout", _NETWORK)

    def garbage(self) -> AuthorityUnavailable:
        """The error for an answer that AWS's API does not give."""
        return self.lost(
            f"the answer to {self.action} is not one of AWS's API",
            "garbage",
            "something else answers at that endpoint: check it",
        )


@dataclass(frozen=True, slots=True)
class _Meaning:
    kind: type[AuthorityError | AuthorityUnavailable]
    reason: str
    remedy: str


_THROTTLED: Final = _Meaning(AuthorityThrottled, "throttled", AuthorityThrottled.default_remedy)
_EXPIRED: Final = _Meaning(
    AuthorityMisconfigured,
    "credentials_expired",
    "see that what gives the hub its credentials or token still renews them",
)
_UNKNOWN_KEYS: Final = _Meaning(
    AuthorityMisconfigured,
    "credentials_refused",
    "check that access key, secret key and session token belong together, exist and are enabled",
)
_SKEWED: Final = _Meaning(AuthorityMisconfigured, "clock_skew", _CLOCK)
_FORBIDDEN: Final = _Meaning(
    AuthorityMisconfigured,
    "forbidden",
    "allow {action} in the IAM policy of the hub's role, and let no SCP, resource or key policy deny it",
)
_NO_TRUST: Final = _Meaning(
    AuthorityMisconfigured,
    "forbidden",
    "let the role's trust policy allow {action}; for a token, for its issuer, subject and audience",
)
_NOT_FOUND: Final = _Meaning(
    AuthorityMisconfigured, "not_found", "check ca_arn or key_id, and that region and account are theirs"
)
_BAD_TOKEN: Final = _Meaning(
    AuthorityMisconfigured,
    "token_refused",
    "register the token's issuer as an IAM OIDC provider with its audience; check that its keys are public",
)
_REGION: Final = _Meaning(
    AuthorityMisconfigured, "region_disabled", "enable the region, or the service in it, for the account"
)
_ARGUMENTS: Final = _Meaning(
    AuthorityRefused,
    "arguments_refused",
    "compare what AWS says with template, the CA's usage mode (SHORT_LIVED: seven days) and its lifetime",
)
_SERVER: Final = _Meaning(AuthorityUnavailable, "server_error", _LATER)

_MEANINGS: Final = {
    # throttled
    "Throttling": _THROTTLED,
    "Throttled": _THROTTLED,
    "RequestThrottled": _THROTTLED,
    "RequestLimitExceeded": _THROTTLED,
    "TooManyRequests": _THROTTLED,
    # who we are, and what we may
    "AccessDenied": _FORBIDDEN,
    "NotAuthorized": _FORBIDDEN,
    "ExpiredToken": _EXPIRED,
    "UnrecognizedClient": _UNKNOWN_KEYS,
    "InvalidClientTokenId": _UNKNOWN_KEYS,
    "MissingAuthenticationToken": _UNKNOWN_KEYS,
    "IncompleteSignature": _UNKNOWN_KEYS,
    "RequestTimeTooSkewed": _SKEWED,
    "RequestExpired": _SKEWED,
    "InvalidSignature": _SKEWED,  # but see error_of
    "SignatureDoesNotMatch": _SKEWED,
    "InvalidIdentityToken": _BAD_TOKEN,
    "IDPRejectedClaim": _BAD_TOKEN,
    "OptInRequired": _REGION,
    "RegionDisabled": _REGION,
    # what was named
    "ResourceNotFound": _NOT_FOUND,
    "NotFound": _NOT_FOUND,
    "InvalidArn": _NOT_FOUND,
    # a quota of what may exist, such as certificates of one CA in its life: no wait helps
    "LimitExceeded": _Meaning(
        AuthorityMisconfigured,
        "limit_exceeded",
        "AWS names the quota: have it raised in Service Quotas, or go over to another CA",
    ),
    # AWS Private CA
    "InvalidState": _Meaning(
        AuthorityMisconfigured, "ca_disabled", "make the CA active: install its certificate, or enable it"
    ),
    "MalformedCSR": _Meaning(
        AuthorityRefused,
        "csr_refused",
        "read AWS's words; its rules for requests are narrower than the hub's",
    ),
    "InvalidArgs": _ARGUMENTS,
    "InvalidRequest": _ARGUMENTS,
    "Validation": _ARGUMENTS,
    "ValidationError": _ARGUMENTS,
    "RequestFailed": _Meaning(
        AuthorityRefused,
        "issuing_failed",
        "AWS gives no reason: compare the request with the CA's name constraints, lifetime and templates",
    ),
    "RequestInProgress": _Meaning(StillIssuing, "in_progress", ""),
    # AWS KMS
    "Disabled": _Meaning(AuthorityMisconfigured, "key_disabled", "enable the key (aws kms enable-key)"),
    "KMSInvalidState": _Meaning(
        AuthorityMisconfigured,
        "key_unusable",
        "look at the key's state: pending deletion is undone by cancel-key-deletion and enable-key",
    ),
    "InvalidKeyUsage": _Meaning(
        AuthorityMisconfigured, "wrong_key_usage", "name a key of the usage SIGN_VERIFY"
    ),
    "UnsupportedOperation": _Meaning(
        AuthorityMisconfigured, "wrong_key_usage", "name an asymmetric key of the usage SIGN_VERIFY"
    ),
    # AWS's side
    "IDPCommunicationError": _Meaning(
        AuthorityUnavailable, "issuer_unreachable", "AWS must reach the token issuer's keys over the Internet"
    ),
    "InternalFailure": _SERVER,
    "InternalServerError": _SERVER,
    "ServiceUnavailable": _SERVER,
    "RequestTimeout": _SERVER,
    "RequestAborted": _SERVER,
    "KMSInternal": _SERVER,
    "KeyUnavailable": _SERVER,
    "DependencyTimeout": _SERVER,
}
_SAN_NOT_CRITICAL: Final = _Meaning(
    AuthorityRefused,
    "csr_refused",
    "AWS takes a request without a subject only where its SAN is critical: update the ztunnel or agent",
)


def refusal_of(error: ClientError, call: AwsCall) -> AuthorityError | AuthorityUnavailable:
    """What an error answer means, as :func:`error_of` says."""
    answer = error.response.get("Error", {})
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return error_of(str(answer.get("Code", "")), status, str(answer.get("Message", "")), call)


def error_of(code: str, status: int, message: str, call: AwsCall) -> AuthorityError | AuthorityUnavailable:
    """What an error answer of AWS means, as an error."""
    meaning = _meaning(code, status, message, call)
    quoted = harmless(message, secret=call.secret)[:MAX_QUOTED]
    if call.secret and "webIdentityToken" in message:
        quoted = ""  # validation errors repeat the value that was refused, in part or escaped
    known = code if code.isalnum() and len(code) <= 64 else str(status)
    what = f"{call.action} was answered {known}" + (f": {quoted}" if quoted else "")
    if meaning.kind is AuthorityUnavailable:
        return call.lost(what, meaning.reason, meaning.remedy)
    kind = meaning.kind
    if kind is AuthorityRefused and not call.for_leaf:
        kind = AuthorityMisconfigured
    remedy = meaning.remedy.format(action=call.action)
    return kind(what, where=call.where, reason=meaning.reason, remedy=remedy)


def failure_of(error: BotoCoreError, call: AwsCall) -> AuthorityError | AuthorityUnavailable:
    """What no answer, or none that is whole, means, as an error; nothing was issued where nothing was sent."""
    cause = error.kwargs.get("error")
    name = type(error).__name__
    if isinstance(error, SSLError) or isinstance(cause, ssl.SSLError | FileNotFoundError | PermissionError):
        return AuthorityUnavailable(
            f"no TLS for {call.action}: {_words(cause)}",
            where=call.where,
            reason="tls",
            remedy="check ca_file and endpoint; a proxy that opens TLS needs its own CA in ca_file",
        )
    if isinstance(error, ConnectTimeoutError) or isinstance(cause, aiohttp.ClientConnectorError):
        return AuthorityUnavailable(
            f"no connection for {call.action}: {_words(cause)}",
            where=call.where,
            reason="unreachable",
            remedy=_NETWORK,
        )
    if isinstance(error, ReadTimeoutError):
        return call.lost(f"no answer to {call.action} in time", "timeout", _NETWORK)
    if isinstance(error, ConnectionClosedError | EndpointConnectionError | HTTPClientError):
        return call.lost(f"the connection was cut during {call.action}", "cut_off", _NETWORK)
    return AuthorityMisconfigured(
        f"{call.action} could not be sent ({name})",
        where=call.where,
        reason="not_sent",
        remedy="check region, endpoint, ca_arn or key_id",
    )


def _meaning(code: str, status: int, message: str, call: AwsCall) -> _Meaning:
    short = code.removesuffix("Exception")
    found = _MEANINGS.get(short)
    if found is _FORBIDDEN and call.action.startswith("sts:"):
        return _NO_TRUST
    if found is _SKEWED and "does not match" in message:
        # AWS gives one code to a signature of another time and to one of another secret key
        return _UNKNOWN_KEYS
    if short == "MalformedCSR" and "critical" in message:
        return _SAN_NOT_CRITICAL
    if found is not None:
        return found
    if status == 429:
        return _THROTTLED
    if status >= 500:
        return _SERVER
    return _Meaning(
        AuthorityMisconfigured, "refused", "read AWS's words; the code is not one its API documents"
    )


def _words(cause: object) -> str:
    """The innermost cause in a few words: addresses and names, never what was sent."""
    inner = getattr(cause, "__cause__", None) or cause
    text = getattr(inner, "strerror", None) or str(inner or "") or type(inner).__name__
    return harmless(str(text))[:MAX_QUOTED]


class AwsLogin(Protocol):
    """Gives the keys that requests are signed with."""

    @property
    def warning(self) -> str | None:
        """Why the keys could not be renewed although those in use are still good; None where they could."""
        ...

    async def keys(self, *, renew: bool = False) -> ReadOnlyCredentials:
        """Keys that are valid now; with ``renew``, renewed where that is due.

        Raises AuthorityMisconfigured or AuthorityUnavailable.
        """
        ...

    def suspect(self) -> None:
        """AWS did not accept the keys: renew them the next time that may be done."""
        ...

    async def close(self) -> None:
        """Close connections, and forget the keys."""
        ...


OPEN_TIMEOUT: Final = 30.0  # seconds for reading botocore's own description of a service from disk
_UNREADABLE: Final = (AttributeError, LookupError, TypeError, ValueError)
"""What botocore's parsers raise for answers that are no JSON or XML of that service."""


def quieten() -> None:
    """Keep botocore's and aiobotocore's loggers at INFO: at DEBUG they write bodies and signed headers."""
    for name in ("botocore", "aiobotocore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.INFO))


class AwsClient:
    """One service in one region. Without a ``login`` its requests are not signed.

    ``where`` names the authority in errors; ``timeout`` is for one call, in seconds.
    """

    def __init__(
        self,
        service: str,
        aws: AwsConfig,
        *,
        where: str,
        timeout: float,
        login: AwsLogin | None = None,
        connections: int = 10,
    ) -> None:
        self._service = service
        self._aws = aws
        self._where = where
        self._timeout = timeout
        self._login = login
        self._connections = connections
        self._keys: Any = None
        self._opening = asyncio.Lock()
        self._resources = AsyncExitStack()
        self._client: Any = None

    async def call(
        self,
        operation: str,
        parameters: Mapping[str, object],
        *,
        for_leaf: bool = False,
        may_issue: bool = False,
        secret: str = "",
    ) -> Mapping[str, Any]:
        """The answer to one call. The flags are those of :class:`AwsCall`, as are the errors."""
        call = AwsCall(f"{self._service}:{operation}", self._where, for_leaf, may_issue, secret)
        client = await self._open()
        if self._login is not None:
            now = await self._login.keys()
            # botocore signs with what this holds, without waiting for anything
            self._keys.access_key, self._keys.secret_key, self._keys.token = now[:3]
        try:
            async with asyncio.timeout(self._timeout):
                answer = await getattr(client, xform_name(operation))(**parameters)
        except TimeoutError:
            raise call.timed_out(self._timeout) from None
        except ClientError as error:
            failure = refusal_of(error, call)
            if self._login is not None and failure.reason in CREDENTIAL_REASONS:
                self._login.suspect()
            raise failure from None
        except BotoCoreError as error:
            raise failure_of(error, call) from None
        except _UNREADABLE:
            raise call.garbage() from None
        if not isinstance(answer, dict):
            raise call.garbage()
        return answer

    async def close(self) -> None:
        """Close every connection."""
        self._client = None
        await self._resources.aclose()

    async def _open(self) -> Any:
        if self._client is not None:
            return self._client
        async with self._opening:
            if self._client is None:
                if self._aws.ca_file is not None:  # botocore reads it on the loop, and would hang with it
                    await read_pem_file(self._aws.ca_file)
                try:
                    async with asyncio.timeout(OPEN_TIMEOUT):
                        session = AioSession()
                        session.set_credentials("none", "none")
                        self._keys = await session.get_credentials()
                        self._client = await self._resources.enter_async_context(self._make(session))
                except TimeoutError:
                    raise AuthorityUnavailable(
                        f"botocore was not ready within {OPEN_TIMEOUT:g} s",
                        where=self._where,
                        reason="files_hang",
                        remedy="check the disk that the hub is installed on",
                    ) from None
                except (BotoCoreError, ValueError) as error:
                    raise AuthorityMisconfigured(
                        f"there can be no client for {self._service} ({type(error).__name__})",
                        where=self._where,
                        reason="not_sent",
                        remedy="check signer.authority.region and endpoint",
                    ) from None
        return self._client

    def _make(self, session: AioSession) -> Any:
        quieten()
        is_sts = self._service == "sts"
        return session.create_client(
            self._service,
            region_name=self._aws.region,
            # STS is where AWS's own settings say (AWS_ENDPOINT_URL_STS), as for AWS's own chain of credentials
            endpoint_url=None if is_sts else self._aws.endpoint or None,
            verify=True if self._aws.ca_file is None else str(self._aws.ca_file),
            config=AioConfig(
                connect_timeout=min(CONNECT_TIMEOUT, self._timeout),
                read_timeout=self._timeout,
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=self._connections,
                proxies={},
                defaults_mode="legacy",
                ignore_configured_endpoint_urls=not is_sts,
                signature_version=UNSIGNED if self._login is None else None,
                user_agent_extra=AGENT,
                warm_up_loader_caches=True,  # in a thread: the files of a service are large
            ),
        )
