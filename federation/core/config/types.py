"""What single values of ``clusters.toml`` may look like: from what TOML holds to a value, or InvalidValue.

Each is a :class:`Value`: the check with its remedy, and what an editor's schema says of it. They are written into the
annotations of the tables' fields; ``tables.py`` has pydantic read a file by these. Nothing is converted silently:
TOML's own types decide.

Numbers, durations, names, addresses, https URLs of services that the hub calls, the socket of an agent on this
machine, and label selectors, which are checked here so that a wrong one is found before an API server refuses it.
Source of their syntax: "Labels and Selectors" of the Kubernetes documentation and ``labels.Parse`` of apimachinery:
equality-based (``key=value``, ``key==value``, ``key!=value``) and set-based (``key in (a,b)``, ``key notin (a,b)``,
``key``, ``!key``) requirements, separated by commas that all mean "and".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

from federation.core.config.mistakes import Convert, describe, printable, suggestion
from federation.core.errors import InvalidValue
from federation.core.identity import ServiceAccountRef

if TYPE_CHECKING:  # only who reads a file imports pydantic: it takes longer than all else that a verb needs
    from pydantic_core import PydanticCustomError, ValidationError, core_schema


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens. Port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True where only this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether that host, an address or a name, is this machine; of names only ``localhost`` is taken to mean that."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class ReadingContext:
    """What else of the file decides how a value is read."""

    directory: Path  # of the configuration file: relative paths start there
    has_conjur: bool = False  # [signer.conjur] is there
    has_spiffe: bool = False  # [signer.spiffe] is there


T = TypeVar("T")
U = TypeVar("U")
E = TypeVar("E", bound=Enum)
MISTAKE: Final = "federation"
"""The type of pydantic's errors that carry one of our own mistakes."""


def mistake(problem: str, remedy: str) -> PydanticCustomError:
    """A mistake as pydantic passes it on; ``tables.py`` turns it into a finding with its place."""
    from pydantic_core import PydanticCustomError

    return PydanticCustomError(MISTAKE, "{problem}", {"problem": problem, "remedy": remedy})


def mistakes_at(found: Iterable[tuple[tuple[int | str, ...], PydanticCustomError]]) -> ValidationError:
    """Several mistakes with their places below the one that is read."""
    from pydantic_core import InitErrorDetails, ValidationError

    return ValidationError.from_exception_data(
        MISTAKE,
        [InitErrorDetails(type=error, loc=place, input=None) for place, error in found],
        hide_input=True,
    )


def _read_by(
    read: Callable[[object, core_schema.ValidationInfo[ReadingContext]], object],
) -> core_schema.CoreSchema:
    from pydantic_core import core_schema

    return core_schema.with_info_plain_validator_function(read)


class Value(Generic[T]):
    """One kind of value: how it is read, what it is called, and what JSON Schema says of it.

    It is called with what TOML holds, and raises InvalidValue. In an annotation it is what pydantic reads the field by.
    """

    def __init__(
        self, convert: Callable[[object, ReadingContext], T], what: str, form: Mapping[str, Any]
    ) -> None:
        self.convert = convert
        self.what = what
        self.form = form

    def __call__(self, value: object) -> T:
        """The value, where nothing else of a file decides what it means."""
        return self.convert(value, NOWHERE)

    def read(self, value: object, info: core_schema.ValidationInfo[ReadingContext]) -> T:
        """As pydantic calls it."""
        try:
            return self.convert(value, info.context)
        except InvalidValue as error:
            raise mistake(error.what, error.remedy) from None

    def then(self, make: Callable[[T], U]) -> Value[U]:
        """What ``make`` makes of that value."""
        return Value(lambda value, context: make(self.convert(value, context)), self.what, self.form)

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> core_schema.CoreSchema:
        return _read_by(self.read)

    def __get_pydantic_json_schema__(self, schema: object, handler: object) -> dict[str, Any]:
        return dict(self.form)


NOWHERE: Final = ReadingContext(Path())


def read_as(what: str, **form: object) -> Callable[[Convert[T]], Value[T]]:
    """Make a function that checks a value a :class:`Value`; ``what`` is what the reference calls it."""

    def made(convert: Convert[T]) -> Value[T]:
        return Value(lambda given, _: convert(given), what, form or {"type": "string"})

    return made


