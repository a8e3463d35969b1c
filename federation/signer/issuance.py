"""The one pipeline that every door calls: attest, policy, request gate, clamp, sign, check, reply, account.

Nothing here knows how the request came in. What is handed out was asked for by a caller that its own
cluster vouches for, lies within that cluster's policy, outlives none of its issuers, and chains to an
anchor of the bundle that is delivered with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec

from federation.core.clock import Clock
from federation.core.config.model import ClusterConfig
from federation.core.errors import AuthorityViolation, FederationError, NotReady
from federation.core.identity import SpiffeId, TrustDomain
from federation.core.pki.certificate import Certificate, pem_encode
from federation.core.pki.chain import cert_chain_elements
from federation.core.pki.leaf import LeafProfile, draw_serial
from federation.core.pki.requests import check_request
from federation.core.pki.validity import leaf_validity
from federation.signer.accounting import NO_CLUSTER, Accounting, Delivery
from federation.signer.attestation.caller import Caller, TokenEvidence
from federation.signer.attestation.tokens import TokenReader
from federation.signer.authorities.checked import Alarms, issue_checked
from federation.signer.authorities.interface import Authority, KnowsIssuers, LeafOrder
from federation.signer.policy import check_policy
from federation.signer.registry import Registry
from federation.signer.renewals import Renewals
from federation.signer.trust import AcceptedTrust

_audit = logging.getLogger("federation.signer.audit")


class SigningRequest(msgspec.Struct, frozen=True):
    """What a caller wants: a CSR in PEM, and for how many seconds (0 or less: what policy gives)."""

    csr_pem: str
    validity_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows the leaf in a reply: the intermediates one by one, then the whole bundle."""

    elements: tuple[str, ...] = field(repr=False)
    issuers: tuple[Certificate, ...]
    trust: AcceptedTrust


class Reply(msgspec.Struct, frozen=True):
    """A certificate as istio-csr hands it out."""

    leaf_pem: str
    tail: Tail


class Issuance:
    """Issues leaves; the authority and what is trusted may be exchanged between two requests."""

    def __init__(
        self,
        *,
        registry: Registry,
        authority: Authority,
        trust: Callable[[], AcceptedTrust | None],
        trust_domain: TrustDomain,
        accounting: Accounting,
        alarms: Alarms,
        renewals: Renewals,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._registry = registry
        self._trust = trust
        self._trust_domain = trust_domain
        self._accounting = accounting
        self._alarms = alarms
        self._renewals = renewals
        self._clock = clock
        self._random_bytes = random_bytes
        self._reader = TokenReader()
        self._tail: Tail | None = None
        self.use(authority)

    def use(self, authority: Authority) -> None:
        """Sign with this authority from the next request on."""
        self._authority = authority
        self._knows: KnowsIssuers | None = authority if isinstance(authority, KnowsIssuers) else None

    async def issue(self, evidence: TokenEvidence, request: SigningRequest) -> Reply:
        """The certificate that this caller may have.

        Raises a Refused where the caller is at fault, an Unavailable where asking again may help, an
        AuthorityError where the authority must be mended.
        """
        began = self._clock.monotonic()
        cluster, reason = NO_CLUSTER, "internal"
        try:
            token = self._reader.read(evidence.token)
            registered = self._registry.route(token, evidence.cluster_id)
            cluster = registered.config.name.value
            self._registry.refuse_anothers(token, registered)
            with registered.slots:
                caller = await self._registry.attestor(registered).attest(token)
                check_policy(caller, registered.config)
                reply = await self._sign(caller, registered.config, request)
            reason = ""
        except FederationError as error:
            reason = error.reason
            error.where = error.where or cluster
            raise
        except asyncio.CancelledError:
            reason = "cancelled"  # the door's deadline has passed, or the caller has gone
            raise
        finally:
            seconds = self._clock.monotonic() - began
            if reason:
                self._accounting.count_refused(cluster, reason, seconds=seconds)
            else:
                self._accounting.count_issued(cluster, seconds=seconds, now=self._clock.now().timestamp())
        return reply

    async def _sign(self, caller: Caller, config: ClusterConfig, request: SigningRequest) -> Reply:
        identity = SpiffeId(self._trust_domain, caller.account)
        policy = config.policy
        checked = check_request(request.csr_pem, identity=identity, accepted_keys=policy.key_kinds)
        trust = self._trust()
        if trust is None:
            raise NotReady("there is no bundle yet", reason="no_bundle")
        now = self._clock.now()
        above = self._knows.issuers if self._knows is not None else ()
        validity = leaf_validity(
            now,
            request.validity_seconds,
            timedelta(seconds=policy.longest_ttl),
            above,
            timedelta(seconds=policy.default_ttl),
        )
        holder = config.name.value, str(caller.account), caller.pod
        order = LeafOrder(
            profile=LeafProfile.WORKLOAD,
            public_key=checked.public_key,
            spki_der=checked.spki_der,
            names=(str(identity),),
            san=checked.san,
            serial=draw_serial(self._random_bytes),
            validity=validity,
            csr_pem=request.csr_pem,
            cluster=config.name.value,
            replaces=self._renewals.held(holder),
        )
        # Accounted for before anybody is asked: an answer that is lost on its way may be a leaf all the same.
        covered = Delivery(config.name, above[0].sha256 if above else "", trust.number, validity.not_after)
        await self._accounting.deliver(covered)
        issued = await issue_checked(
            self._authority, order, anchors=trust.anchors, at=now, alarms=self._alarms
        )
        current = self._trust()
        if current is None:
            raise NotReady("there is no bundle any more", reason="no_bundle")
        not_after, issuers, trust = issued.not_after, issued.issuers, current
        tail = self._tail_for(issuers, trust)
        delivery = Delivery(config.name, issuers[0].sha256, trust.number, not_after)
        if delivery != covered:
            await self._accounting.deliver(delivery)
        self._renewals.issued(holder, at=now, not_after=not_after)
        if _audit.isEnabledFor(logging.INFO):
            _audit.info(
                "issued %s",
                identity,
                extra={
                    "cluster": config.name.value,
                    "pod": caller.pod,
                    "proved_by": caller.proved_by,
                    "serial": f"{order.serial:032x}",
                    "not_after": not_after.isoformat(),
                    "authority": issuers[0].sha256,
                    "generation": trust.number,
                },
            )
        return Reply(pem_encode(issued.der, "CERTIFICATE"), tail)

    def _tail_for(self, issuers: tuple[Certificate, ...], trust: AcceptedTrust) -> Tail:
        """The rest of the reply, made anew only where issuers or trust have changed."""
        tail = self._tail
        if tail is not None and tail.trust is trust and tail.issuers == issuers:
            return tail
        if not issuers or issuers[-1] not in trust.anchors:
            raise AuthorityViolation(
                "its leaves do not chain to an anchor of the bundle in force",
                reason="unpublished_anchor",
                remedy="publish the root first: an authority signs only under anchors that all hold",
            )
        elements = tuple(cert_chain_elements(b"", issuers, trust.bundle_pem)[1:])
        self._tail = Tail(elements, issuers, trust)
        return self._tail
