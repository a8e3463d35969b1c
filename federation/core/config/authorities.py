"""``[signer.authority]``: where signatures come from, one reader for each ``kind``.

A further kind is a settings class in ``model.py`` and one more entry in :data:`KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from federation.core.config.model import AuthorityConfig, LocalAuthorityConfig
from federation.core.config.tables import Table
from federation.core.config.values import label, one_of, relative_to, seconds

_LOCAL: Final = LocalAuthorityConfig(name="", certificate_file=Path(), key_file=Path())  # for its defaults


def read_authority(table: Table, directory: Path) -> AuthorityConfig | None:
    """The authority's settings; None, with findings, where they cannot be used."""
    with table:
        kind = table.get("kind", one_of(KINDS), "local")
        return KINDS[kind](table, directory)


def _local(table: Table, directory: Path) -> LocalAuthorityConfig | None:
    name = table.require(
        "name",
        label("a name for an authority"),
        "name it: status, metrics and the accounting of leaves use the name",
    )
    certificate = table.require(
        "certificate_file",
        relative_to(directory),
        "name the PEM file of the intermediate and what stands between it and the root",
    )
    key = table.require("key_file", relative_to(directory), "name the PEM file of the intermediate's key")
    poll = table.get("poll_seconds", seconds(0.1, 3600), _LOCAL.poll_seconds)
    if certificate is not None and certificate == key:
        table.mistake("key_file", "is the certificate's file", "keep the key in a file of its own, mode 0600")
    if name is None or certificate is None or key is None:
        return None
    return LocalAuthorityConfig(name=name, certificate_file=certificate, key_file=key, poll_seconds=poll)


KINDS: Final[Mapping[str, Callable[[Table, Path], AuthorityConfig | None]]] = {"local": _local}