class Array(Generic[T]):
    """An array of values, none of them twice; ``empty`` is problem and remedy where it has to hold one.

    With ``or_one`` a single value may be written for an array of one.
    """

    def __init__(self, item: Value[T], *, empty: tuple[str, str] | None = None, or_one: bool = False) -> None:
        self.item = item
        self.empty = empty
        self.or_one = or_one

    @property
    def what(self) -> str:
        """What the reference calls it."""
        return f"{self.item.what}, or an array of them" if self.or_one else f"array: {self.item.what}"

    def read(self, given: object, info: core_schema.ValidationInfo[ReadingContext]) -> tuple[T, ...]:
        """As pydantic calls it: every element is checked, and each mistake has its index."""
        if self.or_one and not isinstance(given, list):
            return (self.item.read(given, info),)
        if not isinstance(given, list):
            raise mistake(f"must be an array, not {describe(given)}", 'write it as ["...", "..."]')
        if not given and self.empty:
            raise mistake(*self.empty)
        found: list[T] = []
        wrong: list[tuple[tuple[int | str, ...], PydanticCustomError]] = []
        for index, element in enumerate(given):
            try:
                read = self.item.convert(element, info.context)
            except InvalidValue as error:
                wrong.append(((index,), mistake(error.what, error.remedy)))
                continue
            if read in found:
                wrong.append(((index,), mistake("is there twice", "keep it once")))
            found.append(read)
        if wrong:
            raise mistakes_at(wrong)
        return tuple(found)

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> core_schema.CoreSchema:
        return _read_by(self.read)

    def __get_pydantic_json_schema__(self, schema: object, handler: object) -> dict[str, Any]:
        array = {"type": "array", "items": dict(self.item.form), "uniqueItems": True}
        if self.empty:
            array["minItems"] = 1
        return {"anyOf": [dict(self.item.form), array]} if self.or_one else array


class ArraySet(Array[T]):
    """An array whose order means nothing."""

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> core_schema.CoreSchema:
        return _read_by(lambda given, info: frozenset(self.read(given, info)))


_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(?:\d{1,12}(?:\.\d{1,9})?(?:ms|[smhd]))+", re.ASCII)
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])", re.ASCII)
_DNS_NAME: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII
)
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_CONFIG_MAP_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}", re.ASCII)
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PATTERN: Final = re.compile(r"[a-z0-9*?-]{1,63}/[a-z0-9.*?-]{1,253}", re.ASCII)


def string(value: object) -> str:
    """A string without control characters, at most 4096 characters; may be empty."""
    if not isinstance(value, str):
        raise InvalidValue(f"must be a string, not {describe(value)}", remedy="put it in quotes")
    if len(value) > 4096 or not value.isprintable():
        raise InvalidValue("is too long or holds control characters", remedy="use plain text on one line")
    return value


@read_as("text", type="string", minLength=1)
def nonempty(value: object) -> str:
    """A string that is not empty; spaces may be part of it."""
    text = string(value)
    if not text.strip():
        raise InvalidValue("is empty", remedy="fill it in, or leave the key out")
    return text


@read_as("text without spaces", type="string", pattern="^[^ ]+$")
def filled(value: object) -> str:
    """A string that is neither empty nor holds a space."""
    text = string(value)
    if not text or " " in text:
        raise InvalidValue("is empty or holds a space", remedy="name it, without spaces")
    return text


@read_as("true or false", type="boolean")
def boolean(value: object) -> bool:
    """``true`` or ``false``; nothing is guessed from a number or a string."""
    if not isinstance(value, bool):
        raise InvalidValue(f"must be true or false, not {describe(value)}", remedy="write true or false")
    return value


