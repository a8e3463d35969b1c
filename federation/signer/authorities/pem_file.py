"""PEM files that are no secret (a CA, a chain), read without blocking the loop."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from federation.core.errors import AuthorityMisconfigured, InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import MAX_PEM_BYTES, parse_certificates
from federation.files.reading import read_bounded
from federation.signer.authorities.reading import read_in_time


async def read_pem_file(path: Path) -> bytes:
    """At most one byte more than a PEM file may have, so that a parser can refuse it.

    Raises AuthorityMisconfigured (``file_unreadable``) or AuthorityUnavailable (``files_hang``).
    """
    try:
        return await read_in_time(str(path), partial(read_bounded, path, MAX_PEM_BYTES))
    except OSError as error:
        raise AuthorityMisconfigured(
            f"cannot read {path}: {error.strerror}",
            reason="file_unreadable",
            remedy="mount it where the configuration says, readable by the signer",
        ) from None


def parse_chain(pem: bytes, path: Path) -> tuple[Certificate, ...]:
    """The certificates of a chain's file, in its order. Raises AuthorityMisconfigured (``file_invalid``)."""
    try:
        return parse_certificates(pem, where=str(path))
    except InvalidValue as error:
        raise AuthorityMisconfigured(str(error), remedy=error.remedy, reason="file_invalid") from None
