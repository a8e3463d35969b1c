"""``[signer.conjur]`` and ``[signer.spiffe]``: where credentials of the hub's own come from, beside files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from federation.core.config.authorities.common import AuthorityContext
from federation.core.config.authorities.settings import ConjurConfig, JwtRef, SpiffeConfig
from federation.core.config.mistakes import Convert, Table
from federation.core.config.types import filled, is_plain_http, seconds, service_url, string, unix_socket
from federation.core.errors import InvalidValue

_CONJUR: Final = ConjurConfig(
    url="", account="", authenticator="", jwt=JwtRef("file", "")
)  # for its defaults
_SPIFFE: Final = SpiffeConfig(socket=Path())
_WORD: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?", re.ASCII)
_DAY: Final = 86400.0


def read_conjur(table: Table, context: AuthorityContext) -> ConjurConfig | None:
    """The Conjur of the hub; None, with findings, where it cannot be used."""
    with table:
        url = table.require("url", service_url, 'write its address, for example "https://conjur.example.org"')
        account = table.require(
            "account", _word("an account"), "name Conjur's account, the one of its policies"
        )
        authenticator = table.require(
            "authenticator",
            _word("a service ID"),
            "name the service ID of its authn-jwt: what stands after authn-jwt/ in the policy",
        )
        jwt = table.require(
            "jwt", context.jwt, 'write "file:PATH" of a projected service account token, or "spiffe:AUDIENCE"'
        )
        host = table.get("host", _host, _CONJUR.host)
        ca_file = table.get("ca_file", context.path, _CONJUR.ca_file)
        if url is not None and is_plain_http(url) and ca_file is not None:
            table.mistake("ca_file", "is never used: the url is http", "use https, or remove it")
        poll = table.get("poll", seconds(0.1, _DAY), _CONJUR.poll)
        timeout = table.get("timeout", seconds(0.1, 60), _CONJUR.timeout)
    if url is None or account is None or authenticator is None or jwt is None:
        return None
    return ConjurConfig(
        url=url,
        account=account,
        authenticator=authenticator,
        jwt=jwt,
        host=host,
        ca_file=ca_file,
        poll=poll,
        timeout=timeout,
    )


def read_spiffe(table: Table) -> SpiffeConfig | None:
    """The Workload API of the hub; None, with findings, where it cannot be used."""
    with table:
        socket = table.require(
            "socket", unix_socket, "name the agent's socket, for example /run/spire/agent-sockets/api.sock"
        )
        timeout = table.get("timeout", seconds(0.1, 60), _SPIFFE.timeout)
    return None if socket is None else SpiffeConfig(socket=socket, timeout=timeout)


def _word(what: str) -> Convert[str]:
    def convert(value: object) -> str:
        text = string(value)
        if not _WORD.fullmatch(text):
            raise InvalidValue(f"is not {what}", remedy="use letters, digits, '-', '_' and '.', no '/'")
        return text

    return convert


def _host(value: object) -> str:
    """The ID of a host in Conjur's policy, with or without ``host/`` before it; or nothing."""
    text = string(value)
    return filled(text) if text else ""
