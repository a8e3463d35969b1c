"""What kubectl reads, the hub reads: kubectl itself is the oracle.

Whatever ``kubectl config view --raw -o json`` shows of a file, the hub reads the same, or it refuses the file for one
of the reasons that :func:`refused_for_safety` names (docs/security.md, "Kubeconfigs and tokens: deliberate
differences"). What kubectl refuses, the hub refuses.

What kubectl v1.32.4 shows of the files that are written out here is kept in ``kubectl_views.json``; generated ones need
a kubectl. With ``FEDERATION_RECORD_KUBECTL=1`` the views are asked for and written anew.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from federation.core.errors import ConfigurationError
from federation.kubernetes.kubeconfig import EXEC_EXTENSION, Entry, parse_kubeconfig
from tests.support.patience import PATIENCE

KUBECTL = os.environ.get("KUBECTL") or shutil.which("kubectl")
EXAMPLES = int(os.environ.get("FEDERATION_KUBECTL_EXAMPLES", "25"))
"""Each costs a run of kubectl; docs/security.md says how many were run once."""

needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed, and KUBECTL names none")

VIEWS = Path(__file__).with_name("kubectl_views.json")
RECORD = os.environ.get("FEDERATION_RECORD_KUBECTL") == "1"

PLUGIN = "/usr/bin/plugin"
CONTEXT = "east"


def kubectl_view(text: bytes, directory: Path) -> dict[str, Any] | None:
    """What kubectl shows of the file, or None where it refuses it."""
    assert KUBECTL is not None
    file = directory / "kubeconfig"
    file.write_bytes(text)
    command = [KUBECTL, "--kubeconfig", str(file), "config", "view", "--raw", "-o", "json"]
    ended = subprocess.run(
        command, capture_output=True, timeout=PATIENCE, check=False, env={"HOME": str(directory)}
    )
    shown: dict[str, Any] | None = json.loads(ended.stdout) if ended.returncode == 0 else None
    return shown


def hub_reads(text: bytes) -> Entry | ConfigurationError:
    try:
        return parse_kubeconfig(text, file="kubeconfig", context=None, allowed_exec=(PLUGIN,))
    except ConfigurationError as error:
        assert error.findings
        assert all(finding.problem and finding.remedy for finding in error.findings)
        return error


def chosen(view: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Cluster and user of the current context."""

    def find(kind: str, part: str, name: str) -> dict[str, Any] | None:
        for entry in view[kind] or []:
            if entry["name"] == name:
                found: dict[str, Any] = entry[part]
                return found
        return None

    context = find("contexts", "context", view["current-context"]) if view["current-context"] else None
    if context is None:
        return None
    cluster = find("clusters", "cluster", context["cluster"])
    user = find("users", "user", context["user"])
    return None if cluster is None or user is None else (cluster, user)


def refused_for_safety(cluster: dict[str, Any], user: dict[str, Any]) -> list[str]:
    """The key of everything for which the hub refuses what kubectl would use."""
    host = cluster.get("server", "").removeprefix("https://")
    plugin = user.get("exec") or {}
    has = {
        "insecure-skip-tls-verify": "insecure-skip-tls-verify" in cluster,
        "server": not cluster.get("server", "").startswith("https://") or "@" in host or "?" in host,
        "proxy-url": not re.fullmatch(
            r"(http://([!-~]*@)?[A-Za-z0-9._-]+(:[0-9]+)?/?)?", cluster.get("proxy-url", "")
        ),
        "tls-server-name": not re.fullmatch(r"[A-Za-z0-9._:-]*", cluster.get("tls-server-name", "")),
        "as": any(key in user for key in ("as", "as-uid", "as-groups", "as-user-extra")),
        "username": "username" in user or "password" in user,
        "auth-provider": "auth-provider" in user,
        "client-certificate": ("client-certificate" in user or "client-certificate-data" in user)
        != ("client-key" in user or "client-key-data" in user),
        "token": not all("!" <= c <= "~" for c in user.get("token", "")) or user.get("token") == "REDACTED",
        "left out": bool(
            {"DATA+OMITTED", "REDACTED"}
            & {cluster.get("certificate-authority-data"), user.get("client-key-data")}
        ),
        "no credentials": not {"token", "tokenFile", "exec", "client-certificate", "client-certificate-data"}
        & set(user),
        "exec": bool(plugin)
        and (
            plugin.get("command") != PLUGIN
            or plugin.get("apiVersion")
            not in ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
            or plugin.get("interactiveMode", "Never") not in ("Never", "IfAvailable")
            or any(
                variable["name"] in ("", "PATH") or "=" in variable["name"]
                for variable in plugin.get("env") or ()
            )
        ),
    }
    return [key for key, is_so in has.items() if is_so]


