"""Logging for a process: one line for each record, as text for people or JSON for machines, secrets taken out of both.

Redaction takes out what must never reach a log: bearer tokens, JWTs and private keys. It sits in the formatters,
behind every logger, every argument and every traceback, so that no library can pass it by.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Final

_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{0,40})PRIVATE KEY-----.*?(?:-----END \1PRIVATE KEY-----|\Z)", re.DOTALL
)
_BEARER: Final = re.compile(r"\b(bearer|basic)(\s+|%20)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{2,}(?:\.[A-Za-z0-9_-]*){0,3}")


def redact(text: str) -> str:
    """The text without secrets: each is replaced by a word that says what was there."""
    if "PRIVATE KEY-----" in text:
        text = _PRIVATE_KEY.sub("[private key removed]", text)
    # Nearly every text holds none of these words, and looking for a word costs a tenth of looking for a pattern.
    lower = text.lower()
    if "bearer" in lower or "basic" in lower:
        text = _BEARER.sub(r"\1\2[token removed]", text)
    return _JWT.sub("[token removed]", text) if "eyJ" in text else text


FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")

_PINNED: Final = {
    "kubernetes_asyncio": logging.WARNING,
    "kubernetes_asyncio.client.rest": logging.INFO,  # at DEBUG it writes whole bodies, Secrets included
    "aiohttp.access": logging.WARNING,
    "aiobotocore": logging.INFO,  # at DEBUG these two write tokens and bodies
    "botocore": logging.INFO,
    "grpc": logging.WARNING,
    "grpc._cython.cygrpc": logging.WARNING,
    "asyncio": logging.WARNING,
}
"""Loggers of libraries that are never more talkative than this, whatever level the operator asks for."""

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_PLAIN: Final = re.compile(r'[^ "=]+').fullmatch
_CONTROLS: Final = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)  # the last two end lines as well
_ESCAPES: Final = {code: ascii(chr(code))[1:-1] for code in _CONTROLS}


def configure(
    format: str,  # noqa: A002 - the option's own name
    level: str,
    *,
    stream: IO[str] | None = None,
    fields: Mapping[str, str] | None = None,
) -> None:
    """Send every logger's records to ``stream`` (default: stderr), with ``fields`` in each of them.

    ``format`` is one of :data:`FORMATS`, ``level`` one of :data:`LEVELS`. Replaces what was configured before.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    formatter = JsonFormatter if format == "json" else TextFormatter
    handler.setFormatter(formatter(fields or {}))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _PINNED.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    logging.captureWarnings(True)


class _Formatter(logging.Formatter):
    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = dict(fields)

    def _extra(self, record: logging.LogRecord) -> dict[str, object]:
        given = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        return {
            name: value if isinstance(value, bool | int | float) or value is None else redact(str(value))
            for name, value in {**self._fields, **given}.items()
        }

    def _traceback(self, record: logging.LogRecord) -> str:
        return redact(self.formatException(record.exc_info)) if record.exc_info else ""


class TextFormatter(_Formatter):
    """``<time> <LEVEL> <logger>: <message> key=value ...``; control characters cannot forge a second line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, with its traceback indented below it."""
        message = redact(record.getMessage()).translate(_ESCAPES)
        extra = "".join(f" {name}={_shown(value)}" for name, value in self._extra(record).items())
        name = record.name.removeprefix("federation.")
        line = f"{_time(record)} {record.levelname:<7} {name}: {message}{extra}"
        traceback = self._traceback(record)
        return line + "".join(f"\n    {row.translate(_ESCAPES)}" for row in traceback.splitlines())


class JsonFormatter(_Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, the extra fields, ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a JSON object; fields of our own come last, so that no extra can take their place."""
        document = self._extra(record) | {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if traceback := self._traceback(record):
            document["traceback"] = traceback
        return json.dumps(document, ensure_ascii=True)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and _PLAIN(text) else json.dumps(text)
