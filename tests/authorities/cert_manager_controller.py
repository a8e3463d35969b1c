"""cert-manager's part of a management cluster, small: an approver and a CA issuer over the real HTTPS API.

What it writes, and in which order, is what cert-manager's controllers do (v1.21: ``certificaterequests/sync.go``,
``approver/sync.go``, ``ca/ca.go``, ``pkg/util/pki``): Approved first; then Ready with the reason Pending, Issued,
Failed or Denied; a leaf with the CSR's own names, the usages asked for, ``NotBefore`` now; a chain without its root.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import ClusterConflict, ClusterNotFound
from federation.core.identity import ClusterName
from federation.core.pki.pem import encode_certificates
from federation.kubernetes.objects import Item, ObjectKey, Payload
from federation.kubernetes.reflector import Change, Reflector
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.resources import Resource
from federation_sandbox.cluster import SandboxCluster
from tests.support import pki

GROUP = "cert-manager.io"
REQUESTS = f"/apis/{GROUP}/v1/certificaterequests"
RESOURCES = tuple(
    Resource(
        group=GROUP,
        version="v1",
        plural=kind.lower() + "s",
        kind=kind,
        singular=kind.lower(),
        namespaced=kind != "ClusterIssuer",
        subresources=frozenset({"status"}),
        strategic=False,
    )
    for kind in ("CertificateRequest", "Issuer", "ClusterIssuer")
)
FAST = ClusterTimeouts(backoff_first=0.02, backoff_longest=0.1)
_ISSUED = "Certificate fetched from issuer successfully"
NO_PAIR = 'Error getting keypair for CA issuer: secrets "shared-intermediate-ca" not found'
_EXTENDED = {
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
}

Request = dict[str, Any]


@dataclass
class Behaviour:
    """What the approver and the issuer do; tests change it in mid-flight and call :meth:`Controller.look_again`."""

    approves: bool = True
    denies: str = ""  # the approver's message
    signs: bool = True
    fails: str = ""  # the issuer's message
    invalid: str = ""
    answer: Callable[[Request], tuple[bytes, bytes]] | None = (
        None  # certificate and ca in place of the right ones
    )
    backdating: timedelta = timedelta(0)


@dataclass
class Controller:
    """Approver and issuer; ``issued`` counts what was signed."""

    session: ClusterSession
    ca: pki.Authority
    behaviour: Behaviour = field(default_factory=Behaviour)
    issued: int = 0
    seen: list[Request] = field(default_factory=list)  # every request that was signed, as it was then
    _queue: asyncio.Queue[ObjectKey] = field(default_factory=asyncio.Queue)
    _reflector: Reflector[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._reflector = Reflector(
            self.session,
            REQUESTS,
            decode=_whole,
            timeouts=FAST,
            clock=SystemClock(),
            jitter=random.Random(2),
            on_change=self._changed,
        )

    def look_again(self) -> None:
        """Reconcile every request anew, as after a change of the issuer."""
        for key in self._reflector.items:
            self._queue.put_nowait(key)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reflector.run())
            tasks.create_task(self._work())

    async def set_issuer(
        self, name: str, kind: str = "ClusterIssuer", *, ready: bool = True, namespace: str = ""
    ) -> None:
        """Make a CA issuer, or change it, and leave it as its own controller does."""
        place = f"namespaces/{namespace}/" if namespace else ""
        path = f"/apis/{GROUP}/v1/{place}{kind.lower()}s"
        issuer: Request = {
            "apiVersion": f"{GROUP}/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": {"ca": {"secretName": f"{name}-ca"}},
        }
        with suppress(ClusterConflict):
            await self.session.request("POST", path, body=msgspec.json.encode(issuer))
        outcome = (
            ("True", "KeyPairVerified", "Signing CA verified")
            if ready
            else ("False", "ErrGetKeyPair", NO_PAIR)
        )
        status = {"status": {"conditions": [condition("Ready", *outcome)]}}
        body, merge = msgspec.json.encode(status), "application/merge-patch+json"
        await self.session.request("PATCH", f"{path}/{name}/status", body=body, content_type=merge)

    async def spoil(self, name: str, status: Any) -> None:
        """Write a status that no controller would."""
        ((key, raw),) = [item for item in self._reflector.items.items() if item[0].name == name]
        path = f"/apis/{GROUP}/v1/namespaces/{key.namespace}/certificaterequests/{name}/status"
        request = msgspec.json.decode(raw) | {"status": status}
        await self.session.request("PUT", path, body=msgspec.json.encode(request))

    def _changed(self, change: Change[bytes]) -> None:
        if change.new is not None:
            self._queue.put_nowait(change.key)

    async def _work(self) -> None:
        while True:
            raw = self._reflector.items.get(await self._queue.get())
            if raw is not None:
                await self._reconcile(msgspec.json.decode(raw))

    async def _reconcile(self, request: Request) -> None:
        status = request.setdefault("status", {})
        if not isinstance(status.setdefault("conditions", []), list):
            return  # spoilt by a test
        conditions = {c["type"]: c for c in status["conditions"]}
        done = conditions.get("Ready", {}).get("reason") in {"Issued", "Failed", "Denied"}
        if done or "InvalidRequest" in conditions:
            return
        if not {"Approved", "Denied"} & set(conditions):
            await self._approve(request)
        elif "Denied" in conditions:
            message = "The CertificateRequest was denied by an approval controller"
            await self._finish(request, "Denied", message)
        else:
            await self._issue(request)

    async def _approve(self, request: Request) -> None:
        doing = self.behaviour
        if doing.denies:
            await self._write(request, condition("Denied", "True", "policy.cert-manager.io", doing.denies))
        elif doing.approves:
            message = "Certificate request has been approved by cert-manager.io"
            await self._write(request, condition("Approved", "True", "cert-manager.io", message))

    async def _issue(self, request: Request) -> None:
        doing, ref = self.behaviour, request["spec"]["issuerRef"]
        if ref.get("group", GROUP) != GROUP:
            return  # of another issuer
        problem = await self._issuer_problem(ref, request["metadata"]["namespace"])
        if problem:
            await self._write(request, condition("Ready", "False", "Pending", problem))
        elif doing.invalid:
            await self._write(request, condition("InvalidRequest", "True", "Rejected", doing.invalid))
        elif doing.fails:
            await self._finish(request, "Failed", doing.fails)
        elif doing.signs:
            certificate, ca = (doing.answer or self.sign)(request)
            request["status"] |= {
                "certificate": base64.b64encode(certificate).decode(),
                "ca": base64.b64encode(ca).decode(),
            }
            self.issued += 1
            self.seen.append(request)
            await self._write(request, condition("Ready", "True", "Issued", _ISSUED))

    async def _issuer_problem(self, ref: dict[str, str], namespace: str) -> str:
        place = "" if ref["kind"] == "ClusterIssuer" else f"namespaces/{namespace}/"
        path = f"/apis/{GROUP}/v1/{place}{ref['kind'].lower()}s/{ref['name']}"
        try:
            issuer = msgspec.json.decode(await self.session.get(path))
        except ClusterNotFound:
            kind = ref["kind"].lower()
            return f'Referenced "{ref["kind"]}" not found: {kind}.{GROUP} "{ref["name"]}" not found'
        conditions = issuer.get("status", {}).get("conditions", [])
        if not any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
            return "Referenced issuer does not have a Ready status condition"
        return ""

    def sign(self, request: Request, *, issuer: pki.Authority | None = None) -> tuple[bytes, bytes]:
        """The chain without its root, and the root, as the CA issuer gives them for a secret with ca.crt."""
        ca, spec = issuer or self.ca, request["spec"]
        csr = x509.load_pem_x509_csr(base64.b64decode(spec["request"]))
        now = SystemClock().now().replace(microsecond=0)
        seconds = int(spec["duration"].removesuffix("s"))
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        extended = [_EXTENDED[usage] for usage in spec["usages"] if usage in _EXTENDED]
        identifier = ca.certificate.extension(x509.SubjectKeyIdentifier)
        assert identifier is not None
        builder = (
            x509.CertificateBuilder()
            .subject_name(csr.subject)
            .issuer_name(ca.certificate.x509.subject)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - self.behaviour.backdating)
            .not_valid_after(now + timedelta(seconds=seconds))
            .add_extension(pki.WORKLOAD_KEY_USAGE, critical=True)
            .add_extension(x509.ExtendedKeyUsage(extended), critical=False)
            .add_extension(x509.BasicConstraints(ca=bool(spec["isCA"]), path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
            )
            .add_extension(names.value, critical=False)
        )
        leaf = builder.sign(ca.key, hashes.SHA256())
        return leaf.public_bytes(serialization.Encoding.PEM) + ca.chain_pem, ca.root.pem

    async def _finish(self, request: Request, reason: str, message: str) -> None:
        request["status"]["failureTime"] = f"{SystemClock().now():%Y-%m-%dT%H:%M:%SZ}"
        await self._write(request, condition("Ready", "False", reason, message))

    async def _write(self, request: Request, changed: dict[str, str]) -> None:
        """Update the status; what became of the object meanwhile is seen by the watch."""
        conditions = request["status"]["conditions"]
        if any(c | {"lastTransitionTime": ""} == changed | {"lastTransitionTime": ""} for c in conditions):
            return
        request["status"]["conditions"] = [c for c in conditions if c["type"] != changed["type"]] + [changed]
        meta = request["metadata"]
        path = f"/apis/{GROUP}/v1/namespaces/{meta['namespace']}/certificaterequests/{meta['name']}/status"
        try:
            await self.session.request("PUT", path, body=msgspec.json.encode(request))
        except (ClusterConflict, ClusterNotFound):
            return


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    """One condition, as cert-manager's ``SetCertificateRequestCondition`` writes it."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": f"{SystemClock().now():%Y-%m-%dT%H:%M:%SZ}",
    }


