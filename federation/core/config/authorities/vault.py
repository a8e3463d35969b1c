"""``kind = "vault"`` and ``"vault-transit"``: a Vault or OpenBao, and how the hub logs in there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from federation.core.config.authorities.common import limits_of
from federation.core.config.authorities.settings import (
    HOW_A_JWT,
    NAME_A_CHAIN,
    NO_WORKLOAD_API,
    CertificateRef,
    JwtRef,
    RemoteAuthorityConfig,
    SecretRef,
    VaultAuth,
    VaultAuthorityConfig,
    VaultServer,
    VaultTransitAuthorityConfig,
    jwt_place,
    secret_place,
)
from federation.core.config.mistakes import Place
from federation.core.config.tables import Forms, Needed, Section
from federation.core.config.types import (
    ReadingContext,
    Value,
    boolean,
    is_plain_http,
    or_empty,
    path,
    read_as,
    service_url,
    string,
)
from federation.core.errors import InvalidValue

_WORD: Final = r"\w(?:[\w.-]{0,126}\w)?"  # what Vault itself takes for a name (GenericNameRegex), bounded
_NAME: Final = re.compile(_WORD, re.ASCII)
_PATH: Final = re.compile(rf"{_WORD}(?:/{_WORD}){{0,15}}", re.ASCII)


@read_as("name in Vault")
def vault_name(value: object) -> str:
    """The name of a role, key or issuer, as Vault itself takes them."""
    text = string(value)
    if not _NAME.fullmatch(text):
        raise InvalidValue(
            "is not a name in Vault", remedy="use letters, digits, '_', and '-' or '.' between them"
        )
    return text


@read_as("path in Vault")
def vault_path(value: object) -> str:
    """A mount or a namespace: names with '/' between them."""
    text = string(value)
    if not _PATH.fullmatch(text):
        raise InvalidValue(
            "is not a path in Vault", remedy='write it without "/" at its ends, for example "pki/mesh"'
        )
    return text


@read_as("path in Vault below auth/")
def _auth_mount(value: object) -> str:
    text = vault_path(value)
    if text.startswith("auth/"):
        raise InvalidValue("is below auth/ already", remedy='leave "auth/" out')
    return text


def _svid(value: object, context: ReadingContext) -> CertificateRef:
    if string(value) != "spiffe":
        raise InvalidValue(
            'can only be "spiffe"',
            remedy="or leave it out and name client_certificate_file and client_key_file",
        )
    if not context.has_spiffe:
        raise InvalidValue(NO_WORKLOAD_API[0], remedy=NO_WORKLOAD_API[1])
    return CertificateRef()


_SECRET: Final = Needed('write "file:PATH", "env:NAME" or "conjur:VARIABLE"')


@dataclass(frozen=True, kw_only=True)
class TokenLogin(Section):
    """With a token that something else renews, such as Vault's agent."""

    method: Literal["token"] = "token"
    """With a token."""
    token: Annotated[SecretRef, secret_place, _SECRET]
    """The token. From the environment it is warned about."""

    def check(self, place: Place) -> None:
        """What must hold between its keys."""
        place.check(self, _renewable)

    def build(self) -> VaultAuth:
        """How the hub logs in, once nothing in the file is wrong."""
        return VaultAuth(method="token", mount="token", token=self.token)


@dataclass(frozen=True, kw_only=True)
class JwtLogin(Section):
    """With a JWT: a service account's token that Vault reviews ("kubernetes"), or one that it checks itself ("jwt")."""

    method: Literal["kubernetes", "jwt"]
    """With a JWT that Vault has reviewed, or checks itself."""
    mount: Annotated[str, _auth_mount] = ""
    """Where the method is mounted below auth/. Unset: the method's name."""
    role: Annotated[str, vault_name, Needed("name the role of the method that the hub logs in with")]
    """The role there."""
    jwt: Annotated[JwtRef, jwt_place, Needed(HOW_A_JWT)]
    """The token, of an audience that the role binds."""

    def check(self, place: Place) -> None:
        """What must hold between its keys: nothing."""

    def build(self) -> VaultAuth:
        """How the hub logs in, once nothing in the file is wrong."""
        return VaultAuth(method=self.method, mount=self.mount or self.method, role=self.role, jwt=self.jwt)


