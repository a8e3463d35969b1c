"""Deployments of a real API server run on this machine: the pods of a trial, where there is no kubelet.

Each pod is made on the API server, where admission judges it and adds what it adds, and its container is a process in
the image's file system (``release.image_root``) with the pod's volumes at their paths: ConfigMaps, Secrets and
projected tokens, which follow their objects as late as a kubelet's. All pods share this machine's network, so one
replica of each is run; names of Services lead to loopback by a hosts file. Run it in a network namespace of its own,
since containers listen on every address.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import string
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from release.image_root import Root

Object = dict[str, Any]

POLL: Final = 0.5  # seconds
ENDS_WITHIN: Final = 45.0  # seconds; the chart's terminationGracePeriodSeconds is 40
ROOT_CA: Final = "kube-root-ca.crt"
"""The ConfigMap that a controller manager keeps in every namespace."""

SERVICE_CA: Final = "openshift-service-ca.crt"
"""The one that OpenShift's operators keep there, which its admission adds to a pod's token as well."""

TOKEN_RENEWED_AFTER: Final = 0.8  # of its life, as a kubelet does


@dataclass(frozen=True)
class Kubectl:
    """kubectl with a kubeconfig and a context."""

    binary: Path
    kubeconfig: str
    context: str

    def run(self, *words: str, given: Object | None = None, check: bool = True) -> str:
        """What it prints. Raises CalledProcessError."""
        done = subprocess.run(
            [str(self.binary), f"--kubeconfig={self.kubeconfig}", f"--context={self.context}", *words],
            input=None if given is None else json.dumps(given),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *words: str) -> Object | None:
        """An object or a list; None where there is none."""
        found = self.run("get", *words, "-o", "json", "--ignore-not-found")
        return json.loads(found) if found.strip() else None

    @property
    def server(self) -> str:
        """The API server's address."""
        return self.run("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")

    @property
    def ca(self) -> bytes:
        """What the API server is verified by, in PEM."""
        path = "jsonpath={.clusters[0].cluster.certificate-authority-data}"
        return base64.b64decode(self.run("config", "view", "--minify", "--raw", "-o", path))


@dataclass
class Pod:
    """A container that runs."""

    name: str
    template: Object
    directory: Path
    process: subprocess.Popen[bytes]
    synced: float
    ready: bool = False
    tokens: dict[Path, float] = field(default_factory=dict)  # when each is to be renewed


