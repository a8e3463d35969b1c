"""What a back end can do by itself: its own limit, with nothing of the hub in the way.

A key in this process signs in a tight loop; a token in the thread that may call it. A server is asked for the same
as the hub asks it, over as many connections as the hub has requests in flight, by a client that does next to nothing
(``replay.py``): a certificate's worth of requests counts as one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, assert_never

import aiohttp
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from federation.core.config.authorities.settings import (
    AuthorityConfig,
    AwsKmsAuthorityConfig,
    AwsPcaAuthorityConfig,
    CertManagerAuthorityConfig,
    ConjurAuthorityConfig,
    LocalAuthorityConfig,
    Pkcs11AuthorityConfig,
    SecretRef,
    VaultAuthorityConfig,
    VaultServer,
    VaultTransitAuthorityConfig,
)
from federation.signer.authorities.authority import LeafRequest
from federation.signer.authorities.cert_manager.requests import certificate_request, collection
from tests.authorities.aws_world import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN
from tests.bench.replay import Connection, Unexpected, connections, request

Limit: TypeAlias = Callable[[float], Awaitable[float]]
"""Measures for about the given seconds and returns how many certificates' worth of work it did per second."""

Exchange: TypeAlias = Callable[[Connection], Awaitable[object]]
"""The requests of one certificate."""

DIGEST = os.urandom(32)
ENCODED_DIGEST = base64.b64encode(DIGEST).decode()
BOTO_CREDENTIALS = Credentials(ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)
DELETERS = 8
NOT_YET = 0.01  # seconds between two polls for a certificate that is not issued yet


def limit_of(config: AuthorityConfig, order: LeafRequest) -> AbstractAsyncContextManager[Limit]:
    """The back end's own limit; ``order`` is what it is asked for."""
    match config:
        case LocalAuthorityConfig() | ConjurAuthorityConfig():
            return signing_here()
        case Pkcs11AuthorityConfig():
            return token(config)
        case VaultAuthorityConfig() | VaultTransitAuthorityConfig():
            return vault(config, order)
        case CertManagerAuthorityConfig():
            return cert_manager(config, order)
        case AwsPcaAuthorityConfig() | AwsKmsAuthorityConfig():
            return aws(config, order)
        case _:
            assert_never(config)


async def flow(connected: list[Connection], exchange: Exchange, seconds: float) -> float:
    """Exchanges per second, one after another on each connection, until the last has ended."""
    began = time.perf_counter()

    async def keep_asking(connection: Connection) -> int:
        done = 0
        while time.perf_counter() < began + seconds:
            await exchange(connection)
            done += 1
        return done

    done = await asyncio.gather(*(keep_asking(connection) for connection in connected))
    return sum(done) / (time.perf_counter() - began)


@asynccontextmanager
async def signing_here() -> AsyncIterator[Limit]:
    """P-256 signatures of the library that the hub uses."""
    key, ecdsa = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(hashes.SHA256())
    message = os.urandom(600)

    async def measure(seconds: float) -> float:
        return repeated(lambda: key.sign(message, ecdsa), seconds)

    yield measure


def repeated(work: Callable[[], object], seconds: float) -> float:
    """How often a second it can be done."""
    began, done = time.perf_counter(), 0
    while (now := time.perf_counter()) < began + seconds:
        work()
        done += 1
    return done / (now - began)


@asynccontextmanager
async def token(config: Pkcs11AuthorityConfig) -> AsyncIterator[Limit]:
    """Signatures of the token, in the one thread that may call its module."""
    import pkcs11

    from federation.signer.authorities.pkcs11.pair import library_of_this_process

    thread = library_of_this_process().thread

    def work(seconds: float) -> float:
        found = pkcs11.lib(str(config.module.resolve())).get_token(token_label=config.token)
        try:
            session = found.open(user_pin=secret(config.pin))
        except pkcs11.UserAlreadyLoggedIn:
            session = found.open()
        try:
            key: Any = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=config.key_label)
            return repeated(lambda: key.sign(DIGEST, mechanism=pkcs11.Mechanism.ECDSA), seconds)
        finally:
            session.close()

    async def measure(seconds: float) -> float:
        return await thread.run(lambda: work(seconds), timeout=seconds + 30)

    yield measure


