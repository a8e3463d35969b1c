"""One cluster's verdict on a token: by its published keys and watched caches, or by its TokenReview.

===============  ======================================================================================================
``auto``         keys and fresh caches decide; where they cannot (no usable keys, a key among them that the hub cannot
                 use, an issuer that the cluster had before, a cache that is not fresh, an object that the watch has
                 not seen), TokenReview does; a token that names a key which was read has to be signed by it first
``token-keys``   TokenReview is never asked; where the caches cannot confirm what a token is bound to, that pod and
                 account are read; what cannot be decided so is refused or unavailable
``token-review`` TokenReview always decides, unless a published key of the token's name did not sign it
===============  ======================================================================================================

Where the API server is away and cannot be asked, caches go on deciding for as long after their last line as those of a
watch that is open and silent do (``watch_silence``): a connection that was reset makes nothing known less.

A token is shown to an API server only where nothing speaks against its being that cluster's own: otherwise a cluster
that was broken into could collect other clusters' tokens.

The values are here too: what a caller shows, and what it has proved.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from copy import copy
from typing import Final, TypeAlias

import msgspec

from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.errors import (
    AttestationRefused,
    ClusterError,
    ClusterServerError,
    ClusterTimeout,
    ClusterUnreachable,
    NotReady,
)
from federation.core.identity import ClusterName, ServiceAccountRef
from federation.core.jwks import TokenKey
from federation.kubernetes.budget import CpuBudget
from federation.kubernetes.token_renewal import TokenRenewal
from federation.signer.attestation.bound_objects import BoundObjects, Existence
from federation.signer.attestation.node_pods import NodePods
from federation.signer.attestation.token_keys import TokenKeys
from federation.signer.attestation.token_review import TokenReviewer
from federation.signer.attestation.tokens import Token, check_claims

AUTO: Final = "auto"
KEYS: Final = "token-keys"
REVIEW: Final = "token-review"


class TokenEvidence(msgspec.Struct, frozen=True):
    """A bearer token, unchecked, and the cluster its bearer says it is from (empty: says nothing)."""

    token: str
    cluster_id: str = ""

    def __repr__(self) -> str:
        return f"TokenEvidence(cluster_id={self.cluster_id!r})"


class Caller(msgspec.Struct, frozen=True):
    """A service account that its own cluster attests, and how that was found out.

    With an ``impersonator`` the certificate is for ``account`` and the token was the impersonator's: ``pod`` and
    ``node`` are those of the caller, not of a pod of ``account``.
    """

    cluster: ClusterName
    account: ServiceAccountRef
    pod: str  # the name of the pod that the token is bound to; empty where it is bound to none
    proved_by: str  # KEYS or REVIEW
    pod_uid: str = ""
    node: str = ""  # the node of that pod; empty where the token does not say
    impersonator: ServiceAccountRef | None = None

    @property
    def described(self) -> str:
        """Who sent the token, for logs: account, pod and node."""
        bound = f" in pod {self.pod}" if self.pod else ""
        attributed = f" on node {self.node}" if self.node else ""
        return f"{self.impersonator or self.account}{bound}{attributed}"


def _is_outage(error: ClusterError) -> bool:
    """Whether the API server is away; not where it refuses the hub, or something else answers in its place."""
    away = isinstance(error, ClusterUnreachable | ClusterTimeout | ClusterServerError)
    return away and error.reason != "tls"


MOST_VERIFIED: Final = 4096  # tokens whose signature is remembered as good, each 100 bytes

ReviewPermit: TypeAlias = Callable[[], Awaitable[None]]
"""Raises NotReady where a token must not be shown to the API server."""


class ClusterAttestor:
    """Attests callers of one cluster."""

    def __init__(
        self,
        config: ClusterConfig,
        *,
        keys: TokenKeys,
        objects: BoundObjects,
        reviewer: TokenReviewer,
        node_pods: NodePods,
        clock: Clock,
        budget: CpuBudget | None = None,
        renewal: TokenRenewal | None = None,
    ) -> None:
        self.config = config
        self.renewal = renewal
        self.keys = keys
        self.objects = objects
        self.reviewer = reviewer
        self.node_pods = node_pods
        self._clock = clock
        self._verified: dict[bytes, TokenKey] = {}
        self._budget = budget

    @property
    def over_budget(self) -> ClusterError | None:
        """That the cluster sends more than it may cost, None where it does not."""
        return self._budget.problem if self._budget is not None else None

    @property
    def method(self) -> str:
        """What a token would be checked with now: ``token-keys`` or ``token-review``."""
        if self.config.attestation == "auto":
            return KEYS if self.keys.usable and self.objects.fresh else REVIEW
        return self.config.attestation

    @property
    def issuer(self) -> str:
        """The issuer of this cluster's tokens, empty while it is not known."""
        return self.keys.issuer

    def signing_key(self, token: Token) -> TokenKey | None:
        """The key of this cluster, as known now, that has signed the token; None where none has. Sends nothing."""
        key = self.keys.keys.get(token.header.kid) if self.keys.usable else None
        return key if key is not None and self._has_signed(key, token) else None

    def _has_signed(self, key: TokenKey, token: Token) -> bool:
        """Whether it has, remembered where it has: the same is asked on the way to this cluster and here."""
        if self._verified.get(token.digest) is key:
            return True
        if not key.signed(token.header.alg, token.signed, token.signature):
            return False
        if len(self._verified) >= MOST_VERIFIED:
            self._verified.clear()
        self._verified[token.digest] = key
        return True

    async def attest(self, token: Token, permit: ReviewPermit | None = None) -> Caller:
        """The caller that this cluster attests.

        ``permit`` is called before the token is shown to its API server, and raises where it must not be. Raises
        AttestationRefused where the cluster does not attest it, ClusterError or NotReady where that cannot be found out
        now.
        """
        mode = self.config.attestation
        if mode == REVIEW or not self.keys.usable:
            self._check_claims(token, self.config.issuer)
            if mode == KEYS:
                raise copy(self.keys.problem) or NotReady(
                    "its token keys are not there yet",
                    where=str(self.config.name),
                    reason="token_keys_missing",
                )
            if self.keys.usable and token.header.kid in self.keys.keys and self.signing_key(token) is None:
                # No API server accepts it, so none has to be asked: garbage must cost it nothing.
                raise AttestationRefused(
                    "its signature was not made by this cluster's key", reason="token_signature"
                )
            return await self._review(token, permit)
        key = await self.keys.find(token.header.kid)
        if key is None:
            if mode == AUTO and self.keys.keys.left_out:
                return await self._review_of_unread(token, permit)
            raise AttestationRefused("no key of this cluster has the token's key ID", reason="token_key")
        if not self._has_signed(key, token):
            raise AttestationRefused(
                "its signature was not made by this cluster's key", reason="token_signature"
            )
        if mode == AUTO and not self.config.issuer and token.claims.iss != self.keys.issuer:
            return await self._review_of_unread(token, permit)
        now = self._check_claims(token, self.keys.issuer)
        return await self._judge_bound(token, now, permit)

    async def _judge_bound(self, token: Token, now: float, permit: ReviewPermit | None) -> Caller:
        """Attest a token that this cluster's key has signed where what it is bound to is there."""
        existence = self.objects.look_up(token, now=now)
        if existence is Existence.DELETED:
            raise AttestationRefused("what it is bound to was deleted", reason="object_deleted")
        if existence is Existence.PRESENT and self.objects.fresh:
            return self._attested(token)
        try:
            return await self._ask(token, now, permit)
        except ClusterError as error:
            if not _is_outage(error) or not self.objects.recent:
                raise
            if self.objects.look_up(token, now=self._clock.now().timestamp()) is not Existence.PRESENT:
                raise  # it was never seen, or has gone meanwhile
            return self._attested(token)

    async def _ask(self, token: Token, now: float, permit: ReviewPermit | None) -> Caller:
        """Attest it by a question to the API server."""
        if self.config.attestation != KEYS:
            return await self._review(token, permit)
        existence = await self.objects.ask(token, now=now)
        if existence is Existence.DELETED:
            raise AttestationRefused("what it is bound to was deleted", reason="object_deleted")
        if existence is not Existence.PRESENT:
            raise AttestationRefused("what it is bound to is not there", reason="object_unknown")
        return self._attested(token)

    def _check_claims(self, token: Token, issuer: str) -> float:
        now = self._clock.now().timestamp()
        issuers = (issuer, *self.config.former_issuers) if issuer else ()
        config = self.config
        check_claims(
            token, audience=config.audience, issuers=issuers, now=now, longest=config.longest_token_life
        )
        return now

    async def _review_of_unread(self, token: Token, permit: ReviewPermit | None) -> Caller:
        """Let the API server judge what its published keys and issuer do not cover.

        It goes on taking tokens of an issuer that it had before (``--service-account-issuer``, given more than once),
        and it may publish keys that the hub cannot use.
        """
        self._check_claims(token, self.config.issuer)
        return await self._review(token, permit)

    def _attested(self, token: Token) -> Caller:
        node = token.claims.kubernetes.node
        return self._caller(token, KEYS, node.name if node is not None else "")

    async def _review(self, token: Token, permit: ReviewPermit | None) -> Caller:
        if permit is not None:
            await permit()
        return self._caller(token, REVIEW, await self.reviewer.review(token))

    def _caller(self, token: Token, proved_by: str, node: str) -> Caller:
        pod = token.claims.kubernetes.pod
        if pod is None:
            return Caller(self.config.name, token.account, "", proved_by)
        return Caller(self.config.name, token.account, pod.name, proved_by, pod.uid, node)