class Node:
    """Runs the Deployments of one namespace, one replica each."""

    def __init__(
        self, kubectl: Kubectl, namespace: str, root: Root, directory: Path, *, hosts: Path, lag: float
    ) -> None:
        """``lag`` is how many seconds volumes follow their objects late."""
        self._kubectl = kubectl
        self._namespace = namespace
        self._root = root
        self._directory = directory
        self._hosts = hosts
        self._lag = lag
        self.pods: dict[str, Pod] = {}
        self.waits: dict[str, str] = {}
        """By Deployment: why its pod does not run."""

    def look(self) -> None:
        """Start, exchange and end pods as the Deployments say, and have their volumes follow."""
        listed = self._kubectl.get("deployments", "-n", self._namespace) or {"items": []}
        wanted = {each["metadata"]["name"]: each["spec"]["template"] for each in listed["items"]}
        for name in list(self.pods):
            if name not in wanted or wanted[name] != self.pods[name].template:
                self._end(name)
        for name, template in wanted.items():
            if name in self.pods:
                self._follow(self.pods[name])
            else:
                self._start(name, template)

    def close(self) -> None:
        """End every pod."""
        for name in list(self.pods):
            self._end(name)

    def _start(self, deployment: str, template: Object) -> None:
        suffix = "".join(secrets.choice(string.ascii_lowercase) for _ in range(5))
        name = f"{deployment}-{suffix}"
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": self._namespace,
                "labels": template["metadata"]["labels"],
            },
            "spec": {**template["spec"], "nodeName": "node-1"},
        }
        pod = json.loads(self._kubectl.run("create", "-f", "-", "-o", "json", given=pod))
        directory = self._directory / name
        tokens: dict[Path, float] = {}
        try:
            mounts = self._volumes(pod, directory, tokens)
        except LookupError as error:
            if self.waits.get(deployment) != str(error):
                print(f"node: {deployment} waits: {error}", flush=True)
            self.waits[deployment] = str(error)
            self._kubectl.run("delete", "pod", name, "-n", self._namespace, "--grace-period=0", "--force")
            shutil.rmtree(directory, ignore_errors=True)
            return
        self.waits.pop(deployment, None)
        (container,) = pod["spec"]["containers"]
        host = urlsplit(self._kubectl.server)
        environment = {
            "KUBERNETES_SERVICE_HOST": str(host.hostname),
            "KUBERNETES_SERVICE_PORT": str(host.port),
            **{each["name"]: _value(each, name) for each in container.get("env", ())},
        }
        words = [*self._root.entrypoint, *(each.replace("$(POD_NAME)", name) for each in container["args"])]
        user = pod["spec"]["securityContext"]
        root = replace(
            self._root,
            environment=self._root.environment | environment,
            user=f"{user['runAsUser']}:{user['runAsGroup']}",
        )
        command = root.command(words, read_only=True, mounts={**mounts, "/etc/hosts": self._hosts})
        with (self._directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.pods[deployment] = Pod(name, template, directory, process, time.monotonic(), tokens=tokens)

    def _follow(self, pod: Pod) -> None:
        if pod.process.poll() is not None:
            raise RuntimeError(
                f"{pod.name} ended: {(self._directory / f'{pod.name}.log').read_text()[-3000:]}"
            )
        ready = self._answers(pod, "/readyz")
        if ready != pod.ready:
            pod.ready = ready
            self._say_ready(pod)
        if time.monotonic() - pod.synced >= self._lag:
            pod.synced = time.monotonic()
            found = self._kubectl.get("pod", pod.name, "-n", self._namespace)
            if found is not None:
                self._volumes(found, pod.directory, pod.tokens)

    def _answers(self, pod: Pod, path: str) -> bool:
        (container,) = pod.template["spec"]["containers"]
        (port,) = [each["containerPort"] for each in container["ports"] if each["name"] == "probes"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=3) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _say_ready(self, pod: Pod) -> None:
        condition = {"type": "Ready", "status": str(pod.ready)}
        status = {"status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [condition]}}
        self._kubectl.run(
            *("patch", "pod", pod.name, "-n", self._namespace, "--subresource=status", "--type=merge"),
            f"--patch={json.dumps(status)}",
        )

    def _end(self, deployment: str) -> None:
        pod = self.pods.pop(deployment)
        pod.process.send_signal(signal.SIGTERM)
        try:
            pod.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(pod.process.pid, signal.SIGKILL)
            pod.process.wait(ENDS_WITHIN)
        self._kubectl.run(
            *("delete", "pod", pod.name, "-n", self._namespace, "--grace-period=0", "--force"), check=False
        )

    def _volumes(self, pod: Object, directory: Path, tokens: dict[Path, float]) -> dict[str, Path]:
        """Fill every volume; where each is mounted. Raises LookupError for an object that is not there."""
        group = pod["spec"]["securityContext"]["fsGroup"]
        places: dict[str, Path] = {}
        for volume in pod["spec"].get("volumes", ()):
            place = places[volume["name"]] = directory / volume["name"]
            place.mkdir(parents=True, exist_ok=True)
            if "emptyDir" in volume:
                place.chmod(0o777)
                continue
            files = self._content(pod, volume, place, tokens)
            if files is not None:
                _fill(place, files, group, _mode(volume))
        (container,) = pod["spec"]["containers"]
        return {mount["mountPath"]: places[mount["name"]] for mount in container["volumeMounts"]}

    def _content(
        self, pod: Object, volume: Object, place: Path, tokens: dict[Path, float]
    ) -> dict[str, bytes] | None:
        """The files of a volume; None where what is there stays."""
        if "configMap" in volume:
            return self._object("configmap", volume["configMap"]["name"], volume["configMap"])
        if "secret" in volume:
            return self._object("secret", volume["secret"]["secretName"], volume["secret"])
        files: dict[str, bytes] = {}
        for source in volume["projected"]["sources"]:
            if "configMap" in source:
                files |= self._object("configmap", source["configMap"]["name"], source["configMap"]) or {}
            elif "downwardAPI" in source:
                files["namespace"] = self._namespace.encode()
            elif "serviceAccountToken" in source:
                asked = source["serviceAccountToken"]
                there = place / asked["path"]
                if time.time() < tokens.get(there, 0.0):
                    files[asked["path"]] = there.read_bytes()
                    continue
                seconds = asked.get("expirationSeconds", 3600)
                tokens[there] = time.time() + TOKEN_RENEWED_AFTER * seconds
                words = ["create", "token", pod["spec"]["serviceAccountName"], "-n", self._namespace]
                words += [f"--duration={seconds}s", "--bound-object-kind=Pod"]
                words += [f"--bound-object-name={pod['metadata']['name']}"]
                words += [f"--audience={asked['audience']}"] if asked.get("audience") else []
                files[asked["path"]] = self._kubectl.run(*words).strip().encode()
        return files

    def _object(self, kind: str, name: str, reference: Object) -> dict[str, bytes] | None:
        if (kind, name) == ("configmap", ROOT_CA):
            return {"ca.crt": self._kubectl.ca}
        if (kind, name) == ("configmap", SERVICE_CA):
            return {}
        found = self._kubectl.get(kind, name, "-n", self._namespace)
        if found is None:
            if reference.get("optional"):
                return {}
            raise LookupError(f"{kind} {name} is not there")
        data = found.get("data") or {}
        read = {
            key: base64.b64decode(value) if kind == "secret" else value.encode()
            for key, value in data.items()
        }
        items = reference.get("items")
        return read if not items else {each["path"]: read[each["key"]] for each in items}


def _value(variable: Object, pod: str) -> str:
    if "value" in variable:
        return str(variable["value"])
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name", variable
    return pod


def _mode(volume: Object) -> int:
    source = volume.get("secret") or volume.get("configMap") or volume["projected"]
    return int(source.get("defaultMode", 0o644))


def _fill(place: Path, files: Mapping[str, bytes], group: int, mode: int) -> None:
    """Exchange the content in one step, by links through ``..data`` as the kubelet's atomic writer does."""
    data = place / "..data"
    old = data.resolve() if data.is_symlink() else None
    if old is not None and {each.name: each.read_bytes() for each in old.iterdir()} == files:
        return
    fresh = place / f"..{time.time_ns()}"
    fresh.mkdir(mode=0o755)
    for name, content in files.items():
        (fresh / name).write_bytes(content)
        os.chown(fresh / name, 0, group)
        (fresh / name).chmod(mode)
    link = place / "..data_tmp"
    link.symlink_to(fresh.name)
    link.rename(data)
    for name in files:
        if not (place / name).is_symlink():
            (place / name).symlink_to(f"..data/{name}")
    for each in place.iterdir():
        if not each.name.startswith("..") and each.name not in files:
            each.unlink()
    if old is not None:
        shutil.rmtree(old)
