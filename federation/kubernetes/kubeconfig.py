"""A kubeconfig's text to the one entry a context names, or every reason why it cannot be used.

Pure: files are named, not opened. What kubectl reads is read as kubectl reads it; the format is ``v1.Config`` of
client-go (Kubernetes documentation, "kubeconfig (v1)"), decoded by the rules of Go's encoding/json: null leaves a
field alone, a number is no string, base64 may be wrapped in lines. What would weaken or replace the checks that the hub
relies on is refused, not ignored: ``insecure-skip-tls-verify``, plain HTTP, auth-provider, passwords, impersonation,
and exec plugins that the operator's own configuration does not allow. docs/security.md lists each difference from
kubectl.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from federation.core.errors import ConfigurationError, InvalidValue, Mistake
from federation.kubernetes.safe_yaml import load_yaml

MAX_KUBECONFIG_BYTES: Final = 1024 * 1024
"""Two hundred clusters with their certificates are about 600 KiB."""

_UNSAFE_PLUGIN_ENVIRONMENT: Final = ("PATH", "IFS", "ENV", "BASH_ENV", "SHELLOPTS")
_UNSAFE_PLUGIN_PREFIXES: Final = ("LD_", "DYLD_", "PYTHON", "PERL", "RUBY", "NODE_", "JAVA_", "GCONV_")

EXEC_EXTENSION: Final = "client.authentication.k8s.io/exec"
"""The extension of a cluster that is handed to an exec plugin as ``spec.cluster.config``."""

_LEFT_OUT: Final = ("DATA+OMITTED", "REDACTED")
"""What ``kubectl config view`` prints in place of a secret without ``--raw``. Both are valid base64."""

_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z", re.ASCII)


_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Encoded = str | list[_Byte]
"""Bytes, as base64 or, since Go's decoder takes that as well, as a list of numbers."""


class _Strict(msgspec.Struct, rename="kebab", frozen=True):
    pass


class _Extension(msgspec.Struct, frozen=True):
    name: str = ""
    extension: Any = None


class _Cluster(_Strict, frozen=True):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: _Encoded = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    disable_compression: bool = False
    extensions: list[_Extension | None] = []


class _Variable(msgspec.Struct, frozen=True):
    name: str = ""
    value: str = ""


class ExecPlugin(msgspec.Struct, frozen=True, rename="camel"):
    """``users[].user.exec``: a command that prints an ExecCredential."""

    command: str = ""
    api_version: str = ""
    args: list[str | None] = []
    env: list[_Variable | None] = []
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"
    install_hint: str = ""


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """What an exec plugin with ``provideClusterInfo`` is given beside the certificate authority."""

    server: str
    """As the kubeconfig has it."""
    tls_server_name: str = ""
    proxy_url: str = ""
    disable_compression: bool = False
    config: Any = None
    """The cluster's extension of the name :data:`EXEC_EXTENSION`, any JSON value."""


class _AuthProvider(msgspec.Struct, frozen=True):
    name: str = ""
    config: dict[str, str] = {}


class _User(_Strict, frozen=True):
    client_certificate: str = ""
    client_certificate_data: _Encoded = ""
    client_key: str = ""
    client_key_data: _Encoded = ""
    token: str = ""
    token_file: str = msgspec.field(name="tokenFile", default="")
    username: str = ""
    password: str = ""
    impersonate: str = msgspec.field(name="as", default="")
    as_uid: str = ""
    as_groups: list[str | None] = []
    as_user_extra: dict[str, list[str | None]] = {}
    auth_provider: _AuthProvider | None = None
    exec_: ExecPlugin | None = msgspec.field(name="exec", default=None)
    extensions: list[_Extension | None] = []


