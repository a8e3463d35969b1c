"""A cluster that joins with a CA of its own keeps it until an operator has accepted it: nothing is interrupted.

What a namespace had before the hub came is not overwritten while it holds CA certificates that the
generation meant for the cluster does not contain. Before the hub came means: the object is not a generation's
content, the hub owns no field of it, and this process has not seen it otherwise. All that ends
with the first time that every namespace holds the hub's bundle. From then on other content is an edit, which is
restored at once: otherwise anyone who can create a namespace could keep an anchor in it and block every rotation.

Publication does not fight. While a CA of the cluster's own counts as issuing, what distributes its roots goes on
writing the object: istiod compares bytes and restores its own at once (InsertDataToConfigMap of istio/istio,
security/pkg/k8s/configutil.go). Until the takeover is declared the hub therefore writes over no content of
another field manager that holds nothing but known CAs; it waits until that writer serves the hub's bundle to the
byte, after which neither writes. An object that is missing there is left to that writer for a moment.

Another hub is such a writer as well, and answers as fast. Where an object bears the mark of one that was not adopted
(``controller.adopt_hubs``), this hub writes nothing in the cluster, whatever the object holds, and whatever
``member_cas`` says of CAs. To be seen itself in time, it writes to the namespace of istiod first, and to the
others only once its mark has been there for a moment: of two hubs that begin at once one yields. Once every
namespace has been read back with this hub's bundle a mark protects nothing: a writer of one ConfigMap can write any
mark.

Where every bundle that bears this hub's own mark is of a later generation than the state knows, the state was restored
from an older one: the hub has forgotten what it has published and signed since. It leaves the cluster as it is then,
until a newer state is restored or an operator adopts this hub's own identity. The same holds where some are what the
state knows, because a publication was killed in the middle or a namespace could not be written to, while the
first namespace and another one say otherwise. One writer of one ConfigMap cannot bring that about: the first is
istiod's, where no tenant writes, and it takes a second one. Nothing can once this process has seen there what it
knows.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from federation.clusters.health import ClusterHealth
from federation.controller.generations import bundle_of
from federation.controller.in_force import TrustState
from federation.controller.publication.config_map import Contents, ObservedConfigMap
from federation.controller.publication.namespace_count import ReadBack
from federation.controller.publication.observed import ReadContent
from federation.core.clock import Clock
from federation.core.documents.trust import Generation
from federation.core.errors import InvalidValue
from federation.core.identity import ANNOTATION, NO_HUB, HubIdentity, is_identity
from federation.core.istio.settings import DEFAULT_BUNDLE
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates
from federation.core.rotation.world import ClusterFacts
from federation.core.trust.joining import IstioSeen

REASON: Final = "joining"
MOST_OWN: Final = 16
MOST_REMEMBERED: Final = 64  # contents that are remembered parsed
MOST_NAMED: Final = 3
MOST_TEXT: Final = 200  # characters of a name that others have chosen
MOST_TIERS: Final = 3
"""Of CAs below a root: a CA deeper than that counts as below nothing."""

GRACE: Final = 5.0
"""Seconds that a missing object is left to the other writer: istiod makes it within one."""

YIELDS: Final = "other_writers"
OTHER_HUB: Final = "other_hub"
AHEAD: Final = "state_older"
CLAIM: Final = 0.5
"""Seconds that this hub's mark has to be in the first namespace before it writes to the others."""

CLAIM_LIMIT: Final = 15.0
"""Seconds that the others wait for that: what refuses the object in one namespace must not delay all."""

_PEM: Final = b"-----BEGIN"
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class JoiningMemory:
    """What is persisted of how a cluster joined: whether that is over, and the pinned CAs it came with.

    ``issuing`` says that these count as issuing still: no operator has declared the takeover. ``trust_bundle`` says
    that its ClusterTrustBundle was seen there once.
    """

    joined: bool = False
    own: frozenset[str] = frozenset()
    issuing: bool = False
    trust_bundle: bool = False


