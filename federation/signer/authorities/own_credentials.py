"""What the hub proves itself with to a back end: secrets, JWTs and a client certificate, read anew each time.

Nothing is cached here beyond what a source caches for itself, so that everything rotates in place. No value
is ever part of an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar

from federation.core.config.authority_model import CertificateRef, JwtRef, SecretRef
from federation.core.errors import AuthorityMisconfigured
from federation.files.reading import read_bounded
from federation.signer.authorities.key_file import read_key_file
from federation.signer.authorities.reading import read_in_time

MAX_SECRET_BYTES: Final = 64 * 1024

T = TypeVar("T")


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
        """Let go of the Workload API."""
        ...


class SecretStore(Protocol):
    """A store of secrets (Conjur)."""

    async def read(self, name: str) -> bytes:
        """The value of that variable now."""
        ...

    async def close(self) -> None:
        """Let go of the store."""
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
        """Let go of what is held open. Whoever was given the credentials closes them with itself."""
        for held in (self._conjur, self._spiffe):
            if held is not None:
                await held.close()

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
        raise _missing(
            f"cannot read {error.filename or what}: {error.strerror}",
            "mount it where the configuration says, readable by the signer",
        ) from None


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
