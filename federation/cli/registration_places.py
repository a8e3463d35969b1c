"""Where a registration is written: the hub's configuration, and beside it the credentials of each role.

Either files on this machine, or objects of the cluster that the hub runs in, as ``manifests/hub`` has them: one
ConfigMap with ``clusters.toml``, and for each role one Secret that holds a kubeconfig for each member and is mounted in
that role alone. Both are changed only if they still are what was read.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec

from federation.cli.pinning import FileChanged, read_bounded, read_text, replace_text
from federation.core.config.load import MAX_BYTES
from federation.core.errors import (
    ClusterConflict,
    ClusterForbidden,
    ClusterGarbage,
    ClusterNotFound,
    FederationError,
)
from federation.kubernetes.answers import harmless
from federation.kubernetes.kubeconfig import MAX_KUBECONFIG_BYTES
from federation.kubernetes.role_kubeconfig import MADE, RoleCredential, token_file_of
from federation.kubernetes.session import ClusterSession
from federation.kubernetes.token_life import MOST_TOKEN

CONFIG_MAP: Final = "federation-config"
KEY: Final = "clusters.toml"
MOUNTED: Final = "/etc/federation/{role}-kubeconfigs/{cluster}"
"""Where ``manifests/hub`` mounts the Secret of a role, and in it the key of a member."""
FIELD_MANAGER: Final = "federation-clusters-add"
MERGE: Final = "application/merge-patch+json"
DIRECTORY: Final = "kubeconfigs"


class Places(Protocol):
    """The configuration, and the kubeconfig of each role for one cluster."""

    label: str
    """What the configuration is called in messages."""

    owner: str
    """What applies the configuration from elsewhere, and so would take a change back; "" where nothing does."""

    async def read(self) -> str:
        """The configuration's text, remembered as what the next :meth:`replace` replaces. Raises FederationError."""
        ...

    async def replace(self, text: str) -> None:
        """Write it atomically, if it is still what was read. Raises FederationError."""
        ...

    def kubeconfig(self, role: str) -> str:
        """The role's kubeconfig as the configuration names it."""
        ...

    def described(self, role: str) -> str:
        """The same for a person: the file, or the Secret and its key."""
        ...

    async def credential(self, role: str) -> RoleCredential | None:
        """What is there of it now, None where nothing is. Raises FederationError."""
        ...

    async def put_credential(self, role: str, credential: RoleCredential) -> None:
        """Write it, for the hub's eyes alone: each file atomically, the kubeconfig last. Raises FederationError."""
        ...

    async def remove_credential(self, role: str) -> bool:
        """Take it away; False where nothing was there. Raises FederationError."""
        ...


