"""What is configured of each kind of authority, and of where the hub's own credentials come from: frozen values.

A secret is only ever named here: its value is read when a back end needs it. ``file:``, ``env:``, ``conjur:`` and
``spiffe:`` say where. No mistake that is reported about such a place repeats a value: an operator who wrote the secret
itself where its place belongs must not find it again in a log.

The classes below ``Section`` are tables of the file as they are written. The tables of the other kinds of authority are
in a module each, and make these values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from federation.core.config.clusters import Credentials
from federation.core.config.tables import Needed, Section
from federation.core.config.types import (
    ReadingContext,
    Value,
    filled,
    integer,
    label,
    nonempty,
    number,
    or_empty,
    path,
    read_as,
    relative_to,
    seconds,
    service_url,
    string,
    unix_socket,
)
from federation.core.errors import InvalidValue


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


_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)
_PLACES: Final = 'write "file:PATH", "env:NAME" or "conjur:VARIABLE"; the secret itself is never written here'
_JWT_PLACES: Final = (
    'write "file:PATH" of a projected token, or "spiffe:AUDIENCE"; the token itself is never written here'
)
NO_WORKLOAD_API: Final = (
    "needs the SPIFFE Workload API",
    "add [signer.spiffe] with its socket, or use files",
)


@read_as("ID of a Conjur variable")
def conjur_variable(value: object) -> str:
    """The ID of a Conjur variable, without account and kind; a comma would part it from another in a request."""
    text = nonempty(value)
    how = 'write its ID alone, for example "pki/mesh/key"'
    if text != text.strip() or text.startswith("/") or text.endswith("/") or len(text) > 1024 or "," in text:
        raise InvalidValue("is not the ID of a Conjur variable", remedy=how)
    if text.startswith(("conjur:", "variable:")) or ":variable:" in text:
        raise InvalidValue("holds more than the variable's ID", remedy=how)
    return text


def _secret(value: object, context: ReadingContext) -> SecretRef:
    match _parts(value, "is not a place of a secret", _PLACES):
        case "file", name:
            return SecretRef("file", _file(name, context))
        case "env", name:
            if not _VARIABLE_NAME.fullmatch(name):
                raise InvalidValue("names no environment variable", remedy=_PLACES)
            return SecretRef("env", name)
        case "conjur", name:
            if not context.has_conjur:
                raise InvalidValue("needs Conjur", remedy="add [signer.conjur]")
            return SecretRef("conjur", conjur_variable(name))
    raise InvalidValue("is not a place of a secret", remedy=_PLACES)


def _jwt(value: object, context: ReadingContext) -> JwtRef:
    match _parts(value, "is not a place of a JWT", _JWT_PLACES):
        case "file", name:
            return JwtRef("file", _file(name, context))
        case "spiffe", audience:
            if not context.has_spiffe:
                raise InvalidValue(NO_WORKLOAD_API[0], remedy=NO_WORKLOAD_API[1])
            return JwtRef("spiffe", filled(audience))
        case (("env" | "conjur"), _):
            raise InvalidValue("is a JWT from a place where nothing renews it", remedy=_JWT_PLACES)
    raise InvalidValue("is not a place of a JWT", remedy=_JWT_PLACES)


def _parts(value: object, problem: str, remedy: str) -> tuple[str, str]:
    source, colon, name = string(value).partition(":")
    if not colon or not name or name != name.strip():
        raise InvalidValue(problem, remedy=remedy)
    return source, name


def _file(name: str, context: ReadingContext) -> str:
    if name.startswith("//"):
        raise InvalidValue("is a URL", remedy='write "file:PATH", for example "file:/run/secrets/token"')
    return str(relative_to(context.directory)(name))


secret_place: Final = Value(
    _secret, "file:PATH, env:NAME or conjur:VARIABLE", {"type": "string", "pattern": "^(file|env|conjur):."}
)
"""Where a secret is read from."""
jwt_place: Final = Value(
    _jwt, "file:PATH or spiffe:AUDIENCE", {"type": "string", "pattern": "^(file|spiffe):."}
)
"""Where a JWT comes from."""

HOW_A_JWT: Final = 'write "file:PATH" of a projected service account token, or "spiffe:AUDIENCE"'
NAME_A_CHAIN: Final = "name the PEM file of the intermediate and what is between it and the root"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiffeConfig(Section):
    """``[signer.spiffe]``: the Workload API that gives the hub its own SVIDs."""

    socket: Annotated[
        Path, unix_socket, Needed("name the agent's socket, for example /run/spire/agent-sockets/api.sock")
    ]
    """The agent's socket: a path, or "unix:///path"."""
    timeout: Annotated[float, seconds(0.1, 60)] = 5.0
    """How long it may take to answer; its first answer may wait for the server."""


_CONJUR_WORD: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?", re.ASCII)


