"""What is written from the chart's ``values.yaml``: the schema that Helm checks values by, and its reference page.

``python -m tests.manifests.chart_pages`` writes both; a test compares them. The comment above a key says what it is, in
all three. What becomes a part of ``clusters.toml`` is checked by the schema of that file.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from tests.core.config.pages import DRAFT, SCHEMA
from tests.manifests.chart import CHART, VALUES, values

VALUES_SCHEMA = CHART / "values.schema.json"
PAGE = CHART / "README.md"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"
KEY = re.compile(r"( *)([A-Za-z]+):(?: (.*))?")

Schema = dict[str, Any]
TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
OBJECTS: Final[Schema] = {"type": "array", "items": {"type": "object"}}
STRINGS: Final[Schema] = {"type": "array", "items": {"type": "string"}}
NUMBER: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 65535}
SERVICE: Final[Schema] = {"type": "string", "enum": ["ClusterIP", "LoadBalancer", "NodePort"]}
WANTED: Final[Schema] = {"enum": ["auto", True, False]}
NAME: Final[Schema] = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
NAMESPACES: Final[Schema] = {"type": "array", "items": NAME | {"maxLength": 63}, "uniqueItems": True}
OF_CONFIGURATION: Final[Schema] = json.loads(SCHEMA.read_text("utf-8"))
KINDS: Final[dict[str, Schema]] = {
    table["properties"]["kind"]["const"]: table
    for name, table in OF_CONFIGURATION["$defs"].items()
    if name in json.dumps(OF_CONFIGURATION["$defs"]["SignerTable"]["properties"]["authority"])
}
"""The tables that [signer.authority] can be, by their kind."""
HAVE_DEFAULTS: Final = {"name", "certificate_file", "key_file"}
"""Of ``local``; of other kinds the name alone."""
ROLE: Final[dict[str, Schema]] = {
    "replicas": {"type": "integer", "minimum": 1},
    "resources": {"type": "object"},
    "minAvailable": {
        "oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%$"}]
    },
    "topologySpreadConstraints": {
        "type": "array",
        "items": {"type": "object", "required": ["maxSkew", "topologyKey", "whenUnsatisfiable"]},
    },
    "nodeSelector": TEXTS,
    "tolerations": OBJECTS,
    "affinity": {"type": "object"},
    "podLabels": TEXTS,
    "podAnnotations": TEXTS,
    "serviceAccountAnnotations": TEXTS,
    "env": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    "args": {"type": "array", "items": {"type": "string", "pattern": "^--"}},
    "volumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    "volumeMounts": {"type": "array", "items": {"type": "object", "required": ["name", "mountPath"]}},
}
TYPES: Final[dict[str, Schema]] = {
    "commonLabels": TEXTS,
    "commonAnnotations": TEXTS,
    "image.repository": {"type": "string", "minLength": 1},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"type": "string", "enum": ["Always", "IfNotPresent", "Never"]},
    "image.pullSecrets": {"type": "array", "items": NAME},
    "logs.format": {"type": "string", "enum": ["json", "text"]},
    "anchors.pins": {"type": "array", "items": {"$ref": "#/$defs/Pin"}},
    "anchors.configMap": NAME,
    "authority.kind": {"type": "string", "enum": list(KINDS)},
    "authority.settings": {"type": "object"},
    "authority.secret": NAME,
    "authority.token.expirationSeconds": {"type": "integer", "minimum": 600},
    "authority.mounts": {"type": "array", "items": {"$ref": "#/$defs/Mount"}},
    "authority.egressPorts": {"type": "array", "items": NUMBER},
    "authority.spiffe.path": {"type": "string", "pattern": "^/"},
    "clusters": {"type": "array", "items": {"$ref": "#/$defs/ClusterTable"}},
    "discovery.istioSecrets": NAMESPACES,
    "discovery.labelledSecrets": NAMESPACES,
    "discovery.clusterProfiles": NAMESPACES,
    "kubeconfigs.signer": NAME,
    "kubeconfigs.controller": NAME,
    "configuration.mode": {"type": "string", "enum": ["once", "release", "external"]},
    "configuration.settings": {"$ref": "#/$defs/Settings"},
    "service.type": SERVICE,
    "service.port": NUMBER,
    "service.nodePort": {"type": "integer", "minimum": 0, "maximum": 65535},
    "service.hostnames": STRINGS,
    "service.annotations": TEXTS,
    "service.loadBalancerSourceRanges": STRINGS,
    "service.externalTrafficPolicy": {"type": "string", "enum": ["", "Local", "Cluster"]},
    "status.secret": NAME,
    "status.operateSecret": NAME,
    "status.tokens": {"type": "array", "items": {"$ref": "#/$defs/CallerToken"}},
    "status.kubernetes.audience": {"type": "string", "minLength": 1},
    "status.oidc": {"anyOf": [{"type": "object", "maxProperties": 0}, {"$ref": "#/$defs/OidcCallersConfig"}]},
    "status.service.type": SERVICE,
    "status.service.port": NUMBER,
    "status.service.annotations": TEXTS,
    "state.kind": {"type": "string", "enum": ["kubernetes", "files"]},
    "state.namespace": NAME | {"maxLength": 55},
    "accountToken": WANTED,
    "kubeconfigs.renew": WANTED,
    "openshift": WANTED,
    "networkPolicy.apiServerPorts": {"type": "array", "items": NUMBER},
    "networkPolicy.apiServerCidrs": STRINGS,
    "monitoring.serviceMonitor.enabled": WANTED,
    "monitoring.serviceMonitor.labels": TEXTS,
    "monitoring.prometheusRule.enabled": WANTED,
    "monitoring.prometheusRule.labels": TEXTS,
    "monitoring.prometheusRule.runbookUrl": {"type": "string", "pattern": "^[^\\s#]+$"},
    "monitoring.dashboard.labels": TEXTS,
    "monitoring.dashboard.annotations": TEXTS,
    **{f"{role}.{key}": kind for role in ("signer", "controller") for key, kind in ROLE.items()},
}
"""The types of what a default does not show."""
OF_DEFAULTS: Final = {bool: "boolean", int: "integer", str: "string"}


def comments() -> dict[str, str]:
    """What is said above each key of values.yaml, by its path with dots."""
    found: dict[str, str] = {}
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in VALUES.read_text("utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            above.append(text.removeprefix("#").strip())
        elif key := KEY.fullmatch(line):
            depth = len(key[1])
            parents = [each for each in parents if each[0] < depth] + [(depth, key[2])]
            path = ".".join(name for _, name in parents)
            found.setdefault(path, " ".join(above))
            above = []
        else:
            above = []
    return found


def leaves(tree: Schema, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value by its path, with its default; a map that has a type of its own is one value."""
    for key, value in tree.items():
        place = f"{path}.{key}" if path else key
        if isinstance(value, dict) and place not in TYPES:
            yield from leaves(value, place)
        else:
            yield place, value


