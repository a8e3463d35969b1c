"""``[signer.authority]`` and ``[signer.successor]``: where signatures come from, one reader for each ``kind``.

A further kind is a settings class in ``settings.py``, a reader, and one more entry in :data:`KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

from federation.core.config.authorities.aws import read_aws_kms, read_aws_pca
from federation.core.config.authorities.cert_manager import read_cert_manager
from federation.core.config.authorities.common import AuthorityContext, conjur_variable, read_name
from federation.core.config.authorities.pkcs11 import read_pkcs11
from federation.core.config.authorities.settings import (
    AuthorityConfig,
    ConjurAuthorityConfig,
    LocalAuthorityConfig,
    RemoteAuthorityConfig,
    certificate_file,
)
from federation.core.config.authorities.vault import read_vault, read_vault_transit
from federation.core.config.mistakes import Table
from federation.core.config.types import one_of, seconds

_ASIDE: Final = frozenset(field.name for field in fields(RemoteAuthorityConfig))
_LOCAL: Final = LocalAuthorityConfig(name="", certificate_file=Path(), key_file=Path())  # for its defaults


def read_authority(table: Table, context: AuthorityContext) -> AuthorityConfig | None:
    """The authority's settings; None, with findings, where they cannot be used."""
    kind: str | None = _LOCAL.kind
    if table.has("kind"):
        kind = table.require("kind", one_of(KINDS), "")
    if kind is None:
        return None  # its other keys are not judged: nobody knows whose they are
    with table:
        return KINDS[kind](table, context)


def check_successor(signer: Table, authority: AuthorityConfig, successor: AuthorityConfig) -> None:
    """What must differ between the two of ``[signer]``: a rotation leads from one intermediate to another."""
    table = signer.table("successor")
    if successor.name == authority.name:
        table.mistake(
            "name",
            "is the name of [signer.authority] as well",
            "give each a name of its own: status and the accounting of leaves tell them apart by it",
        )
    chain = certificate_file(successor)
    if chain is not None and chain == certificate_file(authority):
        table.mistake(
            "certificate_file",
            "is the one of [signer.authority], so both would be the same intermediate",
            "name the file of the new intermediate",
        )
    elif _what_signs(successor) == _what_signs(authority):
        signer.mistake(
            "successor",
            "signs with what [signer.authority] signs with, so there is nothing to rotate to",
            "name the new intermediate's own back end, issuer or key, or remove this table",
        )


def _what_signs(config: AuthorityConfig) -> dict[str, object]:
    """The settings that say which intermediate it is: neither its name nor how much it may be asked."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: value for name, value in values.items() if name not in _ASIDE}


def _local(table: Table, context: AuthorityContext) -> LocalAuthorityConfig | None:
    name = read_name(table)
    certificate = table.require(
        "certificate_file",
        context.path,
        "name the PEM file of the intermediate and what stands between it and the root",
    )
    key = table.require("key_file", context.path, "name the PEM file of the intermediate's key")
    poll = table.get("poll_seconds", seconds(0.1, 3600), _LOCAL.poll_seconds)
    if certificate is not None and certificate == key:
        table.mistake("key_file", "is the certificate's file", "keep the key in a file of its own, mode 0600")
    if name is None or certificate is None or key is None:
        return None
    return LocalAuthorityConfig(name=name, certificate_file=certificate, key_file=key, poll_seconds=poll)


def _conjur(table: Table, context: AuthorityContext) -> ConjurAuthorityConfig | None:
    name = read_name(table)
    if not context.has_conjur:
        table.mistake("kind", "needs Conjur", "add [signer.conjur]")
    chain = table.require(
        "chain_variable",
        conjur_variable,
        "name the variable with the intermediate and what stands between it and the root, as PEM",
    )
    key = table.require(
        "key_variable", conjur_variable, "name the variable with the intermediate's key, as PEM"
    )
    if key is not None and chain == key:
        table.mistake("key_variable", "is the chain's variable", "keep the key in a variable of its own")
    if name is None or chain is None or key is None:
        return None
    return ConjurAuthorityConfig(name=name, chain_variable=chain, key_variable=key)


KINDS: Final[Mapping[str, Callable[[Table, AuthorityContext], AuthorityConfig | None]]] = {
    "local": _local,
    "conjur": _conjur,
    "vault": read_vault,
    "vault-transit": read_vault_transit,
    "pkcs11": read_pkcs11,
    "cert-manager": read_cert_manager,
    "aws-pca": read_aws_pca,
    "aws-kms": read_aws_kms,
}
"""Every kind of authority and its reader."""
