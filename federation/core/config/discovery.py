"""``[discovery]``: where the hub looks for clusters that could be registered. It registers none by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

from federation.core.config.clusters import CredentialsTable, check_credentials
from federation.core.config.mistakes import Place, printable
from federation.core.config.types import (
    Array,
    check_label_selector,
    label,
    made_by,
    or_empty,
    read_as,
    seconds,
    string,
)
from federation.core.errors import InvalidValue

DAY: Final = 86400.0
MOST_NAMESPACES: Final = 20
"""Of one source. Each is a list of its own at each reading, and a right of its own."""

_PATTERN: Final = re.compile(r"[A-Za-z0-9._:/*?-]{1,253}", re.ASCII)
_NAMESPACE: Final = label("a namespace name")
_WHERE: Final = (
    "name namespaces under istio_secrets, labelled_secrets or cluster_profiles, or remove the table"
)


@read_as("name of a cluster, with * and ?", type="string", pattern="^[A-Za-z0-9._:/*?-]{1,253}$")
def name_pattern(value: object) -> str:
    """A cluster's name as a source gives it, with ``*`` and ``?``."""
    text = string(value)
    if not _PATTERN.fullmatch(text):
        raise InvalidValue(
            f"{printable(text)!r} is not a pattern of clusters' names",
            remedy="write a name, in which '*' and '?' are wildcards: \"prod-*\"",
        )
    return text


@dataclass(frozen=True, kw_only=True)
class DiscoveryConfig(CredentialsTable):
    """``[discovery]``: where the leading controller looks, in the hub's own cluster, for clusters to register.

    What it finds is a proposal: status shows it, and `federation clusters admit` registers it with a person's own
    credentials. The credentials in what is found are not kept and never used.
    """

    istio_secrets: Annotated[tuple[str, ...], Array(_NAMESPACE)] = ()
    """Namespaces with Istio's remote secrets (label istio/multiCluster=true), usually istio-system. The controller
    needs to get and list Secrets there.
    """
    labelled_secrets: Annotated[tuple[str, ...], Array(_NAMESPACE)] = ()
    """Namespaces with Secrets of the selector below, each with a kubeconfig under the key kubeconfig or value. The
    controller needs to get and list Secrets there.
    """
    selector: Annotated[str, or_empty(made_by(check_label_selector, "label selector"))] = ""
    """The label selector of labelled_secrets."""
    cluster_profiles: Annotated[tuple[str, ...], Array(_NAMESPACE)] = ()
    """Namespaces with ClusterProfiles (multicluster.x-k8s.io), which fleet managers write. The controller needs to get
    and list them there.
    """
    names: Annotated[
        tuple[str, ...], Array(name_pattern, empty=("is empty", "leave it out to have every name proposed"))
    ] = ("*",)
    """Clusters with such a name are proposed, with * and ?; others are listed as ignored."""
    ignore: Annotated[tuple[str, ...], Array(name_pattern)] = ()
    """Clusters with such a name are listed as ignored all the same."""
    interval: Annotated[float, seconds(10, DAY)] = 60.0
    """How often the sources are read."""


def check_discovery(place: Place, table: DiscoveryConfig) -> None:
    """What must hold between its keys."""
    check_credentials(
        place, table, "set in_cluster = true where the hub runs in that cluster, or name a kubeconfig of it"
    )
    place.check(table, _looks_somewhere, _selector_and_namespaces, _few_namespaces)


def _looks_somewhere(place: Place, table: DiscoveryConfig) -> None:
    if not (table.istio_secrets or table.labelled_secrets or table.cluster_profiles):
        place.mistake("", "names no place to look in", _WHERE)


def _selector_and_namespaces(place: Place, table: DiscoveryConfig) -> None:
    if table.labelled_secrets and not table.selector:
        place.mistake(
            "selector",
            "is missing: every Secret of these namespaces would be read",
            "write the label selector of the Secrets that are meant",
        )
    elif table.selector and not table.labelled_secrets:
        place.mistake(
            "labelled_secrets", "is missing beside selector", "name the namespaces of these Secrets"
        )


def _few_namespaces(place: Place, table: DiscoveryConfig) -> None:
    for name in ("istio_secrets", "labelled_secrets", "cluster_profiles"):
        if len(getattr(table, name)) > MOST_NAMESPACES:
            place.mistake(name, f"names more than {MOST_NAMESPACES} namespaces", "keep those that are needed")