def schema() -> str:
    """values.schema.json."""
    defined = OF_CONFIGURATION["$defs"]
    said = comments()

    def table(tree: Schema, path: str) -> Schema:
        properties = {}
        for key, value in tree.items():
            place = f"{path}.{key}" if path else key
            if place in TYPES:
                properties[key] = copy.deepcopy(TYPES[place])
            elif isinstance(value, dict):
                properties[key] = table(value, place)
            else:
                properties[key] = {"type": OF_DEFAULTS[type(value)]}
            if "$ref" in properties[key]:
                properties[key] = {"allOf": [properties[key]]}
            if said[place]:
                properties[key]["description"] = said[place]
        return {"type": "object", "additionalProperties": False, "properties": properties}

    whole = {"$schema": DRAFT, "title": "Values of the federation hub's chart", **table(values(VALUES), "")}
    # Helm puts the values of a parent chart's `global` into every chart.
    whole["properties"]["global"] = {
        "type": "object",
        "description": "Not used; of charts that this one is a part of.",
    }
    whole["allOf"] = [rule for kind, keys in KINDS.items() for rule in of_kind(kind, keys)]
    defs = {"Pin": pin(defined["AnchorTable"]), "Mount": mount(), "Settings": settings()}
    whole["$defs"] = with_all_named(whole, defs, defined)
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def of_kind(kind: str, authority: Schema) -> Iterator[Schema]:
    """Which settings an authority of that kind has, and which it needs where the chart writes the configuration."""
    of_it: Schema = {"properties": {"authority": {"properties": {"kind": {"const": kind}}}}}
    keys = copy.deepcopy(authority)
    needed = [name for name in keys.pop("required", []) if name not in HAVE_DEFAULTS]
    if kind != "local" and "certificate_file" in keys["properties"]:
        needed.append("certificate_file")
    keys["properties"].pop("kind")
    yield {"if": of_it, "then": {"properties": {"authority": {"properties": {"settings": keys}}}}}
    if needed:
        made: Schema = {
            "mode": {"enum": ["once", "release"]},
            "text": {"maxLength": 0},
        }
        written = {"properties": {**of_it["properties"], "configuration": {"properties": made}}}
        yield {
            "if": written,
            "then": {
                "properties": {"authority": {"properties": {"settings": {"required": sorted(set(needed))}}}}
            },
        }


