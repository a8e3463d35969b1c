"""What operators do to a simulated mesh, sensible or not (a refusal changes nothing), and a healthy hour of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from federation.core.rotation import effects, transitions
from federation.core.rotation.effects import losses, losses_without
from federation.core.rotation.gates import remove_now as remove_unpinned
from federation.core.rotation.record import OperationRefused, RotationRecord
from tests.core.trust.rotation.certificates import ISSUER, ROOT, ROOT_OF, SIDES
from tests.core.trust.rotation.signing import LIFETIME, OF_THE_HUB, Leaf
from tests.core.trust.rotation.simulator import NAMES, SOAK, TARGETS, Member, Simulation

WAITS: Final = (1.0, 4.0, 15.0, 45.0)


def signing_side(sim: Simulation) -> str:
    """What signs without a rotation."""
    side = effects.signing_side(sim.record)
    return side.subject if side is not None else "a1"


def _try(sim: Simulation, operation: Callable[[RotationRecord], RotationRecord]) -> None:
    if not sim.watching:
        return
    before = sim.record
    try:
        sim.store.record = operation(before)
    except OperationRefused as error:
        assert error.remedy, error
        assert sim.record is before


def propose(sim: Simulation, choice: int) -> None:
    """``choice`` picks the successor, canaries, waves, and whether it advances automatically."""
    names = list(sim.members)
    waves: list[list[str]] = [[], [names[:1], names[1:]], [names[:1]]][choice // 3 % 3]
    rotation = sim.record.rotation
    _try(
        sim,
        lambda record: transitions.propose(
            record,
            number=rotation.number + 1 if rotation else 1,
            trust_domain="cluster.local",
            old=SIDES[signing_side(sim)],
            new=SIDES[TARGETS[choice % 3]],
            author="operator",
            reason="it is time",
            automatic=choice // 9 % 4 != 0,
            soak=SOAK,
            canary=names[: choice // 36 % 3],
            waves=waves,
            world=sim.observe(),
        ),
    )


def abort(sim: Simulation) -> None:
    _try(
        sim,
        lambda record: transitions.abort(
            record, sim.observe(), author="operator", reason="second thoughts", without=sim.without
        ),
    )


def restore(sim: Simulation) -> None:
    _try(
        sim, lambda record: transitions.restore(record, sim.observe(), author="operator", reason="too early")
    )


def quarantine(sim: Simulation, cluster: int) -> None:
    name = sim.member(cluster).name
    _try(
        sim,
        lambda record: transitions.quarantine(
            record, name, author="operator", reason="lost", world=sim.observe()
        ),
    )


def release(sim: Simulation, cluster: int) -> None:
    _try(sim, lambda record: transitions.release(record, sim.member(cluster).name))


def by_hand(sim: Simulation) -> None:
    sim.ensure_generation()
    sim.ensure_directives()
    sim.decide(by_hand=True)


def emergency(sim: Simulation, choice: int) -> None:
    """Declare one side compromised; record the predicted losses, to be compared with what then fails."""
    rotation = sim.record.under_way
    if rotation is None or not sim.watching:
        return
    world, new = sim.observe(), choice % 2 == 1
    deadline = world.now + (0.0, 20.0, 120.0)[choice // 2 % 3]
    side = rotation.new if new else rotation.old
    before = sim.record
    _try(
        sim,
        lambda record: transitions.emergency(
            record,
            world,
            compromised=side.intermediate if choice // 6 % 2 else side.root,
            deadline=deadline,
            ttl_cap=10.0,
            author="operator",
            reason="stolen",
        ),
    )
    if sim.record is not before:
        # A signer that cannot sign breaks no handshake: it would forgive what nothing foretells.
        found = losses(rotation, replace(world, signers={}), at=deadline, leaving_new=new)
        sim.named = [*(sim.named or []), *found]
        sim.tick()


def remove_now(sim: Simulation, choice: int) -> None:
    """Remove an anchor without a pin even if it is needed; record the predicted losses, as above."""
    gone = [root for _, root in sorted(ROOT.items()) if root in sim.record.unpinned]
    if not gone or not sim.watching:
        return
    world, anchor = sim.observe(), gone[choice % len(gone)]
    clusters = frozenset(sim.record.unpinned[anchor].clusters)
    found = losses_without(anchor, world, ROOT_OF, clusters=clusters)
    before = sim.record
    _try(sim, lambda record: remove_unpinned(record, world, anchor, author="operator", reason="stolen"))
    if sim.record is not before:
        sim.named = [*(sim.named or []), *found]
        sim.tick()


def register(sim: Simulation, which: int, kind: int) -> None:
    """A cluster joins with leaves of an earlier authority: none, the shared one, its own, or a root to come."""
    name = NAMES[which % len(NAMES)]
    if name in sim.members:
        return
    member = sim.members[name] = Member(name, [None, None])
    member.unknown_until = sim.gone.get(name, 0.0)
    sim.removed.discard(name)
    issuer = (None, "a1", "w1", "b1")[kind % 4]
    if issuer is None:
        return
    member.unknown_until = sim.now + LIFETIME
    sim.own[name] = sim.own.get(name, frozenset()) | ({ROOT["w"]} if issuer == "w1" else frozenset())
    leaf = Leaf(
        name, ISSUER[issuer], frozenset({ROOT["a"], ROOT["w"], ROOT[issuer[0]]}), True, sim.named is not None
    )
    sim.leaves[leaf] = sim.now + LIFETIME
    sim.excluded_leaves.add(leaf)


def unregister(sim: Simulation, which: int) -> None:
    """Unregister a cluster whose workloads keep running with certificates of the hub and from before it."""
    if len(sim.members) > 1:
        member = sim.members.pop(sim.member(which).name)
        if not member.joining:
            sim.removed.add(member.name)
        if member.unknown_until > sim.now:
            sim.gone[member.name] = max(member.unknown_until, sim.gone.get(member.name, 0.0))


def unpin(sim: Simulation, which: int) -> None:
    """A pin is taken out of the configuration, or the cluster's CA that it names is not accepted any more."""
    root = ROOT["abcw"[which % 4]]
    if sim.pins - sim.staged_roots - {root}:  # a configuration without one that is in use is refused
        sim.pins -= {root}


