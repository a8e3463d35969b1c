"""Single values: durations, addresses, patterns and label selectors, by example and by property."""

from __future__ import annotations

import string
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.config.types import (
    Address,
    account_pattern,
    address,
    check_label_selector,
    check_label_value,
    fingerprint,
    seconds,
)
from federation.core.errors import InvalidValue

duration = seconds(0, 1e9)


@pytest.mark.parametrize(
    ("written", "length"),
    [
        (0, 0.0),
        (1.5, 1.5),
        ("90s", 90.0),
        ("15m", 900.0),
        ("24h", 86400.0),
        ("7d", 604800.0),
        ("500ms", 0.5),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("1m500ms", 60.5),
    ],
)
def test_durations(written: object, length: float) -> None:
    assert duration(written) == length


@pytest.mark.parametrize(
    "written",
    ["", "s", "90", "90 s", "-1s", "+1s", "1e3s", "1w", "1h ", "h1", "1..5s", "٣s", -1, 1e10, "9" * 200],
)
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(InvalidValue):
        duration(written)


@given(
    days=st.integers(0, 99),
    hours=st.integers(0, 99),
    minutes=st.integers(0, 99),
    rest=st.integers(0, 99),
)
def test_a_composed_duration_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, rest: int) -> None:
    total = days * 86400 + hours * 3600 + minutes * 60 + rest
    assert duration(f"{days}d{hours}h{minutes}m{rest}s") == total == duration(total)


@given(
    host=st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z0-9]{1,8}){0,3}", fullmatch=True),
    port=st.integers(0, 65535),
)
def test_an_address_comes_back_as_it_was_written(host: str, port: int) -> None:
    assert str(address(f"{host}:{port}")) == f"{host}:{port}"


@given(st.ip_addresses(v=6), st.integers(0, 65535))
def test_an_ipv6_address_keeps_its_brackets(ip: object, port: int) -> None:
    assert str(address(f"[{ip}]:{port}")) == f"[{ip}]:{port}"


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", "host:x", "host:-1", "a b:1", "[x]:1", "host:65536", "http://h:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        address(text)


@given(st.binary(min_size=32, max_size=32))
def test_a_fingerprint_is_the_same_in_every_spelling(digest: bytes) -> None:
    plain = digest.hex()
    assert fingerprint(plain) == fingerprint(plain.upper()) == fingerprint(digest.hex(":").upper()) == plain


@pytest.mark.parametrize(
    "text", ["ab" * 31, "ab" * 33, "gg" * 32, "a:b" * 21, ":".join(["abab"] * 16), "SHA256=" + "ab" * 32]
)
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        fingerprint(text)


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@given(NAMES, NAMES, NAMES, NAMES)
def test_a_pattern_never_reaches_over_the_slash(place: str, name: str, other: str, account: str) -> None:
    """``*`` in the namespace's half must not match a service account's name, nor the other way round."""
    pattern = account_pattern(f"{place}*/{name}")
    matched = fnmatchcase(f"{other}/{account}", pattern)
    assert matched is (other.startswith(place) and account == name)


@pytest.mark.parametrize(
    "text", ["", "*", "a", "a/", "/b", "a/b/c", "[a-z]/b", "A/b", "a/b ", "a.b/c", "!a/b"]
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    """Brackets too: a pattern of ``deny`` that matches nothing for lack of a bracket would be a hole."""
    with pytest.raises(InvalidValue):
        account_pattern(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mesh",
        "!mesh",
        "! mesh",
        "mesh=on",
        "mesh==on",
        "mesh!=off",
        "mesh=",
        "a=b,c=d",
        "env in (prod)",
        "env in (prod, stage),mesh",
        "env notin (dev,test) , tier = web",
        "env in ()",
        "example.com/team=a.b_c-d",
        "kubernetes.io/metadata.name in (shop,bank)",
    ],
)
def test_label_selectors(text: str) -> None:
    assert check_label_selector(text) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "a,",
        "a=b=c",
        "a in prod",
        "a in (b",
        "a in b)",
        "a of (b)",
        "a=b c",
        "-a=b",
        "a=" + "b" * 64,
        "/a",
        "Example.com/a",
        "a/b/c",
        "!a=b",
        "a=é",
        "a;b",
        "a" * 3000,
    ],
)
def test_what_an_api_server_would_refuse_is_no_label_selector(text: str) -> None:
    with pytest.raises(InvalidValue):
        check_label_selector(text)


@given(st.text(alphabet=string.ascii_letters + string.digits + "()=!,/.- in", max_size=60))
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    try:
        accepted = check_label_selector(text)
    except InvalidValue as error:
        assert error.remedy
    else:
        assert accepted.count("(") == accepted.count(")")


@pytest.mark.parametrize("text", ["a b", "-a", "a-", "a" * 64, "ü"])
def test_label_values(text: str) -> None:
    assert check_label_value("net-1") == "net-1"
    with pytest.raises(InvalidValue):
        check_label_value(text)


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("127.example.org", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("hub.example.org", False),
    ],
)
def test_loopback_is_an_address_and_not_what_a_name_looks_like(host: str, only_here: bool) -> None:
    assert Address(host, 80).is_loopback is only_here
