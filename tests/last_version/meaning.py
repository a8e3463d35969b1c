"""What a configuration means, by the keys of ``clusters.toml`` as they were in the last version.

The fixtures say nothing of classes and attributes, so this is the one place to change where those are renamed: a key
of the last version leads to the attribute of this one that its value is read into.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from operator import attrgetter
from pathlib import PurePath
from typing import Any, Final

from federation.core.config.load import parse_config

FILE: Final = "/etc/federation/clusters.toml"
"""Where the files are taken to be: relative paths in them start there."""

AUTHORITY: Final = r"(signer\.(?:authority|successor))"
MOVED: Final = tuple(
    (re.compile(pattern), attribute)
    for pattern, attribute in (
        # key of the last version, attribute of this one; the first that matches counts
        (rf"{AUTHORITY}\.(kubeconfig|context|in_cluster|allowed_exec)", r"\1.credentials.\2"),
        (rf"{AUTHORITY}\.(region|endpoint|role_arn|jwt)", r"\1.aws.\2"),
        (rf"{AUTHORITY}\.(address|namespace|ca_file)", r"\1.server.\2"),
        (rf"{AUTHORITY}\.auth\.client_(certificate_file|key_file)", r"\1.server.auth.certificate.\2"),
        (rf"{AUTHORITY}\.auth\.client_certificate", r"\1.server.auth.certificate.is_spiffe"),
        (rf"{AUTHORITY}\.auth\.(\w+)", r"\1.server.auth.\2"),
        (r"(trust\.anchors\[\d+\])\.cluster", r"\1.clusters"),
        (r"(clusters\[\d+\])\.own_anchors", r"\1.member_cas"),
        (r"door\.(\w+)", r"listener.\1"),
        (r"state\.(kubeconfig|context|in_cluster|allowed_exec)", r"state.credentials.\1"),
    )
)
"""Keys whose values are not read into attributes of the same names."""

ELSEWHERE: Final = {
    ("cert-manager", "namespace"): "namespace",
    ("aws-pca", "ca_file"): "aws.ca_file",
    ("aws-kms", "ca_file"): "aws.ca_file",
}
"""Keys of an authority that lead elsewhere for one kind."""

NUMBER: Final = "[*]"
"""At the end of a key: how many tables an array of tables has."""


def read(text: str) -> Any:
    """The configuration that this version reads from a file of the last one."""
    return parse_config(text, file=FILE)


def value_at(config: Any, key: str) -> Any:
    """What a key of the last version means, as it can be written in JSON."""
    if key.endswith(NUMBER):
        return len(_follow(config, key.removesuffix(NUMBER)))
    kind = _kind_of(config, key)
    table, _, name = key.rpartition(".")
    if elsewhere := ELSEWHERE.get((kind, name)):
        return plain(_follow(config, f"{table}.{elsewhere}"))
    for pattern, attribute in MOVED:
        if match := pattern.fullmatch(key):
            return plain(_follow(config, match.expand(attribute)))
    return plain(_follow(config, key))


def plain(value: Any) -> Any:
    """A value of any class as JSON: sets in order, everything else by its text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, AbstractSet):
        return sorted(map(plain, value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return str(value)


def _kind_of(config: Any, key: str) -> str:
    match = re.match(rf"{AUTHORITY}\.\w+$", key)
    return str(_follow(config, f"{match[1]}.kind")) if match else ""


def _follow(config: Any, path: str) -> Any:
    """The attribute at a path such as ``clusters[0].policy.allow``."""
    value = config
    for step in path.split("."):
        name, _, place = step.partition("[")
        value = attrgetter(name)(value)
        if place:
            value = value[int(place.removesuffix("]"))]
    return value