@dataclass(frozen=True, kw_only=True)
class AppRoleLogin(Section):
    """With the ID of a role and a secret that belongs to it."""

    method: Literal["approle"] = "approle"
    """With the ID of a role and a secret of it."""
    mount: Annotated[str, _auth_mount] = ""
    """Where the method is mounted below auth/. Unset: the method's name."""
    role_id: Annotated[SecretRef, secret_place, _SECRET]
    """Where the ID is read from."""
    secret_id: Annotated[SecretRef, secret_place, _SECRET]
    """Where the secret is read from."""
    secret_id_wrapped: Annotated[bool, boolean] = False
    """The secret is a response-wrapping token: unwrapped once, and refused where it was unwrapped before. Each
    process needs one of its own.
    """
    role: Annotated[str, or_empty(vault_name)] = ""
    """With secret_id_wrapped: the role that the token must have been made for; empty takes any of this mount."""

    def check(self, place: Place) -> None:
        """What must hold between its keys."""
        place.check(self, _role_used, _apart)

    def build(self) -> VaultAuth:
        """How the hub logs in, once nothing in the file is wrong."""
        return VaultAuth(
            method="approle",
            mount=self.mount or "approle",
            role=self.role,
            role_id=self.role_id,
            secret_id=self.secret_id,
            secret_id_wrapped=self.secret_id_wrapped,
        )


@dataclass(frozen=True, kw_only=True)
class CertificateLogin(Section):
    """With a client certificate."""

    method: Literal["cert"] = "cert"
    """With a client certificate."""
    mount: Annotated[str, _auth_mount] = ""
    """Where the method is mounted below auth/. Unset: the method's name."""
    role: Annotated[str, or_empty(vault_name)] = ""
    """The role of the method; empty lets Vault find the one that matches."""
    client_certificate_file: Annotated[Path | None, path] = None
    """The certificate, PEM. Required where client_certificate is not set."""
    client_key_file: Annotated[Path | None, path] = None
    """Its key, PEM."""
    client_certificate: Annotated[CertificateRef | None, Value(_svid, '"spiffe"', {"const": "spiffe"})] = None
    """The X.509-SVID that the Workload API of [signer.spiffe] gives, instead of two files."""

    def check(self, place: Place) -> None:
        """What must hold between its keys."""
        place.check(self, _one_certificate, _key_in_its_own_file)

    def build(self) -> VaultAuth:
        """How the hub logs in, once nothing in the file is wrong."""
        files = CertificateRef(self.client_certificate_file, self.client_key_file)
        return VaultAuth(
            method="cert",
            mount=self.mount or "cert",
            role=self.role,
            certificate=self.client_certificate or files,
        )


Login: TypeAlias = TokenLogin | JwtLogin | AppRoleLogin | CertificateLogin
_METHODS: Final = Forms(
    "method",
    {
        "kubernetes": JwtLogin,
        "jwt": JwtLogin,
        "approle": AppRoleLogin,
        "cert": CertificateLogin,
        "token": TokenLogin,
    },
    missing=Needed("choose how the hub logs in; in Kubernetes that is kubernetes or jwt"),
    of_others=lambda method, takers: (
        f"is not a key of method {method}",
        f"remove it, or use the method it belongs to: {', '.join(takers)}",
    ),
)


@dataclass(frozen=True, kw_only=True)
class _ServerTable(RemoteAuthorityConfig):
    """The keys of every authority in a Vault or OpenBao."""

    address: Annotated[str, service_url, Needed('write its address, for example "https://vault:8200"')]
    """The server, or the load balancer before its nodes."""
    namespace: Annotated[str, or_empty(vault_path)] = ""
    """Its namespace, without "/" at the ends; empty for none."""
    ca_file: Annotated[Path | None, path] = None
    """The CA of its certificate. Unset: the system's CAs."""
    auth: Annotated[
        Login, _METHODS, Needed("add [{table}] with its method", "is missing, so the hub could not log in")
    ]
    """How the hub logs in; method says which keys this table has."""

    @property
    def server(self) -> VaultServer:
        """The server, and how the hub logs in there."""
        return VaultServer(
            address=self.address, auth=self.auth.build(), namespace=self.namespace, ca_file=self.ca_file
        )

    def check(self, place: Place) -> None:
        """What must hold between its keys."""
        place.check(self, _ca_used, _certificate_shown, _login)


