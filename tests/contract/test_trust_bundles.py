"""ClusterTrustBundles: what is validated, who may ``attest``, one object in each version of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography import x509

from federation.core.identity import TrustDomain
from federation.core.pki.keys import KeyKind
from federation.core.trust.bundle import Anchor, TrustBundle
from tests.contract.client import Api, eventually, unique
from tests.contract.test_access import allowed, grant, rule
from tests.contract.test_apply import owners
from tests.support import pki

GROUP = "/apis/certificates.k8s.io"
BUNDLES = f"{GROUP}/v1beta1/clustertrustbundles"
SIGNER = "contract.example.org/anchors"
PREFIX = "contract.example.org:anchors:"

ONE, TWO = pki.root("contract one"), pki.root("contract two")
LEAF = pki.certificate(ONE, [(x509.BasicConstraints(ca=False, path_length=None), True)])
PEM = ONE.pem.decode()


def bundle(name: str, pem: str = PEM, *, signer: str = SIGNER, version: str = "v1beta1") -> dict[str, Any]:
    return {
        "apiVersion": f"certificates.k8s.io/{version}",
        "kind": "ClusterTrustBundle",
        "metadata": {"name": name},
        "spec": {"signerName": signer, "trustBundle": pem} if signer else {"trustBundle": pem},
    }


@pytest.fixture
async def name(api: Api) -> AsyncIterator[str]:
    """The name of an object that the test may make."""
    found = PREFIX + unique("bundle")
    yield found
    await api.delete(f"{BUNDLES}/{found}")


@pytest.fixture
async def workload(api: Api, config: dict[str, Any], namespace: str) -> AsyncIterator[Api]:
    """The same server as the service account ``app`` sees it."""
    async with Api.open(config, token=await api.token(namespace, "app")) as opened:
        yield opened


async def test_each_version_is_in_discovery_stable_ones_first(api: Api) -> None:
    versions = [entry["version"] for entry in (await api.get(GROUP)).json["versions"]]
    assert versions == sorted(versions, key=lambda v: ("alpha" in v, "beta" in v))
    for version in ("v1beta1", "v1alpha1"):
        listed = (await api.get(f"{GROUP}/{version}")).json
        assert listed["groupVersion"] == f"certificates.k8s.io/{version}"
        (entry,) = (r for r in listed["resources"] if r["name"] == "clustertrustbundles")
        assert set(entry["verbs"]) >= {"create", "get", "list", "patch", "watch"}


async def test_a_version_that_is_not_served_is_not_found(api: Api) -> None:
    for path in (f"{GROUP}/v2", f"{GROUP}/v2/clustertrustbundles"):
        assert (await api.get(path)).status == 404
    stable = {r["name"] for r in (await api.get(f"{GROUP}/v1")).json["resources"]}
    assert "certificatesigningrequests" in stable
    if "clustertrustbundles" not in stable:
        refused = await api.get(f"{GROUP}/v1/clustertrustbundles")
        assert (refused.status, refused.reason) == (404, "NotFound")


async def test_they_are_cluster_scoped_and_selected_by_name_and_signer(api: Api, name: str) -> None:
    assert (await api.apply(f"{BUNDLES}/{name}", bundle(name))).status == 201
    for selector in (f"metadata.name={name}", f"spec.signerName={SIGNER}"):
        listed = (await api.get(BUNDLES, fieldSelector=selector)).json
        assert listed["kind"] == "ClusterTrustBundleList"
        assert name in [item["metadata"]["name"] for item in listed["items"]]
        assert {item["spec"]["signerName"] for item in listed["items"]} == {SIGNER}


async def test_an_object_is_the_same_in_each_version(api: Api, name: str) -> None:
    alpha = BUNDLES.replace("v1beta1", "v1alpha1")
    made = (await api.apply(f"{BUNDLES}/{name}", bundle(name))).json
    async with api.watch(
        alpha, fieldSelector=f"metadata.name={name}", resourceVersion=made["metadata"]["resourceVersion"]
    ) as watcher:
        changed = await api.apply(f"{BUNDLES}/{name}", bundle(name, TWO.pem.decode()))
        assert changed.status == 200
        seen = await watcher.until("MODIFIED", name)
    assert seen["apiVersion"] == "certificates.k8s.io/v1alpha1"
    found = (await api.get(f"{alpha}/{name}")).json
    assert found["apiVersion"] == "certificates.k8s.io/v1alpha1"
    assert (found["metadata"]["uid"], found["spec"]) == (made["metadata"]["uid"], changed.json["spec"])
    assert "generation" not in found["metadata"]


async def test_who_applies_owns_the_fields_whatever_the_version(api: Api, name: str) -> None:
    alpha = BUNDLES.replace("v1beta1", "v1alpha1")
    first = await api.apply(f"{BUNDLES}/{name}", bundle(name))
    same = await api.apply(f"{BUNDLES}/{name}", bundle(name))
    assert same.json == first.json, "no write where nothing changes"
    other = await api.apply(f"{alpha}/{name}", bundle(name, version="v1alpha1"))
    assert other.status == 200
    assert [entry["apiVersion"] for entry in other.meta["managedFields"]] == ["certificates.k8s.io/v1alpha1"]
    assert owners(other.json) == {
        ("hub", "Apply"): {"f:spec": {"f:signerName": {}, "f:trustBundle": {}}},
    }


async def test_another_writer_takes_the_contents_and_force_takes_them_back(api: Api, name: str) -> None:
    made = (await api.apply(f"{BUNDLES}/{name}", bundle(name))).json
    made["spec"]["trustBundle"] = TWO.pem.decode()
    edited = await api.put(f"{BUNDLES}/{name}", made, fieldManager="pilot-discovery")
    assert owners(edited.json) == {
        ("hub", "Apply"): {"f:spec": {"f:signerName": {}}},
        ("pilot-discovery", "Update"): {"f:spec": {"f:trustBundle": {}}},
    }
    refused = await api.apply(f"{BUNDLES}/{name}", bundle(name))
    assert (refused.status, refused.reason) == (409, "Conflict")
    restored = await api.apply(f"{BUNDLES}/{name}", bundle(name), force="true")
    assert owners(restored.json) == {("hub", "Apply"): {"f:spec": {"f:signerName": {}, "f:trustBundle": {}}}}


async def test_a_replacement_names_the_version_it_replaces(api: Api, name: str) -> None:
    await api.make(BUNDLES, bundle(name))
    refused = await api.put(f"{BUNDLES}/{name}", bundle(name, TWO.pem.decode()))
    assert (refused.status, refused.reason) == (422, "Invalid")
    assert refused.json["details"]["causes"][0]["field"] == "metadata.resourceVersion"
    assert (await api.put(f"{BUNDLES}/{PREFIX}none", bundle(f"{PREFIX}none"))).status == 404


BODY = PEM.split("-----\n", 1)[1]
CONTENTS = {
    "a comment around it": (f"# istio\n{PEM}\nthe end", ""),
    "two": (PEM + TWO.pem.decode(), ""),
    "white space": (f"\n\n{PEM}\n\n", ""),
    "twice the same": (PEM + PEM, "duplicate trust anchor (indices [0 1])"),
    "nothing": ("", "at least one trust anchor must be provided"),
    "no PEM": ("not a certificate", "at least one trust anchor must be provided"),
    "headers": (f"-----BEGIN CERTIFICATE-----\nComment: x\n\n{BODY}", "entry 0 has PEM block headers"),
    "a key": (
        PEM + "-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n",
        "entry 1 has bad block type: EC PRIVATE KEY",
    ),
    "no certificate": (
        "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
        "entry 0 does not parse as X.509",
    ),
    "a leaf": (LEAF.pem.decode(), "entry 0 does not have the CA bit set"),
}


@pytest.mark.parametrize("case", CONTENTS)
async def test_only_ca_certificates_each_once_are_taken(api: Api, name: str, case: str) -> None:
    text, problem = CONTENTS[case]
    answer = await api.apply(f"{BUNDLES}/{name}", bundle(name, text))
    if not problem:
        assert answer.status == 201, answer.raw
        assert answer.json["spec"]["trustBundle"] == text
        return
    assert (answer.status, answer.reason) == (422, "Invalid")
    cause = {
        "reason": "FieldValueInvalid",
        "message": f'Invalid value: "<value omitted>": {problem}',
        "field": "spec.trustBundle",
    }
    assert answer.json["details"]["causes"] == [cause]


async def test_more_than_a_mebibyte_is_too_long(api: Api, name: str) -> None:
    refused = await api.post(BUNDLES, bundle(name, "x" * (1024 * 1024 + 1)))
    assert (refused.status, refused.reason) == (422, "Invalid")
    assert "Too long" in refused.json["message"]


async def test_every_bundle_that_the_hub_can_make_is_taken(api: Api, name: str) -> None:
    """Keys of each kind, an intermediate below its root, another trust domain's root, and a large bundle."""
    authorities = [ONE, TWO, *(pki.root(f"contract {kind}", kind) for kind in KeyKind)]
    authorities += [pki.root(f"contract {number}") for number in range(40)]
    anchors = [
        Anchor(
            certificate=authority.certificate,
            origin="test",
            kind="root",
            trust_domain=TrustDomain("mesh.example"),
        )
        for authority in authorities
    ]
    below = Anchor(
        certificate=pki.intermediate("contract", ONE).certificate,
        origin="test",
        kind="intermediate",
        trust_domain=TrustDomain("mesh.example"),
    )
    merged = TrustBundle.merge([*anchors, below])
    answer = await api.apply(f"{BUNDLES}/{name}", bundle(name, merged.pem.decode()))
    assert answer.status == 201, answer.raw
    assert answer.json["spec"]["trustBundle"].encode() == merged.pem


