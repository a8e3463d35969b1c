"""What a good ``clusters.toml`` becomes, and that every mistake in a bad one is found in one pass."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.config.clusters import DEFAULT_RESERVED, ClusterPolicy, ClusterTimeouts, Credentials
from federation.core.config.hub import ControllerConfig, ListenerConfig, StatusConfig
from federation.core.config.load import MAX_BYTES, parse_config
from federation.core.config.types import Address
from federation.core.errors import ConfigurationError
from federation.core.identity import ClusterId, ClusterName, ServiceAccountRef, TrustDomain
from federation.core.pki.keys import KeyKind
from tests.core.config.texts import EAST, FILE, GOOD, HUB, OTHER_PIN, PIN, WEST, good, mistakes, with_line


def test_a_small_file_gets_the_models_defaults() -> None:
    config = good(GOOD)
    assert config.trust_domain == TrustDomain("mesh.example")
    assert config.listener == ListenerConfig(server_names=("hub.example",))
    assert config.status == StatusConfig()
    assert config.controller == ControllerConfig()
    assert config.signer.processes == 0
    assert config.signer.health_listen is None
    east = config.clusters[0]
    assert (east.name, east.cluster_id) == (ClusterName("east"), ClusterId("east-id"))
    assert east.policy == ClusterPolicy()
    assert east.timeouts == ClusterTimeouts()
    assert config.warnings == ()


def test_paths_start_from_the_files_directory() -> None:
    config = good(GOOD.replace('"chain.pem"', '"/run/chain.pem"'))
    assert config.trust.anchors[0].file == Path("/etc/federation/root.pem")
    assert isinstance(config.signer.authority, LocalAuthorityConfig)
    assert config.signer.authority.certificate_file == Path("/run/chain.pem")
    assert config.clusters[0].signer.kubeconfig == Path("/etc/federation/east-signer")
    assert config.state.directory == Path("/etc/federation/state")


def test_the_digest_is_that_of_the_text() -> None:
    assert good(GOOD).digest == sha256(GOOD.encode()).hexdigest()
    assert good(GOOD + "# said twice\n").digest != good(GOOD).digest


def test_no_cluster_yet_is_not_a_mistake() -> None:
    assert good(HUB).clusters == ()


def test_every_key_of_a_cluster_is_read() -> None:
    text = (
        HUB
        + """
[[clusters]]
name = "east"
cluster_id = "Kubernetes"
network = "net-1"
namespace_selector = "mesh=on,env in (prod, stage)"
attestation = "token-review"
issuer = "https://issuer.example"
audience = "mesh-ca"
probe = "mesh/probe"
[clusters.signer]
kubeconfig = "signer"
context = "east"
allowed_exec = ["/usr/bin/aws"]
[clusters.controller]
in_cluster = true
[clusters.policy]
allow = ["shop-*/*"]
deny = ["shop-x/*"]
longest_ttl = "1h30m"
default_ttl = 60
key_kinds = ["ecdsa-p384"]
require_pod = false
[clusters.timeouts]
connect = "500ms"
request = 20
watch = "5m"
watch_silence = "2m"
backoff_first = 1
backoff_longest = "1m"
"""
    )
    (cluster,) = good(text).clusters
    assert cluster.signer == Credentials(
        kubeconfig=Path("/etc/federation/signer"), context="east", allowed_exec=("/usr/bin/aws",)
    )
    assert cluster.controller == Credentials(kubeconfig=None, in_cluster=True)
    assert cluster.network == "net-1"
    assert cluster.namespace_selector == "mesh=on,env in (prod, stage)"
    assert (cluster.attestation, cluster.issuer, cluster.audience) == (
        "token-review",
        "https://issuer.example",
        "mesh-ca",
    )
    assert cluster.probe == ServiceAccountRef("mesh", "probe")
    assert cluster.policy == ClusterPolicy(
        allow=("shop-*/*",),
        deny=("shop-x/*",),
        longest_ttl=5400.0,
        default_ttl=60.0,
        key_kinds=frozenset({KeyKind.EC_P384}),
        require_pod=False,
    )
    assert cluster.timeouts == ClusterTimeouts(
        connect=0.5, request=20.0, watch=300.0, watch_silence=120.0, backoff_first=1.0, backoff_longest=60.0
    )


def test_addresses_of_both_families() -> None:
    text = with_line('listen = "[::1]:0"', in_table="listener")
    assert good(text).listener.listen == Address("::1", 0)
    assert str(good(text).listener.listen) == "[::1]:0"


def test_pins_with_colons_and_capitals_are_the_same_pin() -> None:
    colons = ":".join(["AB"] * 32)
    assert good(GOOD.replace(PIN, colons)).trust.pins == {PIN}


def test_every_mistake_is_reported_at_once() -> None:
    text = """
