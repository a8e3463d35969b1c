"""The record of the rotation, the directives that follow from it, and how clusters joined, in the state store.

The record is swapped against the version that was read; directives follow from it and are written before
anything else is observed, so that a signer which has just said how far its leaves reach sees them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from federation.controller.publication.joining import JoiningMemory
from federation.core.audit import NONE, audit_fields
from federation.core.documents.controller import Takeovers
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import DIRECTIVES, ROTATION, TAKEOVERS
from federation.core.errors import StateUnavailable
from federation.core.rotation.effects import SigningDirectives, signing_directives
from federation.core.rotation.record import RotationRecord, Setback
from federation.state.store import StateConflict, StateStore, Stored

_logger = logging.getLogger(__name__)
_audit = logging.getLogger("federation.controller.audit")

MOST_NAMED: Final = 10
"""Clusters that a line of the audit names."""

MOST_APPLIED: Final = 50
"""Operations remembered as applied: one that was not answered is requested again within seconds."""

FORGOTTEN: Final = 86400.0  # seconds after the end of what lived in a cluster that was removed
UNKNOWN_LIFE: Final = 86400.0  # of leaves from before the hub, where an earlier version did not record it

NAMES_REMEMBERED: Final = 30 * 86400.0  # seconds that it is remembered that the listener had a name
MOST_NAMES: Final = 100

MOST_SETBACKS: Final = 20
UNCOUNTED: Final = 0  # the revision of a record that an earlier release wrote


class Arrivals(Takeovers, frozen=True, kw_only=True, rename={"applied_ids": "heard"}):
    """How clusters joined, besides when the hub was first configured to issue for each of them.

    ``joined`` are those whose every namespace was read back with the hub's bundle. ``own`` are the pinned CAs (SHA-256)
    that a cluster came with: while no takeover was ``declared`` (when an operator last did), they go on issuing
    there; it says nothing of a CA that is found later. All but ``own`` lasts while a cluster is registered:
    it is not known who issued while it was not, so it starts over. ``applied_ids`` are the operations (ids) that
    declared last, so that none is applied twice. ``trust_bundles`` are the clusters whose ClusterTrustBundle was seen:
    from then on it counts, whether it can be read or not. ``longest`` is how long leaves from before the hub may live
    (seconds), and ``gone`` until when they may in clusters that are registered no more. ``served`` says since when the
    own CA of a cluster delivers the hub's roots, ``provided`` since when the hub provides the certificate of every
    istiod there. ``names`` are those that the listener has or had, with when each was taken out of the configuration
    (0: it has it still).
    """

    joined: list[str] = msgspec.field(default_factory=list)
    own: dict[str, list[str]] = msgspec.field(default_factory=dict)
    declared: dict[str, float] = msgspec.field(default_factory=dict)
    applied_ids: list[str] = msgspec.field(default_factory=list)
    trust_bundles: list[str] = msgspec.field(default_factory=list)
    served: dict[str, float] = msgspec.field(default_factory=dict)
    provided: dict[str, float] = msgspec.field(default_factory=dict)
    longest: dict[str, float] = msgspec.field(default_factory=dict)
    gone: dict[str, float] = msgspec.field(default_factory=dict)
    names: dict[str, float] = msgspec.field(default_factory=dict)

    def taken_over(self, cluster: str) -> float | None:
        """Since when the hub alone issues for a registered cluster; None: its own CA still does."""
        if self.own.get(cluster) and cluster not in self.declared:
            return None
        return max(self.since.get(cluster, 0.0), self.declared.get(cluster, 0.0))


class RotationStore:
    """Reads and writes them. Every failure is a StateUnavailable: nothing is guessed."""

    def __init__(self, store: StateStore, *, now: Callable[[], float] = lambda: 0.0) -> None:
        """``now`` is in seconds since the epoch."""
        self._store = store
        self._now = now
        self._version: str | None = None
        self._directives_version: str | None = None
        self.record = RotationRecord()
        self.arrivals: Arrivals | None = None
        """As it was last read or written; None before."""
        self._memories: tuple[Arrivals | None, dict[str, JoiningMemory]] = None, {}
        self.ahead: dict[str, int] = {}
        """Clusters that have a later generation (its number) than the state knows: they get no certificates."""

        self.others: dict[str, str] = {}
        """Clusters that are left to another hub (its identity): they get none either."""
        self.met: list[str] | None = None
        """Clusters that a controller has read since they were registered: they alone get any; None: all do."""

    async def load(self) -> RotationRecord:
        """The record as it is persisted; an empty one where none ever was.

        The version of the directives is read before the record: a leader that writes directives by a newer record than
        this one changes it after that, and :meth:`issue_directives` then notices. Raises StateUnavailable where there
        was a record and it is gone, or is older than the directives: it would take back what has been done since.
        """
        directives = await self._store.read(DIRECTIVES)
        self._directives_version = directives.version if directives is not None else None
        given = (
            decode(directives.data, SigningDirectives, key=DIRECTIVES)
            if directives is not None
            else SigningDirectives()
        )
        self.ahead, self.others = self.ahead or given.ahead, self.others or given.others
        self.met = given.met if self.met is None else self.met
        given = replace(given, ahead={}, others={}, met=None)
        stored = await self._store.read(ROTATION)
        if stored is None:
            if self._version is not None or given != SigningDirectives():
                raise _lost("there was a record of rotations, and it is gone")
            self.record = RotationRecord()
            return self.record
        record = decode(stored.data, RotationRecord, key=ROTATION)
        if self._version is not None and UNCOUNTED < record.revision < self.record.revision:
            return await self._put_back(stored, record)
        if given.rotation > signing_directives(record).rotation:
            raise _lost(f"signers follow rotation {given.rotation}, and the record is an older one")
        if given.revision > record.revision > UNCOUNTED:
            raise _lost(
                f"signers follow revision {given.revision} of the record, and revision {record.revision} is there"
            )
        self._version, self.record = stored.version, record
        return record

    async def check(self) -> bool:
        """Check whether the record is still what was last read or written here; True where another one is in force.

        Raises StateConflict where another controller wrote a later one, StateUnavailable where it is gone.
        """
        if self._version is None:
            return False
        stored = await self._store.read(ROTATION)
        if stored is not None and stored.version == self._version:
            return False
        before = self.record
        return (await self.load()).revision != before.revision

    async def _put_back(self, stored: Stored, older: RotationRecord) -> RotationRecord:
        """Write the record that is known here over an older one: what was done since would be done again, or undone."""
        found = Setback(
            at=self._now(),
            what=f"the record of rotations was set back to revision {older.revision} of {self.record.revision}",
            done="the record that the leading controller knew was written over it",
        )
        _logger.error("%s: %s", found.what, found.done)
        self._version = stored.version
        await self.save(with_setback(self.record, found))
        return self.record

    async def save(self, record: RotationRecord) -> None:
        """Persist the record. Raises StateConflict where another controller wrote since it was read.

        After a StateUnavailable it may have been written all the same: it has to be loaded again.
        """
        if record == self.record:
            return
        record = replace(record, revision=self.record.revision + 1)
        data = encode(record)
        if self._version is None:
            self._version = await self._store.write(ROTATION, data, create=True)
        else:
            self._version = await self._store.write(ROTATION, data, expected=self._version)
        before, self.record = self.record, record
        _log_changes(before, record)

    async def issue_directives(self) -> SigningDirectives:
        """Make the persisted directives those of the record; the directives.

        Raises StateConflict where they were written since they were read here: another controller may lead by now,
        and the record has to be read again.
        """
        directives = replace(
            signing_directives(self.record), ahead=self.ahead, others=self.others, met=self.met
        )
        stored = await self._store.read(DIRECTIVES)
        if (stored.version if stored is not None else None) != self._directives_version:
            raise StateConflict("another controller wrote it", where=DIRECTIVES)
        if stored is None:
            if directives != SigningDirectives():
                self._directives_version = await self._store.write(
                    DIRECTIVES, encode(directives), create=True
                )
            return directives
        if decode(stored.data, SigningDirectives, key=DIRECTIVES) != directives:
            self._directives_version = await self._store.write(
                DIRECTIVES, encode(directives), expected=stored.version
            )
            _logger.info("directives of rotation %d: %s", directives.rotation, directives.state or "at rest")
        return directives

    @property
    def applied_ids(self) -> frozenset[str]:
        """The operations (ids) that were applied last, whether that could be reported or not."""
        return frozenset(
            {*self.record.applied_ids, *(self.arrivals.applied_ids if self.arrivals is not None else ())}
        )

    def remembered(self, cluster: str) -> JoiningMemory | None:
        """What is persisted of how that cluster joined; None before anything was read."""
        arrivals = self.arrivals
        if arrivals is None:
            return None
        if self._memories[0] is not arrivals:
            self._memories = arrivals, {}
        memories = self._memories[1]
        if cluster not in memories:  # members ask several times a second
            memories[cluster] = JoiningMemory(
                joined=cluster in arrivals.joined,
                own=frozenset(arrivals.own.get(cluster, ())),
                issuing=arrivals.taken_over(cluster) is None,
                trust_bundle=cluster in arrivals.trust_bundles,
            )
        return memories[cluster]

    async def takeovers(self, clusters: Iterable[str], now: float) -> dict[str, float]:
        """Since when the hub issues for each of these clusters, remembering those that are new."""
        return (await self.arrive(clusters, now)).since

    async def arrive(
        self,
        clusters: Iterable[str],
        now: float,
        *,
        joined: Collection[str] = (),
        own: Mapping[str, Collection[str]] | None = None,
        trust_bundles: Mapping[str, bool] | None = None,
        served: Mapping[str, bool | None] | None = None,
        provided: Mapping[str, bool | None] | None = None,
        longest: Mapping[str, float] | None = None,
        names: Collection[str] = (),
    ) -> Arrivals:
        """How clusters joined, with what is seen of the registered ones now.

        ``trust_bundles`` says of some whether their ClusterTrustBundle is there, or counts no more; ``served`` and
        ``provided`` whether that is so at present, None where that was not seen. ``longest`` is how long leaves from
        before the hub may live in each. ``names`` are those of the listener by now; none: they are not known here.
        """
        bundles = trust_bundles or {}
        registered = frozenset(clusters)

        def met(before: Arrivals) -> Arrivals:
            since = {name: now for name in sorted(registered) if name not in before.since}
            own_now = {
                name: sorted({*before.own.get(name, ()), *found})
                for name, found in sorted((own or {}).items())
                if found
            }
            grown = {name for name, found in own_now.items() if set(found) - {*before.own.get(name, ())}}
            return replace(
                before,
                since={name: at for name, at in before.since.items() if name in registered} | since,
                joined=sorted(registered & {*before.joined, *joined}),
                trust_bundles=sorted(
                    name for name in registered if bundles.get(name, name in before.trust_bundles)
                ),
                own=before.own | own_now,
                declared={
                    name: at
                    for name, at in before.declared.items()
                    if name in registered and name not in grown
                },
                served=_since(before.served, served or {}, registered, now),
                provided=_since(before.provided, provided or {}, registered, now),
                longest={
                    name: life
                    for name, life in {**before.longest, **(longest or {})}.items()
                    if name in registered
                },
                gone=_gone(before, registered, now),
                names=_names(before.names, names, now) if names else before.names,
            )

        return await self._arrive(met)

    async def declare(self, cluster: str, now: float, *, applied_ids: str = "") -> None:
        """Record that from now on the hub alone issues there. Declared again, it counts from then on.

        ``applied_ids`` is the operation (id) that declares it.
        """
        await self._arrive(
            lambda before: replace(
                before,
                declared=before.declared | {cluster: now},
                applied_ids=and_applied(before.applied_ids, applied_ids),
            )
        )
        _logger.warning("the hub has taken over the cluster %s", cluster, extra={"cluster": cluster})

    async def meet(self) -> Arrivals:
        """How clusters joined, as it is persisted."""
        return await self._arrive(lambda before: before)

    async def _arrive(self, change: Callable[[Arrivals], Arrivals]) -> Arrivals:
        """What is persisted, changed. Raises StateConflict where another controller wrote in between."""
        stored = await self._store.read(TAKEOVERS)
        before = decode(stored.data, Arrivals, key=TAKEOVERS) if stored is not None else Arrivals()
        after = change(before)
        if after != before:
            data = encode(after)
            if stored is None:
                await self._store.write(TAKEOVERS, data, create=True)
            else:
                await self._store.write(TAKEOVERS, data, expected=stored.version)
        if after != self.arrivals:  # else what was derived from it holds
            self.arrivals = after
        return after


def with_setback(record: RotationRecord, found: Setback) -> RotationRecord:
    """The record with one more time that state was set back."""
    return replace(record, setbacks=[*record.setbacks, found][-MOST_SETBACKS:])


def and_applied(applied_ids: list[str], operation: str) -> list[str]:
    """The operations that were applied last, with that one (its id; empty for none)."""
    return [*applied_ids, operation][-MOST_APPLIED:] if operation else applied_ids


def _names(before: Mapping[str, float], configured: Collection[str], now: float) -> dict[str, float]:
    """The names of the listener, and when those were taken away that it has no more, the latest of them."""
    gone = {name: at or now for name, at in before.items() if name not in configured}
    recent = sorted((at, name) for name, at in gone.items() if at + NAMES_REMEMBERED > now)[-MOST_NAMES:]
    return {name: at for at, name in sorted(recent)} | dict.fromkeys(sorted(configured), 0.0)


def _gone(before: Arrivals, registered: frozenset[str], now: float) -> dict[str, float]:
    """Until when leaves from before the hub may live in clusters that were removed; what ended a day ago is left out.

    Of a CA that went on issuing only what it had issued by then counts: it is no part of the mesh any more. One
    that is registered again starts over, and what was alive when it was removed still counts.
    """
    ends = {name: until for name, until in before.gone.items() if until + FORGOTTEN > now}
    for name, since in before.since.items():
        if name not in registered:
            taken = before.taken_over(name)
            life = before.longest.get(name, UNKNOWN_LIFE)
            until = (now if taken is None else max(since, taken)) + life
            if until > now:
                ends[name] = max(until, ends.get(name, 0.0))
    return ends


def _since(
    before: Mapping[str, float], seen: Mapping[str, bool | None], registered: frozenset[str], now: float
) -> dict[str, float]:
    """Since when something is so, by cluster: what was seen not to be so begins anew."""
    lasting = {name: at for name, at in before.items() if name in registered and seen.get(name) is not False}
    return lasting | {name: now for name, is_so in seen.items() if is_so and name not in lasting}


def _lost(what: str) -> StateUnavailable:
    return StateUnavailable(
        what,
        where=ROTATION,
        remedy="restore it from the latest backup of the state; until then no rotation goes on and no other "
        "generation is made. Only where no rotation was ever started, remove `orders` as well",
    )


def summary_of(record: RotationRecord) -> str:
    """What operations change, in a line: the rotation's number and state, its wave, and the quarantines."""
    rotation = record.rotation
    said = "no rotation" if rotation is None else f"rotation {rotation.number} {rotation.state.value}"
    if rotation is not None and rotation.wave:
        said += f", wave {rotation.wave}"
    clusters = sorted(record.quarantined)
    if clusters:
        more = f" and {len(clusters) - MOST_NAMED} more" if len(clusters) > MOST_NAMED else ""
        said += f"; quarantined {', '.join(clusters[:MOST_NAMED])}{more}"
    if record.compromised:
        said += f"; compromised {len(record.compromised)}"
    return said


def _log_changes(before: RotationRecord, after: RotationRecord) -> None:
    rotation = after.rotation
    known = before.rotation.history if before.rotation is not None else []
    if rotation is not None and rotation.history and rotation.history != known:
        step = rotation.history[-1]
        _logger.info(
            "rotation %d: %s to %s: %s",
            rotation.number,
            step.before.value,
            step.after.value,
            step.reason,
            extra={"author": step.author, "rotation": rotation.number, "state": rotation.state.value},
        )
    for name in sorted(after.quarantined.keys() ^ before.quarantined.keys()):
        what = "quarantined" if name in after.quarantined else "released from quarantine"
        _logger.warning("the cluster %s is %s", name, what, extra={"cluster": name})
    summaries = summary_of(before), summary_of(after)
    if summaries[0] != summaries[1]:
        _audit.info(
            "the record of rotations: %s, before: %s",
            summaries[1],
            summaries[0],
            extra=audit_fields(
                "change_rotation",
                actor="controller",  # by an operation, whose own lines say whose, or because a gate opened
                actor_kind="leader",
                source=NONE,
                object="rotation",
                before=summaries[0],
                after=summaries[1],
            ),
        )