def wrong_answer(issuer: pki.Authority, **wrong: Any) -> tuple[bytes, bytes]:
    """An answer with a leaf that was not ordered: ``wrong`` is what :func:`tests.support.pki.leaf` takes."""
    now = SystemClock().now().replace(microsecond=0)
    options = {"not_before": now - timedelta(minutes=1), "not_after": now + timedelta(minutes=30)} | wrong
    leaf = pki.leaf(issuer, **options)
    return encode_certificates([leaf, *issuer.chain]), issuer.root.pem


@asynccontextmanager
async def running(cluster: SandboxCluster, ca: pki.Authority, directory: Path) -> AsyncIterator[Controller]:
    """The controllers for the length of a block, with an administrator's credentials."""
    session = await ClusterSession.open(
        Credentials(kubeconfig=cluster.write_kubeconfig(directory / "cert-manager.kubeconfig")),
        cluster=ClusterName("cert-manager"),
        timeouts=FAST,
        clock=SystemClock(),
    )
    async with session:
        controller = Controller(session, ca)
        task = asyncio.create_task(controller.run())
        try:
            yield controller
        finally:
            task.cancel()
            (end,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(end, asyncio.CancelledError), f"the controller died: {end!r}"


def _whole(payload: Payload) -> Item[bytes]:
    raw = bytes(payload)
    meta = msgspec.json.decode(raw)["metadata"]
    return Item(ObjectKey(meta["namespace"], meta["name"]), meta["resourceVersion"], raw)
