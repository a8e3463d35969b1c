"""Names of objects: every key has one, no two the same, and Kubernetes takes them all."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from federation.core.errors import InvalidValue
from federation.state.kubernetes_store import MAX_NAMESPACE, Namespaces, key_of, object_name

# apimachinery pkg/util/validation: DNS1123Subdomain
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
SEGMENTS = st.from_regex(r"[a-z0-9_-][a-z0-9._-]{0,30}", fullmatch=True).filter(str.isascii)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join)


@given(key=KEYS)
def test_a_key_is_found_again_from_its_name(key: str) -> None:
    name = object_name(key)
    assert SUBDOMAIN.fullmatch(name)
    assert len(name) <= 253
    assert key_of(name) == key


@given(keys=st.tuples(KEYS, KEYS))
def test_no_two_keys_share_a_name(keys: tuple[str, str]) -> None:
    assume(keys[0] != keys[1])
    assert object_name(keys[0]) != object_name(keys[1])


@given(name=st.from_regex(r"federation\.[a-z0-9.y-]{0,20}", fullmatch=True))
def test_a_name_that_no_key_has_belongs_to_no_key(name: str) -> None:
    key = key_of(name)
    assert key is None or object_name(key) == name


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("current", "federation.current"),
        ("generations/000000000012", "federation.generations.000000000012"),
        (
            "signers/federation-signer-7d4b9c6f5-x2x8q",
            "federation.signers.federation-signer-7d4b9c6f5-x2x8q",
        ),
        ("controllers/node-1.example.com", "federation.controllers.node-1ydexampleydcom"),
        ("-/--a-", "federation.yh.yhyhayh"),
        ("y_", "federation.yyyu"),
    ],
)
def test_names_of_common_keys_can_be_read(key: str, name: str) -> None:
    assert object_name(key) == name
    assert key_of(name) == key


@pytest.mark.parametrize(
    "name",
    [
        "kube-root-ca.crt",
        "federation.",
        "federation.y",
        "federation.ya",
        "federation..a",
        "federation.a-",
        "",
    ],
)
def test_what_others_made_is_no_document(name: str) -> None:
    assert key_of(name) is None


def test_a_key_whose_name_would_be_too_long_is_refused() -> None:
    assert len(object_name("x" * 200)) == 211
    with pytest.raises(InvalidValue, match="253"):
        object_name("y" * 122)


def test_signers_and_controllers_write_to_namespaces_of_their_own() -> None:
    both = Namespaces("federation-state")
    for key in ("current", "orders", "rotation", "generations/1", "controllers/a", "operations/a"):
        assert both.of(key) == "federation-state"
    for key in ("signers/a", "horizons/a"):
        assert both.of(key) == "federation-state-signers"


@given(key=KEYS | st.sampled_from(["signers/a", "horizons/a"]), cut=st.integers(0, 20))
def test_a_prefix_is_looked_for_in_every_namespace_that_may_have_its_keys(key: str, cut: int) -> None:
    both = Namespaces("state")
    assert both.of(key) in both.below(key[:cut])


@pytest.mark.parametrize("namespace", ["", "-a", "a-", "A", "a.b", "a/b", "x" * (MAX_NAMESPACE + 1)])
def test_what_is_no_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(InvalidValue):
        Namespaces(namespace)
