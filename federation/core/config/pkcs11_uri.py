"""PKCS#11 URIs (RFC 7512), as far as one can name the private key of an authority.

Strict: what is not understood is refused, for an attribute that is passed over names more than was meant. The
attributes that describe a kind of token or slot (manufacturer, model, ...) are the exception: tools put them
beside the serial, which is what tells two tokens apart, and a token is only used where exactly one matches.
A PIN, or where it is, is not taken from a URI: URIs end up in logs and status pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

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
    if _text(in_path, "type") not in {"", "private"}:
        raise _invalid(
            "its type is not 'private'", "name the private key, which signs: type=private, or none"
        )
    identity = in_path.get("id", b"")
    if len(identity) > _MAX_ID_BYTES:
        raise _invalid(f"its id has {len(identity)} bytes, at most {_MAX_ID_BYTES} are read")
    return Pkcs11Uri(
        token=_text(in_path, "token"),
        serial=_text(in_path, "serial"),
        slot_id=_slot_id(_text(in_path, "slot-id")),
        object=_text(in_path, "object"),
        id=identity.hex(),
        module_path=_module_path(_text(in_query, "module-path")),
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


def _text(attributes: dict[str, bytes], name: str) -> str:
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
