"""Generations of trust: planned purely, written so that no crash reuses a number or loses one.

The planner decides whether a bundle makes a new generation: only when its bytes change. The ledger writes it
in two steps, ``generations/<number>`` first and only where nothing is there yet, then ``current`` by
compare-and-swap over the version that was read. A crash between the two leaves a number that was never in
force and is never used again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final

from federation.core.audit import NONE, audit_fields
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import CURRENT, GENERATIONS, generation_key
from federation.core.documents.trust import AnchorRecord, Current, Generation
from federation.core.errors import InvalidValue, StateUnavailable
from federation.core.identity import TrustDomain, another_mesh
from federation.core.pki.algorithms import key_problem
from federation.core.trust.bundle import Anchor, TrustBundle, diff
from federation.state.store import StateConflict, StateStore

_logger = logging.getLogger(__name__)
_audit = logging.getLogger("federation.controller.audit")


@dataclass(frozen=True, slots=True)
class InForce:
    """What the store says is in force, with the version of ``current`` to swap against."""

    generation: Generation | None
    version: str | None
    highest: int
    """The highest number that was ever used, whether it came in force or not."""

    behind: Mapping[str, Generation] = field(default_factory=dict)
    """Clusters that still get an older one."""


MOST_PARSED: Final = 4
"""Bundles that are kept parsed: the one in force is looked at several times a second."""

MOST_NAMED: Final = 20
"""Anchors in a line of the audit; the rest is a number."""

ANOTHER_MESH: Final = "another_mesh"
"""The reason where the state is of another trust domain than the configuration."""


def plan_generation(
    bundle: TrustBundle,
    in_force: InForce,
    *,
    now: datetime,
    author: str,
    trust_domain: TrustDomain,
    floor: int = 0,
    evidence: Mapping[str, str] | None = None,
) -> Generation | None:
    """The next generation, or None where ``bundle`` is what is in force, byte for byte.

    ``floor`` is the highest number this process has seen in force: where the store has gone back behind it
    (restored from a backup), the same bytes get a new number, because no signer follows numbers backwards.
    """
    before = in_force.generation
    same = before is not None and (before.sha256, before.trust_domain) == (bundle.sha256, str(trust_domain))
    if before is not None and same and before.number >= floor:
        return None
    return Generation(
        number=max(in_force.highest, floor, before.number if before else 0) + 1,
        created=now.timestamp(),
        reason=describe_change(before, bundle),
        author=author,
        trust_domain=str(trust_domain),
        sha256=bundle.sha256,
        bundle_pem=bundle.pem.decode("ascii"),
        anchors=[anchor_record(anchor) for anchor in bundle.anchors],
        evidence=dict(evidence or {}),
    )


def describe_change(before: Generation | None, bundle: TrustBundle) -> str:
    """What the new bundle adds and removes, in words."""
    if before is None:
        return f"first generation: {len(bundle.anchors)} anchors"
    change = diff(bundle_of(before), bundle)
    words = [
        f"{verb} {', '.join(anchor.certificate.subject for anchor in anchors)}"
        for verb, anchors in (("adds", change.added), ("removes", change.removed))
        if anchors
    ]
    return "; ".join(words) or "the same anchors in another form"


def anchor_record(anchor: Anchor) -> AnchorRecord:
    """The anchor with its provenance and expiry, as it is persisted."""
    certificate = anchor.certificate
    return AnchorRecord(
        sha256=certificate.sha256,
        subject=certificate.subject,
        kind=anchor.kind,
        origin=anchor.origin,
        trust_domain=str(anchor.trust_domain),
        cluster=anchor.cluster or "",
        not_before=certificate.not_before.timestamp(),
        not_after=certificate.not_after.timestamp(),
        foreign_override=anchor.foreign_override,
        odd=certificate.odd_serial or "",
        refused=key_problem(certificate) or "",
    )


def bundle_of(generation: Generation) -> TrustBundle:
    """The bundle of a stored generation. Raises InvalidValue where its bytes are none."""
    return _parsed(generation.bundle_pem, generation_key(generation.number), generation.trust_domain)


@lru_cache(maxsize=MOST_PARSED)
def _parsed(pem: str, where: str, trust_domain: str) -> TrustBundle:
    return TrustBundle.from_pem(pem.encode(), where=where, trust_domain=TrustDomain(trust_domain))


def require_mesh(in_force: InForce, trust_domain: TrustDomain) -> None:
    """Raise StateUnavailable where the state was made for another trust domain: nothing of it is valid in this one."""
    generation = in_force.generation
    if generation is not None and generation.trust_domain != str(trust_domain):
        raise StateUnavailable(
            f"it was made for the trust domain {generation.trust_domain}, and the configuration names {trust_domain}",
            where=generation_key(generation.number),
            remedy=another_mesh(generation.trust_domain),
            reason=ANOTHER_MESH,
        )


class Ledger:
    """The generations of a state store. Every failure is a StateUnavailable: nothing is guessed."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def read(self) -> InForce:
        """What is in force now. Raises StateUnavailable also where a document is damaged or missing."""
        stored = await self._store.read(CURRENT)
        highest = _highest(await self._store.keys(GENERATIONS))
        if stored is None:
            return InForce(None, None, highest)
        current = decode(stored.data, Current, key=CURRENT)
        generation = await self._generation(current.number)
        if generation is None or generation.sha256 != current.sha256:
            raise StateUnavailable(
                "it is in force, but is missing or not what was put in force",
                where=generation_key(current.number),
                remedy="restore it from a backup of the state; nothing is published until then",
            )
        behind = {name: await self._older(number) for name, number in current.behind.items()}
        return InForce(generation, stored.version, max(highest, current.number), behind)

    async def _older(self, number: int) -> Generation:
        generation = await self._generation(number)
        if generation is None:
            raise StateUnavailable(
                "clusters that wait for their wave still get it, and it is missing",
                where=generation_key(number),
                remedy="restore it from a backup of the state; nothing is published until then",
            )
        return generation

    async def keep(self, generations: Iterable[Generation]) -> None:
        """Write those that are missing, as after a restored backup: what some cluster is given has to be there."""
        for generation in generations:
            if await self.generation(generation.number) is None:
                with suppress(StateConflict):
                    await self._store.write(
                        generation_key(generation.number), encode(generation), create=True
                    )

    async def put_behind(self, over: InForce, behind: Mapping[str, Generation]) -> InForce:
        """Have exactly these clusters get an older generation. Raises as :meth:`put_in_force` does."""
        if over.generation is None or over.version is None:
            return over
        current = _current(over.generation, behind)
        version = await self._store.write(CURRENT, encode(current), expected=over.version)
        _logger.info("%d clusters still get an older generation", len(behind))
        return InForce(over.generation, version, over.highest, dict(behind))

    async def put_in_force(
        self, generation: Generation, over: InForce, *, behind: Mapping[str, Generation] | None = None
    ) -> InForce:
        """Write the generation, then make it the one in force in place of ``over``, but for clusters in ``behind``.

        Raises StateConflict where another controller was quicker: read and plan again.
        """
        await self._store.write(generation_key(generation.number), encode(generation), create=True)
        current = encode(_current(generation, behind or {}))
        if over.version is None:
            version = await self._store.write(CURRENT, current, create=True)
        else:
            version = await self._store.write(CURRENT, current, expected=over.version)
        _logger.info(
            "generation %d of the bundle is in force: %s",
            generation.number,
            generation.reason,
            extra={"generation": generation.number, "sha256": generation.sha256},
        )
        _audit.info(
            "generation %d of the bundle is put in force: %s",
            generation.number,
            generation.reason,
            extra={
                **audit_fields(
                    "put_generation_in_force",
                    actor=generation.author,
                    actor_kind="leader",
                    source=NONE,
                    object="bundle",
                    before=_summary_of(over.generation),
                    after=_summary_of(generation),
                ),
                "reason": generation.reason,
            },
        )
        return InForce(generation, version, generation.number, dict(behind or {}))

    async def generation(self, number: int) -> Generation | None:
        """The generation of that number; None where there is none. Raises StateUnavailable where it is damaged."""
        return await self._generation(number)

    async def numbers(self, *, most: int) -> dict[str, int]:
        """The digests of the newest generations with their numbers, to recognise what clusters still hold."""
        known: dict[str, int] = {}
        for key in (await self._store.keys(GENERATIONS))[-most:]:
            try:
                generation = await self._generation(int(key.removeprefix(GENERATIONS)))
            except (StateUnavailable, ValueError) as error:
                _logger.warning("an old generation cannot be read: %s", error, extra={"key": key})
                continue
            if generation is not None:
                known[generation.sha256] = generation.number
        return known

    async def _generation(self, number: int) -> Generation | None:
        key = generation_key(number)
        stored = await self._store.read(key)
        if stored is None:
            return None
        generation = decode(stored.data, Generation, key=key)
        try:
            digest = sha256(generation.bundle_pem.encode()).hexdigest()
            bundle_of(generation)
        except (InvalidValue, UnicodeEncodeError) as error:
            raise StateUnavailable(f"its bundle cannot be read: {error}", where=key) from None
        if generation.number != number or digest != generation.sha256:
            raise StateUnavailable("it is not what its digest or number says", where=key)
        return generation


def _current(generation: Generation, behind: Mapping[str, Generation]) -> Current:
    return Current(
        number=generation.number,
        sha256=generation.sha256,
        behind={name: older.number for name, older in sorted(behind.items())},
    )


def _highest(keys: list[str]) -> int:
    numbers = (key.removeprefix(GENERATIONS) for key in keys)
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _summary_of(generation: Generation | None) -> str:
    """In a line of the audit: its number, and the anchors in it by the start of their fingerprints."""
    if generation is None:
        return NONE
    anchors = sorted(anchor.sha256[:16] for anchor in generation.anchors)
    more = f" and {len(anchors) - MOST_NAMED} more" if len(anchors) > MOST_NAMED else ""
    return f"generation {generation.number}: {', '.join(anchors[:MOST_NAMED])}{more}"
