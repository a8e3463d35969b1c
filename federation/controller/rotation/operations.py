"""Operations that operators request: handed in through any controller, decided by the leader, recorded as an audit.

An operation is a document. The controller that took it waits for the outcome that the leader writes into it, so that
a command line is answered by what really happened, whichever replica it reached. One that no leader decided in time
is refused: the operator got the answer long ago that nothing led, and may have requested it again, or something else.
An operation's text becomes a call of the pure machine, without I/O.

**The MAC** proves that an operation came in through a controller: only controllers can set it. Operations are
documents in the state store, which more processes can write than may operate. So the controller that received a request
authenticates what was requested, by whom and when, and the leader does nothing without such a MAC. Once it is decided,
the operation gets a new MAC with its outcome, so that the audit can be distinguished from what was put there. The key
follows from the operate token, which controllers alone have; where none is configured, a process draws its own, which
no other process has.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import msgspec
from msgspec.structs import replace

from federation.controller.publication.joining import MemberFacts
from federation.core.audit import NONE, ActorKind, audit_fields
from federation.core.clock import Clock
from federation.core.config.hub import HubConfig
from federation.core.config.mistakes import suggested_cluster
from federation.core.documents.controller import Operation
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import OPERATIONS, StateDamaged, damaged
from federation.core.errors import FederationError, InvalidValue, NotReady, Refused
from federation.core.rotation import transitions
from federation.core.rotation.cluster_conditions import in_words
from federation.core.rotation.effects import signing_directives
from federation.core.rotation.gates import gate, remove_now
from federation.core.rotation.record import OperationRefused, RotationRecord, Side, State
from federation.core.rotation.world import World
from federation.state.store import StateConflict, StateStore, Stored, read_many

_logger = logging.getLogger(__name__)


_audit = logging.getLogger("federation.controller.audit")


ARGUMENTS: Final[Mapping[str, frozenset[str]]] = {
    "start": frozenset({"canary"}),
    "advance": frozenset(),
    "abort": frozenset(),
    "restore": frozenset(),
    "quarantine": frozenset({"cluster"}),
    "release": frozenset({"cluster"}),
    "emergency": frozenset({"compromised", "deadline", "ttl_cap"}),
    "takeover": frozenset({"cluster"}),
    "dismiss": frozenset({"anchor", "cluster"}),
    "remove": frozenset({"anchor"}),
}
"""What each operation takes, beside a reason. One that is misspelt would otherwise be one that was left out: a rotation
without the canary that was meant, a proposal dismissed in every cluster."""

VERBS: Final = tuple(ARGUMENTS)

NO_REASON: Final = "no reason was given"
DEFAULT_DEADLINE: Final = 3600.0  # seconds of an emergency, where the operator names none
UNSEALED: Final = "unsealed"

MOST_RECORDED: Final = 500
"""Operations that remain as an audit, the newest; one is some hundred bytes."""

MOST_ARGUMENT: Final = 2000
MOST_REFUSED: Final = 50  # at one reading; a script that ran for hours leaves thousands behind
WAIT: Final = 20.0  # seconds for the leader to decide: it reads them every second
POLL: Final = 0.25

OLDEST: Final = 60.0
"""Seconds after which an operation is refused: three times as long as a caller waits for it."""

_PURPOSE: Final = b"federation-hub/operation/1"
"""Keeps the key apart from any other use of the token (NIST SP 800-108 calls it a label)."""

_NAME: Final = re.compile(r"[a-z_]{1,32}", re.ASCII)


def check_operation(verb: str, arguments: Mapping[str, object]) -> dict[str, str]:
    """The arguments, bounded. Raises InvalidValue."""
    if verb not in VERBS:
        raise InvalidValue(f"{verb[:40]!r} is no operation", remedy=f"known: {', '.join(VERBS)}")
    found: dict[str, str] = {}
    for name, value in arguments.items():
        if not _NAME.fullmatch(name) or not isinstance(value, str) or len(value) > MOST_ARGUMENT:
            raise InvalidValue("an argument is not a short text", remedy="see /openapi.json")
        if name != "reason" and name not in ARGUMENTS[verb]:
            known = ", ".join(sorted(ARGUMENTS[verb] | {"reason"}))
            raise InvalidValue(f"{verb} has no argument {name}", remedy=f"known: {known}")
        if not value.isprintable():
            raise InvalidValue(f"{name} holds control characters", remedy="write plain text on one line")
        found[name] = value
    return found


@dataclass(frozen=True, slots=True)
class OperationMac:
    """Sets and verifies MACs with the newest ``secret``, which is read each time, since a token may be replaced."""

    secret: Callable[[], Awaitable[bytes]]

    async def set(self, operation: Operation) -> Operation:
        """The operation with its MAC."""
        return replace(operation, mac=await self._of(operation))

    async def are_on(self, operations: Sequence[Operation]) -> list[bool]:
        """The same of many, by one and the same secret."""
        secret = await self.secret()

        async def known() -> bytes:
            return secret

        same = OperationMac(known)
        return [await same.is_on(operation) for operation in operations]

    async def is_on(self, operation: Operation) -> bool:
        """Whether its MAC is of exactly what it says."""
        wanted = await self._of(operation)
        return hmac.compare_digest(operation.mac.encode(errors="replace"), wanted.encode())

    async def _of(self, operation: Operation) -> str:
        key = hmac.digest(await self.secret(), _PURPOSE, "sha256")
        content = msgspec.json.encode(replace(operation, mac=""), order="sorted")
        return hmac.new(key, content, sha256).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Requester:
    """Who asks for an operation: a name that was verified in the way that ``kind`` says, and the address.

    ``claim`` is what the caller says of itself.
    """

    name: str
    kind: ActorKind
    source: str
    claim: str = ""

    @property
    def author(self) -> str:
        """As an operation's document has it."""
        who = self.name if self.kind in {"local", "token"} else f"{self.kind} {self.name}"
        claimed = f" (says: {self.claim})" if self.claim else ""
        return f"{who}, from {self.source or 'an unknown address'}{claimed}"


