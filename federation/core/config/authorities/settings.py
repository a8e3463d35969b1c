"""What is configured of each kind of authority, and of where the hub's own credentials come from: frozen values.

A secret is only ever named here, never held: its value is read when a back end needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from federation.core.config.clusters import Credentials


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is read from: ``file:PATH``, ``env:NAME`` or ``conjur:VARIABLE``."""

    source: Literal["file", "env", "conjur"]
    name: str

    def __str__(self) -> str:
        return f"{self.source}:{self.name}"


@dataclass(frozen=True, slots=True)
class JwtRef:
    """Where a JWT comes from: ``file:PATH`` (a projected token, read anew), or ``spiffe:AUDIENCE``.

    With ``spiffe`` the Workload API of ``[signer.spiffe]`` is asked for a JWT-SVID of that audience.
    """

    source: Literal["file", "spiffe"]
    name: str

    def __str__(self) -> str:
        return f"{self.source}:{self.name}"


@dataclass(frozen=True, slots=True)
class CertificateRef:
    """A client certificate and its key: two PEM files, or, without them, the Workload API's X.509-SVID."""

    certificate_file: Path | None = None
    key_file: Path | None = None

    @property
    def is_spiffe(self) -> bool:
        """True where the SPIFFE Workload API gives it."""
        return self.certificate_file is None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiffeConfig:
    """``[signer.spiffe]``: the Workload API that gives the hub its own SVIDs."""

    socket: Path
    timeout: float = 5.0  # the agent is on this machine; its first answer may wait for the server


