"""TLS towards Vault: its CA's file and, where the hub logs in by one, the client certificate of now."""

from __future__ import annotations

import ssl
from functools import partial
from typing import TypeAlias

from federation.clusters.tls import client_context
from federation.core.config.authority_model import VaultServer
from federation.core.errors import AuthorityError, AuthorityMisconfigured, AuthorityUnavailable, InvalidValue
from federation.signer.authorities.own_credentials import OwnCredentials
from federation.signer.authorities.pem_file import read_pem_file
from federation.signer.authorities.reading import read_in_time

_Files: TypeAlias = tuple[bytes | None, bytes | None, bytes | None]


class TransportSecurity:
    """Keeps one context until what it was made of changes: connections are pooled by it."""

    def __init__(self, server: VaultServer, credentials: OwnCredentials) -> None:
        self._server = server
        self._credentials = credentials
        self._made_of: _Files | None = None
        self._context: ssl.SSLContext | None = None

    @property
    def context(self) -> ssl.SSLContext | None:
        """That of the last :meth:`refresh`; None before it, and where plain http is spoken."""
        return self._context

    async def refresh(self) -> tuple[str, ...]:
        """Read the files anew; where they cannot be used, what served before goes on, and that is a warning.

        Raises AuthorityMisconfigured (``tls_files``) and what reading raises, where nothing served before.
        """
        if not self._server.address.startswith("https:"):
            return ()
        try:
            await self._take_up()
        except (AuthorityError, AuthorityUnavailable) as error:
            if self._context is None:
                raise
            return (
                f"its TLS files cannot be taken up anew, and the last good ones serve: {error.diagnostics()}",
            )
        return ()

    async def _take_up(self) -> None:
        for attempt in (1, 2):
            ca, certificate, key = made_of = await self._read()
            if made_of == self._made_of:
                return
            try:
                made = partial(
                    client_context,
                    authority=ca,
                    certificate=certificate,
                    key=key,
                    where=str(self._server.ca_file or "client certificate"),
                )
                self._context = await read_in_time("the system's CAs", made) if ca is None else made()
            except InvalidValue as error:
                if attempt == 1:
                    continue  # certificate and key may be of two generations, while they are being exchanged
                raise AuthorityMisconfigured(
                    str(error),
                    reason="tls_files",
                    remedy="put the CA of Vault's own certificate into ca_file; a client certificate needs its own key",
                ) from None
            self._made_of = made_of
            return

    async def _read(self) -> _Files:
        """The CA, and the client certificate with its key."""
        server = self._server
        ca = await read_pem_file(server.ca_file) if server.ca_file is not None else None
        if server.auth.method != "cert" or server.auth.certificate is None:
            return ca, None, None
        pair = await self._credentials.client_certificate(server.auth.certificate)
        return ca, pair.chain_pem, pair.key_pem