class OperationDesk:
    """Takes operations in and waits for their outcome."""

    def __init__(
        self, store: StateStore, *, clock: Clock, random_bytes: Callable[[int], bytes], mac: OperationMac
    ) -> None:
        self._mac = mac
        self._store = store
        self._clock = clock
        self._random_bytes = random_bytes

    async def submit(self, verb: str, arguments: Mapping[str, object], *, requester: Requester) -> Operation:
        """The operation as it was decided.

        Raises InvalidValue for what is none, NotReady where no leader decides in time (for a while it may still
        be decided), StateUnavailable where it cannot be written.
        """
        now = self._clock.now()
        operation = Operation(
            id=f"{now:%Y%m%d%H%M%S}.{self._random_bytes(8).hex()}",
            verb=verb,
            author=requester.author,
            asked=now.timestamp(),
            arguments=check_operation(verb, arguments),
        )
        _audit.info(
            "%s requested by %s",
            verb,
            operation.author,
            extra={
                **audit_fields(
                    "request_operation",
                    actor=requester.name,
                    actor_kind=requester.kind,
                    source=requester.source,
                    object=verb,
                ),
                "claim": requester.claim,
                "operation": operation.id,
                "arguments": operation.arguments,
            },
        )
        key = f"{OPERATIONS}{operation.id}"
        await self._store.write(key, encode(await self._mac.set(operation)), create=True)
        until = self._clock.monotonic() + WAIT
        while self._clock.monotonic() < until:
            await self._clock.sleep(POLL)
            stored = await self._store.read(key)
            if stored is None:
                break
            decided = decode(stored.data, Operation, key=key)
            if decided.outcome:
                return decided
        raise NotReady(
            f"no controller has decided {verb} within {WAIT:g} s",
            where=operation.id,
            reason="no_leader",
            remedy="see whether a controller leads (federation status); one that does so soon may still do it, and "
            "`federation rotate status` says",
        )


