"""The namespaces of a cluster by what they hold, counted by what has changed.

Counted by what was read back, never by what was sent. Where the watches are not fresh nothing counts as current: what
was known last is then no evidence.

While a bundle is written to 200 clusters of 1,000 namespaces, each answer is a change of one namespace, and counting
all of a cluster again for each took half of a core. So each namespace's place in the sums is remembered, and a change
moves that one. What decides about all of them at once (what is meant for the cluster, how it joins) has all counted
anew; so has any change while some keep what they have, for that may depend on the others and on the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Final, Literal, NamedTuple, TypeAlias

from federation.controller.publication.config_map import MOST_WRITERS, ObservedConfigMap, Target
from federation.core.clock import Clock
from federation.kubernetes.objects import ObjectKey, ObjectMeta

MOST_PROBLEMS: Final = 10
MOST_CONTENTS: Final = 16
EXAMPLES: Final = 3
LEFT: Final = "it is left to another hub, which publishes there"
JOINS: Final = "it holds a CA of its own, which is not overwritten for now"
YIELDED: Final = "it holds another writer's bytes, which are not overwritten for now"

COUNT_SPACING: Final = 1000.0
"""Times what a count of a cluster's namespaces took that pass at least between two, while some lack the bundle."""

LONGEST_COUNT_AGE: Final = 2.0
"""Seconds that such a count is used for at the most."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """The namespaces of a cluster by what they hold. Digests are of the key's value; "" is nothing.

    ``selected`` are all that are to hold the bundle: also those that refuse it (``forbidden`` and ``failed``).
    ``joining`` counts those that keep a CA of their own for now, ``yielded`` those that are left to another writer
    that would put its own bytes back, one of the field managers ``yielded_to``. ``writers`` are all those but the hub
    that own what a namespace holds. ``behind`` names some that are
    selected and not current.
    """

    selected: int = 0
    current: int = 0
    terminating: int = 0
    forbidden: int = 0
    excluded: int = 0
    failed: int = 0
    joining: int = 0
    yielded: int = 0
    yielded_to: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    contents: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()

    @property
    def pending(self) -> int:
        """Selected, not current, and not refusing it either."""
        return max(0, self.selected - self.current - self.failed - self.forbidden)

    @property
    def others(self) -> str:
        """Who is not current, as the end of a sentence that says who is; empty where all are."""
        more = self.selected - self.current - len(self.behind)
        named = f", not {', '.join(self.behind)}" if self.behind else ""
        return f"{named} and {more} more" if named and more > 0 else named

    def generation(self, numbers: Mapping[str, int]) -> int:
        """The newest generation that every selected namespace holds or is past; 0 where one holds none."""
        if not self.selected or sum(self.contents.values()) < self.selected:
            return 0
        return min(numbers.get(digest, 0) for digest in self.contents)

    def where(self, digest: str) -> str:
        """Who holds that content, in words."""
        count, names = self.contents.get(digest, 0), ", ".join(self.examples.get(digest, ()))
        if count <= EXAMPLES:
            return f"namespace{'s' if count != 1 else ''} {names}"
        return f"{count} namespaces, for example {names}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What is counted: what the watches show, and what writes ran into (``terminating``, ``forbidden``, ``failed``).

    ``basis`` is all else that ``keeps`` and ``yields`` of the count depend on, by which they judge each namespace.
    """

    namespaces: Mapping[ObjectKey, ObjectMeta]
    config_maps: Mapping[ObjectKey, ObservedConfigMap]
    target: Target | None
    terminating: Collection[str] = ()
    forbidden: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    why_joining: str = JOINS
    basis: Hashable = None


_Kind: TypeAlias = Literal[
    "excluded", "terminating", "current", "forbidden", "joining", "yielded", "failed", "pending"
]
_UNSELECTED: Final = frozenset({"excluded", "terminating"})


class _Place(NamedTuple):
    """Where one namespace counts; one object for all that count alike."""

    kind: _Kind
    sha256: str = ""
    writers: tuple[str, ...] = ()


