"""Logging for a process: one line for each record, as text for people or JSON for machines, secrets taken out of both.

Redaction takes out what must never reach a log: bearer tokens, JWTs and private keys. It sits in the formatters,
behind every logger, every argument and every traceback, so that no library can pass it by.

What is logged for each request goes by :func:`log_info`, which writes the same line without a record of logging.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property, lru_cache
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
_ORDINARY: Final = re.compile(r"[a-z0-9.:/+_T-]+").fullmatch
"""Values without anything to take out, to escape or to quote: no secret and no line of either format needs more."""
_ORDINARY_MESSAGE: Final = re.compile(r"(?!(?:bearer|basic) )[a-z]+ [a-z0-9.:/+_-]+").fullmatch
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
    formatter = JsonFormatter if format == "json" else TextFormatter
    handler = _LineHandler(sys.stderr if stream is None else stream, formatter(fields or {}))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _PINNED.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    logging.captureWarnings(True)


def log_info(logger: logging.Logger, message: str, values: Mapping[str, str | int]) -> None:
    """As ``logger.info(message, extra=values)``, for what is logged once a request.

    A record costs more than a signature. The line is made right here where it goes to the handler of :func:`configure`
    alone and holds nothing that the formatters would change; otherwise logging makes it. It is written when this
    returns.
    """
    if logger.isEnabledFor(logging.INFO):
        handler = _only_handler(logger)
        if handler is None or not handler.write_info(logger.name, message, values):
            logger.info("%s", message, extra=values)


def _only_handler(logger: logging.Logger) -> _LineHandler | None:
    """The handler of :func:`configure`, where no other one would see the logger's records."""
    while logger.parent is not None:
        if logger.handlers or logger.filters or not logger.propagate:
            return None
        logger = logger.parent
    handlers = logger.handlers
    if len(handlers) == 1 and isinstance(handlers[0], _LineHandler) and not handlers[0].filters:
        return handlers[0]
    return None


class _LineHandler(logging.StreamHandler[IO[str]]):
    def __init__(self, stream: IO[str], formatter: _Formatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._lines = formatter

    def write_info(self, name: str, message: str, values: Mapping[str, str | int]) -> bool:
        """Write the line of a record at INFO; False where it takes a record to do that."""
        line = self._lines.info_line(time.time_ns() // 1_000_000, name, message, values)
        if line is None or self.lock is None:
            return False
        try:
            with self.lock:
                self.stream.write(line + self.terminator)
                self.stream.flush()
        except Exception:  # noqa: BLE001 - logging meets it again, and does what it always does
            return False
        return True


class _Formatter(logging.Formatter, ABC):
    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = dict(fields)

    def info_line(
        self, milliseconds: int, name: str, message: str, values: Mapping[str, str | int]
    ) -> str | None:
        """What :meth:`format` makes of a record at INFO; None where that changes something in it.

        ``milliseconds`` are since the epoch.
        """
        ordinary = _ORDINARY("".join(map(str, values.values()))) and _ORDINARY_MESSAGE(message)
        if not ordinary or "" in values.values() or not self._fields.keys().isdisjoint(values):
            return None
        seconds, rest = divmod(milliseconds, 1000)
        return self._line(f"{_second(seconds)}.{rest:03d}Z", name, message, values)

    @abstractmethod
    def _line(self, instant: str, name: str, message: str, values: Mapping[str, str | int]) -> str:
        """The line of a record at INFO that holds nothing which has to be taken out, escaped or quoted."""

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

    def _line(self, instant: str, name: str, message: str, values: Mapping[str, str | int]) -> str:
        given = "".join([f" {key}={value}" for key, value in values.items()])
        return f"{instant} INFO    {name.removeprefix('federation.')}: {message}{self._own}{given}"

    @cached_property
    def _own(self) -> str:
        return "".join(f" {name}={_shown(redact(value))}" for name, value in self._fields.items())


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

    def _line(self, instant: str, name: str, message: str, values: Mapping[str, str | int]) -> str:
        given = "".join(
            [
                f'"{key}": "{value}", ' if isinstance(value, str) else f'"{key}": {json.dumps(value)}, '
                for key, value in values.items()
            ]
        )
        own = f'"time": "{instant}", "level": "info", "logger": "{name}", "message": "{message}"'
        return f"{{{self._own}{given}{own}}}"

    @cached_property
    def _own(self) -> str:
        return "".join(
            f"{json.dumps(name)}: {json.dumps(redact(value))}, " for name, value in self._fields.items()
        )


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and _PLAIN(text) else json.dumps(text)
