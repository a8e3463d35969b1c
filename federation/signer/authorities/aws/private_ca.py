"""AWS Private CA: it holds the key and issues from the workload's own request, by a template.

IssueCertificate accepts, GetCertificate fetches what has been issued some moments later. An order has one
idempotency token, by which AWS tells a repeated request from a further one, so a lost answer is asked for again
and never issues twice. From the moment at which a request may have reached AWS, whatever keeps the certificate
away is AuthorityUncertain.

Of the request only key, subject and subject alternative name count: the templates that may be used pass no
other extension on and say themselves that the leaf is no CA (AWS Private CA User Guide, "template
definitions"). The validity is the order's own, to the second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, retry_if_exception_type

from federation.core.config.authority_model import AwsPcaAuthorityConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityRefused,
    AuthorityUnavailable,
    AuthorityUncertain,
    AuthorityViolation,
    InvalidValue,
)
from federation.core.pki.certificate import Certificate
from federation.core.pki.leaf import LeafProfile
from federation.core.pki.pem import parse_certificates
from federation.signer.authorities.aws.client import AwsClient
from federation.signer.authorities.aws.credentials import login_of
from federation.signer.authorities.aws.described_ca import check_state, signing_algorithm, template_arn
from federation.signer.authorities.aws.failures import Call
from federation.signer.authorities.aws.pace import Pace
from federation.signer.authorities.catalogue import Surroundings
from federation.signer.authorities.interface import Answer, LeafOrder, ServiceView
from federation.signer.authorities.own_credentials import OwnCredentials

DESCRIBE: Final = "DescribeCertificateAuthority"
GET_CHAIN: Final = "GetCertificateAuthorityCertificate"
CHAIN_SECONDS: Final = 300.0  # how often the chain is fetched although nothing says that it has changed
TOKEN_BYTES: Final = 16  # 32 hex digits; AWS takes 36 characters and forgets them after five minutes
MOST_ATTEMPTS: Final = 3  # of one IssueCertificate whose answer was lost
_FIRST_RETRY: Final = 0.2  # seconds


class PrivateCa:
    """Implements CertificateService."""

    def __init__(
        self, config: AwsPcaAuthorityConfig, credentials: OwnCredentials, around: Surroundings
    ) -> None:
        self._config = config
        self._credentials = credentials
        self._clock = around.clock
        self._random_bytes = around.random_bytes
        self._jitter = around.jitter
        self._login = login_of(config.aws, credentials, around, where=config.name)
        self._client = AwsClient(
            "acm-pca",
            config.aws,
            where=config.name,
            timeout=config.timeout / 2,  # a hung first attempt leaves time for a second
            login=self._login,
            connections=config.max_in_flight + 2,
        )
        self._pace = Pace(around.jitter, timeout=config.timeout)
        self._signing_algorithm = ""
        self._chain: tuple[Certificate, ...] = ()
        self._chain_of: tuple[object, ...] = ()
        self._chain_at = 0.0

    async def look(self) -> ServiceView:
        """The CA's state each time; its chain when it has changed, and every few minutes."""
        for template in (self._config.template, self._config.serving_template):
            template_arn(self._config.ca_arn, template)
        await self._login.keys(renew=True)
        described = await self._describe()
        self._signing_algorithm = signing_algorithm(described)
        seen = tuple(described.get(key) for key in ("Serial", "NotAfter", "LastStateChangeAt"))
        now = self._clock.monotonic()
        if not self._chain or seen != self._chain_of or now - self._chain_at >= CHAIN_SECONDS:
            answer = await self._client.call(GET_CHAIN, self._named())
            try:
                self._chain = _certificates(answer)
            except InvalidValue:
                raise Call(f"acm-pca:{GET_CHAIN}", self._config.name).garbage() from None
            self._chain_of, self._chain_at = seen, now
        return ServiceView(self._chain, warnings=(self._login.warning,) if self._login.warning else ())

    async def issue(self, order: LeafOrder) -> Answer:
        """Ask for the certificate and fetch it, within ``timeout``."""
        timeout = self._config.timeout
        deadline = self._clock.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                arn = await self._ask(order, deadline)
                return await self._fetch(arn, deadline)
        except TimeoutError:
            raise AuthorityUncertain(
                f"no certificate within {timeout:g} s: it may have issued", where=self._config.name
            ) from None

    async def close(self) -> None:
        """Close connections and credentials."""
        await self._client.close()
        await self._login.close()
        await self._credentials.close()

    async def _ask(self, order: LeafOrder, deadline: float) -> str:
        """The ARN of the certificate that AWS is going to issue."""
        request = self._request(order)
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
                        "IssueCertificate", request, for_order=True, may_issue=True
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

    def _request(self, order: LeafOrder) -> dict[str, object]:
        if not self._signing_algorithm:
            raise AuthorityUnavailable("the CA was not looked at yet", where=self._config.name)
        serving = order.profile is LeafProfile.SERVING
        template = self._config.serving_template if serving else self._config.template
        validity = order.validity
        return {
            **self._named(),
            "Csr": order.csr_pem.encode("ascii"),
            "SigningAlgorithm": self._signing_algorithm,
            "TemplateArn": template_arn(self._config.ca_arn, template),
            "Validity": {"Type": "ABSOLUTE", "Value": int(validity.not_after.timestamp())},
            "ValidityNotBefore": {"Type": "ABSOLUTE", "Value": int(validity.not_before.timestamp())},
            "IdempotencyToken": self._random_bytes(TOKEN_BYTES).hex(),
        }

    async def _fetch(self, arn: str, deadline: float) -> Answer:
        """What was issued; every error but AWS's own refusal leaves it open whether that exists."""
        await self._clock.sleep(self._pace.wait(0))
        looks = 0
        try:
            async for attempt in AsyncRetrying(
                sleep=self._clock.sleep,
                wait=lambda state: self._pace.wait(state.attempt_number),
                stop=lambda state: self._is_late(state, deadline),
                retry=retry_if_exception(lambda error: isinstance(error, AuthorityUnavailable)),
                reraise=True,
            ):
                with attempt:
                    looks += 1
                    answer = await self._client.call(
                        "GetCertificate", {**self._named(), "CertificateArn": arn}, for_order=True
                    )
        except AuthorityUnavailable as error:
            self._pace.found(looks)
            raise AuthorityUncertain(
                f"accepted, but not to be had within {self._config.timeout:g} s: {error.what}",
                where=self._config.name,
                remedy=error.remedy,
            ) from None
        except AuthorityError as error:
            if error.reason == "issuing_failed":
                raise  # AWS's own word that there is none
            raise AuthorityUncertain(
                f"accepted, but not to be had: {error.what}",
                where=self._config.name,
                reason=error.reason,
                remedy=error.remedy,
            ) from None
        self._pace.found(looks)
        try:
            leaf, *chain = _certificates(answer)
        except InvalidValue as error:
            raise AuthorityViolation(
                f"what it returned cannot be read: {error}", where=self._config.name, reason="garbage"
            ) from None
        return Answer(leaf.der, tuple(chain))

    async def _describe(self) -> Mapping[str, Any]:
        """What AWS says of the CA; raises AuthorityMisconfigured with its state where it is not active."""
        answer = await self._client.call(DESCRIBE, self._named())
        described = answer.get("CertificateAuthority")
        if not isinstance(described, dict) or "Status" not in described:
            raise Call(f"acm-pca:{DESCRIBE}", self._config.name).garbage()
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
