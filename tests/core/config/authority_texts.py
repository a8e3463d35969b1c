"""A small good ``[signer.authority]`` of each kind, and the tables beside it."""

from __future__ import annotations

from tests.core.config.texts import AUTHORITY, HUB

CONJUR = """
[signer.conjur]
url = "https://conjur.example"
account = "acme"
authenticator = "hub"
jwt = "file:/run/token"
"""
SPIFFE = """
[signer.spiffe]
socket = "/run/spire/api.sock"
"""

VAULT = """
[signer.authority]
kind = "vault"
name = "shared"
address = "https://vault.example:8200"
role = "workload"
serving_role = "door"
"""
TRANSIT = """
[signer.authority]
kind = "vault-transit"
name = "shared"
address = "https://vault.example:8200"
key = "mesh"
certificate_file = "chain.pem"
"""
KUBERNETES = """
[signer.authority.auth]
method = "kubernetes"
role = "hub"
jwt = "file:token"
"""
PKCS11 = """
[signer.authority]
kind = "pkcs11"
name = "shared"
module = "/usr/lib/p11.so"
token = "mesh"
key_label = "issuing"
pin = "file:/run/pin"
certificate_file = "chain.pem"
"""
CERT_MANAGER = """
[signer.authority]
kind = "cert-manager"
name = "shared"
kubeconfig = "management"
namespace = "requests"
issuer_name = "venafi.example"
"""
CA_ARN = (
    "arn:aws:acm-pca:eu-central-1:111122223333:certificate-authority/1a2b3c4d-5e6f-7a8b-9c0d-1e2f3a4b5c6d"
)
PCA = f"""
[signer.authority]
kind = "aws-pca"
name = "shared"
region = "eu-central-1"
ca_arn = "{CA_ARN}"
"""
KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
KMS = f"""
[signer.authority]
kind = "aws-kms"
name = "shared"
region = "eu-central-1"
key_id = "{KEY_ID}"
certificate_file = "chain.pem"
"""
VARIABLES = """
[signer.authority]
kind = "conjur"
name = "shared"
chain_variable = "pki/chain"
key_variable = "pki/key"
"""

EVERY_REMOTE = {
    "vault": VAULT + KUBERNETES,
    "vault-transit": TRANSIT + KUBERNETES,
    "pkcs11": PKCS11,
    "cert-manager": CERT_MANAGER,
    "aws-pca": PCA,
    "aws-kms": KMS,
}


def hub(authority: str, *tables: str) -> str:
    """A whole file with that authority."""
    return HUB.replace(AUTHORITY, authority + "".join(tables))


def line(authority: str, written: str) -> str:
    """The authority with that line in its own table, in the place of its key's or as one more."""
    key = written.partition(" = ")[0]
    table, mark, rest = authority.partition("\n\n")
    kept = [before for before in table.splitlines() if not before.startswith(f"{key} = ")]
    return "\n".join([*kept, written]) + f"\n{mark}{rest}"


def without(authority: str, *keys: str) -> str:
    """The authority's tables without those keys."""
    return "\n".join(kept for kept in authority.splitlines() if kept.partition(" = ")[0] not in keys) + "\n"


def login(method: str, *lines: str) -> str:
    """``[signer.authority.auth]`` of that method."""
    return "\n".join(["", "[signer.authority.auth]", f'method = "{method}"', *lines]) + "\n"
