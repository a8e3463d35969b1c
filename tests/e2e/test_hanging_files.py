"""No file that hangs keeps a role from ending, for every key of the configuration that names a file.

Each file is a named pipe without a writer: opening it blocks, as on a volume that is gone. Every case is
a process of its own; all of them are forked from one that has imported everything, so that thirty cost little.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import federation.core.config
from tests.support.pki import intermediate, root

LONG: typing.Final = 600.0
"""Seconds after which a process counts as one that never ends. It reads for ten; the machine may be busy."""

END_BY_THEMSELVES: typing.Final = frozenset(
    {
        "configuration",
        "status certificate",
        "status key",
        "kubeconfig of the callers' cluster",
        "kubeconfig of the kubeconfigs' Secrets",
    }
)
"""Cases in which a role refuses to start after its time limit for reading. They get no SIGTERM: on a busy machine it
could arrive while the process is ending, and a process without its loop dies of the signal."""

HUB = """
trust_domain = "cluster.local"
[[trust.anchors]]
file = "{anchor}"
sha256 = "{pin}"
[listener]
server_names = ["hub.example"]
listen = "127.0.0.1:0"
[state]
directory = "{state}"
[signer.authority]
name = "shared"
{authority}
[status]
listen = "127.0.0.1:0"
{status}
{more}
[[clusters]]
name = "east"
cluster_id = "east"
[clusters.signer]
kubeconfig = "{kubeconfig}"
allowed_exec = ["./plugin"]
[clusters.controller]
kubeconfig = "{kubeconfig}"
allowed_exec = ["./plugin"]
"""
KUBECONFIG = """
current-context: east
contexts: [{{name: east, context: {{cluster: east, user: hub}}}}]
clusters: [{{name: east, cluster: {{server: "https://127.0.0.1:1", certificate-authority: {authority}}}}}]
users: [{{name: hub, user: {user}}}]
"""
VAULT = 'kind = "vault"\\naddress = "https://127.0.0.1:1"\\nrole = "a"\\nserving_role = "b"\\n'.replace(
    "\\n", "\n"
)
TRANSIT = VAULT.replace('"vault"', '"vault-transit"').replace('role = "a"\nserving_role = "b"', 'key = "a"')
JWT_LOGIN = 'auth = {{method = "jwt", role = "a", jwt = "{jwt}"}}\n'


@dataclass(frozen=True)
class Case:
    """One key that names a file which hangs. ``covers`` are the fields of the model that it fills."""

    name: str
    covers: tuple[str, ...]
    roles: tuple[str, ...] = ("signer",)
    fields: dict[str, str] = field(default_factory=dict)
    user: str = "{token: x}"
    authority: str = "ca.crt"


def local(certificate: str, key: str) -> dict[str, str]:
    return {"authority": f'certificate_file = "{certificate}"\nkey_file = "{key}"\n'}


GOOD = {"anchor": "root.pem", "state": "state", "status": "", "more": "", "kubeconfig": "kubeconfig"} | local(
    "chain.pem", "key.pem"
)
BOTH = ("signer", "controller")
CASES = [
    Case("configuration", (), (*BOTH, "hub")),
    Case("anchor", ("AnchorPin.file",), BOTH, {"anchor": "hangs"}),
    Case("state", ("StateConfig.directory",), BOTH, {"state": "hangs"}),
    Case("kubeconfig", ("Credentials.kubeconfig",), BOTH, {"kubeconfig": "hangs"}),
    Case("certificate authority of a kubeconfig", (), BOTH, authority="hangs"),
    Case("token of a kubeconfig", (), BOTH, user="{tokenFile: hangs}"),
    Case("client certificate of a kubeconfig", (), user="{client-certificate: hangs, client-key: key.pem}"),
    Case("client key of a kubeconfig", (), user="{client-certificate: chain.pem, client-key: hangs}"),
    Case(
        "exec plugin",
        (),
        user="{exec: {apiVersion: client.authentication.k8s.io/v1, command: ./plugin, interactiveMode: Never}}",
    ),
    Case(
        "token that reads",
        ("StatusConfig.read_token_file",),
        ("controller",),
        {"status": 'read_token_file = "hangs"'},
    ),
    Case(
        "token that operates",
        ("StatusConfig.operate_token_file",),
        ("controller",),
        {"status": 'operate_token_file = "hangs"'},
    ),
    Case(
        "status certificate",
        ("StatusConfig.certificate_file",),
        ("controller",),
        {"status": 'certificate_file = "hangs"\nkey_file = "key.pem"'},
    ),
    Case(
        "status key",
        ("StatusConfig.key_file",),
        ("controller",),
        {"status": 'certificate_file = "chain.pem"\nkey_file = "hangs"'},
    ),
    Case(
        "kubeconfig of the callers' cluster",
        ("KubernetesCallersConfig.kubeconfig",),
        ("controller",),
        {"more": '[status.kubernetes]\nkubeconfig = "hangs"'},
    ),
    Case(
        "CA of the callers' issuer",
        ("OidcCallersConfig.ca_file",),
        ("controller",),
        {
            "more": '[status.oidc]\nissuer = "https://127.0.0.1:1"\naudience = "hub"\nread = ["a"]\n'
            'ca_file = "hangs"'
        },
    ),
    Case(
        "kubeconfig of the cluster that is looked in for others",
        ("DiscoveryConfig.kubeconfig",),
        ("controller",),
        {"more": '[discovery]\nkubeconfig = "hangs"\nistio_secrets = ["istio-system"]'},
    ),
    Case(
        "kubeconfig of the kubeconfigs' Secrets",
        ("KubeconfigSecretsTable.kubeconfig",),
        BOTH,
        {"more": '[kubeconfig_secrets]\nnamespace = "a"\nkubeconfig = "hangs"'},
    ),
    Case("chain", ("LocalAuthorityConfig.certificate_file",), fields=local("hangs", "key.pem")),
    Case("key", ("LocalAuthorityConfig.key_file",), fields=local("chain.pem", "hangs")),
    Case(
        "Vault's CA",
        ("VaultServer.ca_file",),
        fields={
            "authority": VAULT
            + 'ca_file = "hangs"\n[signer.authority.auth]\nmethod = "token"\ntoken = "env:T"'
        },
    ),
    Case(
        "Vault's token",
        ("SecretRef.name",),
        fields={"authority": VAULT + '[signer.authority.auth]\nmethod = "token"\ntoken = "file:hangs"'},
    ),
    Case(
        "Vault's JWT",
        ("JwtRef.name",),
        fields={
            "authority": VAULT + '[signer.authority.auth]\nmethod = "jwt"\nrole = "a"\njwt = "file:hangs"'
        },
    ),
    Case(
        "client certificate",
        ("CertificateRef.certificate_file",),
        fields={
            "authority": VAULT + '[signer.authority.auth]\nmethod = "cert"\n'
            'client_certificate_file = "hangs"\nclient_key_file = "key.pem"'
        },
    ),
    Case(
        "key of a client certificate",
        ("CertificateRef.key_file",),
        fields={
            "authority": VAULT + '[signer.authority.auth]\nmethod = "cert"\n'
            'client_certificate_file = "chain.pem"\nclient_key_file = "hangs"'
        },
    ),
    Case(
        "chain of a Transit key",
        ("VaultTransitAuthorityConfig.certificate_file",),
        fields={
            "authority": TRANSIT + 'certificate_file = "hangs"\n'
            '[signer.authority.auth]\nmethod = "token"\ntoken = "env:T"'
        },
    ),
    Case(
        "Conjur's CA",
        ("ConjurConfig.ca_file",),
        fields={
            "authority": 'kind = "conjur"\nchain_variable = "a"\nkey_variable = "b"',
            "more": '[signer.conjur]\nurl = "https://127.0.0.1:1"\naccount = "a"\nauthenticator = "b"\n'
            'jwt = "file:token"\nca_file = "hangs"',
        },
    ),
    Case(
        "PKCS#11 module and chain",
        ("Pkcs11AuthorityConfig.module", "Pkcs11AuthorityConfig.certificate_file"),
        fields={
            "authority": 'kind = "pkcs11"\nmodule = "hangs"\ntoken = "t"\nkey_label = "k"\npin = "env:T"\n'
            'certificate_file = "hangs"'
        },
    ),
    Case(
        "chain of a KMS key",
        ("AwsKmsAuthorityConfig.certificate_file",),
        fields={
            "authority": 'kind = "aws-kms"\nregion = "eu-central-1"\nkey_id = "alias/k"\ncertificate_file = "hangs"\n'
        },
    ),
    Case(
        "CA for AWS",
        ("AwsConfig.ca_file",),
        fields={
            "authority": 'kind = "aws-pca"\nregion = "eu-central-1"\nca_file = "hangs"\n'
            'endpoint = "https://127.0.0.1:1"\n'
            'ca_arn = "arn:aws:acm-pca:eu-central-1:111122223333:certificate-authority/'
            '11111111-2222-3333-4444-555555555555"\n'
        },
    ),
    Case(
        "SPIFFE socket",
        ("SpiffeConfig.socket",),
        fields={
            "authority": VAULT + '[signer.authority.auth]\nmethod = "jwt"\nrole = "a"\njwt = "spiffe:vault"',
            "more": '[signer.spiffe]\nsocket = "unix://{directory}/hangs"',
        },
    ),
]


FORMS = {  # of the file, which become the values beside them
    *("AnchorTable", "CredentialsTable", "ClusterTable", "FilesTable", "ObjectsTable", "CertManagerTable"),
    *(
        "AwsPcaTable",
        "AwsKmsTable",
        "_AwsTable",
        "VaultTable",
        "VaultTransitTable",
        "_ServerTable",
        "Pkcs11Table",
    ),
    "CertificateLogin",
}


def keys_that_name_files() -> set[str]:
    """Every field of the configuration's model that is a path, and the references that may be one."""
    found = {"SecretRef.name", "JwtRef.name"}
    package = federation.core.config
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__name__ not in FORMS:
                hints = typing.get_type_hints(value)
                found |= {
                    f"{value.__name__}.{each.name}"
                    for each in dataclasses.fields(value)
                    if Path in (hints[each.name], *typing.get_args(hints[each.name]))
                }
    return found


