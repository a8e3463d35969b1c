"""The PKI engine of a Vault over real HTTPS, with a CA of its own and an AppRole login."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from federation.signer.authorities.authority import AuthoritySettings
from tests.authorities.back_end import BackEnd
from tests.authorities.vault_hub import approle, pki_config, server_context
from tests.authorities.vault_server import vault_server


@asynccontextmanager
async def open_back_end(directory: Path) -> AsyncIterator[BackEnd]:
    """A server in a namespace, set up as recommended."""
    context, ca_file = server_context(directory)
    async with vault_server(context, namespace="mesh") as server:
        config = pki_config(server, approle(server, directory), ca_file=ca_file)
        yield BackEnd(
            settings=AuthoritySettings(config),
            root=server.pki.ca.root,
            cut_off=server.stopped,
            secrets=(server.auth.secret_id, server.auth.role_id, "hvs.hub-"),
        )