@dataclass(frozen=True, slots=True, kw_only=True)
class ConjurConfig:
    """``[signer.conjur]``: the CyberArk Conjur that ``conjur:`` secrets and the ``conjur`` authority use."""

    url: str
    account: str
    authenticator: str  # the service ID of its authn-jwt
    jwt: JwtRef
    host: str = ""  # only where the authenticator does not take the identity from the token
    ca_file: Path | None = None
    poll: float = 60.0  # Conjur tells nobody that a variable has changed
    timeout: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAuthorityConfig:
    """An intermediate whose chain and key are mounted files; both are watched and taken up together."""

    name: str
    certificate_file: Path
    key_file: Path
    poll_seconds: float = 5.0  # mounted Secrets change by a symlink swap, which nothing portable reports
    kind: str = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConjurAuthorityConfig:
    """An intermediate whose chain and key are two Conjur variables: held in memory only, re-read."""

    name: str
    chain_variable: str
    key_variable: str
    kind: str = "conjur"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAuthorityConfig:
    """What every authority behind a network or a device has.

    ``quota`` is what the back end allows all signers together, in certificates per second; 0 stands for none
    known. Requests beyond it wait for their turn and are refused early where it would come too late.
    """

    name: str
    quota: float = 0.0
    max_in_flight: int = 32  # per process: enough to hide a round trip, few enough to spare a small back end
    max_queued: int = 2048  # per process: a waiting request holds some 20 KiB
    timeout: float = 5.0  # half of the listener's deadline: a hung back end leaves time for a good answer
    poll_seconds: float = 30.0  # how often health, chain and login are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultAuth:
    """How the hub logs in to Vault; which fields count depends on ``method``.

    ``token``: ``token``. ``kubernetes`` and ``jwt``: ``role`` and ``jwt``. ``approle``: ``role_id`` and
    ``secret_id``, which is a response-wrapping token where ``secret_id_wrapped``: one made for ``role``, if
    that is given. ``cert``: ``certificate``, and ``role`` unless Vault is to find it.
    """

    method: Literal["token", "kubernetes", "approle", "cert", "jwt"]
    mount: str  # the auth method's path below auth/
    role: str = ""
    token: SecretRef | None = None
    jwt: JwtRef | None = None
    role_id: SecretRef | None = None
    secret_id: SecretRef | None = None
    secret_id_wrapped: bool = False
    certificate: CertificateRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultServer:
    """One Vault or OpenBao, and how the hub logs in there."""

    address: str
    auth: VaultAuth
    namespace: str = ""
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultAuthorityConfig(RemoteAuthorityConfig):
    """Vault's or OpenBao's PKI engine: it holds the key and issues through a role."""

    server: VaultServer
    mount: str = "pki"
    issuer: str = "default"
    role: str
    serving_role: str  # for the listener's own certificate: DNS names and server authentication only
    kind: str = "vault"


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultTransitAuthorityConfig(RemoteAuthorityConfig):
    """Vault's or OpenBao's Transit engine: it holds the key and signs what the hub has built."""

    server: VaultServer
    mount: str = "transit"
    key: str
    certificate_file: Path
    kind: str = "vault-transit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pkcs11AuthorityConfig(RemoteAuthorityConfig):
    """A key in a PKCS#11 token. The token is named by ``token``, ``slot`` or ``serial``, or by ``uri``.

    ``uri`` (RFC 7512) has been taken apart already; ``key_id`` is in lower-case hex.
    """

    module: Path
    pin: SecretRef
    certificate_file: Path
    token: str = ""
    slot: int | None = None
    serial: str = ""
    key_label: str = ""
    key_id: str = ""
    max_in_flight: int = 64  # one thread signs, so more only wait in another queue
    poll_seconds: float = 10.0
    kind: str = "pkcs11"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertManagerAuthorityConfig(RemoteAuthorityConfig):
    """cert-manager in one management cluster, with any Issuer or ClusterIssuer."""

    credentials: Credentials
    namespace: str
    issuer_name: str
    issuer_kind: str = "ClusterIssuer"
    issuer_group: str = "cert-manager.io"
    quota: float = 20.0  # cert-manager's own client is limited to 20 requests a second unless told otherwise
    timeout: float = 8.0  # an issuer may have to ask a service of its own
    kind: str = "cert-manager"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsConfig:
    """Where AWS is called. Credentials come by AWS's own chain: web identity, container, instance, files."""

    region: str
    endpoint: str = ""  # a VPC endpoint or a test server; empty: AWS's own
    role_arn: str = ""  # assumed with ``jwt``: both or neither
    jwt: JwtRef | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsPcaAuthorityConfig(RemoteAuthorityConfig):
    """AWS Private CA: it holds the key and issues by a template."""

    aws: AwsConfig
    ca_arn: str
    template: str = "EndEntityCertificate/V1"
    serving_template: str = "EndEntityServerAuthCertificate/V1"
    quota: float = 25.0  # IssueCertificate's default quota for one account and region
    timeout: float = 8.0  # issuing is asynchronous there: asked for, then fetched
    kind: str = "aws-pca"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsKmsAuthorityConfig(RemoteAuthorityConfig):
    """An asymmetric key in AWS KMS that signs what the hub has built."""

    aws: AwsConfig
    key_id: str
    certificate_file: Path
    quota: float = 1000.0  # KMS's default for asymmetric signing, shared by one account and region
    kind: str = "aws-kms"


AuthorityConfig: TypeAlias = (
    LocalAuthorityConfig
    | ConjurAuthorityConfig
    | VaultAuthorityConfig
    | VaultTransitAuthorityConfig
    | Pkcs11AuthorityConfig
    | CertManagerAuthorityConfig
    | AwsPcaAuthorityConfig
    | AwsKmsAuthorityConfig
)
"""Any authority's settings, told apart by ``kind``; ``section.py`` reads them."""


def certificate_file(config: AuthorityConfig) -> Path | None:
    """The file of the authority's chain; None where the authority itself is asked for it."""
    match config:
        case (
            LocalAuthorityConfig()
            | VaultTransitAuthorityConfig()
            | Pkcs11AuthorityConfig()
            | AwsKmsAuthorityConfig()
        ):
            return config.certificate_file
        case _:
            return None
