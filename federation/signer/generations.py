"""The generation in force for each cluster, and the directives, verified: what the controller wrote is not trusted.

**The signer does not trust the controller.** A generation is accepted only where its bytes are what its digest says,
its trust domain is the mesh's, its number does not run backwards, and every self-signed anchor in it is pinned by the
signer's own configuration. Otherwise the last good one stays in force and the reason is reported. While a root is
removed in waves, clusters that wait for theirs are given an older generation, which is verified by the same rules.
One that cannot be verified stops the clusters that it is meant for, and no other.

**Directives** say which intermediate signs where, and who gets nothing. No document means that it is not recorded what
is in force. Directives that were read stay until others are read: what is damaged, gone, of an earlier rotation or of
an earlier revision of the record changes nothing, and ``revalidation.py`` keeps a signer that cannot read them from
going on for long.

**Pins that are gone.** A pin that is taken out of the configuration is a pending change: the anchor stays in the
bundle until nothing needs it, and the pin counts until then. The signer would refuse that bundle after its next start,
so it persists which anchors of a verified bundle its own configuration pinned, under ``pins/<replica>``, ahead of any
removal. Nothing gets in there but by the signer's own configuration, and it is forgotten once no generation in force
has it. What signers of the same hub remember counts as well: a replica that was started later reads what the others
knew. Where the store keeps what signers write apart from what controllers write (Kubernetes objects), no other process
can put an anchor there; for files see ``docs/security.md``.

**One poller** reads all of it (:class:`TrustPoller`): again and again for requests, which read memory alone, and once
more when an expiry bound was written (``expiry_bounds.py``), so that what is read then is at least as new as the bound.

**Pinned roots** are read from their files, for judging a successor before its root is published. A fingerprint names
one certificate exactly, so what was read once is never read again, and a file that vanishes takes nothing away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Final, TypeAlias

import msgspec

from federation.core.clock import Clock
from federation.core.config.hub import AnchorPin
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import CURRENT, DIRECTIVES, PINS, StateDamaged, generation_key
from federation.core.documents.signer import PinsTable
from federation.core.documents.trust import Current, Generation
from federation.core.errors import FederationError, InvalidValue, NotReady, StateUnavailable
from federation.core.identity import TrustDomain, another_mesh
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import MAX_PEM_BYTES, find_certificate
from federation.core.rotation.effects import SigningDirectives
from federation.core.trust.bundle import TrustBundle
from federation.files import Reading, read_bounded
from federation.signer.authorities.selection import require_served
from federation.state.store import StateStore, read_many

_logger = logging.getLogger(__name__)

UNPINNED: Final = "generation_unpinned"


@dataclass(frozen=True, slots=True)
class AcceptedTrust:
    """A generation that was verified."""

    number: int
    sha256: str
    bundle_pem: bytes = field(repr=False)
    anchors: tuple[Certificate, ...] = field(repr=False)


def verify_generation(
    generation: Generation, *, number: int, digest: str, trust_domain: TrustDomain, pins: frozenset[str]
) -> AcceptedTrust:
    """The generation of that number (and, unless it is empty, of that SHA-256), verified.

    Raises InvalidValue with the reason ``generation_digest``, ``generation_trust_domain``,
    ``generation_invalid`` or ``generation_unpinned``.
    """
    key = generation_key(number)
    pem = generation.bundle_pem.encode()
    if (
        generation.number != number
        or sha256(pem).hexdigest() != generation.sha256
        or digest not in {"", generation.sha256}
    ):
        raise InvalidValue(
            "the bundle is not what its digest says",
            where=key,
            remedy="restore this document from a backup of the state: it was damaged, or changed by hand",
            reason="generation_digest",
        )
    if generation.trust_domain != str(trust_domain):
        raise InvalidValue(
            f"it is for the trust domain {generation.trust_domain[:80]!r}, not {trust_domain}",
            where=key,
            remedy=another_mesh(generation.trust_domain[:80]),
            reason="generation_trust_domain",
        )
    try:
        bundle = TrustBundle.from_pem(pem, where=key, trust_domain=trust_domain)
    except InvalidValue as error:
        raise InvalidValue(str(error), where=key, reason="generation_invalid") from None
    unpinned = bundle.unpinned(pins)
    if unpinned:
        first = unpinned[0].certificate
        raise InvalidValue(
            f"it holds {len(unpinned)} anchor(s) that this signer's configuration does not pin and, as far as it"
            f" remembers, never pinned, first {first.subject} ({first.sha256})",
            where=key,
            remedy="pin it in the configuration, or find out who wrote this generation",
            reason=UNPINNED,
        )
    if bundle.pem != pem:
        raise InvalidValue(
            "its bytes are not a bundle as the hub writes it", where=key, reason="generation_invalid"
        )
    return AcceptedTrust(generation.number, generation.sha256, pem, bundle.certificates)


POLL: Final = 0.5  # seconds: a rotation waits for the slowest signer
SOONEST: Final = 0.05
"""Seconds between two polls right after a start or a change. One follows from another then: a generation, who is
served, the next step. Each poll waits a quarter of the time since the last change, until that is :data:`POLL`."""

READ_TIMEOUT: Final = 5.0


class Directives:
    """The signing directives; ``in_force`` is None until it was read whether there are any."""

    def __init__(self, store: StateStore, *, on_change: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._on_change = on_change
        self._reading = asyncio.Lock()
        self._version = ""
        self.in_force: SigningDirectives | None = None
        self.problem: StateUnavailable | None = None

    async def catch_up(self) -> SigningDirectives:
        """The directives that are in force at some instant after the call, taken up. Raises StateUnavailable."""
        try:
            async with asyncio.timeout(READ_TIMEOUT), self._reading:  # an older answer never comes later
                directives = await self._read()
        except TimeoutError:
            raise StateUnavailable(f"no answer in {READ_TIMEOUT:g} s", where=DIRECTIVES) from None
        self.problem = None
        if directives != self.in_force:
            self.in_force = directives
            if directives.rotation:
                _logger.info(
                    "rotation %d is in %s",
                    directives.rotation,
                    directives.state,
                    extra={"rotation": directives.rotation, "state": directives.state},
                )
            self._on_change()
        return directives

    async def _read(self) -> SigningDirectives:
        stored = await self._store.read(DIRECTIVES)
        known = self.in_force
        if stored is None:
            if self._version:
                raise StateUnavailable(
                    "the state store holds no directives any more",
                    where=DIRECTIVES,
                    remedy="nothing, where the controller writes them; else restore the newest backup of the state",
                    reason="directives_missing",
                )
            return SigningDirectives()
        if known is not None and stored.version == self._version:
            return known
        directives = decode(stored.data, SigningDirectives, key=DIRECTIVES)
        if known is not None and directives.rotation < known.rotation:
            raise _directives_backwards(
                f"these are of rotation {directives.rotation}, and rotation {known.rotation} has begun"
            )
        # A revision of 0 is of a controller that counts none.
        if known is not None and 0 < directives.revision < known.revision:
            raise _directives_backwards(
                f"these are of revision {directives.revision} of the record, and revision {known.revision} was followed"
            )
        self._version = stored.version
        return directives

    def fail(self, problem: StateUnavailable) -> None:
        """Keep why they could not be read; logged where it is another reason than before."""
        if str(problem) != str(self.problem):
            _logger.error(
                "the directives are not taken up: %s", problem.diagnostics(), extra={"reason": problem.reason}
            )
        self.problem = problem.without_frames()


def _directives_backwards(what: str) -> StateUnavailable:
    return StateUnavailable(
        what,
        where=DIRECTIVES,
        remedy="restore the newest backup of the state, then restart every role",
        reason="directives_backwards",
    )


MOST_REPLICAS: Final = 256
MOST_ANCHORS: Final = (
    1024  # of one bundle: it holds 900 KiB, and a certificate takes more than 900 bytes of it
)
TIMEOUT: Final = 5.0


class PinHistory:
    """The anchors that this signer's configuration pinned while a bundle had them; ``known`` are their SHA-256."""

    def __init__(self, store: StateStore, *, replica: str) -> None:
        self._store = store
        self._replica = replica
        self._key = f"{PINS}{replica}"
        self._written: frozenset[str] | None = None
        self._problem = ""
        self._loaded = False
        self.known: frozenset[str] = frozenset()

    def read_again(self) -> None:
        """Have the next :meth:`load` read it all anew: another signer may know a pin that was here too short a time."""
        self._loaded = False

    async def load(self) -> None:
        """Read what was remembered before this process began, once. Raises StateUnavailable.

        A document that is damaged, or says that it is of another signer, remembers nothing.
        """
        if self._loaded:
            return
        found: set[str] = set()
        async with asyncio.timeout(TIMEOUT):
            keys = (await self._store.keys(PINS))[:MOST_REPLICAS]
            for key, stored in (await read_many(self._store, keys)).items():
                if stored is None:
                    continue
                try:
                    if isinstance(stored, StateDamaged):
                        raise stored
                    table = decode(stored.data, PinsTable, key=key)
                except StateDamaged as error:
                    _logger.error("remembered pins cannot be read: %s", error.diagnostics())
                    continue
                if key != f"{PINS}{table.replica}":
                    _logger.error("remembered pins of %s are kept as those of another signer", key)
                    continue
                if key == self._key:
                    self._written = frozenset(table.anchors)
                found |= {*table.anchors[:MOST_ANCHORS]}
        self.known, self._loaded = self.known | found, True

    async def keep(self, verified: Iterable[Certificate], pins: frozenset[str]) -> None:
        """Remember those anchors of the bundles in force that are pinned or were; forget every other one.

        What cannot be persisted is logged and tried again at the next call.
        """
        anchors = {anchor.sha256 for anchor in verified if anchor.is_self_signed}
        self.known = frozenset(anchors & (pins | self.known))
        if self.known == self._written:
            return
        table = PinsTable(replica=self._replica, anchors=sorted(self.known))
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._store.write(self._key, encode(table))
        except (StateUnavailable, TimeoutError) as error:
            problem = str(error) or f"no answer in {TIMEOUT:g} s"
            if problem != self._problem:
                _logger.error("what this signer pins cannot be remembered: %s", problem)
            self._problem = problem
            return
        self._written, self._problem = self.known, ""