@asynccontextmanager
async def vault(
    config: VaultAuthorityConfig | VaultTransitAuthorityConfig, order: LeafRequest
) -> AsyncIterator[Limit]:
    """The request that signs."""
    server = config.server
    base = URL(server.address)
    tls = ssl.create_default_context(cafile=server.ca_file) if base.scheme == "https" else None
    headers = {"content-type": "application/json", "x-vault-request": "true"}
    if server.namespace:
        headers["x-vault-namespace"] = server.namespace
    if isinstance(config, VaultAuthorityConfig):
        path = f"/v1/{config.mount}/issuer/{config.issuer}/sign/{config.role}"
        body: dict[str, Any] = {
            "csr": order.csr_pem,
            "ttl": 3600,
            "format": "pem",
            "exclude_cn_from_sans": True,
            "alt_names": "",
            "uri_sans": list(order.names),
        }
    else:
        path = f"/v1/{config.mount}/sign/{config.key}/sha2-256"
        body = {
            "input": ENCODED_DIGEST,
            "prehashed": True,
            "key_version": 1,
            "marshaling_algorithm": "asn1",
        }
    async with connections(config.max_in_flight, base, tls) as connected:
        headers["x-vault-token"] = await vault_token(connected[0], server, headers)
        encoded = request("POST", base.with_path(path), headers, json.dumps(body).encode())

        async def measure(seconds: float) -> float:
            return await flow(connected, lambda connection: connection.ask(encoded), seconds)

        yield measure


async def vault_token(connection: Connection, server: VaultServer, headers: dict[str, str]) -> str:
    """A login as the settings say: by a token, or AppRole."""
    auth = server.auth
    if auth.token is not None:
        return secret(auth.token)
    assert auth.role_id is not None
    assert auth.secret_id is not None
    body = {"role_id": secret(auth.role_id), "secret_id": secret(auth.secret_id)}
    url = URL(server.address).with_path(f"/v1/auth/{auth.mount}/login")
    answer = json.loads(await connection.ask(request("POST", url, headers, json.dumps(body).encode())))
    return str(answer["auth"]["client_token"])


@asynccontextmanager
async def aws(
    config: AwsPcaAuthorityConfig | AwsKmsAuthorityConfig, order: LeafRequest
) -> AsyncIterator[Limit]:
    """KMS: one Sign. Private CA: IssueCertificate, and GetCertificate until it is there."""
    base = URL(config.aws.endpoint) / ""

    def call(target: str, parameters: dict[str, Any]) -> bytes:
        return request("POST", base, signed(target), json.dumps(parameters).encode())

    @cache
    def signed(target: str) -> dict[str, str]:
        """The headers that the hub's client sends; moto reads signatures and does not verify them."""
        sent = AWSRequest("POST", str(base), headers={"X-Amz-Target": target}, data=b"{}")
        service = "kms" if target.startswith("Trent") else "acm-pca"
        SigV4Auth(BOTO_CREDENTIALS, service, config.aws.region).add_auth(sent)
        agent = "Botocore/1.40 ua/2.1 os/linux md/arch#x86_64 lang/python md/pyimpl#CPython cfg/retry-mode#standard"
        more = {
            "Content-Type": "application/x-amz-json-1.1",
            "User-Agent": agent,
            "Accept-Encoding": "identity",
        }
        return {**dict(sent.headers.items()), **more}

    async def sign(connection: Connection) -> None:
        assert isinstance(config, AwsKmsAuthorityConfig)
        parameters = {"KeyId": config.key_id, "Message": ENCODED_DIGEST, "MessageType": "DIGEST"}
        await connection.ask(call("TrentService.Sign", parameters | {"SigningAlgorithm": "ECDSA_SHA_256"}))

    async def issue(connection: Connection) -> None:
        assert isinstance(config, AwsPcaAuthorityConfig)
        named = {"CertificateAuthorityArn": config.ca_arn}
        asked = {
            **named,
            "Csr": base64.b64encode(order.csr_pem.encode()).decode(),
            "SigningAlgorithm": "SHA256WITHECDSA",
            "TemplateArn": f"arn:aws:acm-pca:::template/{config.template}",
            "Validity": {"Type": "ABSOLUTE", "Value": int(order.validity.not_after.timestamp())},
        }
        answer = json.loads(await connection.ask(call("ACMPrivateCA.IssueCertificate", asked)))
        fetch = call("ACMPrivateCA.GetCertificate", named | {"CertificateArn": answer["CertificateArn"]})
        while True:
            await asyncio.sleep(NOT_YET)
            try:
                await connection.ask(fetch)
            except Unexpected as error:
                if "RequestInProgress" not in str(error):
                    raise
            else:
                return

    exchange = sign if isinstance(config, AwsKmsAuthorityConfig) else issue
    async with connections(config.max_in_flight, base) as connected:

        async def measure(seconds: float) -> float:
            return await flow(connected, exchange, seconds)

        yield measure