def as_kubectl_shows_it(entry: Entry, cluster: dict[str, Any], user: dict[str, Any]) -> None:
    def material(found: Any) -> tuple[str | None, str]:
        return (base64.b64encode(found.data).decode() if found.data is not None else None, found.file)

    def shown(part: dict[str, Any], key: str) -> tuple[str | None, str]:
        data = part.get(f"{key}-data")
        return data, "" if data else part.get(key, "")

    assert entry.server == cluster["server"].rstrip("/")
    assert material(entry.authority) == shown(cluster, "certificate-authority")
    assert entry.tls_server_name == cluster.get("tls-server-name", "")
    assert entry.proxy_url == cluster.get("proxy-url", "")
    assert material(entry.certificate) == shown(user, "client-certificate")
    assert material(entry.key) == shown(user, "client-key")
    assert entry.token == user.get("token", "")
    assert entry.token_file == user.get("tokenFile", "")
    assert entry.info.server == cluster["server"]
    assert entry.info.disable_compression == cluster.get("disable-compression", False)
    extensions = {e["name"]: e["extension"] for e in cluster.get("extensions") or ()}
    assert entry.info.config == extensions.get(EXEC_EXTENSION)
    plugin = user.get("exec")
    if plugin is None or entry.token or entry.token_file:
        assert entry.plugin is None
    else:
        assert entry.plugin is not None
        assert entry.plugin.command == plugin["command"]
        assert [argument or "" for argument in entry.plugin.args] == (plugin["args"] or [])
        assert [(v.name, v.value) if v else ("", "") for v in entry.plugin.env] == [
            (v["name"], v["value"]) for v in plugin["env"] or ()
        ]
        assert entry.plugin.provide_cluster_info == plugin["provideClusterInfo"]


def assert_as_kubectl(text: bytes, view: dict[str, Any] | None) -> None:
    read = hub_reads(text)
    if view is None or (entries := chosen(view)) is None:
        assert isinstance(read, ConfigurationError), "kubectl refuses it, or chooses no cluster and user"
        return
    reasons = refused_for_safety(*entries)
    if reasons:
        assert isinstance(read, ConfigurationError), reasons
        return
    if isinstance(read, ConfigurationError):
        raise AssertionError(f"kubectl reads it: {read.findings}")
    as_kubectl_shows_it(read, *entries)


# Written out ------------------------------------------------------------------------------------------------------

HEAD = "apiVersion: v1\nkind: Config\ncurrent-context: east\n"
CONTEXTS = "contexts:\n- name: east\n  context: {cluster: c, user: u}\n"
CLUSTERS = "clusters:\n- name: c\n  cluster: {server: 'https://10.0.0.1:6443'}\n"
USERS = "users:\n- name: u\n  user: {token: TOKEN}\n"
WHOLE = HEAD + CONTEXTS + CLUSTERS + USERS


def with_token(scalar: str) -> str:
    return HEAD + CONTEXTS + CLUSTERS + f"users:\n- name: u\n  user:\n    token: {scalar}\n"


def with_authority(scalar: str) -> str:
    cluster = f"    server: https://10.0.0.1:6443\n    certificate-authority-data: {scalar}\n"
    return HEAD + CONTEXTS + f"clusters:\n- name: c\n  cluster:\n{cluster}" + USERS


def with_users(users: str) -> str:
    return HEAD + CONTEXTS + CLUSTERS + users


def with_cluster(flow: str) -> str:
    return HEAD + CONTEXTS + f"clusters:\n- name: c\n  cluster: {{server: https://h:1, {flow}}}\n" + USERS


def with_user(flow: str) -> str:
    return with_users(f"users:\n- name: u\n  user: {{{flow}}}\n")


