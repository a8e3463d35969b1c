"""Where a role's token for a member cluster is kept: a file beside its kubeconfig, or a key of a Secret.

In a pod the file is a mount of the Secret, which the kubelet brings up to date a minute or two later, and which nothing
can be written to: there the Secret is what counts, and the file follows. Both are changed only where they still hold
the token that the new one replaces, since several processes may share them.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec

from federation.core.errors import (
    ClusterConflict,
    ClusterForbidden,
    ClusterGarbage,
    ClusterNotFound,
    FederationError,
)
from federation.files import read_in_time
from federation.kubernetes.token_life import MOST_TOKEN

SECRET_TIMEOUT: Final = 5.0
"""Seconds for one request about the Secret: a hub whose own API server hangs goes on with the token that it has."""
SWAPS: Final = 8
"""Attempts at a change of the Secret: it holds a key for each member, and any of them may be written meanwhile."""
FIELD_MANAGER: Final = "federation-token-renewal"
MERGE: Final = "application/merge-patch+json"


class TokenPlace(Protocol):
    """Where one token is kept."""

    label: str
    """What status calls it."""

    async def read(self) -> str:
        """The token that is there now. Raises FederationError and OSError."""
        ...

    async def replace(self, *, before: str, after: str) -> str:
        """Put ``after`` there if ``before`` still is, and return what is there then.

        Raises FederationError and OSError.
        """
        ...


class TokenFile:
    """A file that this process may write."""

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path

    async def read(self) -> str:
        """As :meth:`TokenPlace.read`."""
        return await read_in_time(self.label, partial(read_token, self._path))

    async def replace(self, *, before: str, after: str) -> str:
        """As :meth:`TokenPlace.replace`: atomically, with the mode and owner of the file."""
        replaced = await read_in_time(
            f"write {self.label}", partial(replace_token, self._path, before=before, after=after)
        )
        return after if replaced else await self.read()


def may_keep(directory: Path) -> bool:
    """Whether what this process writes there stays: it may, and no kubelet replaces what is there. Blocks.

    A kubelet writes a volume of a Secret into a folder of its own and turns the link ``..data`` to it (Kubernetes,
    ``pkg/volume/util/atomic_writer.go``).
    """
    return not (directory / "..data").is_symlink() and os.access(directory, os.W_OK)


def read_token(file: Path) -> str:
    """The token in a file. Blocks. Raises OSError."""
    with file.open("rb") as opened:
        return opened.read(MOST_TOKEN).decode("ascii", "replace").strip()


def replace_token(file: Path, *, before: str, after: str) -> bool:
    """Put ``after`` there atomically, with the mode and owner of the file; not where it holds another than ``before``.

    False where another process was faster. Blocks. Raises OSError.
    """
    with file.open("rb") as current:
        if current.read(256 * 1024).decode("ascii", "replace").strip() != before:
            return False
        made = os.fstat(current.fileno())
    descriptor, staged = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as written:
            own = os.fstat(written.fileno())
            if (own.st_uid, own.st_gid) != (made.st_uid, made.st_gid):
                os.fchown(written.fileno(), made.st_uid, made.st_gid)
            written.write(after.encode("ascii"))
            written.flush()
            os.fsync(written.fileno())
        Path(staged).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(staged).unlink()
        raise
    return True


class SecretApi(Protocol):
    """What is needed of a session with the hub's own cluster. Raises ClusterErrors and nothing else."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> bytes:
        """The body of a 2xx answer, within ``timeout`` seconds."""
        ...


class KubeconfigSecret:
    """The Secret in the hub's own cluster that a role's kubeconfigs are mounted from; it holds a key for each file.

    The role needs ``get`` and ``patch`` on this one object, which hold no more than what is mounted in it anyway.
    """

    def __init__(self, api: SecretApi, *, namespace: str, name: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        self._label = f"Secret {namespace}/{name}"
        self.show_writers = f"`kubectl -n {namespace} get secret {name} -o yaml --show-managed-fields`"
        """The command that shows who wrote it last."""

    def place(self, key: str) -> TokenSecret:
        """The token under that key, which is the name of the mounted file."""
        return TokenSecret(self, key, f"{self._label}, key {key}")

    async def get(self, key: str, label: str) -> tuple[str, str]:
        """The text under that key, and the resourceVersion it was read at. Raises ClusterErrors, FederationError."""
        try:
            found = self._decoded(await self._request("GET"), label)
        except ClusterNotFound as error:
            raise _is_gone(label) from error
        encoded = (found.data or {}).get(key)
        if encoded is None:
            raise _is_gone(label)
        try:
            text = base64.b64decode(encoded, validate=True).decode("ascii").strip()
        except (binascii.Error, UnicodeDecodeError):
            raise ClusterGarbage("what is there is no token", where=label) from None
        return text, found.metadata.resource_version

    async def put(self, key: str, text: str, version: str) -> None:
        """Write the key, if the Secret is still of that resourceVersion. Raises ClusterConflict, ClusterErrors."""
        encoded = base64.b64encode(text.encode("ascii")).decode("ascii")
        body = {"metadata": {"resourceVersion": version}, "data": {key: encoded}}
        await self._request("PATCH", msgspec.json.encode(body))

    async def _request(self, method: str, body: bytes | None = None) -> bytes:
        try:
            return await self._api.request(
                method,
                self._path,
                params={"fieldManager": FIELD_MANAGER} if body is not None else None,
                body=body,
                content_type=MERGE if body is not None else "application/json",
                timeout=SECRET_TIMEOUT,
            )
        except ClusterForbidden as error:
            raise ClusterForbidden(
                error.what,
                where=self._label,
                remedy="grant the role get and patch on that Secret, as manifests/hub/kubeconfigs.yaml does; "
                "until then the renewed token is lost with the process",
            ) from error

    def _decoded(self, answer: bytes, label: str) -> _Secret:
        try:
            return msgspec.json.decode(answer, type=_Secret)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ClusterGarbage("the Secret is not what the API promises", where=label) from None


class TokenSecret:
    """One key of that Secret. Made by :meth:`KubeconfigSecret.place`."""

    def __init__(self, secret: KubeconfigSecret, key: str, label: str) -> None:
        self.label = label
        self._secret = secret
        self._key = key

    async def read(self) -> str:
        """As :meth:`TokenPlace.read`."""
        return (await self._secret.get(self._key, self.label))[0]

    async def replace(self, *, before: str, after: str) -> str:
        """As :meth:`TokenPlace.replace`. A write of another key, or one whose answer was lost, is no other's token."""
        for _ in range(SWAPS):
            there, version = await self._secret.get(self._key, self.label)
            if there != before:
                return there
            try:
                await self._secret.put(self._key, after, version)
            except ClusterConflict:
                continue
            return after
        raise ClusterConflict(
            f"it was changed {SWAPS} times while one key of it was to be written",
            where=self.label,
            remedy=f"see who keeps writing it: {self._secret.show_writers}",
        )


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: Annotated[str, msgspec.Meta(max_length=128)]


class _Secret(msgspec.Struct):
    metadata: _Meta
    data: dict[str, str] | None = None


def _is_gone(label: str) -> FederationError:
    return FederationError(
        "is not there any more: the renewed token cannot be stored",
        where=label,
        reason="token_secret",
        remedy="run `federation clusters add` again for that cluster, which makes the credential anew",
    )
