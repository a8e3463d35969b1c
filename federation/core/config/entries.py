"""One ``[[clusters]]`` table put into the text of ``clusters.toml``, or taken out of it; all else stays, byte for byte.

What is written is parsed again and compared: the result configures what the text did and that one cluster, or it is
refused. So nothing rests on the way in which the table is found in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.core.errors import ConfigurationError, Mistake
from federation.core.identity import ClusterName

ADDED: Final = "# Added by `federation clusters add`; `federation clusters remove` takes it out."
BY_HAND: Final = "nothing was written; edit the file by hand"

_HEADER: Final = re.compile(r"\s*\[")
_CLUSTER: Final = re.compile(r"\s*\[\[\s*clusters\s*\]\]")
_OF_CLUSTER: Final = re.compile(r"\s*\[{1,2}\s*clusters\s*\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCluster:
    """What the new table says; keys that are empty are left out, and so have their defaults."""

    name: str
    cluster_id: str
    signer_kubeconfig: str
    controller_kubeconfig: str
    network: str = ""
    allow: tuple[str, ...] = ()
    istio_namespaces: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        """The table in TOML."""
        lines = [
            ADDED,
            "[[clusters]]",
            f"name = {_quoted(self.name)}",
            f"cluster_id = {_quoted(self.cluster_id)}",
        ]
        lines += [f"network = {_quoted(self.network)}"] if self.network else []
        lines += ["", "[clusters.signer]", f"kubeconfig = {_quoted(self.signer_kubeconfig)}"]
        lines += ["", "[clusters.controller]", f"kubeconfig = {_quoted(self.controller_kubeconfig)}"]
        if self.allow:
            lines += ["", "[clusters.policy]", f"allow = {_array(self.allow)}"]
        if self.istio_namespaces:
            lines += ["", "[clusters.istio]", f"namespaces = {_array(self.istio_namespaces)}"]
        return "".join(f"{line}\n" for line in lines)

    @property
    def values(self) -> str:
        """The same as an item of the chart's list ``clusters``, which finds the kubeconfigs itself; JSON is YAML."""
        item: dict[str, object] = {"name": self.name, "cluster_id": self.cluster_id}
        if self.network:
            item["network"] = self.network
        if self.allow:
            item["policy"] = {"allow": list(self.allow)}
        if self.istio_namespaces:
            item["istio"] = {"namespaces": list(self.istio_namespaces)}
        return f"- {json.dumps(item, ensure_ascii=False)}"


def with_cluster(text: str, entry: NewCluster, *, file: str) -> tuple[str, HubConfig]:
    """The text with the table at its end, and what it then configures.

    Raises ConfigurationError, with every finding, where ``text`` or the result cannot be used, and where the result
    would say anything else than ``text`` and the cluster.
    """
    before = parse_config(text, file=file)
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = newline if text.endswith("\n") or not text else newline * 2
    extended = text + gap + entry.table.replace("\n", newline)
    try:
        after = parse_config(extended, file=file)
    except ConfigurationError as error:
        raise ConfigurationError([_why(error, file), *error.findings]) from error
    added = after.clusters[len(before.clusters) :]
    same = _but_clusters(before, after) and after.clusters[: len(before.clusters)] == before.clusters
    if not (same and [str(cluster.name) for cluster in added] == [entry.name]):
        raise _refused(file, "cannot be extended without changing something else")
    return extended, after


def without_cluster(text: str, name: ClusterName, *, file: str) -> tuple[str, HubConfig]:
    """The text without the table of that cluster, and what it then configures.

    The comment that :func:`with_cluster` writes goes with it, and comments between its keys do; those before and after
    it stay. Raises ConfigurationError where ``text`` or the result cannot be used, where no such cluster is in it,
    and where its table cannot be taken out without changing something else.
    """
    before = parse_config(text, file=file)
    if before.cluster(name) is None:
        raise _refused(file, f"have none of the name {name}")
    left = tuple(cluster for cluster in before.clusters if cluster.name != name)
    lines = text.splitlines(keepends=True)
    for first, end in _tables(lines):
        shorter = "".join([*lines[:first], *lines[end:]])
        try:
            after = parse_config(shorter, file=file)
        except ConfigurationError as error:
            if _is_named(lines[first:end], name):
                raise ConfigurationError(
                    [Mistake(file, "", f"without {name} it could not be used", BY_HAND), *error.findings]
                ) from error
            continue
        if after.clusters == left and _but_clusters(before, after):
            return shorter, after
    raise _refused(file, f"hold {name} in a form that cannot be taken out")


def _tables(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where each ``[[clusters]]`` table may begin and end, with what belongs to it."""
    starts = [number for number, line in enumerate(lines) if _CLUSTER.match(line)]
    for start in starts:
        end = start + 1
        while end < len(lines) and not (_HEADER.match(lines[end]) and not _OF_CLUSTER.match(lines[end])):
            end += 1
        while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
            end -= 1
        first = start
        if first and lines[first - 1].strip() == ADDED:
            first -= 1
            first -= bool(first and not lines[first - 1].strip())  # the blank line that was put before it
        yield first, end


def _is_named(lines: Sequence[str], name: ClusterName) -> bool:
    pattern = re.compile(rf"""\s*name\s*=\s*["']{re.escape(str(name))}["']""")
    return any(pattern.match(line) for line in lines)


def _but_clusters(before: HubConfig, after: HubConfig) -> bool:
    """Whether both say the same of everything but clusters."""
    alike = replace(
        after,
        digest=before.digest,
        warnings=before.warnings,
        notices=before.notices,
        clusters=before.clusters,
    )
    return alike == before


def _why(error: ConfigurationError, file: str) -> Mistake:
    if any(finding.problem.startswith("is not TOML") for finding in error.findings):  # the text before was
        return Mistake(file, "clusters", "is written inline, so no table can follow it", BY_HAND)
    return Mistake(file, "", "with this cluster it could not be used", "nothing was written")


def _refused(file: str, problem: str) -> ConfigurationError:
    return ConfigurationError([Mistake(file, "clusters", problem, BY_HAND)])


def _array(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, values))}]"


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's is one, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