SCALARS = [
    *("y", "N", "yes", "on", "OFF", "true", "null", "~", "", ".5", "+.5", "1e3", "1e+3", "08", "010", "0o17", "0x1f"),
    *("0x", "0b11", "-0b11", "0b12", "1_000", "_1", "-_1", "1_", "1:30", "2026-01-01", "2026-01-01T00:00:00Z"),
    *("1e999", "99999999999999999999", ".inf", "-.INF", ".nan", "+5", "<<", "=", "12.", "1.5_0", ".e3", "Infinity"),
    *("!!str 5", "! 5", "!foo 5", "!!int '5'", "!!int abc", "!!float 3", "!!bool 'yes'", "!!bool maybe", "!!null ''"),
    *("!!null x", "!!timestamp 2026-01-01", "!!binary aGk=", "!!binary '%'", "'5'", '"5"', "é", '"a\\tb"'),
    *("a#b", "a # b", "a: b", "a:b", "[a]", "{a: b}", "*x", "&a hello", "&a", "-5", "@x", "`x", "%x"),
    *('"\\ud83d\\ude00"', '"\\u00e9"'),
    *("|\n      ab\n", ">-\n      ab\n      cd\n", "ab\n      cd", "'ab\n\n      cd'", "|-\n      ab"),
    '"ab\\\n      cd"',
]  # fmt: skip

AUTHORITIES = [
    *("YWJj ZGVm", '"YWJj\\nZG\\r\\nVm\\n"', '"YWJj\\tZGVm"', "YWI", "YWJ=", "YQ==YQ==", '"YQ=\\n=\\n"', "_-8=", "''"),
    *('"\\n"', "!!binary WVdKag==", "DATA+OMITTED", "null", "|\n      YWJj\n      ZGVm\n"),
    ">\n      YWJj\n      ZGVm\n",
    *("YWJj\n      ZGVm", '"YWJj\\\n      ZGVm"', "5", "[]", "{}", "true", "%%%", "YW\u00e9j", "REDACTED"),
]  # fmt: skip

