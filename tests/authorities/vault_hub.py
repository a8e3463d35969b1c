"""The hub's side in tests of Vault: settings, credentials as files, and the authority as it is made for real."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509 import DNSName, IPAddress
from cryptography.x509.oid import NameOID

from federation.core.config.authorities.settings import (
    CertificateRef,
    JwtRef,
    SecretRef,
    VaultAuth,
    VaultAuthorityConfig,
    VaultTransitAuthorityConfig,
)
from federation.core.config.authorities.settings import VaultServer as ServerConfig
from federation.core.identity import ServiceAccountRef, SpiffeId, TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import PrivateKey, private_key_pem
from federation.core.pki.pem import encode_certificates
from federation.signer.authorities.authority import AuthoritySettings, ManagedAuthority
from tests.authorities.back_end import BackEnd, authority_of
from tests.authorities.vault_auth import Token
from tests.authorities.vault_keys import intermediate_for
from tests.authorities.vault_server import VaultServer
from tests.signer.running_signer import authority
from tests.support import pki

ELSEWHERE = SpiffeId(TrustDomain("elsewhere"), ServiceAccountRef("foo", "bar"))
"""An identity that the recommended roles do not cover."""

_LOOPBACK = ipaddress.ip_address("127.0.0.1")


def secret_file(directory: Path, name: str, content: str | bytes) -> Path:
    """A file that only its owner may read."""
    file = directory / name
    file.touch(mode=0o600)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def given_token(server: VaultServer, directory: Path) -> tuple[Token, VaultAuth]:
    token = server.auth.make_token()
    file = secret_file(directory, "token", token.secret + "\n")
    return token, VaultAuth(method="token", mount="token", token=SecretRef("file", str(file)))


def approle(server: VaultServer, directory: Path, *, wrapped: str = "", role: str = "") -> VaultAuth:
    return VaultAuth(
        method="approle",
        mount="approle",
        role=role,
        role_id=SecretRef("file", str(secret_file(directory, "role-id", server.auth.role_id))),
        secret_id=SecretRef(
            "file", str(secret_file(directory, "secret-id", wrapped or server.auth.secret_id))
        ),
        secret_id_wrapped=bool(wrapped),
    )


def by_jwt(server: VaultServer, directory: Path, method: Any = "kubernetes") -> VaultAuth:
    file = directory / "projected-token"
    file.write_text(server.auth.jwt)
    return VaultAuth(method=method, mount=method, role="hub", jwt=JwtRef("file", str(file)))


def by_certificate(directory: Path, common_name: str = "federation-hub") -> VaultAuth:
    """A client certificate of the hub as files; without a common name it is what SPIRE gives by default."""
    own = authority("vault client")
    key = pki.key("the hub at vault")
    names = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    leaf = pki.certificate(
        own,
        [
            (pki.WORKLOAD_KEY_USAGE, True),
            (pki.BOTH_WAYS, False),
            (pki.spiffe_san(pki.IDENTITY), not common_name),
        ],
        public_key=key.public_key(),
        subject=x509.Name(names),
        not_before=own.certificate.not_before,
        not_after=own.certificate.not_after,
    )
    certificate = directory / "client.pem"
    certificate.write_bytes(leaf.pem + own.chain_pem)
    key_file = secret_file(directory, "client-key.pem", private_key_pem(key))
    return VaultAuth(
        method="cert", mount="cert", role="hub", certificate=CertificateRef(certificate, key_file)
    )


def server_context(
    directory: Path, *, clients: bool = False, ca: str = "vault tls"
) -> tuple[ssl.SSLContext, Path]:
    """TLS for a server on the loopback by a CA of its own, and the file of that CA."""
    own = authority(ca)
    key = pki.key("vault's own")
    san = x509.SubjectAlternativeName([IPAddress(_LOOPBACK), DNSName("localhost")])
    leaf = pki.leaf(
        own,
        private_key=key,
        san=san,
        not_before=own.certificate.not_before,
        not_after=own.certificate.not_after,
    )
    chain, ca_file = directory / "vault.pem", directory / "vault-ca.pem"
    chain.write_bytes(leaf.pem + own.chain_pem)
    ca_file.write_bytes(own.root.pem)
    key_file = secret_file(directory, "vault-key.pem", private_key_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key_file)
    if clients:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=authority("vault client").root.pem.decode())
    return context, ca_file


def pki_config(
    server: VaultServer, auth: VaultAuth, *, ca_file: Path | None = None, **options: Any
) -> VaultAuthorityConfig:
    return VaultAuthorityConfig(
        **{
            "name": "vault",
            "server": ServerConfig(
                address=options.pop("address", server.address),
                auth=auth,
                namespace=server.namespace,
                ca_file=ca_file,
            ),
            "role": "mesh-workload",
            "serving_role": "mesh-listener",
            **options,
        }
    )


def transit_config(
    server: VaultServer, auth: VaultAuth, directory: Path, *, version: int = 1
) -> tuple[VaultTransitAuthorityConfig, Certificate]:
    """The settings for the key "mesh", and the root above the chain of that version of it."""
    key: PrivateKey = server.transit.keys["mesh"].versions[version - 1]
    chain = intermediate_for(key.public_key())
    file = directory / "chain.pem"
    file.write_bytes(encode_certificates(chain[:1]))
    config = VaultTransitAuthorityConfig(
        name="transit",
        server=ServerConfig(address=server.address, auth=auth),
        key="mesh",
        certificate_file=file,
    )
    return config, chain[-1]


@asynccontextmanager
async def hub_of(
    server: VaultServer,
    config: VaultAuthorityConfig | VaultTransitAuthorityConfig,
    root: Certificate | None = None,
) -> AsyncIterator[ManagedAuthority]:
    """The authority of these settings, looked at once; it lives by the server's clock."""
    back_end = BackEnd(settings=AuthoritySettings(config), root=root or server.pki.ca.root)
    async with authority_of(back_end, clock=server.clock) as kept:
        yield kept
