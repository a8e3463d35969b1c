"""AWS Private CA: it holds the key and issues from the workload's own request, by a template.

IssueCertificate accepts, GetCertificate fetches what has been issued some moments later. Each leaf has one idempotency
token, by which AWS distinguishes a repeated request from a further one, so a lost answer is asked for again and never
issues twice. From the moment at which a request may have reached AWS, whatever keeps the certificate away is
AuthorityUncertain.

Of the request only key, subject and subject alternative name count: the templates that may be used pass no other
extension on and say themselves that the leaf is no CA (AWS Private CA User Guide, "template definitions"). The
validity is the requested one, to the second. What is known of a CA beforehand is here as well: its states, its keys,
and the templates that it may issue by.

**How long to wait** for a certificate that AWS issues in its own time: GetCertificate may be called 75 times a second
and IssueCertificate 25 times (quotas of an account and region), so there are three polls for each certificate, for
everyone together. The first wait therefore follows what issuing has taken recently, so that the first or second poll
finds the certificate, and each further wait doubles.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, retry_if_exception_type

from federation.core.config.authorities.settings import AwsPcaAuthorityConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityUnavailable,
    AuthorityUncertain,
    AuthorityViolation,
    InvalidValue,
)
from federation.core.pki.certificate import Certificate
from federation.core.pki.leaf import LeafProfile
from federation.core.pki.pem import parse_certificates
from federation.signer.authorities.authority import BackEndContext, LeafRequest, ServiceAnswer, ServiceView
from federation.signer.authorities.aws.client import AwsCall
from federation.signer.authorities.aws.credentials import AwsAccount
from federation.signer.authorities.credentials import OwnCredentials

SAFE_TEMPLATES: Final = frozenset(
    {
        "EndEntityCertificate/V1",
        "EndEntityServerAuthCertificate/V1",
        "EndEntityClientAuthCertificate/V1",
    }
)
"""Templates that fix every extension but the names, so that no request can make a CA of its leaf (AWS Private CA
User Guide, "template definitions")."""

_SIGNING_ALGORITHMS: Final[Mapping[str, str]] = {
    "RSA_2048": "SHA256WITHRSA",
    "RSA_3072": "SHA256WITHRSA",
    "RSA_4096": "SHA256WITHRSA",
    "EC_prime256v1": "SHA256WITHECDSA",
    "EC_secp384r1": "SHA384WITHECDSA",
}
_STATES: Final = {
    "DISABLED": (
        "ca_disabled",
        "enable it: `aws acm-pca update-certificate-authority --certificate-authority-arn ARN --status ACTIVE`",
    ),
    "PENDING_CERTIFICATE": ("ca_pending", "sign its CSR with the root and import the certificate"),
    "CREATING": ("ca_pending", "wait until it is created, then sign its CSR and import the certificate"),
    "EXPIRED": ("issuer_expired", "renew its certificate now; workloads cannot renew"),
    "DELETED": (
        "ca_deleted",
        "restore it: `aws acm-pca restore-certificate-authority --certificate-authority-arn ARN`, then enable it",
    ),
    "FAILED": ("ca_failed", "it cannot be repaired: create another CA and name it in ca_arn"),
}


def check_state(described: Mapping[str, Any]) -> None:
    """Raise AuthorityMisconfigured that says what to do where the CA is in any state but ACTIVE."""
    state = str(described.get("Status", ""))
    if state == "ACTIVE":
        return
    reason, remedy = _STATES.get(state, ("ca_disabled", "look at the CA in AWS's console"))
    raise AuthorityMisconfigured(f"the CA is in the state {state[:40]!r}", reason=reason, remedy=remedy)


def signing_algorithm(described: Mapping[str, Any]) -> str:
    """What leaves are signed with: by the CA's key alone, as where the hub builds them.

    Raises AuthorityMisconfigured with the reason ``weak_key`` for a key that the hub does not accept.
    """
    configuration = described.get("CertificateAuthorityConfiguration")
    kind = str(configuration.get("KeyAlgorithm", "")) if isinstance(configuration, dict) else ""
    if kind not in _SIGNING_ALGORITHMS:
        raise AuthorityMisconfigured(
            f"the CA has a key of the kind {kind[:40]!r}",
            reason="weak_key",
            remedy=f"use a CA with one of: {', '.join(_SIGNING_ALGORITHMS)}",
        )
    return _SIGNING_ALGORITHMS[kind]


def template_arn(ca_arn: str, template: str) -> str:
    """The ARN of a template in the CA's partition (aws, aws-cn, aws-us-gov).

    Raises AuthorityMisconfigured with the reason ``template_unsafe`` or ``ca_arn``.
    """
    if template not in SAFE_TEMPLATES:
        raise AuthorityMisconfigured(
            f"the template {template[:80]!r} leaves to the request what the leaf may do",
            reason="template_unsafe",
            remedy=f"use one of: {', '.join(sorted(SAFE_TEMPLATES))}",
        )
    parts = ca_arn.split(":")
    if len(parts) != 6 or parts[0] != "arn" or parts[2] != "acm-pca":
        raise AuthorityMisconfigured(
            f"{ca_arn[:120]!r} is not the ARN of a CA",
            reason="ca_arn",
            remedy="write it as AWS does: arn:aws:acm-pca:REGION:ACCOUNT:certificate-authority/ID",
        )
    return f"arn:{parts[1]}:acm-pca:::template/{template}"


POLLS_PER_CERTIFICATE: Final = 3
"""75/s of GetCertificate for 25/s of IssueCertificate."""

SHORTEST, LONGEST = 0.2, 2.0  # seconds of a first wait: AWS mostly issues within one
_START: Final = 0.4
_FASTER: Final = 0.95  # at the first poll: perhaps it had been there for long
_SLOWER: Final = 1.5  # at the third poll, or later


class Pace:
    """What is learnt from one certificate for the next; one object for all requests of an authority."""

    def __init__(self, jitter: random.Random, *, timeout: float) -> None:
        self._jitter = jitter
        self._longest = min(LONGEST, timeout / 4)
        self._first = min(_START, self._longest)

    def wait(self, polls: int) -> float:
        """Seconds to wait before the next poll; ``polls`` were made."""
        return self._first * 2.0**polls * self._jitter.uniform(0.9, 1.1)

    def found(self, polls: int) -> None:
        """The certificate was there at that poll, 1 for the first."""
        if polls < 2:
            self._first = max(SHORTEST, self._first * _FASTER)
        elif polls >= POLLS_PER_CERTIFICATE:
            self._first = min(self._longest, self._first * _SLOWER)


DESCRIBE: Final = "DescribeCertificateAuthority"
GET_CHAIN: Final = "GetCertificateAuthorityCertificate"
CHAIN_SECONDS: Final = 300.0  # how often the chain is fetched although nothing says that it has changed
TOKEN_BYTES: Final = 16  # 32 hex digits; AWS takes 36 characters and forgets them after five minutes
MOST_ATTEMPTS: Final = 3  # of one IssueCertificate whose answer was lost
_FIRST_RETRY: Final = 0.2  # seconds


class PrivateCa:
    """Implements CertificateService."""

    def __init__(
        self, config: AwsPcaAuthorityConfig, credentials: OwnCredentials, context: BackEndContext
    ) -> None:
        self._config = config
        self._clock = context.clock
        self._random_bytes = context.random_bytes
        self._jitter = context.jitter
        self._account = AwsAccount("acm-pca", config, credentials, context)
        self._client = self._account.client
        self._pace = Pace(context.jitter, timeout=config.timeout)
        self._signing_algorithm = ""
        self._chain: tuple[Certificate, ...] = ()
        self._chain_of: tuple[object, ...] = ()
        self._chain_at = 0.0

    async def poll(self) -> ServiceView:
        """The CA's state each time; its chain when it has changed, and every few minutes."""
        for template in (self._config.template, self._config.serving_template):
            template_arn(self._config.ca_arn, template)
        await self._account.renew()
        described = await self._describe()
        self._signing_algorithm = signing_algorithm(described)
        seen = tuple(described.get(key) for key in ("Serial", "NotAfter", "LastStateChangeAt"))
        now = self._clock.monotonic()
        if not self._chain or seen != self._chain_of or now - self._chain_at >= CHAIN_SECONDS:
            answer = await self._client.call(GET_CHAIN, self._named())
            try:
                self._chain = _certificates(answer)
            except InvalidValue:
                raise AwsCall(f"acm-pca:{GET_CHAIN}", self._config.name).garbage() from None
            self._chain_of, self._chain_at = seen, now
        return ServiceView(self._chain, warnings=self._account.warnings)

    async def issue(self, wanted: LeafRequest) -> ServiceAnswer:
        """Ask for the certificate and fetch it, within ``timeout``."""
        timeout = self._config.timeout
        deadline = self._clock.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                arn = await self._ask(wanted, deadline)
                return await self._fetch(arn, deadline)
        except TimeoutError:
            raise AuthorityUncertain(
                f"no certificate within {timeout:g} s: it may have issued", where=self._config.name
            ) from None

    async def close(self) -> None:
        """Close connections and credentials."""
        await self._account.close()

    async def _ask(self, wanted: LeafRequest, deadline: float) -> str:
        """The ARN of the certificate that AWS is going to issue."""
        request = self._request(wanted)
        lost: AuthorityUncertain | None = None
        async for attempt in AsyncRetrying(
            sleep=self._clock.sleep,
            wait=lambda state: _FIRST_RETRY * 2**state.attempt_number * self._jitter.uniform(0.5, 1.0),
            stop=lambda state: state.attempt_number >= MOST_ATTEMPTS or self._is_late(state, deadline),
            retry=retry_if_exception_type(AuthorityUncertain),
            reraise=True,
        ):
            with attempt:
                try:
                    answer = await self._client.call(
                        "IssueCertificate", request, for_leaf=True, may_issue=True
                    )
                except AuthorityUncertain as error:
                    lost = error
                    raise
                except (AuthorityError, AuthorityUnavailable) as error:
                    if lost is not None and not isinstance(error, AuthorityRefused):
                        raise lost from None  # the first attempt may have issued all the same
                    if error.reason == "ca_disabled":
                        await self._describe()  # which says in what state it is
                    raise
        arn = answer.get("CertificateArn")
        if not isinstance(arn, str) or not arn.startswith(self._config.ca_arn + "/certificate/"):
            raise AuthorityUncertain(
                "IssueCertificate was answered without a certificate of this CA", where=self._config.name
            )
        return arn

    def _request(self, wanted: LeafRequest) -> dict[str, object]:
        if not self._signing_algorithm:
            raise AuthorityUnavailable("the CA was not polled yet", where=self._config.name)
        serving = wanted.profile is LeafProfile.SERVING
        template = self._config.serving_template if serving else self._config.template
        validity = wanted.validity
        return {
            **self._named(),
            "Csr": wanted.csr_pem.encode("ascii"),
            "SigningAlgorithm": self._signing_algorithm,
            "TemplateArn": template_arn(self._config.ca_arn, template),
            "Validity": {"Type": "ABSOLUTE", "Value": int(validity.not_after.timestamp())},
            "ValidityNotBefore": {"Type": "ABSOLUTE", "Value": int(validity.not_before.timestamp())},
            "IdempotencyToken": self._random_bytes(TOKEN_BYTES).hex(),
        }

    async def _fetch(self, arn: str, deadline: float) -> ServiceAnswer:
        """What was issued; every error but AWS's own refusal leaves it open whether that exists."""
        await self._clock.sleep(self._pace.wait(0))
        polls = 0
        try:
            async for attempt in AsyncRetrying(
                sleep=self._clock.sleep,
                wait=lambda state: self._pace.wait(state.attempt_number),
                stop=lambda state: self._is_late(state, deadline),
                retry=retry_if_exception(lambda error: isinstance(error, AuthorityUnavailable)),
                reraise=True,
            ):
                with attempt:
                    polls += 1
                    answer = await self._client.call(
                        "GetCertificate", {**self._named(), "CertificateArn": arn}, for_leaf=True
                    )
        except AuthorityUnavailable as error:
            self._pace.found(polls)
            raise AuthorityUncertain(
                f"accepted, but not to be had within {self._config.timeout:g} s: {error.what}",
                where=self._config.name,
                remedy=error.remedy,
            ) from None
        except AuthorityError as error:
            if error.reason == "issuing_failed":
                raise  # AWS itself says that there is none
            raise AuthorityUncertain(
                f"accepted, but not to be had: {error.what}",
                where=self._config.name,
                reason=error.reason,
                remedy=error.remedy,
            ) from None
        self._pace.found(polls)
        try:
            leaf, *chain = _certificates(answer)
        except InvalidValue as error:
            raise AuthorityViolation(
                f"what it returned cannot be read: {error}", where=self._config.name, reason="garbage"
            ) from None
        return ServiceAnswer(leaf.der, tuple(chain))

    async def _describe(self) -> Mapping[str, Any]:
        """What AWS says of the CA; raises AuthorityMisconfigured with its state where it is not active."""
        answer = await self._client.call(DESCRIBE, self._named())
        described = answer.get("CertificateAuthority")
        if not isinstance(described, dict) or "Status" not in described:
            raise AwsCall(f"acm-pca:{DESCRIBE}", self._config.name).garbage()
        check_state(described)
        return described

    def _named(self) -> dict[str, object]:
        return {"CertificateAuthorityArn": self._config.ca_arn}

    def _is_late(self, state: RetryCallState, deadline: float) -> bool:
        return self._clock.monotonic() + state.upcoming_sleep >= deadline


def _certificates(answer: Mapping[str, Any]) -> tuple[Certificate, ...]:
    """``Certificate``, then those of ``CertificateChain``; raises InvalidValue."""
    own, above = (
        str(answer.get(name) or "").encode("ascii", "replace") for name in ("Certificate", "CertificateChain")
    )
    chain = parse_certificates(above, where="CertificateChain") if above else ()
    return parse_certificates(own, where="Certificate") + chain