FILES: dict[str, str | bytes] = {
    "as it is": WHOLE,
    "empty": "",
    "a comment": "# nothing",
    "a list": "[1]",
    "two documents": WHOLE + "---\ncurrent-context: b\n",
    "an empty document first": "---\n---\n" + WHOLE,
    "a document marker first": "---\n" + WHOLE,
    "a bad document after it": WHOLE + "---\n: : [\n",
    "bytes after its end": WHOLE + "...\n: [ @\n",
    "YAML 1.1": "%YAML 1.1\n---\n" + WHOLE,
    "YAML 1.2": "%YAML 1.2\n---\n" + WHOLE,
    "a byte order mark": b"\xef\xbb\xbf" + WHOLE.encode(),
    "UTF-16": WHOLE.encode("utf-16"),
    "no UTF-8": WHOLE.encode() + b"x: \xff\n",
    "CR LF": WHOLE.replace("\n", "\r\n"),
    "CR": WHOLE.replace("\n", "\r"),
    "a tab after a colon": WHOLE.replace("current-context: ", "current-context:\t"),
    "a tab that indents": WHOLE.replace("  user: {", "\tuser: {"),
    "a tab before a comment": "\t# hi\n" + WHOLE,
    "a control character": WHOLE + "x: \x01\n",
    "a key twice": WHOLE + "current-context: west\n",
    "a section twice": WHOLE + "users: []\n",
    "a name twice": with_users(USERS + "- name: u\n  user: {token: other}\n"),
    "other case": WHOLE.replace("users:", "Users:"),
    "another kind": WHOLE.replace("kind: Config", "kind: Pod"),
    "another version": WHOLE.replace("apiVersion: v1", "apiVersion: v2"),
    "a number as version": WHOLE.replace("apiVersion: v1", "apiVersion: 1"),
    "no kind": WHOLE.replace("kind: Config\n", ""),
    "a null kind": WHOLE.replace("kind: Config", "kind: null"),
    "keys that are not known": WHOLE + "x: {a: [1, .5], 1: 2, true: 3, 1.5: 4, 2026-01-01: 5}\n",
    "a null key": WHOLE + "x: {null: 1}\n",
    "a list as key": WHOLE + "x: {[a]: 1}\n",
    "NaN where nothing is read": WHOLE + "x: .nan\n",
    "an explicit key": WHOLE.replace("current-context: east", "? current-context\n: east"),
    "no context chosen": WHOLE.replace("current-context: east", "current-context: # nothing"),
    "a context that is not there": WHOLE.replace("current-context: east", "current-context: west"),
    "no user": with_users("users: []\n"),
    "nulls in lists": WHOLE.replace("users:\n", "users:\n- null\n").replace("clusters:\n", "clusters:\n- ~\n"),
    "null sections": WHOLE + "preferences: null\nextensions: null\n",
    "a number as namespace": WHOLE.replace("user: u}", "user: u, namespace: 5}"),
    "preferences": WHOLE + "preferences: {colors: 5}\n",
    "an alias": with_users("x: &a TOKEN\nusers:\n- name: u\n  user: {token: *a}\n"),
    "an alias as key": WHOLE.replace("current-context: east", "x: &k current-context\n*k : east"),
    "an alias of itself": WHOLE + "x: &a [*a]\n",
    "an anchor made anew": with_users("x: &a 5\nz: &a b\nusers:\n- name: u\n  user: {token: *a}\n"),
    "merged": with_users("x: &a {token: one}\nusers:\n- name: u\n  user: {<<: *a}\n"),
    "merged before a key": with_users("x: &a {token: one}\nusers:\n- name: u\n  user: {<<: *a, token: own}\n"),
    "merged after a key": with_users("x: &a {token: one}\nusers:\n- name: u\n  user: {token: own, <<: *a}\n"),
    "merged from a list": with_users(
        "x: &a {token: one}\nz: &b {token: two, tokenFile: f}\nusers:\n- name: u\n  user: {<<: [*a, *b]}\n"
    ),
    "merged from an alias of a list": with_users("x: &a [{token: b}]\nusers:\n- name: u\n  user: {<<: *a}\n"),
    "merged twice": with_users("users:\n- name: u\n  user: {<<: {token: a}, <<: {token: b}}\n"),
    "merged from a scalar": with_users("users:\n- name: u\n  user: {token: a, <<: null}\n"),
    "a quoted merge key": with_users("users:\n- name: u\n  user: {token: a, '<<': {token: b}}\n"),
    "JSON": json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "east", "clusters": [
        {"name": "c", "cluster": {"server": "https://h:1"}}], "users": [{"name": "u", "user": {"token": "é"}}],
        "contexts": [{"name": "east", "context": {"cluster": "c", "user": "u"}}]}),
    "JSON without spaces, with tabs": json.dumps({"current-context": "east", "clusters": [
        {"name": "c", "cluster": {"server": "https://h:1"}}], "users": [{"name": "u", "user": {"token": "x"}}],
        "contexts": [{"name": "east", "context": {"cluster": "c", "user": "u"}}]}, indent="\t"),
    "skipped verification in words": with_cluster("insecure-skip-tls-verify: yes"),
    "skipped verification as a string": with_cluster("insecure-skip-tls-verify: 'true'"),
    "verification not skipped": with_cluster("insecure-skip-tls-verify: off"),
    "a server name": with_cluster("tls-server-name: kubernetes"),
    "a number as server name": with_cluster("tls-server-name: 10"),
    "null server name": with_cluster("tls-server-name: null, proxy-url: ~, certificate-authority-data: null"),
    "a proxy": with_cluster("proxy-url: 'http://user:pw@proxy:3128'"),
    "a SOCKS proxy": with_cluster("proxy-url: 'socks5://proxy:1080'"),
    "no compression": with_cluster("disable-compression: true"),
    "file and data": with_cluster("certificate-authority: ca.crt, certificate-authority-data: YWJj"),
    "file and empty data": with_cluster("certificate-authority: ca.crt, certificate-authority-data: ''"),
    "an extension for plugins": with_cluster(
        "extensions: [{name: client.authentication.k8s.io/exec, extension: {a: '06', n: 5, f: 1.5, z: null}}]"
    ),
    "extensions of others": with_cluster("extensions: [{name: a, extension: 5}, {name: b}, {name: c, extension: {}}]"),
    "extensions that are no list": with_cluster("extensions: {a: b}"),
    "token and token file": with_user("token: a, tokenFile: t"),
    "a REDACTED token": with_user("token: REDACTED"),
    "impersonation": with_user("token: a, as: admin"),
    "impersonated groups": with_user("token: a, as-groups: [system:masters]"),
    "an empty impersonation": with_user("token: a, as: '', as-groups: [], as-uid: null, as-user-extra: {}"),
    "a password": with_user("username: a, password: b"),
    "a null user name": with_user("token: a, username: null"),
    "an auth provider": with_user("auth-provider: {name: oidc, config: {a: b}}"),
    "a number for an auth provider": with_user("token: a, auth-provider: {name: oidc, config: {a: 5}}"),
    "certificate and key": with_user("client-certificate-data: YWJj, client-key: k.pem"),
    "an empty user": with_user(""),
    "a null user": with_users("users:\n- name: u\n  user: null\n"),
    "a plugin": with_user(
        f"exec: {{apiVersion: client.authentication.k8s.io/v1, command: {PLUGIN}, args: [a, null, '5'], "
        "env: [{name: A, value: b}, {name: E}], provideClusterInfo: yes, interactiveMode: Never, installHint: x}"
    ),
    "a plugin with a number as argument": with_user(
        f"exec: {{apiVersion: client.authentication.k8s.io/v1, command: {PLUGIN}, args: [5]}}"
    ),
    "a plugin beside a token": with_user(
        f"token: a, exec: {{apiVersion: client.authentication.k8s.io/v1, command: {PLUGIN}}}"
    ),
    "a plugin of an old version": with_user(
        f"exec: {{apiVersion: client.authentication.k8s.io/v1alpha1, command: {PLUGIN}}}"
    ),
    "an empty plugin": with_user("exec: {}"),
}  # fmt: skip

