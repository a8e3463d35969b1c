"""An operation's text turned into a call of the pure machine. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from federation.controller.publication.joining import MemberFacts
from federation.core.config.model import HubConfig
from federation.core.config.tables import suggested_cluster
from federation.core.trust.rotation import machine
from federation.core.trust.rotation.consumers import in_words
from federation.core.trust.rotation.effects import orders_of
from federation.core.trust.rotation.gates import gate
from federation.core.trust.rotation.machine import OperationRefused
from federation.core.trust.rotation.record import RotationBook, Side, State
from federation.core.trust.rotation.unpinned import remove_now
from federation.core.trust.rotation.world import World
from federation.state.documents import Operation

NO_REASON: Final = "no reason was given"
DEFAULT_DEADLINE: Final = 3600.0  # seconds of an emergency, where the operator names none


@dataclass(frozen=True, slots=True)
class Proposed:
    """The two sides of a rotation that could be started, or in words why there is none."""

    old: Side | str = "no signer is heard of"
    new: Side | str = "no signer is heard of"
    problem: str = "no signer is heard of"


@dataclass(slots=True)
class Commands:
    """Applies operations to the record."""

    proposed: Proposed = field(default_factory=Proposed)

    def aim(self, proposed: Proposed) -> None:
        """What a rotation would be between now."""
        self.proposed = proposed

    @property
    def problem(self) -> str:
        """Why the new authority must not be used; empty where it may."""
        return self.proposed.problem

    def apply(
        self, operation: Operation, book: RotationBook, world: World, config: HubConfig
    ) -> RotationBook:
        """The record after the operation. Raises OperationRefused."""
        verbs: Mapping[str, Callable[[], RotationBook]] = {
            "start": lambda: self._start(operation, book, world, config),
            "advance": lambda: _advance(operation, book, world),
            "abort": lambda: machine.abort(book, world, author=operation.author, reason=_reason(operation)),
            "restore": lambda: machine.restore(
                book, world, author=operation.author, reason=_reason(operation)
            ),
            "quarantine": lambda: machine.quarantine(
                book,
                operation.arguments.get("cluster", ""),
                author=operation.author,
                reason=operation.arguments.get("reason", ""),
                world=world,
            ),
            "release": lambda: machine.release(book, operation.arguments.get("cluster", "")),
            "emergency": lambda: _emergency(operation, book, world),
            "remove": lambda: remove_now(
                book,
                world,
                _fingerprint(operation.arguments.get("anchor", "")),
                author=operation.author,
                reason=_reason(operation),
            ),
        }
        if operation.verb not in verbs:
            raise OperationRefused(f"{operation.verb[:40]!r} is no operation")
        return verbs[operation.verb]()

    def _start(
        self, operation: Operation, book: RotationBook, world: World, config: HubConfig
    ) -> RotationBook:
        old, new = self.proposed.old, self.proposed.new
        for name, side in (("in use", old), ("to rotate to", new)):
            if isinstance(side, str):
                raise OperationRefused(
                    f"the authority {name} is not known, or of no use: {side}",
                    remedy="configure [signer.successor] and pin its root, or mend what is said of it;"
                    " `federation authority check` says more",
                )
        if isinstance(old, str) or isinstance(new, str):  # for the type checker: told above
            raise OperationRefused("a side is not known")
        if self.proposed.problem:
            raise OperationRefused(
                f"the new authority must not be used: {self.proposed.problem}",
                remedy="mend that, or configure another one as [signer.successor]",
            )
        if book.rotation is not None and orders_of(book).issuer == new.intermediate:
            raise OperationRefused(
                "[signer.successor] is what signs since the last rotation",
                remedy="make it [signer.authority], and configure another one as [signer.successor]",
            )
        settings = config.controller.rotation
        canary = _names(operation.arguments.get("canary", ""))
        return machine.propose(
            book,
            number=(book.rotation.number if book.rotation else 0) + 1,
            trust_domain=str(config.trust_domain),
            old=old,
            new=new,
            author=operation.author,
            reason=_reason(operation),
            automatic=settings.automatic,
            soak=settings.soak,
            canary=canary if "canary" in operation.arguments else sorted(world.clusters)[:1],
            waves=waves_of(sorted(world.clusters), settings.waves),
            world=world,
        )


def taken_over(operation: Operation, world: World, *, quarantined: Collection[str] = ()) -> str:
    """The cluster that a person says only the hub issues for now. Raises OperationRefused.

    What it holds has to be known, because a CA that nobody has accepted may issue there; but for one that is
    quarantined, which may never be read again.
    """
    cluster = operation.arguments.get("cluster", "")
    facts = world.clusters.get(cluster)
    if facts is None:
        raise OperationRefused(
            f"no cluster is registered as {cluster[:80]!r}", remedy=suggested_cluster(cluster, world.clusters)
        )
    if isinstance(facts, MemberFacts) and facts.joining:
        raise OperationRefused(
            f"{cluster} still keeps a CA that is not accepted, so its workloads cannot have left it",
            remedy="accept it first: `federation trust list` names it",
        )
    if facts.held is None and cluster not in quarantined:
        raise OperationRefused(
            f"what {cluster} holds is not known now, so it may keep a CA that is not accepted: {facts.detail}",
            remedy="ask again once it is read back (`federation status`); quarantine it first if it is lost",
        )
    return cluster


def _advance(operation: Operation, book: RotationBook, world: World) -> RotationBook:
    rotation = book.under_way
    if rotation is None:
        raise OperationRefused("no rotation is under way", remedy="start one: federation rotate start")
    advanced = machine.advance(book, world, author=operation.author, by_hand=True)
    after = advanced.rotation
    if after is None or after.history == rotation.history:  # its length is bounded, and says nothing
        unmet = gate(book, world).unmet
        why = in_words(unmet[0]) if unmet else "its gate is not open"
        raise OperationRefused(
            f"it cannot leave {rotation.state.value} yet: {why}",
            remedy="`federation rotate status` names everything it waits for, and until when",
        )
    if rotation.state is State.CANARY and after.state is State.SOAKED:  # which the machine does by itself
        raise OperationRefused(
            f"it does not advance, it falls back to SOAKED: {after.paused}",
            remedy="mend what failed, then advance: the canary is tried again",
        )
    return advanced


def _emergency(operation: Operation, book: RotationBook, world: World) -> RotationBook:
    arguments = operation.arguments
    return machine.emergency(
        book,
        world,
        compromised=_fingerprint(arguments.get("compromised", "")),
        deadline=world.now + _seconds(arguments.get("deadline", ""), DEFAULT_DEADLINE),
        ttl_cap=_seconds(arguments.get("ttl_cap", ""), 0.0),
        author=operation.author,
        reason=_reason(operation),
    )


def waves_of(clusters: Sequence[str], count: int) -> list[list[str]]:
    """The clusters in so many waves, the first one of a single cluster: the fewest learn it first."""
    if not clusters:
        return []
    first, rest = list(clusters[:1]), list(clusters[1:])
    parts = max(1, count - 1)
    size = -(-len(rest) // parts) if rest else 1
    return [first, *(rest[start : start + size] for start in range(0, len(rest), size))]


def _fingerprint(text: str) -> str:
    """As it is compared: lower-case hexadecimal digits without colons."""
    return text.replace(":", "").lower()


def _reason(operation: Operation) -> str:
    return operation.arguments.get("reason", "").strip() or NO_REASON


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _seconds(text: str, default: float) -> float:
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise OperationRefused(f"{text[:40]!r} is no number of seconds", remedy="write plain seconds")
    return value
