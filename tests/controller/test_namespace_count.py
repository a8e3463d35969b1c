"""A count that follows each change says what a count from scratch says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.controller.publication.config_map import ObservedConfigMap, Target
from federation.controller.publication.namespace_count import EXAMPLES, NamespaceCount, ReadBack, Shown
from federation.kubernetes.objects import ObjectKey, ObjectMeta

NAME = "istio-ca-root-cert"
NAMES = [f"ns-{number}" for number in range(8)]
CONTENTS = ["", "old", "new", "theirs"]
OF = {
    digest: Target(name=NAME, key="root-cert.pem", generation=1, created=0.0, sha256=digest, body=b"")
    for digest in ("old", "new")
}


class Cluster:
    """What is there, and which of it has changed since it was counted last."""

    def __init__(self) -> None:
        self.namespaces: dict[ObjectKey, ObjectMeta] = {}
        self.config_maps: dict[ObjectKey, ObservedConfigMap] = {}
        self.target: Target | None = None
        self.terminating: set[str] = set()
        self.forbidden: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.kept: set[str] = set()  # contents that are to stay for now
        self.changed: set[str] = set()

    def shown(self) -> Shown:
        return Shown(
            namespaces=self.namespaces,
            config_maps=self.config_maps,
            target=self.target,
            terminating=self.terminating,
            forbidden=self.forbidden,
            failed=self.failed,
            basis=frozenset(self.kept),
        )

    def count(self) -> NamespaceCount:
        return NamespaceCount(
            config_map=NAME,
            excluded=("ns-0",),
            keeps=lambda name, holds: holds is not None and holds.sha256 in self.kept,
            yields=lambda name, holds: holds is not None and holds.writers == ("yields",),
        )

    def take(self, what: str, name: str, content: str) -> None:
        key, at = ObjectKey("", name), ObjectKey(name, NAME)
        match what:
            case "create":
                self.namespaces[key] = ObjectMeta("", name, b"")
            case "end":
                self.namespaces[key] = ObjectMeta("", name, b"", 1.0)
            case "delete":
                self.namespaces.pop(key, None)
            case "hold" | "yield":
                writers = {"hold": ("istiod",) if content == "theirs" else (), "yield": ("yields",)}[what]
                self.config_maps[at] = ObservedConfigMap(content, labelled=True, writers=writers)
            case "lose":
                self.config_maps.pop(at, None)
            case "forbid":
                self.forbidden[name] = "403"
            case "fail":
                self.failed[name] = "422"
            case "accept":
                self.forbidden.pop(name, None)
                self.failed.pop(name, None)
            case "terminate":
                self.terminating ^= {name}
            case "aim":
                self.target = OF.get(content)
                return
            case "keep":
                self.kept ^= {content}
                return
        self.changed.add(name)

    def holding(self, digest: str) -> set[str]:
        """Those that hold it and are selected, by going through all."""
        return {
            key.name
            for key, meta in self.namespaces.items()
            if key.name != "ns-0"
            and meta.deletion is None
            and key.name not in self.terminating
            and (holds := self.config_maps.get(ObjectKey(key.name, NAME))) is not None
            and holds.sha256 == digest
        }


WHAT = [
    "create",
    "end",
    "delete",
    "hold",
    "yield",
    "lose",
    "forbid",
    "fail",
    "accept",
    "terminate",
    "aim",
    "keep",
    "count",
]
STEPS = st.lists(
    st.tuples(
        st.sampled_from([*WHAT, "create", "hold", "hold"]), st.sampled_from(NAMES), st.sampled_from(CONTENTS)
    ),
    max_size=80,
)


@settings(deadline=None)
@given(STEPS)
def test_following_each_change_gives_what_counting_all_gives(steps: list[tuple[str, str, str]]) -> None:
    cluster = Cluster()
    followed = cluster.count()
    for what, name, content in [*steps, ("count", "", "")]:
        if what != "count":
            cluster.take(what, name, content)
            continue
        by_changes = followed.count(cluster.shown(), frozenset(cluster.changed))
        cluster.changed.clear()
        assert without_examples(by_changes) == without_examples(cluster.count().count(cluster.shown()))
        assert by_changes.contents == {
            digest: len(names) for digest in CONTENTS if digest and (names := cluster.holding(digest))
        }
        assert by_changes.examples.keys() == by_changes.contents.keys()
        for digest, examples in by_changes.examples.items():
            assert len(set(examples)) == len(examples) == min(EXAMPLES, by_changes.contents[digest])
            assert set(examples) <= cluster.holding(digest)


def without_examples(counted: ReadBack) -> dict[str, object]:
    return {name: getattr(counted, name) for name in ReadBack.__slots__ if name != "examples"}


def test_a_change_of_one_namespace_looks_at_that_one_only() -> None:
    cluster, judged = Cluster(), list[str]()
    cluster.target = OF["new"]
    for number in range(1000):
        cluster.take("create", f"team-{number}", "")

    def keeps(name: str, _: ObservedConfigMap | None) -> bool:
        judged.append(name)
        return False

    count = NamespaceCount(config_map=NAME, keeps=keeps)
    assert count.count(cluster.shown()).selected == len(judged) == 1000
    judged.clear()
    cluster.take("hold", "team-7", "old")
    assert count.count(cluster.shown(), {"team-7"}).contents == {"old": 1}
    assert judged == ["team-7"]
