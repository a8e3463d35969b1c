"""A real Vault's or OpenBao's Transit engine as a back end under test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from federation.core.config.authorities.settings import VaultTransitAuthorityConfig
from federation.core.pki.pem import encode_certificates
from federation.signer.authorities.authority import AuthoritySettings
from tests.authorities.back_end import BackEnd
from tests.authorities.real_vault import OWN_TOKEN, admin, token_server, transit_policy, way_to
from tests.authorities.vault_keys import intermediate_for


@asynccontextmanager
async def open_back_end(directory: Path) -> AsyncIterator[BackEnd]:
    """An engine, a key, a policy and a token of its own on the server that the environment names."""
    async with admin() as operator, way_to(operator) as proxy:
        transit = await operator.mount("transit", "transit")
        await operator.do("POST", f"{transit}/keys/mesh", {"type": "ecdsa-p256"})
        key = await operator.do("GET", f"{transit}/keys/mesh")
        chain = intermediate_for(load_pem_public_key(key["keys"]["1"]["public_key"].encode()))
        file = directory / "chain.pem"
        file.write_bytes(encode_certificates(chain[:1]))
        token = await operator.token_with(await operator.policy(transit_policy(transit, "mesh") + OWN_TOKEN))
        config = VaultTransitAuthorityConfig(
            name="real transit",
            server=token_server(operator, proxy, directory, token),
            mount=transit,
            key="mesh",
            certificate_file=file,
        )
        yield BackEnd(settings=AuthoritySettings(config), root=chain[-1], cut_off=proxy.cut, secrets=(token,))