def no_memory(_: str) -> JoiningMemory | None:
    """For where nothing is persisted."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFacts(ClusterFacts):
    """A cluster with the CAs of its own (SHA-256) that it was found with when it joined.

    ``joining`` while some namespace keeps one that is not accepted. ``trust_bundle`` is what to remember of its
    ClusterTrustBundle: that it was seen, that it counts no more, or (None) nothing new. ``unaccepted`` names the CAs
    that are not accepted. ``distributors`` are the other field managers that write its bundle.
    ``istio`` is what was read of its Istio, None where nothing was. ``ahead`` is the later generation that it holds
    than the state knows, 0 where it does not, None where that is not known. ``other`` is the identity of another hub
    that it is left to, empty where there is none, None where that is not known.
    """

    own: frozenset[str] = frozenset()
    joining: bool = False
    trust_bundle: bool | None = None
    unaccepted: tuple[str, ...] = ()
    distributors: tuple[str, ...] = ()
    istio: IstioSeen | None = None
    ahead: int | None = None
    other: str | None = None


@dataclass(frozen=True, slots=True)
class _Parsed:
    """The CA certificates of a content; not ``readable`` where it may hold some that cannot be read."""

    authorities: tuple[Certificate, ...] = ()
    readable: bool = True


class Joining:
    """Decides for one cluster which namespaces keep what they have.

    ``replaces`` is the operator's instruction to overwrite it all at once. ``nothing_earlier`` is the statement that
    no certificate from before the hub is alive: then a cluster that came with roots of the hub alone has no CA of its
    own that issues. ``hub`` is this hub; the one of the namespaces ``first`` that ``exists`` is written to before all
    others. ``config_map`` is the name of these objects. ``remembered`` is what is persisted, None where nothing is:
    what it came with is then not waited for.
    """

    def __init__(
        self,
        cluster: str,
        *,
        replaces: bool,
        nothing_earlier: bool = False,
        contents: Contents,
        trust: TrustState,
        remembered: Callable[[str], JoiningMemory | None],
        clock: Clock,
        hub: HubIdentity = NO_HUB,
        first: Sequence[str] = (),
        exists: Callable[[str], bool] = lambda _: False,
        config_map: str = DEFAULT_BUNDLE,
        read: Callable[[str], ReadContent | None] | None = None,
    ) -> None:
        """``read`` gives what another writer's content holds, None while that is not read.

        Without it all is read here.
        """
        self._hub = hub
        self._firsts = tuple(first)
        self._exists = exists
        self._config_map = config_map
        self._in_first: dict[str, tuple[ObservedConfigMap, float]] = {}
        self._claiming_since: float | None = None
        self.awaits_claim = False  # some namespace was passed over until the mark is in the first one
        self._others: dict[str, str] = {}
        self._numbers: dict[str, int] = {}  # of what bears this hub's own mark, by namespace
        self._counted: Counter[int] = Counter()
        self._met = self._met_in_first = False
        self._cluster = cluster
        self._contents = contents
        self._read = read
        self._trust = trust
        self._remembered = remembered
        self._clock = clock
        self._replaces = replaces
        self._completed = False
        self._nothing_earlier = nothing_earlier
        self._missing_since: dict[str, float] = {}
        self._late: set[str] = set()
        self._joined = replaces
        self._served: set[str] = set()
        self._own: dict[str, Certificate] = {}
        self._seen: JoiningMemory | None = None
        self._parsed: OrderedDict[str, _Parsed] = OrderedDict()
        self._lacking: OrderedDict[tuple[str, str], tuple[Certificate, ...]] = OrderedDict()
        self._target: tuple[str, tuple[Certificate, ...]] = ("", ())

    def over(self) -> bool:
        """True once every namespace was read back with the hub's bundle, or where nothing of theirs is to stay."""
        if not self._joined:
            remembered = self._remembered(self._cluster)
            self._joined = remembered is not None and remembered.joined
        return self._joined

    @property
    def own(self) -> frozenset[str]:
        """The CAs of its own (SHA-256) that it was found with from before the hub."""
        return frozenset(self._own)

    def notice(self, namespace: str, observed: ObservedConfigMap | None) -> None:
        """The watch shows that ``namespace`` holds that."""
        self._note_mark(namespace, observed)
        if observed is not None:
            self._made(namespace)
        if observed is None or not observed.sha256 or self.over():
            return
        if self._is_ours(observed):
            self._served.add(namespace)
        elif namespace not in self._served:
            for certificate in self._parse(observed.sha256).authorities:
                if len(self._own) < MOST_OWN:
                    self._own.setdefault(certificate.sha256, certificate)

    def forget(self, namespace: str) -> None:
        """The namespace is gone; one of that name that comes later is another."""
        self._served.discard(namespace)
        self._others.pop(namespace, None)
        self._note_number(namespace, None)
        self._made(namespace)

    def _note_number(self, namespace: str, observed: ObservedConfigMap | None) -> None:
        if (before := self._numbers.pop(namespace, None)) is not None:
            self._counted[before] -= 1
            self._counted += Counter()  # without those of which none is left
        if (
            observed is None or not observed.sha256 or not namespace
        ):  # of a ClusterTrustBundle no number is recorded
            return
        if self._trust.is_ours(observed.sha256):
            self._met = True
            self._met_in_first = self._met_in_first or namespace in self._firsts
        elif self._hub.id and observed.hub == self._hub.id:
            self._numbers[namespace] = observed.generation
            self._counted[observed.generation] += 1

    @property
    def ahead(self) -> int:
        """The generation that the cluster has by this hub's own mark, where the state knows none so late; else 0."""
        if self._completed or self._replaces or self._hub.id in self._hub.adopts:
            return 0
        later = [number for number in self._counted if number > self._trust.newest > 0]
        in_first = self._numbers.get(self._first, 0) in later and not self._met_in_first
        if in_first and sum(self._counted[number] for number in later) > 1:
            return self._numbers[self._first]
        if self._met:
            return 0
        lowest = min(self._counted, default=0)
        return lowest if lowest > self._trust.newest > 0 else 0

    def _note_mark(self, namespace: str, observed: ObservedConfigMap | None) -> None:
        self._note_number(namespace, observed)
        mark = observed.hub if observed is not None else ""
        # One that has published the very bytes that this one would publish is no rival: what either signs is trusted
        # there.
        if observed is not None and self._hub.is_other(mark) and not self._trust.is_ours(observed.sha256):
            self._others[namespace] = mark
        else:
            self._others.pop(namespace, None)
        if namespace not in self._firsts:
            return
        before = self._in_first.pop(namespace, None)
        if observed is not None:
            same = before is not None and before[0].hub == mark
            self._in_first[namespace] = observed, before[1] if before and same else self._clock.monotonic()

    @property
    def _first(self) -> str:
        return next((name for name in self._firsts if self._exists(name)), "")

    @property
    def _defends(self) -> bool:
        """Whether every namespace was read back with this hub's bundle: another hub's writing is an edit since."""
        remembered = self._remembered(self._cluster)
        return self._completed or (remembered is not None and remembered.joined)

    @property
    def other_hub(self) -> str:
        """The identity of another hub that this one leaves the cluster to; empty where there is none."""
        if not self._others or self._defends:
            return ""
        return self._others.get(self._first) or self._others[min(self._others)]

    @property
    def left(self) -> bool:
        """Whether the cluster is left as it is: to another hub, or because the state is too old for it."""
        return bool(self.other_hub or self.ahead)

    @property
    def claims(self) -> bool:
        """Whether this hub's mark still has to be in the first namespace for a moment, where it can be written."""
        if not self._hub.id or self._defends or not (first := self._first):
            return False
        observed, since = self._in_first.get(first, (None, 0.0))
        now = self._clock.monotonic()
        if observed is not None and observed.hub == self._hub.id:
            return now - since < CLAIM
        if self.keeps(first, observed) or (
            self.under_way if observed is None else self.yields(first, observed)
        ):
            return False  # it is left to another writer, and so cannot bear the mark
        if self._claiming_since is None:
            self._claiming_since = now
        return now - self._claiming_since < CLAIM_LIMIT

    def _made(self, namespace: str) -> None:
        self._missing_since.pop(namespace, None)
        self._late.discard(namespace)

    def memory_changed(self) -> bool:
        """True where other things are remembered than at the last call: everything is to be judged anew."""
        before, self._seen = self._seen, self._remembered(self._cluster)
        return before != self._seen

    @property
    def is_complete(self) -> bool:
        """Whether this process has counted the bundle everywhere, since when nothing is completed any more."""
        return self._completed

    @property
    def basis(self) -> Hashable:
        """What :meth:`keeps` and :meth:`yields` judge every namespace by, beside what it holds and the time."""
        generation = self._trust.for_cluster(self._cluster)
        return (
            self.left,
            self.over(),
            self.under_way,
            self.issuing,
            generation.sha256 if generation is not None else "",
            self._remembered(self._cluster),
            len(self._own),
        )

    def complete(self, counted: ReadBack) -> None:
        """What was counted by fresh watches; once it is the bundle everywhere, joining is over."""
        if 0 < counted.selected == counted.current and not counted.forbidden and not self.left:
            self._joined = self._completed = True

    def keeps(self, namespace: str, observed: ObservedConfigMap | None) -> bool:
        """Whether what the namespace holds is to stay for now."""
        if self.left:
            return True
        if observed is None or not observed.sha256 or self.over():
            return False
        generation = self._trust.for_cluster(self._cluster)
        if generation is None:
            return False
        if (self._is_ours(observed) or namespace in self._served) and not self._is_put_back(observed):
            return False
        parsed = self._parse(observed.sha256)
        if not parsed.readable or self._missing(observed.sha256, generation):
            return True
        return not self._is_in_memory(parsed)

    def stays(self, namespace: str, observed: ObservedConfigMap | None) -> bool:
        """Whether nothing is to be written there for now, for one reason or the other."""
        if self.keeps(namespace, observed) or self.yields(namespace, observed):
            return True
        if self.claims and namespace != self._first:
            self.awaits_claim = True
            return True
        return False

    def released(self) -> bool:
        """True once after namespaces have waited for the mark in the first one, and need not any more.

        However short that was: they are looked at again for this alone.
        """
        if not self.awaits_claim or self.claims:
            return False
        self.awaits_claim = False
        return True

    def must_claim(self, namespace: str, observed: ObservedConfigMap | None) -> bool:
        """Whether the mark has to be won before anything is written: in the first namespace, where there is none."""
        return (
            bool(self._hub.id)
            and not self._defends
            and not (observed is not None and observed.hub)
            and namespace == self._first
        )

    def claim_lost(self) -> None:
        """Another hub has won the mark: the other namespaces go on waiting until the watch shows whose it is."""
        self._claiming_since = self._clock.monotonic()

    @property
    def under_way(self) -> bool:
        """Whether it has a CA of its own that is not accepted, or issues still."""
        return self.issuing or (bool(self._own) and not self.over())

    @property
    def issuing(self) -> bool:
        """Whether a CA of its own counts as issuing there still."""
        remembered = self._remembered(self._cluster)
        if remembered is None or not remembered.issuing or self._replaces:
            return False
        return not self._nothing_earlier or bool(remembered.own & self._pinned("accepted"))

    def yields(self, namespace: str, observed: ObservedConfigMap | None) -> bool:
        """Whether the namespace is left to another writer that would put its bytes back.

        Not where these hold a CA that is not known: such an edit is restored.
        """
        generation = self._trust.for_cluster(self._cluster)
        if generation is None or self._replaces:
            return False
        if observed is None:
            if not self.under_way:
                return False
            if namespace not in self._late:
                self._missing_since.setdefault(namespace, self._clock.monotonic())
            return namespace not in self._late
        if not self.issuing or not observed.writers or observed.sha256 == generation.sha256:
            return False
        return self._parse(observed.sha256).readable and not self._missing(observed.sha256, generation)

    def overdue(self) -> list[str]:
        """Namespaces whose missing object no other writer has made in time: the hub makes it. Each is named once."""
        now = self._clock.monotonic()
        late = [name for name, since in self._missing_since.items() if now - since >= GRACE]
        for name in late:
            del self._missing_since[name]
        self._late.update(late)
        return late

    def yielding(self, digests: Collection[str], writers: Sequence[str], namespaces: int) -> ClusterHealth:
        """How a cluster fares whose objects are left to another writer; ``digests`` are the contents it holds."""
        generation = self._trust.for_cluster(self._cluster)
        meant = self._anchors(generation) if generation is not None else ()
        others = [d for d in sorted(digests) if generation is None or d != generation.sha256]
        roots = {c.sha256: c for digest in others for c in self._parse(digest).authorities}
        lacks = [c for c in meant if c.sha256 not in roots]
        detail = (
            f"{', '.join(writers) or 'another writer'} writes the bundle's ConfigMap in {namespaces} namespaces, with "
            f"other bytes than the hub's: they hold {named(roots.values()) or 'no CA certificate'}"
            f"{f' and lack {named(lacks)}' if lacks else ''}. The hub does not write over it"
        )
        return ClusterHealth(
            "degraded",
            YIELDS,
            detail,
            f"the next step is shown by `federation clusters join {self._cluster}`",
        )

    def health(self, digests: Collection[str]) -> ClusterHealth:
        """How a cluster fares whose namespaces keep something; ``digests`` are the contents that it holds."""
        certificates, unreadable = self.missing(digests)
        if other := self.other_hub:
            holds = f"it holds {named(certificates) or 'the bundle of this hub'}"
            return other_hub_health(other, holds, config_map=self._config_map)
        if later := self.ahead:
            return state_older_health(later, self._trust.newest, named(certificates), self._hub.id)
        if not certificates and not unreadable:
            return ClusterHealth("degraded", REASON, "its own CA is accepted", "nothing: publication begins")
        parts = [text for text in (named(certificates),) if text]
        if unreadable:
            parts.append("certificates that cannot be read")
        detail = f"it joins with a CA of its own, which stays and is trusted nowhere else: {', '.join(parts)}"
        return ClusterHealth("degraded", REASON, detail, self._remedy(certificates))

    def _remedy(self, certificates: Sequence[Certificate]) -> str:
        replace = (
            f'set member_cas = "replace" for {self._cluster}: what needs a CA that is not accepted fails'
        )
        root = next((c.sha256 for c in certificates if c.is_self_signed), "")
        if not root:
            return (
                "accept its root with `federation trust accept FINGERPRINT --from-file PEM --cluster "
                f"{self._cluster}`, then {replace}"
            )
        return (
            f"compare the fingerprint with the CA's owner, then `federation clusters join {self._cluster} "
            f"--accept {root}`; or {replace}"
        )

    def missing(self, digests: Collection[str]) -> tuple[list[Certificate], bool]:
        """The CAs in these contents that the generation meant for the cluster lacks, and whether some are unreadable.

        Contents of generations hold none.
        """
        generation = self._trust.for_cluster(self._cluster)
        found: dict[str, Certificate] = {}
        unreadable = False
        for digest in sorted(digests):
            if generation is None or self._trust.is_ours(digest):
                continue
            unreadable = unreadable or not self._parse(digest).readable
            found |= {certificate.sha256: certificate for certificate in self._missing(digest, generation)}
        return [found[sha256] for sha256 in sorted(found)], unreadable

    def _is_ours(self, observed: ObservedConfigMap) -> bool:
        if self._hub.id:  # what an earlier release wrote bears no mark: that it was published proves it
            return observed.hub == self._hub.id or self._trust.is_ours(observed.sha256)
        return observed.ours or self._trust.is_ours(observed.sha256)

    def _is_put_back(self, observed: ObservedConfigMap) -> bool:
        """Whether another writer has replaced what was the hub's with nothing but CAs that the cluster came with."""
        if not observed.writers or self._trust.is_ours(observed.sha256):
            return False
        authorities = self._parse(observed.sha256).authorities
        return bool(authorities) and all(certificate.sha256 in self._own for certificate in authorities)

    def _is_in_memory(self, parsed: _Parsed) -> bool:
        """Whether it is persisted which pinned CAs it came with: a rotation has to wait for their leaves.

        They are overwritten only then, because that could not be determined afterwards.
        """
        remembered = self._remembered(self._cluster)
        if remembered is None or self._trust.generation is None:
            return True
        pinned = {c.sha256 for c in parsed.authorities} & self._pinned("root", "accepted")
        return pinned <= remembered.own

    def _pinned(self, *kinds: str) -> frozenset[str]:
        generation = self._trust.generation
        anchors = generation.anchors if generation is not None else []
        return frozenset(anchor.sha256 for anchor in anchors if anchor.kind in kinds)

    def _missing(self, digest: str, generation: Generation) -> list[Certificate]:
        """Its CAs that neither are in the generation nor below one that is; what has expired is not needed."""
        authorities = self._parse(digest).authorities
        if not authorities:
            return []
        key = digest, generation.sha256
        lacking = self._lacking.get(key)
        if lacking is None:
            lacking = _lacking(authorities, self._anchors(generation))
            _remember(self._lacking, key, lacking)
        now = self._clock.now()
        return [certificate for certificate in lacking if certificate.not_after > now]

    def _anchors(self, generation: Generation) -> tuple[Certificate, ...]:
        if self._target[0] != generation.sha256:
            self._target = generation.sha256, bundle_of(generation).certificates
        return self._target[1]

    def _parse(self, digest: str) -> _Parsed:
        found = self._parsed.get(digest)
        if found is not None:
            return found
        if self._read is not None and not self._trust.is_ours(digest):
            read = self._read(digest)
            if read is None:
                return _Parsed(readable=False)  # not read yet, or more than is read of one cluster
            authorities = tuple(certificate for certificate in read.certificates if certificate.is_ca)
            found = _Parsed(authorities, not read.problem or not read.has_pem)
        else:
            pem = self._contents.get(digest)
            if pem is None:
                return _Parsed(readable=False)  # more different contents than the hub remembers
            found = _parse(pem)
        _remember(self._parsed, digest, found)
        return found