class NamespaceCount:
    """The count of one cluster, whose bundle is in the ConfigMaps of that name.

    ``keeps`` says whether what a namespace holds is to stay for now, ``yields`` whether it is left to another writer.
    """

    def __init__(
        self,
        *,
        config_map: str,
        excluded: Collection[str] = (),
        keeps: Callable[[str, ObservedConfigMap | None], bool] = lambda _, __: False,
        yields: Callable[[str, ObservedConfigMap | None], bool] = lambda _, __: False,
    ) -> None:
        self._config_map = config_map
        self._excluded = frozenset(excluded)
        self._keeps = keeps
        self._yields = yields
        self._by: tuple[Target | None, Hashable] | None = None  # None: nothing is counted
        self._places: dict[str, _Place] = {}
        self._alike: dict[_Place, _Place] = {}
        self._kinds: Counter[_Kind] = Counter()
        self._contents: Counter[str] = Counter()
        self._writers: Counter[str] = Counter()
        self._behind: set[str] = set()
        self._examples: dict[str, set[str]] = {}

    def count(self, shown: Shown, changed: AbstractSet[str] | None = None) -> ReadBack:
        """What is there now. Only these namespaces have ``changed`` since the last count; None: any may have."""
        by = shown.target, shown.basis
        if changed is None or by != self._by or self._kinds["joining"] or self._kinds["yielded"]:
            self._begin(by)
            for key in shown.namespaces:
                self._put(key.name, self._place_of(key, shown))
        else:
            for name in changed:
                self._take(name)
                key = ObjectKey("", name)
                if key in shown.namespaces:
                    self._put(name, self._place_of(key, shown))
        return self._summed(shown)

    def _begin(self, by: tuple[Target | None, Hashable]) -> None:
        self._by = by
        for each in (
            self._places,
            self._alike,
            self._kinds,
            self._contents,
            self._writers,
            self._behind,
            self._examples,
        ):
            each.clear()

    def _place_of(self, key: ObjectKey, shown: Shown) -> _Place:
        name = key.name
        if name in self._excluded:
            return _Place("excluded")
        if shown.namespaces[key].deletion is not None or name in shown.terminating:
            return _Place("terminating")
        holds = shown.config_maps.get(ObjectKey(name, self._config_map))
        kind: _Kind = "pending"
        if shown.target is not None and shown.target.is_met_by(holds):
            kind = "current"
        elif name in shown.forbidden:
            kind = "forbidden"
        elif self._keeps(name, holds):
            kind = "joining"
        elif self._yields(name, holds):
            kind = "yielded"
        elif name in shown.failed:
            kind = "failed"
        return _Place(kind, holds.sha256, tuple(holds.writers)) if holds is not None else _Place(kind)

    def _put(self, name: str, place: _Place) -> None:
        self._places[name] = place = self._alike.setdefault(place, place)
        self._kinds[place.kind] += 1
        self._writers.update(place.writers)
        if place.kind not in _UNSELECTED and place.kind != "current":
            self._behind.add(name)
        if place.sha256:
            self._contents[place.sha256] += 1
            examples = self._examples.setdefault(place.sha256, set())
            if len(examples) < EXAMPLES:
                examples.add(name)

    def _take(self, name: str) -> None:
        """Count it no longer, where it was counted."""
        place = self._places.pop(name, None)
        if place is None:
            return
        self._kinds[place.kind] -= 1
        self._behind.discard(name)
        for writer in place.writers:
            self._writers[writer] -= 1
            if not self._writers[writer]:
                del self._writers[writer]
        if place.sha256:
            self._contents[place.sha256] -= 1
            self._examples[place.sha256].discard(name)
            if not self._contents[place.sha256]:
                del self._contents[place.sha256], self._examples[place.sha256]

    def _summed(self, shown: Shown) -> ReadBack:
        kinds = self._kinds
        joining = self._behind_as("joining")
        yielded = self._behind_as("yielded")
        yielded_to = {writer for name in yielded for writer in self._places[name].writers}
        self._complete_examples()
        return ReadBack(
            selected=kinds["current"] + len(self._behind),
            current=kinds["current"],
            terminating=kinds["terminating"],
            forbidden=kinds["forbidden"],
            excluded=kinds["excluded"],
            failed=kinds["failed"],
            joining=kinds["joining"],
            yielded=kinds["yielded"],
            writers=tuple(sorted(self._writers)[:MOST_WRITERS]),
            yielded_to=tuple(sorted(yielded_to)[:MOST_WRITERS]),
            contents=dict(self._contents),
            examples={digest: tuple(sorted(names)) for digest, names in self._examples.items()},
            behind=tuple(nsmallest(EXAMPLES, self._behind)),
            problems=tuple(
                _problems(
                    shown.failed,
                    shown.forbidden,
                    dict.fromkeys(joining, shown.why_joining),
                    dict.fromkeys(yielded, YIELDED),
                )
            ),
        )

    def _behind_as(self, kind: _Kind) -> list[str]:
        if not self._kinds[kind]:
            return []
        return [name for name in self._behind if self._places[name].kind == kind]

    def _complete_examples(self) -> None:
        """Find others where namespaces were an example of what they no longer hold."""
        few = {
            digest
            for digest, names in self._examples.items()
            if len(names) < min(EXAMPLES, self._contents[digest])
        }
        for name, place in self._places.items() if few else ():
            if place.sha256 in few:
                names = self._examples[place.sha256]
                names.add(name)
                if len(names) == min(EXAMPLES, self._contents[place.sha256]):
                    few.discard(place.sha256)
                    if not few:
                        break


