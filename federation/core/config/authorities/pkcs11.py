"""``kind = "pkcs11"``: a key in a token, named key by key or by one URI (RFC 7512).

Of a URI, as much is read as can name the private key of an authority. Strict: what is not understood is refused, for
an attribute that is passed over names more than was meant. The attributes that describe a kind of token or slot
(manufacturer, model, ...) are the exception: tools put them beside the serial, which is what distinguishes two
tokens, and a token is only used where exactly one matches. A PIN, or where it is, is not taken from a URI: URIs end
up in logs and status pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from federation.core.config.authorities.common import AuthorityContext, read_name, read_remote
from federation.core.config.authorities.settings import Pkcs11AuthorityConfig, SecretRef
from federation.core.config.mistakes import Convert, Table
from federation.core.config.types import integer, nonempty, string
from federation.core.errors import InvalidValue

MAX_URI_LENGTH: Final = 2048

_SCHEME: Final = "pkcs11:"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_COMMON: Final = r"A-Za-z0-9\-._~:\[\]@!$'()*+,="  # RFC 7512, 2.3: unreserved and pk11-res-avail
_PATH_VALUE: Final = re.compile(rf"(?:[{_COMMON}&]|%[0-9A-Fa-f]{{2}})*")
_QUERY_VALUE: Final = re.compile(rf"(?:[{_COMMON}/?|]|%[0-9A-Fa-f]{{2}})*")
_SLOT_ID: Final = re.compile(r"[0-9]{1,20}")
_LARGEST_SLOT_ID: Final = 2**64 - 1  # CK_SLOT_ID is an unsigned long
_MAX_ID_BYTES: Final = 256

_DESCRIPTIONS: Final = frozenset(
    {
        "manufacturer",
        "model",
        "library-manufacturer",
        "library-version",
        "library-description",
        "slot-description",
        "slot-manufacturer",
    }
)
_READ: Final = frozenset({"token", "serial", "slot-id", "object", "id", "type"})


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """What a URI says of a token and a key; what it leaves out is empty or None.

    ``id`` is lower-case hex, ``module_path`` an absolute path.
    """

    token: str = ""
    serial: str = ""
    slot_id: int | None = None
    object: str = ""
    id: str = ""
    module_path: str = ""


def parse_uri(text: str) -> Pkcs11Uri:
    """The parts of a URI. Raises InvalidValue, which quotes no value: one may be a PIN."""
    if len(text) > MAX_URI_LENGTH:
        raise _invalid(f"it has {len(text)} characters, at most {MAX_URI_LENGTH} are read")
    if text[: len(_SCHEME)].lower() != _SCHEME:  # RFC 3986, 3.1: schemes have no case
        raise _invalid("it does not begin with 'pkcs11:'")
    path, question, query = text[len(_SCHEME) :].partition("?")
    if question and not query:
        raise _invalid("there is nothing behind the '?'")
    in_path = _attributes(path.split(";") if path else (), _PATH_VALUE)
    in_query = _attributes(query.split("&") if query else (), _QUERY_VALUE)
    _check_names(in_path, in_query)
    if _attribute_text(in_path, "type") not in {"", "private"}:
        raise _invalid(
            "its type is not 'private'", "name the private key, which signs: type=private, or none"
        )
    identity = in_path.get("id", b"")
    if len(identity) > _MAX_ID_BYTES:
        raise _invalid(f"its id has {len(identity)} bytes, at most {_MAX_ID_BYTES} are read")
    return Pkcs11Uri(
        token=_attribute_text(in_path, "token"),
        serial=_attribute_text(in_path, "serial"),
        slot_id=_slot_id(_attribute_text(in_path, "slot-id")),
        object=_attribute_text(in_path, "object"),
        id=identity.hex(),
        module_path=_module_path(_attribute_text(in_query, "module-path")),
    )


def _attributes(parts: Iterable[str], value_of: re.Pattern[str]) -> dict[str, bytes]:
    """The attributes of one component by name, their values decoded (RFC 7512, 2.3 and 2.5)."""
    found: dict[str, bytes] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not _NAME.fullmatch(name) or not equals:
            raise _invalid("something in it is not of the form name=value")
        if name in found:
            raise _invalid(f"it holds {name[:40]!r} twice")
        if not value_of.fullmatch(value):
            raise _invalid(
                f"the value of {name[:40]!r} holds a character that has to be percent-encoded",
                "write it as % and two hexadecimal digits for each byte of its UTF-8",
            )
        found[name] = unquote_to_bytes(value)
    return found


def _check_names(in_path: Iterable[str], in_query: Iterable[str]) -> None:
    for name in in_path:
        if name not in _READ and name not in _DESCRIPTIONS:
            raise _invalid(
                f"{name[:40]!r} is not understood", "name the token and the key by what RFC 7512 defines"
            )
    for name in in_query:
        if name in {"pin-value", "pin-source"}:
            raise _invalid(f"{name!r} is not taken from a URI", 'remove it, and write pin = "file:PATH"')
        if name == "module-name":
            raise _invalid(f"{name!r} depends on the machine's search path", "write module = PATH instead")
        if name != "module-path":
            raise _invalid(f"{name[:40]!r} is not understood", "remove it")


def _attribute_text(attributes: dict[str, bytes], name: str) -> str:
    """An attribute as text; empty where it is not there."""
    try:
        text = attributes.get(name, b"").decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid(f"the value of {name!r} is not UTF-8") from None
    if not text.isprintable():
        raise _invalid(f"the value of {name!r} holds a control character")
    return text


def _slot_id(text: str) -> int | None:
    if not text:
        return None
    if not _SLOT_ID.fullmatch(text) or int(text) > _LARGEST_SLOT_ID:
        raise _invalid("its slot-id is not a number that a slot can have")
    return int(text)


def _module_path(text: str) -> str:
    if text and not text.startswith("/"):
        raise _invalid("its module-path is not absolute", "write the whole path of the shared library")
    return text


def _invalid(
    what: str, remedy: str = "write it as RFC 7512 has it, as `p11tool --list-privkeys` does"
) -> InvalidValue:
    return InvalidValue(f"this PKCS#11 URI cannot be used: {what}", remedy=remedy)


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
