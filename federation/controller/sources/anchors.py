"""Anchors for the bundle: pinned ones, those that stay without a pin, and the plan that is made of what sources gave.

**Pinned:** the fingerprint in the configuration is the pin, the file is only where its bytes are read from. A file
that vanished, is cut short, half written or holds something else never takes an anchor away: what was known under
that pin stays, out of this process's memory or out of the generation in force. The pin makes that safe, because it
names one certificate exactly, wherever its bytes come from. Files are read bounded in size and time, and reading
never raises.

**Retained without a pin:** their bytes are those of a generation. A generation never changes once it is written, and
the fingerprint names one certificate exactly, so nothing has to be read from the file that a pin once named.

**The plan:** from what sources gave to the bundle that should be in force: a failing source never makes it smaller.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from federation.controller.generations import bundle_of
from federation.core.config.hub import AnchorPin
from federation.core.documents.trust import Generation
from federation.core.errors import InvalidValue
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import MAX_PEM_BYTES, find_certificate
from federation.core.rotation.record import Unpinned
from federation.core.trust.bundle import Anchor, AnchorKind, TrustBundle, diff
from federation.files import Reading, read_bounded

TIMEOUT: Final = 10.0
"""Seconds after which a disk counts as hung; what was known stays, and the loop never waits for it."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of a file, or why it could not be read."""

    data: bytes = field(default=b"", repr=False)
    problem: str = ""


class SourceFiles:
    """Reads files whole."""

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self._reading = Reading(timeout=timeout)

    async def read(self, paths: Iterable[Path]) -> dict[Path, FileContent]:
        """The content of each, all at once."""
        wanted = list(dict.fromkeys(paths))
        return dict(zip(wanted, await asyncio.gather(*map(self._one, wanted)), strict=True))

    async def _one(self, path: Path) -> FileContent:
        try:
            data = await self._reading.read(str(path), partial(read_bounded, path, MAX_PEM_BYTES))
        except OSError as error:
            return FileContent(problem=f"it cannot be read: {error.strerror or type(error).__name__}")
        if len(data) > MAX_PEM_BYTES:
            return FileContent(problem=f"it is larger than {MAX_PEM_BYTES} bytes")
        return FileContent(data)


OK = "ok"
MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Gathered:
    """What sources gave: anchors, each source's state in words (``ok`` where it is), and what is lacking."""

    anchors: tuple[Anchor, ...]
    sources: Mapping[str, str]
    lacking: tuple[str, ...] = ()
    """Sources that gave nothing and have never given anything."""


def gather_pins(
    pins: Sequence[AnchorPin], contents: Mapping[Path, FileContent], known: Mapping[str, Certificate]
) -> Gathered:
    """The anchors of these pins. ``known`` holds, by fingerprint, certificates that were good before."""
    shared = Counter(pin.file for pin in pins)
    anchors: list[Anchor] = []
    sources: dict[str, str] = {}
    lacking: list[str] = []
    for pin in pins:
        source = str(pin.file) if shared[pin.file] == 1 else f"{pin.file} ({pin.sha256[:12]})"
        sources[source] = OK
        try:
            certificate = _pinned(
                pin, contents.get(pin.file, FileContent(problem="it has not been read yet"))
            )
        except InvalidValue as error:
            last = known.get(pin.sha256)
            if last is None:
                lacking.append(source)
                sources[source] = f"{error.what}; this anchor has never been read"
                continue
            sources[source] = f"{error.what}; the last known good stays in the bundle"
            certificate = last
        try:
            anchors.append(
                Anchor(
                    certificate=certificate,
                    origin=f"pinned in the configuration, read from {pin.file}",
                    kind="accepted" if pin.clusters else "root",
                    trust_domain=pin.trust_domain,
                    cluster=_whose(pin),
                    foreign_override=pin.allow_foreign_trust_domain,
                )
            )
        except InvalidValue as error:
            lacking.append(source)
            sources[source] = f"{error.diagnostics()}; this anchor cannot be used"
    return Gathered(tuple(anchors), sources, tuple(lacking))


def _whose(pin: AnchorPin) -> str | None:
    """The clusters whose own CA it is, to be shown with the anchor."""
    names = [*map(str, pin.clusters[:MOST_NAMED])]
    more = len(pin.clusters) - len(names)
    return ", ".join([*names, *([f"{more} more"] if more else [])]) or None