def _conjur_word(what: str) -> Value[str]:
    @read_as(what.partition(" ")[2])
    def convert(value: object) -> str:
        text = string(value)
        if not _CONJUR_WORD.fullmatch(text):
            raise InvalidValue(f"is not {what}", remedy="use letters, digits, '-', '_' and '.', no '/'")
        return text

    return convert


@dataclass(frozen=True, slots=True, kw_only=True)
class ConjurConfig(Section):
    """``[signer.conjur]``: the CyberArk Conjur that ``conjur:`` secrets and the ``conjur`` authority use."""

    url: Annotated[str, service_url, Needed('write its address, for example "https://conjur.example.org"')]
    """Conjur itself or a follower near by."""
    account: Annotated[
        str, _conjur_word("an account"), Needed("name Conjur's account, the one of its policies")
    ]
    """The account of its policies."""
    authenticator: Annotated[
        str,
        _conjur_word("a service ID"),
        Needed("name the service ID of its authn-jwt: what follows authn-jwt/ in the policy"),
    ]
    """The service ID of the JWT authenticator: what follows authn-jwt/ in its policy."""
    jwt: Annotated[JwtRef, jwt_place, Needed(HOW_A_JWT)]
    """The token the hub logs in with."""
    host: Annotated[str, or_empty(filled)] = ""
    """The host it logs in as; only where the authenticator does not take that from the token."""
    ca_file: Annotated[Path | None, path] = None
    """The CA of its certificate. Unset: the system's CAs."""
    poll: Annotated[float, seconds(0.1, 86400.0)] = 60.0
    """How often variables are read again: Conjur does not report that one has changed."""
    timeout: Annotated[float, seconds(0.1, 60)] = 5.0
    """How long one request may take."""


AUTHORITY_NAME: Final = label("a name for an authority")
NAME_IT: Final = Needed("name it: status, metrics and the accounting of leaves use the name")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAuthorityConfig(Section):
    """An intermediate whose chain and key are mounted files; both are watched and taken up together."""

    name: Annotated[str, AUTHORITY_NAME, NAME_IT]
    """Its name in status, in metrics and in the accounting of leaves."""
    certificate_file: Annotated[Path, path, Needed(NAME_A_CHAIN)]
    """The intermediate first, then what is between it and the root, as PEM."""
    key_file: Annotated[Path, path, Needed("name the PEM file of the intermediate's key")]
    """The intermediate's key. Refused where others can read it: mode 0600, or 0440 in a mounted Secret."""
    poll_seconds: Annotated[float, seconds(0.1, 3600)] = 5.0
    """How often both are read: mounted Secrets change by a symlink swap, which nothing portable reports."""
    kind: Literal["local"] = "local"
    """Chain and key are files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConjurAuthorityConfig(Section):
    """An intermediate whose chain and key are two Conjur variables: in memory only, read again and again."""

    name: Annotated[str, AUTHORITY_NAME, NAME_IT]
    """Its name in status, in metrics and in the accounting of leaves."""
    chain_variable: Annotated[
        str,
        conjur_variable,
        Needed("name the variable with the intermediate and what is between it and the root, as PEM"),
    ]
    """The variable with the intermediate and what is between it and the root, as PEM."""
    key_variable: Annotated[
        str, conjur_variable, Needed("name the variable with the intermediate's key, as PEM")
    ]
    """The variable with the intermediate's key, as PEM."""
    kind: Literal["conjur"] = "conjur"
    """Chain and key are two variables of CyberArk Conjur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAuthorityConfig(Section):
    """What every authority behind a network or a device has.

    ``quota`` is what the back end allows all signers together, in certificates per second; 0 means that none is
    known. Requests beyond it wait for their turn and are refused early where it would come too late.
    """

    name: Annotated[str, AUTHORITY_NAME, NAME_IT]
    """Its name in status, in metrics and in the accounting of leaves."""
    quota: Annotated[float, number(0, 100_000)] = 0.0
    """Certificates per second that the back end allows all signers together; 0 where no limit is known."""
    max_in_flight: Annotated[int, integer(1, 10_000)] = 32
    """Requests under way in one process: enough to hide a round trip, few enough to spare a small back end."""
    max_queued: Annotated[int, integer(1, 100_000)] = 2048
    """Requests waiting in one process; each is some 20 KiB."""
    timeout: Annotated[float, seconds(0.1, 120)] = 5.0
    """How long one request may take: less than listener.deadline, so that the listener can still answer."""
    poll_seconds: Annotated[float, seconds(0.1, 3600)] = 30.0
    """How often health, chain and login are checked."""


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
    quota: float = 20.0  # cert-manager's own client is limited to 20 requests a second by default
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
"""Any authority's settings, distinguished by ``kind``; ``section.py`` reads them, ``back_ends.py`` has a case each."""


def certificate_file(config: AuthorityConfig) -> Path | None:
    """The file of the authority's chain; None where its kind has no such key: the authority itself is asked for it."""
    file: Path | None = getattr(config, "certificate_file", None)
    return file
