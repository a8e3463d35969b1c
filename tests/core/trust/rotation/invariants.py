"""What must hold at every moment of a rotation, judged by the real state and not by what was observed.

The numbers are those of the ten invariants: (1) every unexpired leaf validates against all roots that any consumer may
have, by real path validation; (2) publish before use; (3) drain before remove; (4) successive bundles are in subset
relation; (5) only a rotation removes a root, never a failing source; (6) unreachable is not converged, and nothing is
issued where a cluster is quarantined; (7) generations only grow; (8) the control plane stays alive: agents that start,
calls of a webhook and restarts of istiod succeed as before; (9) no leaf outlives its issuer; (10) a transition keeps
its evidence, and a restart resumes. Besides, (s) nothing is signed under a root that no rotation has led to, for any
configuration.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from federation.core.rotation.effects import CONTROL_PLANE_LOSSES, SigningDirectives, signing_directives
from federation.core.rotation.record import Rotation, State, Transition
from tests.core.trust.rotation.certificates import NOT_AFTER, ROOT_OF, validates
from tests.core.trust.rotation.signing import CONFIGURED
from tests.core.trust.rotation.simulator import Member, Simulation


class Violation(AssertionError):
    """An invariant does not hold; the text begins with its number."""


@dataclass(slots=True)
class Invariants:
    """Checks one simulation after every step and every decision; remembers only the last state."""

    sim: Simulation
    in_force: int = field(init=False)
    generations: dict[int, frozenset[str]] = field(init=False)
    rotation: Rotation | None = None
    led_to: set[str] = field(default_factory=lambda: {ROOT_OF[CONFIGURED]})
    seen: Counter[State] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.generations, self.in_force = dict(self.sim.store.generations), self.sim.store.in_force
        self.sim.check = self.check
        self.check()

    def check(self) -> None:
        """Raises Violation."""
        self.seen[self.sim.state] += 1
        if self.sim.faults:
            raise Violation(self.sim.faults[0])
        self._record()
        self._bundles()
        self._handshakes()
        self._control_planes()

    def _handshakes(self) -> None:
        sim = self.sim
        if (
            not sim.store.directives.binding
        ):  # none were written yet: what is configured signs (docs/security.md)
            self.led_to |= {ROOT_OF[signer.authority] for signer in sim.signers if signer.authority}
        if sim.store.directives.strict:
            self.led_to |= {ROOT_OF[issuer] for issuer in _issuers(sim.store.directives)}
        counted: set[str] = set()
        for leaf, until in sim.leaves.items():
            if until > NOT_AFTER[leaf.issuer]:
                raise Violation(f"9: a leaf of {leaf.cluster} outlives its issuer")
            if not leaf.before_hub and ROOT_OF[leaf.issuer] not in leaf.trusts:
                raise Violation(f"2: {leaf.cluster} got a leaf under a root that was not published")
            if not leaf.before_hub and ROOT_OF[leaf.issuer] not in self.led_to:
                raise Violation(f"s: {leaf.cluster} got a leaf under a root that no rotation led to")
            if not sim.excluded_leaves or leaf not in sim.excluded_leaves:
                counted.add(leaf.issuer)
        verifying = sim.all_verify_with()
        for member in sim.members.values():
            trusted = verifying[member.name]
            if member.name in sim.record.quarantined:
                continue
            if member.joining:
                ordered = _issuers(sim.store.directives) | _issuers(signing_directives(sim.record))
                if not all(validates(issuer, roots) for issuer in counted | ordered for roots in trusted):
                    continue
                member.joining = False
            for roots in trusted:
                for issuer in counted:
                    if not validates(issuer, roots):
                        self._failed(member, issuer)
        if sim.removed:
            self._removed_clusters(counted)
        if sim.excluded_leaves:
            self._include_verified_leaves(verifying)

    def _include_verified_leaves(self, verifying: dict[str, set[frozenset[str]]]) -> None:
        """A leaf that was excluded is checked from the moment on at which every consumer would verify it."""
        sim = self.sim
        deliverable = {
            sim.in_force,
            *(s.generation for s in sim.signers),
        } & sim.store.generations.keys()
        consumers = {sim.roots(), *(sim.store.generations[number] for number in deliverable)}
        consumers |= {leaf.trusts for leaf in sim.leaves if leaf.cluster in sim.removed}
        consumers = consumers.union(*verifying.values())
        sim.excluded_leaves = {
            leaf
            for leaf in sim.excluded_leaves
            if not all(validates(leaf.issuer, roots) for roots in consumers)
        }

    def _removed_clusters(self, counted: set[str]) -> None:
        """Workloads of removed clusters verify all leaves until their own certificates expire."""
        sim = self.sim
        for leaf in sim.leaves:
            if leaf.cluster not in sim.removed or leaf.cluster in {*sim.members, *sim.record.quarantined}:
                continue
            if leaf in sim.excluded_leaves or sim.named is not None:
                continue
            for issuer in counted:
                if not validates(issuer, leaf.trusts):
                    raise Violation(f"1: a leaf of {issuer[:8]} fails in {leaf.cluster}, which was removed")

    def _control_planes(self) -> None:
        """istiod is verified by agents (what their namespace holds) and by kube-apiserver (the webhooks' caBundle)."""
        for member in self.sim.members.values():
            istiod = member.istiod
            if member.name in self.sim.record.quarantined:
                istiod.worked = False  # nothing is issued there
                continue
            if member.joining:
                continue
            running = istiod.runs_with
            if running is None or running.not_after <= self.sim.now:
                istiod.worked = False
            else:
                refused = self._refused(member, running.issuer)
                if not validates(running.issuer, istiod.bundle):
                    refused = "kube-apiserver"
                if not refused:
                    istiod.worked = True
                elif istiod.worked:
                    self._lost(member, f"istiod is refused by {refused}")
            files = istiod.secret
            if not istiod.worked or files is None or files.not_after <= self.sim.now:
                continue
            if refused := self._refused(member, files.issuer):
                self._lost(member, f"istiod would be refused by {refused} after a restart")

    def _refused(self, member: Member, issuer: str) -> str:
        bundles = [self.sim.store.generations[g] for g in member.targets if g is not None]
        return "" if all(validates(issuer, roots) for roots in bundles) else "a started agent"

    def _lost(self, member: Member, what: str) -> None:
        """Permitted only if it was predicted."""
        named = self.sim.named
        if named is None or member.name not in {loss.cluster for loss in named}:
            raise Violation(f"8: {what} in {member.name}, in {self.sim.state}")

    def _failed(self, member: Member, issuer: str) -> None:
        """Leaves of that issuer do not validate everywhere in that cluster: permitted only if it was predicted."""
        sim = self.sim
        if sim.named is None:
            raise Violation(f"1: a leaf of {issuer[:8]} fails in {member.name}, in {sim.state}")
        predicted = {loss.cluster for loss in sim.named if loss.what not in CONTROL_PLANE_LOSSES}
        if member.name in predicted:
            return
        trusted = {sim.store.generations[g] for g in member.targets if g is not None}
        trusted |= {
            leaf.trusts for leaf in sim.leaves if leaf.cluster == member.name and not leaf.after_emergency
        }
        if all(validates(issuer, roots) for roots in trusted):
            return
        for leaf in sim.leaves:
            mine = leaf.issuer == issuer and not (leaf.after_emergency or leaf in sim.excluded_leaves)
            if mine and leaf.cluster not in predicted:
                raise Violation(f"losses: leaves of {leaf.cluster} fail in {member.name}, unforetold")

    def _bundles(self) -> None:
        sim, store = self.sim, self.sim.store
        if store.set_back or store.in_force == self.in_force:
            return  # a set back is no step of the machine; the next generation is judged by the one before that
        if store.in_force < self.in_force or store.in_force != max(store.generations):
            raise Violation(f"7: generation {store.in_force} after {self.in_force}")
        if any(store.generations[number] != roots for number, roots in self.generations.items()):
            raise Violation("7: a generation changed once it was written")
        for number in range(self.in_force + 1, store.in_force + 1):
            before, after = store.generations[number - 1], store.generations[number]
            if not (before <= after or after <= before):
                raise Violation(f"4: generation {number} both adds and removes a root")
        gone = self.generations[self.in_force] - store.generations[store.in_force]
        self._removed(gone)
        self.in_force, self.generations = store.in_force, dict(store.generations)
        if gone and sim.named is None:
            needing = [
                leaf
                for leaf in sim.leaves
                if ROOT_OF[leaf.issuer] in gone and leaf not in sim.excluded_leaves
            ]
            if needing:
                raise Violation(f"3: a root is removed while a leaf of {needing[0].cluster} needs it")

    def _removed(self, gone: frozenset[str]) -> None:
        rotation = self.sim.record.rotation
        meant: set[str] = set()
        if rotation is not None and rotation.state in {State.UNPUBLISHING, State.RETIRED}:
            meant = {rotation.old.root}
        if rotation is not None and rotation.state in {State.ABORTING, State.STABLE} and rotation.wave:
            meant = {rotation.new.root}
        meant |= {*self.sim.record.withdrawn, *self.sim.record.retired}
        if not gone <= meant:
            raise Violation("5: a root went away that no rotation was removing")

    def _record(self) -> None:
        rotation = self.sim.record.rotation
        known, self.rotation = self.rotation, rotation
        if rotation is None:
            if known is not None:
                raise Violation("10: the record was lost")
            return
        last = rotation.history[-1]
        if last.after is not rotation.state or last.at != rotation.since:
            raise Violation("10: the last transition does not lead to the state of the rotation")
        seen = known.history if known is not None and rotation.number == known.number else []
        if [_steps(step) for step in rotation.history[: len(seen)]] != [_steps(step) for step in seen]:
            raise Violation("10: history was rewritten")
        new = rotation.history[len(seen) :]
        for step in new:
            if step.author == "the controller" and not step.evidence:
                raise Violation(f"10: {step.before} to {step.after} was taken on no evidence")


def _issuers(directives: SigningDirectives) -> set[str]:
    return {issuer for issuer in (directives.issuer, *directives.clusters.values()) if issuer}


def _steps(step: Transition) -> tuple[State, State, float, str, str]:
    """A transition without its evidence, of which the record keeps only a part over time."""
    return step.before, step.after, step.at, step.author, step.reason
