"""The local authority as a back end under test: chain and key as files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.signer.authorities.authority import AuthoritySettings
from tests.authorities.back_end import BackEnd
from tests.signer.running_signer import authority


@asynccontextmanager
async def open_back_end(directory: Path) -> AsyncIterator[BackEnd]:
    """Files of an intermediate of the moment."""
    ca = authority("contract")
    chain, key, _ = ca.write(directory)
    config = LocalAuthorityConfig(name="local", certificate_file=chain, key_file=key)
    secret = ca.key_pem.decode().splitlines()[1]
    yield BackEnd(settings=AuthoritySettings(config), root=ca.root, secrets=(secret,))
