"""The tests' istiod on a sandbox cluster, and its two clients: kube-apiserver and a restarted agent.

::

    async with Istiod(east) as istiod:                  # ENABLE_CA_SERVER=false, as installations with the hub have it
        assert await istiod.problems("shop") == []      # injection works, and a restarted agent reaches XDS
        await istiod.kill()
        await istiod.start()

It behaves as Istio 1.32-dev was observed to and as its source says (``pilot/pkg/bootstrap``, ``pkg/webhooks``):

- With its CA off it needs ``istiod-tls`` and the roots **at its start**; else 15012 is not listening and the
  webhook's port has no certificate until a restart, even if they appear later. ``/ready`` does not show it.
- The files that it found at its start it reloads when they change: key, certificate and roots, without a restart.
- It sets the ``caBundle`` of the webhooks of its revision to its roots, and does so again after an edit.
- Its roots are ``ca.crt`` of the Secret; with ``roots="config-map"`` those of ``istio-ca-root-cert`` in its own
  namespace, where that is there at the start: released versions differ.
- With its CA on it writes ``istio-ca-root-cert`` in every namespace and restores it at once after a write of other
  bytes; it does not rewrite equal bytes. With its CA off it writes none.
- Its CA is plugged in if the Secret ``cacerts`` is complete at its start; if only parts are there, istiod exits
  (:class:`IstiodExited`). Otherwise it is self-signed, kept in ``istio-ca-secret``. Another ``root-cert.pem`` in
  ``cacerts`` is loaded at a restart, another intermediate under the same roots at once.
- Its own certificate comes from ``istiod-tls`` if that exists, also with the CA on.
- The CA answers ``IstioCertificateService`` on the XDS port; with the CA off callers get ``UNIMPLEMENTED``. Any
  bearer token gets a certificate for what its CSR names: authorization is not tested here.

Mounted files follow at once; :attr:`Istiod.lag` delays istiod's reaction to them. XDS itself is not served.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.call_slots import CallSlot
from federation.core.config.hub import ListenerConfig
from federation.core.config.types import Address
from federation.core.errors import FederationError, InvalidValue
from federation.core.istio.ca_protocol import METHOD, decode_request, encode_response
from federation.core.pki.certificate import Certificate
from federation.core.pki.development import create_root
from federation.core.pki.keys import load_private_key, private_key_pem
from federation.core.pki.pem import parse_certificates
from federation.runtime.clock import SystemClock
from federation.signer.listeners.grpc import NOT_AUTHENTICATED, Answered, Code
from federation.signer.listeners.listener import Listener
from federation.signer.listeners.tls import ServingCredentials, ServingPair
from federation_sandbox.cluster import SandboxCluster
from federation_sandbox.ports import free_port
from tests.support.pki import WORKLOAD_KEY_USAGE, Authority

MANAGER: Final = "pilot-discovery"
ROOTS: Final = "istio-ca-root-cert"
ROOTS_KEY: Final = "root-cert.pem"
NO_ROOTS_IN: Final = frozenset({"kube-public", "kube-node-lease", "local-path-storage"})
PLUGGED_IN: Final = ("ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem")
XDS: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
LIMIT: Final = 60.0  # seconds for one call of a webhook or one handshake
LIFE: Final = timedelta(hours=1)  # of what its CA issues, where nothing is asked for


class IstiodExited(Exception):
    """It ended at its start, with this in its log."""


class CannotReach(Exception):
    """kube-apiserver could not call a webhook, or an agent could not connect to XDS: who, and why."""


@dataclass(frozen=True, slots=True)
class IstiodFiles:
    """What it has mounted: its certificate with the chain, the key, and the roots to trust."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    roots_pem: bytes


