"""What a cluster's namespaces really hold, as the watch shows it: the only ground for saying "published".

Counted by what was read back, never by what was sent. Where the watches are not fresh nothing counts as
current: the last that was known is then only a memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from federation.clusters.objects import ObjectKey, ObjectMeta
from federation.controller.publication.config_map import MOST_WRITERS, Held, Target

MOST_PROBLEMS = 10
MOST_CONTENTS = 16
EXAMPLES = 3
LEFT = "it is left to another hub, which publishes there"
KEPT = "it holds a CA of its own, which is not overwritten for now"
YIELDED = "it holds another writer's bytes, which are not overwritten for now"


@dataclass(frozen=True, slots=True)
class ReadBack:
    """The namespaces of a cluster by what they hold. Digests are of the key's value; "" stands for nothing.

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


def read_back(
    namespaces: Mapping[ObjectKey, ObjectMeta],
    held: Mapping[ObjectKey, Held],
    target: Target | None,
    *,
    config_map: str,
    excluded: Collection[str] = (),
    terminating: Collection[str] = (),
    forbidden: Mapping[str, str] | None = None,
    failed: Mapping[str, str] | None = None,
    keeps: Callable[[str, Held | None], bool] = lambda _, __: False,
    yields: Callable[[str, Held | None], bool] = lambda _, __: False,
    why_kept: str = KEPT,
) -> ReadBack:
    """Count what the watches show. ``terminating``, ``forbidden`` and ``failed`` are what writes ran into.

    ``keeps`` says whether what a namespace holds is to stay for now (``why_kept`` says why), ``yields`` whether it is
    left to another writer.
    """
    forbidden, failed = forbidden or {}, failed or {}
    kept: list[str] = []
    yielded: list[str] = []
    yielded_to: set[str] = set()
    writers: set[str] = set()
    behind: list[str] = []
    counts: Counter[str] = Counter()
    contents: Counter[str] = Counter()
    examples: defaultdict[str, list[str]] = defaultdict(list)
    for key, meta in namespaces.items():
        name = key.name
        if name in excluded:
            counts["excluded"] += 1
            continue
        if meta.deletion is not None or name in terminating:
            counts["terminating"] += 1
            continue
        holds = held.get(ObjectKey(name, config_map))
        met = target is not None and target.is_met_by(holds)
        counts["selected"] += 1
        writers.update(holds.writers if holds is not None else ())
        if holds is not None and holds.sha256:
            contents[holds.sha256] += 1
            if len(examples[holds.sha256]) < EXAMPLES:
                examples[holds.sha256].append(name)
        if met:
            counts["current"] += 1
            continue
        behind.append(name)
        if name in forbidden:
            counts["forbidden"] += 1
        elif keeps(name, holds):
            kept.append(name)
        elif yields(name, holds):
            yielded.append(name)
            yielded_to.update(holds.writers if holds is not None else ())
        elif name in failed:
            counts["failed"] += 1
    return ReadBack(
        selected=counts["selected"],
        current=counts["current"],
        terminating=counts["terminating"],
        forbidden=counts["forbidden"],
        excluded=counts["excluded"],
        failed=counts["failed"],
        joining=len(kept),
        yielded=len(yielded),
        writers=tuple(sorted(writers)[:MOST_WRITERS]),
        yielded_to=tuple(sorted(yielded_to)[:MOST_WRITERS]),
        contents=dict(contents),
        examples={digest: tuple(sorted(names)) for digest, names in examples.items()},
        behind=tuple(sorted(behind)[:EXAMPLES]),
        problems=tuple(
            _problems(failed, forbidden, dict.fromkeys(kept, why_kept), dict.fromkeys(yielded, YIELDED))
        ),
    )


def _problems(*kinds: Mapping[str, str]) -> Iterator[str]:
    shown = [problem for kind in kinds for problem in sorted(kind.items())]
    for namespace, problem in shown[:MOST_PROBLEMS]:
        yield f"{namespace}: {problem}"
    if len(shown) > MOST_PROBLEMS:
        yield f"and {len(shown) - MOST_PROBLEMS} more namespaces"
