"""TLS towards an API server: the CA its kubeconfig names, a client certificate that never rests on disk."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.core.errors import InvalidValue
from federation.core.pki.pem import der_blocks


def client_context(
    *, authority: bytes | None, certificate: bytes | None = None, key: bytes | None = None, where: str
) -> ssl.SSLContext:
    """A context that verifies chain and name, TLS 1.2 or later.

    ``authority`` is PEM, read and trusted as Go does it: what stands around its certificates is passed over, and
    each of them is an anchor, be it a root, an intermediate or the server's own (``crypto/x509``, ``CertPool``).
    None stands for the system's CAs, which is what a kubeconfig without a certificate-authority means.
    ``certificate`` (a PEM chain) and ``key`` come together. Raises :class:`InvalidValue`; its text holds nothing
    of the key.
    """
    # Not ssl.create_default_context: it takes empty CA data for none, and trusts the system's CAs instead.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if authority is None:
        context.load_default_certs()
    elif not _trust(context, authority):
        raise InvalidValue(
            "the certificate authority holds no certificate that can be read",
            where=where,
            remedy="put the CA certificate of the API server there, as PEM",
        )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None and key is not None:
        _load_chain(context, certificate, key, where=where)
    return context


def _trust(context: ssl.SSLContext, authority: bytes) -> int:
    """How many certificates of ``authority`` are anchors now; one that cannot be read spoils no other."""
    trusted = 0
    for der in der_blocks(authority):
        try:
            context.load_verify_locations(cadata=der)
        except (ssl.SSLError, ValueError):
            continue
        trusted += 1
    return trusted


def _load_chain(context: ssl.SSLContext, certificate: bytes, key: bytes, *, where: str) -> None:
    """Python's ssl takes only files, so the two live for an instant in one that nobody else can open."""
    try:
        with private_file(certificate.rstrip() + b"\n" + key) as path:
            context.load_cert_chain(path, password=_refuse_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise InvalidValue(
            f"client certificate and key cannot be used together ({_reason(error)})",
            where=where,
            remedy="put a certificate chain and its own unencrypted key there, both as PEM",
        ) from None


def _refuse_password() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or type(error).__name__


@contextmanager
def private_file(content: bytes) -> Iterator[str]:
    """A path OpenSSL can read a key from: in memory, or else a file that only this user can read."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("private", os.MFD_CLOEXEC)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="federation-") as directory:
        path = Path(directory, "private.pem")
        path.touch(mode=0o600)
        path.write_bytes(content)
        yield str(path)
