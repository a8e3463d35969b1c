"""A back end in a process and on a core of its own, so that its CPU is not taken for the hub's.

`python -m tests.bench.back_end_host KIND DIRECTORY CORE` opens what the contract suite opens under that name, writes
one line of JSON, and serves until it is terminated. The line has the settings of an authority (pickled: it is read
by the process that started this one) and the root to trust, or why the back end cannot be had here.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import signal
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import uvloop

from federation.core.config.authorities.settings import (
    AuthorityConfig,
    AwsKmsAuthorityConfig,
    AwsPcaAuthorityConfig,
    VaultAuthorityConfig,
    VaultTransitAuthorityConfig,
)
from tests.authorities.moto_server import moto_url
from tests.authorities.real_vault import ADDRESS
from tests.bench.processes import allow_many_files


async def serve(kind: str, directory: Path) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    try:
        async with import_module(f"tests.authorities.of_{kind}").open_back_end(directory) as back_end:
            settings = replace(back_end.settings, authority=direct(back_end.settings.authority))
            pickled = base64.b64encode(pickle.dumps(settings)).decode()
            say({"settings": pickled, "root": back_end.root.pem.decode()})
            await ended.wait()
    except pytest.skip.Exception as skipped:
        say({"missing": str(skipped.msg)})


def direct(config: AuthorityConfig) -> AuthorityConfig:
    """The settings past what tests have in between: a proxy that can cut, a front that keeps every call."""
    if isinstance(config, AwsKmsAuthorityConfig | AwsPcaAuthorityConfig):
        return replace(config, aws=replace(config.aws, endpoint=moto_url(corrected=True)))
    if isinstance(config, VaultAuthorityConfig | VaultTransitAuthorityConfig) and "real" in config.name:
        return replace(config, server=replace(config.server, address=os.environ[ADDRESS]))
    return config


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    allow_many_files()
    os.sched_setaffinity(0, {int(sys.argv[3])})
    uvloop.run(serve(sys.argv[1], Path(sys.argv[2])))