class _Context(_Strict, frozen=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""
    extensions: list[_Extension | None] = []


class _NamedCluster(_Strict, frozen=True):
    name: str = ""
    cluster: _Cluster = _Cluster()


class _NamedUser(_Strict, frozen=True):
    name: str = ""
    user: _User = _User()


class _NamedContext(_Strict, frozen=True):
    name: str = ""
    context: _Context = _Context()


class _Preferences(_Strict, frozen=True):
    colors: bool = False
    extensions: list[_Extension | None] = []


class _Kubeconfig(_Strict, frozen=True):
    """What the hub does not use is here for its type: kubectl refuses a file in which it is another."""

    kind: str = ""
    api_version: str = msgspec.field(name="apiVersion", default="")
    preferences: _Preferences = _Preferences()
    clusters: list[_NamedCluster | None] = []
    users: list[_NamedUser | None] = []
    contexts: list[_NamedContext | None] = []
    current_context: str = ""
    extensions: list[_Extension | None] = []


@dataclass(frozen=True, slots=True)
class Material:
    """Bytes from the kubeconfig itself, or the name of the file that holds them; neither: absent."""

    data: bytes | None = None
    file: str = ""

    def __bool__(self) -> bool:
        return self.data is not None or bool(self.file)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a context comes to. Secrets do not show in its repr."""

    context: str
    server: str
    authority: Material
    tls_server_name: str
    proxy_url: str
    certificate: Material
    key: Material
    token: str
    token_file: str
    plugin: ExecPlugin | None
    info: ClusterInfo

    def __repr__(self) -> str:
        return f"Entry(context={self.context!r}, server={self.server!r})"


Named = TypeVar("Named", _NamedCluster, _NamedUser, _NamedContext)


def parse_kubeconfig(
    text: bytes, *, file: str, context: str | None, allowed_exec: Sequence[str] = ()
) -> Entry:
    """The entry of ``context`` (None: the current context). Raises ConfigurationError with every finding."""
    return _entry_of(_decode(text, file), file, context, allowed_exec)


def parse_foreign_kubeconfig(text: bytes, *, file: str) -> Entry:
    """The entry of the current context of what others wrote, which is not kept, as :func:`parse_kubeconfig` keeps it.

    Raises ConfigurationError with every finding; an exec plugin is one.
    """
    return _entry_of(_read(text, file), file, None, ())


def _entry_of(config: _Kubeconfig, file: str, context: str | None, allowed_exec: Sequence[str]) -> Entry:
    find = _Findings(file)
    name = context or config.current_context
    if not name:
        find.add(
            "current-context",
            "no context is chosen",
            "set `context` for this cluster, or current-context here",
        )
        raise ConfigurationError(find.found)
    chosen = find.one(config.contexts, name, "contexts", "context")
    if chosen is None:
        raise ConfigurationError(find.found)
    names = chosen.context
    cluster_entry = find.one(config.clusters, names.cluster, "clusters", f"cluster of context {name}")
    user_entry = find.one(config.users, names.user, "users", f"user of context {name}")
    if cluster_entry is None or user_entry is None:
        raise ConfigurationError(find.found)
    cluster, user = cluster_entry.cluster, user_entry.user
    _check_cluster(cluster, f"clusters[{names.cluster}].cluster", find)
    _check_user(user, f"users[{names.user}].user", find, allowed_exec)
    at = f"clusters[{names.cluster}].cluster"
    entry = Entry(
        context=name,
        server=cluster.server.rstrip("/"),
        authority=find.material(
            cluster.certificate_authority, cluster.certificate_authority_data, at, "certificate-authority"
        ),
        tls_server_name=cluster.tls_server_name,
        proxy_url=cluster.proxy_url,
        certificate=find.material(
            user.client_certificate,
            user.client_certificate_data,
            f"users[{names.user}].user",
            "client-certificate",
        ),
        key=find.material(user.client_key, user.client_key_data, f"users[{names.user}].user", "client-key"),
        token=user.token,
        token_file=user.token_file,
        # client-go runs no plugin where there is a token as well.
        plugin=None if user.token or user.token_file else user.exec_,
        info=ClusterInfo(
            server=cluster.server,
            tls_server_name=cluster.tls_server_name,
            proxy_url=cluster.proxy_url,
            disable_compression=cluster.disable_compression,
            config=next((e.extension for e in cluster.extensions if e and e.name == EXEC_EXTENSION), None),
        ),
    )
    if find.found:
        raise ConfigurationError(find.found)
    return entry


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """A ``cluster`` of the format without a user: an API server, and what it is verified by."""

    server: str
    authority: Material


def parse_cluster(value: object, *, file: str) -> ServerEntry:
    """The ``cluster`` of a kubeconfig by itself, as a ClusterProfile holds it (``v1.Cluster`` of client-go).

    Raises ConfigurationError with every finding.
    """
    cluster = _converted(value, _Cluster, file)
    find = _Findings(file)
    _check_cluster(cluster, "cluster", find)
    authority = find.material(
        cluster.certificate_authority,
        cluster.certificate_authority_data,
        "cluster",
        "certificate-authority",
    )
    if find.found:
        raise ConfigurationError(find.found)
    return ServerEntry(cluster.server.rstrip("/"), authority)


def exec_command(text: bytes, *, file: str, context: str | None) -> str:
    """The command of the exec plugin that this context's user has, empty where it has none or is not there.

    For a kubeconfig of the person who runs a command: kubectl would run the same. Raises ConfigurationError where the
    file cannot be read.
    """
    config = _decode(text, file)
    name = context or config.current_context
    user = next((c.context.user for c in config.contexts if c is not None and c.name == name), "")
    found = next((u.user for u in config.users if u is not None and u.name == user), None)
    return found.exec_.command if found is not None and found.exec_ is not None else ""


# msgspec resolves a type when it is first used, and two threads that do so at once can crash the process (seen with
# 0.22: a segmentation fault). Kubeconfigs are read in threads, so theirs are resolved here, at import, in one.
msgspec.json.Decoder(_Kubeconfig)

_Kind = TypeVar("_Kind")


def _converted(value: object, kind: type[_Kind], file: str) -> _Kind:
    """The JSON ``value`` as that struct. Raises ConfigurationError with the place of what is not of its type."""
    try:
        return msgspec.convert({} if value is None else without_nulls(value), kind)
    except (msgspec.ValidationError, UnicodeError) as error:
        # msgspec names the place and the types, never the value.
        problem, _, place = str(error).partition(" - at ")
        raise ConfigurationError(
            [
                Mistake(
                    file,
                    place.strip("`"),
                    problem[:200],
                    "write it as the kubeconfig (v1) reference says, strings that look like numbers or booleans in "
                    "quotes",
                )
            ]
        ) from None


def _read(text: bytes, file: str) -> _Kubeconfig:
    def refuse(key: str, problem: str, remedy: str) -> ConfigurationError:
        return ConfigurationError([Mistake(file, key, problem, remedy)])

    if len(text) > MAX_KUBECONFIG_BYTES:
        raise refuse(
            "", f"is larger than {MAX_KUBECONFIG_BYTES} bytes", "keep only the contexts the hub uses"
        )
    try:
        document = load_yaml(text, longest=MAX_KUBECONFIG_BYTES)
    except InvalidValue as error:
        raise refuse(
            "", error.what, "write it again, for example with `kubectl config view --raw --flatten --minify`"
        ) from None
    config = _converted(document, _Kubeconfig, file)
    if config.kind not in {"", "Config"} or config.api_version not in {"", "v1"}:
        raise refuse(
            "kind", "is not a kubeconfig of version v1", "name a file with kind: Config, apiVersion: v1"
        )
    return config


_decode: Final = lru_cache(maxsize=2)(_read)
"""One file with a context for each of two hundred clusters is read two hundred times."""


def without_nulls(value: Any) -> Any:
    """The JSON ``value`` as Go's encoding/json decodes it into a struct: a field whose value is null is left alone.

    An extension is kept as it is: client-go passes it on unread.
    """
    if isinstance(value, dict):
        return {
            key: inner if key == "extension" else without_nulls(inner)
            for key, inner in value.items()
            if inner is not None or key == "extension"
        }
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


class _Findings:
    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Mistake] = []

    def add(self, key: str, problem: str, remedy: str) -> list[Mistake]:
        self.found.append(Mistake(self.file, key, problem, remedy))
        return self.found

    def one(self, entries: Sequence[Named | None], name: str, kind: str, what: str) -> Named | None:
        there = [entry for entry in entries if entry is not None]
        matching = [entry for entry in there if entry.name == name]
        if len(matching) == 1:
            return matching[0]
        if matching:
            self.add(f"{kind}[{name}]", "is there more than once", "keep one of them")
        else:
            known = ", ".join(sorted(entry.name for entry in there)[:10])
            self.add(
                f"{kind}[{name}]",
                f"the {what} is not there",
                f"choose one of: {known}" if known else "add it",
            )
        return None

    def material(self, file: str, data: _Encoded, at: str, key: str) -> Material:
        """``-data`` wins over the file, as it does for kubectl. Go skips line ends in base64, and nothing else."""
        if isinstance(data, list):
            return Material(data=bytes(data)) if data else Material(file=file)
        if data in _LEFT_OUT:
            self.left_out(f"{at}.{key}-data")
            return Material()
        encoded = data.replace("\r", "").replace("\n", "")
        if _BASE64.match(encoded):
            return Material(data=base64.b64decode(encoded)) if encoded else Material(file=file)
        self.add(
            f"{at}.{key}-data", "is not base64", "write it again with `kubectl config view --raw --flatten`"
        )
        return Material()

    def left_out(self, at: str) -> None:
        self.add(
            at,
            "was left out by `kubectl config view`, which prints no secrets by itself",
            "write the file again with `kubectl config view --raw --flatten`",
        )


def _check_cluster(cluster: _Cluster, at: str, find: _Findings) -> None:
    if cluster.insecure_skip_tls_verify:
        find.add(
            f"{at}.insecure-skip-tls-verify",
            "TLS verification is switched off",
            "remove it and set certificate-authority-data; for another host name set tls-server-name",
        )
    _check_url(cluster.server, f"{at}.server", "https", find, "set the https:// URL of the API server")
    if cluster.proxy_url:
        remedy = (
            "use an http:// proxy that supports CONNECT; TLS to the API server runs through it end to end; "
            "https:// and socks5:// proxies are not supported"
        )
        _check_url(cluster.proxy_url, f"{at}.proxy-url", "http", find, remedy, userinfo=True)
    if cluster.tls_server_name and not _is_host(cluster.tls_server_name):
        find.add(
            f"{at}.tls-server-name", "is not a host name", "set a name from the API server's certificate"
        )


def _check_url(
    url: str, at: str, scheme: str, find: _Findings, remedy: str, *, userinfo: bool = False
) -> None:
    try:
        parts = urlsplit(url)
        valid = (
            parts.scheme == scheme
            and _is_host(parts.hostname or "")
            and (parts.port is None or parts.port > 0)
            and not parts.query
            and not parts.fragment
            and (userinfo or "@" not in parts.netloc)
            and url.isascii()
            and url.isprintable()
            and not any(c in url for c in ' "<>\\^`{|}%' if not userinfo)
            and ".." not in parts.path
        )
    except ValueError:
        valid = False
    if not valid:
        find.add(at, f"is not an {scheme}:// URL that can be used", remedy)


def _is_host(name: str) -> bool:
    return 0 < len(name) <= 253 and name.isascii() and all(c.isalnum() or c in ".-_:" for c in name)


def _check_user(user: _User, at: str, find: _Findings, allowed_exec: Sequence[str]) -> None:
    if user.auth_provider is not None:
        find.add(
            f"{at}.auth-provider",
            "auth providers are not supported",
            "use a token, tokenFile, client certificate or exec plugin",
        )
    if user.username or user.password:
        find.add(
            f"{at}.username",
            "passwords are not supported",
            "use a token; Kubernetes has taken no passwords since 1.19",
        )
    if user.impersonate or user.as_uid or user.as_groups or user.as_user_extra:
        find.add(
            f"{at}.as",
            "impersonation is not supported: it needs rights to act as others",
            "give the hub credentials of its own",
        )
    if bool(user.client_certificate or user.client_certificate_data) != bool(
        user.client_key or user.client_key_data
    ):
        find.add(
            f"{at}.client-certificate", "client-certificate and client-key come only together", "set both"
        )
    if user.token in _LEFT_OUT:
        find.left_out(f"{at}.token")
    elif user.token and not _is_token(user.token):
        find.add(
            f"{at}.token",
            "holds characters no bearer token has",
            "write the token again, without line breaks",
        )
    if user.exec_ is not None:
        _check_plugin(user.exec_, f"{at}.exec", find, allowed_exec)
    if not (
        user.exec_ or user.token or user.token_file or user.client_certificate or user.client_certificate_data
    ):
        find.add(at, "holds no credentials", "set token, tokenFile or a client certificate with its key")


def _check_plugin(plugin: ExecPlugin, at: str, find: _Findings, allowed_exec: Sequence[str]) -> None:
    if plugin.command not in allowed_exec:
        find.add(
            f"{at}.command",
            "this exec plugin is not allowed",
            "name exactly this command in `allowed_exec` of the cluster, or use a token or certificate",
        )
    if plugin.api_version not in ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"):
        find.add(f"{at}.apiVersion", "is not supported", "use client.authentication.k8s.io/v1")
    if plugin.interactive_mode not in {"Never", "IfAvailable"}:
        find.add(
            f"{at}.interactiveMode",
            "the hub has no terminal at which a question could be answered",
            "use Never, and a plugin that needs no terminal",
        )
    for variable in filter(None, plugin.env):
        name = variable.name.upper()
        if (
            name in _UNSAFE_PLUGIN_ENVIRONMENT
            or name.startswith(_UNSAFE_PLUGIN_PREFIXES)
            or "=" in name
            or not name
        ):
            find.add(
                f"{at}.env",
                "sets a variable that decides which code runs",
                "set it for the hub itself, or not at all",
            )
    if any(
        "\0" in text
        for text in (
            plugin.command,
            *(arg for arg in plugin.args if arg),
            *(v.name + v.value for v in plugin.env if v),
        )
    ):
        find.add(at, "holds a NUL character", "remove it")


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