class OperationQueue:
    """The leader's view: what is undecided, oldest first."""

    def __init__(self, store: StateStore, *, clock: Clock, mac: OperationMac) -> None:
        self._mac = mac
        self._store = store
        self._clock = clock
        self._decided: set[str] = set()

    async def pending(
        self, *, skew: float = 0.0, applied: Collection[str] = ()
    ) -> list[tuple[Operation, str]]:
        """Each with the version to swap against; damaged ones are left where they are, and status reports them.

        One without a MAC of a controller came in by another way, and is refused; so is one that was requested too long
        ago. ``skew`` is how far, in seconds, the clock of the controller that received it may be off. Those ``applied``
        (ids) were done, and only their outcome has to be written. Raises StateUnavailable where the store fails.
        """
        keys = await self._store.keys(OPERATIONS)
        found: list[tuple[Operation, str]] = []
        for key, stored in (
            await read_many(self._store, [key for key in keys if key not in self._decided])
        ).items():
            if stored is None:
                continue
            try:
                operation, version = _opened(key, stored)
            except StateDamaged as error:
                _logger.error("an operation cannot be read and is left where it is: %s", error)
                self._decided.add(key)
                continue
            if operation.outcome:
                self._decided.add(key)
            else:
                found.append((operation, version))
        authentic = await self._refuse_without_mac(found, applied)
        fresh = await self._refuse_late(authentic, skew, applied)
        await self._trim(keys)
        return fresh

    async def _refuse_without_mac(
        self, found: list[tuple[Operation, str]], applied: Collection[str]
    ) -> list[tuple[Operation, str]]:
        """Those that a controller has taken in; the others are refused, some of them at each reading.

        One that was applied is not refused, since it was done. But nothing authenticates what its document says now,
        so it gets no new MAC.
        """
        authentic = [one for one in found if await self._mac.is_on(one[0])]
        for operation, version in [one for one in found if one not in authentic][:MOST_REFUSED]:
            _logger.warning("an operation has no MAC of a controller: %s", operation.id)
            with contextlib.suppress(StateConflict):
                done = operation.id in applied
                await self.decide(operation, version, None if done else _without_mac(), mac=not done)
        return authentic

    async def _refuse_late(
        self, found: list[tuple[Operation, str]], skew: float, applied: Collection[str]
    ) -> list[tuple[Operation, str]]:
        """Those that are to be decided; the others are refused, some of them at each reading."""
        now = self._clock.now().timestamp()
        fresh: list[tuple[Operation, str]] = []
        late: list[tuple[Operation, str]] = []
        for one in found:
            in_time = abs(now - one[0].asked) <= OLDEST + skew or one[0].id in applied
            (fresh if in_time else late).append(one)
        for operation, version in late[:MOST_REFUSED]:
            with contextlib.suppress(StateConflict):  # another leader was quicker
                await self.decide(operation, version, _late(now - operation.asked))
        return fresh

    async def decide(
        self,
        operation: Operation,
        version: str,
        error: FederationError | None,
        *,
        mac: bool = True,
        before: str = NONE,
        after: str = NONE,
    ) -> None:
        """Write its outcome, with a MAC; raises StateConflict where another leader was quicker.

        ``before`` and ``after`` are what it changed, for the audit.
        """
        decided = msgspec.structs.replace(
            operation,
            decided=self._clock.now().timestamp(),
            outcome="done" if error is None else "refused",
            detail="" if error is None else str(error),
            remedy="" if error is None else error.remedy,
            reason="" if error is None else error.reason,
        )
        key = f"{OPERATIONS}{operation.id}"
        await self._store.write(
            key, encode(await self._mac.set(decided) if mac else decided), expected=version
        )
        self._decided.add(key)
        _audit.info(
            "%s by %s: %s",
            operation.verb,
            operation.author,
            decided.outcome + (f", {decided.detail}" if decided.detail else ""),
            extra={
                **audit_fields(
                    "decide_operation",
                    actor=operation.author,
                    actor_kind="operator",  # the line of the request has the name, with this operation's id
                    source=NONE,
                    object=operation.verb,
                    before=before,
                    after=after,
                ),
                "operation": operation.id,
                "outcome": decided.outcome,
                "reason": decided.reason,
                "arguments": operation.arguments,
            },
        )

    async def _trim(self, keys: list[str]) -> None:
        for key in sorted(keys)[: max(0, len(keys) - MOST_RECORDED)]:
            if key in self._decided:
                await self._store.delete(key)
                self._decided.discard(key)


def _opened(key: str, stored: Stored | StateDamaged) -> tuple[Operation, str]:
    """The operation and its version; raises StateDamaged for what is none."""
    if isinstance(stored, StateDamaged):
        raise stored
    operation = decode(stored.data, Operation, key=key)
    if f"{OPERATIONS}{operation.id}" != key:
        raise damaged("it is an operation of another name", key=key, where=key)
    return operation, stored.version


def _without_mac() -> Refused:
    """Why an operation is refused that no controller has taken in."""
    return Refused(
        "it has no MAC of the controller that received it: it was written to the state store by another process, or "
        "that controller has ended or got another operate token since",
        reason=UNSEALED,
        remedy="request it again if you did; if no operator did, find out who can write the state store",
    )


def _late(age: float) -> NotReady:
    """Why an operation of that age in seconds is not done any more."""
    when = (
        f"{min(age, 1e9):.0f} s ago, and no controller led then"
        if age > 0
        else "by a clock that is far ahead of the leader's"
    )
    return NotReady(
        f"it was requested {when}",
        reason="too_late",
        remedy="look at `federation rotate status`, and request it again where it is still wanted",
    )


@dataclass(frozen=True, slots=True)
class Proposed:
    """The two sides of a rotation that could be started, or in words why there is none.

    ``problem`` is why the new authority must not be used; None where it may.
    """

    old: Side | str = "no signer is live"
    new: Side | str = "no signer is live"
    problem: str | None = "no signer is live"


