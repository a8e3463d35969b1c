"""What the hub logs in with, by auth method: read anew for each login, so that it rotates in place."""

from __future__ import annotations

from typing import Final, TypeVar

from federation.core.config.authority_model import VaultAuth
from federation.core.errors import AuthorityMisconfigured
from federation.signer.authorities.own_credentials import OwnCredentials
from federation.signer.authorities.vault.wrapping import WrappedSecret

T = TypeVar("T")

REMEDIES: Final = {
    "token": "put another token there; it needs `read` on auth/token/lookup-self (the default policy has it)",
    "kubernetes": "compare the role's service account, namespace and audience with the hub's token, and see"
    " whether Vault may review tokens there",
    "approle": "deliver a new secret_id: this one is expired, used up, or bound to other addresses",
    "cert": "compare the certificate's names with the role's, and its issuer with the role's certificate; it needs a"
    " common name (SPIRE takes an entry's first DNS name), or log in by jwt",
    "jwt": "compare the role's bound claims and audience with the token, and its issuer with the method's",
}


async def login_body(auth: VaultAuth, credentials: OwnCredentials, wrapped: WrappedSecret) -> dict[str, str]:
    """What is sent to ``auth/<mount>/login``. Raises what reading a credential or unwrapping it raises."""
    match auth.method:
        case "kubernetes" | "jwt":
            return {"role": auth.role, "jwt": await credentials.jwt(_given(auth.jwt, "jwt", auth))}
        case "approle":
            role_id = await credentials.secret(_given(auth.role_id, "role_id", auth))
            return {"role_id": role_id, "secret_id": await secret_id(auth, credentials, wrapped)}
        case "cert":
            return {"name": auth.role} if auth.role else {}
        case "token":
            return {"token": await credentials.secret(_given(auth.token, "token", auth))}


async def secret_id(auth: VaultAuth, credentials: OwnCredentials, wrapped: WrappedSecret) -> str:
    """The secret_id that is there now. Raises as :func:`login_body` does."""
    delivered = await credentials.secret(_given(auth.secret_id, "secret_id", auth))
    return await wrapped.secret_id(delivered) if auth.secret_id_wrapped else delivered


def _given(value: T | None, key: str, auth: VaultAuth) -> T:
    if value is None:
        raise AuthorityMisconfigured(
            f"the method {auth.method} needs {key}", reason="credential_missing", remedy=f"set auth.{key}"
        )
    return value
