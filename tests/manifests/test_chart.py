"""The hub's chart and the Kustomize base are one source: what can be seen of that without Helm."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml

from federation.core.config.authorities.settings import AuthorityConfig
from tests.manifests import chart, chart_pages
from tests.manifests.tree import ROOT

CHOICES = sorted((chart.CHART / "ci").glob("*-values.yaml"))
SCHEMA = json.loads(chart_pages.VALUES_SCHEMA.read_text("utf-8"))
DEFAULTS = chart.values(chart.VALUES)


def merged(base: Any, over: Any) -> Any:
    """Values as Helm merges them: maps by their keys, all else as a whole."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: merged(base.get(key), value) for key, value in over.items()}
    return over


def mistakes(values: Any) -> list[str]:
    found = jsonschema.Draft7Validator(SCHEMA).iter_errors(values)
    return [f"{'.'.join(map(str, each.absolute_path))}: {each.message}" for each in found]


def test_the_base_is_what_the_chart_renders() -> None:
    """Their digests are written together, when Helm has rendered: test_chart_rendered.py renders anew."""
    assert chart.DIGESTS.read_text("utf-8") == chart.digests(), (
        "the chart or manifests/hub was changed alone: change the chart, then `python -m tests.manifests.chart`"
    )


def test_the_base_has_every_rendered_file_and_no_other() -> None:
    kustomization = chart.values(chart.BASE / "kustomization.yaml")
    (generated,) = kustomization["configMapGenerator"]
    named = {*kustomization["resources"], *generated["files"]}

    assert named == {str(path.relative_to(chart.BASE)) for path in chart.made()}
    for path in chart.made():
        source = re.match(r"# Made of (\S+) by", path.read_text("utf-8"))
        assert path.suffix == ".toml" or (source and (ROOT / source[1]).is_file()), path


def test_the_rights_of_discovery_are_a_file_for_each_kind_of_source() -> None:
    kustomization = chart.values(chart.DISCOVERY / "kustomization.yaml")

    assert set(kustomization["resources"]) == set(chart.DISCOVERED)
    assert {path.name for path in chart.DISCOVERY.iterdir()} == {*chart.DISCOVERED, "kustomization.yaml"}


def test_the_pages_are_those_of_the_values() -> None:
    page = chart_pages.PAGE.read_text("utf-8")

    assert chart_pages.VALUES_SCHEMA.read_text("utf-8") == chart_pages.schema(), (
        "python -m tests.manifests.chart_pages"
    )
    assert page == chart_pages.page(page), "python -m tests.manifests.chart_pages"


def test_every_value_is_described() -> None:
    said = chart_pages.comments()
    paths = [path for path, _ in chart_pages.leaves(DEFAULTS)]

    assert len(paths) > 80
    assert [path for path in paths if not said[path]] == []
    assert set(chart_pages.TYPES) <= set(paths)


def test_the_schema_is_one_and_takes_the_defaults() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)

    assert mistakes(DEFAULTS) == []


@pytest.mark.parametrize("choice", CHOICES, ids=lambda path: path.stem)
def test_the_schema_takes_the_examples(choice: Path) -> None:
    assert mistakes(merged(DEFAULTS, chart.values(choice))) == []


@pytest.mark.parametrize(
    ("over", "mistake"),
    [
        ("signer: {replica: 3}", "signer: Additional properties"),
        ("signer: {replicas: 0}", "signer.replicas: 0 is less"),
        ("signer: {args: [debug]}", "signer.args.0: 'debug' does not match"),
        ("controller: {replicas: '2'}", "controller.replicas: '2' is not of type"),
        ("image: {digest: latest}", "image.digest: 'latest' does not match"),
        ("anchors: {pins: [{file: root.pem}]}", "anchors.pins.0: 'sha256' is a required"),
        ("anchors: {pins: [{file: a/b.pem, sha256: '00'}]}", "anchors.pins.0.file: 'a/b.pem' does not match"),
        ("authority: {kind: valut}", "authority.kind: 'valut' is not one of"),
        ("authority: {kind: vault}", "authority.settings: 'address' is a required"),
        ("authority: {kind: aws-kms, settings: {region: x}}", "authority.settings: 'key_id' is a required"),
        ("authority: {settings: {address: x}}", "authority.settings: Additional properties"),
        ("authority: {mounts: [{name: a, path: /a}]}", "authority.mounts.0: "),
        ("authority: {token: {expirationSeconds: 60}}", "expirationSeconds: 60 is less"),
        ("clusters: [{name: east}]", "clusters.0: 'cluster_id' is a required"),
        ("clusters: [{name: east, cluster_id: east, polcy: {}}]", "clusters.0: Additional properties"),
        ("configuration: {mode: always}", "configuration.mode: 'always' is not one of"),
        ("configuration: {settings: {trust_domain: a}}", "configuration.settings: Additional properties"),
        ("configuration: {settings: {controller: {rotation: {waves: many}}}}", "rotation.waves: 'many'"),
        ("service: {type: ExternalName}", "service.type: 'ExternalName' is not one of"),
        ("status: {tokens: [{name: ann}]}", "status.tokens.0: 'sha256' is a required"),
        ("status: {oidc: {issuer: https://login.example.org}}", "status.oidc: "),
        ("state: {kind: etcd}", "state.kind: 'etcd' is not one of"),
        ("openshift: 'yes'", "openshift: 'yes' is not one of"),
        ("nothing: {}", ": Additional properties"),
    ],
)
def test_the_schema_refuses_mistakes(over: str, mistake: str) -> None:
    found = mistakes(merged(DEFAULTS, yaml.safe_load(over)))

    assert any(mistake in each for each in found), found


def test_a_text_of_one_s_own_needs_no_settings() -> None:
    over = {"authority": {"kind": "vault"}, "configuration": {"text": "trust_domain = 'a'"}}

    assert mistakes(merged(DEFAULTS, over)) == []
    assert (
        mistakes(merged(DEFAULTS, {"authority": {"kind": "vault"}, "configuration": {"mode": "external"}}))
        == []
    )


def test_every_kind_of_authority_can_be_chosen_and_has_an_example() -> None:
    kinds = {
        field.default
        for each in get_args(AuthorityConfig)
        for field in dataclasses.fields(each)
        if field.name == "kind"
    }

    assert set(SCHEMA["properties"]["authority"]["properties"]["kind"]["enum"]) == kinds
    assert kinds <= {path.stem.removesuffix("-values") for path in CHOICES}
    assert len(kinds) == 8


def test_what_one_role_can_be_given_the_other_can() -> None:
    assert set(DEFAULTS["signer"]) == set(DEFAULTS["controller"])
