"""``[status]``: who may call, as the file says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.core.config.clusters import Credentials
from federation.core.config.hub import (
    CallerToken,
    KubernetesCallersConfig,
    OidcCallersConfig,
    StatusConfig,
)
from federation.core.config.load import parse_config
from federation.core.errors import ConfigurationError
from tests.core.config.example import BLOCKS, PLAIN

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
TOKEN = f'[[status.tokens]]\nname = "ann"\nsha256 = "{DIGEST}"\n'
KUBERNETES, OIDC = (
    next(block for block in BLOCKS if block.table == table) for table in ("status.kubernetes", "status.oidc")
)
REACHABLE = '[status]\nlisten = "0.0.0.0:8080"\n'


def status_of(text: str, before: str = PLAIN) -> StatusConfig:
    return parse_config(f"{before}\n{text}", file="/x/clusters.toml").status


def mistakes(text: str, before: str = PLAIN) -> str:
    with pytest.raises(ConfigurationError) as error:
        status_of(text, before)
    return str(error.value)


def test_the_examples_blocks_say_what_they_seem_to() -> None:
    status = status_of("\n".join(KUBERNETES.lines))
    assert status.kubernetes is not None
    assert status.kubernetes.credentials == Credentials(kubeconfig=None, in_cluster=True)
    assert status.kubernetes == KubernetesCallersConfig(in_cluster=True, audience="federation-hub")
    status = status_of("\n".join(OIDC.with_every_key.lines))
    assert status.oidc == OidcCallersConfig(
        issuer="https://login.example.org",
        audience="federation-hub",
        name_claim="sub",
        rights_claim="groups",
        read=("platform-readers",),
        operate=("platform-operators",),
        ca_file=Path("/x/pki/login-ca.pem"),
    )
    slash = "\n".join(OIDC.lines).replace("login.example.org", "login.example.org/")
    assert (status_of(slash).oidc or status.oidc).issuer == "https://login.example.org/", (
        "as its tokens have it"
    )
    assert status_of(TOKEN).tokens == (CallerToken(name="ann", sha256=DIGEST, right="read"),)


@pytest.mark.parametrize("text", [TOKEN, "\n".join(KUBERNETES.lines), "\n".join(OIDC.lines)])
def test_any_kind_of_caller_is_enough_beyond_loopback(text: str) -> None:
    before = PLAIN.replace("[status]\n", REACHABLE)
    assert "read_token_file" in mistakes("", before)
    status = status_of(text, before)
    assert status.lets_readers_in
    open_to_all = before.replace(REACHABLE, f"{REACHABLE}insecure_allow_unauthenticated = true\n")
    assert "contradicts the callers" in mistakes(text, open_to_all)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TOKEN.replace(DIGEST, "hunter-two"), "is not a SHA-256 digest"),
        (TOKEN.replace(f'sha256 = "{DIGEST}"', ""), "is missing"),
        (TOKEN.replace('name = "ann"', ""), "is missing"),
        (f'{TOKEN}right = "write"\n', "is not known here"),
        (TOKEN + TOKEN, "is that of another token"),
        (TOKEN + TOKEN.replace("ann", "bob"), "is that of another token"),
        ("[status.kubernetes]\n", "cannot connect"),
        ('[status.kubernetes]\nin_cluster = true\nkubeconfig = "k"\n', "contradicts in_cluster"),
        ('[status.kubernetes]\nin_cluster = true\naudience = ""\n', "is empty"),
        ('[status.oidc]\nissuer = "http://login.example.org"\naudience = "a"\nread = ["r"]\n', "plain http"),
        ('[status.oidc]\nissuer = "https://login.example.org"\nread = ["r"]\n', "is missing"),
        ('[status.oidc]\nissuer = "https://login.example.org"\naudience = "a"\n', "no one would be let in"),
        (
            '[status.oidc]\nissuer = "https://login.example.org"\naudience = "a"\nread = [""]\n',
            "is empty",
        ),
    ],
)
def test_what_could_let_in_someone_else_is_a_mistake(text: str, why: str) -> None:
    found = mistakes(text)
    assert why in found
    assert "hunter-two" not in found, "it may be the token"