MOST_OLDER: Final = 8
"""Older generations in force at once: a rotation needs one, and each may hold a megabyte in memory."""


_Given: TypeAlias = AcceptedTrust | FederationError


@dataclass(frozen=True, slots=True)
class TrustInForce:
    """The newest generation, and the older one of each cluster behind it, or why that is not accepted."""

    newest: AcceptedTrust
    behind: Mapping[str, _Given] = field(default_factory=dict)

    def for_cluster(self, cluster: str) -> AcceptedTrust:
        """What that cluster is given. Raises NotReady where that was not accepted."""
        given = self.behind.get(cluster, self.newest)
        if isinstance(given, FederationError):
            raise NotReady(
                f"the generation that it is to get is not accepted: {given}",
                where=cluster,
                remedy=given.remedy,
                reason=given.reason,
            )
        return given

    @property
    def generations(self) -> Iterator[AcceptedTrust]:
        """Every generation that some cluster is given."""
        older = {given.number: given for given in self.behind.values() if isinstance(given, AcceptedTrust)}
        return iter({self.newest.number: self.newest, **older}.values())

    @property
    def anchors(self) -> Iterable[Certificate]:
        """The anchors of all of them, each once."""
        return dict.fromkeys(anchor for trust in self.generations for anchor in trust.anchors)

    @property
    def resolved(self) -> bool:
        """True where every cluster has a generation."""
        return not any(isinstance(given, FederationError) for given in self.behind.values())

    def differs_from(self, other: TrustInForce | None) -> bool:
        """True where some cluster is given something else."""
        return other is None or self.content != other.content

    @property
    def content(self) -> tuple[AcceptedTrust, dict[str, object]]:
        """What makes it another one where it differs."""
        behind: dict[str, object] = {
            name: str(given) if isinstance(given, FederationError) else given
            for name, given in self.behind.items()
        }
        return self.newest, behind


