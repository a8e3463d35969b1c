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
from typing import Annotated, Final, Literal
from urllib.parse import unquote_to_bytes

from federation.core.config.authorities.common import limits_of
from federation.core.config.authorities.settings import (
    NAME_A_CHAIN,
    Pkcs11AuthorityConfig,
    RemoteAuthorityConfig,
    SecretRef,
    secret_place,
)
from federation.core.config.mistakes import Place
from federation.core.config.tables import Needed
from federation.core.config.types import Value, integer, nonempty, path, read_as, seconds, string
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


_TOKEN_KEYS: Final = ("token", "slot", "serial")
_OBJECT_KEYS: Final = ("key_label", "key_id")
_KEY_ID: Final = re.compile(r"(?:[0-9a-f]{2}){1,256}", re.ASCII)


@read_as("PKCS#11 URI (RFC 7512)", type="string", pattern="^[pP][kK][cC][sS]11:")
def _uri(value: object) -> Pkcs11Uri:
    return parse_uri(string(value))


def _text(longest: int) -> Value[str]:
    """Text of at most that many bytes, as PKCS#11's own structures hold it."""

    @read_as(f"text, at most {longest} bytes", type="string", minLength=1, maxLength=longest)
    def convert(value: object) -> str:
        text = nonempty(value)
        if len(text.encode("utf-8", "surrogatepass")) > longest:
            raise InvalidValue(
                f"is longer than {longest} bytes",
                remedy="see `pkcs11-tool --module MODULE --list-token-slots`",
            )
        return text

    return convert


@read_as("bytes in hex")
def _key_id(value: object) -> str:
    text = string(value).lower().replace(":", "")
    if not _KEY_ID.fullmatch(text):
        raise InvalidValue("is not a key's ID in hex", remedy='write its bytes, for example "01" or "a1:b2"')
    return text


@dataclass(frozen=True, kw_only=True)
class Pkcs11Table(RemoteAuthorityConfig):
    """A key in a PKCS#11 token. Needs the package extra ``pkcs11``."""

    kind: Literal["pkcs11"] = "pkcs11"
    """A key in an HSM or another PKCS#11 token."""
    module: Annotated[Path | None, path] = None
    """The library of the token's maker. Required where uri has no module-path."""
    token: Annotated[str, _text(32)] = ""
    """The token by its label; this, serial, slot or uri is required."""
    serial: Annotated[str, _text(16)] = ""
    """The token by its serial number."""
    slot: Annotated[int | None, integer(0, 2**63 - 1)] = None
    """The token by the slot it is in, which may change with a restart."""
    pin: Annotated[
        SecretRef,
        secret_place,
        Needed('write where the user PIN is: "file:PATH", "env:NAME" or "conjur:VARIABLE"'),
    ]
    """The user PIN."""
    key_label: Annotated[str, _text(255)] = ""
    """The key by its label (CKA_LABEL); this, key_id, both or uri is required."""
    key_id: Annotated[str, _key_id] = ""
    """The key by its ID (CKA_ID)."""
    uri: Annotated[Pkcs11Uri | None, _uri] = None
    """Token and key by one URI, with module-path instead of module if you like. No PIN in it."""
    certificate_file: Annotated[Path, path, Needed(NAME_A_CHAIN)]
    """The intermediate first, then what is between it and the root, as PEM."""
    max_in_flight: Annotated[int, integer(1, 10_000)] = 64
    """Requests under way in one process; one thread of it asks the token."""
    poll_seconds: Annotated[float, seconds(0.1, 3600)] = 10.0
    """How often health and chain are checked."""

    def check(self, place: Place) -> None:
        """What must hold between its keys."""
        place.check(self, _one_module, _uri_alone, _uri_whole, _one_token, _some_key)

    def build(self) -> Pkcs11AuthorityConfig:
        """The authority's settings, once nothing in the file is wrong."""
        uri = self.uri
        return Pkcs11AuthorityConfig(
            **limits_of(self),
            module=self.module or Path(uri.module_path if uri else ""),
            pin=self.pin,
            certificate_file=self.certificate_file,
            token=uri.token if uri else self.token,
            slot=uri.slot_id if uri else self.slot,
            serial=uri.serial if uri else self.serial,
            key_label=uri.object if uri else self.key_label,
            key_id=uri.id if uri else self.key_id,
        )


def _one_module(place: Place, table: Pkcs11Table) -> None:
    named = table.uri is not None and table.uri.module_path
    if not named and not place.has("module"):
        place.mistake(
            "module",
            "is missing",
            "name the library of the HSM's maker, for example /usr/lib/softhsm/libsofthsm2.so",
        )
    elif named and table.module is not None and table.module != Path(named):
        place.mistake("module", "is not the module-path of uri", "keep one of the two")


def _uri_alone(place: Place, _: Pkcs11Table) -> None:
    for key in place.set_among((*_TOKEN_KEYS, *_OBJECT_KEYS)) if place.has("uri") else ():
        place.mistake(key, "contradicts uri", "keep one of the two")


def _uri_whole(place: Place, table: Pkcs11Table) -> None:
    if table.uri is None:
        return
    if not table.uri.token and not table.uri.serial and table.uri.slot_id is None:
        place.mistake("uri", "names no token", "add token=, serial= or slot-id= to it")
    if not table.uri.object and not table.uri.id:
        place.mistake("uri", "names no key", "add object= or id= to it")


def _one_token(place: Place, _: Pkcs11Table) -> None:
    named = place.set_among(_TOKEN_KEYS)
    if place.has("uri"):
        return
    if not named:
        place.mistake("token", "is missing", "name the token by token (its label), serial or slot, or by uri")
    for more in named[1:]:
        place.mistake(
            more, f"names the token a second time, beside {named[0]}", "keep one; a label or serial lasts"
        )


def _some_key(place: Place, _: Pkcs11Table) -> None:
    if not place.has("uri") and not place.set_among(_OBJECT_KEYS):
        place.mistake("key_label", "is missing", "name the key by key_label or key_id (hex), or by uri")
