"""A kubeconfig's text to the one entry a context names, or every reason why it cannot be used.

Pure: files are named, not opened. What would weaken or replace the checks that the hub relies on is
refused, not ignored: ``insecure-skip-tls-verify``, plain HTTP, auth-provider, passwords, impersonation, and
exec plugins that the operator's own configuration does not allow. The format is ``v1.Config`` of client-go
(Kubernetes documentation, "kubeconfig (v1)").
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from federation.clusters.safe_yaml import load_yaml
from federation.core.errors import ConfigurationError, Finding, InvalidValue

MAX_KUBECONFIG_BYTES: Final = 1024 * 1024
"""Two hundred clusters with their certificates are about 600 KiB."""

_UNSAFE_PLUGIN_ENVIRONMENT: Final = ("PATH", "IFS", "ENV", "BASH_ENV", "SHELLOPTS")
_UNSAFE_PLUGIN_PREFIXES: Final = ("LD_", "DYLD_", "PYTHON", "PERL", "RUBY", "NODE_", "JAVA_", "GCONV_")


class _Strict(msgspec.Struct, rename="kebab", frozen=True):
    pass


class _Cluster(_Strict, frozen=True):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _Variable(msgspec.Struct, frozen=True):
    name: str
    value: str


class ExecPlugin(msgspec.Struct, frozen=True, rename="camel"):
    """``users[].user.exec``: a command that prints an ExecCredential."""

    command: str
    api_version: str = ""
    args: list[str] | None = None
    env: list[_Variable] | None = None
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"


class _User(_Strict, frozen=True):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(name="tokenFile", default="")
    username: str = ""
    password: str = ""
    impersonate: str = msgspec.field(name="as", default="")
    auth_provider: dict[str, Any] | None = None
    exec_: ExecPlugin | None = msgspec.field(name="exec", default=None)


class _Context(_Strict, frozen=True):
    cluster: str = ""
    user: str = ""


class _NamedCluster(_Strict, frozen=True):
    name: str
    cluster: _Cluster | None = None


class _NamedUser(_Strict, frozen=True):
    name: str
    user: _User | None = None


class _NamedContext(_Strict, frozen=True):
    name: str
    context: _Context | None = None


class _Kubeconfig(_Strict, frozen=True):
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None
    current_context: str = ""


@dataclass(frozen=True, slots=True)
class Material:
    """Bytes that stand in the kubeconfig, or the name of the file that holds them; neither: absent."""

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

    def __repr__(self) -> str:
        return f"Entry(context={self.context!r}, server={self.server!r})"


Named = TypeVar("Named", _NamedCluster, _NamedUser, _NamedContext)


def parse_kubeconfig(
    text: bytes, *, file: str, context: str | None, allowed_exec: Sequence[str] = ()
) -> Entry:
    """The entry of ``context`` (None: the current context). Raises ConfigurationError with every finding."""
    config = _decode(text, file)
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
    names = chosen.context if chosen else None
    if names is None:
        raise ConfigurationError(
            find.found or find.add(f"contexts[{name}]", "is empty", "name a cluster and a user")
        )
    cluster_entry = find.one(config.clusters, names.cluster, "clusters", f"cluster of context {name}")
    user_entry = find.one(config.users, names.user, "users", f"user of context {name}")
    cluster = cluster_entry.cluster if cluster_entry else None
    user = user_entry.user if user_entry else None
    if cluster is None or user is None:
        for missing, kind, of in ((cluster, "clusters", names.cluster), (user, "users", names.user)):
            if missing is None and not find.found:
                find.add(f"{kind}[{of}]", "is empty", "write it out, or choose another context")
        raise ConfigurationError(find.found)
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
        plugin=user.exec_,
    )
    if find.found:
        raise ConfigurationError(find.found)
    return entry


# msgspec resolves a type when it is first used, and two threads that do so at once can crash the process (seen with
# 0.22: a segmentation fault). Kubeconfigs are read in threads, so theirs are resolved here, at import, in one.
msgspec.json.Decoder(_Kubeconfig)


@lru_cache(maxsize=2)  # one file with a context for each of two hundred clusters is read two hundred times
def _decode(text: bytes, file: str) -> _Kubeconfig:
    def refuse(key: str, problem: str, remedy: str) -> ConfigurationError:
        return ConfigurationError([Finding(file, key, problem, remedy)])

    if len(text) > MAX_KUBECONFIG_BYTES:
        raise refuse(
            "", f"is larger than {MAX_KUBECONFIG_BYTES} bytes", "keep only the contexts the hub uses"
        )
    try:
        document = load_yaml(text, longest=MAX_KUBECONFIG_BYTES)
    except InvalidValue as error:
        raise refuse(
            "", error.what, "write it anew, for example with `kubectl config view --raw --minify`"
        ) from None
    try:
        return msgspec.convert(document, _Kubeconfig)
    except (msgspec.ValidationError, UnicodeError) as error:
        # msgspec names the place and the types, never the value.
        problem, _, place = str(error).partition(" - at ")
        raise refuse(
            place.strip("`"), problem[:200], "write it as the kubeconfig (v1) reference says"
        ) from None


class _Findings:
    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Finding] = []

    def add(self, key: str, problem: str, remedy: str) -> list[Finding]:
        self.found.append(Finding(self.file, key, problem, remedy))
        return self.found

    def one(self, entries: Sequence[Named] | None, name: str, kind: str, what: str) -> Named | None:
        matching = [entry for entry in entries or () if entry.name == name]
        if len(matching) == 1:
            return matching[0]
        if matching:
            self.add(f"{kind}[{name}]", "is there more than once", "keep one of them")
        else:
            known = ", ".join(sorted(entry.name for entry in entries or ())[:10])
            self.add(
                f"{kind}[{name}]",
                f"the {what} is not there",
                f"choose one of: {known}" if known else "add it",
            )
        return None

    def material(self, file: str, data: str, at: str, key: str) -> Material:
        """``-data`` wins over the file, as it does for kubectl."""
        if not data:
            return Material(file=file)
        try:
            return Material(data=base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError):
            self.add(
                f"{at}.{key}-data",
                "is not base64",
                "write it again with `kubectl config view --raw --flatten`",
            )
            return Material()


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
            "use an http:// proxy that supports CONNECT; TLS to the API server runs through it end to end"
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
    if user.impersonate:
        find.add(f"{at}.as", "impersonation is not supported", "give the hub credentials of its own")
    if bool(user.client_certificate or user.client_certificate_data) != bool(
        user.client_key or user.client_key_data
    ):
        find.add(
            f"{at}.client-certificate", "client-certificate and client-key come only together", "set both"
        )
    if user.token and not _is_token(user.token):
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
    if plugin.interactive_mode == "Always":
        find.add(
            f"{at}.interactiveMode",
            "nobody is there to answer",
            "use Never, and a plugin that needs no terminal",
        )
    for variable in plugin.env or ():
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
        for text in (plugin.command, *(plugin.args or ()), *(v.name + v.value for v in plugin.env or ()))
    ):
        find.add(at, "holds a NUL character", "remove it")


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
