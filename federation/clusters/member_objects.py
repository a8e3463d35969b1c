"""The objects that a member cluster needs, as ``manifests/member`` has them, with the mark of the hub that makes them.

The package carries the text of these manifests (a test compares both), so that a wheel alone can register a cluster.
Only an object that ``federation clusters add`` made bears the mark, and ``federation clusters remove`` deletes by it:
what a person, or a hub that runs in the same cluster, has made is never taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, TypeAlias

import yaml

from federation.clusters.trust_bundles import trust_bundle_name
from federation.core.identity import ANNOTATION, mark_in

Object: TypeAlias = dict[str, Any]

FIELD_MANAGER: Final = "federation-clusters-add"
"""The field manager of what a registration applies: neither the hub's nor an administrator's."""

CLUSTER: Final = "federation-hub/cluster"
"""The annotation with the name under which that hub has registered the cluster. It is there with the hub's mark."""

NAMESPACE: Final = "federation-system"
ISTIO_NAMESPACE: Final = "istio-system"
CONFIG_MAP: Final = "istio-ca-root-cert"
"""Where the manifests say that the bundle is published."""
PART_OF: Final = "app.kubernetes.io/part-of=federation-hub"
"""The label selector that every object of the manifests matches."""

PLURALS: Final[Mapping[str, str]] = {
    "Namespace": "namespaces",
    "ServiceAccount": "serviceaccounts",
    "ClusterRole": "clusterroles",
    "Role": "roles",
    "ClusterRoleBinding": "clusterrolebindings",
    "RoleBinding": "rolebindings",
}
"""Every kind in the manifests, in an order in which they can be made."""

CORE_KINDS: Final = frozenset({"Namespace", "ServiceAccount"})
RBAC: Final = "rbac.authorization.k8s.io"


def group_of(kind: str) -> str:
    """The API group of a kind in :data:`PLURALS`; all are served in version v1."""
    return "" if kind in CORE_KINDS else RBAC


def collection_path(kind: str, namespace: str = "") -> str:
    """The API path of all objects of a kind, of one namespace where one is named."""
    group = group_of(kind)
    base = f"/apis/{group}/v1" if group else "/api/v1"
    return f"{base}/namespaces/{namespace}/{PLURALS[kind]}" if namespace else f"{base}/{PLURALS[kind]}"


def object_path(item: Object) -> str:
    """The API path of one object."""
    meta = item["metadata"]
    return f"{collection_path(item['kind'], meta.get('namespace', ''))}/{meta['name']}"


def describe(item: Object) -> str:
    """``Role istio-system/federation-istiod-tls``."""
    meta = item["metadata"]
    place = f"{meta['namespace']}/" if "namespace" in meta else ""
    return f"{item['kind']} {place}{meta['name']}"


def member_objects(
    *,
    istio_namespaces: Sequence[str] = (ISTIO_NAMESPACE,),
    config_map: str = CONFIG_MAP,
    trust_bundle: bool = False,
) -> tuple[Object, ...]:
    """The objects in an order in which they can be made; what is in Istio's namespace, once in each of these.

    ``config_map`` is the one that the bundle is published in; ``trust_bundle`` adds the right to publish the
    ClusterTrustBundle as well.
    """
    found = [*_read("member.yaml"), *(_read("member-trust-bundle.yaml") if trust_bundle else ())]
    order = list(PLURALS)
    names = {CONFIG_MAP: config_map, trust_bundle_name(CONFIG_MAP): trust_bundle_name(config_map)}
    placed = [each for item in found for each in _placed(_renamed(item, names), istio_namespaces)]
    return tuple(sorted(placed, key=lambda item: order.index(item["kind"])))


def _renamed(item: Object, names: Mapping[str, str]) -> Object:
    """A role that names other objects in ``resourceNames``."""
    if "rules" not in item:
        return item
    rules = [
        rule | {"resourceNames": [names.get(name, name) for name in rule["resourceNames"]]}
        if "resourceNames" in rule
        else rule
        for rule in item["rules"]
    ]
    return item | {"rules": rules}


def _read(name: str) -> list[Object]:
    text = (files(__package__) / name).read_text("utf-8")
    return [item for item in yaml.safe_load_all(text) if item]


def _placed(item: Object, namespaces: Iterable[str]) -> Iterator[Object]:
    if item["metadata"].get("namespace") != ISTIO_NAMESPACE:
        yield item
        return
    for namespace in namespaces:
        yield item | {"metadata": item["metadata"] | {"namespace": namespace}}


def marked(item: Object, *, hub: str, cluster: str) -> Object:
    """The object as this hub's own, of the cluster that it has registered under that name."""
    meta = item["metadata"]
    annotations = {**meta.get("annotations", {}), ANNOTATION: hub, CLUSTER: cluster}
    return item | {"metadata": meta | {"annotations": annotations}}


def mark_of(live: Mapping[str, Any]) -> tuple[str, str]:
    """The hub's mark on a live object and the name it is registered under; empty where there is none."""
    annotations = (live.get("metadata") or {}).get("annotations")
    annotations = annotations if isinstance(annotations, dict) else {}
    name = annotations.get(CLUSTER)
    return mark_in(annotations), name[:MOST_NAME] if isinstance(name, str) else ""


MOST_NAME: Final = 63  # characters of a cluster's name


def rights(objects: Iterable[Object]) -> list[str]:
    """What the roles among the objects grant, a line for each rule: ``ACCOUNT may VERBS RESOURCES``."""
    made = list(objects)
    roles = {(o["kind"], _place(o), o["metadata"]["name"]): o for o in made if o["kind"].endswith("Role")}
    lines = []
    for binding in (o for o in made if o["kind"].endswith("Binding")):
        reference = binding["roleRef"]
        role = roles[reference["kind"], _place(binding), reference["name"]]
        for subject in binding["subjects"]:
            lines += [f"{subject['name']} may {_rule(rule, _place(binding))}" for rule in role["rules"]]
    return lines


def _place(item: Object) -> str:
    place: str = item["metadata"].get("namespace", "")
    return place


def _rule(rule: Mapping[str, Any], namespace: str) -> str:
    verbs = ", ".join(rule["verbs"])
    if "nonResourceURLs" in rule:
        return f"{verbs} {', '.join(rule['nonResourceURLs'])}"
    named = f" named {', '.join(rule['resourceNames'])}" if rule.get("resourceNames") else ""
    where = f" in {namespace}" if namespace else ""
    return f"{verbs} {', '.join(rule['resources'])}{named}{where}"


def to_yaml(objects: Iterable[Object]) -> str:
    """The objects as one YAML stream, for ``kubectl apply --server-side -f -``."""
    dumped = (yaml.safe_dump(item, sort_keys=False, default_flow_style=False) for item in objects)
    return "---\n".join(dumped)