def pin(sim: Simulation, which: int, staged: int) -> None:
    """A pin is put in, or the one that is there is staged, or is not any more."""
    name = "abcw"[which % 4]
    flags = {*sim.staged} - {name} | ({name} if staged % 3 == 0 else set())
    if sim.pins | {ROOT[name]} != frozenset(ROOT[other] for other in flags):
        sim.pins |= {ROOT[name]}
        sim.staged = "".join(sorted(flags))


def replace_pin(sim: Simulation, which: int, other: int) -> None:
    """One pin is put in place of another in a single edit."""
    pin(sim, other, 1)
    unpin(sim, which)


def configure(sim: Simulation, which: int) -> None:
    """A signer applies the present configuration."""
    signer = sim.signer(which)
    if signer.up and signer.name not in sim.refused:
        signer.pins = sim.pins


def refuse(sim: Simulation, which: int) -> None:
    """A signer, or the controller, refuses the newest configuration and keeps the one before."""
    who = ("the controller", *(signer.name for signer in sim.signers))[which % (len(sim.signers) + 1)]
    sim.refused[who] = "no such key"


def correct(sim: Simulation) -> None:
    """The configuration is corrected everywhere."""
    sim.refused.clear()


def edit_authority(sim: Simulation, which: int, choice: int) -> None:
    """A signer is configured with another authority, or its files are exchanged in place; it may never have run."""
    sim.signer(which).configure(ISSUER[("a1", "a2", "b1", "c1")[choice % 4]])


def put_back_authority(sim: Simulation, which: int) -> None:
    """The authority in force is configured again."""
    sim.signer(which).configure(ISSUER[signing_side(sim)])


