"""The one pipeline that every listener calls: attest, policy, request gate, clamp, sign, check, reply, account.

Between attestation and policy a node proxy becomes the pod that it asks for, if it may (``policy.py``). A certificate
for a cluster is made on three things: the generation that it is delivered with, the directives, and the authority.

Nothing here knows how the request came in. What is handed out was asked for by a caller that its own cluster vouches
for, lies within that cluster's policy, outlives none of its issuers, chains to an anchor of the bundle that is
delivered with it, and is of the issuer that the directives name. Where trust or directives change meanwhile it is made
anew by those that hold then, and the caller learns nothing of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Protocol

import msgspec

from federation.core.call_slots import CallSlot
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.documents.trust import Current
from federation.core.errors import AuthorityViolation, FederationError, NotReady
from federation.core.identity import SpiffeId, TrustDomain
from federation.core.istio.istiod import is_istiod_name
from federation.core.pki.certificate import Certificate, pem_encode
from federation.core.pki.chain import cert_chain_elements
from federation.core.pki.leaf import LeafProfile, draw_serial, leaf_validity
from federation.core.pki.requests import CertificateRequest, check_request, check_server_request
from federation.core.rotation.effects import SigningDirectives
from federation.core.trust.expiry_bounds import UNKNOWN_ISSUER
from federation.signer.accounting import NO_CLUSTER, Accounting, Delivery, Renewals
from federation.signer.attestation.attestor import Caller, TokenEvidence
from federation.signer.attestation.tokens import TokenReader
from federation.signer.authorities.authority import Alarms, Authority, LeafRequest, issue_checked
from federation.signer.authorities.authority_set import AuthoritySet, AuthoritySlot
from federation.signer.authorities.selection import choose, require_served
from federation.signer.callers import Callers
from federation.signer.generations import AcceptedTrust, DirectivesFollower, TrustFollower
from federation.signer.policy import check_policy, check_reserved, impersonate
from federation.signer.registry import Registry, Routing
from federation.signer.revalidation import Superseded, require_directed


class Terms(msgspec.Struct, frozen=True):
    """What holds for a cluster now. Any of it may change between two requests."""

    trust: AcceptedTrust
    directives: SigningDirectives


class Grounds:
    """Looks it up, for every request, in what is kept up to date beside the requests."""

    def __init__(
        self, trust: TrustFollower, directives: DirectivesFollower, authorities: AuthoritySet
    ) -> None:
        self._trust = trust
        self._directives = directives
        self._authorities = authorities

    def terms(self, cluster: str) -> Terms:
        """The terms for that cluster; empty for the hub itself.

        Raises NotReady where there is no bundle or there are no directives yet, where its generation is not
        believed, and where it is quarantined.
        """
        in_force, directives = self._trust.in_force, self._directives.directives
        if in_force is None:
            raise NotReady("there is no bundle yet", reason="no_bundle")
        if directives is None:
            raise NotReady(
                f"the directives of the controller were not read yet: {self._directives.problem or 'starting'}",
                reason="no_directives",
            )
        require_served(directives, cluster)
        return Terms(in_force.for_cluster(cluster), directives)

    def signer(self, cluster: str, terms: Terms) -> AuthoritySlot:
        """Who signs on these terms; raises NotReady as :func:`choose` does."""
        return choose(terms.directives, cluster, self._authorities.in_order, terms.trust.anchors)

    async def look(self) -> tuple[Current | None, SigningDirectives]:
        """What is to hold by the state store, read after the call and taken up. Raises StateUnavailable."""
        directives = await self._directives.catch_up()
        return await self._trust.catch_up(), directives


ATTEMPTS: Final = 3
"""At a leaf that is superseded while it is made: one for directives that change, one for a generation beside them."""

ISTIOD_PROFILE: Final = LeafProfile.SERVING
"""istiod serves XDS and webhooks with it and is no one's client: its key must not open a workload's connection."""

MOST_TAILS: Final = 32  # a few issuers times a few generations

_audit = logging.getLogger("federation.signer.audit")


class SigningRequest(msgspec.Struct, frozen=True):
    """What a caller wants: a CSR in PEM, and for how many seconds (0 or less: what policy gives).

    ``impersonated`` is the identity that it wants instead of its own, unchecked; empty where it wants its own.
    """

    csr_pem: str
    validity_seconds: int = 0
    impersonated: str = ""


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


class Signs(Protocol):
    """Who signs: an authority, its issuers as far as they are known, and where its alarms go."""

    @property
    def current(self) -> Authority:
        """The authority to ask."""
        ...

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Issuer first, root last; empty while they are not known."""
        ...

    @property
    def alarms(self) -> Alarms:
        """Where to note what it did that it must never do."""
        ...


