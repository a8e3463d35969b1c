"""Addresses of services: https, or http to this machine only; and the sockets of agents."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.config.types import is_plain_http, number, service_url, unix_socket
from federation.core.errors import InvalidValue

HOSTS = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{1,8}){0,3}", fullmatch=True)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("https://vault.example", "https://vault.example"),
        ("https://vault.example/", "https://vault.example"),
        ("HTTPS://Vault.Example:8200/", "https://vault.example:8200"),
        ("https://gateway.example/vault/", "https://gateway.example/vault"),
        ("https://10.1.2.3:8200", "https://10.1.2.3:8200"),
        ("https://[2001:DB8::1]:8200", "https://[2001:db8::1]:8200"),
        ("http://127.0.0.1:8200", "http://127.0.0.1:8200"),
        ("http://127.8.8.8", "http://127.8.8.8"),
        ("http://[::1]:8200/", "http://[::1]:8200"),
        ("http://localhost:8200", "http://localhost:8200"),
    ],
)
def test_addresses(written: str, url: str) -> None:
    assert service_url(written) == url
    assert service_url(url) == url
    assert is_plain_http(url) is written.startswith("http:")


NO_ADDRESS = r"""
vault.example  vault.example:8200  //vault.example  https://  https:///x  https:vault
ftp://vault.example  unix:///run/x  file:///etc/passwd  https://vault.example?x=1  https://v#f  https://v?  https://v#
https://u@v  https://u:p@v  https://@v  https://v:0  https://v:99999  https://v:x  https://[::1  https://[fe80::1%25eth0]
https://-v  https://v_w  https://*.v  https://v/../x  https://v/./x  https://v/%2e  https://v//x  https://v\@w
https://vä.example  https://v‥w
http://vault.example  http://10.0.0.1  http://127.example  http://localhost.example  http://127.0.0.1.example
http://0.0.0.0  http://[::]  http://2130706433  http://0x7f.1  http://[::ffff:10.0.0.1]
"""


@pytest.mark.parametrize(
    "written", [*NO_ADDRESS.split(), "", "https://v/a b", "https://v\n", None, 7, ["https://v"]]
)
def test_what_is_no_address_is_refused(written: object) -> None:
    with pytest.raises(InvalidValue) as refused:
        service_url(written)
    assert refused.value.remedy


@given(
    HOSTS,
    st.one_of(st.none(), st.integers(1, 65535)),
    st.lists(st.sampled_from(["a", "v1", "x-y"]), max_size=3),
)
def test_an_https_address_comes_back_as_it_was_written(host: str, port: int | None, path: list[str]) -> None:
    url = f"https://{host}{'' if port is None else f':{port}'}{''.join(f'/{part}' for part in path)}"
    assert service_url(url) == url


@given(HOSTS.filter(lambda host: host != "localhost"))
def test_plain_http_to_another_machine_is_refused(host: str) -> None:
    with pytest.raises(InvalidValue, match="another machine"):
        service_url(f"http://{host}")


@given(st.text(max_size=60))
def test_any_text_is_an_address_without_surprises_or_refused(text: str) -> None:
    try:
        url = service_url(text)
    except InvalidValue:
        return
    assert url.isascii()
    assert url.startswith(("https://", "http://127.", "http://localhost", "http://[::1]"))


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/run/spire/agent.sock", "/run/spire/agent.sock"),
        ("unix:///run/spire/agent.sock", "/run/spire/agent.sock"),
        ("unix:/run/spire/agent.sock", "/run/spire/agent.sock"),
    ],
)
def test_sockets(written: str, path: str) -> None:
    assert unix_socket(written) == Path(path)


NO_SOCKET = """
agent.sock  unix:agent.sock  unix://host/agent.sock  tcp://127.0.0.1:80  unix:  unix://
/run/x?y  /run/x#y  unix:///run/%20  unix:////x  //x  /  unix:///
"""


@pytest.mark.parametrize(
    "written", [*NO_SOCKET.split(), "", "/run/a b", "/" + "x" * 107, "/" + "\u00e4" * 54, 7]
)
def test_what_is_no_socket_is_refused(written: object) -> None:
    with pytest.raises(InvalidValue) as refused:
        unix_socket(written)
    assert refused.value.remedy


@pytest.mark.parametrize(("written", "value"), [(0, 0.0), (25, 25.0), (0.5, 0.5), (100, 100.0)])
def test_numbers(written: object, value: float) -> None:
    assert number(0, 100)(written) == value


@pytest.mark.parametrize("written", [-1, 100.5, float("nan"), float("inf"), True, "25", 10**400, None])
def test_what_is_no_number_in_range_is_refused(written: object) -> None:
    with pytest.raises(InvalidValue):
        number(0, 100)(written)