def take_out_authorities(sim: Simulation) -> None:
    """Remove from signers the authorities below roots without a pin, except those of the rotation."""
    rotation = sim.record.rotation
    needed = {SIDES["a1"].root} if rotation is None else {rotation.old.root, rotation.new.root}
    for signer in sim.signers:
        signer.ready -= {i for i, root in ROOT_OF.items() if root not in sim.pins | needed}


def set_back(sim: Simulation, which: int, behind: int) -> None:
    """What names the generation in force is restored from a backup, or rolled back, under a controller that leads."""
    store = sim.store
    earlier = [number for number in store.generations if number < store.in_force]
    if earlier and sim.watching and store.in_force == sim.adopted:
        store.in_force = earlier[-1 - which % len(earlier)]
        older = [number for number in earlier if number < store.in_force]
        waiting = list(sim.members)[: behind % 3] if older else []
        store.behind = dict.fromkeys(waiting, older[-1]) if waiting else {}
        sim.ensured = None


def round_of(sim: Simulation, seconds: float = 5.0) -> None:
    """Every running part does its regular work once."""
    for member in range(len(sim.members)):
        for target in range(len(sim.member(member).targets)):
            sim.publish(member, target)
        sim.write_ca(member)
        _istiod_runs(sim, member)
        sim.read_back(member)
    for signer in range(len(sim.signers)):
        sim.finish(signer)
        configure(sim, signer)
        sim.signer(signer).poll(sim.store)
        for member in range(len(sim.members)):
            sim.begin(signer, member)
            sim.finish(signer)
            sim.provide(signer, member)
    for member in range(len(sim.members)):
        _istiod_runs(sim, member)
        sim.read_back(member)
    sim.prove()
    sim.tick()
    sim.wait(seconds)


def _istiod_runs(sim: Simulation, member: int) -> None:
    """istiod loads what is mounted and patches its webhooks; without files so far it is restarted."""
    istiod = sim.member(member).istiod
    if istiod.runs_with is None:
        istiod.start(sim.now)
    istiod.take_up(sim.now)
    istiod.patch()


def heal(sim: Simulation) -> None:
    """Repair everything that was broken, and let every quarantined cluster return."""
    sim.validated, sim.bundle_fails = None, False
    correct(sim)
    sim.restart_controller()
    for member in sim.members.values():
        member.reachable, member.refuses = True, False
        member.istiod.unprovided = member.istiod.forbidden = False
    for signer in sim.signers:
        signer.connected = True
        signer.ready = set(OF_THE_HUB)
        signer.pending = signer.authority = ISSUER[signing_side(sim)]
        signer.pins = sim.pins
        signer.restart(sim.store)
    take_out_authorities(sim)
    rotation = sim.record.under_way
    if rotation is not None:
        for name, root in ROOT.items():
            if root in {rotation.old.root, rotation.new.root}:
                pin(sim, "abcw".index(name), 0 if name in sim.staged else 1)
    signs_under = SIDES[signing_side(sim)].root
    if (
        signs_under not in sim.roots()
    ):  # an operator insisted on its removal: nothing is issued until it is pinned again
        pin(sim, [ROOT[name] for name in "abcw"].index(signs_under), 1)
    for name in list(sim.record.quarantined):
        _try(sim, lambda record, name=name: transitions.release(record, name))  # type: ignore[misc]


def ends(sim: Simulation, check: Callable[[], None], within: int = 80) -> bool:
    """Whether the present rotation ends within this many rounds once everything works."""
    for _ in range(within):
        if sim.record.under_way is None and not sim.members.keys() & sim.record.quarantined.keys():
            return True
        healthy(sim, 1)
        check()
    return False


def rounds(sim: Simulation, count: int) -> None:
    for _ in range(count):
        round_of(sim)


def healthy(sim: Simulation, count: int) -> None:
    """Healthy rounds, in which an operator advances the rotation by hand where it waits for one."""
    heal(sim)
    for _ in range(count):
        round_of(sim, 8.0)
        rotation = sim.record.under_way
        if rotation is not None and (rotation.paused or not rotation.automatic):
            by_hand(sim)
