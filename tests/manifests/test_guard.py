"""The guard's policies name what the hub writes and its account, and the CLI prints what they compare with."""

from __future__ import annotations

import base64
from itertools import combinations
from pathlib import Path

import pytest

from federation.clusters.trust_bundles import trust_bundle_name
from federation.core.config.clusters import IstioConfig
from federation.core.config.hub import PublicationConfig
from federation.core.errors import InvalidValue
from federation.core.identity import TrustDomain
from federation.core.istio.operator_files import MOST, MOST_IN_BUNDLES, NAME, guard_object
from federation.core.trust.bundle import Anchor, TrustBundle
from tests.manifests.guard import GUARD, PINNED, ROGUE, config_in, printed
from tests.manifests.tree import Tree
from tests.support import pki

TRUST_DOMAIN = TrustDomain("mesh.example")
CONTROLLER = "system:serviceaccount:federation-system:federation-controller"
POLICY = "ValidatingAdmissionPolicy"
BINDING = "ValidatingAdmissionPolicyBinding"


def test_each_object_of_the_hub_is_guarded_and_closed_by_default() -> None:
    tree = Tree.of(GUARD)
    named = {
        rule["resourceNames"][0]
        for p in tree.all(POLICY)
        for rule in p["spec"]["matchConstraints"]["resourceRules"]
    }
    publication = PublicationConfig()
    assert named == {
        publication.config_map,
        IstioConfig().secret,
        trust_bundle_name(publication.config_map),
    }
    for policy in tree.all(POLICY):
        assert policy["spec"]["failurePolicy"] == "Fail"
        (condition,) = policy["spec"]["matchConditions"]
        assert f"'{CONTROLLER}'" in condition["expression"]
        binding = tree.one(BINDING, policy["metadata"]["name"])["spec"]
        assert binding["policyName"] == policy["metadata"]["name"]
        assert binding["paramRef"] == {
            "name": NAME,
            "namespace": "federation-system",
            "parameterNotFoundAction": "Deny",
        }
        assert "Deny" in binding["validationActions"]


def test_the_controller_has_no_right_to_what_guards_it() -> None:
    for tree in ("member", "member/cluster-trust-bundle"):
        for role in [*Tree.of(tree).all("ClusterRole"), *Tree.of(tree).all("Role")]:
            for rule in role.get("rules", []):
                kinds = set(rule.get("resources", []))
                assert not any(
                    "admissionpolicies" in kind or "admissionpolicybindings" in kind for kind in kinds
                )
                writes = {*rule.get("verbs", [])} & {
                    "create",
                    "update",
                    "patch",
                    "delete",
                    "deletecollection",
                    "*",
                }
                if "configmaps" in kinds and writes:
                    assert NAME not in rule["resourceNames"]
                    assert rule["resourceNames"]


async def test_the_cli_prints_every_pin_and_every_bundle_of_them(tmp_path: Path) -> None:
    code, found, said = await printed(config_in(tmp_path))
    assert code == 0, said
    assert (found["metadata"]["name"], found["metadata"]["namespace"]) == (NAME, "federation-system")
    assert {*found["data"].values()} == {root.pem.decode() for root in PINNED}
    assert all(root.certificate.sha256 in said for root in PINNED)
    bundles = {base64.b64decode(text) for text in found["binaryData"].values()}
    assert bundles == {
        TrustBundle.merge(
            Anchor(certificate=r.certificate, origin="x", kind="root", trust_domain=TRUST_DOMAIN)
            for r in some
        ).pem
        for size in (1, 2)
        for some in combinations(PINNED, size)
    }
    (tmp_path / "more.pem").write_bytes(ROGUE.pem)
    code, more, _ = await printed(tmp_path / "clusters.toml", "--certificates", str(tmp_path / "more.pem"))
    assert (code, len(more["data"])) == (0, 3)


async def test_a_pin_whose_file_holds_another_certificate_makes_no_guard(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    (tmp_path / "root-0.pem").write_bytes(ROGUE.pem)
    code, found, said = await printed(config)
    assert (code, found) == (1, None)
    assert "root-0.pem" in said


def test_too_many_certificates_have_no_bundles_or_no_guard() -> None:
    many = [pki.root(f"guard {number}").certificate for number in range(MOST_IN_BUNDLES + 1)]
    assert "binaryData" not in guard_object(many, namespace="x")
    assert len(guard_object(many[:-1], namespace="x")["binaryData"]) == 2**MOST_IN_BUNDLES - 1
    for wrong in ([], many * MOST):
        if len({*wrong}) not in range(1, MOST + 1):
            with pytest.raises(InvalidValue):
                guard_object(wrong, namespace="x")
