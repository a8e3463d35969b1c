"""``clusters.example.toml`` is true: it parses, holds every key of the model, and states the real defaults."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import fields, replace
from typing import Any

import pytest

from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.config.clusters import (
    ClusterConfig,
    ClusterPolicy,
    ClusterTimeouts,
    Credentials,
    IstioConfig,
)
from federation.core.config.hub import (
    AnchorPin,
    ControllerConfig,
    HubConfig,
    ListenerConfig,
    ProofConfig,
    PublicationConfig,
    RotationConfig,
    SignerConfig,
    StateConfig,
    StatusConfig,
    TrustConfig,
)
from federation.core.config.load import parse_config
from tests.core.config.example import PLAIN, TEXT

LINES = PLAIN.splitlines()

OPTIONAL = re.compile(r"#([a-z0-9_]+) = (.*)")
KEY = re.compile(r"#?([a-z0-9_]+) = ")
TABLE = re.compile(r"\[+([a-z_.]+)\]+$")
NO_DEFAULT = "# no default"

TABLES: dict[str, type] = {
    "": HubConfig,
    "trust": TrustConfig,
    "trust.anchors": AnchorPin,
    "listener": ListenerConfig,
    "signer": SignerConfig,
    "signer.authority": LocalAuthorityConfig,
    "controller": ControllerConfig,
    "controller.publication": PublicationConfig,
    "controller.proof": ProofConfig,
    "controller.rotation": RotationConfig,
    "status": StatusConfig,
    "state": StateConfig,
    "clusters": ClusterConfig,
    "clusters.signer": Credentials,
    "clusters.policy": ClusterPolicy,
    "clusters.istio": IstioConfig,
    "clusters.timeouts": ClusterTimeouts,
}
NOT_KEYS = {
    "": {
        "file",
        "digest",
        "warnings",
        "notices",
        "trust",
        "listener",
        "signer",
        "controller",
        "status",
        "state",
        "clusters",
    },
    "trust": {"anchors"},
    "trust.anchors": {"clusters"},  # the key is cluster, and takes one or several
    "signer": {"authority", "successor", "conjur", "spiffe"},
    "controller": {"publication", "proof", "rotation"},
    "state": {"namespace", "credentials"},  # of the other kind, in its block
    "clusters": {"signer", "controller", "policy", "istio", "timeouts"},
}

STATED = [number for number, line in enumerate(LINES) if OPTIONAL.match(line) and NO_DEFAULT not in line]
UNSET = [number for number, line in enumerate(LINES) if OPTIONAL.match(line) and NO_DEFAULT in line]


def parse(text: str) -> HubConfig:
    return replace(parse_config(text, file="/x/clusters.toml"), digest="")


def enabled(*numbers: int) -> str:
    return "\n".join(line[1:] if number in numbers else line for number, line in enumerate(LINES))


def keys_by_table() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    table = ""
    for line in LINES:
        if match := TABLE.match(line):
            table = match[1]
        elif match := KEY.match(line):
            found[table].add(match[1])
    return found


def test_the_example_parses_and_warns_only_of_its_short_form() -> None:
    (warning,) = parse(TEXT).warnings
    assert warning.startswith("clusters[1].kubeconfig: both roles share one credential")


@pytest.mark.parametrize("table", TABLES)
def test_every_key_of_the_model_is_in_its_table(table: str) -> None:
    expected = {field.name for field in fields(TABLES[table])} - NOT_KEYS.get(table, set())
    extra = {"clusters": {"kubeconfig"}, "trust.anchors": {"cluster"}}.get(table, set())  # the short forms
    assert keys_by_table()[table] == expected | extra


def test_every_table_of_the_example_is_known_here() -> None:
    assert set(keys_by_table()) == set(TABLES) | {"clusters.controller"}


@pytest.mark.parametrize("number", STATED, ids=lambda number: LINES[number])
def test_a_stated_default_is_the_real_one(number: int) -> None:
    assert parse(enabled(number)) == parse(TEXT)


def test_the_defaults_are_the_models() -> None:
    config = parse(TEXT)
    assert config.listener == ListenerConfig(server_names=config.listener.server_names)
    assert config.status == StatusConfig()
    assert config.controller == ControllerConfig()
    assert config.controller.publication == PublicationConfig()
    assert config.controller.proof == ProofConfig()
    assert config.controller.rotation == RotationConfig()
    assert config.state == StateConfig(directory=config.state.directory)
    authority = config.signer.authority
    assert isinstance(authority, LocalAuthorityConfig)
    assert authority == LocalAuthorityConfig(
        name=authority.name, certificate_file=authority.certificate_file, key_file=authority.key_file
    )
    assert config.signer == SignerConfig(authority=authority)
    east = config.clusters[0]
    assert east == ClusterConfig(
        name=east.name, cluster_id=east.cluster_id, signer=east.signer, controller=east.controller
    )


def test_keys_without_a_default_are_unset_and_can_be_set() -> None:
    assert len(UNSET) == 9
    before, after = parse(TEXT), parse(enabled(*UNSET))

    def unset(config: HubConfig) -> list[Any]:
        status = config.status
        return [
            config.trust.anchors[1].clusters or None,
            config.signer.health_listen,
            config.controller.proof.signer_address,
            status.read_token_file,
            status.operate_token_file,
            status.certificate_file,
            status.key_file,
            config.clusters[0].signer.context,
            config.clusters[0].earlier_longest_ttl,
        ]

    assert unset(before) == [None] * 9
    assert all(value is not None for value in unset(after))
