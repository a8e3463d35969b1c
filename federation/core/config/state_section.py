"""``[state]``: a directory, or objects in the hub's own cluster; each kind has its own keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from federation.core.config.credentials import CREDENTIAL_KEYS, read_credentials
from federation.core.config.model import StateConfig
from federation.core.config.tables import Table
from federation.core.config.values import label, one_of, relative_to

MOST_NAMESPACE: Final = 55
"""Characters: the signers' own namespace has the same name with ``-signers``, and a name has 63."""

_STATE: Final = StateConfig()  # for its defaults
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "files": ("directory",),
    "kubernetes": ("namespace", *CREDENTIAL_KEYS),
}


def read_state(table: Table, directory: Path) -> StateConfig | None:
    """Where state is kept; None, with findings, where that cannot be used."""
    kind: str | None = _STATE.kind
    if table.has("kind"):
        kind = table.require("kind", one_of(_READERS), "")
    if kind is None:
        return None  # its other keys are not judged: nobody knows whose they are
    with table:
        for other, keys in _KEYS.items():
            for key in keys:
                if other != kind and table.has(key):
                    table.mistake(key, f'is a key of kind = "{other}"', "set that kind, or remove this key")
        return _READERS[kind](table, directory)


def _files(table: Table, directory: Path) -> StateConfig | None:
    found = table.require(
        "directory",
        relative_to(directory),
        'name a directory that survives and that both roles can write, or set kind = "kubernetes"',
    )
    return None if found is None else StateConfig(kind="files", directory=found)


def _kubernetes(table: Table, directory: Path) -> StateConfig | None:
    namespace = table.require(
        "namespace",
        label("a namespace name"),
        "name the namespace of the objects: one where only the hub may write them",
    )
    credentials = read_credentials(
        table,
        directory,
        "set in_cluster = true where the hub runs in that cluster, or name a kubeconfig of it",
    )
    if namespace is not None and len(namespace) > MOST_NAMESPACE:
        table.mistake(
            "namespace",
            f"has {len(namespace)} characters: that of the signers adds to it",
            f"use at most {MOST_NAMESPACE}",
        )
        return None
    if namespace is None or credentials is None:
        return None
    return StateConfig(kind="kubernetes", namespace=namespace, credentials=credentials)


_READERS: Final[Mapping[str, Callable[[Table, Path], StateConfig | None]]] = {
    "files": _files,
    "kubernetes": _kubernetes,
}
