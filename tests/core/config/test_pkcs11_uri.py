"""PKCS#11 URIs: RFC 7512's own examples, everything that is refused, and that nothing is lost on the way."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.config.authorities.pkcs11 import MAX_URI_LENGTH, Pkcs11Uri, parse_uri
from federation.core.errors import InvalidValue


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pkcs11:", Pkcs11Uri()),
        ("PKCS11:token=a", Pkcs11Uri(token="a")),
        ("pkcs11:slot-description=Sun%20Metaslot", Pkcs11Uri()),
        (
            (
                "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;"
                "library-description=Soft%20Token%20Library;library-version=1.23"
            ),
            Pkcs11Uri(),
        ),
        (
            (
                "pkcs11:token=My%20token%25%20created%20by%20Joe;library-version=3;"
                "id=%01%02%03%Ba%dd%Ca%fe%04%05%06"
            ),
            Pkcs11Uri(token="My token% created by Joe", id="010203baddcafe040506"),
        ),
        (
            (
                "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;"
                "model=1.0;object=my-key;type=private;id=%69%95%3E%5C%F4%BD%EC%91;serial="
            ),
            Pkcs11Uri(token="The Software PKCS#11 Softtoken", object="my-key", id="69953e5cf4bdec91"),
        ),
        (
            "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-key",
            Pkcs11Uri(token="A name with a substring %;", object="my-key"),
        ),
        (
            "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1",
            Pkcs11Uri(token="Name with a small A with acute: á"),
        ),
        (
            "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
            Pkcs11Uri(object="my-sign-key", module_path="/mnt/libmypkcs11.so.1"),
        ),
        ("pkcs11:slot-id=327;object=a&b", Pkcs11Uri(slot_id=327, object="a&b")),
        ("pkcs11:slot-id=0", Pkcs11Uri(slot_id=0)),
        ("pkcs11:id=~%00z", Pkcs11Uri(id="7e007a")),
        (
            (
                "pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=0a1b2c;token=hub;"
                "id=%01;object=ca;type=private"
            ),
            Pkcs11Uri(token="hub", serial="0a1b2c", object="ca", id="01"),
        ),
    ],
)
def test_reads_what_the_rfc_shows(text: str, expected: Pkcs11Uri) -> None:
    assert parse_uri(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begin with"),
        ("token=a", "begin with"),
        ("https:token=a", "begin with"),
        ("pkcs11:token", "name=value"),
        ("pkcs11:;", "name=value"),
        ("pkcs11:token=a;", "name=value"),
        ("pkcs11:=a", "name=value"),
        ("pkcs11:token=a;token=b", "twice"),
        ("pkcs11:token=a b", "percent-encoded"),
        ("pkcs11:token=á", "percent-encoded"),
        ("pkcs11:token=100%", "percent-encoded"),
        ("pkcs11:token=%G0", "percent-encoded"),
        ("pkcs11:token=a/b", "percent-encoded"),
        ("pkcs11:token=a\n", "percent-encoded"),
        ("pkcs11:token=%FF", "UTF-8"),
        ("pkcs11:token=a%0Ab", "control character"),
        ("pkcs11:object=a;type=cert", "private"),
        ("pkcs11:object=a;type=public", "private"),
        ("pkcs11:token=my-token;vendor-aaa=value-a", "'vendor-aaa' is not understood"),
        ("pkcs11:token=a?vendor-bbb=value-b", "'vendor-bbb' is not understood"),
        ("pkcs11:Token=a", "'Token' is not understood"),
        ("pkcs11:object=my-key;type=private?pin-source=file:/etc/token", "'pin-source'"),
        ("pkcs11:token=a?pin-value=the-pin", "'pin-value'"),
        ("pkcs11:object=my-sign-key;type=private?module-name=mypkcs11", "'module-name'"),
        ("pkcs11:token=a?module-path=libmypkcs11.so", "absolute"),
        ("pkcs11:token=a?", "nothing behind"),
        ("pkcs11:slot-id=-1", "slot-id"),
        ("pkcs11:slot-id=18446744073709551616", "slot-id"),
        ("pkcs11:slot-id=%D9%A1", "slot-id"),
        (f"pkcs11:id={'%00' * 257}", "257 bytes"),
        (f"pkcs11:token={'a' * MAX_URI_LENGTH}", "characters"),
    ],
)
def test_refuses_what_names_no_private_key_or_is_not_understood(text: str, says: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_uri(text)
    assert says in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "shape", ["pin-value={}", "pin-value={}&pin-value=x", "module-path=/m&pin-value={} "]
)
def test_quotes_no_pin(shape: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_uri("pkcs11:token=a?" + shape.format("sesame"))
    assert "sesame" not in caught.value.diagnostics()


LABELS = st.text(st.characters(codec="utf-8"), max_size=32).filter(str.isprintable)


@given(
    token=LABELS,
    serial=LABELS,
    slot_id=st.none() | st.integers(0, 2**64 - 1),
    label=LABELS,
    key_id=st.binary(max_size=64),
    path=LABELS,
    order=st.randoms(use_true_random=False),
)
def test_what_was_written_is_what_is_read(
    *, token: str, serial: str, slot_id: int | None, label: str, key_id: bytes, path: str, order: object
) -> None:
    parts = [
        f"token={quote(token, safe='')}",
        f"serial={quote(serial, safe='')}",
        f"object={quote(label, safe='')}",
        "id=" + "".join(f"%{byte:02X}" for byte in key_id),
    ]
    if slot_id is not None:
        parts.append(f"slot-id={slot_id}")
    order.shuffle(parts)  # type: ignore[attr-defined]
    uri = f"pkcs11:{';'.join(parts)}?module-path=/{quote(path, safe='/')}"
    if len(uri) > MAX_URI_LENGTH:
        with pytest.raises(InvalidValue):
            parse_uri(uri)
        return
    assert parse_uri(uri) == Pkcs11Uri(
        token=token,
        serial=serial,
        slot_id=slot_id,
        object=label,
        id=key_id.hex(),
        module_path=f"/{path}",
    )


@given(st.text(max_size=60) | st.text("pkcs1:;?&=%0aA tokenidpt-", max_size=60).map("pkcs11:".__add__))
def test_nothing_but_invalid_value_is_ever_raised(text: str) -> None:
    try:
        uri = parse_uri(text)
    except InvalidValue as error:
        assert error.remedy
    else:
        assert text.lower().startswith("pkcs11:")
        assert all(part.isprintable() for part in (uri.token, uri.serial, uri.object, uri.id))
