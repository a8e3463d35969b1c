"""How a verb finds its hub: options, environment, contexts, and through an API server where nothing is exposed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from federation.cli import context, rotate, status
from federation.cli.context_file import Contexts, HubContext
from federation.cli.demo import running_demo
from federation.cli.hub_access import hub_context
from federation.cli.main import main
from federation.cli.registration import opened_hub
from federation.cli.registration_add import remember
from federation.core.config.types import Address
from federation.status.app import create_app
from federation.status.server import serve
from federation_sandbox.cluster import SandboxCluster
from tests.cli.asking import StandingClock, run_verb
from tests.cli.verbs import verbs
from tests.status.test_server import write_pair
from tests.status.worlds import CountingStore, FixedConfig, World
from tests.support.seals import READ_TOKEN, token_file

NAMESPACE = "federation-system"
SERVICE_PORTS = [
    {"name": "metrics", "port": 9090, "targetPort": "nothing"},
    {"name": "https-status", "port": 8443, "targetPort": "status"},
]
HOST = f"federation-status.{NAMESPACE}.svc"
URL = f"https://{HOST}:8443"


@pytest.fixture(autouse=True)
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the contexts of a test are."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "federation" / "contexts.toml"


def test_every_verb_that_asks_the_api_takes_the_same_options() -> None:
    asking = {
        path: {option for action in parser._actions for option in action.option_strings}
        for path, parser in verbs().items()
    }
    asking = {path: options for path, options in asking.items() if "--token-file" in options}
    del asking["context add"]
    assert len(asking) >= 20
    for path, options in asking.items():
        assert {"--url", "--hub", "--ca-file", "--server-name"} <= options, path


@dataclass
class InCluster:
    """A hub whose status only pods of its cluster can reach."""

    cluster: SandboxCluster
    directory: Path
    kubeconfig: Path

    def add(self, *more: str, url: str = URL) -> int:
        return main(
            [
                *("context", "add", "hub", "--url", url, "--kubeconfig", str(self.kubeconfig)),
                *(
                    "--ca-file",
                    str(self.directory / "tls.crt"),
                    "--token-file",
                    str(self.directory / "token"),
                ),
                *more,
            ]
        )


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[InCluster]:
    world = World(["east", "west"], time.time())
    world.edit_leader(hub="ab" * 16)
    token_file(tmp_path / "token")
    world.config = replace(
        world.config, status=replace(world.config.status, read_token_file=tmp_path / "token")
    )
    clock = StandingClock()
    store = CountingStore(tmp_path / "state", clock)
    await store.put(world.document_set())
    app = create_app(store=store, config=FixedConfig(world.config), clock=clock)
    certificate, key = write_pair(tmp_path, HOST)
    listen = Address("127.0.0.1", 0)
    async with (
        SandboxCluster("hub") as cluster,
        serve(app, listen=listen, clock=clock, certificate_file=certificate, key_file=key) as address,
    ):
        cluster.create_namespace(NAMESPACE)
        spec = {"selector": {"app": "hub"}, "ports": SERVICE_PORTS}
        cluster.create(
            "services", {"metadata": {"name": "federation-status"}, "spec": spec}, namespace=NAMESPACE
        )
        container = {"name": "hub", "ports": [{"name": "status", "containerPort": 8080}]}
        for name, ready in (("controller-a", "False"), ("controller-b", "True")):
            pod = {
                "metadata": {"name": name, "labels": {"app": "hub"}},
                "spec": {"serviceAccountName": "default", "containers": [container]},
            }
            cluster.create("pods", pod, namespace=NAMESPACE)
            condition = {"status": {"conditions": [{"type": "Ready", "status": ready}]}}
            cluster.patch("pods", NAMESPACE, name, condition, subresource="status")
        cluster.pod_ports[NAMESPACE, "controller-b", 8080] = address.port
        kubeconfig = cluster.write_kubeconfig(tmp_path / "kubeconfig")
        yield InCluster(cluster, tmp_path, kubeconfig)


async def asked(*arguments: str) -> int:
    return await asyncio.to_thread(run_verb, status, "status", *arguments)


async def test_a_hub_that_is_not_exposed_is_reached_through_the_api_server(
    hub: InCluster, capsys: pytest.CaptureFixture[str], contexts: Path
) -> None:
    assert hub.add() == 0
    assert (contexts.stat().st_mode & 0o777, READ_TOKEN in contexts.read_text()) == (0o600, False)
    assert await asked() == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("HEALTHY")
    assert hub.cluster.requests.count(verb="get", resource="pods/portforward", status=101) == 1

    assert await asked("--server-name", "another.example") == 2
    assert "certificate verify failed" in capsys.readouterr().err
    wrong = token_file(hub.directory / "wrong", "0" * 8 + READ_TOKEN[8:])
    assert await asked("--token-file", str(wrong)) == 2
    assert "the hub answered 401" in capsys.readouterr().err, "the token is the hub's, and goes all the way"


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("port", "Service federation-system/federation-status has no port 1 of pods"),
        ("service", "404"),
        ("ready", "no pod behind Service federation-system/federation-status is ready"),
        ("closed", "connection refused"),
        ("rights", "`create` and `get` on pods/portforward"),
    ],
)
async def test_what_stands_in_the_way_is_said(
    hub: InCluster, case: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = {"port": f"https://{HOST}:1", "service": f"https://other.{NAMESPACE}.svc:8443"}.get(case, URL)
    if case == "ready":
        hub.cluster.delete("pods", NAMESPACE, "controller-b")
    if case == "closed":
        hub.cluster.pod_ports.clear()
    if case == "rights":
        hub.cluster.create_service_account(NAMESPACE, "reader")
        rule = {"apiGroups": [""], "resources": ["services", "pods"], "verbs": ["get", "list"]}
        hub.cluster.create("roles", {"metadata": {"name": "reader"}, "rules": [rule]}, namespace=NAMESPACE)
        binding = {
            "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": NAMESPACE}],
        }
        hub.cluster.create("rolebindings", binding, namespace=NAMESPACE)
        found = hub.cluster.service_account_kubeconfig(NAMESPACE, "reader")
        hub.kubeconfig.write_text(json.dumps(found))
    assert hub.add(url=url) == 0
    assert await asked() == 2
    error = capsys.readouterr().err
    assert says in error
    assert READ_TOKEN not in error


async def test_an_operation_goes_the_same_way(hub: InCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert hub.add() == 0
    arguments = ("rotate", "release", "east")
    assert await asyncio.to_thread(run_verb, rotate, *arguments) == 2
    assert "the hub answered 40" in capsys.readouterr().err, "this one takes none"


async def test_who_may_not_even_look_for_it_is_shown_the_rights(
    hub: InCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.kubeconfig.write_text(json.dumps(hub.cluster.kubeconfig("stranger")))
    assert hub.add() == 0
    assert await asked() == 2
    error = capsys.readouterr().err
    assert "cannot get resource" in error
    assert "`get` on services" in error


async def test_registration_reaches_a_hub_in_a_cluster_by_that_clusters_kubeconfig(hub: InCluster) -> None:
    """Without --url, whatever listens on this machine: the hub is the one that the ConfigMap there configures."""
    text = (
        'trust_domain = "mesh.example.org"\n[[trust.anchors]]\nfile = "/root.pem"\n'
        f'sha256 = "{"ab" * 32}"\n[listener]\nlisten = "127.0.0.1:15443"\nserver_names = ["hub.example.org"]\n'
        '[signer.authority]\nkind = "local"\nname = "x"\ncertificate_file = "/c"\nkey_file = "/k"\n'
        '[state]\ndirectory = "/state"\n[status]\nlisten = "0.0.0.0:8080"\nread_token_file = "/token"\n'
        'certificate_file = "/tls.crt"\nkey_file = "/tls.key"\n'
    ) + "".join(
        f'[[clusters]]\nname = "{name}"\ncluster_id = "{name}"\n'
        f'[clusters.signer]\nkubeconfig = "/{name}-s"\n[clusters.controller]\nkubeconfig = "/{name}-c"\n'
        for name in ("east", "west")
    )
    hub.cluster.patch("services", NAMESPACE, "federation-status", {"spec": {"ports": SERVICE_PORTS[1:]}})
    hub.cluster.create(
        "configmaps",
        {"metadata": {"name": "federation-config"}, "data": {"clusters.toml": text}},
        namespace=NAMESPACE,
    )
    args = verbs()["clusters add"].parse_args(
        [
            *("south", "--hub-kubeconfig", str(hub.kubeconfig), "--token-file", str(hub.directory / "token")),
            *("--ca-file", str(hub.directory / "tls.crt")),
        ]
    )
    async with opened_hub(args) as found:
        assert found.context.url == URL
        said: list[str] = []
        remember(found, said.append)
        remember(found, said.append)
    assert len(said) == 1
    assert "the context mesh.example.org is in" in said[0]
    assert await asked() == 0


async def test_the_demo_is_a_context_while_it_is_up(contexts: Path) -> None:
    assert main(["context", "add", "own", "--url", A]) == 0
    with running_demo(B):
        assert Contexts.load().by_name["demo"] == HubContext(url=B)
    assert (list(Contexts.load().by_name), Contexts.load().current) == (["own"], "own")


A, B, C = "http://127.0.0.1:1001", "http://127.0.0.1:1002", "http://127.0.0.1:1003"


@pytest.mark.parametrize(
    ("arguments", "environment", "url", "token"),
    [
        ([], {}, A, "a"),
        (["--hub", "b"], {}, B, "b"),
        ([], {"FEDERATION_CONTEXT": "b"}, B, "b"),
        ([], {"FEDERATION_CONTEXT": "b", "FEDERATION_TOKEN_FILE": "/env"}, B, "b"),
        ([], {"FEDERATION_CONTEXT": "b", "FEDERATION_URL": C, "FEDERATION_TOKEN_FILE": "/env"}, C, "/env"),
        (["--hub", "b"], {"FEDERATION_URL": C, "FEDERATION_TOKEN_FILE": "/env"}, B, "b"),
        (["--url", C], {"FEDERATION_CONTEXT": "b"}, C, ""),
        (["--url", f"{C}/"], {"FEDERATION_TOKEN_FILE": "/env"}, C, "/env"),
        (["--hub", "b", "--token-file", "/own"], {}, B, "/own"),
    ],
)
def test_a_token_goes_to_the_hub_that_it_was_named_with(
    arguments: list[str], environment: dict[str, str], url: str, token: str, tmp_path: Path
) -> None:
    files = {name: str(token_file(tmp_path / name)) for name in ("a", "b")}
    found = Contexts.load()
    found.put("a", HubContext(url=A, token_file=files["a"]))
    found.put("b", HubContext(url=B, token_file=files["b"]))
    found.save()
    args = verbs()["status"].parse_args(arguments)
    environment |= {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    chosen = hub_context(args, environment)
    assert (chosen.url, chosen.token_file) == (url, files.get(token, token))


def test_without_anything_it_is_the_hub_on_this_machine(tmp_path: Path) -> None:
    args = verbs()["status"].parse_args([])
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "FEDERATION_SERVER_NAME": "x"}
    assert hub_context(args, environment) == HubContext(url="http://127.0.0.1:8080", server_name="x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('current = "a"\n', "no context is named a. add it with `federation context add`"),
        ("[contexts.a]\nurll = 1\n", "cannot be used: Object contains unknown field `urll`"),
        ('[contexts.a]\nurl = "ftp://x"\n', "contexts.a.url: is no http or https URL"),
        ('[contexts.a]\nurl = "http://u:p@x"\n', "contexts.a.url: holds more than an address"),
        ('[contexts.a]\nurl = "http://x"\ntoken_file = "t"\n', "token_file: is not an absolute path"),
        ('[contexts.a]\nurl = "http://x"\nkube_context = "t"\n', "names no Service"),
        ('[contexts." "]\nurl = "http://x"\n', "is not a name"),
    ],
)
def test_a_file_of_contexts_that_cannot_be_used_is_exit_code_2(
    text: str, says: str, contexts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contexts.parent.mkdir(parents=True)
    contexts.touch(mode=0o600)
    contexts.write_text(text)
    assert main(["status"]) == 2
    error = capsys.readouterr().err
    assert f"{contexts}: " in error
    assert says in error


def test_what_others_can_read_or_write_is_refused(
    tmp_path: Path, contexts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = token_file(tmp_path / "token")
    assert main(["context", "add", "a", "--url", A, "--token-file", str(token)]) == 0
    token.chmod(0o640)
    assert main(["status"]) == 2
    assert f"chmod 600 {token}" in capsys.readouterr().err
    assert main(["context", "add", "b", "--url", B, "--token-file", str(token)]) == 2
    token.chmod(0o600)
    contexts.chmod(0o620)
    assert main(["status"]) == 2
    assert "would choose where tokens are sent" in capsys.readouterr().err


def test_contexts_are_added_listed_shown_used_and_removed(
    contexts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        code = main(["context", *arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    assert run("list") == (0, f"no context is in {contexts}\n")
    assert run("show")[0] == 2
    assert run("add", "a", "--url", f"{A}/")[0] == 0
    assert run("add", "b", "--url", B, "--server-name", "hub.example")[0] == 0
    code, said = run("add", "b", "--url", C)
    assert (code, "add --replace" in said) == (2, True)
    assert run("add", "b", "--url", C, "--server-name", 'q"u\\o', "--replace", "--use")[0] == 0
    assert json.loads(run("list", "--json")[1])["contexts"] == [
        {"name": "a", "current": False, "url": A},
        {"name": "b", "current": True, "url": C, "server_name": 'q"u\\o'},
    ]
    assert json.loads(run("show", "--json")[1])["url"] == C
    assert run("use", "a") == (0, f"commands ask a from now on: {A}\n")
    assert "url      " + A in run("show")[1]
    assert "none is the current one now" in run("remove", "a")[1]
    code, said = run("use", "bb")
    assert (code, "did you mean b?" in said) == (2, True)
    assert list(Contexts.load().by_name) == ["b"]
    assert context.COLUMNS[1] == "name"