def test_every_key_that_names_a_file_has_a_case() -> None:
    helpers = {"ReadingContext.directory"}  # where the configuration file is, and no key
    assert {name for case in CASES for name in case.covers} == keys_that_name_files() - helpers


FORKS = """
import json, os, sys
from federation.cli import main, controller, hub, process, signer, process as stores
import federation.controller.role, federation.signer.role, federation.status.server
for line in sys.stdin:
    directory, arguments = json.loads(line)
    child = os.fork()
    if not child:
        output = os.open(directory + "/output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.setsid()
        os.chdir(directory)
        sys.exit(main.main(arguments))
    print(child, flush=True)
for _ in iter(int, 1):
    try:
        child, status = os.wait()
    except ChildProcessError:
        break
    print(child, os.waitstatus_to_exitcode(status), flush=True)
"""


class Running:
    """The processes of all cases."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pids: dict[tuple[str, str], int] = {}
        self.where: dict[tuple[str, str], Path] = {}

    def start(self, case: Case, role: str, directory: Path) -> None:
        config = "hangs" if case.name == "configuration" else "clusters.toml"
        arguments = [role, "--config", config]
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        print(json.dumps([str(directory), arguments]), file=self._parent.stdin, flush=True)
        self.where[case.name, role] = directory
        self.pids[case.name, role] = int(self._parent.stdout.readline())

    def ended(self) -> Iterator[tuple[tuple[str, str], int]]:
        """Each process as it ends, with its exit code."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        names = {pid: name for name, pid in self.pids.items()}
        for line in self._parent.stdout:
            pid, code = map(int, line.split())
            yield names[pid], code

    def kill_all(self) -> None:
        for pid in self.pids.values():
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def close(self) -> None:
        self.kill_all()
        self._parent.kill()
        self._parent.wait()
        for stream in (self._parent.stdin, self._parent.stdout):
            if stream is not None:
                stream.close()