def integer(low: int, high: int) -> Value[int]:
    """A whole number between ``low`` and ``high``, both included."""

    @read_as(f"whole number, {low} to {high}", type="integer", minimum=low, maximum=high)
    def convert(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidValue(f"must be a whole number, not {describe(value)}", remedy="write it plain")
        if not low <= value <= high:
            raise InvalidValue("is out of range", remedy=f"use {low} to {high}")
        return value

    return convert


def number(low: float, high: float) -> Value[float]:
    """A number, whole or not, between ``low`` and ``high``, both included."""

    @read_as(f"number, {low:g} to {high:g}", type="number", minimum=low, maximum=high)
    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidValue(f"must be a number, not {describe(value)}", remedy="write it plain")
        if not low <= value <= high:  # NaN is in no range
            raise InvalidValue("is out of range", remedy=f"use {low:g} to {high:g}")
        return float(value)

    return convert


def seconds(low: float, high: float) -> Value[float]:
    """A duration: a number of seconds, or a string such as ``"90s"``, ``"15m"``, ``"1h30m"``."""
    forms = [
        {"type": "number", "minimum": low, "maximum": high},
        {"type": "string", "pattern": _ecma(_DURATION)},
    ]

    @read_as(f"duration, {in_units(low)} to {in_units(high)}", anyOf=forms)
    def convert(value: object) -> float:
        length = _duration(value)
        if not low <= length <= high:
            raise InvalidValue("is out of range", remedy=f"use {low:g} s to {high:g} s")
        return length

    return convert


def in_units(length: float) -> str:
    """A duration as it is written in the file, in the largest unit that leaves no fraction."""
    if length == 0:
        return "0"
    whole = round(length * 1000)
    unit = next(unit for unit in ("d", "h", "m", "s", "ms") if whole % round(_UNITS[unit] * 1000) == 0)
    return f"{round(whole / (_UNITS[unit] * 1000))}{unit}"


def _ecma(pattern: re.Pattern[str]) -> str:
    """A pattern as JSON Schema has it, which asks for no match of the whole by itself."""
    return f"^(?:{pattern.pattern})$".replace(r"\d", "[0-9]")


def _duration(value: object) -> float:
    how = 'write a number of seconds, or a string such as "90s", "15m" or "24h"'
    if isinstance(value, str):
        if len(value) > 100 or not _DURATION.fullmatch(value):
            raise InvalidValue(f"{printable(value)!r} is not a duration", remedy=how)
        return math.fsum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        kind = "a number without end" if isinstance(value, float) else describe(value)
        raise InvalidValue(f"must be a duration, not {kind}", remedy=how)
    return float(value) if abs(value) < 1e15 else math.copysign(1e15, value)


@read_as("host:port", type="string", pattern="^.+:[0-9]{1,5}$")
def address(value: object) -> Address:
    """``host:port``, with an IPv6 address in brackets. Port 0 lets the system choose."""
    text = string(value)
    host, colon, port = text.rpartition(":")
    how = 'write "host:port", for example "0.0.0.0:15443" or "[::]:15443"'
    if not colon or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise InvalidValue(f"{printable(text)!r} is not an address with a port", remedy=how)
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not (is_ip(bare) if bracketed or ":" in bare else is_host(bare)):
        raise InvalidValue(f"{printable(host)!r} is not a host", remedy=how)
    if ":" in bare and not bracketed:
        raise InvalidValue("an IPv6 address must be in brackets", remedy=how)
    return Address(bare, int(port))


def is_host(text: str) -> bool:
    """True for a DNS name in lower case or an IP address; a scoped IPv6 address is neither."""
    return bool(_DNS_NAME.fullmatch(text)) or is_ip(text)


def is_ip(text: str) -> bool:
    """True for an IPv4 or IPv6 address without a scope."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def relative_to(directory: Path) -> Convert[Path]:
    """A path; one that is not absolute is taken from the directory of the configuration file."""

    def convert(value: object) -> Path:
        text = string(value)
        if not text:
            raise InvalidValue("is empty", remedy="name a file or directory")
        if text.startswith("~"):
            raise InvalidValue("'~' is not expanded", remedy="write the whole path")
        return directory / text

    return convert


path: Final = Value(
    lambda value, context: relative_to(context.directory)(value),
    "path",
    {"type": "string", "pattern": "^[^~]"},
)
"""A path in the file."""


@read_as("DNS name")
def dns_name(value: object) -> str:
    """A DNS name in lower case, without a wildcard (RFC 1123)."""
    text = string(value)
    if not _DNS_NAME.fullmatch(text) or is_ip(text):
        raise InvalidValue(
            f"{printable(text)!r} is not a DNS name",
            remedy="use the host of the meshes' caAddress, in lower case, without port or wildcard",
        )
    return text


@read_as("name of a Kubernetes object")
def object_name(value: object) -> str:
    """The name of a ConfigMap: an RFC 1123 subdomain."""
    text = string(value)
    if not _DNS_NAME.fullmatch(text):
        raise InvalidValue(f"{printable(text)!r} is not an object name", remedy="use an RFC 1123 subdomain")
    return text


def label(what: str) -> Value[str]:
    """A name that is an RFC 1123 label; ``what`` says of what in the finding."""

    @read_as(what.partition(" ")[2], type="string", pattern=_ecma(_LABEL))
    def convert(value: object) -> str:
        text = string(value)
        if not _LABEL.fullmatch(text):
            raise InvalidValue(
                f"{printable(text)!r} is not {what}",
                remedy="use at most 63 lower-case letters, digits and '-', no '-' at either end",
            )
        return text

    return convert


@read_as("key of a ConfigMap", type="string", pattern=_ecma(_CONFIG_MAP_KEY))
def config_map_key(value: object) -> str:
    """A data key of a ConfigMap (Kubernetes' IsConfigMapKey)."""
    text = string(value)
    if not _CONFIG_MAP_KEY.fullmatch(text) or text in {".", ".."}:
        raise InvalidValue(
            f"{printable(text)!r} is not a ConfigMap key", remedy="use letters, digits, '-', '_' and '.'"
        )
    return text


@read_as("SHA-256 fingerprint", type="string", pattern="^([0-9a-fA-F]{2}:?){32}$")
def fingerprint(value: object) -> str:
    """A SHA-256 fingerprint: 64 hex digits of either case, with or without colons; returned in lower case."""
    text = string(value)
    plain = text.lower()
    if ":" in plain and all(len(part) == 2 for part in plain.split(":")):
        plain = plain.replace(":", "")
    if not _FINGERPRINT.fullmatch(plain):
        raise InvalidValue(
            f"{printable(text)!r} is not a SHA-256 fingerprint",
            remedy="use the 64 hex digits of `openssl x509 -noout -fingerprint -sha256 -in FILE`",
        )
    return plain


@read_as("SHA-256 digest of a token", type="string", pattern="^[0-9a-fA-F]{64}$")
def token_digest(value: object) -> str:
    """The SHA-256 digest of a token: 64 hex digits, returned in lower case. It is not repeated in an error."""
    text = string(value).lower()
    if not _FINGERPRINT.fullmatch(text):
        raise InvalidValue(
            "is not a SHA-256 digest in hex",
            remedy="write the 64 hex digits of `printf %s TOKEN | sha256sum`, never the token itself",
        )
    return text


@read_as("namespace/name, with * and ?", type="string", pattern=_ecma(_PATTERN))
def account_pattern(value: object) -> str:
    """``namespace/name`` with ``*`` and ``?``. Brackets are refused: an unclosed one would match nothing."""
    text = string(value)
    if not _PATTERN.fullmatch(text):
        raise InvalidValue(
            f"{printable(text)!r} is not a pattern of service accounts",
            remedy="write namespace/name in lower case, '*' and '?' are wildcards: \"shop/*\", \"*/istiod\"",
        )
    return text


@read_as("namespace/name", type="string", pattern="^[^/]+/[^/]+$")
def service_account(value: object) -> ServiceAccountRef:
    """``namespace/name`` of one service account."""
    place, slash, name = string(value).partition("/")
    if not slash:
        raise InvalidValue("is not a service account", remedy="write namespace/name")
    try:
        return ServiceAccountRef(place, name)
    except InvalidValue as error:
        raise InvalidValue(error.what, remedy="write namespace/name, in lower case") from error


def one_of(words: Iterable[str]) -> Value[str]:
    """One of a few words."""
    known = tuple(words)

    @read_as(" or ".join(f'"{word}"' for word in known), enum=list(known))
    def convert(value: object) -> str:
        text = string(value)
        if text not in known:
            raise InvalidValue(f"{printable(text)!r} is not known here", remedy=suggestion(text, known))
        return text

    return convert


def member_of(kind: type[E]) -> Value[E]:
    """A member of an enumeration by its value."""
    by_value = {str(member.value): member for member in kind}
    return one_of(by_value).then(by_value.__getitem__)


def made_by(make: Callable[[str], T], what: str) -> Value[T]:
    """A value of the core, made from a string by its own constructor; ``what`` is what the reference calls it."""
    return Value(lambda value, _: make(string(value)), what, {"type": "string"})


def or_empty(other: Value[str]) -> Value[str]:
    """That, or an empty string, which is as good as no value."""
    return Value(
        lambda value, context: other.convert(value, context) if string(value) else "",
        f"{other.what}, or empty",
        {"anyOf": [{"const": ""}, dict(other.form)]},
    )


_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_.~-]+)*/?", re.ASCII)
_SOCKET: Final = re.compile(r"(?:unix:(?://)?)?(/[^/].*)", re.ASCII)
_LONGEST_SOCKET: Final = 107
"""Bytes of a socket's path in Linux (unix(7): ``sun_path`` has 108, with the zero at its end)."""