@asynccontextmanager
async def cert_manager(config: CertManagerAuthorityConfig, order: LeafRequest) -> AsyncIterator[Limit]:
    """Create a CertificateRequest, wait until one watch says that it was issued, have it deleted."""
    assert config.credentials.kubeconfig is not None
    kubeconfig = json.loads(config.credentials.kubeconfig.read_text())
    cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
    tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    base, path = URL(cluster["server"]), collection(config.namespace)
    headers = {"authorization": f"Bearer {user['token']}", "content-type": "application/json"}
    awaited: dict[bytes, asyncio.Future[None]] = {}
    issued_ones: asyncio.Queue[str] = asyncio.Queue()
    instance = os.urandom(8).hex()

    async def watch(http: aiohttp.ClientSession) -> None:
        url = str(base.with_path(path).with_query(watch="true"))
        async with http.get(url, headers=headers, ssl=tls) as response:
            async for line in response.content:
                name = re.search(rb'"name":\s?"(federation-[^"]+)"', line)
                if name and re.search(rb'"reason":\s?"Issued"', line):
                    waiting = awaited.get(name[1])
                    if waiting is not None and not waiting.done():
                        waiting.set_result(None)

    async def exchange(connection: Connection) -> None:
        name = f"federation-{instance}-{os.urandom(8).hex()}"
        body = certificate_request(config, order, name=name, instance=instance, seconds=3600)
        issued = awaited[name.encode()] = asyncio.get_running_loop().create_future()
        try:
            await connection.ask(request("POST", base.with_path(path), headers, body), expected=201)
            async with asyncio.timeout(30):
                await issued
        finally:
            del awaited[name.encode()]
        issued_ones.put_nowait(name)

    async def delete(connection: Connection) -> None:
        while True:
            name = await issued_ones.get()
            await connection.ask(request("DELETE", base.with_path(f"{path}/{name}"), headers))
            issued_ones.task_done()

    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), read_bufsize=2**20) as http,
        connections(config.max_in_flight, base, tls) as connected,
        connections(DELETERS, base, tls) as deleting,
    ):
        tasks = [asyncio.create_task(work) for work in (watch(http), *map(delete, deleting))]
        await asyncio.sleep(0.3)  # until the watch stands

        async def measure(seconds: float) -> float:
            began = time.perf_counter()
            rate = await flow(connected, exchange, seconds)
            done = rate * (time.perf_counter() - began)
            async with asyncio.timeout(30):
                await issued_ones.join()
            return done / (time.perf_counter() - began)

        try:
            yield measure
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def secret(reference: SecretRef) -> str:
    """What the file holds that a setting names."""
    assert reference.source == "file"
    return Path(reference.name).read_text("utf-8").strip()
