"""An exec plugin of a kubeconfig, run only where the operator's own configuration allows its command.

No shell, bounded time and output, and nothing it prints ever reaches a log: its output *is* the credential.
Contract: Kubernetes documentation, "client-go credential plugins" (``client.authentication.k8s.io/v1``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import msgspec

from federation.core.errors import ClusterUnauthorized, InvalidValue
from federation.files import read_bounded, read_in_time, remedy_of
from federation.kubernetes.kubeconfig import ClusterInfo, ExecPlugin, without_nulls
from federation.kubernetes.safe_yaml import load_yaml

TIMEOUT: Final = 30.0
"""Seconds. Cloud plugins ask a token service and take up to a few; a longer one is stuck at a prompt."""

MAX_OUTPUT: Final = 256 * 1024
DRAIN: Final = 1.0
"""Seconds for what a plugin that was ended has printed; only what left its session can hold the pipe open."""


class _Status(msgspec.Struct, rename="camel", frozen=True):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class _ExecCredential(msgspec.Struct, rename="camel", frozen=True):
    kind: str = ""
    api_version: str = ""
    status: _Status = _Status()


@dataclass(frozen=True, slots=True)
class PluginCredential:
    """What a plugin handed out; ``expires`` is None where it holds until the server refuses it."""

    token: str
    certificate: bytes | None
    key: bytes | None
    expires: datetime | None

    def __repr__(self) -> str:
        return f"PluginCredential(expires={self.expires})"


async def run_plugin(
    plugin: ExecPlugin,
    *,
    where: str,
    directory: Path,
    cluster: ClusterInfo,
    authority: bytes | None,
    environ: Mapping[str, str],
    timeout: float = TIMEOUT,
) -> PluginCredential:
    """Run the plugin and take its ExecCredential apart.

    A command with a slash is relative to the kubeconfig's ``directory``, a bare one is looked up in the hub's
    own PATH. Raises :class:`ClusterUnauthorized` in every case of failure, with nothing of the output in it.
    """
    try:
        command = await read_in_time(
            f"the exec plugin {plugin.command}", partial(_resolve, plugin.command, directory, environ)
        )
    except TimeoutError as error:
        raise _failed(plugin, where, f"cannot be looked up: {error.strerror}") from None
    if command is None:
        raise _failed(plugin, where, "is not there or cannot be executed")
    environment = dict(environ) | {variable.name: variable.value for variable in plugin.env if variable}
    environment["KUBERNETES_EXEC_INFO"] = _exec_info(plugin, cluster, authority)
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *(argument or "" for argument in plugin.args),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        remedy = remedy_of(error, RUN_IT)
        raise _failed(plugin, where, f"cannot be started ({error.strerror})", remedy) from None
    try:
        async with asyncio.timeout(timeout):
            output = await _read_bounded(process)
            # One that prints too much may wait for its output to be read, and is ended below.
            code = await process.wait() if output is not None else 0
    except TimeoutError:
        raise _failed(plugin, where, f"gave no answer in {timeout:g} s") from None
    finally:
        await _end(process)
    if output is None:
        raise _failed(plugin, where, f"printed more than {MAX_OUTPUT} bytes")
    if code != 0:
        raise _failed(plugin, where, f"ended with exit code {code}")
    return _parse(output, plugin, where)


def _resolve(command: str, directory: Path, environ: Mapping[str, str]) -> str | None:
    """The path of the command, None where there is none. Blocks.

    A byte of it is read, where that is allowed: what hangs does so here, and not while the process is being started,
    which would hold up the loop.
    """
    if "/" in command:
        path = directory / command
        found = str(path) if os.access(path, os.X_OK) and path.is_file() else None
    else:
        found = shutil.which(command, path=environ.get("PATH"))
    if found is not None:
        with contextlib.suppress(PermissionError):
            read_bounded(Path(found), 0)
    return found


def _exec_info(plugin: ExecPlugin, cluster: ClusterInfo, authority: bytes | None) -> str:
    """``KUBERNETES_EXEC_INFO`` as client-go writes it: what is empty is left out, but for ``config``."""
    spec: dict[str, object] = {}
    if plugin.provide_cluster_info:
        about: dict[str, object] = {
            "tls-server-name": cluster.tls_server_name,
            "certificate-authority-data": authority,
            "proxy-url": cluster.proxy_url,
            "disable-compression": cluster.disable_compression,
        }
        present = {key: value for key, value in about.items() if value}
        spec["cluster"] = {"server": cluster.server, **present, "config": cluster.config}
    spec["interactive"] = False
    info = {"kind": "ExecCredential", "apiVersion": plugin.api_version, "spec": spec}
    return msgspec.json.encode(info).decode()


async def _read_bounded(process: asyncio.subprocess.Process) -> bytes | None:
    """The whole output, or None where it is longer than allowed."""
    output = bytearray()
    while process.stdout is not None and (chunk := await process.stdout.read(65536)):
        output += chunk
        if len(output) > MAX_OUTPUT:
            return None
    return bytes(output)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the plugin with everything it started (it leads a separate session)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        if process.returncode is None:
            process.kill()
    await process.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN):  # to its end, so that the pipe is closed with it
            while process.stdout is not None and await process.stdout.read(65536):
                pass


def _parse(output: bytes, plugin: ExecPlugin, where: str) -> PluginCredential:
    try:
        # client-go takes JSON and YAML; what begins as JSON has to be JSON to its end.
        is_json = output.lstrip().startswith(b"{")
        document = msgspec.json.decode(output) if is_json else load_yaml(output, longest=MAX_OUTPUT)
        credential = msgspec.convert(without_nulls(document), _ExecCredential)
    except (msgspec.MsgspecError, UnicodeError, InvalidValue):
        raise _failed(plugin, where, "printed no ExecCredential") from None
    status = credential.status
    if credential.kind != "ExecCredential" or credential.api_version != plugin.api_version:
        raise _failed(plugin, where, "printed another kind or version than asked for")
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise _failed(plugin, where, "printed a certificate without a key, or a key without a certificate")
    if not status.token and not status.client_certificate_data:
        raise _failed(plugin, where, "printed neither a token nor a certificate")
    if status.token and not (
        status.token.isascii() and status.token.isprintable() and " " not in status.token
    ):
        raise _failed(plugin, where, "printed a token with characters no bearer token has")
    return PluginCredential(
        token=status.token,
        certificate=status.client_certificate_data.encode() or None,
        key=status.client_key_data.encode() or None,
        expires=status.expiration_timestamp,
    )


RUN_IT: Final = "run the command by hand as the hub's user; its output is kept out of every log"


def _failed(plugin: ExecPlugin, where: str, what: str, remedy: str = RUN_IT) -> ClusterUnauthorized:
    return ClusterUnauthorized(
        f"the exec plugin {plugin.command[:100]!r} {what}",
        where=where,
        remedy=remedy,
        reason="exec_plugin",
    )