trust_domain = "Not A Domain"
colour = "blue"
[[trust.anchors]]
file = "root.pem"
sha256 = "1234"
[listener]
listen = "nowhere"
server_names = ["*.example"]
deadline = "soon"
[signer]
processes = -1
[signer.authority]
name = "shared"
certificate_file = "chain.pem"
[status]
listen = "0.0.0.0:8080"
[[clusters]]
name = "East"
cluster_id = "a,b"
kubeconfig = "east"
namespace_selector = "env in prod"
[clusters.policy]
alow = ["*/*"]
longest_ttl = "1h"
default_ttl = "2h"
[[clusters]]
name = "west"
cluster_id = "west"
"""
    found = mistakes(text)
    assert set(found) == {
        "trust_domain",
        "colour",
        "trust.anchors[0].sha256",
        "listener.listen",
        "listener.server_names[0]",
        "listener.deadline",
        "signer.processes",
        "signer.authority.key_file",
        "status.read_token_file",
        "state.directory",
        "clusters[0].name",
        "clusters[0].cluster_id",
        "clusters[0].namespace_selector",
        "clusters[0].policy.alow",
        "clusters[0].policy.default_ttl",
        "clusters[1].kubeconfig",
    }
    assert "did you mean allow?" in found["clusters[0].policy.alow"]


def test_diagnostics_have_a_line_for_each_finding() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_config("", file="x.toml")
    lines = caught.value.diagnostics().splitlines()
    assert len(lines) == len(caught.value.findings) == 5
    assert all(line.startswith("x.toml: ") for line in lines)


@pytest.mark.parametrize(
    ("line", "table", "key", "says"),
    [
        ('listen = "0.0.0.0:99999"', "listener", "listener.listen", "host:port"),
        ('listen = "::1:80"', "listener", "listener.listen", "brackets"),
        ('listen = "[fe80::1%eth0]:80"', "listener", "listener.listen", "not a host"),
        ("listen = 8080", "listener", "listener.listen", "must be a string"),
        ("deadline = true", "listener", "listener.deadline", "not a boolean"),
        ("deadline = nan", "listener", "listener.deadline", "number without end"),
        ('deadline = "1e9s"', "listener", "listener.deadline", "not a duration"),
        ('deadline = "99999d"', "listener", "listener.deadline", "out of range"),
        ('min_keepalive_interval = "1m"', "listener", "listener.min_keepalive_interval", "use 1 s to 30 s"),
        ("max_concurrent = 1.5", "listener", "listener.max_concurrent", "whole number"),
        ("max_concurrent = true", "listener", "listener.max_concurrent", "whole number"),
        (
            "max_concurrent_per_cluster = 600",
            "listener",
            "listener.max_concurrent_per_cluster",
            "whole listener",
        ),
        ("processes = -1", "signer", "signer.processes", "use 0 to 256"),
        ('health_listen = "127.0.0.1:65535"', "signer", "signer.health_listen", ""),
        ('certificate_file = "c.pem"', "status", "status.key_file", "both for TLS"),
        ('key_file = "k.pem"', "status", "status.certificate_file", "both for TLS"),
        ('listen = "10.0.0.1:80"', "status", "status.read_token_file", "insecure_allow_unauthenticated"),
        ('config_map = "A"', "controller.publication", "controller.publication.config_map", "RFC 1123"),
        ('key = "a/b"', "controller.publication", "controller.publication.key", "ConfigMap key"),
        (
            'excluded_namespaces = ["a", "B"]',
            "controller.publication",
            "controller.publication.excluded_namespaces[1]",
            "not a namespace name",
        ),
        ('signer_address = "hub:0"', "controller.proof", "controller.proof.signer_address", "port 0"),
        (
            'signer_server_name = "elsewhere.example"',
            "controller.proof",
            "controller.proof.signer_server_name",
            "listener.server_names",
        ),
        ('attestation = "token-keyz"', "clusters", "clusters[0].attestation", "did you mean token-keys?"),
        ('namespace_selector = "a=b=c"', "clusters", "clusters[0].namespace_selector", "requirement"),
        ('network = "not a label"', "clusters", "clusters[0].network", "label value"),
        ('audience = ""', "clusters", "clusters[0].audience", "empty"),
        ('probe = "probe"', "clusters", "clusters[0].probe", "namespace/name"),
        ('probe = "A/b"', "clusters", "clusters[0].probe", "lower case"),
        ('kubeconfig = "x"', "clusters", "clusters[0].kubeconfig", "never used"),
        ("in_cluster = true", "clusters.signer", "clusters[0].signer.kubeconfig", "contradicts"),
        ('allowed_exec = "aws"', "clusters.signer", "clusters[0].signer.allowed_exec", "array"),
        ('kubeconfg = "x"', "clusters.controller", "clusters[0].controller.kubeconfg", "kubeconfig?"),
        ('trust_domain = "other.example"', "trust.anchors", "trust.anchors[0].trust_domain", "speak for"),
        (
            "allow_foreign_trust_domain = true",
            "trust.anchors",
            "trust.anchors[0].allow_foreign_trust_domain",
            "overrides nothing",
        ),
        ('cluster = "north"', "trust.anchors", "trust.anchors[0].cluster", "not registered"),
        ('cluster = ["west", "north"]', "trust.anchors", "trust.anchors[0].cluster", "names north"),
        ('cluster = ["west", "west"]', "trust.anchors", "trust.anchors[0].cluster[1]", "twice"),
        ("cluster = []", "trust.anchors", "trust.anchors[0].cluster", "is empty"),
    ],
)
def test_a_single_mistake_is_named_with_its_key_and_remedy(
    line: str, table: str, key: str, says: str
) -> None:
    if "health_listen" in line:
        text = with_line(f"processes = 1\n{line}", in_table="signer")
    else:
        text = with_line(line, in_table=table)
    found = mistakes(text)
    assert set(found) == {key}
    assert says in found[key]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('allow = ["payments"]', "allow[0]"),
        ('allow = ["[ab]/x"]', "allow[0]"),
        ('allow = ["*/*", "A/b"]', "allow[1]"),
        ('allow = ["a/b/c"]', "allow[0]"),
        ('deny = ["shop/*", 7]', "deny[1]"),
        ("allow = []", "allow"),
        ("key_kinds = []", "key_kinds"),
        ('key_kinds = ["rsa-1024"]', "key_kinds[0]"),
        ('key_kinds = ["rsa-2048", "rsa-2048"]', "key_kinds[1]"),
        ("longest_ttl = 0", "longest_ttl"),
        ('longest_ttl = "91d"', "longest_ttl"),
        ('default_ttl = "25h"', "default_ttl"),
        ("require_pod = 1", "require_pod"),
    ],
)
def test_mistakes_in_a_policy(line: str, key: str) -> None:
    found = mistakes(GOOD + f"[clusters.policy]\n{line}\n")
    assert f"clusters[1].policy.{key}" in found


def test_the_default_ttl_follows_a_shorter_maximum() -> None:
    config = good(GOOD + '[clusters.policy]\nlongest_ttl = "1h"\n')
    assert config.clusters[1].policy.default_ttl == 3600.0


def test_the_default_share_of_a_cluster_follows_a_smaller_listener_limit() -> None:
    config = good(with_line("max_concurrent = 10", in_table="listener"))
    assert config.listener.max_concurrent_per_cluster == 10


@pytest.mark.parametrize(
    ("connecting", "asking"), [("30", "15"), ('"16s"', "15.5")], ids=["numbers", "strings"]
)
def test_a_connection_may_not_take_longer_than_its_request(connecting: str, asking: str) -> None:
    found = mistakes(GOOD + f"[clusters.timeouts]\nconnect = {connecting}\nrequest = {asking}\n")
    assert set(found) == {"clusters[1].timeouts.connect"}


def test_the_classic_collision_is_explained() -> None:
    """Every mesh whose installer did not name its cluster says ``Kubernetes``."""
    text = GOOD.replace('"east-id"', '"Kubernetes"').replace('"west-id"', '"Kubernetes"')
    found = mistakes(text)
    assert set(found) == {"clusters[1].cluster_id"}
    assert "global.multiCluster.clusterName" in found["clusters[1].cluster_id"]
    assert "clusters[0]" in found["clusters[1].cluster_id"]


def test_names_and_credentials_must_differ_as_well() -> None:
    twin = EAST.replace('"east-id"', '"twin-id"')
    assert set(mistakes(HUB + EAST + twin)) == {
        "clusters[1].name",
        "clusters[1].signer",
        "clusters[1].controller",
    }


def test_one_kubeconfig_for_two_clusters_is_said_once() -> None:
    short = '[[clusters]]\nname = "{0}"\ncluster_id = "{0}"\nkubeconfig = "same"\n'
    assert set(mistakes(HUB + short.format("a") + short.format("b"))) == {"clusters[1].signer"}


def test_one_kubeconfig_with_two_contexts_is_two_clusters() -> None:
    text = GOOD.replace('"west-signer"', '"east-signer"\ncontext = "west"')
    assert good(text).clusters[1].signer.context == "west"


def test_the_same_pin_twice_is_a_mistake() -> None:
    again = f'[[trust.anchors]]\nfile = "again.pem"\nsha256 = "{PIN.upper()}"\n'
    assert set(mistakes(GOOD.replace("[listener]", again + "[listener]"))) == {"trust.anchors[1].sha256"}


def test_a_hub_without_a_pin_cannot_be() -> None:
    text = GOOD.replace(f'[[trust.anchors]]\nfile = "root.pem"\nsha256 = "{PIN}"\n', "")
    found = mistakes(text)
    assert set(found) == {"trust.anchors"}
    assert "never inferred" in found["trust.anchors"]


def test_a_foreign_root_is_a_decision_that_stays_visible() -> None:
    foreign = (
        f'[[trust.anchors]]\nfile = "f.pem"\nsha256 = "{OTHER_PIN}"\n'
        'trust_domain = "other.example"\nallow_foreign_trust_domain = true\ncluster = "west"\n'
    )
    config = good(GOOD.replace("[listener]", foreign + "[listener]"))
    assert config.trust.anchors[1].trust_domain == TrustDomain("other.example")
    assert config.trust.anchors[1].clusters == (ClusterName("west"),)
    (warning,) = config.warnings
    assert "other.example" in warning
    assert warning.startswith("trust.anchors[1].allow_foreign_trust_domain: ")


def test_status_beyond_loopback_needs_a_token_or_an_insistence() -> None:
    exposed = 'listen = "0.0.0.0:8080"'
    guarded = f'{exposed}\nread_token_file = "token"\ncertificate_file = "c"\nkey_file = "k"'
    assert good(with_line(guarded, in_table="status")).warnings == ()
    (plain,) = good(with_line(f'{exposed}\nread_token_file = "token"', in_table="status")).warnings
    assert "without TLS" in plain
    insisted = f"{exposed}\ninsecure_allow_unauthenticated = true"
    (loud,) = good(with_line(insisted, in_table="status")).warnings
    assert "anyone" in loud
    both = f'{insisted}\nread_token_file = "token"'
    assert set(mistakes(with_line(both, in_table="status"))) == {"status.insecure_allow_unauthenticated"}


def test_the_former_key_token_file_is_read_with_a_warning_and_grants_reading_only() -> None:
    config = good(with_line('token_file = "token"', in_table="status"))
    assert config.status.read_token_file is not None
    assert config.status.operate_token_file is None
    (warning,) = config.warnings
    assert "grants reading only" in warning
    both = 'token_file = "token"\nread_token_file = "token"'
    assert set(mistakes(with_line(both, in_table="status"))) == {"status.token_file"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "[::1]"])
def test_loopback_needs_no_token(host: str) -> None:
    assert good(with_line(f'listen = "{host}:8080"', in_table="status")).warnings == ()


def test_one_credential_for_both_roles_is_warned_about() -> None:
    text = HUB + '[[clusters]]\nname = "c"\ncluster_id = "c"\nkubeconfig = "k"\ncontext = "x"\n'
    config = good(text)
    expected = Credentials(kubeconfig=Path("/etc/federation/k"), context="x")
    assert config.clusters[0].signer == config.clusters[0].controller == expected
    (warning,) = config.warnings
    assert "who can sign cannot publish" in warning
    split = text + '[clusters.controller]\nkubeconfig = "other"\n'
    assert good(split).warnings == ()


def test_in_cluster_for_both_roles_is_no_shared_credential() -> None:
    """Each role's pod has a service account of its own."""
    config = good(HUB + '[[clusters]]\nname = "c"\ncluster_id = "c"\nin_cluster = true\n')
    assert config.clusters[0].signer.in_cluster
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = ", "is not TOML"),
        ("a = 1\na = 2", "is not TOML"),
        ("a = " + "[" * 5000, "nests"),
        ("a = " + "9" * 5000, "is not TOML"),
        ("a = '\ud800'", "UTF-8"),
        ("#" * (MAX_BYTES + 1), "larger"),
    ],
    ids=["cut", "twice", "deep", "digits", "surrogate", "large"],
)
def test_what_is_no_toml_is_one_finding(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_config(text, file=FILE)
    (finding,) = caught.value.findings
    assert says in finding.problem


@pytest.mark.parametrize("value", ["7", '"x"', "[1]", "2026-11-24", "{ }"])
def test_a_section_of_the_wrong_shape_is_named(value: str) -> None:
    found = mistakes(f"clusters = {value}\nstatus = {value}\n" + HUB)
    assert "clusters" in found
    assert ("status" in found) is (value != "{ }")


def test_what_a_file_holds_cannot_reach_the_terminal_raw() -> None:
    found = mistakes(GOOD.replace("[listener]", '[listener]\n"\\u001b[31m" = 1'))
    assert "\x1b" not in "".join(found) + "".join(found.values())
    assert len(found) == 1


def test_an_absent_authority_is_named_before_its_keys() -> None:
    text = WEST.join(GOOD.split("[signer.authority]")[0:1]) + '[state]\ndirectory = "s"\n'
    assert set(mistakes(text)) == {"signer.authority"}


def test_a_freshness_shorter_than_a_quiet_watch_is_warned_about() -> None:
    (warning,) = [
        text
        for text in good(with_line('fresh = "60s"', in_table="controller.rotation")).warnings
        if "fresh" in text
    ]
    assert "east, west" in warning
    fine = with_line('fresh = "90s"', in_table="controller.rotation")
    assert not [text for text in good(fine).warnings if "fresh" in text]


def test_the_state_namespace_leaves_room_for_the_signers_own() -> None:
    text = GOOD.replace(
        'directory = "state"', f'kind = "kubernetes"\nnamespace = "{"n" * 56}"\nin_cluster = true'
    )
    assert "at most 55" in mistakes(text)["state.namespace"]
    assert not mistakes(text.replace("n" * 56, "n" * 55))


def test_policies_that_allow_everything_are_named() -> None:
    """An identity does not say which cluster it is of, so such a member can have those of the others."""
    config = good(GOOD)
    assert config.open_policies == tuple(str(cluster.name) for cluster in config.clusters)
    assert replace(config, clusters=config.clusters[:1]).open_policies == ()
    closed = replace(config.clusters[0], policy=ClusterPolicy(allow=("shop/*",)))
    assert replace(config, clusters=(closed, *config.clusters[1:])).open_policies == config.open_policies[1:]


def test_reserved_identities_are_patterns_at_the_top() -> None:
    assert good(GOOD).reserved == DEFAULT_RESERVED
    assert good('reserved = ["payments/*"]\n' + GOOD).reserved == ("payments/*",)
    assert mistakes('reserved = ["payments"]\n' + GOOD)


def test_former_names_are_read_with_a_notice() -> None:
    today = good(with_line('member_cas = "replace"', in_table="clusters"))

    before = good(with_line('own_anchors = "replace"', in_table="clusters").replace("[listener]", "[door]"))

    assert replace(before, digest=today.digest, notices=()) == today
    assert [notice.split()[0] for notice in before.notices] == ["door", "clusters[0].own_anchors"]
    assert today.notices == ()


def test_a_key_under_both_of_its_names_is_a_mistake() -> None:
    text = with_line('member_cas = "replace"\nown_anchors = "hold"', in_table="clusters")

    assert mistakes(text) == {
        "clusters[0].own_anchors": "is the former name of clusters[0].member_cas, which is there too. keep one"
    }


def test_the_secrets_of_the_kubeconfigs_are_two_and_reached_in_one_way() -> None:
    """Who can write the other role's Secret can take its token, or give it another API server."""
    assert good(GOOD).kubeconfig_secrets is None
    text = GOOD + '[kubeconfig_secrets]\nnamespace = "federation-system"\n'
    assert "cannot connect" in mistakes(text)["kubeconfig_secrets.kubeconfig"]
    secrets = good(text + "in_cluster = true\n").kubeconfig_secrets
    assert secrets is not None
    assert (secrets.signer, secrets.credentials.in_cluster) == ("federation-signer-kubeconfigs", True)
    both = text + 'in_cluster = true\ncontroller = "federation-signer-kubeconfigs"\n'
    assert "signer's Secret" in mistakes(both)["kubeconfig_secrets.controller"]