class HubFiles:
    """``clusters.toml`` on this machine, and the directory ``kubeconfigs`` beside it."""

    def __init__(self, config: Path, cluster: str) -> None:
        self.label = str(config)
        self.owner = ""
        self._config = config
        self._cluster = cluster
        self._digest = ""

    async def read(self) -> str:
        """As :meth:`Places.read`."""
        data = await asyncio.to_thread(read_bounded, self._config, MAX_BYTES)
        self._digest = sha256(data).hexdigest()
        return await asyncio.to_thread(self._decoded)

    def _decoded(self) -> str:
        try:
            return read_text(self._config, digest=self._digest)
        except UnicodeDecodeError:
            raise FederationError("is not UTF-8", where=self.label, remedy="save it as UTF-8") from None

    async def replace(self, text: str) -> None:
        """As :meth:`Places.replace`."""
        await asyncio.to_thread(replace_text, self._config, text, digest=self._digest)
        self._digest = sha256(text.encode("utf-8")).hexdigest()

    def kubeconfig(self, role: str) -> str:
        """Relative to the configuration."""
        return f"{DIRECTORY}/{self._cluster}-{role}"

    def described(self, role: str) -> str:
        """Its path."""
        return str(self._path(role))

    def _path(self, role: str) -> Path:
        return self._config.parent / self.kubeconfig(role)

    def _token_path(self, role: str) -> Path:
        path = self._path(role)
        return path.with_name(token_file_of(path.name))

    async def credential(self, role: str) -> RoleCredential | None:
        """As :meth:`Places.credential`."""
        return await asyncio.to_thread(self._credential, self._path(role), self._token_path(role))

    def _credential(self, path: Path, token: Path) -> RoleCredential | None:
        if not path.exists() and not token.exists():
            return None
        kubeconfig = read_bounded(path, MAX_KUBECONFIG_BYTES) if path.exists() else b""
        text = read_bounded(token, MOST_TOKEN) if token.exists() else b""
        return RoleCredential(kubeconfig or (MADE if text else b""), text)

    async def put_credential(self, role: str, credential: RoleCredential) -> None:
        """Files of mode 0600 in a directory of mode 0700, of the user that the configuration belongs to."""
        await asyncio.to_thread(self._put, self._token_path(role), credential.token)
        await asyncio.to_thread(self._put, self._path(role), credential.kubeconfig)

    def _put(self, path: Path, content: bytes) -> None:
        try:
            owner = self._config.stat()
            if not path.parent.is_dir():
                path.parent.mkdir(mode=0o700)
                _give(path.parent, owner)
            descriptor, staged = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                _give(Path(staged), owner)
                Path(staged).replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(staged).unlink()
                raise
        except OSError as error:
            raise FederationError(
                f"cannot be written: {error.strerror or error}",
                where=str(path),
                remedy="check the directory and its permissions, then run this again",
            ) from error

    async def remove_credential(self, role: str) -> bool:
        """As :meth:`Places.remove_credential`."""
        kubeconfig = await asyncio.to_thread(self._remove, self._path(role))
        token = await asyncio.to_thread(self._remove, self._token_path(role))
        return kubeconfig or token

    def _remove(self, path: Path) -> bool:
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FederationError(
                f"cannot be removed: {error.strerror or error}", where=str(path), remedy="remove it by hand"
            ) from error
        return True


def _give(path: Path, owner: os.stat_result) -> None:
    """Give what root has made to the user whose configuration it is beside; others made it as themselves."""
    if os.geteuid() == 0 and (owner.st_uid, owner.st_gid) != (0, 0):
        os.chown(path, owner.st_uid, owner.st_gid)


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: Annotated[str, msgspec.Meta(max_length=128)]
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None

    @property
    def owner(self) -> str:
        """What applies the object from elsewhere, by the marks that it leaves; "" where there is none.

        Helm marks what belongs to a release, and not what a hook made (``helm.sh/hook``), which no upgrade touches.
        """
        labels, annotations = self.labels or {}, self.annotations or {}
        release = annotations.get("meta.helm.sh/release-name", "")
        if release or labels.get("app.kubernetes.io/managed-by") == "Helm":
            return (
                "" if "helm.sh/hook" in annotations else f"the Helm release {harmless(release) or 'it names'}"
            )
        if "argocd.argoproj.io/tracking-id" in annotations or "argocd.argoproj.io/instance" in labels:
            return "Argo CD"
        if "kustomize.toolkit.fluxcd.io/name" in labels or "helm.toolkit.fluxcd.io/name" in labels:
            return "Flux"
        return ""


class _WithData(msgspec.Struct):
    metadata: _Meta
    data: dict[str, str] | None = None


