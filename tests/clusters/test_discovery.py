"""What objects of the sources say of clusters: never a credential, always bounded, and in whatever order they come."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.clusters.discovery import (
    MOST_CA,
    MOST_ENTRIES,
    MOST_KUBECONFIG_BYTES,
    MOST_LISTED,
    MOST_SERVER,
    MOST_SIGHTINGS,
    RegisteredCluster,
    fingerprints,
    proposals,
    same_server,
    sightings_in,
)
from federation.core.documents.discovery import Discovery, DiscoverySource, Sighting
from federation.core.documents.encoding import decode, encode
from tests.support import pki
from tests.support.found_clusters import (
    ca_pem,
    cluster_api_secret,
    cluster_profile,
    encoded,
    kubeconfig,
    remote_secret,
    secret,
    text_of,
)

SERVER = "https://east.example.org:6443"
CA = list(fingerprints(ca_pem()))
OTHER_CA = list(fingerprints(ca_pem("another API server")))
SECRET = "never-to-be-shown"


def seen(source: DiscoverySource, item: object) -> list[Sighting]:
    return sightings_in(source, json.dumps(item).encode())


def of_kubeconfig(config: object) -> Sighting:
    text = config if isinstance(config, bytes) else text_of(config)
    (found,) = seen("istio_secret", secret("s", {"east": text}))
    return found


def test_each_source_says_names_an_address_and_a_ca() -> None:
    (istio,) = seen("istio_secret", remote_secret("east", SERVER))
    assert istio == Sighting(
        source="istio_secret", namespace="istio-system", object="istio-remote-secret-east", entry="east",
        name="east", cluster_id="east", server=SERVER, ca=CA,
    )  # fmt: skip
    assert istio.place == "Secret istio-system/istio-remote-secret-east (east)"
    (labelled,) = seen("labelled_secret", cluster_api_secret("east", SERVER, namespace="fleet"))
    assert (labelled.name, labelled.server, labelled.ca, labelled.cluster_id) == ("east", SERVER, CA, "")
    named = secret("west", {"kubeconfig": text_of(kubeconfig(SERVER))})
    assert [each.name for each in seen("labelled_secret", named)] == ["west"]
    (profile,) = seen("cluster_profile", cluster_profile("east", SERVER, namespace="fleet"))
    assert (profile.name, profile.server, profile.ca) == ("east", SERVER, CA)
    assert profile.entry == "open-cluster-management"


def test_an_istio_secret_may_name_several_clusters_by_ids_that_are_no_names() -> None:
    data = {"east": text_of(kubeconfig(SERVER)), "Cluster_2": text_of(kubeconfig("https://two:6443"))}
    found = seen("istio_secret", secret("s", data))
    assert [(each.name, each.cluster_id) for each in found] == [("Cluster_2", "Cluster_2"), ("east", "east")]
    two, east = proposals(found)
    assert (two.cluster, two.cluster_id, two.state) == ("", "Cluster_2", "open")
    assert (east.cluster, east.server, east.ca) == ("east", SERVER, CA)


def test_of_two_providers_of_one_name_the_deprecated_one_does_not_count() -> None:
    item = cluster_profile("east", SERVER, namespace="fleet")
    old = {"name": "open-cluster-management", "cluster": {"server": "https://old:6443"}}
    item["status"]["credentialProviders"] = [old, {**old, "name": "another"}]
    assert [(each.entry, each.server) for each in seen("cluster_profile", item)] == [
        ("another", "https://old:6443"),
        ("open-cluster-management", SERVER),
    ]
    assert seen("cluster_profile", item)[0].ca == [], "the system's CAs"
    without: list[dict[str, Any]] = [{}, {"accessProviders": None}, {"accessProviders": []}]
    for status in without:
        (found,) = seen("cluster_profile", {**item, "status": status})
        assert "no access provider" in found.problem


def user(**fields: object) -> dict[str, Any]:
    config = kubeconfig(SERVER, token=SECRET)
    config["users"][0]["user"] |= fields
    return config


def cluster(**fields: object) -> dict[str, Any]:
    config = kubeconfig(SERVER, token=SECRET)
    config["clusters"][0]["cluster"] |= {key.replace("_", "-"): value for key, value in fields.items()}
    return config


EXEC = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "command": "/bin/sh",
    "args": ["-c", SECRET],
    "env": [{"name": "TOKEN", "value": SECRET}],
}
NO_DATA = {"certificate-authority-data": ""}
BOMB = b"a: &a [x, x]\n" + b"".join(b"b%d: &b%d [*%s, *%s]\n" % (i, i, p, p) for i, p in enumerate(
    [b"a", *(b"b%d" % i for i in range(30))]
))  # fmt: skip
REFUSED: list[tuple[object, str]] = [
    (user(exec=EXEC), "an exec plugin"),
    (user(token="", exec={**EXEC, "command": "aws-iam-authenticator"}), "an exec plugin"),
    (user(**{"auth-provider": {"name": "gcp", "config": {"access-token": SECRET}}}), "an auth provider"),
    (user(tokenFile="/var/run/secrets/kubernetes.io/serviceaccount/token"), "file (tokenFile)"),
    (user(**{"client-certificate": "/c", "client-key": "/k"}), "file (client-certificate, client-key)"),
    (user(username="admin", password=SECRET), "a user name or password"),
    (user(**{"as": "system:admin"}), "impersonation"),
    (cluster(certificate_authority_data="", certificate_authority="/ca"), "file (certificate-authority)"),
    (cluster(insecure_skip_tls_verify=True), "insecure-skip-tls-verify"),
    (cluster(server="http://east"), "a server that is no https:// URL"),
    (cluster(server=f"https://admin:{SECRET}@east"), "a server that is no https:// URL"),
    (cluster(server="https://east/" + "x" * MOST_SERVER), "more than 512 characters"),
    (cluster(proxy_url=f"socks5://u:{SECRET}@proxy"), "a proxy that is not supported"),
    (cluster(certificate_authority_data=encoded(b"no certificate")), "is no certificate"),
    (cluster(certificate_authority_data="!"), "a CA that is not base64"),
    (b"", "cannot be used as a kubeconfig"),
    (b"\x00\xff", "cannot be used as a kubeconfig"),
    (b"[" * 5000, "cannot be used as a kubeconfig"),
    (BOMB, "cannot be used as a kubeconfig"),
    (b"#" + b"x" * MOST_KUBECONFIG_BYTES, "larger than 64 KiB"),
    (b"x" * 1024 * 1024, "larger than 64 KiB"),
]


@pytest.mark.parametrize(("config", "problem"), REFUSED, ids=range(len(REFUSED)))
def test_a_kubeconfig_is_refused_for_what_istio_or_the_hub_refuses(config: object, problem: str) -> None:
    found = of_kubeconfig(config)
    assert problem in found.problem
    assert (found.server, found.ca) == ("", [])
    assert SECRET not in encode(found).decode()


def test_a_ca_of_many_certificates_is_refused() -> None:
    many = b"".join(ca_pem(f"ca {number}") for number in range(MOST_CA + 1))
    assert "more than 8 certificates" in of_kubeconfig(kubeconfig(SERVER, ca=many)).problem
    assert of_kubeconfig(kubeconfig(SERVER, ca=ca_pem() * 20)).ca == CA, "each counts once"


@pytest.mark.parametrize(
    "value",
    [{"insecure-skip-tls-verify": True, "server": SERVER}, {"server": "http://east"}, {"server": 7}, {}, None,
     {"server": SERVER, "certificate-authority": "/etc/passwd"}],
)  # fmt: skip
def test_a_profiles_provider_is_refused_for_the_same(value: object) -> None:
    item = cluster_profile("east", SERVER, namespace="fleet")
    item["status"]["accessProviders"][0]["cluster"] = value
    (found,) = seen("cluster_profile", item)
    assert found.problem
    assert not found.server


def test_what_is_no_such_object_is_an_error_and_no_crash() -> None:
    for payload in (
        b"",
        b"[]",
        b"{}",
        b'{"metadata": {"name": 7}}',
        b'{"metadata": {"name": "x"}, "data": []}',
    ):
        with pytest.raises(msgspec.MsgspecError):
            sightings_in("istio_secret", payload)
    empty = {"metadata": {"name": "x"}, "data": None}
    assert seen("istio_secret", empty) == []
    assert "none of the keys" in seen("labelled_secret", empty)[0].problem
    assert seen("istio_secret", {"metadata": {"name": "x"}, "data": {"east": None}})[0].problem


def test_a_secret_of_many_keys_is_cut() -> None:
    many = {f"c{number}": text_of(kubeconfig(SERVER)) for number in range(3 * MOST_ENTRIES)}
    assert len(seen("istio_secret", secret("s", many))) == MOST_ENTRIES


def sighting(name: str = "east", server: str = SERVER, *, ca: list[str] = CA, where: str = "a") -> Sighting:
    return Sighting(
        source="istio_secret", namespace="istio-system", object=where, entry=name, name=name,
        cluster_id=name, server=server, ca=ca,
    )  # fmt: skip


def test_sources_that_agree_say_one_thing_however_it_is_written() -> None:
    (found,) = proposals([sighting(), sighting(server="https://EAST.example.org:6443/", where="b")])
    assert found.server
    assert found.ca == CA
    assert found.disagreements == []
    assert same_server("https://east", "https://East:443/")
    assert not same_server("https://proxy/cluster1", "https://proxy/cluster2")


def test_sources_that_disagree_are_shown_and_none_is_chosen() -> None:
    (found,) = proposals([sighting(), sighting(server="https://other:6443", where="b")])
    assert (found.server, found.ca) == ("", [])
    assert "different API servers" in found.disagreements[0]
    assert SERVER in found.disagreements[0]
    assert "https://other:6443" in found.disagreements[0]
    (found,) = proposals([sighting(), sighting(ca=OTHER_CA, where="b")])
    assert (found.server, found.ca) == (SERVER, [])
    assert "different CAs" in found.disagreements[0]
    (found,) = proposals(
        [sighting(), msgspec.structs.replace(sighting(where="b"), server="", ca=[], problem="no")]
    )
    assert (found.server, found.disagreements) == (SERVER, []), "what cannot be used says nothing"


def test_one_api_server_under_two_names_is_said_of_both() -> None:
    east, west = proposals([sighting(), sighting("west")])
    assert east.disagreements == [f"{SERVER} was found as west too"]
    assert west.disagreements == [f"{SERVER} was found as east too"]


def test_a_registered_cluster_is_known_by_its_name_and_by_its_id() -> None:
    registered = [RegisteredCluster("prod", "east", SERVER, tuple(CA))]
    (found,) = proposals([sighting()], registered=registered)
    assert (found.state, found.disagreements) == ("registered", [])
    (found,) = proposals([sighting(server="https://internal:6443")], registered=registered)
    assert found.disagreements == [], "another address, the same CA"
    (found,) = proposals([sighting(server="https://evil:6443", ca=OTHER_CA)], registered=registered)
    assert "nothing shows to be the same" in found.disagreements[0]
    (found,) = proposals([sighting(ca=OTHER_CA)], registered=registered)
    assert "the hub verifies" in found.disagreements[0]
    (found,) = proposals([sighting(ca=[])], registered=registered)
    assert found.disagreements == [], "the system's CAs may hold it"
    (found,) = proposals([sighting("west")], registered=registered)
    assert (found.state, len(found.disagreements)) == ("open", 1)
    assert "the registered cluster prod" in found.disagreements[0]
    (found,) = proposals([sighting()], registered=[RegisteredCluster("east", "east")])
    assert (found.state, found.disagreements) == ("registered", []), "how it is reached is not known"


def test_the_configuration_decides_what_is_proposed() -> None:
    def states(**patterns: tuple[str, ...]) -> dict[str, str]:
        seen = [sighting("prod-1"), sighting("dev", "https://dev")]
        found = proposals(seen, registered=registered, **patterns)  # type: ignore[arg-type]
        return {each.name: each.state for each in found}

    registered: list[RegisteredCluster] = []
    assert states() == {"dev": "open", "prod-1": "open"}
    assert states(names=("prod-*",)) == {"dev": "ignored", "prod-1": "open"}
    assert states(ignore=("*-1",)) == {"dev": "open", "prod-1": "ignored"}
    registered = [RegisteredCluster("dev", "dev")]
    assert states(names=("prod-*",)) == {"dev": "registered", "prod-1": "open"}
    assert states(ignore=("*",)) == {"dev": "ignored", "prod-1": "ignored"}


def test_what_is_said_of_a_cluster_is_bounded() -> None:
    many = [sighting(server=f"https://s{number}:6443", where=f"w{number}") for number in range(400)]
    many += [sighting(f"n{number}", f"https://s{number}:6443") for number in range(400)]
    found = proposals(many)
    assert sum(len(each.sightings) for each in found) == MOST_SIGHTINGS
    assert all(len(each.disagreements) <= MOST_LISTED for each in found)
    assert all(len(text) < 8 * 1024 for each in found for text in each.disagreements)
    document = encode(Discovery(clusters=found))
    assert len(document) < 900 * 1024
    assert decode(document, Discovery, key="discovered").clusters == found


TEXT = st.text(max_size=8)
SIGHTINGS = st.lists(
    st.builds(
        Sighting,
        source=st.sampled_from(["istio_secret", "labelled_secret", "cluster_profile", "of a later version"]),
        namespace=st.sampled_from(["a", "b"]),
        object=TEXT,
        name=st.sampled_from(["east", "west", "", "Not_A.Name"]) | TEXT,
        server=st.sampled_from([SERVER, "https://other", "https://OTHER:443/", "https://[::1"]) | TEXT,
        ca=st.lists(st.sampled_from(CA + OTHER_CA), max_size=2),
        problem=st.sampled_from(["", "", "it cannot be used"]),
    ),
    max_size=6,
)
REGISTERED = st.lists(
    st.builds(
        RegisteredCluster, st.sampled_from(["east", "west"]), st.just("id"), st.sampled_from(["", SERVER])
    ),
    max_size=2,
)


@given(SIGHTINGS, REGISTERED, st.randoms(use_true_random=False))
def test_merging_does_not_depend_on_order_and_merging_again_changes_nothing(
    sightings: list[Sighting], registered: list[RegisteredCluster], shuffle: random.Random
) -> None:
    found = proposals(sightings, registered=registered)
    again = [*sightings, *sightings]
    shuffle.shuffle(again)
    assert proposals(again, registered=registered) == found
    assert proposals([s for each in found for s in each.sightings], registered=registered) == found
    assert {s.name for s in sightings} == {each.name for each in found}
    for each in found:
        servers = {s.server for s in each.usable}
        assert not each.server or each.server in servers
        assert all(same_server(each.server, server) for server in servers if each.server)
        assert all(text.strip() for text in each.disagreements)


SECRETS = st.fixed_dictionaries(
    {},
    optional={
        "token": st.just(SECRET),
        "password": st.just(SECRET),
        "username": st.just(SECRET),
        "client-key-data": st.just(encoded(SECRET.encode())),
        "client-certificate-data": st.just(encoded(SECRET.encode())),
        "tokenFile": st.just(SECRET),
        "client-key": st.just(SECRET),
        "as": st.just(SECRET),
        "exec": st.just(EXEC),
        "auth-provider": st.just({"name": SECRET, "config": {SECRET: SECRET}}),
        SECRET: st.just(SECRET),
        "extensions": st.just([{"name": SECRET, "extension": SECRET}]),
    },
)


@given(
    SECRETS,
    st.sampled_from(["", f"http://{SECRET}:{SECRET}@proxy:3128", f"socks5://{SECRET}@proxy"]),
    st.sampled_from(
        [SERVER, f"https://{SECRET}@east", f"https://east?token={SECRET}", f"https://e#{SECRET}"]
    ),
    st.sampled_from(["ctx", SECRET]),
    st.sampled_from(["ctx", SECRET]),
)
def test_no_credential_of_a_kubeconfig_gets_into_a_proposal(
    given: dict[str, object], proxy: str, server: str, context: str, named: str
) -> None:
    config = kubeconfig(server, name=context)
    config["current-context"] = named
    config["users"][0]["user"] = given
    config["clusters"][0]["cluster"] |= {"proxy-url": proxy} if proxy else {}
    found = of_kubeconfig(config)
    shown = encode(Discovery(clusters=proposals([found]))).decode()
    assert SECRET not in shown
    assert encoded(SECRET.encode()) not in shown


@given(st.binary(max_size=400), st.sampled_from(["istio_secret", "labelled_secret"]))
def test_any_bytes_in_a_secret_give_a_sighting(text: bytes, source: DiscoverySource) -> None:
    (found,) = seen(source, secret("s", {"value": text}))
    assert found.problem


def test_a_certificate_of_another_kind_is_a_ca_as_well() -> None:
    """What the API server is verified by need not be a CA certificate that the hub would pin."""
    leaf = pki.intermediate("api", pki.root("api")).pem
    assert of_kubeconfig(kubeconfig(SERVER, ca=leaf)).ca == list(fingerprints(leaf))
