"""What all kinds of authority share: a name, a remote back end's limits, and references to the hub's own credentials.

A reference says where a credential is read from: ``file:``, ``env:``, ``conjur:`` and ``spiffe:``. No mistake that is
reported here repeats a value: an operator who wrote the secret itself where its place belongs must not find it again
in a log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from federation.core.config.authorities.settings import (
    CertificateRef,
    JwtRef,
    RemoteAuthorityConfig,
    SecretRef,
)
from federation.core.config.mistakes import Table
from federation.core.config.types import (
    filled,
    integer,
    label,
    nonempty,
    number,
    relative_to,
    seconds,
    string,
)
from federation.core.errors import InvalidValue

CLIENT_CERTIFICATE_KEYS: Final = ("client_certificate_file", "client_key_file", "client_certificate")

_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)
_PLACES: Final = 'write "file:PATH", "env:NAME" or "conjur:VARIABLE"; the secret itself never stands here'
_JWT_PLACES: Final = (
    'write "file:PATH" of a projected token, or "spiffe:AUDIENCE"; the token itself never stands here'
)


@dataclass(frozen=True, slots=True)
class AuthorityContext:
    """What else of the file decides how ``[signer.authority]`` is read."""

    directory: Path  # of the configuration file: relative paths start there
    listener_deadline: float  # seconds; past it nobody waits for a signature
    has_conjur: bool  # [signer.conjur] is there
    has_spiffe: bool  # [signer.spiffe] is there
    processes: int = 0  # signers of one machine, which read the same credentials; 0: one per core

    def path(self, value: object) -> Path:
        """A path; one that is not absolute is taken from the directory of the configuration file."""
        return relative_to(self.directory)(value)

    def secret(self, value: object) -> SecretRef:
        """``file:PATH``, ``env:NAME`` or ``conjur:VARIABLE``."""
        match _parts(value, "is not a place of a secret", _PLACES):
            case "file", name:
                return SecretRef("file", self._file(name))
            case "env", name:
                if not _VARIABLE_NAME.fullmatch(name):
                    raise InvalidValue("names no environment variable", remedy=_PLACES)
                return SecretRef("env", name)
            case "conjur", name:
                if not self.has_conjur:
                    raise InvalidValue("needs Conjur", remedy="add [signer.conjur]")
                return SecretRef("conjur", conjur_variable(name))
        raise InvalidValue("is not a place of a secret", remedy=_PLACES)

    def jwt(self, value: object) -> JwtRef:
        """``file:PATH`` or ``spiffe:AUDIENCE``."""
        match _parts(value, "is not a place of a JWT", _JWT_PLACES):
            case "file", name:
                return JwtRef("file", self._file(name))
            case "spiffe", audience:
                if not self.has_spiffe:
                    raise _no_workload_api()
                return JwtRef("spiffe", filled(audience))
            case (("env" | "conjur"), _):
                raise InvalidValue("is a JWT from a place where nothing renews it", remedy=_JWT_PLACES)
        raise InvalidValue("is not a place of a JWT", remedy=_JWT_PLACES)

    def client_certificate(self, table: Table) -> CertificateRef | None:
        """Two files, or ``client_certificate = "spiffe"``; None, with findings, where there is neither."""
        certificate_key, key_key, word = CLIENT_CERTIFICATE_KEYS
        files = [key for key in (certificate_key, key_key) if table.has(key)]
        if table.has(word):
            if files:
                table.mistake(files[0], f"contradicts {word}", "keep one of the two")
            return table.require(word, self._svid, "")
        if not files:
            table.mistake(
                certificate_key,
                "is missing",
                f'name the PEM file of the certificate and {key_key}, or set {word} = "spiffe"',
            )
            return None
        certificate = table.require(certificate_key, self.path, f"name the certificate that {key_key} is for")
        key = table.require(key_key, self.path, f"name the key of {certificate_key}")
        if certificate is None or key is None:
            return None
        if certificate == key:
            table.mistake(
                key_key, "is the certificate's file", "keep the key in a file of its own, mode 0600"
            )
        return CertificateRef(certificate, key)

    def _file(self, name: str) -> str:
        if name.startswith("//"):
            raise InvalidValue("is a URL", remedy='write "file:PATH", for example "file:/run/secrets/token"')
        return str(self.path(name))

    def _svid(self, value: object) -> CertificateRef:
        if string(value) != "spiffe":
            raise InvalidValue(
                'can only be "spiffe"',
                remedy="or leave it out and name client_certificate_file and client_key_file",
            )
        if not self.has_spiffe:
            raise _no_workload_api()
        return CertificateRef()


def conjur_variable(value: object) -> str:
    """The ID of a Conjur variable, without account and kind; a comma would part it from another in a request."""
    text = nonempty(value)
    how = 'write its ID alone, for example "pki/mesh/key"'
    if text != text.strip() or text.startswith("/") or text.endswith("/") or len(text) > 1024 or "," in text:
        raise InvalidValue("is not the ID of a Conjur variable", remedy=how)
    if text.startswith(("conjur:", "variable:")) or ":variable:" in text:
        raise InvalidValue("holds more than the variable's ID", remedy=how)
    return text


def _parts(value: object, problem: str, remedy: str) -> tuple[str, str]:
    source, colon, name = string(value).partition(":")
    if not colon or not name or name != name.strip():
        raise InvalidValue(problem, remedy=remedy)
    return source, name


def _no_workload_api() -> InvalidValue:
    return InvalidValue(
        "needs the SPIFFE Workload API", remedy="add [signer.spiffe] with its socket, or use files"
    )


class RemoteKeys(TypedDict):
    """What :class:`RemoteAuthorityConfig` has beside its name."""

    quota: float
    max_in_flight: int
    max_queued: int
    timeout: float
    poll_seconds: float


def read_name(table: Table) -> str | None:
    """The authority's name; None, with a finding, where there is none to be used."""
    return table.require(
        "name",
        label("a name for an authority"),
        "name it: status, metrics and the accounting of leaves use the name",
    )


def read_remote(table: Table, defaults: RemoteAuthorityConfig, context: AuthorityContext) -> RemoteKeys:
    """A remote back end's limits; ``defaults`` are its kind's. Its timeout must be below the listener's deadline."""
    timeout = table.get("timeout", seconds(0.1, 120), defaults.timeout)
    if timeout >= context.listener_deadline:
        table.mistake(
            "timeout",
            f"is {timeout:g} s and listener.deadline {context.listener_deadline:g} s: the listener would give up first",
            "lower it, or raise listener.deadline",
        )
    return RemoteKeys(
        quota=table.get("quota", number(0, 100_000), defaults.quota),
        max_in_flight=table.get("max_in_flight", integer(1, 10_000), defaults.max_in_flight),
        max_queued=table.get("max_queued", integer(1, 100_000), defaults.max_queued),
        timeout=timeout,
        poll_seconds=table.get("poll_seconds", seconds(0.1, 3600), defaults.poll_seconds),
    )
