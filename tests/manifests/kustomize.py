"""Renders a Kustomize tree, as far as manifests/ uses Kustomize; anything else is an error.

Small on purpose: a field that is not implemented here raises, so the tree cannot grow past what the tests
see. Where a kubectl is at hand, a test compares this with the real thing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

KNOWN = {
    "apiVersion",
    "kind",
    "resources",
    "namespace",
    "labels",
    "configMapGenerator",
    "generatorOptions",
    "patches",
}
CLUSTER_SCOPED = {
    "Namespace",
    "ClusterRole",
    "ClusterRoleBinding",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def render(directory: Path) -> list[Object]:
    """Every object of the kustomization in that directory."""
    kustomization = load(directory / "kustomization.yaml")
    unknown = set(kustomization) - KNOWN
    if unknown:
        raise ValueError(f"{directory}: this renderer does not know {sorted(unknown)}")
    objects = [item for name in kustomization.get("resources", []) for item in resource(directory / name)]
    objects += generated(directory, kustomization)
    for patch in kustomization.get("patches", []):
        apply_patch(objects, patch)
    for item in objects:
        transform(item, kustomization)
    keys = [identity(item) for item in objects]
    if len(keys) != len(set(keys)):
        raise ValueError(f"{directory}: an object is there twice: {sorted(keys)}")
    return objects


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def identity(item: Object) -> tuple[str, str, str]:
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def resource(path: Path) -> Iterator[Object]:
    if path.is_dir():
        yield from render(path)
        return
    yield from (item for item in yaml.safe_load_all(path.read_text("utf-8")) if item is not None)


def generated(directory: Path, kustomization: Object) -> Iterator[Object]:
    generators = kustomization.get("configMapGenerator", [])
    if generators and kustomization.get("generatorOptions") != {"disableNameSuffixHash": True}:
        raise ValueError(f"{directory}: only generators without a name suffix are known here")
    for generator in generators:
        if set(generator) != {"name", "namespace", "files"}:
            raise ValueError(f"{directory}: only files are generated here, into a namespace that is named")
        files = [directory / name for name in generator["files"]]
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": generator["name"], "namespace": generator["namespace"]},
            "data": {path.name: path.read_text("utf-8") for path in files},
        }


def transform(item: Object, kustomization: Object) -> None:
    """The kustomization's namespace and labels, as Kustomize sets them."""
    metadata = item["metadata"]
    if "namespace" in kustomization and item["kind"] not in CLUSTER_SCOPED:
        metadata["namespace"] = kustomization["namespace"]
    for entry in kustomization.get("labels", []):
        if not set(entry) <= {"pairs", "includeTemplates"}:
            raise ValueError(f"labels: {sorted(entry)} is more than this renderer knows")
        metadata.setdefault("labels", {}).update(entry["pairs"])
        template = item.get("spec", {}).get("template")
        if entry.get("includeTemplates") and template is not None:
            template["metadata"].setdefault("labels", {}).update(entry["pairs"])


def apply_patch(objects: list[Object], patch: Object) -> None:
    """A JSON patch (RFC 6902) on every object of the target's kind and name, or their removal."""
    target = patch["target"]
    if set(patch) != {"target", "patch"} or not {"kind"} <= set(target) <= {"kind", "name"}:
        raise ValueError("only inline patches on a kind and a name are known here")
    name = re.compile(target.get("name", ".*"))
    hit = [
        item
        for item in objects
        if item["kind"] == target["kind"] and name.fullmatch(item["metadata"]["name"])
    ]
    if not hit:
        raise ValueError(f"no {target} to patch")
    change = yaml.safe_load(patch["patch"])
    if isinstance(change, dict):
        if change.get("$patch") != "delete" or change["kind"] != target["kind"]:
            raise ValueError("a patch that merges is not known here")
        objects[:] = [item for item in objects if item not in hit]
        return
    for item in hit:
        for operation in change:
            apply_operation(item, copy.deepcopy(operation))


def apply_operation(item: Object, operation: Object) -> None:
    *parents, last = operation["path"].removeprefix("/").split("/")
    place: Any = item
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    match operation["op"]:
        case "add" if isinstance(place, list) and last == "-":
            place.append(operation["value"])
        case "add" if isinstance(place, dict):
            place[last] = operation["value"]
        case "replace" if isinstance(place, dict) and last in place:
            place[last] = operation["value"]
        case "remove" if isinstance(place, dict) and last in place:
            del place[last]
        case other:
            raise ValueError(f"{other} {operation['path']}: unknown, or nothing there")
