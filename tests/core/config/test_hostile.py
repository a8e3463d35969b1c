"""For every text the parser returns a configuration or raises ConfigurationError, and nothing else."""

from __future__ import annotations

import json
import math
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.core.errors import ConfigurationError
from tests.core.config.example import (
    CONJUR,
    FORMS,
    PLAIN,
    SPIFFE,
    STATE,
    SUCCESSOR,
    in_use,
    with_state,
    with_successor,
)
from tests.core.config.texts import AUTHORITY, GOOD, HUB

EVERY_KEY = "\n".join(
    line[1:] if line.startswith("#") and line[1:2].islower() else line for line in PLAIN.splitlines()
)
EVERY_AUTHORITY = [
    in_use(form.with_every_key, conjur=CONJUR.with_every_key, spiffe=SPIFFE.with_every_key) for form in FORMS
]

TABLES = (
    "trust",
    "listener",
    "signer",
    "signer.authority",
    "signer.authority.auth",
    "signer.successor",
    "signer.conjur",
    "signer.spiffe",
    "controller",
    "controller.publication",
    "controller.rotation",
    "status",
    "state",
)
WORDS = (
    *(
        "trust_domain",
        "name",
        "cluster_id",
        "listen",
        "server_names",
        "sha256",
        "file",
        "kubeconfig",
        "allow",
    ),
    *(
        "watch",
        "longest_ttl",
        "key_kinds",
        "in_cluster",
        "context",
        "probe",
        "anchors",
        "clusters",
        "policy",
        "istio",
    ),
    *("signer", "x", "authority", "successor", "auth", "conjur", "spiffe"),
    *("directory", "namespace", "staged", "soak", "waves", "fresh", "earlier_longest_ttl"),
    *("member_cas", "replace"),
    *("kind", "method", "address", "role", "jwt", "token", "pin", "uri", "slot", "url", "socket", "region"),
)
KEYS = st.sampled_from(WORDS)
SCALARS = st.one_of(
    st.booleans().map(lambda value: "true" if value else "false"),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(lambda value: repr(value) if math.isfinite(value) else "nan"),
    st.text(max_size=30).map(lambda value: json.dumps(value.encode("utf-8", "replace").decode())),
    st.sampled_from(
        [
            *("2026-11-24", "07:32:00", "inf", "-inf", '"90s"', '"a/b"', '"[::]:1"', '"*/*"', "''", "1e999"),
            *(
                '"vault"',
                '"pkcs11"',
                '"aws-kms"',
                '"cert"',
                '"file:x"',
                '"env:X"',
                '"conjur:x"',
                '"spiffe:x"',
            ),
            *('"https://[::1"', '"http://127.0.0.1:8200"', '"https://h:99999"', '"unix:///x"', '"pkcs11:"'),
        ]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(KEYS, inner), max_size=3, unique_by=lambda pair: pair[0]).map(
            lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=6,
)
LINES = st.tuples(KEYS, VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}")
HEADERS = st.sampled_from(
    [f"[{t}]" for t in TABLES]
    + ["[[clusters]]", "[[trust.anchors]]", "[clusters.policy]", "[clusters.istio]"]
)


def judged(text: str) -> HubConfig | ConfigurationError:
    try:
        return parse_config(text, file="clusters.toml")
    except ConfigurationError as error:
        assert error.findings
        for finding in error.findings:
            assert finding.file == "clusters.toml"
            assert finding.problem
            assert finding.remedy
            assert len(str(finding)) < 2000
        return error


def test_the_text_that_is_spoiled_below_is_good() -> None:
    assert isinstance(judged(EVERY_KEY), HubConfig)


@given(st.text(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_text(text: str) -> None:
    assert isinstance(judged(text), ConfigurationError)  # no short text holds a pin


@given(st.lists(st.one_of(LINES, HEADERS), max_size=25).map("\n".join))
@settings(max_examples=250, deadline=None)
def test_any_toml_of_the_right_words(text: str) -> None:
    assert judged(text) is not None


def spoiled(data: st.DataObject, text: str) -> str:
    lines = text.splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        number = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["value", "drop", "copy", "move", "text"])):
            case "value" if " = " in lines[number]:
                lines[number] = f"{lines[number].split(' = ')[0]} = {data.draw(VALUES)}"
            case "drop":
                lines[number] = ""
            case "copy":
                lines.insert(data.draw(st.integers(0, len(lines))), lines[number])
            case "move":
                lines.insert(data.draw(st.integers(0, len(lines) - 1)), lines.pop(number))
            case _:
                lines[number] += data.draw(st.text(max_size=5))
    return "\n".join(lines)


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_the_example_with_every_key_and_a_few_of_them_spoiled(data: st.DataObject) -> None:
    assert judged(spoiled(data, EVERY_KEY)) is not None


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_every_kind_of_authority_with_every_key_and_a_few_of_them_spoiled(data: st.DataObject) -> None:
    before, _, rest = data.draw(st.sampled_from(EVERY_AUTHORITY)).partition("[signer]\n")
    signer, _, after = rest.partition("[controller.publication]\n")
    text = before + spoiled(data, f"[signer]\n{signer}") + f"\n[controller.publication]\n{after}"
    assert judged(text) is not None


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_successor_and_state_in_kubernetes_with_a_few_keys_spoiled(data: st.DataObject) -> None:
    before, mark, after = with_successor(SUCCESSOR.with_every_key).partition("[signer.successor]\n")
    block, line, rest = after.partition("[controller.publication]\n")
    assert judged(before + mark + spoiled(data, block) + "\n" + line + rest) is not None
    before, mark, after = with_state(STATE.with_every_key).partition("[state]\n")
    block, line, rest = after.partition("[[clusters]]\n")
    assert judged(before + mark + spoiled(data, block) + "\n" + line + rest) is not None


SECRET_KEYS = (
    *(
        'kind = "vault"\n[signer.authority.auth]\nmethod = "token"\ntoken',
        "pin",
        "secret_id",
        "uri",
        "role_id",
    ),
    *('kind = "pkcs11"\npin', 'kind = "pkcs11"\nuri', 'kind = "vault"\naddress', 'kind = "aws-kms"\njwt'),
    *('kind = "vault"\n[signer.authority.auth]\nmethod = "jwt"\njwt', 'kind = "aws-pca"\nendpoint'),
    *('kind = "vault"\n[signer.authority.auth]\nmethod = "approle"\nsecret_id', "[signer.conjur]\nurl"),
    *('kind = "conjur"\nkey_variable', "[signer.conjur]\njwt", "[signer.spiffe]\nsocket"),
)
SECRETS = st.text(string.ascii_letters + string.digits, min_size=12, max_size=40).map(
    lambda text: f"Zq9{text}"
)
WRAPPINGS = st.sampled_from(
    [
        "{}",
        "hvs.{}",
        "{}:x",
        "file: {}",
        "env:{}-",
        "https://hub:{}@vault",
        "pkcs11:token=a?pin-value={}",
        "{} ",
    ]
)


@given(st.sampled_from(SECRET_KEYS), SECRETS, WRAPPINGS)
@settings(max_examples=250, deadline=None)
def test_a_secret_in_the_place_of_a_reference_is_never_repeated(key: str, secret: str, wrapping: str) -> None:
    text = HUB.replace(AUTHORITY, f'[signer.authority]\n{key} = "{wrapping.format(secret)}"\n')
    result = judged(text)
    assert isinstance(result, ConfigurationError)
    assert secret not in result.diagnostics()
    assert secret not in repr(result)


@given(st.text(min_size=1, max_size=40), VALUES)
@settings(max_examples=100, deadline=None)
def test_an_unknown_key_is_always_a_mistake(name: str, value: str) -> None:
    key = json.dumps(f"x{name}".encode("utf-8", "replace").decode())
    result = judged(GOOD.replace("[listener]", f"[listener]\n{key} = {value}"))
    assert isinstance(result, ConfigurationError)
