"""What the hub proves itself with to a back end: secrets, JWTs, certificates and key files, read anew each time.

Nothing is cached here beyond what a source caches for itself, so that everything rotates in place. No value is ever
part of an error. Files that hang make the authority unavailable, with a separate reason (``files_hang``); PEM files
that are no secret (a CA, a chain) are read without blocking the loop.

A private key's file is read only where its mode keeps others out. Readable by its owner alone is the rule. The one
exception is how Kubernetes mounts a Secret for a pod with ``fsGroup``: owned by root, mode 0440, its group a
supplementary group of the process. There the group is the only way in, so reading by the group is accepted where the
file belongs to another user and its group is one of the process's own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from federation import files
from federation.core.config.authorities.settings import CertificateRef, JwtRef, SecretRef
from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable, InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import MAX_KEY_FILE_BYTES
from federation.core.pki.pem import MAX_PEM_BYTES, parse_certificates
from federation.files import read_bounded, remedy_of


def read_key_file(path: Path) -> bytes:
    """The content of a key file.

    Raises OSError, or AuthorityMisconfigured where others may read or change the file.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())  # of what was opened: it cannot be swapped between check and reading
        if not stat.S_ISREG(status.st_mode):
            raise AuthorityMisconfigured(f"{path} is not a regular file", reason="key_file_mode")
        if not mode_is_private(
            stat.S_IMODE(status.st_mode),
            owned=status.st_uid == os.geteuid(),
            in_group=status.st_gid in {os.getegid(), *os.getgroups()},
        ):
            raise AuthorityMisconfigured(
                f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others may read or change it",
                reason="key_file_mode",
                remedy=f"chmod 600 {path}; for a mounted Secret set defaultMode 0400 (0440 by fsGroup)",
            )
        return file.read(MAX_KEY_FILE_BYTES + 1)


def mode_is_private(mode: int, *, owned: bool, in_group: bool) -> bool:
    """True where only this process's user gets in, or its group where a Secret's mount gives it that."""
    others = mode & 0o077
    return others == 0 or (others == 0o040 and not owned and in_group)


T = TypeVar("T")


async def read_in_time(what: str, read: Callable[[], T]) -> T:
    """What ``read`` returns or raises (``federation.files``); ``what`` names the files.

    Raises AuthorityUnavailable with the reason ``files_hang``.
    """
    try:
        return await files.read_in_time(what, read)
    except TimeoutError as error:
        raise AuthorityUnavailable(
            f"reading {what}: {error.strerror or 'it timed out'}",
            reason="files_hang",
            remedy="check the volume that it is on",
        ) from None


MAX_SECRET_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ClientPair:
    """A client certificate's chain and key as PEM. ``bundle_pem`` is what the giver trusts, where it says so."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    bundle_pem: bytes = b""


class SpiffeIdentity(Protocol):
    """The hub's own SVIDs, as the SPIFFE Workload API gives them."""

    async def jwt(self, audience: str) -> str:
        """A JWT-SVID for that audience that is valid now."""
        ...

    async def x509(self) -> ClientPair:
        """The X.509-SVID of now."""
        ...

    async def close(self) -> None:
        """Forget every SVID."""
        ...


class SecretStore(Protocol):
    """A store of secrets (Conjur)."""

    async def read(self, name: str) -> bytes:
        """The value of that variable now."""
        ...

    async def close(self) -> None:
        """Close its connections, and forget the login."""
        ...


