"""Which certificates in a kubeconfig's authority are trusted: those that Go trusts, and no other."""

from __future__ import annotations

import ipaddress
import os
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.core.errors import InvalidValue
from federation.kubernetes.credentials import client_context
from tests.support.clusters import Exchange, RawServer, connected

KUBECTL = os.environ.get("KUBECTL") or shutil.which("kubectl")


class Issuer:
    """A certificate with its key, which may sign others."""

    def __init__(
        self, name: str, issuer: Issuer | None = None, *, ca: bool = True, expired: bool = False
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        above = issuer or self
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(above.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=9))
            .not_valid_after(now - timedelta(days=1) if expired else now + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
            )
        self.certificate = builder.sign(above.key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


ROOT = Issuer("root")
INTERMEDIATE = Issuer("intermediate", ROOT)
SERVER = Issuer("kube-apiserver", INTERMEDIATE, ca=False)
OTHER = Issuer("other")

TEXT = "Autorité de certification\n".encode()
BROKEN = b"-----BEGIN CERTIFICATE-----\nTm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"


@contextmanager
def serving(*chain: Issuer) -> Iterator[ssl.SSLContext]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "serving.pem")
        file.write_bytes(b"".join(certificate.pem for certificate in chain) + chain[0].key_pem)
        context.load_cert_chain(file)
    yield context


def accepts(authority: bytes, *chain: Issuer, name: str = "127.0.0.1") -> bool:
    """Whether a connection to a server with that chain is made, both ends in memory."""
    client = client_context(authority=authority, where="kubeconfig")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    with serving(*chain) as context:
        ends = [
            client.wrap_bio(to_client, to_server, server_hostname=name),
            context.wrap_bio(to_server, to_client, server_side=True),
        ]
        for _ in range(4):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLCertVerificationError:
                    return False
        return True


SPOILED = ROOT.pem.rstrip() + b" spoiled\n"
CASES = [
    pytest.param(ROOT.pem, (SERVER, INTERMEDIATE), True, id="the root"),
    pytest.param(ROOT.pem, (SERVER,), False, id="the root, of a server that sends no intermediate"),
    pytest.param(INTERMEDIATE.pem, (SERVER,), True, id="an intermediate alone"),
    pytest.param(INTERMEDIATE.pem, (SERVER, INTERMEDIATE), True, id="an intermediate that is sent as well"),
    pytest.param(SERVER.pem, (SERVER,), True, id="the server's own"),
    pytest.param(SERVER.pem, (SERVER, INTERMEDIATE), True, id="the server's own, with its issuer sent"),
    pytest.param(OTHER.pem, (SERVER, INTERMEDIATE), False, id="another CA"),
    pytest.param(
        Issuer("kube-apiserver", INTERMEDIATE, ca=False).pem, (SERVER,), False, id="another server's own"
    ),
    pytest.param(OTHER.pem + ROOT.pem, (SERVER, INTERMEDIATE), True, id="two CAs"),
    pytest.param(TEXT + ROOT.pem + TEXT, (SERVER, INTERMEDIATE), True, id="text around it"),
    pytest.param(BROKEN + ROOT.pem, (SERVER, INTERMEDIATE), True, id="one that cannot be read before it"),
    pytest.param(ROOT.pem.replace(b"\n", b"\r\n"), (SERVER, INTERMEDIATE), True, id="lines of Windows"),
    pytest.param(OTHER.key_pem + ROOT.pem, (SERVER, INTERMEDIATE), True, id="a key beside it"),
    pytest.param(OTHER.pem + SPOILED, (SERVER, INTERMEDIATE), False, id="text behind its END line"),
    pytest.param(
        Issuer("kube-apiserver", ROOT, ca=False, expired=True).pem, (SERVER,), False, id="an expired one"
    ),
]


@pytest.mark.parametrize(("authority", "chain", "accepted"), CASES)
def test_each_certificate_of_the_authority_is_an_anchor_and_nothing_else_is(
    authority: bytes, chain: tuple[Issuer, ...], accepted: bool
) -> None:
    assert accepts(authority, *chain) is accepted


def test_an_expired_certificate_of_the_server_is_refused_though_it_is_the_authority() -> None:
    expired = Issuer("kube-apiserver", INTERMEDIATE, ca=False, expired=True)
    assert not accepts(expired.pem, expired)


def test_the_name_is_checked_though_the_authority_is_the_servers_own_certificate() -> None:
    assert not accepts(SERVER.pem, SERVER, name="127.0.0.2")


@pytest.mark.parametrize("authority", [b"", b"hello", TEXT, BROKEN, OTHER.key_pem, b"\xff" * 30])
def test_an_authority_without_a_certificate_is_refused(authority: bytes) -> None:
    with pytest.raises(InvalidValue, match="holds no certificate that can be read"):
        client_context(authority=authority, where="kubeconfig")


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed, and KUBECTL names none")
@pytest.mark.parametrize(
    "authority", [INTERMEDIATE.pem, SERVER.pem, TEXT + BROKEN + ROOT.pem, OTHER.pem, OTHER.pem + SPOILED]
)
async def test_kubectl_trusts_the_same(authority: bytes, tmp_path: Path) -> None:
    import asyncio
    import base64

    async def answer(exchange: Exchange) -> None:
        await exchange.answer(b"{}")

    server = RawServer(answer)
    with serving(SERVER, INTERMEDIATE) as server.tls:
        async with server:
            encoded = base64.b64encode(authority).decode()
            kubeconfig = server.kubeconfig(tmp_path / "kc", certificate_authority_data=encoded)
            command = [str(KUBECTL), "--kubeconfig", str(kubeconfig), "get", "--raw", "/version"]
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            await process.communicate()
            try:
                async with connected(kubeconfig) as session:
                    await session.get("/version")
                reached = True
            except Exception:
                reached = False
    assert reached is (process.returncode == 0)
    assert reached is (authority not in {OTHER.pem, OTHER.pem + SPOILED})