class HubObjects:
    """The ConfigMap and the two Secrets of a hub that runs in a cluster; ``session`` is an administrator's there."""

    def __init__(self, session: ClusterSession, *, namespace: str, cluster: str) -> None:
        self.label = f"ConfigMap {namespace}/{CONFIG_MAP}, key {KEY}"
        self.owner = ""
        self._session = session
        self._namespace = namespace
        self._cluster = cluster
        self._version = ""

    def _path(self, plural: str, name: str = "") -> str:
        return f"/api/v1/namespaces/{self._namespace}/{plural}" + (f"/{name}" if name else "")

    async def read(self) -> str:
        """As :meth:`Places.read`."""
        try:
            found = await self._get("configmaps", CONFIG_MAP)
        except ClusterNotFound as error:
            raise FederationError(
                "is not there",
                where=self.label,
                remedy="deploy the hub first (manifests/README.md), or name its namespace with --hub-namespace",
            ) from error
        text = (found.data or {}).get(KEY)
        if text is None:
            raise FederationError(f"has no key {KEY}", where=self.label, remedy="put clusters.toml there")
        self._version = found.metadata.resource_version
        self.owner = found.metadata.owner
        return text

    async def replace(self, text: str) -> None:
        """By its resourceVersion: a change by anyone else in between is a FileChanged."""
        try:
            answer = await self._patch("configmaps", CONFIG_MAP, {KEY: text}, self._version)
        except ClusterConflict as error:
            raise FileChanged(
                "was changed by another writer meanwhile; it was not written", where=self.label
            ) from error
        self._version = answer.metadata.resource_version

    def kubeconfig(self, role: str) -> str:
        """Where the role finds it."""
        return MOUNTED.format(role=role, cluster=self._cluster)

    def described(self, role: str) -> str:
        """The Secret and its key."""
        return f"Secret {self._namespace}/{_secret(role)}, key {self._cluster}"

    async def credential(self, role: str) -> RoleCredential | None:
        """As :meth:`Places.credential`."""
        try:
            found = await self._get("secrets", _secret(role))
        except ClusterNotFound:
            return None
        if found.metadata.owner:
            raise FederationError(
                f"belongs to {found.metadata.owner}, which would take away what is written into it",
                where=self.described(role),
                remedy="take that Secret out of what is applied there, and let it stay in the cluster: the hub renews "
                "the tokens in it",
            )
        data = found.data or {}
        if self._cluster not in data:
            return None
        return RoleCredential(
            _decoded(data[self._cluster]), _decoded(data.get(token_file_of(self._cluster), ""))
        )

    async def put_credential(self, role: str, credential: RoleCredential) -> None:
        """Two keys of the role's Secret; the Secret is created where it is not there."""
        data = {
            name: base64.b64encode(content).decode("ascii")
            for name, content in zip(self._keys, (credential.kubeconfig, credential.token), strict=True)
        }
        try:
            await self._patch("secrets", _secret(role), data)
        except ClusterNotFound:
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "Opaque",
                "metadata": {
                    "name": _secret(role),
                    "labels": {"app.kubernetes.io/part-of": "federation-hub"},
                },
                "data": data,
            }
            await self._session.request(
                "POST",
                self._path("secrets"),
                params={"fieldManager": FIELD_MANAGER},
                body=msgspec.json.encode(secret),
            )

    @property
    def _keys(self) -> tuple[str, str]:
        return self._cluster, token_file_of(self._cluster)

    async def remove_credential(self, role: str) -> bool:
        """As :meth:`Places.remove_credential`."""
        if await self.credential(role) is None:
            return False
        await self._patch("secrets", _secret(role), dict.fromkeys(self._keys))
        return True

    async def _get(self, plural: str, name: str) -> _WithData:
        return self._read(await self._session.get(self._path(plural, name)))

    async def _patch(
        self, plural: str, name: str, data: dict[str, str] | dict[str, None], version: str = ""
    ) -> _WithData:
        """A merge patch (RFC 7386) of the keys given; only of that resourceVersion where one is given."""
        body = {"metadata": {"resourceVersion": version} if version else {}, "data": data}
        try:
            answer = await self._session.request(
                "PATCH",
                self._path(plural, name),
                params={"fieldManager": FIELD_MANAGER},
                body=msgspec.json.encode(body),
                content_type=MERGE,
            )
        except ClusterForbidden as error:
            raise ClusterForbidden(
                error.what,
                where=error.where,
                remedy=f"use the kubeconfig of an administrator of the namespace {self._namespace} with "
                "--hub-kubeconfig and --hub-context",
            ) from error
        return self._read(answer)

    def _read(self, answer: bytes) -> _WithData:
        try:
            return msgspec.json.decode(answer, type=_WithData)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ClusterGarbage("an object is not what the API promises", where=self.label) from None


def _decoded(encoded: str) -> bytes:
    """A value of a Secret; nothing where it is none."""
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return b""


def _secret(role: str) -> str:
    return f"federation-{role}-kubeconfigs"
