"""AWS KMS as a back end under test: moto's server with AWS's documented behaviour."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.signer.authorities.authority import AuthoritySettings
from tests.authorities.aws_world import SECRET_KEY, SESSION_TOKEN, open_world, with_keys
from tests.authorities.back_end import BackEnd


@asynccontextmanager
async def open_back_end(directory: Path) -> AsyncIterator[BackEnd]:
    """A key in KMS, and the certificate of its intermediate as a file."""
    async with open_world() as world:
        with pytest.MonkeyPatch.context() as patch:
            with_keys(patch)
            yield BackEnd(
                settings=AuthoritySettings(await world.kms_key(directory)),
                root=world.root.certificate,
                cut_off=world.front.cut_off,
                secrets=(SECRET_KEY, SESSION_TOKEN),
            )
