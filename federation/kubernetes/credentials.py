"""How the hub proves itself to one API server and recognises it: by a kubeconfig or the pod's own account.

A kubeconfig is read by the hub's own typed reader (``kubeconfig.py``) and not by kubernetes_asyncio's loader, because
that one reads many files otherwise than kubectl, leaves inline keys in temporary files, runs exec plugins without a
limit, reads ``tokenFile`` once, and follows ``insecure-skip-tls-verify`` (docs/dependencies.md has the counts). TLS
verifies by the CA that the kubeconfig names; a client certificate is never written to a disk.

Files are read again every few seconds: tokens, certificates and CAs rotate in place. Their last content stays in
force where reading fails. Only the kubeconfig itself is not followed here: it may name another server, so whatever
was learned has to be learned anew. By :func:`fingerprint` ``clusters/members.py`` sees that, and restarts that one
cluster; the state's session is opened anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from cryptography import x509

from federation.core.clock import Clock
from federation.core.config.clusters import Credentials
from federation.core.errors import (
    ClusterUnauthorized,
    ConfigurationError,
    FederationError,
    InvalidValue,
    Mistake,
    OutOfFiles,
)
from federation.core.identity import ClusterName
from federation.core.pki.pem import der_blocks
from federation.files import READ_TIMEOUT, is_out_of_files, read_bounded, read_in_time
from federation.kubernetes.exec_plugin import PluginCredential, run_plugin
from federation.kubernetes.kubeconfig import (
    MAX_KUBECONFIG_BYTES,
    ClusterInfo,
    Entry,
    Material,
    parse_kubeconfig,
)
from federation.kubernetes.token_life import NO_LIFE, TokenLife, is_newer, token_life

_logger = logging.getLogger(__name__)


def client_context(
    *, authority: bytes | None, certificate: bytes | None = None, key: bytes | None = None, where: str
) -> ssl.SSLContext:
    """A context that verifies chain and name, TLS 1.2 or later.

    ``authority`` is PEM, read and trusted as Go does it: what is around its certificates is passed over, and
    each of them is an anchor, be it a root, an intermediate or the server's own (``crypto/x509``, ``CertPool``).
    None means the system's CAs, as a kubeconfig without a certificate-authority does.
    ``certificate`` (a PEM chain) and ``key`` come together. Raises :class:`InvalidValue`; its text holds nothing
    of the key.
    """
    # Not ssl.create_default_context: it takes empty CA data for none, and trusts the system's CAs instead.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if authority is None:
        context.load_default_certs()
    elif not _trust(context, authority):
        raise InvalidValue(
            "the certificate authority holds no certificate that can be read",
            where=where,
            remedy="put the CA certificate of the API server there, as PEM",
        )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None and key is not None:
        _load_chain(context, certificate, key, where=where)
    return context


def _trust(context: ssl.SSLContext, authority: bytes) -> int:
    """How many certificates of ``authority`` are anchors now; one that cannot be read spoils no other."""
    trusted = 0
    for der in der_blocks(authority):
        try:
            context.load_verify_locations(cadata=der)
        except (ssl.SSLError, ValueError):
            continue
        trusted += 1
    return trusted


def _load_chain(context: ssl.SSLContext, certificate: bytes, key: bytes, *, where: str) -> None:
    """Python's ssl takes only files, so the two are for a moment in one that no other user can open."""
    try:
        with private_file(certificate.rstrip() + b"\n" + key) as path:
            context.load_cert_chain(path, password=_refuse_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        if is_out_of_files(error):
            raise OutOfFiles(where, "client-key", str(error)) from None
        raise InvalidValue(
            f"client certificate and key cannot be used together ({_reason(error)})",
            where=where,
            remedy="put a certificate chain and its own unencrypted key there, both as PEM",
        ) from None


def _refuse_password() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or type(error).__name__


@contextmanager
def private_file(content: bytes) -> Iterator[str]:
    """A path OpenSSL can read a key from: in memory, or else a file that only this user can read."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("private", os.MFD_CLOEXEC)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="federation-") as directory:
        path = Path(directory, "private.pem")
        path.touch(mode=0o600)
        path.write_bytes(content)
        yield str(path)


REREAD_SECONDS: Final = 10.0
"""The kubelet replaces a token at four fifths of its life and a Secret within minutes: soon enough."""

RENEW_SECONDS: Final = 1.0
"""A refused token is read again at most this often: one file read for a storm of 401s."""

EXPIRY_MARGIN: Final = 60.0
"""Seconds before its expiry at which an exec plugin's credential is renewed."""

MAX_FILE_BYTES: Final = 256 * 1024
TOKEN_SUFFIX: Final = ".token"  # noqa: S105  a part of file names
"""Of a token's file that is named after its kubeconfig, beside it."""
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Access:
    """What one request needs: the token (empty where a client certificate speaks) and the TLS context."""

    token: str
    tls: ssl.SSLContext

    def __repr__(self) -> str:
        return "Access(...)"


@dataclass(frozen=True, slots=True)
class _Bytes:
    """What the files hold now; compared as a whole to see a change."""

    authority: bytes | None
    certificate: bytes | None
    key: bytes | None
    token: str


class LoadedCredentials:
    """Credentials of one role for one cluster, kept current. Made by :func:`load_credentials`."""

    def __init__(
        self,
        entry: Entry,
        *,
        cluster: ClusterName,
        source: str,
        directory: Path,
        clock: Clock,
        environ: Mapping[str, str],
    ) -> None:
        self.server: Final = entry.server
        self.tls_server_name: Final = entry.tls_server_name or None
        self.proxy_url: Final = entry.proxy_url or None
        self._entry = entry
        self._cluster = cluster
        self._source = source
        self._directory = directory
        self._clock = clock
        self._environ = environ
        self._lock = asyncio.Lock()
        self._bytes: _Bytes | None = None
        self._plugin: PluginCredential | None = None
        self._plugin_failure: ClusterUnauthorized | None = None
        self._plugin_ran_at = -REREAD_SECONDS
        self._access: Access | None = None
        self._life = NO_LIFE
        self._adopted = ""  # a token that is newer than the one in its file, as far as it is known
        self._read_at = 0.0

    def __repr__(self) -> str:
        return f"LoadedCredentials(cluster={self._cluster}, server={self.server!r})"

    @property
    def authority(self) -> bytes | None:
        """The CA certificates that the API server is verified by, as PEM; None for those of the system."""
        return self._bytes.authority if self._bytes is not None else None

    @property
    def life(self) -> TokenLife:
        """How long the credential lives that nothing but its owner renews; nothing known of an exec plugin's."""
        return self._life

    @property
    def own_token_file(self) -> Path | None:
        """The token's file where it is named after the kubeconfig, as ``federation clusters add`` names it."""
        name = self._entry.token_file
        own = f"{Path(self._source).name}{TOKEN_SUFFIX}"
        return self._directory / name if name == own else None

    def adopt(self, token: str) -> None:
        """Use this token from now on, until its file holds one that is as new: a mount may lag behind its Secret."""
        self._adopted = token
        if self._bytes is None or self._access is None or not is_newer(token, self._bytes.token):
            return
        self._bytes = replace(self._bytes, token=token)
        self._access = Access(token, self._access.tls)
        self._life = token_life(token)

    async def access(self, *, renew: bool = False) -> Access:
        """What the next request is to use; ``renew`` (after a 401) reads and runs everything again.

        Raises ClusterUnauthorized where an exec plugin fails and no credential of it holds any more, and
        ConfigurationError where the first reading fails.
        """
        if self._access is not None and not self._due(renew=renew):
            return self._access
        async with self._lock:
            if self._access is None or self._due(renew=renew):
                await self._refresh(renew=renew)
            if self._access is None:
                raise self._plugin_failure or _refused(self._source, "", "holds no credentials", "")
            return self._access

    def _due(self, *, renew: bool) -> bool:
        age = self._clock.monotonic() - self._read_at
        return age >= (RENEW_SECONDS if renew else REREAD_SECONDS) or self._plugin_due()

    def _plugin_due(self, *, margin: float = EXPIRY_MARGIN) -> bool:
        if self._entry.plugin is None:
            return False
        if self._plugin is None:
            return True
        expires = self._plugin.expires
        return expires is not None and (expires - self._clock.now()).total_seconds() <= margin

    async def _refresh(self, *, renew: bool) -> None:
        try:
            now = await _in_thread(self._source, _read, self._entry, self._directory, self._source)
        except ConfigurationError as error:
            if self._bytes is None:
                raise
            self._warn(error)
            now = self._bytes
        self._read_at = self._clock.monotonic()
        plugin = await self._run_plugin(now.authority, renew=renew)
        if self._adopted and is_newer(self._adopted, now.token):
            now = replace(now, token=self._adopted)
        if self._access is not None and now == self._bytes and plugin is self._plugin:
            return
        try:
            self._access = await _in_thread(
                self._source, self._build, now, plugin
            )  # it may read the system's CAs
        except (InvalidValue, ConfigurationError) as error:
            if self._access is None:
                if isinstance(error, ConfigurationError):
                    raise
                raise _refused(self._source, "", error.what, error.remedy) from None
            self._warn(error)
            return
        self._bytes, self._plugin = now, plugin
        self._life = NO_LIFE if plugin is not None else _life_of(now)

    async def _run_plugin(self, authority: bytes | None, *, renew: bool) -> PluginCredential | None:
        """The plugin's credential, renewed where it is due; a plugin that fails is left alone for a while."""
        plugin = self._entry.plugin
        if plugin is None or not (renew or self._plugin_due()):
            return self._plugin
        if self._clock.monotonic() - self._plugin_ran_at >= REREAD_SECONDS:
            self._plugin_ran_at = self._clock.monotonic()
            try:
                renewed = await run_plugin(
                    plugin,
                    where=str(self._cluster),
                    directory=self._directory,
                    cluster=self._entry.info,
                    authority=authority,
                    environ=self._environ,
                )
            except ClusterUnauthorized as error:
                self._plugin_failure = error.without_frames()
                self._warn(error)
            else:
                self._plugin_failure = None
                return renewed
        if self._plugin_failure is not None and self._plugin_due(margin=0.0):
            raise self._plugin_failure.without_frames()
        return self._plugin

    def _build(self, now: _Bytes, plugin: PluginCredential | None) -> Access:
        """TLS contexts are costly, so one is made only when its bytes have changed."""
        certificate, key, token = now.certificate, now.key, now.token
        if plugin is not None:
            # As in client-go, the kubeconfig takes precedence over what a plugin prints.
            if certificate is None:
                certificate, key = plugin.certificate, plugin.key
            token = token or plugin.token
        before, old = self._bytes, self._plugin
        same_certificates = (
            before is not None
            and (now.authority, now.certificate, now.key)
            == (before.authority, before.certificate, before.key)
            and (plugin and plugin.certificate) == (old and old.certificate)
        )
        if self._access is not None and same_certificates:
            return Access(token, self._access.tls)
        tls = client_context(authority=now.authority, certificate=certificate, key=key, where=self._source)
        return Access(token, tls)

    def _warn(self, error: FederationError) -> None:
        _logger.warning(
            "credentials cannot be read again, the last ones stay in use: %s",
            error.diagnostics(),
            extra={"cluster": str(self._cluster), "reason": error.reason},
        )


async def load_credentials(
    credentials: Credentials,
    *,
    cluster: ClusterName,
    clock: Clock,
    environ: Mapping[str, str] = os.environ,
    service_account: Path = SERVICE_ACCOUNT,
) -> LoadedCredentials:
    """Read the credentials once, with everything they refer to.

    Raises ConfigurationError, each finding with its remedy, and ClusterUnauthorized where an exec plugin
    fails.
    """
    if credentials.in_cluster:
        entry = await _in_thread(str(service_account), _in_cluster, environ, service_account)
        source, directory = str(service_account), service_account
    else:
        path = credentials.kubeconfig
        if path is None:
            raise _refused(
                str(cluster), "kubeconfig", "names no kubeconfig", "set `kubeconfig`, or `in_cluster = true`"
            )
        source, directory = str(path), path.absolute().parent
        text = await _in_thread(source, _read_file, path, source, "", MAX_KUBECONFIG_BYTES)
        entry = await _in_thread(
            source,
            parse_kubeconfig,
            text,
            file=source,
            context=credentials.context,
            allowed_exec=credentials.allowed_exec,
        )
    loaded = LoadedCredentials(
        entry, cluster=cluster, source=source, directory=directory, clock=clock, environ=environ
    )
    await loaded.access()
    return loaded


async def fingerprint(credentials: Credentials) -> str:
    """SHA-256 of the kubeconfig; changes exactly when the cluster's session has to start anew.

    Empty for in-cluster credentials, which follow their files. Raises ConfigurationError where it cannot be
    read.
    """
    if credentials.kubeconfig is None or credentials.in_cluster:
        return ""
    path = credentials.kubeconfig
    text = await _in_thread(str(path), _read_file, path, str(path), "", MAX_KUBECONFIG_BYTES)
    return sha256(text).hexdigest()


def _in_cluster(environ: Mapping[str, str], directory: Path) -> Entry:
    """The API server that Kubernetes names to each pod, and the files of its service account (client-go, ``rest``)."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    missing = [str(path) for path in (directory / "token", directory / "ca.crt") if not path.is_file()]
    if not host or not port:
        missing.append("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT")
    if missing:
        what = f"in-cluster credentials are incomplete: {', '.join(missing)} missing"
        remedy = "run in a pod whose service account token is mounted, or name a kubeconfig instead"
        raise _refused(str(directory), "", what, remedy)
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return Entry(
        context="in-cluster",
        server=server,
        authority=Material(file="ca.crt"),
        tls_server_name="",
        proxy_url="",
        certificate=Material(),
        key=Material(),
        token="",
        token_file="token",  # noqa: S106  a file name
        plugin=None,
        info=ClusterInfo(server=server),
    )


def _read(entry: Entry, directory: Path, source: str) -> _Bytes:
    token = entry.token
    if entry.token_file:
        # client-go reads the file even where the kubeconfig has a token as well.
        path = directory / entry.token_file
        raw = _read_file(path, source, "tokenFile", MAX_FILE_BYTES)
        token = raw.decode("ascii", "replace").strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise _refused(
                source,
                "tokenFile",
                f"{str(path)!r} holds no bearer token",
                "write one token there, nothing else",
            )
    return _Bytes(
        authority=_material(entry.authority, directory, source, "certificate-authority"),
        certificate=_material(entry.certificate, directory, source, "client-certificate"),
        key=_material(entry.key, directory, source, "client-key"),
        token=token,
    )


def _life_of(now: _Bytes) -> TokenLife:
    """Of the token, which goes out where there is one; else of the client certificate."""
    if now.token:
        return token_life(now.token)
    if now.certificate is None:
        return NO_LIFE
    try:
        certificate = x509.load_pem_x509_certificate(now.certificate)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError:
        return NO_LIFE
    return TokenLife(begin.timestamp(), end.timestamp())


def _material(material: Material, directory: Path, source: str, key: str) -> bytes | None:
    if material.data is not None or not material.file:
        return material.data
    return _read_file(directory / material.file, source, key, MAX_FILE_BYTES)


def _read_file(path: Path, source: str, key: str, limit: int) -> bytes:
    try:
        content = read_bounded(path, limit)
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or "not a file name"
        if is_out_of_files(error):
            raise OutOfFiles(source, key, why) from None
        remedy = "check the path, and that the hub's user may read the file"
        raise _refused(source, key, f"{str(path)!r} cannot be read: {why}", remedy) from None
    if len(content) > limit:
        raise _refused(source, key, f"{str(path)!r} is larger than {limit} bytes", "name the right file")
    return content


async def _in_thread(source: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return await read_in_time(source, partial(function, *args, **kwargs))
    except TimeoutError:
        raise _refused(
            source,
            "",
            f"could not be read in {READ_TIMEOUT:g} s",
            "check the disk or network file system it is on",
        ) from None


def _refused(file: str, key: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Mistake(file, key, problem, remedy)])
