"""``clusters.example.toml`` is true: it parses, holds every key of the model, and states the real defaults."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest

from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.config.clusters import (
    ClusterConfig,
    ClusterPolicy,
    ClusterTable,
    ClusterTimeouts,
    CredentialsTable,
    IstioConfig,
)
from federation.core.config.hub import (
    AnchorTable,
    ControllerConfig,
    FilesTable,
    HubConfig,
    HubTable,
    ListenerConfig,
    ProofConfig,
    PublicationConfig,
    RotationConfig,
    SignerConfig,
    SignerTable,
    StateConfig,
    StatusConfig,
    TrustTable,
)
from federation.core.config.load import parse_config
from federation.core.config.tables import Section, keys_of
from tests.core.config.example import PLAIN, TEXT

LINES = PLAIN.splitlines()

OPTIONAL = re.compile(r"#([a-z0-9_]+) = (.*)")
KEY = re.compile(r"#?([a-z0-9_]+) = ")
TABLE = re.compile(r"\[+([a-z_.]+)\]+$")
NO_DEFAULT = "# no default"

TABLES: dict[str, type[Section]] = {
    "": HubTable,
    "trust": TrustTable,
    "trust.anchors": AnchorTable,
    "listener": ListenerConfig,
    "signer": SignerTable,
    "signer.authority": LocalAuthorityConfig,
    "controller": ControllerConfig,
    "controller.publication": PublicationConfig,
    "controller.proof": ProofConfig,
    "controller.rotation": RotationConfig,
    "status": StatusConfig,
    "state": FilesTable,
    "clusters": ClusterTable,
    "clusters.signer": CredentialsTable,
    "clusters.policy": ClusterPolicy,
    "clusters.istio": IstioConfig,
    "clusters.timeouts": ClusterTimeouts,
}
IN_ANOTHER_TABLE = {"clusters": {"context", "in_cluster", "allowed_exec"}}
"""Keys that are shown where they are used most: of both roles' credentials, in [clusters.signer]."""

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
    expected = {
        name for name, key in keys_of(TABLES[table]).items() if key.section is None and key.forms is None
    }
    assert keys_by_table()[table] == expected - IN_ANOTHER_TABLE.get(table, set())


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
