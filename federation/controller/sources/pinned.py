"""Pinned anchors: the fingerprint in the configuration is the pin, the file only where its bytes are read from.

A file that vanished, is cut short, half written or holds something else never takes an anchor away: what was
known under that pin stays, out of this process's memory or out of the generation in force. The pin makes that
safe, because it names one certificate exactly, wherever its bytes come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from federation.controller.sources.files import Content
from federation.core.config.model import AnchorPin
from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import find_certificate
from federation.core.trust.bundle import Anchor

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
    pins: Sequence[AnchorPin], contents: Mapping[Path, Content], known: Mapping[str, Certificate]
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
            certificate = _pinned(pin, contents.get(pin.file, Content(problem="it has not been read yet")))
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


def _pinned(pin: AnchorPin, content: Content) -> Certificate:
    """The certificate of the file that the pin names; others in the file are not looked at further."""
    if content.problem:
        raise InvalidValue(content.problem)
    return find_certificate(content.data, pin.sha256, where="")
