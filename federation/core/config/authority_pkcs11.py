"""``kind = "pkcs11"``: a key in a token, named key by key or by one URI (RFC 7512)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.core.config.authority_common import read_name, read_remote
from federation.core.config.authority_model import Pkcs11AuthorityConfig, SecretRef
from federation.core.config.pkcs11_uri import Pkcs11Uri, parse_uri
from federation.core.config.references import AuthorityContext
from federation.core.config.tables import Convert, Table
from federation.core.config.values import integer, nonempty, string
from federation.core.errors import InvalidValue

_PKCS11: Final = Pkcs11AuthorityConfig(  # for its defaults
    name="", module=Path(), pin=SecretRef("file", ""), certificate_file=Path()
)
_TOKEN_KEYS: Final = ("token", "slot", "serial")
_OBJECT_KEYS: Final = ("key_label", "key_id")
_KEY_ID: Final = re.compile(r"(?:[0-9a-f]{2}){1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Key:
    """Where the key is: a token, and an object in it."""

    token: str
    slot: int | None
    serial: str
    key_label: str
    key_id: str


def read_pkcs11(table: Table, context: AuthorityContext) -> Pkcs11AuthorityConfig | None:
    """A key in a PKCS#11 token."""
    name = read_name(table)
    remote = read_remote(table, _PKCS11, context)
    uri = table.get("uri", _uri, None)
    module = _module(table, uri, context)
    key = _by_uri(table, uri) if table.has("uri") else _by_keys(table)
    pin = table.require(
        "pin", context.secret, 'write where the user PIN is: "file:PATH", "env:NAME" or "conjur:VARIABLE"'
    )
    certificate = table.require(
        "certificate_file",
        context.path,
        "name the PEM file of the intermediate and what stands between it and the root",
    )
    if name is None or module is None or key is None or pin is None or certificate is None:
        return None
    return Pkcs11AuthorityConfig(
        name=name,
        module=module,
        pin=pin,
        certificate_file=certificate,
        token=key.token,
        slot=key.slot,
        serial=key.serial,
        key_label=key.key_label,
        key_id=key.key_id,
        **remote,
    )


def _module(table: Table, uri: Pkcs11Uri | None, context: AuthorityContext) -> Path | None:
    """``module``, or the URI's ``module-path``; where both name one, the same."""
    named = Path(uri.module_path) if uri is not None and uri.module_path else None
    if named is not None and not table.has("module"):
        return named
    module = table.require(
        "module",
        context.path,
        "name the library of the HSM's maker, for example /usr/lib/softhsm/libsofthsm2.so",
    )
    if module is not None and named is not None and module != named:
        table.mistake("module", "is not the module-path of uri", "keep one of the two")
    return module


def _by_uri(table: Table, uri: Pkcs11Uri | None) -> _Key | None:
    for key in (*_TOKEN_KEYS, *_OBJECT_KEYS):
        if table.has(key):
            table.mistake(key, "contradicts uri", "keep one of the two")
    if uri is None:
        return None
    if not uri.token and not uri.serial and uri.slot_id is None:
        table.mistake("uri", "names no token", "add token=, serial= or slot-id= to it")
    if not uri.object and not uri.id:
        table.mistake("uri", "names no key", "add object= or id= to it")
    return _Key(uri.token, uri.slot_id, uri.serial, uri.object, uri.id)


def _by_keys(table: Table) -> _Key:
    found = _Key(
        token=table.get("token", _text(32), _PKCS11.token),
        slot=table.get("slot", integer(0, 2**63 - 1), _PKCS11.slot),
        serial=table.get("serial", _text(16), _PKCS11.serial),
        key_label=table.get("key_label", _text(255), _PKCS11.key_label),
        key_id=table.get("key_id", _key_id, _PKCS11.key_id),
    )
    named = [key for key in _TOKEN_KEYS if table.has(key)]
    if not named:
        table.mistake("token", "is missing", "name the token by token (its label), serial or slot, or by uri")
    for more in named[1:]:
        table.mistake(
            more, f"names the token a second time, beside {named[0]}", "keep one; a label or serial lasts"
        )
    if not any(table.has(key) for key in _OBJECT_KEYS):
        table.mistake("key_label", "is missing", "name the key by key_label or key_id (hex), or by uri")
    return found


def _uri(value: object) -> Pkcs11Uri:
    return parse_uri(string(value))


def _text(longest: int) -> Convert[str]:
    """Text of at most that many bytes, as PKCS#11's own structures hold it."""

    def convert(value: object) -> str:
        text = nonempty(value)
        if len(text.encode("utf-8", "surrogatepass")) > longest:
            raise InvalidValue(
                f"is longer than {longest} bytes",
                remedy="see `pkcs11-tool --module MODULE --list-token-slots`",
            )
        return text

    return convert


def _key_id(value: object) -> str:
    text = string(value).lower().replace(":", "")
    if not _KEY_ID.fullmatch(text):
        raise InvalidValue("is not a key's ID in hex", remedy='write its bytes, for example "01" or "a1:b2"')
    return text