class Generations:
    """The generations in force, verified; ``in_force`` is None until one was accepted."""

    def __init__(
        self,
        store: StateStore,
        *,
        trust_domain: TrustDomain,
        pins: frozenset[str],
        on_change: Callable[[TrustInForce], None] = lambda _: None,
        history: PinHistory | None = None,
    ) -> None:
        """``history`` are pins that this signer's configuration had, and that the bundle may still contain."""
        self._store = store
        self._trust_domain = trust_domain
        self._pins = pins
        self._on_change = on_change
        self._reading = asyncio.Lock()
        self._seen: Current | None = None
        self._history = history
        self._judged_by = pins
        self._floors: dict[str, int] = {}
        self.in_force: TrustInForce | None = None
        self.problem: FederationError | None = None

    @property
    def newest(self) -> AcceptedTrust | None:
        """The newest generation; None until one was accepted."""
        return self.in_force.newest if self.in_force is not None else None

    def configure(self, *, pins: frozenset[str]) -> None:
        """Verify by these pins from now on; what was accepted stays until the next generation."""
        if pins != self._pins:
            self._pins = pins
            self._seen = None  # verified again: it may be accepted now, or no longer

    async def catch_up(self) -> Current | None:
        """What is in force by the state store at some instant after the call, taken up if it is accepted.

        Raises StateUnavailable where that cannot be read.
        """
        try:
            async with asyncio.timeout(READ_TIMEOUT), self._reading:  # an older answer never comes later
                stored = await self._store.read(CURRENT)
                current = decode(stored.data, Current, key=CURRENT) if stored is not None else None
                await self._take_up(current)
                await self._remember()
        except TimeoutError:
            raise StateUnavailable(f"no answer in {READ_TIMEOUT:g} s", where="the state store") from None
        return current

    async def _remember(self) -> None:
        """Persist which anchors in force are pinned here, before any of these pins can go."""
        if self._history is not None and self.in_force is not None:
            await self._history.keep(self.in_force.anchors, self._pins)

    async def _take_up(self, current: Current | None) -> None:
        try:
            in_force = await self._verify(current)
        except (StateUnavailable, InvalidValue) as error:
            self.fail(error)
            if self._history is not None and error.reason == UNPINNED:
                self._history.read_again()
            return
        if in_force is None:
            return
        before, self.in_force = self.in_force, in_force
        self._floors = {
            cluster: given.number if isinstance(given, AcceptedTrust) else self._floor(cluster, before)
            for cluster, given in in_force.behind.items()
        }
        if not in_force.differs_from(before):
            return
        if before is None or before.newest.number != in_force.newest.number:
            number = in_force.newest.number
            _logger.info("generation %d of the bundle is in force", number, extra={"generation": number})
        for cluster, given in sorted(in_force.behind.items()):
            if isinstance(given, FederationError):
                _logger.error(
                    "nothing can be issued there: %s",
                    given.diagnostics(),
                    extra={"cluster": cluster, "reason": given.reason},
                )
        self._on_change(in_force)

    async def _verify(self, current: Current | None) -> TrustInForce | None:
        """What to use, or None where there is nothing new to decide."""
        known = self.in_force
        if self._history is not None:
            await self._history.load()
        if current is None:
            if known is not None:
                raise InvalidValue(
                    "the state store names no generation any more", where=CURRENT, reason="generation_missing"
                )
            return None
        anew = current != self._seen or known is None
        if not anew and known is not None and known.resolved:
            if isinstance(self.problem, StateUnavailable):
                self.problem = None
            return None
        if known is not None and current.number < known.newest.number:
            raise _generation_backwards(current.number, known.newest.number)
        newest = (
            await self._read(current.number, digest=current.sha256) if anew or known is None else known.newest
        )
        problem: FederationError | None = None
        behind: dict[str, _Given] = {}
        for cluster, number in sorted(current.behind.items()):
            if number == current.number:
                continue
            floor = self._floor(cluster, known)
            before = known.behind.get(cluster, known.newest) if known is not None else None
            if number < floor and before is not None:
                problem = _generation_backwards(number, floor)
                behind[cluster] = before
            else:
                behind[cluster] = await self._older(number, newest, behind)
        self._seen, self._judged_by = current, self._pins
        self.problem = None
        if problem is not None:
            self.fail(problem)
        return TrustInForce(newest, behind)

    def _floor(self, cluster: str, known: TrustInForce | None) -> int:
        """The newest generation that this cluster was ever given here."""
        return self._floors.get(cluster, known.newest.number if known is not None else 0)

    async def _older(self, number: int, newest: AcceptedTrust, found: Mapping[str, _Given]) -> _Given:
        if not 0 < number < newest.number:
            return InvalidValue(
                f"generation {number} is not one before {newest.number}",
                where=CURRENT,
                remedy="restore `current` from a backup of the state, and find out who wrote that",
                reason="generation_ahead",
            )
        known = {given.number: given for given in found.values() if isinstance(given, AcceptedTrust)}
        if self.in_force is not None and self._judged_by == self._pins:
            known |= {trust.number: trust for trust in self.in_force.generations}
        if number in known:
            return known[number]
        if len({given.number for given in found.values() if isinstance(given, AcceptedTrust)}) >= MOST_OLDER:
            return InvalidValue(
                f"more than {MOST_OLDER} older generations would be in force",
                where=CURRENT,
                remedy="let fewer waves be under way",
                reason="generation_excess",
            )
        try:
            return await self._read(number)
        except (StateUnavailable, InvalidValue) as error:
            return error

    async def _read(self, number: int, *, digest: str = "") -> AcceptedTrust:
        key = generation_key(number)
        stored = await self._store.read(key)
        if stored is None:
            raise InvalidValue(
                "the generation in force is not in the state store", where=key, reason="generation_missing"
            )
        trust = verify_generation(
            decode(stored.data, Generation, key=key),
            number=number,
            digest=digest,
            trust_domain=self._trust_domain,
            pins=self._pins | (self._history.known if self._history is not None else frozenset()),
        )
        known = self.in_force.generations if self.in_force is not None else ()
        if any(one.number == number and one.sha256 != trust.sha256 for one in known):
            raise InvalidValue("it was changed after it was written", where=key, reason="generation_changed")
        return trust

    def fail(self, problem: FederationError) -> None:
        """Keep why it is not taken up; logged where it is another reason than before."""
        if str(problem) != str(self.problem):
            _logger.error(
                "the generation in force is not taken up: %s",
                problem.diagnostics(),
                extra={"reason": problem.reason},
            )
        self.problem = problem.without_frames()


