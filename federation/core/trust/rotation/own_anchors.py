"""When an anchor leaves the bundle without a rotation: once nothing depends on it. Pure.

The own anchor of a cluster that joined was merged for the leaves that the cluster's own CA had issued, and for as long
as that went on. It goes by itself, remembered as retired like the old root of a rotation; until the pin is taken out of
the configuration that keeps it from coming back. An anchor whose pin is gone (``unpinned.py``) goes by the same gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from federation.core.trust.horizons import alive
from federation.core.trust.rotation.alive import alive_in
from federation.core.trust.rotation.conditions import accepted_configuration
from federation.core.trust.rotation.consumers import (
    consumers,
    earlier,
    earlier_in_removed,
    met,
    time_of,
    unmet,
)
from federation.core.trust.rotation.control_planes import MOST_NAMED, NOT_READ, provided
from federation.core.trust.rotation.gates import Verdict
from federation.core.trust.rotation.record import Condition, RotationBook
from federation.core.trust.rotation.signing import signing_side
from federation.core.trust.rotation.world import World

MOST_PAIRS: Final = 10  # told one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnAnchor:
    """An anchor (SHA-256) that is the own CA of clusters: of those it is pinned for, and of others.

    With ``everywhere`` it is a root of the hub's, and every registered cluster depends on it. As at the end of a
    rotation one that is quarantined is then not read back, and its leaves count.
    """

    sha256: str
    clusters: frozenset[str]
    everywhere: bool = False

    def where(self, book: RotationBook, world: World) -> list[str]:
        """The registered clusters that have to show that they do not need it any more, in order."""
        if self.everywhere:
            return sorted(world.clusters.keys() - book.quarantined.keys())
        return sorted(self.clusters & world.clusters.keys())


def drop_gates(
    anchors: Iterable[OwnAnchor],
    book: RotationBook,
    world: World,
    *,
    roots: Mapping[str, str],
    without: frozenset[str] = frozenset(),
) -> dict[str, Verdict]:
    """For each anchor that is not retired yet, whether it may leave the bundle.

    ``roots`` gives for each intermediate of the hub that is known the root above it, both by SHA-256: a leaf or
    a signer of one that is not known may need the anchor. ``without`` names conditions to leave out: for tests
    alone.
    """
    waiting = [anchor for anchor in anchors if anchor.sha256 not in book.retired]
    of_all = (
        {
            "at_rest": _at_rest(book),
            "configuration": accepted_configuration(world),
            "own_matrix": _matrix(book, world),
        }
        if waiting
        else {}
    )
    shared = [c for name, found in of_all.items() if name not in without for c in found]
    return {
        anchor.sha256: Verdict((*shared, *_of(anchor, book, world, roots, without))) for anchor in waiting
    }


def drop(book: RotationBook, verdicts: Mapping[str, Verdict]) -> RotationBook:
    """The book with those anchors retired whose gate is open."""
    gone = [sha256 for sha256, verdict in verdicts.items() if verdict.open]
    return replace(book, retired=sorted({*book.retired, *gone})) if gone else book


def _of(
    anchor: OwnAnchor, book: RotationBook, world: World, roots: Mapping[str, str], without: frozenset[str]
) -> Iterator[Condition]:
    rules = {
        "own_in_force": _in_force(anchor, world),
        "own_issuers": _issuers(anchor, book, world, roots),
        "own_door": _door(anchor, world, roots),
        "own_earlier": _earlier(anchor, book, world),
        "own_held": _held(anchor, book, world),
        "own_alive": _alive(anchor, book, world),
        "own_istiod": _istiod(anchor, book, world, roots),
        "own_webhooks": _webhooks(anchor, book, world),
    }
    for name, found in rules.items():
        if name not in without:
            yield from found


def _at_rest(book: RotationBook) -> Iterator[Condition]:
    """A rotation changes trust one step at a time."""
    if book.under_way is not None:
        yield unmet("at_rest", f"rotation {book.under_way.number} is under way")
    else:
        yield met("at_rest", "no rotation is under way")


def _in_force(anchor: OwnAnchor, world: World) -> Iterator[Condition]:
    """There is something to drop."""
    if anchor.sha256 in world.generations.get(world.in_force, frozenset()):
        yield met("own_in_force", f"generation {world.in_force} holds it")
    else:
        yield unmet("own_in_force", f"generation {world.in_force} does not hold it")


def _issuers(
    anchor: OwnAnchor, book: RotationBook, world: World, roots: Mapping[str, str]
) -> Iterator[Condition]:
    """Nothing of the hub's own is below it: no leaf that may be alive, no signer's authority, nor the one in force."""
    side = signing_side(book)
    if side is not None and side.root == anchor.sha256:
        yield unmet(
            "own_issuers",
            f"{side.subject or side.intermediate[:12]}, which is in force, is below it: a rotation leads away from it",
        )
        return
    until: dict[str, float] = {}
    for delivered, end in alive(world.horizons, world.now, skew=world.skew).items():
        until[delivered.issuer] = max(end + world.skew, until.get(delivered.issuer, 0.0))
    if not world.signers:
        yield unmet("own_issuers", "no signer is heard of")
    signing = {intermediate for facts in world.signers.values() for intermediate in facts.ready_with}
    found = 0
    for issuer in sorted(signing | until.keys()):
        if roots.get(issuer, anchor.sha256) != anchor.sha256:
            continue
        found += 1
        where = "below it" if issuer in roots else "below a root that is not known"
        if issuer in signing:
            yield unmet("own_issuers", f"signers can sign with {issuer[:12]}, which is {where}")
        else:
            ends = f"the last of its leaves ends at {time_of(until[issuer])}"
            yield unmet("own_issuers", f"{issuer[:12] or 'an issuer'} is {where}; {ends}", "", until[issuer])
    if not found:
        yield met("own_issuers", "nothing that the hub signs with, and no leaf of it alive, is below it")


def _earlier(anchor: OwnAnchor, book: RotationBook, world: World) -> Iterator[Condition]:
    """No leaf of the CA can be alive where it has issued."""
    for name in sorted(world.clusters if anchor.everywhere else anchor.clusters & world.clusters.keys()):
        facts = world.clusters[name]
        if name in book.quarantined and not anchor.everywhere:
            yield unmet("own_earlier", "it is quarantined, and nobody knows what issues there", name)
        else:
            condition = earlier(name, facts, world)
            yield replace(condition, name="own_earlier")
    for condition in earlier_in_removed(world):
        if anchor.everywhere or condition.cluster in anchor.clusters:
            yield replace(condition, name="own_earlier")


def _door(anchor: OwnAnchor, world: World, roots: Mapping[str, str]) -> Iterator[Condition]:
    """No signer's door shows a certificate below it: clients of the door verify it by their ConfigMap."""
    bad = 0
    for replica, facts in sorted(world.signers.items()):
        if facts.door and roots.get(facts.door, anchor.sha256) == anchor.sha256:
            bad += 1
            yield unmet("own_door", f"{replica}: the certificate of its door is below it, or may be")
    if not bad:
        yield met("own_door", "no signer's door shows a certificate below it")


