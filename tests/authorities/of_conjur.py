"""Conjur as a back end under test: chain and key as two variables, the hub's JWT a projected token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from federation.core.config.authorities.settings import ConjurAuthorityConfig
from federation.signer.authorities.authority import AuthoritySettings
from tests.authorities.back_end import BackEnd
from tests.authorities.conjur_server import conjur_server
from tests.signer.running_signer import authority


@asynccontextmanager
async def open_back_end(directory: Path) -> AsyncIterator[BackEnd]:
    """A server that holds an intermediate of the moment."""
    ca = authority("contract")
    variables: dict[str, bytes | None] = {"mesh/chain": ca.chain_pem, "mesh/key": ca.key_pem}
    async with conjur_server(variables=variables) as server:
        conjur = server.config(directory)
        config = ConjurAuthorityConfig(name="conjur", chain_variable="mesh/chain", key_variable="mesh/key")
        yield BackEnd(
            settings=AuthoritySettings(config, conjur=conjur),
            root=ca.root,
            signs_without_it=True,
            cut_off=server.down,
            secrets=(ca.key_pem.decode().splitlines()[1], Path(conjur.jwt.name).read_text("ascii")),
        )