def _generation_backwards(number: int, known: int) -> InvalidValue:
    return InvalidValue(
        f"generation {number} is older than {known}, which is in force here",
        where=CURRENT,
        remedy="nothing, where the controller makes a newer one; otherwise restore the newest backup of the state",
        reason="generation_backwards",
    )


class IssuanceContext(msgspec.Struct, frozen=True):
    """What a leaf for one cluster is made by: the generation that it is delivered with, and the directives."""

    trust: AcceptedTrust
    directives: SigningDirectives


class TrustPoller:
    """Reads from the state store what is in force, again and again, and gives each request its context.

    It is the only reader of the directives, of the generations and of the pins that were. Both documents are read
    every :data:`POLL` seconds, sooner after a change, and one that cannot be read keeps the other from nothing.
    Requests read memory alone.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        clock: Clock,
        trust_domain: TrustDomain,
        pins: frozenset[str],
        history: PinHistory | None = None,
        on_trust: Callable[[TrustInForce], None] = lambda _: None,
        on_directives: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_trust`` and ``on_directives`` are called after a change was taken up."""
        self._clock = clock
        self.directives = Directives(store, on_change=on_directives)
        self.generations = Generations(
            store, trust_domain=trust_domain, pins=pins, on_change=on_trust, history=history
        )

    async def run(self) -> None:
        """Poll until cancelled. While a read of the generation hangs, a quarantine in the directives is still seen."""
        async with asyncio.TaskGroup() as group:
            for document in (self.directives, self.generations):
                group.create_task(self._repeat(document))

    async def poll(self) -> None:
        """Read both once; what is wrong is kept as the ``problem`` of each."""
        for document in (self.directives, self.generations):
            await self._poll(document)

    async def _repeat(self, document: Directives | Generations) -> None:
        changed_at = self._clock.monotonic()
        while True:
            before = document.in_force
            await self._poll(document)
            now = self._clock.monotonic()
            if document.in_force is not before:
                changed_at = now
            await self._clock.sleep(min(POLL, max(SOONEST, (now - changed_at) / 4)))

    async def _poll(self, document: Directives | Generations) -> None:
        try:
            await document.catch_up()
        except StateUnavailable as error:
            document.fail(error)

    async def catch_up(self) -> tuple[Current | None, SigningDirectives]:
        """What is in force by the store, both read after the call, and taken up. Raises StateUnavailable.

        A signer calls it after it has written an expiry bound: docs/decisions/0023 rests on that order.
        """
        directives = await self.directives.catch_up()
        return await self.generations.catch_up(), directives

    def context(self, cluster: str) -> IssuanceContext:
        """The generation and the directives for that cluster, as they are now; empty for the hub itself.

        Raises NotReady where there is no bundle or there are no directives yet, where the cluster's generation is not
        accepted, and where the cluster gets nothing.
        """
        trust, directives = self.generations.in_force, self.directives.in_force
        if trust is None:
            raise NotReady("there is no bundle yet", reason="no_bundle")
        if directives is None:
            raise NotReady(
                f"the directives of the controller were not read yet: {self.directives.problem or 'starting'}",
                reason="no_directives",
            )
        require_served(directives, cluster)
        return IssuanceContext(trust.for_cluster(cluster), directives)


