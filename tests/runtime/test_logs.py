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


AUDIT = logging.getLogger("federation.signer.audit")
ISSUED = "issued spiffe://mesh.example/ns/shop/sa/cart"
VALUES: dict[str, str | int] = {
    "cluster": "east",
    "pod": "cart-0",
    "serial": "1b9508cc18f8a506503d240f8699191e",
    "not_after": "2026-12-01T15:37:08+00:00",
    "generation": 7,
}


def undated(stream: io.StringIO, kind: str) -> str:
    if kind == "json":
        return json.dumps({**json.loads(stream.getvalue()), "time": ""})
    return stream.getvalue().partition(" ")[2]


def both_ways(
    kind: str, message: str, values: dict[str, str | int], logger: logging.Logger = AUDIT
) -> tuple[str, str]:
    """The line of ``log_info``, and of the same record."""
    quick, usual = written(kind, role="signer", odd='say "so"'), io.StringIO()
    logs.log_info(logger, message, values)
    logs.configure(kind, "info", stream=usual, fields={"role": "signer", "odd": 'say "so"'})
    logger.info("%s", message, extra=values)
    return undated(quick, kind), undated(usual, kind)


@pytest.mark.parametrize("kind", logs.FORMATS)
@pytest.mark.parametrize(
    "message", [ISSUED, "issued a, b", "bearer abcdefgh", "basic abcdefgh", "issued", ""]
)
def test_what_is_logged_once_a_request_is_the_line_of_a_record(kind: str, message: str) -> None:
    quick, usual = both_ways(kind, message, VALUES)
    assert quick == usual
    assert "abcdefgh" not in quick


@given(
    st.sampled_from(logs.FORMATS),
    st.text(max_size=40) | st.from_regex(r"[a-zT0-9.:/+_ -]{0,30}", fullmatch=True),
    st.text(max_size=40) | st.integers() | st.from_regex(r"[a-zT0-9.:/+_-]{0,30}", fullmatch=True),
)
def test_so_it_is_whatever_it_holds(kind: str, message: str, value: str | int) -> None:
    quick, usual = both_ways(kind, message, {**VALUES, "pod": value})
    assert quick == usual


@pytest.mark.parametrize("kind", logs.FORMATS)
@pytest.mark.parametrize("secret", [f"bearer {TOKEN}", TOKEN, KEY_PEM, "Bearer%20abcdefgh"])
def test_nor_does_a_secret_get_into_it(kind: str, secret: str) -> None:
    for message, values in ((f"issued {secret}", VALUES), (ISSUED, {**VALUES, "pod": secret})):
        quick, usual = both_ways(kind, message, values)
        assert quick == usual
        assert "removed]" in quick
        assert not any(part in quick for part in (TOKEN, "abcdefgh", KEY_PEM.splitlines()[1]))


@pytest.mark.parametrize("kind", logs.FORMATS)
def test_it_is_written_when_the_call_returns_and_dated_as_records_are(kind: str) -> None:
    stream = written(kind)
    AUDIT.info("before")
    logs.log_info(AUDIT, ISSUED, VALUES)
    AUDIT.info("after")
    lines = stream.getvalue().splitlines()
    instants = [json.loads(line)["time"] if kind == "json" else line.partition(" ")[0] for line in lines]
    assert instants == sorted(instants)
    assert {len(instant) for instant in instants} == {len("2026-11-30T15:37:08.266Z")}


def test_below_its_level_nothing_is_logged() -> None:
    stream = written("text", "warning")
    logs.log_info(AUDIT, ISSUED, VALUES)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("at", ["", "federation.signer", "federation.signer.audit"])
def test_another_handler_gets_the_record(at: str) -> None:
    stream, records = written("text"), list[logging.LogRecord]()

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    other, logger = Keeping(), logging.getLogger(at)
    logger.addHandler(other)
    try:
        logs.log_info(AUDIT, ISSUED, VALUES)
    finally:
        logger.removeHandler(other)
    assert [(record.getMessage(), record.__dict__["pod"]) for record in records] == [(ISSUED, "cart-0")]
    assert stream.getvalue().count("\n") == 1


def test_a_filter_sees_the_record() -> None:
    stream = written("text")
    AUDIT.addFilter(silent := lambda record: False)
    try:
        logs.log_info(AUDIT, ISSUED, VALUES)
    finally:
        AUDIT.removeFilter(silent)
    assert stream.getvalue() == ""


def test_a_stream_that_fails_stops_no_request(capsys: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    logs.configure("text", "info", stream=Full())
    logs.log_info(AUDIT, ISSUED, VALUES)
    assert "No space left" in capsys.readouterr().err, "as logging says it of every record"
