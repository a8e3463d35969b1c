"""A real Vault's or OpenBao's PKI engine as a back end under test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from federation.core.config.authorities.settings import VaultAuthorityConfig
from federation.signer.authorities.authority import AuthoritySettings
from tests.authorities.back_end import BackEnd
from tests.authorities.real_vault import OWN_TOKEN, admin, pki_policy, token_server, way_to


@asynccontextmanager
async def open_back_end(directory: Path) -> AsyncIterator[BackEnd]:
    """Mounts, roles, policy and token of its own on the server that the environment names."""
    async with admin() as operator, way_to(operator) as proxy:
        mesh, root = await operator.root_and_intermediate()
        await operator.recommended_roles(mesh)
        token = await operator.token_with(await operator.policy(pki_policy(mesh) + OWN_TOKEN))
        config = VaultAuthorityConfig(
            name="real vault",
            server=token_server(operator, proxy, directory, token),
            mount=mesh,
            role="mesh-workload",
            serving_role="mesh-listener",
        )
        yield BackEnd(settings=AuthoritySettings(config), root=root, cut_off=proxy.cut, secrets=(token,))
