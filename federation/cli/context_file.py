"""The file that says where hubs are: named contexts as in a kubeconfig, one of them current; tokens by their files.

It is ``federation/contexts.toml`` below ``XDG_CONFIG_HOME`` (default: ``~/.config``). No token is in it. Who can
write it decides which server a token is sent to, so it has to be its user's alone, and so has each token's file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from federation.core.config.mistakes import suggestion
from federation.core.errors import ConfigurationError, Mistake
from federation.files import read_now

NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?", re.ASCII)
MOST_BYTES: Final = 256 * 1024
HEADING: Final = "# Where hubs are: `federation context` reads and writes this file.\n"
SERVICE_HOST: Final = re.compile(
    r"(?P<service>[a-z0-9]([a-z0-9-]*[a-z0-9])?)\.(?P<namespace>[a-z0-9]([a-z0-9-]*[a-z0-9])?)\.svc(\.[a-z0-9.-]+)?"
)
_QUOTED: Final = re.compile(r"[A-Za-z0-9_-]+")


class HubContext(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One hub and how it is asked.

    ``kubeconfig`` or ``kube_context`` say that nothing listens for us at ``url``: its host is a Service,
    ``NAME.NAMESPACE.svc``, which is reached by a port-forward through that API server.
    """

    url: str
    token_file: str = ""
    ca_file: str = ""
    server_name: str = ""
    kubeconfig: str = ""
    kube_context: str = ""

    @property
    def forwarded(self) -> bool:
        """Whether it is reached through an API server."""
        return bool(self.kubeconfig or self.kube_context)


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    current: str = ""
    contexts: dict[str, HubContext] = msgspec.field(default_factory=dict)


@dataclass
class Contexts:
    """What the file holds. Changes are in memory until :meth:`save`."""

    path: Path
    current: str = ""
    by_name: dict[str, HubContext] = field(default_factory=dict)

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ) -> Contexts:
        """The file's content; empty where there is none. Raises ConfigurationError."""
        path = contexts_path(environment)
        try:
            _check_owned(path)
            text = read_now(path, MOST_BYTES).decode("utf-8")
            document = msgspec.convert(tomllib.loads(text), _Document)
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise _mistake(path, "", f"cannot be read: {error.strerror or error}", "") from error
        except (ValueError, msgspec.ValidationError) as error:
            raise _mistake(
                path, "", f"cannot be used: {error}", "correct it, or move it away and add the contexts anew"
            ) from error
        found = cls(path, document.current, document.contexts)
        for name, context in found.by_name.items():
            check_context(name, context, where=path)
        return found

    def named(self, name: str) -> HubContext:
        """The context of that name. Raises ConfigurationError."""
        found = self.by_name.get(name)
        if found is None:
            remedy = (
                suggestion(name, self.by_name) if self.by_name else "add it with `federation context add`"
            )
            raise _mistake(self.path, "", f"no context is named {name[:100]}", remedy)
        return found

    def put(self, name: str, context: HubContext) -> None:
        """Add it, or replace the one of that name; the first of all becomes the current one."""
        check_context(name, context, where=self.path)
        if not self.by_name:
            self.current = name
        self.by_name[name] = context

    def remove(self, name: str) -> None:
        """Take it out; then none is current where it was. Raises ConfigurationError where it is not there."""
        self.named(name)
        del self.by_name[name]
        if self.current == name:
            self.current = ""

    def save(self) -> None:
        """Write the file atomically, of mode 0600. Raises ConfigurationError."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, staged = tempfile.mkstemp(prefix=".contexts.", dir=self.path.parent)  # mode 0600
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(self._text())
                    file.flush()
                    os.fsync(file.fileno())
                Path(staged).replace(self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(staged).unlink()
                raise
        except OSError as error:
            raise _mistake(
                self.path,
                "",
                f"cannot be written: {error.strerror or error}",
                "check the directory and its permissions",
            ) from error

    def _text(self) -> str:
        lines = [HEADING]
        if self.current:
            lines.append(f"current = {_string(self.current)}\n")
        for name, context in self.by_name.items():
            key = name if _QUOTED.fullmatch(name) else _string(name)
            lines.append(f"\n[contexts.{key}]\n")
            lines += [f"{key} = {_string(value)}\n" for key, value in msgspec.to_builtins(context).items()]
        return "".join(lines)


def contexts_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the file is (XDG Base Directory Specification: a relative ``XDG_CONFIG_HOME`` is passed over)."""
    base = environment.get("XDG_CONFIG_HOME", "")
    directory = Path(base) if Path(base).is_absolute() else Path.home() / ".config"
    return directory / "federation" / "contexts.toml"


def check_context(name: str, context: HubContext, *, where: Path) -> None:
    """Raise ConfigurationError for a name or a context that cannot be used."""
    key = f"contexts.{name[:100]}"
    if not NAME.fullmatch(name):
        raise _mistake(where, key, "is not a name", "use letters, digits, '-', '_' and '.'")
    parts = urlsplit(context.url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise _mistake(where, f"{key}.url", "is no http or https URL", "write such as https://HOST:8080")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise _mistake(where, f"{key}.url", "holds more than an address", "write scheme, host and port only")
    if context.forwarded and not SERVICE_HOST.fullmatch(parts.hostname):
        raise _mistake(
            where,
            f"{key}.url",
            "names no Service, and is to be reached through an API server",
            "write https://federation-status.NAMESPACE.svc:PORT, or leave out the kubeconfig",
        )
    for kind in ("token_file", "ca_file", "kubeconfig"):
        value = getattr(context, kind)
        if value and not Path(value).is_absolute():
            raise _mistake(where, f"{key}.{kind}", "is not an absolute path", "write the whole path")


def check_token_file(path: Path) -> None:
    """Raise ConfigurationError for a token that others on this machine may read."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise _mistake(
            path, "", f"cannot be read: {error.strerror or error}", "put the hub's token there, mode 0600"
        ) from error
    if mode & 0o077:
        raise _mistake(
            path, "", f"holds a token and others may open it (mode {mode:04o})", f"chmod 600 {path}"
        )


def _check_owned(path: Path) -> None:
    found = path.stat()
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
        raise _mistake(
            path,
            "",
            "can be written by others, who would choose where tokens are sent",
            f"chown it to yourself, and chmod 600 {path}",
        )


def _mistake(path: Path, key: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Mistake(str(path), key, problem, remedy)])


def _string(text: str) -> str:
    """A basic string of TOML: JSON's is one, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
