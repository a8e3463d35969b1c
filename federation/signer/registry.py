"""The registered clusters: what the signer keeps for each, and which one judges a token.

Kept are a configuration and how much of it is under way, a session, token keys, pods and service accounts.

A token is judged by the member that the caller names, or by the one whose key signed it. ``clusterid`` only says
where to look; that member's own keys or API server then have to confirm the token. A token of one member must never
be shown to another one, which could use it in its place, and no member may change by what it publishes where
another's tokens go. So:

- **A caller that names a member is judged by that member,** whichever others publish the key that signed its token.
  It is refused unseen where the token is known to be another's: another has proved that it signs with that key
  (``attestation/token_keys.py``), or its own keys could be read and are not that key, and another's are.
- **A caller that names none,** or ``Kubernetes``, which Istio sends where no name is set, **is judged by
  the member that the key belongs to,** and never because no other one is left. Where no known key signed the token
  while the keys of a member are not known, the answer is that it may work later.
- **TokenReview is asked for such a token** only where the key's holder has proved it, or where every other member's
  keys have been read since that key was first seen. Otherwise its keys and watched pods decide, or nothing does yet.
- **Where only one member is registered** there is no other one to take its token for, and it is judged there.

Keys are compared by what they are, never by name.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple, Protocol

from federation.core.call_slots import CallSlots
from federation.core.clock import Clock
from federation.core.config.clusters import DEFAULT_RESERVED, ClusterConfig
from federation.core.documents.signer import REMOVED_CLUSTER, SharedTokenKey
from federation.core.errors import AttestationRefused, NotReady, Overloaded
from federation.core.identity import ClusterName
from federation.core.jwks import TokenKey
from federation.kubernetes.budget import Budgets
from federation.kubernetes.session import LONG_IDLE_SECONDS, MEMBER_ANSWER_BYTES, ClusterSession
from federation.kubernetes.token_places import KubeconfigSecret
from federation.kubernetes.token_renewal import TokenRenewal
from federation.signer.attestation.attestor import REVIEW, ClusterAttestor, ReviewPermit
from federation.signer.attestation.bound_objects import BoundObjects
from federation.signer.attestation.node_pods import NodePods
from federation.signer.attestation.token_keys import KeyClaims, TokenKeys
from federation.signer.attestation.token_review import TokenReviewer
from federation.signer.attestation.tokens import Token

UNSIGNED_AT_ONCE: Final = 64
"""Callers of one cluster whose token none of its known keys signed, and who wait for its API server: honest ones are
those whose key is so new that it was not seen yet, and the rest must not become that API server's load."""


class Slots:
    """Requests of one cluster under way: past the limit it is refused at once, others are not affected."""

    def __init__(self, cluster: ClusterName, limit: int) -> None:
        self._cluster = cluster
        self.limit = limit
        self.taken = 0

    def __enter__(self) -> None:
        if self.taken >= self.limit:
            raise Overloaded(
                f"{self.limit} requests are under way",
                where=str(self._cluster),
                reason="cluster_concurrency",
                remedy="look at the latency of its API server, or raise listener.max_concurrent_per_cluster",
            )
        self.taken += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.taken -= 1


def _crowded(cluster: ClusterName) -> Overloaded:
    return Overloaded(
        "too many callers whose tokens are not known to be its own wait for its API server",
        where=str(cluster),
        reason="cluster_unproven",
        remedy="look at the latency of its API server, and at who calls: the signer's log names addresses",
    )


class Registered:
    """A registered cluster: its configuration now, and the calls under way of callers that are known to be its own."""

    def __init__(self, config: ClusterConfig, slots: Slots, unproven: CallSlots) -> None:
        self.config = config
        self.slots = slots
        self.name = str(config.name)
        self._unproven = unproven

    def configured(self, config: ClusterConfig, concurrent: int) -> Registered:
        """The same cluster by another configuration, with the calls that are under way."""
        self.slots.limit = concurrent
        return Registered(config, self.slots, self._unproven)

    def unproven(self, attestor: ClusterAttestor) -> CallSlots:
        """Call slots of callers that only name it: those wait for an answer about their token, and take no others."""
        few = attestor.keys.usable
        self._unproven.limit = min(self.slots.limit, UNSIGNED_AT_ONCE) if few else self.slots.limit
        return self._unproven


