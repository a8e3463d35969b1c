"""Credentials as a session uses them: every kind, kept current, and nothing of them left lying about."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import logging
import os
import shutil
import stat
import tempfile
import textwrap
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from federation import files
from federation.core.config.clusters import Credentials
from federation.core.errors import ClusterUnauthorized, ConfigurationError
from federation.kubernetes.credentials import REREAD_SECONDS, LoadedCredentials, fingerprint, load_credentials
from federation.kubernetes.exec_plugin import run_plugin
from federation.kubernetes.kubeconfig import parse_kubeconfig
from federation.kubernetes.session import ClusterSession
from federation_sandbox.cluster import SandboxCluster
from tests.support.clock import VirtualClock
from tests.support.clusters import EAST, FAST, connected, eventually
from tests.support.reads import impatient_reads

KUBECTL = os.environ.get("KUBECTL") or shutil.which("kubectl")


def write(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(json.dumps(document))
    return path


async def load(
    kubeconfig: Path, clock: VirtualClock | None = None, *, allowed_exec: tuple[str, ...] = ()
) -> LoadedCredentials:
    credentials = Credentials(kubeconfig=kubeconfig, allowed_exec=allowed_exec)
    return await load_credentials(credentials, cluster=EAST, clock=clock or VirtualClock())


async def test_an_inline_client_certificate_works_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "tmp"
    empty.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(empty))
    async with SandboxCluster("east") as cluster:
        kubeconfig = cluster.write_kubeconfig(tmp_path / "kc")
        async with connected(kubeconfig) as session:
            assert b"kube-system" in await session.get("/api/v1/namespaces")
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    "kind", ["wrapped base64", "nulls", "a comment in the CA", "document markers", "merged"]
)
async def test_a_kubeconfig_that_kubectl_reads_works(tmp_path: Path, kind: str) -> None:
    async with SandboxCluster("east") as cluster:
        authority = cluster.ca_pem
        if kind == "a comment in the CA":
            authority = "# Autorité de certification\n".encode() + authority
        encoded = base64.b64encode(authority).decode()
        if kind == "wrapped base64":
            encoded = "|\n      " + "\n      ".join(textwrap.wrap(encoded, 76))
        nulls = "    proxy-url: null\n    tls-server-name: ~\n" if kind == "nulls" else ""
        token = cluster.user_token("hub", ("system:masters",))
        user = "{<<: *shared}" if kind == "merged" else f"{{token: {token}, client-certificate-data: null}}"
        text = (
            f"shared: &shared\n  token: {token}\n"
            "apiVersion: v1\nkind: Config\ncurrent-context: east\n"
            "contexts:\n- name: east\n  context: {cluster: east, user: hub}\n"
            f"users:\n- name: hub\n  user: {user}\n"
            f"clusters:\n- name: east\n  cluster:\n    server: {cluster.url}\n{nulls}"
            f"    certificate-authority-data: {encoded}\n"
        )
        if kind == "document markers":
            text = f"---\n{text}---\n"
        (tmp_path / "kc").write_text(text)
        async with connected(tmp_path / "kc") as session:
            assert b"kube-system" in await session.get("/api/v1/namespaces")


async def test_without_memory_files_the_key_is_on_disk_for_an_instant_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    empty = tmp_path / "tmp"
    empty.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(empty))
    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc")) as session,
    ):
        assert b"kube-system" in await session.get("/api/v1/namespaces")
    assert list(empty.iterdir()) == []


async def test_files_beside_the_kubeconfig_are_found_from_it(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        pair = cluster.client_certificate("admin", ("system:masters",))
        (tmp_path / "ca.crt").write_bytes(cluster.ca_pem)
        (tmp_path / "hub.crt").write_bytes(pair.certificate)
        (tmp_path / "hub.key").write_bytes(pair.key)
        document = cluster.kubeconfig()
        document["clusters"][0]["cluster"] = {"server": cluster.url, "certificate-authority": "ca.crt"}
        document["users"][0]["user"] = {"client-certificate": "hub.crt", "client-key": "hub.key"}
        async with connected(write(tmp_path / "kc", document)) as session:
            assert b"kube-system" in await session.get("/api/v1/namespaces")


async def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        first, second = (cluster.user_token("hub", ("system:masters",)) for _ in range(2))
        document = cluster.kubeconfig(token="x")
        document["users"][0]["user"] = {"tokenFile": "token"}
        (tmp_path / "token").write_text(first + "\n")
        clock = VirtualClock()
        async with connected(write(tmp_path / "kc", document), clock=clock) as session:
            assert b"kube-system" in await session.get("/api/v1/namespaces")
            (tmp_path / "token").write_text(second)
            cluster.revoke_token(first)
            await clock.advance(REREAD_SECONDS)
            cluster.requests.reset()
            assert b"kube-system" in await session.get("/api/v1/namespaces")
            assert cluster.requests.count() == 1  # no 401 was needed to notice


async def test_a_refused_token_is_looked_for_again_at_once(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        first, second = (cluster.user_token("hub", ("system:masters",)) for _ in range(2))
        document = cluster.kubeconfig(token="x")
        document["users"][0]["user"] = {"tokenFile": "token"}
        (tmp_path / "token").write_text(first)
        clock = VirtualClock()
        async with connected(write(tmp_path / "kc", document), clock=clock) as session:
            await session.get("/api/v1/namespaces")
            (tmp_path / "token").write_text(second)
            cluster.revoke_token(first)
            await clock.advance(2.0)
            assert b"kube-system" in await session.get("/api/v1/namespaces")
            cluster.revoke_token(second)
            with pytest.raises(ClusterUnauthorized):
                await session.get("/api/v1/namespaces")


async def test_a_file_that_breaks_leaves_the_last_token_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SandboxCluster("east") as cluster:
        token = cluster.user_token("hub", ("system:masters",))
        document = cluster.kubeconfig(token="x")
        document["users"][0]["user"] = {"tokenFile": "token"}
        (tmp_path / "token").write_text(token)
        clock = VirtualClock()
        loaded = await load(write(tmp_path / "kc", document), clock)
        for broken in ("", "two words", "x" * 300_000):
            (tmp_path / "token").write_text(broken)
            await clock.advance(REREAD_SECONDS)
            assert (await loaded.access()).token == token
        (tmp_path / "token").unlink()
        await clock.advance(REREAD_SECONDS)
        assert (await loaded.access()).token == token
    assert "the last ones stay in use" in caplog.text
    assert f"'{tmp_path / 'token'}' holds no bearer token" in caplog.text
    assert token not in caplog.text


async def test_in_cluster_credentials_follow_token_and_ca(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster, SandboxCluster("other") as other:
        host, port = cluster.url.removeprefix("https://").split(":")
        environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        first, second = (cluster.user_token("hub", ("system:masters",)) for _ in range(2))
        (tmp_path / "token").write_text(first)
        (tmp_path / "ca.crt").write_bytes(other.ca_pem)
        clock = VirtualClock()
        loaded = await load_credentials(
            Credentials(kubeconfig=None, in_cluster=True),
            cluster=EAST,
            clock=clock,
            environ=environ,
            service_account=tmp_path,
        )
        assert loaded.server == cluster.url
        wrong = await loaded.access()
        assert wrong.token == first
        (tmp_path / "token").write_text(second)
        (tmp_path / "ca.crt").write_bytes(cluster.ca_pem)
        await clock.advance(REREAD_SECONDS)
        async with ClusterSession(loaded, cluster=EAST, timeouts=FAST, clock=clock, connections=2) as session:
            assert b"kube-system" in await session.get("/api/v1/namespaces")
        right = await loaded.access()
        assert right.token == second
        assert right.tls is not wrong.tls


async def test_outside_a_pod_in_cluster_credentials_are_refused(tmp_path: Path) -> None:
    for environ in ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}):
        with pytest.raises(ConfigurationError, match="in-cluster") as caught:
            await load_credentials(
                Credentials(kubeconfig=None, in_cluster=True),
                cluster=EAST,
                clock=VirtualClock(),
                environ=environ,
                service_account=tmp_path,
            )
        assert "pod" in caught.value.findings[0].remedy


@pytest.mark.parametrize(
    "case", ["missing", "directory", "pipe", "unreadable ca", "no ca", "not pem", "wrong key"]
)
async def test_files_that_cannot_be_used_are_refused_with_their_names(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = reading_threads()  # tests before this one may have left some with files that hang
    impatient_reads(monkeypatch, 0.2 if case == "pipe" else 60.0)
    async with SandboxCluster("east") as cluster:
        document = cluster.kubeconfig()
        kubeconfig = tmp_path / "kc"
        match case:
            case "missing":
                kubeconfig = tmp_path / "nowhere"
            case "directory":
                kubeconfig = tmp_path
            case "pipe":
                kubeconfig = tmp_path / "pipe"
                os.mkfifo(kubeconfig)
            case "unreadable ca":
                document["clusters"][0]["cluster"] = {
                    "server": cluster.url,
                    "certificate-authority": "gone.crt",
                }
            case "no ca":
                (tmp_path / "ca.crt").write_bytes(b"")
                document["clusters"][0]["cluster"] = {
                    "server": cluster.url,
                    "certificate-authority": "ca.crt",
                }
            case "not pem":
                document["clusters"][0]["cluster"]["certificate-authority-data"] = "aGVsbG8="
            case _:
                other = cluster.kubeconfig("another")["users"][0]["user"]["client-key-data"]
                document["users"][0]["user"]["client-key-data"] = other
        if case not in {"missing", "directory", "pipe"}:
            write(kubeconfig, document)
        with pytest.raises(ConfigurationError) as caught:
            await load(kubeconfig)
        if case == "pipe":  # let the thread go that opens it
            await eventually(lambda: opened(kubeconfig))
            await eventually(lambda: reading_threads() <= before)
        assert str(tmp_path) in caught.value.findings[0].file
        assert caught.value.findings[0].remedy


def reading_threads() -> set[int | None]:
    """Those of this process that read files."""
    return {thread.ident for thread in threading.enumerate() if thread.name == files.THREADS}


def opened(pipe: Path) -> bool:
    """Whether a caller waited for this end: on a busy machine the reader may give up before its thread has begun."""
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return False
    return True


async def test_tls_server_name_is_what_the_certificate_is_checked_for(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        document = cluster.kubeconfig()
        entry = document["clusters"][0]["cluster"]
        entry["tls-server-name"] = "kubernetes.default.svc"
        async with connected(write(tmp_path / "kc", document)) as session:
            assert await session.get("/version")
        entry["tls-server-name"] = "somewhere.else"
        async with connected(write(tmp_path / "kc", document)) as session:
            with pytest.raises(Exception, match="somewhere\\.else") as caught:
                await session.get("/version")
        assert getattr(caught.value, "reason", "") == "tls"


async def test_the_fingerprint_changes_with_the_kubeconfig_and_with_nothing_else(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kc"
    kubeconfig.write_text("one")
    first = await fingerprint(Credentials(kubeconfig=kubeconfig))
    os.utime(kubeconfig, (0, 0))
    assert await fingerprint(Credentials(kubeconfig=kubeconfig)) == first
    kubeconfig.write_text("two")
    assert await fingerprint(Credentials(kubeconfig=kubeconfig)) != first
    assert await fingerprint(Credentials(kubeconfig=None, in_cluster=True)) == ""
    kubeconfig.unlink()
    with pytest.raises(ConfigurationError):
        await fingerprint(Credentials(kubeconfig=kubeconfig))


# Exec plugins -----------------------------------------------------------------------------------------------------


CREDENTIAL = '{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":%s}'


class Plugin:
    """A real command beside the kubeconfig that counts its runs and prints what it is given."""

    def __init__(self, directory: Path, cluster: SandboxCluster) -> None:
        self.directory = directory
        self.runs = directory / "runs"
        self.output = directory / "output"
        command = directory / "plugin"
        command.write_text(
            "#!/bin/sh\n"
            f'echo run >> "{self.runs}"\n'
            f'printf "%s" "$KUBERNETES_EXEC_INFO" > "{directory}/info"\n'
            "echo never-log-me >&2\n"
            f'. "{directory}/behave"\n'
            f'cat "{self.output}"\n'
        )
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        self.behave("")
        document = cluster.kubeconfig(token="x")
        document["users"][0]["user"] = {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": "./plugin",
                "interactiveMode": "Never",
                "provideClusterInfo": True,
            }
        }
        self.kubeconfig = write(directory / "kc", document)

    def behave(self, script: str) -> None:
        (self.directory / "behave").write_text(script)

    def prints(self, **status: Any) -> None:
        version = "client.authentication.k8s.io/v1"
        document = {"kind": "ExecCredential", "apiVersion": version, "status": status}
        self.output.write_text(json.dumps(document))

    @property
    def count(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0


async def test_a_plugins_token_is_kept_until_shortly_before_it_expires(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with SandboxCluster("east") as cluster:
        plugin = Plugin(tmp_path, cluster)
        expires = clock.now() + timedelta(minutes=10)
        plugin.prints(token="first", expirationTimestamp=expires.isoformat())
        loaded = await load(plugin.kubeconfig, clock, allowed_exec=("./plugin",))
        assert json.loads((tmp_path / "info").read_text())["spec"]["cluster"]["server"] == cluster.url
        plugin.prints(token="second")
        await clock.advance(8 * 60)
        assert (await loaded.access()).token == "first"
        assert plugin.count == 1
        await clock.advance(70)
        assert (await loaded.access()).token == "second"
        await clock.advance(3600)
        assert (await loaded.access()).token == "second"
        assert plugin.count == 2
        plugin.prints(token="third")
        await clock.advance(REREAD_SECONDS)
        assert (await loaded.access(renew=True)).token == "third"


async def test_a_plugin_may_print_yaml_as_client_go_takes_it(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        plugin = Plugin(tmp_path, cluster)
        plugin.output.write_text(
            "---\n# from a script\nkind: ExecCredential\napiVersion: client.authentication.k8s.io/v1\n"
            "status:\n  token: 'first'\n  expirationTimestamp: null\n  clientKeyData: ~\n"
        )
        loaded = await load(plugin.kubeconfig, allowed_exec=("./plugin",))
        assert (await loaded.access()).token == "first"


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed, and KUBECTL names none")
@pytest.mark.parametrize(
    ("cluster_keys", "provide"),
    [
        ({}, True),
        ({}, False),
        (
            {
                "tls-server-name": "kubernetes",
                "proxy-url": "http://127.0.0.1:9",
                "disable-compression": True,
                "extensions": [
                    {"name": "other", "extension": {"a": 1}},
                    {
                        "name": "client.authentication.k8s.io/exec",
                        "extension": {"audience": "06", "nothing": None, "list": [1.5, True]},
                    },
                ],
            },
            True,
        ),
        ({"extensions": [{"name": "client.authentication.k8s.io/exec", "extension": "text"}]}, True),
    ],
)
async def test_a_plugin_is_given_what_kubectl_gives_it(
    tmp_path: Path, cluster_keys: dict[str, Any], provide: bool
) -> None:
    async with SandboxCluster("east") as cluster:
        plugin = Plugin(tmp_path, cluster)
        plugin.prints(token="first")
        document = json.loads(plugin.kubeconfig.read_text())
        document["clusters"][0]["cluster"].update(cluster_keys)
        document["users"][0]["user"]["exec"].update(provideClusterInfo=provide, interactiveMode="IfAvailable")
        write(plugin.kubeconfig, document)
        process = await asyncio.create_subprocess_exec(
            *(str(KUBECTL), "--kubeconfig", str(plugin.kubeconfig), "get", "--raw", "/version"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await process.wait()
        given = json.loads((tmp_path / "info").read_text())
        (tmp_path / "info").unlink()
        await load(plugin.kubeconfig, allowed_exec=("./plugin",))
        assert json.loads((tmp_path / "info").read_text()) == given


async def test_the_kubeconfig_takes_precedence_over_a_plugin(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        plugin = Plugin(tmp_path, cluster)
        plugin.prints(token="from the plugin")
        document = json.loads(plugin.kubeconfig.read_text())
        document["users"][0]["user"]["token"] = "written"
        loaded = await load(write(plugin.kubeconfig, document), allowed_exec=("./plugin",))
        assert (await loaded.access()).token == "written"
        assert plugin.count == 0


async def test_a_plugin_may_hand_out_a_client_certificate(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        plugin = Plugin(tmp_path, cluster)
        pair = cluster.client_certificate("admin", ("system:masters",))
        plugin.prints(clientCertificateData=pair.certificate.decode(), clientKeyData=pair.key.decode())
        credentials = Credentials(kubeconfig=plugin.kubeconfig, allowed_exec=("./plugin",))
        session = await ClusterSession.open(credentials, cluster=EAST, timeouts=FAST, clock=VirtualClock())
        async with session:
            assert b"kube-system" in await session.get("/api/v1/namespaces")


async def test_a_plugin_that_fails_later_leaves_its_last_token_while_that_holds(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with SandboxCluster("east") as cluster:
        plugin = Plugin(tmp_path, cluster)
        expires = clock.now() + timedelta(seconds=90)
        plugin.prints(token="first", expirationTimestamp=expires.isoformat())
        loaded = await load(plugin.kubeconfig, clock, allowed_exec=("./plugin",))
        plugin.behave("exit 3")
        await clock.advance(60)
        assert (await loaded.access()).token == "first"
        runs = plugin.count
        for _ in range(20):
            await loaded.access()
        assert plugin.count == runs  # left alone for a while
        await clock.advance(40)
        with pytest.raises(ClusterUnauthorized, match="exit code 3"):
            await loaded.access()


@pytest.mark.parametrize(
    ("behaviour", "output", "problem"),
    [
        ("exit 7", "", "exit code 7"),
        ("", "no json", "no ExecCredential"),
        ("", '{"kind":"Pod","apiVersion":"v1","status":{}}', "another kind"),
        ("", CREDENTIAL % "{}", "neither"),
        ("", CREDENTIAL % "null", "neither"),
        ("", CREDENTIAL % '{"token":5}', "no ExecCredential"),
        ("", CREDENTIAL % '{"token":"x"}' + " and more", "no ExecCredential"),
        ("", "kind: [", "no ExecCredential"),
        (
            "",
            CREDENTIAL % '{"token":"a b"}',
            "characters",
        ),
        (
            "",
            CREDENTIAL % '{"clientKeyData":"secret-key"}',
            "without",
        ),
        ("head -c 400000 /dev/zero; exit 0", "", "more than"),
    ],
)
async def test_a_plugin_that_misbehaves_is_named_and_its_output_is_not(
    tmp_path: Path, behaviour: str, output: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="federation")
    async with SandboxCluster("east") as cluster:
        plugin = Plugin(tmp_path, cluster)
        plugin.behave(behaviour)
        plugin.output.write_text(output)
        with pytest.raises(ClusterUnauthorized, match=problem) as caught:
            await load(plugin.kubeconfig, allowed_exec=("./plugin",))
    reported = caught.value.diagnostics() + caplog.text
    assert "./plugin" in reported
    assert "never-log-me" not in reported
    assert "secret-key" not in reported
    assert not output or output not in reported


async def test_a_plugin_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        plugin = Plugin(tmp_path, cluster)
        plugin.behave(f'sleep 60 & echo $! > "{tmp_path}/child"\nwait')
        entry = parse_kubeconfig(
            plugin.kubeconfig.read_bytes(), file="kc", context=None, allowed_exec=("./plugin",)
        )
        assert entry.plugin is not None
        with pytest.raises(ClusterUnauthorized, match=r"no answer in 5 s"):
            await run_plugin(
                entry.plugin,
                where="east",
                directory=tmp_path,
                cluster=entry.info,
                authority=None,
                environ=os.environ,
                timeout=5.0,
            )
    state = Path(f"/proc/{int((tmp_path / 'child').read_text())}/stat")
    await eventually(lambda: not state.exists() or state.read_text().split()[2] == "Z")
    assert plugin.count == 1


async def test_a_plugin_that_is_not_allowed_never_runs(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        plugin = Plugin(tmp_path, cluster)
        plugin.prints(token="x")
        with pytest.raises(ConfigurationError, match="not allowed"):
            await load(plugin.kubeconfig, allowed_exec=("plugin",))
    assert plugin.count == 0