def other_hub_health(hub: str, detail: str, *, config_map: str) -> ClusterHealth:
    """How a cluster fares that this hub leaves to another one; ``hub`` is the mark on the objects there."""
    if not is_identity(hub):
        return ClusterHealth(
            "degraded",
            OTHER_HUB,
            f"the annotation {ANNOTATION} there holds {hub!r}, which no hub writes: {detail}. This hub writes nothing "
            "to the cluster, and issues nothing there, as it cannot know whose objects they are",
            "find out who wrote it. If no other hub publishes to this cluster, remove it: kubectl annotate configmap "
            f"--all-namespaces --field-selector metadata.name={config_map} {ANNOTATION}-",
        )
    return ClusterHealth(
        "degraded",
        OTHER_HUB,
        f"another hub publishes there, of the identity {hub}: {detail}. This hub writes nothing to the cluster, and "
        "issues nothing there",
        "find that hub: `federation status` shows the identity of each. If it is to go on, remove the cluster here. "
        "If this one is to take the cluster over, stop the other one there, accept its root if its certificates are "
        f'to be trusted until they end, and add "{hub}" to controller.adopt_hubs here',
    )


def state_older_health(published: int, known: int, lacks: str, hub: str) -> ClusterHealth:
    """How a cluster fares to which this hub has published later generations than its state knows."""
    more = f", with {lacks}" if lacks else ""
    return ClusterHealth(
        "degraded",
        AHEAD,
        f"the state is older than what this hub has published there: it has generation {published}{more}, and the "
        f"state knows {known}. Nothing is written there, and nothing is issued",
        "restore the newest backup of the state and restart every role. Where there is none, find out what was "
        "published since, pin what is to be trusted still, and "
        f'add "{hub}", which is this hub\'s own identity, to controller.adopt_hubs: it then goes on with what it has, '
        "and certificates that were issued since fail wherever their root is not pinned",
    )