class Registry:
    """Every registered cluster."""

    def __init__(
        self, attestors: Mapping[ClusterName, ClusterAttestor], claims: KeyClaims | None = None
    ) -> None:
        """``attestors`` are a live view of those that are connected, ``claims`` says whose each token key is."""
        self.attestors: Final = attestors
        self._clusters: dict[ClusterName, Registered] = {}
        self._by_id: dict[str, tuple[Registered, ...]] = {}
        self._removed: set[str] = set()
        self.claims = claims or KeyClaims()
        self.reserved: tuple[str, ...] = DEFAULT_RESERVED
        """Identities that only clusters may have whose policy names them."""

    def configure(self, clusters: Iterable[ClusterConfig], *, concurrent: int) -> None:
        """Register exactly these; the slots of those that stay are kept with what is under way."""
        old, self._clusters = self._clusters, {}
        by_id: dict[str, tuple[Registered, ...]] = {}
        for config in clusters:
            before = old.get(config.name) or Registered(
                config,
                Slots(config.name, concurrent),
                CallSlots(concurrent, partial(_crowded, config.name)),
            )
            registered = self._clusters[config.name] = before.configured(config, concurrent)
            by_id[str(config.cluster_id)] = (*by_id.get(str(config.cluster_id), ()), registered)
        self._removed = (self._removed | self._by_id.keys()) - by_id.keys()
        self._by_id = by_id

    @property
    def members(self) -> tuple[Registered, ...]:
        """Every registered cluster."""
        return tuple(self._clusters.values())

    def find(self, cluster_id: str) -> Registered | None:
        """The one that is registered with this ID; None where none is, or more than one."""
        found = self._by_id.get(cluster_id, ())
        return found[0] if len(found) == 1 else None

    @property
    def clusters(self) -> tuple[ClusterConfig, ...]:
        """The configuration of every registered cluster."""
        return tuple(registered.config for registered in self._clusters.values())

    def was_removed(self, cluster_id: str) -> bool:
        """Whether a cluster was registered with this ID since this process started, and none is now."""
        return cluster_id in self._removed

    def attestor(self, registered: Registered) -> ClusterAttestor:
        """Who attests for that cluster. Raises NotReady while it is not connected."""
        attestor = self.attestors.get(registered.config.name)
        if attestor is None:
            raise NotReady(
                "the cluster is registered but not connected",
                where=str(registered.config.name),
                reason="cluster_not_connected",
            )
        return attestor


class Connect(Protocol):
    """What opens the connection to one member cluster, and keeps its attestor up to date while it is entered."""

    def __call__(
        self,
        config: ClusterConfig,
        *,
        clock: Clock,
        jitter: random.Random,
        claims: KeyClaims,
        budgets: Budgets,
    ) -> AbstractAsyncContextManager[ClusterAttestor]:
        """See :func:`connect`."""