@dataclass(slots=True)
class Commands:
    """Applies operations to the record."""

    proposed: Proposed = field(default_factory=Proposed)

    def apply(
        self, operation: Operation, record: RotationRecord, world: World, config: HubConfig
    ) -> RotationRecord:
        """The record after the operation. Raises OperationRefused."""
        verbs: Mapping[str, Callable[[], RotationRecord]] = {
            "start": lambda: self._start(operation, record, world, config),
            "advance": lambda: _advance(operation, record, world),
            "abort": lambda: transitions.abort(
                record, world, author=operation.author, reason=_reason(operation)
            ),
            "restore": lambda: transitions.restore(
                record, world, author=operation.author, reason=_reason(operation)
            ),
            "quarantine": lambda: transitions.quarantine(
                record,
                operation.arguments.get("cluster", ""),
                author=operation.author,
                reason=operation.arguments.get("reason", ""),
                world=world,
            ),
            "release": lambda: transitions.release(record, operation.arguments.get("cluster", "")),
            "emergency": lambda: _emergency(operation, record, world),
            "remove": lambda: remove_now(
                record,
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
        self, operation: Operation, record: RotationRecord, world: World, config: HubConfig
    ) -> RotationRecord:
        old, new = self.proposed.old, self.proposed.new
        for name, side in (("in use", old), ("to rotate to", new)):
            if isinstance(side, str):
                raise OperationRefused(
                    f"the authority {name} is not known, or of no use: {side}",
                    remedy="configure [signer.successor] and pin its root, or correct what is reported of it;"
                    " `federation authority check` says more",
                )
        if isinstance(old, str) or isinstance(new, str):  # for the type checker: refused above
            raise OperationRefused("a side is not known")
        if self.proposed.problem is not None:
            raise OperationRefused(
                f"the new authority must not be used: {self.proposed.problem}",
                remedy="correct that, or configure another one as [signer.successor]",
            )
        if record.rotation is not None and signing_directives(record).issuer == new.intermediate:
            raise OperationRefused(
                "[signer.successor] is what signs since the last rotation",
                remedy="make it [signer.authority], and configure another one as [signer.successor]",
            )
        settings = config.controller.rotation
        canary = _names(operation.arguments.get("canary", ""))
        return transitions.propose(
            record,
            number=(record.rotation.number if record.rotation else 0) + 1,
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


def _advance(operation: Operation, record: RotationRecord, world: World) -> RotationRecord:
    rotation = record.under_way
    if rotation is None:
        raise OperationRefused("no rotation is under way", remedy="start one: federation rotate start")
    advanced = transitions.advance(record, world, author=operation.author, by_hand=True)
    after = advanced.rotation
    if after is None or after.history == rotation.history:  # its length is bounded, and says nothing
        unmet = gate(record, world).unmet
        why = in_words(unmet[0]) if unmet else "its gate is not open"
        raise OperationRefused(
            f"it cannot leave {rotation.state.value} yet: {why}",
            remedy="`federation rotate status` names everything it waits for, and until when",
        )
    if rotation.state is State.CANARY and after.state is State.SOAKED:  # which the machine does by itself
        raise OperationRefused(
            f"it does not advance, it falls back to SOAKED: {after.paused}",
            remedy="correct what failed, then advance: the canary is tried again",
        )
    return advanced


def _emergency(operation: Operation, record: RotationRecord, world: World) -> RotationRecord:
    arguments = operation.arguments
    return transitions.emergency(
        record,
        world,
        compromised=_fingerprint(arguments.get("compromised", "")),
        deadline=world.now + _seconds(arguments.get("deadline", ""), DEFAULT_DEADLINE),
        ttl_cap=_seconds(arguments.get("ttl_cap", ""), 0.0),
        author=operation.author,
        reason=_reason(operation),
    )


def taken_over(operation: Operation, world: World, *, quarantined: Collection[str] = ()) -> str:
    """The cluster for which an operator declares that only the hub issues there now. Raises OperationRefused.

    What it trusts has to be known, because a CA that no operator has accepted may issue there; but for one that is
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
    if facts.anchors is None and cluster not in quarantined:
        raise OperationRefused(
            f"what {cluster} trusts is not known now, so it may have a CA that is not accepted: {facts.detail}",
            remedy="ask again once it is read back (`federation status`); quarantine it first if it is lost",
        )
    return cluster


def waves_of(clusters: Sequence[str], count: int) -> list[list[str]]:
    """Divide the clusters into ``count`` waves, the first of a single cluster: a mistake then hits the fewest."""
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
