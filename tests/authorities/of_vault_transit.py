"""The Transit engine of a Vault over real HTTP, with a token that was given."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from federation.signer.authorities.authority import AuthoritySettings
from tests.authorities.back_end import BackEnd
from tests.authorities.vault_hub import given_token, transit_config
from tests.authorities.vault_server import vault_server


@asynccontextmanager
async def open_back_end(directory: Path) -> AsyncIterator[BackEnd]:
    """A server with one P-256 key."""
    async with vault_server() as server:
        server.transit.create("mesh", "ecdsa-p256")
        token, auth = given_token(server, directory)
        config, root = transit_config(server, auth, directory)
        yield BackEnd(
            settings=AuthoritySettings(config), root=root, cut_off=server.stopped, secrets=(token.secret,)
        )