CASES: list[tuple[str, str | bytes]] = [
    *FILES.items(),
    *((f"token {scalar!r}", with_token(scalar)) for scalar in SCALARS),
    *((f"authority {scalar!r}", with_authority(scalar)) for scalar in AUTHORITIES),
]


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


@pytest.mark.skipif(not RECORD, reason="records what kubectl shows: FEDERATION_RECORD_KUBECTL=1")
@needs_kubectl
def test_views_are_recorded(tmp_path: Path) -> None:
    views = {name: kubectl_view(as_bytes(text), tmp_path) for name, text in CASES}
    VIEWS.write_text(json.dumps(views, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


@pytest.fixture(scope="module")
def views() -> dict[str, dict[str, Any] | None]:
    recorded: dict[str, dict[str, Any] | None] = json.loads(VIEWS.read_text("utf-8"))
    assert set(recorded) == {name for name, _ in CASES}
    return recorded


@pytest.mark.parametrize(("name", "text"), [pytest.param(name, text, id=name) for name, text in CASES])
def test_a_file_is_read_as_kubectl_reads_it(
    name: str, text: str | bytes, views: dict[str, dict[str, Any] | None]
) -> None:
    assert_as_kubectl(as_bytes(text), views[name])


# Generated --------------------------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\\/", "/")


def wrapped(text: str, indent: str) -> str:
    encoded = base64.b64encode(text.encode()).decode()
    lines = [encoded[at : at + 16] for at in range(0, len(encoded), 16)]
    return "|" + "".join(f"\n{indent}  {line}" for line in lines or [""])


WORDS = st.sampled_from(
    ["a", "b-1", "kubernetes", "x.y", "10.0.0.1", "1e3", "y", "null", "07", "2026-01-01", "é", "a b"]
)
PLAIN = WORDS | st.sampled_from([scalar for scalar in SCALARS if "\n" not in scalar])
STRINGS = WORDS.map(quoted) | WORDS.map(lambda text: f"'{text}'") | st.text("abc~ :#", max_size=6).map(quoted)
WRONG = st.sampled_from(["5", "true", "[]", "{}", "null", "~", "", "[a]", "{a: b}", "1.5", ".inf"])


def mostly(*usual: str) -> st.SearchStrategy[str]:
    """The usual values, and sometimes one that is odd or wrong."""
    return st.one_of(*[st.sampled_from(usual)] * 12, STRINGS, PLAIN, WRONG)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


CLUSTER_KEYS = {
    "certificate-authority": mostly("ca.crt", "/etc/ca.crt", "'a b.crt'"),
    "certificate-authority-data": mostly(
        encoded("PEM"), quoted(encoded("x" * 40)), "DATA+OMITTED", wrapped("x" * 50, "    "), "[80, 69]"
    ),
    "insecure-skip-tls-verify": mostly("false", "off", "No", "false", "null", "true"),
    "tls-server-name": mostly("kubernetes", "null", "kubernetes.default.svc"),
    "proxy-url": mostly("http://proxy:3128", "null", "''", "'http://u:p@proxy:1'", "socks5://proxy:1"),
    "disable-compression": mostly("true", "yes", "null"),
    "extensions": mostly("[]", "[{name: client.authentication.k8s.io/exec, extension: {audience: '06'}}]", "[null]"),
    "unknown": PLAIN,
}  # fmt: skip
USER_KEYS = {
    "client-certificate": mostly("c.pem", "null"),
    "client-certificate-data": mostly(encoded("CERT"), "null"),
    "client-key": mostly("k.pem", "null"),
    "client-key-data": mostly(encoded("KEY"), wrapped("KEY" * 20, "    ")),
    "token": mostly("abc.def", "eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "'5'", "a-b_c~d+e/f="),
    "tokenFile": mostly("token", "/var/run/token", "null"),
    "username": mostly("null", "''", "''"),
    "as": mostly("null", "''", "''"),
    "as-groups": mostly("[]", "null", "null"),
    "exec": mostly(
        "null",
        f"{{apiVersion: client.authentication.k8s.io/v1, command: {PLUGIN}, interactiveMode: Never}}",
        f"{{apiVersion: client.authentication.k8s.io/v1beta1, command: {PLUGIN}, args: [a], provideClusterInfo: on}}",
    ),
    "unknown": PLAIN,
}  # fmt: skip


KINDS_OF_UNIQUE: list[Callable[[str], Hashable]] = [str, id]


@st.composite
def mapping(draw: st.DrawFn, first: str, keys: dict[str, st.SearchStrategy[str]]) -> str:
    """A block mapping four deep, in any order, now and then with a comment, a merged mapping or a key twice."""
    names = draw(
        st.lists(st.sampled_from(sorted(keys)), max_size=4, unique_by=draw(st.sampled_from(KINDS_OF_UNIQUE)))
    )
    lines = [first, *(f"{name}: {draw(keys[name])}".rstrip() for name in names)]
    if draw(st.integers(0, 9)) == 0:
        lines.append("<<: *shared")
    lines = draw(st.permutations(lines))
    comment = draw(st.sampled_from(["", "", "    # a comment\n"]))
    return comment + "".join(f"    {line}\n" for line in lines)


@st.composite
def kubeconfigs(draw: st.DrawFn) -> bytes:
    cluster = draw(mapping("server: https://10.0.0.1:6443", CLUSTER_KEYS))
    user = draw(mapping(draw(st.sampled_from(["token: abc", "token: abc", "unknown: 1"])), USER_KEYS))
    sections = [
        f"current-context: {draw(mostly('east', chr(34) + 'east' + chr(34)))}\n",
        "contexts:\n- name: east\n  context:\n    cluster: c\n    user: u\n",
        f"clusters:\n- name: c\n  cluster:\n{cluster}",
        f"users:\n- name: u\n  user:\n{user}",
        draw(
            st.sampled_from(
                ["", "kind: Config\napiVersion: v1\n", "preferences: {}\n", "preferences: null\n"]
            )
        ),
        draw(st.sampled_from(["", "", "x: [1, {a: b}]\n"])),
    ]
    text = "shared: &shared {token: merged, unknown: z}\n" + "".join(draw(st.permutations(sections)))
    before = draw(st.sampled_from(["", "", "---\n", "# first\n", "\n\n", "\ufeff"]))
    after = draw(st.sampled_from(["", "", "---\n", "...\n", "---\nx: y\n", "# last", "\n\n"]))
    text = before + text + after
    return draw(st.sampled_from([text, text, text.replace("\n", "\r\n")])).encode()


@needs_kubectl
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(text=kubeconfigs())
@example(text=(WHOLE + "---\n").encode())
def test_a_generated_file_is_read_as_kubectl_reads_it(text: bytes, tmp_path: Path) -> None:
    assert_as_kubectl(text, kubectl_view(text, tmp_path))