class OwnCredentials:
    """Resolves what a configuration refers to."""

    def __init__(
        self,
        *,
        spiffe: SpiffeIdentity | None = None,
        conjur: SecretStore | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._spiffe = spiffe
        self._conjur = conjur
        self._environ = environ

    async def close(self) -> None:
        """Close the sources. A back end that was given the credentials closes them with itself."""
        for source in (self._conjur, self._spiffe):
            if source is not None:
                await source.close()

    async def secret(self, ref: SecretRef) -> str:
        """The secret as text, without white space around it.

        Raises AuthorityMisconfigured (not there, empty, readable by others) or AuthorityUnavailable.
        """
        match ref.source:
            case "file":
                data = await _read(Path(ref.name), private=True)
            case "env":
                data = self._environ.get(ref.name, "").encode()
            case "conjur":
                if self._conjur is None:
                    raise _missing(f"{ref}: no Conjur is configured", "add [signer.conjur]")
                data = await self._conjur.read(ref.name)
        return _text(data, str(ref))

    async def jwt(self, ref: JwtRef) -> str:
        """The token of now. Raises as :meth:`secret` does."""
        if ref.source == "file":
            # Readable by others is how the kubelet projects tokens (mode 0644): the pod is the boundary.
            return _text(await _read(Path(ref.name), private=False), str(ref))
        if self._spiffe is None:
            raise _missing(f"{ref}: no Workload API is configured", "add [signer.spiffe] with its socket")
        return await self._spiffe.jwt(ref.name)

    async def client_certificate(self, ref: CertificateRef) -> ClientPair:
        """The client certificate of now. Raises as :meth:`secret` does."""
        if ref.certificate_file is not None and ref.key_file is not None:
            return await _read_pair(ref.certificate_file, ref.key_file)
        if self._spiffe is None:
            raise _missing("no Workload API is configured", "add [signer.spiffe] with its socket")
        return await self._spiffe.x509()


async def _read(path: Path, *, private: bool) -> bytes:
    return await _in_time(str(path), lambda: _contents(path, private=private))


async def _read_pair(certificate: Path, key: Path) -> ClientPair:
    """Both in one go, so that they are seldom of two generations."""

    def read() -> ClientPair:
        return ClientPair(_contents(certificate, private=False), _contents(key, private=True))

    return await _in_time(f"{certificate} and {key}", read)


async def _in_time(what: str, read: Callable[[], T]) -> T:
    try:
        return await read_in_time(what, read)
    except OSError as error:
        why = f"cannot read {error.filename or what}: {error.strerror}"
        raise _missing(why, remedy_of(error, MOUNT)) from None


def _contents(path: Path, *, private: bool) -> bytes:
    data = read_key_file(path) if private else read_bounded(path, MAX_SECRET_BYTES)
    if len(data) > MAX_SECRET_BYTES:
        raise _missing(f"{path} is larger than {MAX_SECRET_BYTES} bytes", "this is not a credential")
    return data


def _text(data: bytes, where: str) -> str:
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        raise _missing(f"{where} is not set, empty or not text", "put the credential there, on one line")
    return text


def _missing(what: str, remedy: str) -> AuthorityMisconfigured:
    return AuthorityMisconfigured(what, reason="credential_missing", remedy=remedy)


MOUNT: Final = "mount it where the configuration says, readable by the signer"


async def read_pem_file(path: Path, *, reason: str = "file_unreadable", remedy: str = MOUNT) -> bytes:
    """At most one byte more than a PEM file may have, so that a parser can refuse it.

    Raises AuthorityMisconfigured with that reason, or AuthorityUnavailable (``files_hang``).
    """
    try:
        return await read_in_time(str(path), partial(read_bounded, path, MAX_PEM_BYTES))
    except OSError as error:
        raise AuthorityMisconfigured(
            f"cannot read {path}: {error.strerror}",
            reason=reason,
            remedy=remedy_of(error, remedy),
        ) from None


class ChainFile:
    """The chain of an intermediate whose key is elsewhere: a PEM file, the intermediate first."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._pem = b""
        self._chain: tuple[Certificate, ...] = ()

    async def read(self) -> tuple[Certificate, ...]:
        """The chain of now; the same object while the file has not changed.

        Raises AuthorityMisconfigured (``file_unreadable``, ``file_invalid``) or AuthorityUnavailable (``files_hang``).
        """
        pem = await read_pem_file(self.path)
        if not self._chain or pem != self._pem:
            try:
                self._chain = parse_certificates(pem, where=str(self.path))
            except InvalidValue as error:
                raise AuthorityMisconfigured(str(error), remedy=error.remedy, reason="file_invalid") from None
            self._pem = pem
        return self._chain