@dataclass(frozen=True, slots=True)
class IstiodCa:
    """Its CA: ``chain_pem`` holds what is below the root, its own first (nothing where it is self-signed)."""

    certificate: Certificate
    key: Any = field(repr=False)
    chain_pem: bytes
    roots_pem: bytes

    @classmethod
    def of(cls, authority: Authority, *more_roots: Certificate) -> IstiodCa:
        """One of ``tests.support.pki``; ``more_roots`` are delivered beside its own."""
        roots = sorted((authority.root, *more_roots), key=lambda root: root.sha256)
        chain = authority.chain_pem if authority.chain else b""
        return cls(authority.certificate, authority.key, chain, b"".join(root.pem for root in roots))

    def leaf(
        self, public_key: Any, san: x509.SubjectAlternativeName, *, life: timedelta = LIFE
    ) -> Certificate:
        """A certificate of that key for those names."""
        now = SystemClock().now()
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        built = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.x509.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=2))
            .not_valid_after(now + life)
            .add_extension(WORKLOAD_KEY_USAGE, critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(san, critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        return Certificate.from_der(built.public_bytes(serialization.Encoding.DER))


class Istiod:
    """One istiod, of one revision, in one namespace of one cluster."""

    def __init__(
        self,
        cluster: SandboxCluster,
        *,
        namespace: str = "istio-system",
        revision: str = "default",
        ca: bool = False,
        roots: Literal["secret", "config-map"] = "secret",
        secret: str = "istiod-tls",
    ) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.revision = revision
        self.ca = ca
        self.roots: Literal["secret", "config-map"] = roots
        self.secret = secret
        self.service = "istiod" if revision == "default" else f"istiod-{revision}"
        self.lag = 0.0  # seconds from a change of its files until it is taken up
        self.patches_webhooks = True
        self.period = 0.02
        self.writes: Counter[str] = Counter()  # of istio-ca-root-cert, by namespace
        self.patched = 0
        self.issued = 0
        self.webhook_port = free_port()
        self.xds_port = free_port()
        self._own_ca: IstiodCa | None = None
        self._from_files: Literal["secret", "config-map"] | None = None
        self._roots_pem = b""
        self._context: ssl.SSLContext | None = None
        self._credentials: ServingCredentials | None = None
        self._pair: ServingPair | None = None
        self._xds: Listener | None = None
        self._webhook: web.AppRunner | None = None
        self._task: asyncio.Task[None] | None = None
        self._install()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    # Its life

    async def start(self) -> None:
        """Read what is mounted, once, and serve accordingly. Raises IstiodExited where it would exit."""
        assert self._task is None, "it is running"
        self._own_ca = self._load_ca() if self.ca else None
        self._from_files = next((kind for kind in self._sources() if self._mounted(kind) is not None), None)
        files = self._mounted(self._from_files) if self._from_files else None
        if files is None and self._own_ca is not None:
            files = self.files_of(self._own_ca)
        self._pair = self._credentials = self._context = None
        self._roots_pem = b""
        await self._open_webhook()
        if files is not None:
            self._serve(files)
            await self._open_xds()
        self._task = asyncio.create_task(self._follow(), name=f"istiod of {self.cluster.name}")

    async def kill(self) -> None:
        """End it at once; the cluster's objects stay as they are."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._xds is not None:
            await self._xds.stop(0)
            self._xds = None
        if self._webhook is not None:
            await self._webhook.cleanup()
            self._webhook = None

    async def restart(self) -> None:
        """Kill it and start it again."""
        await self.kill()
        await self.start()

    @property
    def serves(self) -> bool:
        """Whether it has a certificate and XDS over TLS is listening."""
        return self._xds is not None

    @property
    def roots_pem(self) -> bytes:
        """The roots that it patches webhooks with and, with its CA on, writes to every namespace."""
        return self._roots_pem

    @property
    def certificate(self) -> Certificate | None:
        """What it shows in a handshake."""
        if self._pair is None:
            return None
        return parse_certificates(self._pair.chain_pem, where="istiod")[0]

    @property
    def own_ca(self) -> IstiodCa:
        """Its CA, while that is on."""
        assert self._own_ca is not None, "its CA is off"
        return self._own_ca

    @property
    def xds_address(self) -> str:
        """Where agents reach it, for XDS and for its CA."""
        return f"127.0.0.1:{self.xds_port}"

    @property
    def host(self) -> str:
        """The name that both callers verify."""
        return f"{self.service}.{self.namespace}.svc"

    # What others see of it

    async def problems(self, *agents: str) -> list[str]:
        """What does not work now: calls of its webhooks, and restarted agents in those namespaces."""
        found: list[str] = []
        try:
            await self.call_webhooks()
        except CannotReach as error:
            found.append(str(error))
        for namespace in agents:
            try:
                await self.connect_agent(namespace)
            except CannotReach as error:
                found.append(str(error))
        return found

    async def call_webhooks(self) -> int:
        """As kube-apiserver does: each webhook that names its Service, verified by that webhook's caBundle alone.

        Returns how many were called; raises CannotReach for the first that cannot be.
        """
        called = 0
        for where, config in self._webhook_configs():
            for webhook in config.get("webhooks", ()):
                client = webhook["clientConfig"]
                service = client.get("service", {})
                if (service.get("namespace"), service.get("name")) != (self.namespace, self.service):
                    continue
                bundle = base64.b64decode(client.get("caBundle") or "")
                await self._call_webhook(f"{where} {webhook['name']}", service.get("path", "/"), bundle)
                called += 1
        return called

    def is_patched(self) -> bool:
        """Whether every webhook of its revision has its roots by now; there is nothing to wait for without any."""
        bundle = base64.b64encode(self._roots_pem).decode()
        return all(
            webhook["clientConfig"].get("caBundle") == bundle
            for _, config in self._webhook_configs()
            for webhook in config["webhooks"]
            if config["metadata"].get("labels", {}).get("istio.io/rev") == self.revision
        )

    async def connect_agent(self, namespace: str) -> None:
        """As an agent does that was started in that namespace: XDS, verified by the mounted istio-ca-root-cert."""
        who = f"an agent in {self.cluster.name}/{namespace}"
        mounted = self.cluster.config_map(namespace, ROOTS)
        if mounted is None:
            raise CannotReach(f"{who}: {ROOTS} is not there")
        try:
            context = _verifying(str(mounted.get("data", {}).get(ROOTS_KEY, "")).encode())
            context.set_alpn_protocols(["h2"])
            async with asyncio.timeout(LIMIT):
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", self.xds_port, ssl=context, server_hostname=self.host
                )
                writer.close()
        except (OSError, TimeoutError) as error:
            raise CannotReach(f"{who} to XDS at {self.host}: {str(error) or 'timeout'}") from None

    async def _call_webhook(self, what: str, path: str, bundle: bytes) -> None:
        url = f"https://127.0.0.1:{self.webhook_port}{path}"
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1"}}
        try:
            context = _verifying(bundle)
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT)) as session,
                session.post(url, json=review, ssl=context, server_hostname=self.host) as answer,
            ):
                allowed = (await answer.json())["response"]["allowed"]
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            raise CannotReach(
                f"failed calling webhook {what} in {self.cluster.name}: {str(error) or 'timeout'}"
            ) from None
        if allowed is not True:
            raise CannotReach(f"{what} in {self.cluster.name} did not allow")

    # Certificates

    def files_of(self, ca: IstiodCa, *services: str) -> IstiodFiles:
        """A certificate of that CA for the names that getDNSNames gives, with its key and the CA's roots.

        ``services`` are those of further revisions in the namespace: they mount the same Secret.
        """
        hosts = dict.fromkeys(("istiod", "istiod-remote", "istio-pilot", self.service, *services))
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName([x509.DNSName(f"{h}.{self.namespace}.svc") for h in hosts])
        leaf = ca.leaf(key.public_key(), san, life=timedelta(days=365))
        return IstiodFiles(leaf.pem + ca.chain_pem, private_key_pem(key), ca.roots_pem)

    def provide(self, files: IstiodFiles) -> None:
        """Write the Secret that it mounts, as an operator or the hub would."""
        data = encoded({"tls.crt": files.chain_pem, "tls.key": files.key_pem, "ca.crt": files.roots_pem})
        if self.cluster.get("secrets", self.namespace, self.secret) is None:
            secret = {"metadata": {"name": self.secret}, "type": "kubernetes.io/tls", "data": data}
            self.cluster.create("secrets", secret, namespace=self.namespace)
        else:
            self.cluster.patch("secrets", self.namespace, self.secret, {"data": data})

    def _sources(self) -> Sequence[Literal["secret", "config-map"]]:
        return ("config-map", "secret") if self.roots == "config-map" else ("secret",)

    def _mounted(self, kind: Literal["secret", "config-map"]) -> IstiodFiles | None:
        """The files that hasCustomTLSCerts looks for; None if one of them is missing."""
        data = self._secret_data(self.secret)
        found = data.get("ca.crt", b"")
        if kind == "config-map":
            config_map = self.cluster.config_map(self.namespace, ROOTS) or {}
            found = config_map.get("data", {}).get(ROOTS_KEY, "").encode()
        chain, key = data.get("tls.crt", b""), data.get("tls.key", b"")
        return IstiodFiles(chain, key, found) if chain and key and found else None

    def _secret_data(self, name: str) -> dict[str, bytes]:
        secret = self.cluster.get("secrets", self.namespace, name) or {}
        return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}

    def _load_ca(self) -> IstiodCa:
        files = self._secret_data("cacerts")
        present = [name for name in PLUGGED_IN if files.get(name)]
        if present and len(present) < len(PLUGGED_IN):
            raise IstiodExited("failed to create an istiod CA: incomplete signing CA bundle detected")
        if present:
            return _plugged_in(files)
        if not self._secret_data("istio-ca-secret"):
            self._make_self_signed()
        files = self._secret_data("istio-ca-secret")
        (root,) = parse_certificates(files["ca-cert.pem"], where="istio-ca-secret")
        return IstiodCa(root, load_private_key(files["ca-key.pem"], where="istio-ca-secret"), b"", root.pem)

    def _make_self_signed(self) -> None:
        now, key = SystemClock().now(), ec.generate_private_key(ec.SECP256R1())
        root = create_root(
            common_name=f"istiod of {self.cluster.name}",
            key=key,
            serial=x509.random_serial_number(),
            not_before=now - timedelta(minutes=2),
            not_after=now + timedelta(days=3650),
        )
        data = {"ca-cert.pem": root.pem, "ca-key.pem": private_key_pem(key), "root-cert.pem": root.pem}
        self.cluster.create(
            "secrets",
            {"metadata": {"name": "istio-ca-secret"}, "type": "istio.io/ca-root", "data": encoded(data)},
            namespace=self.namespace,
        )

    def _serve(self, files: IstiodFiles) -> None:
        """Show that certificate from the next handshake on. What is no pair leaves everything as it was."""
        pair = ServingPair(files.chain_pem, files.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            with tempfile.TemporaryDirectory(prefix="istiod-") as folder:  # OpenSSL takes files alone
                place = Path(folder) / "pair.pem"
                place.touch(mode=0o600)
                place.write_bytes(files.key_pem + files.chain_pem)
                context.load_cert_chain(place)
            parse_certificates(files.roots_pem, where="ca.crt")
        except (ssl.SSLError, InvalidValue):
            return
        self._context, self._pair, self._roots_pem = context, pair, files.roots_pem
        if self._credentials is None:
            self._credentials = ServingCredentials(pair)
        else:
            self._credentials.replace(pair)

    async def _open_xds(self) -> None:
        if self._credentials is None:
            return
        config = ListenerConfig(server_names=(self.host,))
        self._xds = Listener(
            _Service(self, METHOD if self._own_ca is not None else XDS),
            config=config,
            listen=Address("127.0.0.1", self.xds_port),
            credentials=self._credentials,
        )
        await self._xds.start()

    async def _open_webhook(self) -> None:
        app = web.Application()
        app.add_routes([web.post(path, _admit) for path in ("/inject", "/validate")])
        self._webhook = web.AppRunner(app, access_log=None)
        await self._webhook.setup()
        outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        outer.sni_callback = self._choose
        await web.TCPSite(self._webhook, "127.0.0.1", self.webhook_port, ssl_context=outer).start()

    def _choose(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> int | None:
        if self._context is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR  # tls: cert not initialized
        connection.context = self._context
        return None

    # What it does about changes

    async def _follow(self) -> None:
        seen = self._taken()
        while True:
            if (now := self._taken()) != seen:
                await asyncio.sleep(self.lag)
                seen = now
                self._take_up()
            if self._roots_pem:
                if self.patches_webhooks:
                    self._patch_webhooks()
                if self.ca:
                    self._write_roots()
            await asyncio.sleep(self.period)

    def _taken(self) -> object:
        """What of the mounted files concerns it."""
        if self._from_files is not None:
            return self._mounted(self._from_files)
        return self._secret_data("cacerts") if self._own_ca is not None and self._own_ca.chain_pem else None

    def _take_up(self) -> None:
        if self._from_files is not None:
            files = self._mounted(self._from_files)
            if files is not None:
                self._serve(files)
        elif self._own_ca is not None:
            files_of_ca = self._secret_data("cacerts")
            if files_of_ca.get("root-cert.pem") != self._own_ca.roots_pem:
                return  # "Multi root is disabled, updating new ROOT-CA not supported"
            with contextlib.suppress(IstiodExited, KeyError):
                self._own_ca = _plugged_in(files_of_ca)
                self._serve(self.files_of(self._own_ca))

    def _patch_webhooks(self) -> None:
        bundle = base64.b64encode(self._roots_pem).decode()
        for where, config in self._webhook_configs():
            if config["metadata"].get("labels", {}).get("istio.io/rev") != self.revision:
                continue
            if all(webhook["clientConfig"].get("caBundle") == bundle for webhook in config["webhooks"]):
                continue
            changed = [
                webhook | {"clientConfig": webhook["clientConfig"] | {"caBundle": bundle}}
                for webhook in config["webhooks"]
            ]
            plural, _, name = where.partition("/")
            self.cluster.patch(plural, "", name, {"webhooks": changed}, manager=MANAGER)
            self.patched += 1

    def _write_roots(self) -> None:
        wanted = self._roots_pem.decode()
        for item in self.cluster.objects("namespaces"):
            namespace = item["metadata"]["name"]
            if namespace in NO_ROOTS_IN or item["status"]["phase"] == "Terminating":
                continue
            found = self.cluster.config_map(namespace, ROOTS)
            if found is not None and found.get("data", {}).get(ROOTS_KEY) == wanted:
                continue
            if found is None:
                meta = {"name": ROOTS, "labels": {"istio.io/config": "true"}}
                self.cluster.create("configmaps", {"metadata": meta}, namespace=namespace)
            self.cluster.patch("configmaps", namespace, ROOTS, {"data": {ROOTS_KEY: wanted}}, manager=MANAGER)
            self.writes[namespace] += 1

    # Its installation

    def _webhook_configs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for plural in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
            for config in self.cluster.objects(plural):
                yield f"{plural}/{config['metadata']['name']}", config

    def _install(self) -> None:
        """The namespace and the webhook configurations, as its chart renders them (``istioctl manifest generate``)."""
        if self.cluster.get("namespaces", "", self.namespace) is None:
            self.cluster.create_namespace(self.namespace)
        suffix = "" if self.revision == "default" else f"-{self.revision}"
        place = "" if self.namespace == "istio-system" else f"-{self.namespace}"
        injector = f"istio-sidecar-injector{suffix}{place}"
        validator = f"istio-validator{suffix}-{self.namespace}"
        prefixes = ("rev.namespace.", "rev.object.", "namespace.", "object.")
        for plural, name, app, webhooks in (
            (
                "mutatingwebhookconfigurations",
                injector,
                "sidecar-injector",
                [self._hook(f"{prefix}sidecar-injector.istio.io", "/inject", "Fail") for prefix in prefixes],
            ),
            (
                "validatingwebhookconfigurations",
                validator,
                "istiod",
                [self._hook("rev.validation.istio.io", "/validate", "Ignore")],
            ),
        ):
            if self.cluster.get(plural, "", name) is None:
                labels = {"app": app, "istio.io/rev": self.revision, "release": "istio"}
                self.cluster.create(
                    plural, {"metadata": {"name": name, "labels": labels}, "webhooks": webhooks}
                )

    def _hook(self, name: str, path: str, failure: str) -> dict[str, Any]:
        service = {"name": self.service, "namespace": self.namespace, "path": path, "port": 443}
        return {
            "name": name,
            "clientConfig": {"service": service},
            "failurePolicy": failure,
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }


class _Service:
    """The one method that the XDS port answers: the CA's if the CA is on, else one that no test calls."""

    def __init__(self, istiod: Istiod, method: str) -> None:
        self._istiod = istiod
        self.method = method

    async def handle(
        self, message: bytes, metadata: Iterable[tuple[str, str | bytes]], *, slot: CallSlot
    ) -> bytes:
        if not any(name == "authorization" for name, _ in metadata):
            raise Answered(Code.UNAUTHENTICATED, NOT_AUTHENTICATED)
        request = decode_request(message)
        csr = x509.load_pem_x509_csr(request.csr.encode())
        san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        own_ca = self._istiod.own_ca
        life = timedelta(seconds=request.validity_seconds) or LIFE
        leaf = own_ca.leaf(csr.public_key(), san, life=life)
        self._istiod.issued += 1
        chain = [own_ca.chain_pem.decode()] if own_ca.chain_pem else []
        return encode_response([leaf.pem.decode(), *chain, own_ca.roots_pem.decode()])

    def reject(self, error: FederationError, *, peer: str) -> None:
        """Nothing is counted here."""

    def connection_refused(self, error: FederationError, *, peer: str) -> None:
        """Nor here."""


async def _admit(request: web.Request) -> web.Response:
    review = await request.json()
    answer = {"uid": review["request"]["uid"], "allowed": True}
    return web.json_response(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
    )


def encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    """The ``data`` of a Secret."""
    return {key: base64.b64encode(value).decode() for key, value in data.items()}


def _plugged_in(files: Mapping[str, bytes]) -> IstiodCa:
    """The CA of a ``cacerts`` Secret. Raises IstiodExited where it does not verify with its own roots."""
    (own,) = parse_certificates(files["ca-cert.pem"], where="ca-cert.pem")
    roots = parse_certificates(files["root-cert.pem"], where="root-cert.pem")
    chain = parse_certificates(files["cert-chain.pem"], where="cert-chain.pem")
    key = load_private_key(files["ca-key.pem"], where="ca-key.pem")
    if key.public_key() != own.public_key:
        raise IstiodExited("failed to create an istiod CA: the key does not belong to the certificate")
    if not any(own.is_signed_by(above) for above in (*roots, *chain)):
        raise IstiodExited("failed to create an istiod CA: the certificate does not verify with its roots")
    return IstiodCa(own, key, files["cert-chain.pem"], files["root-cert.pem"])


def _verifying(roots_pem: bytes) -> ssl.SSLContext:
    """A client's context that trusts these roots and nothing else; nothing at all where they are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with contextlib.suppress(ValueError, ssl.SSLError):
        context.load_verify_locations(cadata=roots_pem.decode("ascii", "replace"))
    return context