@pytest.mark.parametrize(
    ("suffix", "signer", "field"),
    [
        ("x", "contract.example.org/other", "metadata.name"),
        ("x", "", "metadata.name"),
        ("Upper", SIGNER, "metadata.name"),
        ("", SIGNER, "metadata.name"),
    ],
)
async def test_the_name_begins_with_the_signer(api: Api, suffix: str, signer: str, field: str) -> None:
    refused = await api.post(BUNDLES, bundle(PREFIX + suffix, signer=signer))
    assert (refused.status, refused.reason) == (422, "Invalid")
    assert [cause["field"] for cause in refused.json["details"]["causes"]] == [field]


@pytest.mark.parametrize("signer", ["nodomain/x", "example.org", "example.org/a/b", "Example.org/x"])
async def test_a_signer_is_a_domain_and_a_path(api: Api, signer: str) -> None:
    refused = await api.post(BUNDLES, bundle(signer.replace("/", ":") + ":x", signer=signer))
    assert (refused.status, refused.reason) == (422, "Invalid")
    assert "spec.signerName" in {cause["field"] for cause in refused.json["details"]["causes"]}


async def test_the_signer_of_an_object_stays(api: Api, name: str) -> None:
    await api.make(BUNDLES, bundle(name))
    refused = await api.patch(f"{BUNDLES}/{name}", {"spec": {"signerName": "contract.example.org/other"}})
    assert (refused.status, refused.reason) == (422, "Invalid")
    assert "field is immutable" in refused.json["message"]