class MakesGrounds(Protocol):
    """As :class:`federation.signer.issuance.Grounds`; asked anew for every attempt."""

    def terms(self, cluster: str) -> Terms:
        """The trust and the directives for that cluster; raises NotReady."""
        ...

    def signer(self, cluster: str, terms: Terms) -> Signs:
        """Who signs on these terms; raises NotReady."""
        ...


class _VerifiedRequest(msgspec.Struct, frozen=True):
    """A request that is found good."""

    caller: Caller
    config: ClusterConfig
    request: SigningRequest
    profile: LeafProfile
    checked: CertificateRequest

    @property
    def holder(self) -> tuple[str, str, str]:
        """Whom it is for: of a node proxy's identities, each is one."""
        return self.config.name.value, str(self.caller.account), self.caller.pod


class Issuance:
    """Issues leaves; authority, directives and what is trusted may be exchanged between two requests."""

    def __init__(
        self,
        *,
        registry: Registry,
        grounds: MakesGrounds,
        trust_domain: TrustDomain,
        accounting: Accounting,
        renewals: Renewals,
        callers: Callers,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._registry = registry
        self._routing = Routing(registry)
        self._grounds = grounds
        self._trust_domain = trust_domain
        self._accounting = accounting
        self._renewals = renewals
        self._callers = callers
        self._clock = clock
        self._random_bytes = random_bytes
        self._reader = TokenReader()
        self._tails: dict[tuple[str, int], Tail] = {}

    @property
    def routing(self) -> Routing:
        """What decides which member judges a token."""
        return self._routing

    async def issue(self, evidence: TokenEvidence, request: SigningRequest, place: CallSlot) -> Reply:
        """The certificate that this caller may have; ``place`` is told once its cluster has vouched for it.

        Raises a Refused where the caller is at fault, an Unavailable where asking again may help, an
        AuthorityError where the authority must be mended.
        """
        began = self._clock.monotonic()
        cluster, reason, own, claims_own, signed = NO_CLUSTER, "internal", False, False, False
        try:
            token = self._reader.read(evidence.token)
            named = self._routing.named(evidence.cluster_id)
            if named is not None:  # for what is counted where it is refused
                cluster, claims_own = named.name, named.config.is_own(token.account)
            registered, permit = await self._routing.place(token, evidence.cluster_id)
            cluster, claims_own = registered.name, registered.config.is_own(token.account)
            attestor = self._registry.attestor(registered)
            signed = attestor.signing_key(token) is not None
            with ExitStack() as held:
                if signed:
                    held.enter_context(registered.slots)
                    place.proved()
                    caller = await attestor.attest(token, permit)
                else:  # it only names the cluster, and may wait until that is asked about it
                    with place.beside(registered.unproven(attestor)):
                        caller = await attestor.attest(token, permit)
                    held.enter_context(registered.slots)
                    place.proved()
                    signed = True
                own = registered.config.is_own(caller.account)
                if own:
                    self._routing.proved(registered, token)
                if request.impersonated:
                    caller = await impersonate(
                        caller,
                        request.impersonated,
                        config=registered.config,
                        trust_domain=self._trust_domain,
                        pods=attestor.node_pods,
                    )
                else:
                    check_policy(caller, registered.config)
                reply = await self._sign(caller, registered.config, request)
            reason = ""
        except FederationError as error:
            reason = error.reason
            error.where = error.where or cluster
            if not claims_own:
                now = self._clock.now().timestamp()
                self._accounting.note_refusal(cluster, error, now=now, proven=signed)
            raise
        except asyncio.CancelledError:
            reason = "cancelled"  # the listener's deadline has passed, or the caller has gone
            raise
        finally:
            seconds = self._clock.monotonic() - began
            if reason:
                self._accounting.count_refused(cluster, reason, seconds=seconds, own=own)
            else:
                now = self._clock.now().timestamp()
                self._accounting.count_issued(cluster, seconds=seconds, now=now, own=own)
        return reply

    async def _sign(self, caller: Caller, config: ClusterConfig, request: SigningRequest) -> Reply:
        profile, checked = self._check(caller, config, request)
        check_reserved(caller, config, self._registry.reserved)
        asked = _VerifiedRequest(caller, config, request, profile, checked)
        attempts = ATTEMPTS
        while True:
            try:
                return await self._make(asked)
            except Superseded:
                attempts -= 1
                if not attempts:
                    raise

    def _check(
        self, caller: Caller, config: ClusterConfig, request: SigningRequest
    ) -> tuple[LeafProfile, CertificateRequest]:
        """What the caller asks for, and as which kind of leaf it gets it. Raises RequestRefused."""
        accepted = config.policy.key_kinds
        if caller.account == config.istio.account:
            permitted = partial(is_istiod_name, config.istio)
            return ISTIOD_PROFILE, check_server_request(
                request.csr_pem, permitted=permitted, accepted_keys=accepted
            )
        identity = SpiffeId(self._trust_domain, caller.account)
        return LeafProfile.WORKLOAD, check_request(request.csr_pem, identity=identity, accepted_keys=accepted)

    async def _make(self, asked: _VerifiedRequest) -> Reply:
        """One attempt. Raises Superseded where what it was made by no longer holds at its end."""
        config, cluster = asked.config, asked.config.name.value
        if not self._callers.open:
            raise NotReady("which pods hold certificates was not read yet", reason="callers_not_read")
        terms = self._grounds.terms(cluster)
        signer = self._grounds.signer(cluster, terms)
        now = self._clock.now()
        above = signer.issuers
        order = self._order(asked, terms.directives, above, now)
        # Accounted for before anybody is asked: an answer that is lost on its way may be a leaf all the same.
        known, ends = above[0].sha256 if above else UNKNOWN_ISSUER, order.validity.not_after
        covered = Delivery(config.name, known, terms.trust.number, ends, terms.directives)
        await self._accounting.deliver(covered)
        issued = await issue_checked(
            signer.current, order, anchors=terms.trust.anchors, at=now, alarms=signer.alarms
        )
        latest = self._grounds.terms(cluster)
        tail = self._tail_for(issued.issuers, latest.trust)
        issuer = issued.issuers[0].sha256
        require_directed(issued.issuers, latest.directives, cluster)
        if (issuer, latest.trust.number, issued.not_after) != (known, terms.trust.number, ends):
            await self._accounting.deliver(
                Delivery(config.name, issuer, latest.trust.number, issued.not_after, latest.directives)
            )
        self._renewals.issued(asked.holder, at=now, not_after=issued.not_after)
        if not config.is_own(asked.caller.account):
            self._callers.issued(cluster, asked.caller.pod_uid, at=now, not_after=issued.not_after)
        if _audit.isEnabledFor(logging.INFO):
            _audit.info(
                "issued %s",
                ", ".join(asked.checked.names),
                extra={
                    "cluster": cluster,
                    "pod": asked.caller.pod,
                    **_impersonation(asked.caller),
                    "proved_by": asked.caller.proved_by,
                    "serial": f"{order.serial:032x}",
                    "not_after": issued.not_after.isoformat(),
                    "authority": issuer,
                    "generation": latest.trust.number,
                },
            )
        return Reply(pem_encode(issued.der, "CERTIFICATE"), tail)

    def _order(
        self,
        asked: _VerifiedRequest,
        directives: SigningDirectives,
        above: tuple[Certificate, ...],
        now: datetime,
    ) -> LeafRequest:
        """The leaf as it is to be, within policy, directives and issuers."""
        policy, cap = asked.config.policy, directives.ttl_cap or math.inf
        validity = leaf_validity(
            now,
            asked.request.validity_seconds,
            timedelta(seconds=max(1.0, min(policy.longest_ttl, cap))),
            above,
            timedelta(seconds=policy.default_ttl),
        )
        return LeafRequest(
            profile=asked.profile,
            public_key=asked.checked.public_key,
            spki_der=asked.checked.spki_der,
            names=asked.checked.names,
            san=asked.checked.san,
            serial=draw_serial(self._random_bytes),
            validity=validity,
            csr_pem=asked.request.csr_pem,
            cluster=asked.config.name.value,
            replaces=self._renewals.held(asked.holder),
        )

    def _tail_for(self, issuers: tuple[Certificate, ...], trust: AcceptedTrust) -> Tail:
        """The rest of the reply, made anew only where issuers or trust have changed."""
        if not issuers or issuers[-1] not in trust.anchors:
            raise AuthorityViolation(
                "its leaves do not chain to an anchor of the bundle in force",
                reason="unpublished_anchor",
                remedy="publish the root first: an authority signs only under anchors that all hold",
            )
        key = issuers[0].sha256, trust.number
        tail = self._tails.get(key)
        if tail is not None and tail.trust is trust and tail.issuers == issuers:
            return tail
        elements = tuple(cert_chain_elements(b"", issuers, trust.bundle_pem)[1:])
        if len(self._tails) >= MOST_TAILS:
            self._tails.clear()
        tail = self._tails[key] = Tail(elements, issuers, trust)
        return tail


def _impersonation(caller: Caller) -> dict[str, str]:
    """Who asked, for the audit, where that is another than the one whom the certificate is for."""
    if caller.impersonator is None:
        return {}
    return {"impersonator": str(caller.impersonator), "node": caller.node}
