"""How a certificate is issued: the one page that says what every caller of every listener goes through, in order.

:meth:`Issuance.issue` proves who the caller is and what it may have (steps 1 to 3), and ``_attempt`` makes the leaf
(steps 4 to 11). The order is what the promises in docs/architecture.md rest on:

- Nothing but the caller's own cluster says who it is, and nothing but that cluster's policy what it may have.
- A leaf is made by one value, the :class:`IssuanceContext`: the generation that is delivered with it, and directives.
- Until when it may live is persisted before any authority is asked, so that no leaf escapes a gate of a rotation.
- What comes back is verified, and handed out only where it is what the generation and the directives of that moment ask
  for. Where they changed meanwhile it is made anew by those, and the caller does not notice.

How the request came in is a listener's matter. What is refused is counted under the cluster that the caller names
until one is proved (``accounting.py``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import msgspec

from federation.core.audit import NONE, audit_fields
from federation.core.call_slots import CallSlot
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.errors import AuthorityViolation, NotReady
from federation.core.identity import SpiffeId, TrustDomain
from federation.core.istio.istiod import is_istiod_name
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import cert_chain_elements
from federation.core.pki.leaf import LeafProfile, draw_serial, leaf_validity
from federation.core.pki.requests import CertificateRequest, check_request, check_server_request
from federation.core.trust.expiry_bounds import UNKNOWN_ISSUER
from federation.runtime.logs import log_info
from federation.signer.accounting import Accounting, CountedCall, Renewals
from federation.signer.attestation.attestor import Caller, ClusterAttestor, TokenEvidence
from federation.signer.attestation.tokens import TokenReader
from federation.signer.authorities.authority import CheckedLeaf, LeafRequest, issue_checked
from federation.signer.authorities.authority_set import AuthoritySet, AuthoritySlot
from federation.signer.authorities.selection import choose
from federation.signer.callers import Callers
from federation.signer.expiry_bounds import PersistedExpiryBounds
from federation.signer.generations import AcceptedTrust, IssuanceContext, TrustPoller
from federation.signer.policy import check_policy, check_reserved, impersonate
from federation.signer.registry import Registered, Registry, Routing
from federation.signer.revalidation import Delivery, Superseded, require_directed

PAUSES: Final = (0.0, 0.0, 0.25, 0.5, 0.75)
"""Seconds before each further attempt at a leaf that is superseded while it is made: the first is for directives that
change, the second for a generation beside them. The others are for a generation that has an anchor which was pinned a
moment ago: this signer takes it up once it has read its own configuration, which it does twice a second."""

LASTING: Final = 5.0
"""Seconds for which every leaf of a cluster was superseded, after which its callers do not wait any more."""

ISTIOD_PROFILE: Final = LeafProfile.SERVING
"""istiod serves XDS and webhooks with it and is no one's client: its key must not open a workload's connection."""

_audit = logging.getLogger("federation.signer.audit")


class SigningRequest(msgspec.Struct, frozen=True):
    """What a caller asks for: a CSR in PEM, and for how many seconds (0 or less: what policy gives).

    ``impersonated`` is the identity that it asks for instead of its own, unchecked; empty where it is its own.
    """

    csr_pem: str
    validity_seconds: int = 0
    impersonated: str = ""


class VerifiedRequest(msgspec.Struct, frozen=True):
    """A request that its caller may make: whom the leaf is for, and what it holds."""

    caller: Caller
    config: ClusterConfig
    request: SigningRequest
    profile: LeafProfile
    checked: CertificateRequest
    subject: tuple[str, str, str]
    """Cluster, account and pod: of the identities that a node proxy asks for, each is one."""
    source: str
    """The address that it came from, for the audit."""


class Issuance:
    """Issues leaves. Made once for a signer; every listener calls it."""

    def __init__(
        self,
        *,
        registry: Registry,
        routing: Routing,
        poller: TrustPoller,
        authorities: AuthoritySet,
        expiry_bounds: PersistedExpiryBounds,
        trust_domain: TrustDomain,
        accounting: Accounting,
        renewals: Renewals,
        callers: Callers,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """``random_bytes`` must be fit for serial numbers."""
        self._registry = registry
        self._routing = routing
        self._poller = poller
        self._authorities = authorities
        self._expiry_bounds = expiry_bounds
        self._trust_domain = trust_domain
        self._accounting = accounting
        self._renewals = renewals
        self._callers = callers
        self._clock = clock
        self._random_bytes = random_bytes
        self._reader = TokenReader()
        self._superseded: dict[str, tuple[float, float]] = {}
        """By cluster, since when and when last its leaves were superseded without one delivered (monotonic)."""

    async def issue(
        self, evidence: TokenEvidence, request: SigningRequest, call_slot: CallSlot
    ) -> list[bytes]:
        """The certificate that this caller may have, with what follows it: the ``cert_chain`` of Istio's reply.

        Args:
            evidence: what the caller shows.
            request: what it asks for.
            call_slot: its place among the calls under way, which gives way to others until its cluster is proved.

        Raises:
            Refused: the caller is at fault.
            Unavailable: asking again may help.
            AuthorityError: an operator must repair the authority.

        """
        with CountedCall(self._accounting, self._clock) as call:
            # 1. Attest: the caller's own cluster proves its token; nothing else decides who it is.
            member, attestor, caller = await self._attest(evidence, call_slot, call)
            # 2. and 3. Policy and request: what that cluster lets the caller have, and a CSR that holds nothing more.
            verified = await self._permit(member, attestor, caller, request, call_slot.peer)
            return await self._attempt_again(verified)

    async def _attempt_again(self, verified: VerifiedRequest) -> list[bytes]:
        """As :meth:`_attempt`, made anew by what is in force now where that changed meanwhile."""
        cluster = verified.config.name.value
        for pause in PAUSES:
            try:
                reply = await self._attempt(verified)
            except Superseded:
                if pause:
                    if self._is_lasting(cluster):
                        raise
                    await self._clock.sleep(pause)
            else:
                self._superseded.pop(cluster, None)
                return reply
        return await self._attempt(verified)

    def _is_lasting(self, cluster: str) -> bool:
        """Whether leaves of that cluster have been superseded for a while, one after the other; one is now."""
        now = self._clock.monotonic()
        since, last = self._superseded.get(cluster, (now, now))
        if now - last > LASTING:
            since = now
        self._superseded[cluster] = since, now
        return now - since > LASTING

    async def _permit(
        self,
        member: Registered,
        attestor: ClusterAttestor,
        caller: Caller,
        request: SigningRequest,
        source: str,
    ) -> VerifiedRequest:
        """The request that the caller may make. Raises Refused."""
        config = member.config
        # 2. Policy: what that cluster lets the caller have, as itself or as a node proxy for a pod beside it.
        if request.impersonated:
            domain, pods = self._trust_domain, attestor.node_pods
            caller = await impersonate(
                caller, request.impersonated, config=config, trust_domain=domain, pods=pods
            )
        else:
            check_policy(caller, config)
        # 3. Request: the CSR holds the identity that was proved, and nothing more; no reserved one.
        verified = self._verify_request(caller, config, request, source)
        check_reserved(caller, config, self._registry.reserved)
        return verified

    async def _attempt(self, verified: VerifiedRequest) -> list[bytes]:
        """One leaf and its chain. Raises Superseded where what it was made by is not in force any more at its end."""
        config, cluster = verified.config, verified.config.name.value
        if not self._callers.open:  # or a restart would take pods with a certificate for pods without one
            raise NotReady("which pods hold certificates was not read yet", reason="callers_not_read")
        # 4. Context: the generation that this cluster gets and the directives, one value, read at once.
        context = self._poller.context(cluster)
        # 5. Authority: selected by the directives alone, under an anchor of that generation.
        authority = choose(context.directives, cluster, self._authorities.in_order, context.trust.anchors)
        # 6. Bounds: within policy, the directives and the life of every issuer.
        now, issuers = self._clock.now(), authority.issuers
        wanted = self._bounded(verified, context, issuers, now)
        # 7. Record: until when it may live is persisted before the authority is asked; a lost answer may be a leaf too.
        issuer, ends = issuers[0].sha256 if issuers else UNKNOWN_ISSUER, wanted.validity.not_after
        recorded = Delivery(config.name, issuer, context.trust.number, ends, context.directives)
        await self._record(recorded)
        # 8. and 9. Sign and verify: what was wanted, under an anchor of that generation, or an alarm.
        leaf = await self._sign(authority, wanted, context, now)
        # 10. Revalidate: by the generation and the directives of now, and recorded anew where the leaf is another one.
        context = self._poller.context(cluster)
        require_published(leaf.issuers, context.trust)
        require_directed(leaf.issuers, context.directives, cluster)
        signer = leaf.issuers[0].sha256
        if (signer, context.trust.number, leaf.not_after) != (issuer, recorded.generation, ends):
            await self._record(
                Delivery(config.name, signer, context.trust.number, leaf.not_after, context.directives)
            )
        # 11. Reply: the leaf, its intermediates, and the whole bundle of that generation.
        self._note_issued(verified, leaf, wanted, context, now)
        return cert_chain_elements(leaf.der, leaf.issuers, context.trust.bundle_pem)

    async def _record(self, delivery: Delivery) -> None:
        """Persist until when a leaf may live."""
        await self._expiry_bounds.cover(delivery)

    async def _sign(
        self, authority: AuthoritySlot, wanted: LeafRequest, context: IssuanceContext, now: datetime
    ) -> CheckedLeaf:
        """What the authority makes of it, verified. Raises AuthorityError."""
        return await issue_checked(
            authority.current, wanted, anchors=context.trust.anchors, at=now, alarms=authority.alarms
        )

    async def _attest(
        self, evidence: TokenEvidence, call_slot: CallSlot, call: CountedCall
    ) -> tuple[Registered, ClusterAttestor, Caller]:
        """The member that the token is of, and whom it proves. ``call`` holds one of the member's slots from then on.

        A call that only names a cluster waits beside those that are proved, and takes none of the member's slots.
        Proved is what a key of the cluster has signed, or what its API server confirms.
        """
        token = self._reader.read(evidence.token)
        named = self._routing.named(evidence.cluster_id)
        if named is not None:  # for what is counted where it is refused
            call.cluster, call.claims_own = named.name, named.config.is_own(token.account)
        member, permit = await self._routing.attribute(token, named, evidence.cluster_id)
        if member is not named:
            call.cluster, call.claims_own = member.name, member.config.is_own(token.account)
        attestor = self._registry.attestor(member)
        call.proven = attestor.signing_key(token) is not None
        if call.proven:
            call.occupy(member.slots)
            call_slot.proved()
            caller = await attestor.attest(token, permit)
        else:
            with call_slot.beside(member.unproven(attestor)):
                caller = await attestor.attest(token, permit)
            call.occupy(member.slots)
            call_slot.proved()
            call.proven = True
        call.own = member.config.is_own(caller.account)
        if call.own:
            self._routing.proved(member, token)
        return member, attestor, caller

    def _verify_request(
        self, caller: Caller, config: ClusterConfig, request: SigningRequest, source: str
    ) -> VerifiedRequest:
        """What the caller asks for, and as which kind of leaf it gets it. Raises RequestRefused."""
        accepted, account = config.policy.key_kinds, caller.account
        if account == config.istio.account:
            profile, permitted = ISTIOD_PROFILE, partial(is_istiod_name, config.istio)
            checked = check_server_request(request.csr_pem, permitted=permitted, accepted_keys=accepted)
        else:
            profile, identity = LeafProfile.WORKLOAD, SpiffeId(self._trust_domain, account)
            checked = check_request(request.csr_pem, identity=identity, accepted_keys=accepted)
        subject = config.name.value, str(account), caller.pod
        return VerifiedRequest(caller, config, request, profile, checked, subject, source)

    def _bounded(
        self,
        verified: VerifiedRequest,
        context: IssuanceContext,
        issuers: tuple[Certificate, ...],
        now: datetime,
    ) -> LeafRequest:
        """The leaf as it is to be: no longer than policy, a rotation's cap and every issuer allow."""
        policy, cap = verified.config.policy, context.directives.ttl_cap or math.inf
        longest = timedelta(seconds=max(1.0, min(policy.longest_ttl, cap)))
        usual = timedelta(seconds=policy.default_ttl)
        return LeafRequest(
            profile=verified.profile,
            public_key=verified.checked.public_key,
            spki_der=verified.checked.spki_der,
            names=verified.checked.names,
            san=verified.checked.san,
            serial=draw_serial(self._random_bytes),
            validity=leaf_validity(now, verified.request.validity_seconds, longest, issuers, usual),
            csr_pem=verified.request.csr_pem,
            cluster=verified.config.name.value,
            replaces=self._renewals.end_of(verified.subject),
        )

    def _note_issued(
        self,
        verified: VerifiedRequest,
        leaf: CheckedLeaf,
        wanted: LeafRequest,
        context: IssuanceContext,
        now: datetime,
    ) -> None:
        """Remember who has a certificate and until when, and write it to the audit log."""
        caller, cluster = verified.caller, verified.config.name.value
        before = self._renewals.end_of(verified.subject)
        self._renewals.issued(verified.subject, at=now, not_after=leaf.not_after)
        if not verified.config.is_own(caller.account):
            self._callers.issued(cluster, caller.pod_uid, at=now, not_after=leaf.not_after)
        if not _audit.isEnabledFor(logging.INFO):
            return
        names = ", ".join(verified.checked.names)
        values: dict[str, str | int] = {
            **audit_fields(
                "issue",
                actor=str(caller.impersonator or caller.account),
                actor_kind="workload" if caller.impersonator is None else "node-proxy",
                source=verified.source,
                object=names,
                before=NONE if before is None else before.isoformat(),
                after=leaf.not_after.isoformat(),
            ),
            "cluster": cluster,
            "pod": caller.pod,
        }
        if caller.impersonator is not None:
            values |= {"impersonator": str(caller.impersonator), "node": caller.node}
        values |= {
            "proved_by": caller.proved_by,
            "serial": f"{wanted.serial:032x}",
            "not_after": leaf.not_after.isoformat(),
            "authority": leaf.issuers[0].sha256,
            "generation": context.trust.number,
        }
        log_info(_audit, f"issued {names}", values)


def require_published(issuers: tuple[Certificate, ...], trust: AcceptedTrust) -> None:
    """Raise AuthorityViolation where a leaf below these issuers chains to no anchor of that generation."""
    if not issuers or issuers[-1] not in trust.anchors:
        raise AuthorityViolation(
            "its leaves do not chain to an anchor of the bundle in force",
            reason="unpublished_anchor",
            remedy="publish the root first: an authority signs only under anchors that all hold",
        )