FILE_RETRY: Final = 2.0  # seconds between attempts at files that could not be read


class PinnedRoots:
    """Reads the roots of the hub's own trust domain; ``on_change`` is given all that are known."""

    def __init__(
        self, *, trust_domain: TrustDomain, clock: Clock, on_change: Callable[[tuple[Certificate, ...]], None]
    ) -> None:
        self._trust_domain = trust_domain
        self._clock = clock
        self._on_change = on_change
        self._reading = Reading()
        self._pins: tuple[AnchorPin, ...] = ()
        self._known: dict[str, Certificate] = {}
        self._reported: tuple[Certificate, ...] = ()
        self._problems: dict[str, str] = {}

    def configure(self, pins: Iterable[AnchorPin]) -> None:
        """Know these from now on, and forget all others."""
        self._pins = tuple(pin for pin in pins if pin.trust_domain == self._trust_domain)
        pinned = {pin.sha256 for pin in self._pins}
        self._known = {sha256: root for sha256, root in self._known.items() if sha256 in pinned}
        self._report()

    async def run(self) -> None:
        """Keep reading what is not known yet, until cancelled."""
        while True:
            await self.read()
            await self._clock.sleep(FILE_RETRY)

    async def read(self) -> None:
        """Read what is not known yet, once; what cannot be read is logged and tried again."""
        for pin in self._pins:
            if pin.sha256 in self._known:
                continue
            try:
                root = await self._one(pin)
            except (InvalidValue, OSError) as error:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                if self._problems.get(pin.sha256) != why:
                    self._problems[pin.sha256] = why
                    _logger.warning("a pinned root cannot be read from %s: %s", pin.file, why)
                continue
            if pin in self._pins:  # the configuration may have changed meanwhile
                self._problems.pop(pin.sha256, None)
                self._known[pin.sha256] = root
        self._report()

    async def _one(self, pin: AnchorPin) -> Certificate:
        data = await self._reading.read(str(pin.file), partial(read_bounded, pin.file, MAX_PEM_BYTES))
        return find_certificate(data, pin.sha256, where=str(pin.file))

    def _report(self) -> None:
        roots = tuple(self._known.values())
        if roots != self._reported:
            self._reported = roots
            self._on_change(roots)