@asynccontextmanager
async def connect(
    config: ClusterConfig,
    *,
    clock: Clock,
    jitter: random.Random,
    claims: KeyClaims,
    budgets: Budgets,
    secret: KubeconfigSecret | None = None,
) -> AsyncIterator[ClusterAttestor]:
    """The attestor of that cluster, kept up to date while the context is open.

    Where TokenReview always decides, nothing is watched, so that no more than TokenReview need be granted;
    keys are read all the same, because they show whose a token is: ``claims`` learns them. ``secret`` is what the
    signers' kubeconfigs are mounted from. Raises ConfigurationError for credentials that cannot be used.
    """
    session = await ClusterSession.open(
        config.signer,
        cluster=config.name,
        timeouts=config.timeouts,
        clock=clock,
        budget=budgets.of(config.name),
        most_bytes=MEMBER_ANSWER_BYTES,
        idle=LONG_IDLE_SECONDS,
    )
    async with session:

        def published(keys: Iterable[TokenKey]) -> None:
            claims.published(str(config.name), (key.sha256 for key in keys), at=clock.now().timestamp())

        keys = TokenKeys(session, clock=clock, jitter=jitter, issuer=config.issuer, published=published)
        objects = BoundObjects(session, timeouts=config.timeouts, clock=clock, jitter=jitter)
        reviewer = TokenReviewer(session, audience=config.audience, clock=clock)
        node_pods = NodePods(session, limit=config.timeouts.request, clock=clock)
        renewal = TokenRenewal(session, clock=clock, jitter=jitter, secret=secret)
        await renewal.catch_up()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(keys.run(), name=f"token keys of {config.name}"),
                group.create_task(renewal.run(), name=f"credential for {config.name}"),
            ]
            if config.attestation != REVIEW:
                tasks.append(group.create_task(objects.run(), name=f"bound objects of {config.name}"))
            try:
                yield ClusterAttestor(
                    config,
                    keys=keys,
                    objects=objects,
                    reviewer=reviewer,
                    node_pods=node_pods,
                    clock=clock,
                    budget=session.budget,
                    renewal=renewal,
                )
            finally:
                for task in tasks:
                    task.cancel()
                await objects.close()
                await reviewer.close()
                await node_pods.close()


DEFAULT_CLUSTER_ID: Final = "Kubernetes"
"""What Istio sends where no name of the cluster is set: says nothing unless a cluster is registered so."""

READ_WAIT: Final = 3.0
"""Seconds that a caller waits until members' keys were read again: one that hangs must not hold up the rest."""

NAME_IT: Final = (
    "give that mesh a global.multiCluster.clusterName of its own and register that as cluster_id: "
    f"{DEFAULT_CLUSTER_ID!r} is what every Istio sends, and names none"
)


class Attributed(NamedTuple):
    """The member that judges a token, and what has to be asked before its API server is shown it (None: nothing)."""

    registered: Registered
    permit: ReviewPermit | None = None