def pin(anchor: Schema) -> Schema:
    """A root: its table, with the key of the ConfigMap for the file, and the certificate where it is given."""
    found = copy.deepcopy(anchor)
    found["description"] = "One root that may be in the bundle."
    found["properties"]["file"] = {
        "type": "string",
        "pattern": "^[-._a-zA-Z0-9]+$",
        "description": "The key of the ConfigMap that holds this root, such as root.pem.",
    }
    found["properties"]["pem"] = {
        "type": "string",
        "pattern": "-----BEGIN CERTIFICATE-----",
        "description": "The root itself, for the ConfigMap.",
    }
    return found


def mount() -> Schema:
    text = "What the authority's back end needs, mounted in the signer."
    names = {"name": NAME, "path": {"type": "string", "pattern": "^/"}, "secret": NAME, "configMap": NAME}
    return {
        "type": "object",
        "description": text,
        "additionalProperties": False,
        "properties": names,
        "required": ["name", "path"],
        "oneOf": [{"required": ["secret"]}, {"required": ["configMap"]}],
    }


def settings() -> Schema:
    """``clusters.toml`` without what other values write."""
    tables = {
        "trust": ("TrustTable", "anchors"),
        "listener": ("ListenerConfig", ""),
        "signer": ("SignerTable", "authority"),
    }
    found = {
        key: copy.deepcopy(OF_CONFIGURATION[key]) for key in ("type", "additionalProperties", "properties")
    }
    for key in ("trust_domain", "state", "clusters"):
        del found["properties"][key]
    for key, (name, elsewhere) in tables.items():
        inner = copy.deepcopy(OF_CONFIGURATION["$defs"][name])
        inner.pop("required", None)
        inner["properties"].pop(elsewhere, None)
        found["properties"][key] = inner
    return found


def with_all_named(whole: Schema, own: Schema, defined: Schema) -> Schema:
    """The definitions that are referred to, and those that these refer to."""
    kept: Schema = dict(own)
    wanted = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps([whole, own])))
    while missing := wanted - set(kept):
        for name in missing:
            kept[name] = defined[name]
            wanted |= set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(defined[name])))
    return {name: kept[name] for name in sorted(kept)}


def reference() -> str:
    """The table of all values."""
    said = comments()
    lines = ["| value | default | what it is |\n|---|---|---|\n"]
    for path, default in leaves(values(VALUES)):
        shown = f"`{json.dumps(default)}`"
        if len(shown) > 60:
            shown = "see values.yaml"
        lines.append(f"| `{path}` | {shown} | {said[path].replace('|', '&#124;')} |\n")
    return "".join(lines)


def page(text: str) -> str:
    """The page with the values of today between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + reference() + "\n" + END + after


if __name__ == "__main__":
    VALUES_SCHEMA.write_text(schema(), "utf-8")
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
