"""Log lines: what is in them, and what never is."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from federation.core.pki.keys import private_key_pem
from federation.runtime import logs
from federation.runtime.logs import redact
from tests.support.patience import PATIENCE

KEY_PEM = private_key_pem(ec.generate_private_key(ec.SECP256R1())).decode()
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl-_x"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def written(kind: str, level: str = "info", **fields: str) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(kind, level, stream=stream, fields=fields)
    return stream


def test_a_text_line() -> None:
    stream = written("text", role="signer")
    logging.getLogger("federation.signer.door").warning(
        "refused %d", 3, extra={"cluster": "east", "reason": "no pod", "empty": ""}
    )
    line = stream.getvalue()
    assert line.endswith(
        'Z WARNING signer.door: refused 3 role=signer cluster=east reason="no pod" empty=""\n'
    )
    assert line[4] == "-"


def test_a_json_line() -> None:
    stream = written("json", role="signer")
    logging.getLogger("federation.x").info(
        "hello %s", "you", extra={"cluster": "east", "count": 3, "level": "forged", "nothing": None}
    )
    document = json.loads(stream.getvalue())
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "info",
        "logger": "federation.x",
        "message": "hello you",
        "role": "signer",
        "cluster": "east",
        "count": 3,
        "nothing": None,
    }


@pytest.mark.parametrize("kind", logs.FORMATS)
def test_secrets_are_taken_out_wherever_they_are(kind: str) -> None:
    stream = written(kind, replica=f"Bearer {TOKEN}")
    log = logging.getLogger("x")
    try:
        raise ValueError(f"could not use {TOKEN} with {KEY_PEM}")
    except ValueError:
        log.exception("in %s", {"Authorization": f"Bearer {TOKEN}"}, extra={"key": KEY_PEM, "jwt": TOKEN})
    output = stream.getvalue()
    assert TOKEN.rsplit(".", maxsplit=1)[-1] not in output
    assert KEY_PEM.splitlines()[1] not in output
    assert output.count("removed]") >= 5
    assert "ValueError: could not use" in output


@pytest.mark.parametrize(
    "text",
    [
        f"token {TOKEN}",
        f"authorization: bearer {TOKEN}",
        "Authorization: Bearer abcdef0123456789",
        "Authorization=Basic dXNlcjpwYXNzd29yZA==",
        KEY_PEM,
        KEY_PEM.replace("PRIVATE KEY", "RSA PRIVATE KEY"),
        KEY_PEM.replace("\n", "\\n"),
        KEY_PEM[:150],
        "x" * 100 + KEY_PEM + KEY_PEM,
    ],
)
def test_shapes_of_secrets(text: str) -> None:
    shown = redact(text)
    assert "removed]" in shown
    for secret in (TOKEN.split(".")[1], "abcdef0123456789", "dXNlcjpwYXNz", *KEY_PEM.splitlines()[1:3]):
        assert secret not in shown


@given(st.text(max_size=80), st.text(max_size=80))
def test_a_token_is_redacted_from_any_text_around_it(before: str, after: str) -> None:
    assert TOKEN not in redact(f"{before} {TOKEN} {after}")


@pytest.mark.parametrize(
    "text",
    ["the bearer of this", "-----BEGIN CERTIFICATE-----", "spiffe://mesh/ns/a/sa/b", "eyJ is a prefix"],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text(max_size=200))
def test_one_record_is_one_line(text: str) -> None:
    record = logging.makeLogRecord(
        {"msg": "%s", "args": (text,), "levelname": "INFO", "name": "x", "field": text}
    )
    for formatter in (logs.TextFormatter({}), logs.JsonFormatter({})):
        assert len(formatter.format(record).splitlines()) == 1
        assert "\x1b" not in formatter.format(record)


def test_libraries_that_dump_bodies_stay_quiet_at_debug() -> None:
    stream = written("text", "debug")
    for name in ("kubernetes_asyncio.client.rest", "grpc._cython.cygrpc", "aiohttp.access", "asyncio"):
        logging.getLogger(name).debug("a whole Secret")
    logging.getLogger("federation.x").debug("ours")
    assert "Secret" not in stream.getvalue()
    assert "ours" in stream.getvalue()


def test_a_higher_level_holds_for_libraries_too() -> None:
    stream = written("text", "error")
    logging.getLogger("kubernetes_asyncio.client.rest").warning("retry")
    assert stream.getvalue() == ""


def test_warnings_become_log_lines() -> None:
    stream = written("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("something is deprecated", stacklevel=1)
    assert "something is deprecated" in json.loads(stream.getvalue())["message"]


def test_logs_go_to_stderr_by_default() -> None:
    script = "import logging; from federation.runtime import logs; logs.configure('text', 'info'); logging.error('x')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=PATIENCE)
    assert done.stdout == b""
    assert b"ERROR" in done.stderr