def _held(anchor: OwnAnchor, book: RotationBook, world: World) -> Iterator[Condition]:
    """Where it has issued, every namespace was lately read back to hold what is in force."""
    for name in anchor.where(book, world):
        facts = world.clusters[name]
        if facts.held is None or not facts.current:
            yield unmet("own_held", facts.detail or "it does not hold the generation in force", name)
        elif world.now - facts.read_back_at > world.fresh:
            yield unmet("own_held", f"it was last read back {world.now - facts.read_back_at:.0f} s ago", name)
        else:
            yield met("own_held", "every namespace was read back to hold the generation in force", name)


def _alive(anchor: OwnAnchor, book: RotationBook, world: World) -> Iterator[Condition]:
    """Where it has issued, workloads hold certificates of the hub: pods that were never restarted hold none."""
    for name in anchor.where(book, world):
        if name in book.quarantined:
            continue
        yield alive_in(name, world.clusters[name], world, condition="own_alive")


def _istiod(
    anchor: OwnAnchor, book: RotationBook, world: World, roots: Mapping[str, str]
) -> Iterator[Condition]:
    """No istiod that was found where it has issued shows a certificate below it."""
    for name in anchor.where(book, world):
        bad = 0
        for plane in world.clusters[name].control_planes:
            if plane.held is None:
                problem = f"what it holds is not known: {plane.detail or 'it was not read back'}"
            elif roots.get(plane.issuer, anchor.sha256) == anchor.sha256:
                problem = "its certificate is below it, or below a root that is not known"
            else:
                continue
            bad += 1
            yield unmet("own_istiod", f"{plane.name}: {problem}", name)
        if not bad:
            yield met("own_istiod", "no certificate of istiod that the hub provides is below it", name)


def _webhooks(anchor: OwnAnchor, book: RotationBook, world: World) -> Iterator[Condition]:
    """No webhook where it has issued depends on it: the istiod that is called then has another certificate.

    One that the hub provides no certificate for counts as having one below it as long as its caBundle holds it.
    """
    others = world.generations.get(world.in_force, frozenset()) - {anchor.sha256}
    for name in anchor.where(book, world):
        facts = world.clusters[name]
        if facts.webhooks is None:
            yield unmet("own_webhooks", f"{NOT_READ}: {facts.webhooks_detail or 'not yet'}", name)
            continue
        needing = [
            webhook
            for webhook in facts.webhooks
            if anchor.sha256 in webhook.held and not (provided(webhook, facts) and others & webhook.held)
        ]
        for webhook in needing[:MOST_NAMED]:
            detail = f"{webhook.name} verifies {webhook.istiod} by it, and by no certificate of the hub's"
            yield unmet("own_webhooks", detail, name)
        if not needing:
            yield met("own_webhooks", "no webhook of Istio depends on it", name)


def _matrix(book: RotationBook, world: World) -> Iterator[Condition]:
    """Every ordered pair of clusters that are not quarantined validates by leaves of the hub, lately proved."""
    names = [name for name, _ in consumers(book, world)]
    pairs = [(client, server) for client in names for server in names if client != server]
    bad = [pair for pair in pairs if not _validates(*pair, world)]
    for client, server in bad[:MOST_PAIRS]:
        pair = world.pairs.get((client, server))
        why = "was not proved lately" if pair is None or pair.valid else f"does not validate: {pair.reason}"
        yield unmet("own_matrix", f"{client} to {server} {why}", client)
    if not bad:
        yield met("own_matrix", f"all {len(pairs)} ordered pairs validate")


def _validates(client: str, server: str, world: World) -> bool:
    pair = world.pairs.get((client, server))
    return pair is not None and pair.valid and world.now - pair.computed <= world.fresh