class Routing:
    """Decides for one token after another. It asks members for their keys only, and shows them nothing."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._claims = registry.claims
        self._key_reads: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End reads of keys that are under way."""
        for read in self._key_reads:
            read.cancel()
        await asyncio.gather(*self._key_reads, return_exceptions=True)

    async def attribute(self, token: Token, named: Registered | None, cluster_id: str) -> Attributed:
        """The member to judge this token. ``named`` is the one that the caller names, by :meth:`named`.

        Raises AttestationRefused with the reason ``unknown_cluster``, ``ambiguous_cluster``, ``token_key`` or
        ``token_of_another_cluster``, and NotReady where that cannot be determined yet.
        """
        if named is not None:
            await self._keep_from(named, token)
            return Attributed(named)
        members = self._registry.members
        if len(members) == 1:
            return await self._by_only(members[0], token)
        return await self._by_key(token, self._registry.find(cluster_id))

    def named(self, cluster_id: str) -> Registered | None:
        """The member that a caller names; None where it names none.

        Raises AttestationRefused: ``unknown_cluster``, or ``removed_cluster`` where one was registered so until now.
        """
        found = self._registry.find(cluster_id)
        if found is None and self._registry.was_removed(cluster_id):
            raise AttestationRefused(
                f"the cluster with the ID {cluster_id[:80]!r} was removed from the configuration",
                reason=REMOVED_CLUSTER,
                remedy="its workloads ask until they are stopped or their mesh has another CA; if it was not to be "
                "removed, register it again",
            )
        if found is None and cluster_id not in {"", DEFAULT_CLUSTER_ID}:
            raise AttestationRefused(
                f"no cluster is registered with the ID {cluster_id[:80]!r}",
                reason="unknown_cluster",
                remedy="register it, or set global.multiCluster.clusterName to the registered cluster_id",
            )
        return found if cluster_id != DEFAULT_CLUSTER_ID or len(self._registry.members) == 1 else None

    def proved(self, registered: Registered, token: Token) -> None:
        """That member attested a token of the hub's own account there: the key that signed it is its own."""
        key = self._key(registered, token)
        if key is not None:
            self._claims.prove(registered.name, key)

    def shared_keys(self) -> list[SharedTokenKey]:
        """Keys that more than one member publishes, as far as their keys are known; each with its holder."""
        publishers: dict[str, set[str]] = {}
        away: list[str] = []
        for member in self._registry.members:
            attestor = self._attestor(member)
            if attestor is None or not attestor.keys.usable:
                away.append(member.name)
                continue
            for published in attestor.keys.keys.values():
                publishers.setdefault(published.sha256, set()).add(member.name)
        shared: list[SharedTokenKey] = []
        for key, names in sorted(publishers.items()):
            names.update(name for name in away if self._claims.of(name, key) is not None)
            if len(names) > 1:
                holder = self._claims.holder((key,), names)
                shared.append(
                    SharedTokenKey(
                        key=key,
                        clusters=sorted(names),
                        holder=holder.cluster if holder is not None else "",
                        proved=holder is not None and holder.claim.proved,
                    )
                )
        return shared

    def _attestor(self, member: Registered) -> ClusterAttestor | None:
        return self._registry.attestors.get(member.config.name)

    def _key(self, member: Registered, token: Token) -> str | None:
        """The member's known key that signed the token."""
        attestor = self._attestor(member)
        key = attestor.signing_key(token) if attestor is not None else None
        return key.sha256 if key is not None else None

    def _signers(self, token: Token) -> Mapping[str, str]:
        """The members a known key of which signed the token, each with that key."""
        found = ((member.name, self._key(member, token)) for member in self._registry.members)
        return {name: key for name, key in found if key is not None}

    async def _keep_from(self, named: Registered, token: Token) -> None:
        """Refuse what is known to be another member's, before the one that was named sees it."""
        own = self._attestor(named)
        if own is None:
            return  # it is not connected: nothing is shown to it
        key = self._key(named, token)
        if key is None:
            if not self._signers(token):
                return
            await self._look_again([named])  # another's key signed it: these may have changed
            key = self._key(named, token)
        if key is not None:
            self._refuse_what_another_proved(named, key)
            return
        for other, digest in self._signers(token).items():
            claim, mine = self._claims.of(other, digest), self._claims.of(named.name, digest)
            proved = claim is not None and claim.proved
            if mine is not None and (mine.proved or not proved):
                continue  # it published that key before its keys went out of reach
            if own.keys.usable and own.keys.problem is None:
                raise _of_another(named.name, other)
            if proved or (own.keys.withheld and not self._claims.signs_with_another(other, digest)):
                raise _of_another(named.name, other)

    def _refuse_what_another_proved(self, named: Registered, key: str) -> None:
        mine = self._claims.of(named.name, key)
        if mine is not None and mine.proved:
            return
        for other in self._registry.members:
            claim = self._claims.of(other.name, key)
            if other is not named and claim is not None and claim.proved:
                raise _of_another(named.name, other.name)

    async def _by_only(self, only: Registered, token: Token) -> Attributed:
        """There is no other member to take the token for; but whose it is not by its keys is not reviewed."""
        attestor = self._attestor(only)
        if attestor is not None and attestor.method == REVIEW and attestor.keys.usable:
            await self._find_signers(token)
        return Attributed(only)

    async def _by_key(self, token: Token, default: Registered | None) -> Attributed:
        """``default`` is the member that is registered as ``Kubernetes``, where the caller sent that."""
        try:
            found = await self._find_signers(token)
        except NotReady:
            unknown = [member for member in self._registry.members if not self._looked_at(member)]
            if default is not None and unknown == [default]:
                return Attributed(default)
            raise
        if not self._claims.open:
            raise NotReady(
                "which member each token key belongs to was not read from the state store yet",
                reason="key_claims_not_read",
            )
        members = {member.name: member for member in self._registry.members}
        holder = self._claims.holder(set(found.values()), members)
        if holder is None:
            raise AttestationRefused(
                "without a clusterid the token must point to exactly one cluster; its key is published by "
                + ", ".join(sorted(found)),
                reason="ambiguous_cluster",
                remedy=NAME_IT,
            )
        chosen = members[holder.cluster]

        async def permit() -> None:
            if not holder.claim.proved:
                await self._require_all_read(chosen, since=holder.claim.first)

        return Attributed(chosen, permit)

    async def _find_signers(self, token: Token) -> Mapping[str, str]:
        """The members whose keys signed it, after a new look where none did.

        Raises NotReady where none did and not all keys are known, AttestationRefused where all are.
        """
        found = self._signers(token)
        if not found:
            await self._look_again(self._registry.members)
            found = self._signers(token)
        if found:
            return found
        unknown = [member.name for member in self._registry.members if not self._looked_at(member)]
        if unknown:
            raise NotReady(
                "no known key signed the token, which names no cluster, and the token keys of "
                f"{', '.join(unknown[:5])} are not known",
                reason="token_keys_unknown",
                remedy=NAME_IT,
            )
        raise AttestationRefused(
            "no registered cluster publishes the key that signed the token, which names no cluster",
            reason="token_key",
            remedy=NAME_IT,
        )

    def _looked_at(self, member: Registered) -> bool:
        """Whether its keys are known, and the last look at them did not fail."""
        attestor = self._attestor(member)
        return attestor is not None and attestor.keys.usable and attestor.keys.problem is None

    async def _require_all_read(self, chosen: Registered, *, since: float) -> None:
        """Raise NotReady unless the keys of all other members were read after ``since``."""
        unread = self._unread(chosen, since)
        if unread:
            await self._look_again(unread)
            unread = self._unread(chosen, since)
        if unread:
            raise NotReady(
                "its key is not proved to be this cluster's, and the token keys of "
                f"{', '.join(member.name for member in unread[:5])} are not known",
                where=chosen.name,
                reason="token_key_unproved",
                remedy=f"{NAME_IT}, or see that the probe of this cluster gets certificates",
            )

    def _unread(self, chosen: Registered, since: float) -> list[Registered]:
        """The other members whose keys were not read after ``since`` (seconds since the epoch)."""
        return [
            member
            for member in self._registry.members
            if member is not chosen
            and not (
                (attestor := self._attestor(member)) is not None
                and attestor.keys.usable
                and attestor.keys.read_at >= since
            )
        ]

    async def _look_again(self, members: Iterable[Registered]) -> None:
        """Have these members' keys read, where that was not just done; waits :data:`READ_WAIT` seconds at most.

        A read goes on when its callers have gone: the next ones profit from it.
        """
        reads: set[asyncio.Task[None]] = set()
        for member in members:
            attestor = self._attestor(member)
            if attestor is not None and attestor.keys.may_look:
                reads.add(asyncio.create_task(attestor.keys.look_again()))
        self._key_reads |= reads
        for read in reads:
            read.add_done_callback(self._key_reads.discard)
        if reads:
            await asyncio.wait(reads, timeout=READ_WAIT)


def _of_another(named: str, other: str) -> AttestationRefused:
    return AttestationRefused(
        f"it was signed by a key of the cluster {other}",
        where=named,
        reason="token_of_another_cluster",
        remedy=f"see that the mesh of {other} sends its own cluster_id (global.multiCluster.clusterName), and that "
        "each kubeconfig is the one of its cluster",
    )