async def test_service_accounts_read_them_and_write_none(api: Api, workload: Api, name: str) -> None:
    await api.make(BUNDLES, bundle(name))
    assert (await workload.get(f"{BUNDLES}/{name}")).status == 200
    assert (await workload.get(BUNDLES, fieldSelector=f"metadata.name={name}")).status == 200
    refused = await workload.apply(f"{BUNDLES}/{name}", bundle(name))
    assert (refused.status, refused.reason) == (403, "Forbidden")


async def test_a_write_needs_the_right_to_attest_for_the_signer(
    api: Api, workload: Api, namespace: str, name: str
) -> None:
    verbs = rule("create patch", "clustertrustbundles", group="certificates.k8s.io", names=name)
    await grant(api, namespace, verbs, everywhere=True)
    attributes = {"group": "certificates.k8s.io", "resource": "clustertrustbundles", "name": name}
    assert await eventually(lambda: allowed(workload, verb="patch", **attributes))
    refused = await workload.apply(f"{BUNDLES}/{name}", bundle(name))
    assert (refused.status, refused.reason) == (403, "Forbidden")
    assert refused.json["message"] == (
        f'clustertrustbundles.certificates.k8s.io "{name}" is forbidden: user not permitted to attest for '
        f'signerName "{SIGNER}"'
    )
    invalid = await workload.apply(f"{BUNDLES}/{name}", bundle(name, ""))
    assert invalid.status == 422, "what is wrong with it is said first"
    attest = rule("attest", "signers", group="certificates.k8s.io", names=SIGNER)
    await grant(api, namespace, attest, everywhere=True)

    async def made() -> bool:
        return (await workload.apply(f"{BUNDLES}/{name}", bundle(name))).status == 201

    assert await eventually(made)


async def test_what_changes_nothing_needs_no_right_to_attest(
    api: Api, workload: Api, namespace: str, name: str
) -> None:
    await api.apply(f"{BUNDLES}/{name}", bundle(name))
    verbs = rule("patch", "clustertrustbundles", group="certificates.k8s.io", names=name)
    await grant(api, namespace, verbs, everywhere=True)

    async def kept() -> bool:
        return (await workload.apply(f"{BUNDLES}/{name}", bundle(name))).status == 200

    assert await eventually(kept)
    for change in ({"metadata": {"labels": {"a": "b"}}}, {"spec": {"trustBundle": TWO.pem.decode()}}):
        assert (await workload.patch(f"{BUNDLES}/{name}", change)).status == 403


async def test_a_right_for_a_domain_covers_its_signers(
    api: Api, workload: Api, namespace: str, name: str
) -> None:
    domain = f"{SIGNER.partition('/')[0]}/*"
    rules = (
        rule("create patch", "clustertrustbundles", group="certificates.k8s.io", names=name),
        rule("attest", "signers", group="certificates.k8s.io", names=domain),
    )
    await grant(api, namespace, *rules, everywhere=True)

    async def made() -> bool:
        return (await workload.apply(f"{BUNDLES}/{name}", bundle(name))).status == 201

    assert await eventually(made)