def other_hub_wrote(hub: str) -> ClusterHealth:
    """How a cluster fares in which another hub writes over this one's objects."""
    return ClusterHealth(
        "degraded",
        OTHER_HUB,
        f"another hub, of the identity {hub}, has written over what this hub publishes there. It is restored, "
        "ever more slowly",
        "stop one of the two in this cluster: `federation status` shows the identity of each. If no hub of yours has "
        "that one, find out who else may write these objects there",
    )


def named(certificates: Iterable[Certificate]) -> str:
    """The first few by subject and fingerprint, and how many more there are."""
    found = list(certificates)
    texts = [f"{c.subject[:MOST_TEXT] or 'no subject'} (SHA-256 {c.sha256})" for c in found[:MOST_NAMED]]
    return ", ".join([*texts, f"{len(found) - MOST_NAMED} more"] if len(found) > MOST_NAMED else texts)


def _remember(cache: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    cache[key] = value
    if len(cache) > MOST_REMEMBERED:
        cache.popitem(last=False)


def _parse(pem: bytes) -> _Parsed:
    try:
        certificates = parse_certificates(pem, where="")
    except InvalidValue:
        return _Parsed(readable=_PEM not in pem)  # what holds no PEM at all is trusted nowhere
    return _Parsed(tuple(certificate for certificate in certificates if certificate.is_ca))


def _lacking(authorities: Sequence[Certificate], anchors: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """Those that are neither among the anchors nor, by a few tiers, below one of them."""
    covered = list(anchors)
    waiting = [certificate for certificate in dict.fromkeys(authorities) if certificate not in anchors]
    for _ in range(MOST_TIERS):
        tried = [certificate for certificate in waiting if not certificate.is_self_signed][:MOST_OWN]
        below = [c for c in tried if any(c.is_signed_by(issuer) for issuer in covered)]
        if not below:
            break
        covered += below
        waiting = [certificate for certificate in waiting if certificate not in below]
    return tuple(waiting)