@read_as("https URL", type="string", pattern="^[hH][tT][tT][pP][sS]?://")
def service_url(value: object) -> str:
    """The base URL of a service: https, or http where it is on a loopback address of this machine.

    Without a slash at its end. Nothing of it is repeated in an error: it may hold a password.
    """
    how = 'write "https://HOST", "https://HOST:PORT" or "https://HOST/PATH", without "?" and "#"'
    text = filled(value)
    try:
        parts = urlsplit(text)
        port, host = parts.port, (parts.hostname or "")
    except ValueError:
        raise InvalidValue("is not a URL", remedy=how) from None
    if "@" in parts.netloc:
        raise InvalidValue(
            "holds a user or a password", remedy="remove it: a credential is never written in this file"
        )
    if not _is_plain(text, parts) or not is_host(host) or port == 0:
        raise InvalidValue("is not an http(s) URL of a service", remedy=how)
    if parts.scheme == "http" and not is_loopback(host):
        raise InvalidValue(
            "is plain http to another machine",
            remedy="use https, with ca_file where its CA is your own; "
            "http is for an agent on a loopback address of this machine",
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


@read_as("https URL", type="string", pattern="^[hH][tT][tT][pP][sS]?://")
def issuer_url(value: object) -> str:
    """The same as it is written: an issuer is compared with what tokens say, a slash at the end included."""
    service_url(value)
    return filled(value)


def is_plain_http(url: str) -> bool:
    """True where :func:`service_url` let http to this machine pass."""
    return url.startswith("http:")


def _is_plain(text: str, parts: SplitResult) -> bool:
    if parts.scheme not in {"https", "http"} or "?" in text or "#" in text:
        return False
    return bool(_PATH.fullmatch(parts.path)) and not {".", ".."} & set(parts.path.split("/"))


@read_as("path of a Unix socket", type="string", pattern="^(unix:(//)?)?/")
def unix_socket(value: object) -> Path:
    """The path of a Unix socket: absolute, plain or as ``unix:///path`` (SPIFFE Workload Endpoint, section 4)."""
    how = 'write "/run/.../api.sock" or "unix:///run/.../api.sock"'
    match = _SOCKET.fullmatch(filled(value))
    if match is None:
        raise InvalidValue("is not the absolute path of a Unix socket", remedy=how)
    path = match[1]
    if "?" in path or "#" in path or "%" in path:
        raise InvalidValue("holds '?', '#' or '%'", remedy=how)
    if len(path.encode()) > _LONGEST_SOCKET:
        raise InvalidValue(
            f"is longer than {_LONGEST_SOCKET} bytes, the system's limit", remedy="mount it at a shorter path"
        )
    return Path(path)


_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_PREFIX: Final = (
    r"(?=[^/]{1,253}/)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*/"
)
_KEY: Final = rf"(?:{_PREFIX})?{_NAME}"
_VALUE: Final = rf"(?:{_NAME})?"
_REQUIREMENT: Final = re.compile(
    rf"!\s*{_KEY}"
    rf"|{_KEY}\s*(?:==|!=|=)\s*{_VALUE}"
    rf"|{_KEY}\s+(?:in|notin)\s*\(\s*{_VALUE}\s*(?:,\s*{_VALUE}\s*)*\)"
    rf"|{_KEY}",
    re.ASCII,
)
_COMMA: Final = re.compile(r",(?![^(]*\))")  # a comma outside parentheses
_LABEL_VALUE: Final = re.compile(_VALUE, re.ASCII)
MAX_LENGTH: Final = 2048

_HOW: Final = 'write for example "mesh=on,env in (prod, stage),!legacy"'


def check_label_selector(text: str) -> str:
    """The selector as given; raises InvalidValue where an API server would refuse it. Empty selects all."""
    if len(text) > MAX_LENGTH:
        raise InvalidValue("is longer than any label selector should be", remedy=_HOW)
    if text.strip():
        for requirement in _COMMA.split(text):
            if not _REQUIREMENT.fullmatch(requirement.strip()):
                raise InvalidValue(f"{requirement.strip()[:80]!r} is not a label requirement", remedy=_HOW)
    return text.strip()


def check_label_value(text: str) -> str:
    """The value of a label, unchanged (at most 63 characters, may be empty); raises InvalidValue."""
    if not _LABEL_VALUE.fullmatch(text):
        raise InvalidValue(
            f"{text[:80]!r} is not a label value", remedy="use at most 63 letters, digits, '-', '_' and '.'"
        )
    return text