@dataclass(frozen=True, kw_only=True)
class VaultTable(_ServerTable):
    """The PKI engine of Vault or OpenBao: it holds the key and issues through a role."""

    kind: Literal["vault"] = "vault"
    """The PKI engine of Vault or OpenBao."""
    mount: Annotated[str, vault_path] = "pki"
    """Where the engine is mounted."""
    issuer: Annotated[str, vault_name] = "default"
    """Which of its issuers signs."""
    role: Annotated[str, vault_name, Needed("name the role that signs SPIFFE requests and nothing else")]
    """The role for workloads: SPIFFE names of the trust domain, no names of other kinds, no_store = true."""
    serving_role: Annotated[
        str,
        vault_name,
        Needed(
            "name the role for the listener's own certificate: its DNS names and server authentication only"
        ),
    ]
    """The role for the listener's own certificate: the names of listener.server_names, server authentication only."""

    def build(self) -> VaultAuthorityConfig:
        """The authority's settings, once nothing in the file is wrong."""
        return VaultAuthorityConfig(
            **limits_of(self),
            server=self.server,
            mount=self.mount,
            issuer=self.issuer,
            role=self.role,
            serving_role=self.serving_role,
        )


@dataclass(frozen=True, kw_only=True)
class VaultTransitTable(_ServerTable):
    """The Transit engine of Vault or OpenBao: it holds the key and signs what the hub has built."""

    kind: Literal["vault-transit"] = "vault-transit"
    """The Transit engine of Vault or OpenBao."""
    mount: Annotated[str, vault_path] = "transit"
    """Where the engine is mounted."""
    key: Annotated[str, vault_name, Needed("name the key in Transit that the intermediate was made with")]
    """The key in it: ecdsa-p256, ecdsa-p384 or rsa-2048 to rsa-4096."""
    certificate_file: Annotated[Path, path, Needed(NAME_A_CHAIN)]
    """The intermediate first, then what is between it and the root, as PEM."""

    def build(self) -> VaultTransitAuthorityConfig:
        """The authority's settings, once nothing in the file is wrong."""
        return VaultTransitAuthorityConfig(
            **limits_of(self),
            server=self.server,
            mount=self.mount,
            key=self.key,
            certificate_file=self.certificate_file,
        )


def _login(place: Place, table: _ServerTable) -> None:
    table.auth.check(place.below("auth"))


def _ca_used(place: Place, table: _ServerTable) -> None:
    if is_plain_http(table.address) and table.ca_file is not None:
        place.mistake("ca_file", "is never used: the address is http", "use https, or remove it")


def _certificate_shown(place: Place, table: _ServerTable) -> None:
    if is_plain_http(table.address) and isinstance(table.auth, CertificateLogin):
        place.mistake("address", "is http, where no client certificate is shown", "use https")


def _renewable(place: Place, login: TokenLogin) -> None:
    if login.token.source == "env":
        place.warning(
            "token",
            "a token in the environment can only be replaced by a restart: prefer a method that logs in "
            "anew, or a file that an agent renews",
        )


def _role_used(place: Place, login: AppRoleLogin) -> None:
    if login.role and not login.secret_id_wrapped:
        place.mistake(
            "role",
            "is never used: role_id says the role",
            "remove it; with secret_id_wrapped it says which role the wrapping token must be of",
        )


def _apart(place: Place, login: AppRoleLogin) -> None:
    if login.role_id == login.secret_id:
        place.mistake("secret_id", "is the place of role_id", "keep them apart: that is their point")


def _one_certificate(place: Place, _: CertificateLogin) -> None:
    certificate, key, word = "client_certificate_file", "client_key_file", "client_certificate"
    files = place.set_among((certificate, key))
    if place.has(word):
        if files:
            place.mistake(files[0], f"contradicts {word}", "keep one of the two")
    elif not files:
        place.mistake(
            certificate,
            "is missing",
            f'name the PEM file of the certificate and {key}, or set {word} = "spiffe"',
        )
    elif files == [certificate]:
        place.mistake(key, "is missing", f"name the key of {certificate}")
    elif files == [key]:
        place.mistake(certificate, "is missing", f"name the certificate that {key} is for")


def _key_in_its_own_file(place: Place, login: CertificateLogin) -> None:
    if login.client_key_file is not None and login.client_certificate_file == login.client_key_file:
        place.mistake(
            "client_key_file", "is the certificate's file", "keep the key in a file of its own, mode 0600"
        )
