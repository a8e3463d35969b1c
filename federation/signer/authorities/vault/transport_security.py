"""TLS towards Vault: its CA's file and, where the hub logs in by one, the client certificate of now."""

from __future__ import annotations

import ssl

from federation.clusters.tls import client_context
from federation.core.config.authority_model import VaultServer
from federation.core.errors import AuthorityMisconfigured, InvalidValue
from federation.signer.authorities.own_credentials import OwnCredentials
from federation.signer.authorities.pem_file import read_pem_file


class TransportSecurity:
    """Keeps one context until what it was made of changes: connections are pooled by it."""

    def __init__(self, server: VaultServer, credentials: OwnCredentials) -> None:
        self._server = server
        self._credentials = credentials
        self._made_of: tuple[bytes | None, bytes | None, bytes | None] | None = None
        self._context: ssl.SSLContext | None = None

    @property
    def context(self) -> ssl.SSLContext | None:
        """That of the last :meth:`refresh`; None before it, and where plain http is spoken."""
        return self._context

    async def refresh(self) -> None:
        """Read the files anew. Raises AuthorityMisconfigured (``tls_files``) and what reading raises."""
        server = self._server
        if not server.address.startswith("https:"):
            return
        ca = await read_pem_file(server.ca_file) if server.ca_file is not None else None
        certificate = key = None
        if server.auth.method == "cert" and server.auth.certificate is not None:
            pair = await self._credentials.client_certificate(server.auth.certificate)
            certificate, key = pair.chain_pem, pair.key_pem
        made_of = (ca, certificate, key)
        if made_of == self._made_of:
            return
        try:
            context = client_context(
                authority=ca,
                certificate=certificate,
                key=key,
                where=str(server.ca_file or "client certificate"),
            )
        except InvalidValue as error:
            raise AuthorityMisconfigured(
                str(error),
                reason="tls_files",
                remedy="put the CA of Vault's own certificate into ca_file; a client certificate needs its own key",
            ) from None
        self._context, self._made_of = context, made_of
