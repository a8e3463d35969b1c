"""What operators ask for: handed in through any controller, decided by the one that leads, kept as an audit.

An operation is a document. Whoever took it waits for the outcome that the leader writes into it, so that a
command line is answered by what really happened, whichever replica it reached. One that nobody decided in time is
refused: whoever asked has long been told that nobody led, and may have asked again, or for something else.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec

from federation.controller.rotation.seal import Seal
from federation.core.clock import Clock
from federation.core.errors import FederationError, InvalidValue, NotReady, Refused
from federation.state.damage import StateDamaged, damaged
from federation.state.documents import Operation, decode, encode
from federation.state.many import read_many
from federation.state.store import StateConflict, StateStore, Stored

OPERATIONS: Final = "operations/"
UNSEALED: Final = "unsealed"
VERBS: Final = (
    *("start", "advance", "abort", "restore", "quarantine", "release", "emergency", "takeover"),
    *("dismiss", "remove"),
)
KEPT: Final = 500
"""Operations kept as an audit, the newest; one is some hundred bytes."""

MOST_ARGUMENT: Final = 2000
_NAME: Final = re.compile(r"[a-z_]{1,32}", re.ASCII)
WAIT: Final = 20.0  # seconds for the leader to decide: it looks every second
POLL: Final = 0.25
OLDEST: Final = 60.0
"""Seconds after which an operation is refused: three times as long as anybody waits for it."""

MOST_REFUSED: Final = 50  # of one look; a script that asked for hours leaves thousands behind

_log = logging.getLogger(__name__)
_audit = logging.getLogger("federation.controller.audit")


def check_operation(verb: str, arguments: Mapping[str, object]) -> dict[str, str]:
    """The arguments, bounded. Raises InvalidValue."""
    if verb not in VERBS:
        raise InvalidValue(f"{verb[:40]!r} is no operation", remedy=f"known: {', '.join(VERBS)}")
    found: dict[str, str] = {}
    for name, value in arguments.items():
        if not _NAME.fullmatch(name) or not isinstance(value, str) or len(value) > MOST_ARGUMENT:
            raise InvalidValue("an argument is not a short text", remedy="see /openapi.json")
        if not value.isprintable():
            raise InvalidValue(f"{name} holds control characters", remedy="write plain text on one line")
        found[name] = value
    return found


class OperationDesk:
    """Takes operations in and waits for what becomes of them."""

    def __init__(
        self, store: StateStore, *, clock: Clock, random_bytes: Callable[[int], bytes], seal: Seal
    ) -> None:
        self._seal = seal
        self._store = store
        self._clock = clock
        self._random_bytes = random_bytes

    async def submit(self, verb: str, arguments: Mapping[str, object], *, author: str) -> Operation:
        """The operation as it was decided.

        Raises InvalidValue for what is none, NotReady where no leader decides in time (for a while it may still
        be decided), StateUnavailable where it cannot be written.
        """
        now = self._clock.now()
        operation = Operation(
            id=f"{now:%Y%m%d%H%M%S}.{self._random_bytes(8).hex()}",
            verb=verb,
            author=author,
            asked=now.timestamp(),
            arguments=check_operation(verb, arguments),
        )
        key = f"{OPERATIONS}{operation.id}"
        await self._store.write(key, encode(await self._seal.set(operation)), create=True)
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
            "`federation rotate status` tells",
        )


class OperationQueue:
    """The leader's view: what is undecided, oldest first."""

    def __init__(self, store: StateStore, *, clock: Clock, seal: Seal) -> None:
        self._seal = seal
        self._store = store
        self._clock = clock
        self._decided: set[str] = set()

    async def pending(
        self, *, skew: float = 0.0, applied: Collection[str] = ()
    ) -> list[tuple[Operation, str]]:
        """Each with the version to swap against; damaged ones are left where they are, and status tells them.

        What bears no seal of a controller came in by another way, and is refused; so is what was asked for too
        long ago. ``skew`` is how far, in seconds, the clock of the controller
        that was asked may be off. Those ``applied`` (ids) were done, and have only to be told of. Raises
        StateUnavailable where the store fails.
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
                _log.error("an operation cannot be read and is left where it is: %s", error)
                self._decided.add(key)
                continue
            if operation.outcome:
                self._decided.add(key)
            else:
                found.append((operation, version))
        sealed = await self._refuse_unsealed(found, applied)
        fresh = await self._refuse_late(sealed, skew, applied)
        await self._trim(keys)
        return fresh

    async def _refuse_unsealed(
        self, found: list[tuple[Operation, str]], applied: Collection[str]
    ) -> list[tuple[Operation, str]]:
        """Those that a controller has taken in; the others are refused, some of them at each look.

        One that was applied is not refused, since it was done. But what its document says now is vouched for by
        nothing, so it gets no new seal.
        """
        sealed = [one for one in found if await self._seal.is_on(one[0])]
        for operation, version in [one for one in found if one not in sealed][:MOST_REFUSED]:
            _audit.warning("an operation bears no seal of a controller: %s", operation.id)
            with contextlib.suppress(StateConflict):
                done = operation.id in applied
                await self.decide(operation, version, None if done else _unsealed(), seal=not done)
        return sealed

    async def _refuse_late(
        self, found: list[tuple[Operation, str]], skew: float, applied: Collection[str]
    ) -> list[tuple[Operation, str]]:
        """Those that are to be decided; the others are refused, some of them at each look."""
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
        self, operation: Operation, version: str, error: FederationError | None, *, seal: bool = True
    ) -> None:
        """Write what became of it, sealed; raises StateConflict where another leader was quicker."""
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
            key, encode(await self._seal.set(decided) if seal else decided), expected=version
        )
        self._decided.add(key)
        _audit.info(
            "%s by %s: %s",
            operation.verb,
            operation.author,
            decided.outcome + (f", {decided.detail}" if decided.detail else ""),
            extra={"operation": operation.id, "arguments": operation.arguments},
        )

    async def _trim(self, keys: list[str]) -> None:
        for key in sorted(keys)[: max(0, len(keys) - KEPT)]:
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


def _unsealed() -> Refused:
    """Why an operation is refused that no controller has taken in."""
    return Refused(
        "it bears no seal of a controller that was asked: it was written to the state store by another process, or "
        "the controller that was asked has ended or got another operate token since",
        reason=UNSEALED,
        remedy="ask again if you asked for it; if no operator did, find out who can write the state store",
    )


def _late(age: float) -> NotReady:
    """Why an operation of that age in seconds is not done any more."""
    when = (
        f"{min(age, 1e9):.0f} s ago, and nobody led then"
        if age > 0
        else "by a clock that is far ahead of the leader's"
    )
    return NotReady(
        f"it was asked for {when}",
        reason="too_late",
        remedy="look at `federation rotate status`, and ask again where it is still wanted",
    )