def hangs(pid: int) -> bool:
    """Whether a thread of the process waits in the kernel for the other end of a pipe; True where it has ended.

    What is not read by then (a token of a status API without callers) blocks no thread.
    """
    try:
        return any(
            (task / "wchan").read_text() in ("wait_for_partner", "fifo_open")
            for task in Path(f"/proc/{pid}/task").iterdir()
        )
    except OSError:
        return True


def takes_signals(pid: int) -> bool:
    """Whether SIGTERM is handled by now, or the process has ended: one that has not come so far dies of it."""
    try:
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return True
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to find what hangs")
def test_a_role_ends_with_any_file_hanging(tmp_path: Path) -> None:
    ca = intermediate("shared", root("a"))
    running = Running()
    try:
        for number, case in enumerate(CASES):
            for role in case.roles:
                directory = tmp_path / f"{number}-{role}"
                directory.mkdir()
                os.mkfifo(directory / "hangs", 0o600)
                os.mkfifo(directory / "plugin", 0o700)
                for name, content in (
                    ("root.pem", ca.root.pem),
                    ("ca.crt", ca.root.pem),
                    ("chain.pem", ca.chain_pem),
                    ("key.pem", ca.key_pem),
                    ("token", b"x"),
                    ("kubeconfig", KUBECONFIG.format(authority=case.authority, user=case.user).encode()),
                ):
                    (directory / name).write_bytes(content)
                    (directory / name).chmod(0o600)
                values = GOOD | {"pin": ca.root.sha256} | case.fields
                values["more"] = values["more"].format(directory=directory)
                (directory / "clusters.toml").write_text(HUB.format(**values))
                running.start(case, role, directory)
        starting = [pid for (name, _), pid in running.pids.items() if name not in END_BY_THEMSELVES]
        end = time.monotonic() + LONG
        while time.monotonic() < end and not all(takes_signals(pid) for pid in starting):
            time.sleep(0.2)
        end = time.monotonic() + 8
        waiting = {each: pid for each, pid in running.pids.items() if each[0] not in END_BY_THEMSELVES}
        while waiting and time.monotonic() < end:
            waiting = {name: pid for name, pid in waiting.items() if not hangs(pid)}
            time.sleep(0.2)
        for (name, _), pid in running.pids.items():
            if name not in END_BY_THEMSELVES and Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGTERM)
        watchdog = threading.Timer(LONG, running.kill_all)
        watchdog.start()
        codes = dict(running.ended())
        watchdog.cancel()
        said = {name: (where / "output").read_text()[-500:] for name, where in running.where.items()}
        assert {name: said[name] for name, code in codes.items() if code < 0} == {}, "had to be killed"
        refused = {name for (name, _), code in codes.items() if code == 2}
        assert refused == END_BY_THEMSELVES
        assert {name: said[name] for name, code in codes.items() if name[0] not in refused and code} == {}
    finally:
        running.close()