def _pinned(pin: AnchorPin, content: FileContent) -> Certificate:
    """The certificate of the file that the pin names; others in the file are not read further."""
    if content.problem:
        raise InvalidValue(content.problem)
    return find_certificate(content.data, pin.sha256, where="")


def gather_retained(wanted: Iterable[str], generations: Iterable[Generation]) -> Gathered:
    """The anchors of these fingerprints (SHA-256), each from the first generation that holds it."""
    found: dict[str, Anchor] = {}
    for generation in generations:
        certificates = {c.sha256: c for c in bundle_of(generation).certificates}
        for record in generation.anchors:
            certificate = certificates.get(record.sha256)
            if certificate is None or not certificate.is_self_signed or record.sha256 in found:
                continue
            kind: AnchorKind = "accepted" if record.kind == "accepted" else "root"
            found[record.sha256] = Anchor(
                certificate=certificate,
                origin=f"generation {generation.number}; its pin is gone",
                kind=kind,
                trust_domain=TrustDomain(record.trust_domain),
                cluster=record.cluster or None,
                foreign_override=record.foreign_override,
            )
    anchors: list[Anchor] = []
    sources: dict[str, str] = {}
    for sha256 in sorted(wanted):
        if sha256 in found:
            anchors.append(found[sha256])
        else:
            lost = "its pin is gone, and no generation that can be read holds its certificate: pin it again"
            sources[f"the anchor {sha256[:16]}"] = lost
    return Gathered(tuple(anchors), sources)


def roots_in_force(generations: Iterable[Generation], now: float) -> dict[str, Unpinned]:
    """The self-signed anchors of generations in force, as the record notes one whose pin is gone.

    Raises InvalidValue where a bundle cannot be read.
    """
    found: dict[str, Unpinned] = {}
    for generation in generations:
        whose = {record.sha256: record.cluster for record in generation.anchors if record.kind == "accepted"}
        for certificate in bundle_of(generation).certificates:
            if certificate.is_self_signed and certificate.sha256 not in found:
                cluster = whose.get(certificate.sha256, "")
                found[certificate.sha256] = Unpinned(
                    since=now,
                    generation=generation.number,
                    subject=certificate.subject,
                    clusters=[cluster] if cluster else [],
                )
    return found


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """The bundle that should be in force; where it cannot be made now, None and the reason in words."""

    bundle: TrustBundle | None
    withheld: str | None = None


def plan_bundle(gathered: Gathered, in_force: TrustBundle | None) -> BundlePlan:
    """Merge the anchors, or hold back what a source that fails could have made smaller.

    Only the record of the rotation removes an anchor (``core/rotation/effects.py``), and only while every source
    that the configuration names has given its own: else a root could be replaced by nothing, where the file of its
    successor cannot be read. What adds and removes at once is done in two generations, the larger one first: istiod
    takes a new bundle only where one of old and new contains the other, and no cluster is to trust less before every
    one trusts more.
    """
    if gathered.lacking and in_force is None:
        return BundlePlan(
            None, f"the first generation waits until every pinned anchor was read: {_first(gathered)}"
        )
    try:
        bundle = TrustBundle.merge(gathered.anchors)
    except InvalidValue as error:
        return BundlePlan(None, f"no bundle can be made of the sources: {error.diagnostics()}")
    change = diff(in_force, bundle)
    removed = change.removed
    if gathered.lacking and removed:
        names = ", ".join(anchor.certificate.subject for anchor in removed[:3])
        return BundlePlan(None, f"{names} stays until every pinned anchor was read: {_first(gathered)}")
    if change.added and removed:
        return BundlePlan(TrustBundle.merge((*gathered.anchors, *removed)))
    return BundlePlan(bundle)


def combine(*parts: Gathered) -> Gathered:
    """All of them as one."""
    return Gathered(
        anchors=tuple(anchor for part in parts for anchor in part.anchors),
        sources={name: state for part in parts for name, state in part.sources.items()},
        lacking=tuple(name for part in parts for name in part.lacking),
    )


def _first(gathered: Gathered) -> str:
    source = gathered.lacking[0]
    return f"{source}: {gathered.sources[source]}"
