"""Configuration files of the last version are read, and every key of them means what it meant."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.last_version import meaning

FILES = sorted((Path(__file__).parent / "configuration").glob("*.toml"))
KINDS = {"local", "conjur", "vault", "vault-transit", "pkcs11", "cert-manager", "aws-pca", "aws-kms"}
AUTHORITY_KIND = r"signer\.(authority|successor)\.kind"
READ_INTO_OTHERS = {
    "uri": "token",  # taken apart: token, key_label, key_id and module are what it means
    "token_file": "read_token_file",  # as it was called before the last version
}


def expected(file: Path) -> Any:
    return json.loads(file.with_suffix(".json").read_text("utf-8"))


def keys_of(table: dict[str, Any], key: str = "") -> Iterator[str]:
    """Every key that a file sets."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from keys_of(value, f"{key}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for place, element in enumerate(value):
                yield from keys_of(element, f"{key}{name}[{place}].")
        else:
            yield f"{key}{name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_of_the_last_version_means_what_it_meant(file: Path) -> None:
    config = meaning.read(file.read_text("utf-8"))
    means = expected(file)["means"]
    assert {key: meaning.value_at(config, key) for key in means} == means


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_was_warned_about_still_is(file: Path) -> None:
    warnings = meaning.read(file.read_text("utf-8")).warnings
    for key in expected(file)["warned"]:
        assert any(key.rpartition(".")[2] in warning for warning in warnings), key


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_key_that_a_file_sets_is_compared(file: Path) -> None:
    means = expected(file)["means"]
    for key in keys_of(tomllib.loads(file.read_text("utf-8"))):
        table, _, name = key.rpartition(".")
        name = READ_INTO_OTHERS.get(name, name)
        roles = [f"{table}.{role}.{name}" for role in ("signer", "controller")]  # a credential of both
        assert f"{table}.{name}".lstrip(".") in means or any(role in means for role in roles), key


def test_every_kind_of_authority_and_of_state_is_there() -> None:
    means = [expected(file)["means"] for file in FILES]
    kinds = {value for each in means for key, value in each.items() if re.fullmatch(AUTHORITY_KIND, key)}
    assert kinds == KINDS
    assert {each["state.kind"] for each in means} == {"files", "kubernetes"}
    methods = {value for each in means for key, value in each.items() if key.endswith(".auth.method")}
    assert methods == {"kubernetes", "jwt", "approle", "cert", "token"}


def test_every_key_of_the_whole_file_differs_from_its_default() -> None:
    """Else a key that is not read any more would go unnoticed: its default would be there in its place."""
    whole, least = (expected(FILES[0].with_name(name))["means"] for name in ("clusters.toml", "minimal.toml"))
    same = {key for key, value in least.items() if key in whole and whole[key] == value}
    assert same == {
        *("signer.authority.kind", "signer.authority.name", "state.kind", "trust_domain"),
        *("signer.authority.certificate_file", "signer.authority.key_file", "trust.anchors[0].file"),
        *("trust.anchors[0].sha256", "trust.anchors[0].cluster", "trust.anchors[0].trust_domain"),
        *("trust.anchors[0].allow_foreign_trust_domain", "trust.anchors[0].staged", "clusters[0].name"),
        *(
            "clusters[0].signer.kubeconfig",
            "clusters[0].signer.in_cluster",
            "clusters[0].controller.in_cluster",
        ),
        "status.insecure_allow_unauthenticated",
    }, sorted(same)
