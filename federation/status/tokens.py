"""The bearer tokens of the status API, one that reads and one that operates: their files, and which are fit."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import stat
from collections.abc import Iterator
from enum import Enum
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from federation.core.config.model import StatusConfig
from federation.core.errors import ConfigurationError, Finding, InvalidValue
from federation.core.token_strength import MAKE, weakness
from federation.files.reading import read_in_time

MOST_TOKEN_BYTES: Final = 4096
TIMEOUT: Final = 2.0  # seconds for a token to be read
READ_KEY: Final = "status.read_token_file"
OPERATE_KEY: Final = "status.operate_token_file"

_log = logging.getLogger(__name__)


class Right(Enum):
    """What a caller may do."""

    READ = "read"
    OPERATE = "operate"  # and read


def read_token(file: Path) -> bytes:
    """The token in that file. It blocks.

    Raises OSError where it cannot be read, InvalidValue where it is weak, or where others than its owner and group
    may read it, or others than its owner may write it.
    """
    with file.open("rb") as opened:
        mode = os.fstat(opened.fileno()).st_mode
        token = opened.read(MOST_TOKEN_BYTES + 1).strip()
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        who = "read" if mode & stat.S_IROTH else "write"
        raise InvalidValue(
            f"every user of the machine may {who} it (mode {stat.S_IMODE(mode):04o})"
            if mode & stat.S_IRWXO
            else f"its group may write it (mode {stat.S_IMODE(mode):04o})",
            where=str(file),
            remedy="chmod 0600 it, or 0440 for a group that reads it; in a pod, defaultMode: 0440 of the volume",
        )
    if len(token) > MOST_TOKEN_BYTES:
        raise InvalidValue(f"it is longer than {MOST_TOKEN_BYTES} bytes", where=str(file), remedy=MAKE)
    if why := weakness(token):
        raise InvalidValue(f"the token is too weak: {why}", where=str(file), remedy=MAKE)
    return token


def is_same(given: bytes, token: bytes) -> bool:
    """Compare in a time that depends on neither content nor length."""
    return hmac.compare_digest(sha256(given).digest(), sha256(token).digest())


async def read_token_in_time(file: Path) -> bytes:
    """The same off the loop; a file that hangs is an OSError."""
    async with asyncio.timeout(TIMEOUT):
        return await read_in_time(str(file), partial(read_token, file))


async def check_tokens(status: StatusConfig) -> None:
    """Refuse to start with tokens that are unfit, or that are one and the same.

    Raises ConfigurationError. A file that cannot be read is no reason: it is logged, and no caller is let in until
    it can be.
    """
    findings: list[Finding] = []
    tokens: list[bytes] = []
    for key, file in _files(status):
        try:
            tokens.append(await read_token_in_time(file))
        except OSError as error:
            why = error.strerror or type(error).__name__
            _log.warning(
                "%s: the token in %s cannot be read, so nobody is let in by it until it can be: %s",
                key,
                file,
                why,
            )
        except InvalidValue as error:
            findings.append(Finding(str(file), key, error.what, error.remedy))
    if len(tokens) == 2 and is_same(*tokens):
        findings.append(
            Finding(
                str(status.operate_token_file),
                OPERATE_KEY,
                "it holds the token that reads",
                f"who reads must not be able to operate: {MAKE}",
            )
        )
    if findings:
        raise ConfigurationError(findings)


def _files(status: StatusConfig) -> Iterator[tuple[str, Path]]:
    if status.read_token_file is not None:
        yield READ_KEY, status.read_token_file
    if status.operate_token_file is not None:
        yield OPERATE_KEY, status.operate_token_file
