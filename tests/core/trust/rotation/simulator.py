"""A mesh in memory: member clusters, signers, a controller and its operators, with everything that goes wrong.

One call is one event. What really happens (which leaf is alive, what each namespace holds) is separate from
what is observed of it, and only the latter reaches the core. Clocks are as bad as the declared skew allows:
the controller's runs ahead by half of it and the slowest workload's behind by half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from federation.core.rotation import transitions
from federation.core.rotation.effects import (
    Loss,
    clusters_behind,
    note_signing,
    published,
    signing_directives,
)
from federation.core.rotation.gates import drop_gates, drop_unpinned, settle, unpinned_anchors
from federation.core.rotation.record import Rotation, RotationRecord, State, Unpinned
from federation.core.rotation.world import ClusterFacts, ControlPlane, PairFacts, SignerFacts, Webhook, World
from federation.core.trust.expiry_bounds import Delivered, merged
from federation.core.trust.liveness import SignsOfLife
from tests.core.trust.rotation.certificates import ROOT, ROOT_OF, SIDES, START, validates
from tests.core.trust.rotation.istiods import Files, Istiod, Seen
from tests.core.trust.rotation.signing import CONFIGURED, LIFETIME, Leaf, Signer, Store

FRESH: Final = 30.0
SKEW: Final = 12.0  # more than a bound is written ahead, or a forgotten one would go unnoticed
SOAK: Final = 10.0
NAMES: Final = ("one", "two", "three", "four")
BY_HAND: Final = 5 * LIFETIME  # of a certificate of istiod that a person has made
CONTROL_PLANE: Final = "istio-system/istiod-tls"
TARGETS: Final = ("b1", "a2", "c1")


@dataclass(slots=True)
class Member:
    """A cluster. ``targets`` is the generation that each namespace holds; None: nothing was written yet.

    ``joining`` until it has once trusted everything that is signed under: what a cluster could not do when it
    was registered, no rotation broke.
    """

    name: str
    targets: list[int | None]
    reachable: bool = True
    refuses: bool = False  # writes of what is published
    joining: bool = True
    unknown_until: float = 0.0
    contact: float = 0.0
    read: tuple[int | None, ...] | None = None
    read_at: float = 0.0
    istiod: Istiod = field(default_factory=Istiod)


@dataclass(slots=True, kw_only=True)
class Simulation:
    """``staged``: which roots are published by a rotation only; ``without``: safeguards to leave out."""

    clusters: int = 3
    replicas: int = 2
    staged: str = "bc"
    without: frozenset[str] = frozenset()
    now: float = START
    members: dict[str, Member] = field(init=False, default_factory=dict)
    signers: list[Signer] = field(init=False)
    store: Store = field(init=False)
    adopted: int = field(init=False, default=1)
    """The generation that the controller works by where the store was set back, and (below) who gets an older one."""
    adopted_behind: dict[str, int] = field(init=False, default_factory=dict)
    leaves: dict[Leaf, float] = field(init=False, default_factory=dict)
    excluded_leaves: set[Leaf] = field(init=False, default_factory=set)
    stop_bounds: dict[str, float] = field(init=False, default_factory=dict)
    pairs: dict[tuple[str, str], PairFacts] = field(init=False, default_factory=dict)
    validated: str | None = field(init=False, default=None)
    named: list[Loss] | None = field(init=False, default=None)
    ensured: RotationRecord | None = field(init=False, default=None)
    watching: bool = field(init=False, default=True)
    pins: frozenset[str] = field(init=False, default=frozenset(ROOT.values()))
    refused: dict[str, str] = field(init=False, default_factory=dict)
    """Which processes refuse the newest configuration, and why."""
    own: dict[str, frozenset[str]] = field(init=False, default_factory=dict)
    """The roots that clusters came with, registered or not."""
    removed: set[str] = field(init=False, default_factory=set)
    """Clusters that were removed after they had joined: others still talk to their workloads."""
    gone: dict[str, float] = field(init=False, default_factory=dict)
    """Clusters that were removed, and until when their leaves from before the hub may live."""
    bundle_fails: bool = field(init=False, default=False)
    """No generation can be made: a pin cannot be read, or the store cannot be written."""
    faults: list[str] = field(init=False, default_factory=list)
    check: Callable[[], None] = field(init=False, default=lambda: None)

    def __post_init__(self) -> None:
        begun = RotationRecord(signing=SIDES["a1"])
        self.store = Store(begun, {1: published(begun, self.pins, self.staged_roots)})
        half = SKEW / 2
        self.signers = [
            Signer(f"signer-{i}", clock, self.without)
            for i, clock in enumerate((0.0, half, -half)[: self.replicas])
        ]
        for signer in self.signers:
            signer.poll(self.store)
        for i in range(self.clusters):
            self.members[NAMES[i]] = Member(NAMES[i], [1, 1])
        for number in range(self.clusters):  # each begins with a control plane that works
            self.provide(0, number)
            self.member(number).istiod.start(self.now)
            self.member(number).istiod.patch()

    @property
    def staged_roots(self) -> frozenset[str]:
        return frozenset(ROOT[name] for name in self.staged) & self.pins

    @property
    def in_force(self) -> int:
        """The generation that the controller works by."""
        return max(self.store.in_force, self.adopted)

    @property
    def behind(self) -> dict[str, int]:
        """Clusters that have to keep an earlier generation."""
        return self.adopted_behind if self.store.in_force < self.adopted else self.store.behind

    def meant_for(self, cluster: str) -> int:
        """The generation that the controller gives that cluster."""
        return self.behind.get(cluster, self.in_force)

    def roots_in_force(self) -> frozenset[str]:
        """The roots of every generation in force, and of the one that the controller takes to be in force."""
        numbers = (self.store.in_force, *self.store.behind.values(), self.in_force)
        return frozenset[str]().union(*(self.store.generations[number] for number in numbers))

    def roots(self) -> frozenset[str]:
        """What the record says is published."""
        if "kept" in self.without:
            return published(msgspec.structs.replace(self.record, unpinned={}), self.pins, self.staged_roots)
        return published(self.record, self.pins, self.staged_roots, self.roots_in_force())

    @property
    def clock(self) -> float:
        """The controller's clock."""
        return self.now + SKEW / 2

    @property
    def record(self) -> RotationRecord:
        return self.store.record

    @property
    def state(self) -> State:
        return self.record.rotation.state if self.record.rotation else State.STABLE

    def member(self, which: int) -> Member:
        known = list(self.members.values())
        return known[which % len(known)]

    def signer(self, which: int) -> Signer:
        return self.signers[which % len(self.signers)]

    # Time, workloads and signers

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for member in self.members.values():
            member.istiod.patch_what_is_due(self.now)
        slowest = self.now - SKEW / 2
        self.leaves = {leaf: until for leaf, until in self.leaves.items() if until > slowest}
        self.excluded_leaves &= self.leaves.keys()

    def begin(self, signer: int, cluster: int) -> None:
        name = self.member(cluster).name
        self._deliver(self.signer(signer).begin(self.store, name, self.now))

    def finish(self, signer: int) -> None:
        self._deliver(self.signer(signer).finish(self.store))

    def _deliver(self, delivery: tuple[Delivered, float] | None) -> None:
        if delivery is None:
            return
        delivered, not_after = self._issued(delivery)
        cluster = delivered.cluster
        trusts = self.store.generations[delivered.generation]
        leaf = Leaf(cluster, delivered.issuer, trusts, after_emergency=self.named is not None)
        self.leaves[leaf] = max(not_after, self.leaves.get(leaf, 0.0))

    def _issued(self, delivery: tuple[Delivered, float]) -> tuple[Delivered, float]:
        delivered, not_after = delivery
        cluster = delivered.cluster
        if cluster in self.store.directives.stopped and not_after > self.stop_bounds.get(cluster, 0.0):
            self.faults.append(f"6: a leaf was issued in {cluster}, which is quarantined")
        return delivered, not_after

    # The control plane

    def provide(self, signer: int, cluster: int) -> None:
        """Renew istiod's certificate if it is due or another side has to sign it; write the present roots to ca.crt."""
        member, chosen = self.member(cluster), self.signer(signer)
        if not self._provides(member) or chosen.begun is not None:
            return
        present = member.istiod.secret
        wanted = self.store.directives.issuer_for(member.name) or CONFIGURED
        if present is None or present.issuer != wanted or present.not_after - self.now < LIFETIME / 3:
            delivery = chosen.begin(self.store, member.name, self.now) or chosen.finish(self.store)
            if delivery is not None:
                delivered, not_after = self._issued(delivery)
                self._write(member, delivered.issuer, not_after)
        if member.istiod.secret is not None:
            self._write(member, member.istiod.secret.issuer, member.istiod.secret.not_after)

    def write_ca(self, cluster: int) -> None:
        """Write the present roots to its ca.crt alone."""
        member = self.member(cluster)
        present = member.istiod.secret
        if self._provides(member) and present is not None:
            self._write(member, present.issuer, present.not_after)

    def certify_by_hand(self, cluster: int) -> None:
        """A person writes a long-lived certificate there that no signer has recorded."""
        istiod = self.member(cluster).istiod
        if istiod.secret is not None and self.member(cluster).name not in self.record.quarantined:
            istiod.secret = replace(istiod.secret, not_after=self.now + BY_HAND)

    def _provides(self, member: Member) -> bool:
        return member.reachable and self.watching and not member.istiod.unprovided

    def _write(self, member: Member, issuer: str, not_after: float) -> None:
        meant = self.meant_for(member.name)
        member.istiod.secret = Files(issuer, not_after, self.store.generations[meant])
        member.istiod.generation = meant

    # Publication, read-back and proof

    def publish(self, cluster: int, target: int) -> None:
        member = self.member(cluster)
        if member.reachable and self.watching and not member.refuses:
            member.targets[target % len(member.targets)] = self.meant_for(member.name)

    def read_back(self, cluster: int) -> None:
        member = self.member(cluster)
        if not member.reachable or not self.watching:
            return
        member.contact, member.read_at = self.now, self.clock
        member.read = tuple(member.targets)
        istiod = member.istiod
        istiod.seen = Seen(istiod.secret, istiod.generation, istiod.bundle, self.clock)

    def prove(self) -> None:
        """Every ordered pair of reachable clusters, with the newest leaf of each as its probe's."""
        probes: dict[str, Leaf] = {}
        for leaf in sorted(self.leaves, key=lambda leaf: self.leaves[leaf]):
            if not leaf.before_hub and leaf.cluster in self.members:
                probes[leaf.cluster] = leaf
        for client, mine in probes.items():
            for server, other in probes.items():
                if client == server or not (
                    self.members[client].reachable and self.members[server].reachable
                ):
                    continue
                valid = all(validates(mine.issuer, trusted) for trusted in self.trusted_in(server)) and all(
                    validates(other.issuer, trusted) for trusted in self.trusted_in(client)
                )
                self.pairs[client, server] = PairFacts(
                    valid=valid,
                    computed=self.clock,
                    client_issuer=mine.issuer,
                    server_issuer=other.issuer,
                    client_generation=self.generation_everywhere(client),
                    server_generation=self.generation_everywhere(server),
                )

    def generation_everywhere(self, cluster: str) -> int:
        """The generation that every namespace holds, 0 where it is not the one that is meant for them."""
        meant = self.meant_for(cluster)
        return meant if all(target == meant for target in self.members[cluster].targets) else 0

    def trusted_in(self, cluster: str) -> Iterator[frozenset[str]]:
        """What each consumer of that cluster trusts: every namespace, and every leaf alive."""
        for generation in set(self.members[cluster].targets):
            if generation is not None:
                yield self.store.generations[generation]
        for leaf in self.leaves:
            if leaf.cluster == cluster:
                yield leaf.trusts

    def all_verify_with(self) -> dict[str, set[frozenset[str]]]:
        """The roots that verify clients in each cluster: of all consumers above, and of istiod now and when restarted.

        An istiod whose certificate has expired has no clients.
        """
        generations, found = self.store.generations, dict[str, set[frozenset[str]]]()
        for name, member in self.members.items():
            present = {generations[number] for number in member.targets if number is not None}
            for files in (member.istiod.secret, member.istiod.runs_with):
                if files is not None and files.not_after > self.now:
                    present.add(files.roots)
            found[name] = present
        for leaf in self.leaves:
            if leaf.cluster in found:
                found[leaf.cluster].add(leaf.trusts)
        return found

    def false_alarm(self, client: int, server: int) -> None:
        """A proof that fails for a reason outside the rotation."""
        pair = (self.member(client).name, self.member(server).name)
        if pair in self.pairs:
            self.pairs[pair] = replace(
                self.pairs[pair], valid=False, computed=self.clock, reason="connection reset"
            )

    # The controller

    def observe(self) -> World:
        return World(
            now=self.clock,
            clusters={name: self._facts(member) for name, member in self.members.items()},
            expiry_bounds=merged(signer.persisted for signer in self.signers),
            generations=self.store.generations,
            in_force=self.in_force,
            behind=self.behind,
            pins=self.pins,
            staged=self.staged_roots,
            signers={s.name: self._signer_facts(s) for s in self.signers if s.up and s.connected},
            pairs=self.pairs,
            validated=self.validated,
            refused=tuple(f"{who}: {why}" for who, why in sorted(self.refused.items())),
            gone={} if "gone" in self.without else self.gone,
            fresh=FRESH,
            skew=0.0 if "skew" in self.without else SKEW,
        )

    def _facts(self, member: Member) -> ClusterFacts:
        life = SignsOfLife(workloads=1, with_certificate=int(self.is_alive(member.name, self.clock)))
        if member.read is None:
            return ClusterFacts(
                anchors=None,
                unknown_until=member.unknown_until,
                control_planes=(ControlPlane(name=CONTROL_PLANE),),
                webhooks=None,
                life=life,
            )
        present = [self.store.generations[g] if g is not None else frozenset() for g in member.read]
        meant = self.meant_for(member.name)
        return ClusterFacts(
            anchors=frozenset.intersection(*present),
            current=all(g == meant for g in member.read),
            read_back_at=member.read_at,
            unknown_until=member.unknown_until,
            life=life,
            control_planes=(self._control_plane(member),),
            webhooks=None
            if member.istiod.seen is None
            else (Webhook(name="injector", istiod="istio-system/istiod", anchors=member.istiod.seen.bundle),),
            webhooks_read_at=member.istiod.seen.at if member.istiod.seen is not None else 0.0,
        )

    def is_alive(self, cluster: str, at: float) -> bool:
        """Whether some workload of the cluster holds a certificate of the hub at that time."""
        return any(
            leaf.cluster == cluster and not leaf.before_hub and until > at
            for leaf, until in self.leaves.items()
        )

    def _control_plane(self, member: Member) -> ControlPlane:
        seen = member.istiod.seen
        if seen is None or seen.secret is None or seen.secret.not_after <= self.clock:
            return ControlPlane(name=CONTROL_PLANE, read_back_at=seen.at if seen else 0.0)
        return ControlPlane(
            name=CONTROL_PLANE,
            issuer=seen.secret.issuer,
            anchors=seen.secret.roots,
            current=seen.generation == self.meant_for(member.name),
            not_after=seen.secret.not_after,
            read_back_at=seen.at,
        )

    def _signer_facts(self, signer: Signer) -> SignerFacts:
        return SignerFacts(
            ready_with=frozenset(signer.ready),
            generation=signer.generation,
            rotation=signer.directives.rotation,
            state=signer.directives.state,
            listener_proved_at=0.0 if signer.listener_refused else self.now,
            listener_generation=self.in_force,
        )

    def ensure_generation(self) -> None:
        """Write what the record says is published as a generation, and which clusters keep the one before."""
        if not self.watching or self.bundle_fails:
            return
        roots, behind, store = (
            self.roots(),
            clusters_behind(self.record),
            self.store,
        )
        present = store.generations[store.in_force]
        if roots - present and present - roots:
            roots = roots | present  # what adds and removes at once is done in two, the larger one first
        if roots != present or store.in_force < self.in_force:
            newest = max(store.generations) + 1
            by_store = "known" in self.without
            before, given = (store.in_force, store.behind) if by_store else (self.in_force, self.behind)
            store.behind = {name: given.get(name, before) for name in behind}
            store.generations[newest] = roots
            store.in_force = newest
        else:
            store.behind = {name: present for name, present in store.behind.items() if name in behind}
        self.adopted, self.adopted_behind = store.in_force, dict(store.behind)
        self.ensured = None

    def ensure_directives(self) -> None:
        if not self.watching:
            return
        directives = signing_directives(self.record)
        for name in directives.stopped.keys() - self.store.directives.stopped.keys():
            bounds = [u for s in self.signers for d, u in s.persisted.items() if d.cluster == name]
            self.stop_bounds[name] = max(bounds, default=0.0)
        self.store.directives = directives
        written = self.roots() == self.store.generations[self.store.in_force]
        done = written and self.store.behind.keys() <= clusters_behind(self.record)
        self.ensured = self.record if done or self.bundle_fails else None  # that it was tried is all there is

    def decide(self, *, by_hand: bool = False) -> None:
        """Decide only if the effects of this very record are persisted; then persist the decision."""
        if self.watching and (self.ensured is self.record or "effects_first" in self.without):
            before = self.record
            self.store.record = transitions.advance(
                before, self.observe(), by_hand=by_hand, without=self.without
            )
            self._judge(before)
            self.check()

    def settle(self) -> None:
        """Record what the configuration has changed about what is published."""
        if not self.watching:
            return
        found = {
            root: Unpinned(
                since=self.clock,
                generation=self.in_force,
                clusters=sorted(name for name, roots in self.own.items() if root in roots),
            )
            for root in self.roots_in_force()
        }
        record = settle(self.record, pins=self.pins, staged=self.staged_roots, found=found)
        if record != self.record:
            self.store.record = record

    def note(self) -> None:
        """Record what signers are observed to sign with while there is no rotation."""
        if not self.watching or self.ensured is not self.record:
            return
        sides = {side.intermediate: side for side in SIDES.values()}
        signing = {s.name: sides[i] for s in self.signers if s.up and s.connected and (i := s.signs)}
        self.store.record, _ = note_signing(self.record, signing, ())

    def drop(self) -> None:
        """Remove anchors without a pin that nothing needs; only if the effects are persisted."""
        if not self.watching or self.ensured is not self.record:
            return
        before = self.record
        anchors = unpinned_anchors(before, self.own)
        verdicts = drop_gates(anchors, before, self.observe(), roots=ROOT_OF, without=self.without)
        after = drop_unpinned(before, verdicts, at=self.clock)
        if after == before:
            return
        self.store.record = after
        if self.refused:
            self.faults.append("c: an anchor was dropped while a configuration is refused")
        everywhere = {anchor.sha256 for anchor in anchors if anchor.everywhere}
        left = before.unpinned.keys() - after.unpinned.keys()
        for member in self.members.values() if left & everywhere else ():
            if member.name in self.record.quarantined or self.named is not None:
                continue
            if not self.is_alive(member.name, self.now):
                self.faults.append(f"dead: an anchor was dropped though {member.name} gets no certificates")
            if self.now - member.contact > FRESH:
                self.faults.append(f"6: an anchor was dropped while {member.name} was out of reach")
        self.check()

    def _judge(self, before: RotationRecord) -> None:
        """Invariant 6: a cluster that was not waited for is reachable or quarantined; nothing is done unobserved."""
        was, rotation = before.rotation, self.record.rotation
        if was is None or rotation is None or len(rotation.history) == len(was.history):
            return
        if self.refused and not rotation.paused and self.named is None:
            self.faults.append(f"c: {was.state} was left while a configuration is refused")
        if rotation.state in {State.CANARY, State.ACTIVE} and rotation.new.root not in self.pins:
            self.faults.append(f"p: {rotation.state} signs under a root that is not pinned any more")
        if self.named is not None or was.state is State.STAGED or rotation.paused:
            return
        unjudged = was.state is State.PUBLISHING or (was.state is State.ABORTING and was.wave)
        for member in () if unjudged else self.members.values():
            if member.name not in self.record.quarantined and not self.is_alive(member.name, self.now):
                self.faults.append(f"dead: {was.state} was left though {member.name} gets no certificates")
        waiting = clusters_behind(before) if was.state is State.UNPUBLISHING else frozenset()
        drains = was.state is State.ABORTING and was.wave == 0
        for member in self.members.values():
            if member.name in self.record.quarantined or member.name in waiting or drains:
                continue
            if self.now - member.contact > FRESH:
                self.faults.append(f"6: {was.state} was left while {member.name} was out of reach")
            self._judge_control_plane(was, member)
            gone = {State.RETIRED: rotation.old.root, State.STABLE: rotation.new.root}.get(rotation.state)
            present = [self.store.generations[g] for g in member.targets if g is not None]
            if gone not in self.roots() and any(gone in roots for roots in present):
                self.faults.append(f"6: {rotation.state} though {member.name} holds the root still")

    def _judge_control_plane(self, was: Rotation, member: Member) -> None:
        """Invariant 8: no side is left while istiod's certificate is of it or has expired."""
        left = was.state is State.ACTIVE or (was.state is State.ABORTING and not was.wave)
        if not left or member.joining:
            return
        staying = was.old if was.state is State.ABORTING else was.new
        files = member.istiod.secret
        if files is None or files.issuer != staying.intermediate or files.not_after <= self.now - SKEW:
            self.faults.append(f"8: {was.state} was left while istiod of {member.name} is of the other side")

    def tick(self) -> None:
        self.settle()
        self.ensure_generation()
        self.ensure_directives()
        self.note()
        self.decide()
        self.drop()

    def crash_controller(self) -> None:
        """It loses its memory: facts and proofs. The record survives as bytes.

        Not between a set back and its next check: one that begins then knows of it only by what signers report
        (``controller/test_setbacks.py``).
        """
        if self.store.set_back:
            return
        self.watching, self.ensured = False, None
        self.pairs.clear()
        for member in self.members.values():
            member.read = member.istiod.seen = None
        self.store.record = msgspec.json.decode(msgspec.json.encode(self.record), type=RotationRecord)

    def restart_controller(self) -> None:
        if not self.watching:
            self.watching = True
            self.store.record = transitions.interrupted(self.record)
