"""The gate for kubeconfigs: what is taken, what is refused and why, and that nothing crashes it."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.errors import ConfigurationError
from federation.kubernetes.kubeconfig import MAX_KUBECONFIG_BYTES, Entry, parse_kubeconfig

SECRET = "eyJhbGciOiJSUzI1NiJ9.very.secret"


def document() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "east",
                "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority": "ca.crt"},
            }
        ],
        "users": [{"name": "hub", "user": {"token": SECRET}}],
        "contexts": [{"name": "ctx", "context": {"cluster": "east", "user": "hub"}}],
        "current-context": "ctx",
    }


def parse(doc: Any, *, context: str | None = None, allowed_exec: tuple[str, ...] = ()) -> Entry:
    text = yaml.safe_dump(doc).encode()
    return parse_kubeconfig(text, file="kc", context=context, allowed_exec=allowed_exec)


def refusal(doc: Any, **options: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse(doc, **options)
    return caught.value


def with_cluster(**keys: Any) -> dict[str, Any]:
    doc = document()
    doc["clusters"][0]["cluster"].update({k.replace("_", "-"): v for k, v in keys.items()})
    return doc


def with_user(**keys: Any) -> dict[str, Any]:
    doc = document()
    doc["users"][0]["user"] = {k.replace("_", "-"): v for k, v in keys.items()}
    return doc


def test_the_entry_of_the_current_context() -> None:
    doc = with_cluster(tls_server_name="kubernetes", proxy_url="http://user:pass@proxy:3128")
    entry = parse(doc)
    assert entry.context == "ctx"
    assert entry.server == "https://10.0.0.1:6443"
    assert entry.authority.file == "ca.crt"
    assert entry.tls_server_name == "kubernetes"
    assert entry.proxy_url == "http://user:pass@proxy:3128"
    assert entry.token == SECRET


def test_a_named_context_wins_over_the_current_one() -> None:
    doc = document()
    doc["clusters"].append({"name": "west", "cluster": {"server": "https://west:6443/k8s/clusters/c-1/"}})
    doc["contexts"].append({"name": "other", "context": {"cluster": "west", "user": "hub"}})
    entry = parse(doc, context="other")
    assert entry.server == "https://west:6443/k8s/clusters/c-1"
    assert not entry.authority  # no certificate-authority: the system's CAs


def test_inline_data_wins_over_a_file_as_it_does_for_kubectl() -> None:
    entry = parse(with_cluster(certificate_authority_data=base64.b64encode(b"PEM").decode()))
    assert entry.authority.data == b"PEM"


def test_a_user_without_token_may_have_a_certificate() -> None:
    entry = parse(with_user(client_certificate="c.pem", client_key="k.pem"))
    assert (entry.certificate.file, entry.key.file, entry.token) == ("c.pem", "k.pem", "")


@pytest.mark.parametrize(
    ("doc", "key", "remedy"),
    [
        (
            with_cluster(insecure_skip_tls_verify=True),
            "insecure-skip-tls-verify",
            "certificate-authority-data",
        ),
        (with_cluster(server="http://10.0.0.1:8080"), "server", "https://"),
        (with_cluster(server=""), "server", "https://"),
        (with_cluster(server="https://user:pw@10.0.0.1"), "server", "https://"),
        (with_cluster(server="https://10.0.0.1/?a=b"), "server", "https://"),
        (with_cluster(server="https://10.0.0.1:99999"), "server", "https://"),
        (with_cluster(server="https://10.0.0.1/../x"), "server", "https://"),
        (with_cluster(proxy_url="socks5://127.0.0.1:1080"), "proxy-url", "http:// proxy"),
        (with_cluster(proxy_url="https://127.0.0.1:1080"), "proxy-url", "http:// proxy"),
        (with_cluster(tls_server_name="no name"), "tls-server-name", "name"),
        (with_cluster(certificate_authority_data="%%%"), "certificate-authority-data", "kubectl"),
        (with_user(auth_provider={"name": "oidc"}), "auth-provider", "tokenFile"),
        (with_user(username="admin", password="pw"), "username", "token"),
        (with_user(token=SECRET, **{"as": "system:admin"}), ".as", "credentials of its own"),
        (with_user(client_certificate="c.pem"), "client-certificate", "both"),
        (with_user(client_key_data="aGk="), "client-certificate", "both"),
        (with_user(token="two words"), "token", "again"),
        (with_user(token="line\nbreak"), "token", "again"),
        (with_user(), "users[hub]", "token"),
    ],
)
def test_what_would_weaken_the_connection_is_refused_with_its_remedy(
    doc: dict[str, Any], key: str, remedy: str
) -> None:
    error = refusal(doc)
    assert [f for f in error.findings if key in f.key and remedy in f.remedy]
    assert all(f.file == "kc" and f.problem and f.remedy for f in error.findings)


def test_every_mistake_is_reported_at_once() -> None:
    doc = with_cluster(insecure_skip_tls_verify=True, server="http://x", proxy_url="ftp://x")
    doc["users"][0]["user"] = {"auth-provider": {"name": "gcp"}, "password": "x"}
    assert len(refusal(doc).findings) >= 5


def test_a_missing_context_names_those_that_are_there() -> None:
    error = refusal(document(), context="prod")
    assert "ctx" in error.findings[0].remedy


def test_missing_parts_are_named() -> None:
    for part, kind in (
        ("clusters", "clusters[east]"),
        ("users", "users[hub]"),
        ("contexts", "contexts[ctx]"),
    ):
        doc = document()
        doc[part] = []
        assert refusal(doc).findings[0].key == kind
    doc = document()
    del doc["current-context"]
    assert refusal(doc).findings[0].key == "current-context"


def test_a_name_that_is_there_twice_is_refused() -> None:
    doc = document()
    doc["users"].append(copy.deepcopy(doc["users"][0]))
    assert "more than once" in refusal(doc).findings[0].problem


def test_what_kubectl_config_view_left_out_is_named_with_the_way_to_write_it() -> None:
    doc = with_cluster(certificate_authority_data="DATA+OMITTED")
    doc["users"][0]["user"] = {"token": "REDACTED"}
    findings = refusal(doc).findings
    assert {finding.key for finding in findings} == {
        "clusters[east].cluster.certificate-authority-data",
        "users[hub].user.token",
    }
    for finding in findings:
        assert "left out" in finding.problem
        assert "kubectl config view --raw --flatten" in finding.remedy
    doc = with_user(client_certificate_data="DATA+OMITTED", client_key_data="DATA+OMITTED")
    assert len(refusal(doc).findings) == 2


@pytest.mark.parametrize("key", ["as_uid", "as_groups", "as_user_extra"])
def test_no_part_of_an_impersonation_is_passed_over(key: str) -> None:
    value: Any = {"as_uid": "1", "as_groups": ["system:masters"], "as_user_extra": {"scopes": ["x"]}}[key]
    assert "impersonation" in refusal(with_user(token=SECRET, **{key: value})).findings[0].problem


def test_nesting_has_an_end() -> None:
    text = b"x: " + b"[" * 5000 + b"]" * 5000
    with pytest.raises(ConfigurationError, match="for safety"):
        parse_kubeconfig(text, file="kc", context=None)


PLUGIN = {"apiVersion": "client.authentication.k8s.io/v1", "command": "aws", "args": ["eks", "get-token"]}


def test_an_exec_plugin_needs_its_command_in_the_operators_own_list() -> None:
    assert "allowed_exec" in refusal(with_user(exec=PLUGIN)).findings[0].remedy
    assert (
        "allowed_exec" in refusal(with_user(exec=PLUGIN), allowed_exec=("/usr/bin/aws",)).findings[0].remedy
    )
    assert parse(with_user(exec=PLUGIN), allowed_exec=("aws",)).plugin is not None


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "PYTHONPATH", "path", "NODE_OPTIONS", "A=B"])
def test_an_allowed_plugin_may_not_be_bent_by_its_environment(name: str) -> None:
    doc = with_user(exec=PLUGIN | {"env": [{"name": name, "value": "/tmp/evil"}]})
    assert refusal(doc, allowed_exec=("aws",)).findings[0].key.endswith("exec.env")


def test_plugins_that_ask_questions_or_speak_an_old_version_are_refused() -> None:
    doc = with_user(exec=PLUGIN | {"interactiveMode": "Always"})
    assert "interactiveMode" in refusal(doc, allowed_exec=("aws",)).findings[0].key
    doc = with_user(exec=PLUGIN | {"apiVersion": "client.authentication.k8s.io/v1alpha1"})
    assert "apiVersion" in refusal(doc, allowed_exec=("aws",)).findings[0].key


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00\x01",
        b"\xff\xfe\xff",
        b"[1, 2]",
        b"just text",
        b"a: &a [1]\nb: *a",
        b"{" * 5000,
        b"- " * 5000,
        b"!!python/object/apply:os.system ['true']",
        b"clusters: 2026-01-01",
        b"clusters: 99999-99-99",
        b"clusters: !!timestamp soon",
        b"clusters: !!bool perhaps",
        b"clusters: !!int ''",
        b'clusters: "\\ud800\\udc00"',
        b"x: " + b"9" * 5000,
    ],
)
def test_text_that_is_no_kubeconfig_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigurationError):
        parse_kubeconfig(text, file="kc", context=None)


def test_a_file_too_large_is_not_even_parsed() -> None:
    with pytest.raises(ConfigurationError, match="larger"):
        parse_kubeconfig(b"#" * (MAX_KUBECONFIG_BYTES + 1), file="kc", context=None)


def test_aliases_cannot_fill_the_memory() -> None:
    bomb = "a0: &a0 [x,x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 60))
    with pytest.raises(ConfigurationError, match="where aliases are expanded"):
        parse_kubeconfig(bomb.encode(), file="kc", context=None)


def test_no_secret_shows_in_what_is_printed_or_raised() -> None:
    assert SECRET not in repr(parse(document()))
    doc = with_cluster(server="http://x")
    assert SECRET not in refusal(doc).diagnostics()
    doc = with_user(token=SECRET + " x", client_key_data=SECRET + "%")
    assert SECRET not in refusal(doc).diagnostics()
    doc = document()
    doc["users"][0]["user"] = {"token": [SECRET]}
    assert SECRET not in refusal(doc).diagnostics()


# Random structures ------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        "clusters", "users", "contexts", "current-context", "name", "cluster", "user", "context", "server", "token",
        "tokenFile", "exec", "command", "args", "env", "apiVersion", "certificate-authority", "proxy-url",
        "certificate-authority-data", "client-key-data", "client-certificate", "auth-provider", "tls-server-name",
        "insecure-skip-tls-verify", "as", "east", "ctx", "hub",
    ]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["east", "ctx", "hub", "https://h", "https://[", "http://p:1", "https://h:x", "aGk="])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def assert_entry_or_refusal(text: bytes) -> None:
    """The one property: an entry that is safe to use, or a ConfigurationError whose findings say something."""
    try:
        entry = parse_kubeconfig(text, file="kc", context=None, allowed_exec=("aws",))
    except ConfigurationError as error:
        assert error.findings
        assert all(finding.problem and finding.remedy for finding in error.findings)
    else:
        assert entry.server.startswith("https://")
        assert entry.token or entry.token_file or entry.certificate or entry.plugin
        assert bool(entry.certificate) == bool(entry.key)
        assert entry.plugin is None or entry.plugin.command == "aws"


@settings(max_examples=250)
@given(VALUES)
def test_no_structure_crashes_the_gate(value: Any) -> None:
    assert_entry_or_refusal(json.dumps(value).encode())


@settings(max_examples=250)
@given(st.data())
def test_no_single_change_of_a_good_kubeconfig_crashes_the_gate(data: st.DataObject) -> None:
    doc = with_user(token=SECRET, client_certificate="c", client_key="k", exec=copy.deepcopy(PLUGIN))
    node: Any = doc
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans()):
            node = node[key]
            continue
        node[key] = data.draw(VALUES)
        break
    assert_entry_or_refusal(json.dumps(doc).encode())


@settings(max_examples=300)
@given(
    st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_no_bytes_crash_the_gate(text: bytes) -> None:
    assert_entry_or_refusal(text)


@settings(max_examples=200)
@given(st.text(max_size=60) | st.text(max_size=30).map("https://".__add__))
def test_no_server_url_gets_past_https(server: str) -> None:
    assert_entry_or_refusal(
        json.dumps(with_cluster(server=server), ensure_ascii=False).encode("utf-8", "replace")
    )


async def test_the_client_library_reads_the_same_out_of_what_passes(tmp_path: Path) -> None:
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config.kube_config import KubeConfigLoader

    (tmp_path / "ca.crt").write_text("PEM")
    doc = with_cluster(tls_server_name="kubernetes", proxy_url="http://proxy:3128")
    entry = parse(doc)
    theirs = type.__call__(Configuration)
    await KubeConfigLoader(doc, config_base_path=str(tmp_path)).load_and_set(theirs)
    assert theirs.host == entry.server
    assert theirs.tls_server_name == entry.tls_server_name
    assert theirs.proxy == entry.proxy_url
    assert theirs.api_key["BearerToken"] == f"Bearer {entry.token}"
    assert theirs.ssl_ca_cert == str(tmp_path / entry.authority.file)
