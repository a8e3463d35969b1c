"""``[signer.authority]`` and ``[signer.successor]``: where signatures come from, one table for each ``kind``.

A further kind is a settings class in ``settings.py`` and a table, which has ``check`` (what must hold between its keys)
and ``build`` (the settings), as one more member of :data:`RemoteTable`. Where nothing has to be built, the table is the
settings, and ``build`` returns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final, TypeAlias, get_args

from federation.core.config.authorities.aws import AwsKmsTable, AwsPcaTable
from federation.core.config.authorities.cert_manager import CertManagerTable
from federation.core.config.authorities.pkcs11 import Pkcs11Table
from federation.core.config.authorities.settings import (
    AuthorityConfig,
    ConjurAuthorityConfig,
    LocalAuthorityConfig,
    RemoteAuthorityConfig,
)
from federation.core.config.authorities.vault import VaultTable, VaultTransitTable
from federation.core.config.mistakes import Place
from federation.core.config.tables import Forms, Section

RemoteTable: TypeAlias = (
    VaultTable | VaultTransitTable | Pkcs11Table | CertManagerTable | AwsPcaTable | AwsKmsTable
)
AuthorityTable: TypeAlias = LocalAuthorityConfig | ConjurAuthorityConfig | RemoteTable

KINDS: Final[Mapping[str, type[Section]]] = {
    str(field.default): table
    for table in get_args(AuthorityTable)
    for field in fields(table)
    if field.name == "kind"
}
"""Every kind of authority and its table, in the order of the reference page."""

AUTHORITIES: Final = Forms("kind", KINDS, default="local")

_ASIDE: Final = frozenset(field.name for field in fields(RemoteAuthorityConfig))


def build_authority(table: AuthorityTable) -> AuthorityConfig:
    """The authority's settings, once nothing in the file is wrong."""
    return table if isinstance(table, LocalAuthorityConfig | ConjurAuthorityConfig) else table.build()


def check_authority(signer: Place, name: str, table: AuthorityTable) -> None:
    """What must hold between the keys of the table ``name`` of ``[signer]``."""
    place = signer.below(name)
    match table:
        case LocalAuthorityConfig():
            place.check(table, _local)
        case ConjurAuthorityConfig():
            if not signer.has("conjur"):
                place.mistake("kind", "needs Conjur", "add [signer.conjur]")
            place.check(table, _variables)
        case _:
            table.check(place)


def _local(place: Place, table: LocalAuthorityConfig) -> None:
    if table.certificate_file == table.key_file:
        place.mistake("key_file", "is the certificate's file", "keep the key in a file of its own, mode 0600")


def _variables(place: Place, table: ConjurAuthorityConfig) -> None:
    if table.chain_variable == table.key_variable:
        place.mistake("key_variable", "is the chain's variable", "keep the key in a variable of its own")


def check_successor(signer: Place, authority: AuthorityTable, successor: AuthorityTable) -> None:
    """What must differ between the two of ``[signer]``: a rotation leads from one intermediate to another."""
    signer.check((authority, successor), _names_differ, _intermediates_differ)


def _names_differ(signer: Place, both: tuple[AuthorityTable, AuthorityTable]) -> None:
    if both[0].name == both[1].name:
        signer.mistake(
            "successor.name",
            "is the name of [signer.authority] as well",
            "give each a name of its own: status and the accounting of leaves distinguish them by it",
        )


def _intermediates_differ(signer: Place, both: tuple[AuthorityTable, AuthorityTable]) -> None:
    authority, successor = both
    chain = _certificate_file(successor)
    if chain is not None and chain == _certificate_file(authority):
        signer.mistake(
            "successor.certificate_file",
            "is the one of [signer.authority], so both would be the same intermediate",
            "name the file of the new intermediate",
        )
    elif _what_signs(build_authority(successor)) == _what_signs(build_authority(authority)):
        signer.mistake(
            "successor",
            "signs with what [signer.authority] signs with, so there is nothing to rotate to",
            "name the new intermediate's own back end, issuer or key, or remove this table",
        )


def _certificate_file(table: AuthorityTable) -> Path | None:
    """The file of the authority's chain; None where its kind has no such key: the authority itself is asked for it."""
    if all(field.name != "certificate_file" for field in fields(table)):
        return None
    file: Path | None = getattr(table, "certificate_file", None)
    return file


def _what_signs(config: AuthorityConfig) -> dict[str, object]:
    """The settings that say which intermediate it is: neither its name nor how much it may be asked."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: value for name, value in values.items() if name not in _ASIDE}