def _problems(*kinds: Mapping[str, str]) -> Iterator[str]:
    shown = [problem for kind in kinds for problem in nsmallest(MOST_PROBLEMS, kind.items())]
    for namespace, problem in shown[:MOST_PROBLEMS]:
        yield f"{namespace}: {problem}"
    more = sum(map(len, kinds)) - MOST_PROBLEMS
    if more > 0:
        yield f"and {more} more namespaces"


class LatestCount:
    """The last count of a cluster's namespaces; made again where something has changed: reports come more often."""

    def __init__(self, count: NamespaceCount, clock: Clock) -> None:
        self._count = count
        self._clock = clock
        self._counted: ReadBack | None = None
        self._was_fresh = False
        self._changed: set[str] = set()
        self._all = True
        self._again_at = 0.0
        self.recounts = 0
        """How often they were counted: once for each change, however often the count is asked for."""

    def note(self, namespace: str) -> None:
        """That namespace has changed, or what it holds."""
        self._changed.add(namespace)

    def count_all(self, *, at_once: bool = False) -> None:
        """What decides about all of them has changed; ``at_once`` where the last count will not do for a moment."""
        self._all = True
        if at_once:
            self._again_at = 0.0

    def read(self, shown: Callable[[], Shown], *, changed: set[str], fresh: bool) -> ReadBack:
        """The count of what is ``shown``.

        ``changed`` are further namespaces that have, and are cleared here; ``fresh`` says whether the watch shows what
        is there now.
        """
        news = self._all or self._was_fresh != fresh or bool(self._changed) or bool(changed)
        if self._counted is None or (news and not self._may_wait(self._counted, fresh)):
            self.recounts += 1
            began = self._clock.monotonic()
            self._counted = self._count.count(shown(), None if self._all else self._changed | changed)
            self._all, self._was_fresh = False, fresh
            self._changed.clear()
            changed.clear()
            ended = self._clock.monotonic()
            self._again_at = ended + min(LONGEST_COUNT_AGE, COUNT_SPACING * (ended - began))
        return self._counted

    def _may_wait(self, counted: ReadBack, fresh: bool) -> bool:
        """Whether the last count will do for a moment, though something has changed since.

        While a bundle is written everywhere each answer is a change, and counting 200 clusters again for each
        evaluation of the gates took half of a core. Only a count that lacks something is used again: what is done
        meanwhile can only be waited for, while one that lacked nothing may be wrong now.
        """
        return (
            counted.current + counted.forbidden + counted.failed < counted.selected
            and self._was_fresh == fresh
            and self._clock.monotonic() < self._again_at
        )
