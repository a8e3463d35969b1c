"""Service account tokens: made by TokenRequest, checked as the API server checks them.

Source: k8s.io/kubernetes ``pkg/registry/core/serviceaccount/storage/token.go`` (issuing),
``pkg/serviceaccount/claims.go`` and ``jwt.go`` (claims and their validation), KEP-1205 (bound tokens),
KEP-4193 (node and credential ID).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import jwt
from jwt.types import Options

from federation.sandbox.apiserver.objects import Obj, metadata, new_uid, timestamp
from federation.sandbox.apiserver.resources import NODES, PODS, SECRETS, SERVICE_ACCOUNTS
from federation.sandbox.apiserver.status import ApiError, bad_request, invalid, not_found
from federation.sandbox.apiserver.store import Store
from federation.sandbox.apiserver.token_keys import KeyRing
from federation.sandbox.apiserver.users import User, service_account_groups, service_account_name

DEFAULT_SECONDS: Final = 3600
MIN_SECONDS: Final = 600
MAX_SECONDS: Final = 1 << 32
WARN_ONLY_SECONDS: Final = 3607  # what kubelets ask for: such tokens live a year and warn after an hour
EXTENDED_SECONDS: Final = 365 * 24 * 3600
LEEWAY: Final = timedelta(minutes=1)  # go-jose's default for exp, nbf and iat
DELETION_LEEWAY: Final = timedelta(seconds=60)  # a terminating pod's token still works this long

_EXTRA = "authentication.kubernetes.io/"
# Claims are checked here, by the cluster's own clock and audiences; PyJWT only verifies the signature.
_BY_HAND: Final[Options] = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class TokenRejectedError(Exception):
    """The token does not authenticate anybody; the text is what a TokenReview's ``status.error`` says."""


class NotOursError(TokenRejectedError):
    """Not a token of this issuer at all: another authenticator may know it."""


class ServiceAccountTokens:
    """Issues and checks the service account tokens of one cluster."""

    def __init__(
        self,
        store: Store,
        keys: KeyRing,
        now: Callable[[], datetime],
        *,
        issuer: str,
        audiences: Sequence[str],
    ) -> None:
        self._store = store
        self._keys = keys
        self._now = now
        self.issuer = issuer
        self.former_issuers: set[str] = set()  # --service-account-issuer, given again: their tokens are taken
        self.node_claims = True  # ServiceAccountTokenPodNodeInfo: from Kubernetes 1.30 on
        self.audiences = tuple(audiences)

    def request(self, namespace: str, name: str, spec: Obj) -> tuple[str, datetime, Obj]:
        """TokenRequest: the token, when its holder should have replaced it, and the spec as it was taken.

        Raises ApiError: 404 for a missing account or bound object, 409 for another UID, 422 for a bad
        duration.
        """
        account = self._store.get(SERVICE_ACCOUNTS, namespace, name)
        if account is None:
            raise not_found(SERVICE_ACCOUNTS, name)
        seconds = spec.get("expirationSeconds") or DEFAULT_SECONDS
        problem = ""
        if seconds < MIN_SECONDS:
            problem = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes"
        elif seconds > MAX_SECONDS:
            problem = f"Invalid value: {seconds}: may not specify a duration larger than 2^32 seconds"
        if problem:
            raise invalid("TokenRequest", "authentication.k8s.io", "", "spec.expirationSeconds", problem)
        audiences = list(spec.get("audiences") or self.audiences)
        kubernetes: Obj = {"namespace": namespace}
        reference = spec.get("boundObjectRef")
        if reference:
            kubernetes |= self._bind(namespace, name, reference)
        kubernetes["serviceaccount"] = {"name": name, "uid": account.uid}
        now = self._now()
        expires = replace_by = now + timedelta(seconds=seconds)
        if seconds == WARN_ONLY_SECONDS and set(audiences) <= set(self.audiences):
            kubernetes["warnafter"] = int(replace_by.timestamp())
            expires = now + timedelta(seconds=EXTENDED_SECONDS)
        claims = {
            "aud": audiences,
            "exp": int(expires.timestamp()),
            "iat": int(now.timestamp()),
            "iss": self.issuer,
            "jti": new_uid(),
            "kubernetes.io": kubernetes,
            "nbf": int(now.timestamp()),
            "sub": service_account_name(namespace, name),
        }
        taken = {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": reference}
        return self._keys.signing.sign(claims), replace_by, taken

    def _bind(self, namespace: str, account: str, reference: Obj) -> Obj:
        kind, name = reference.get("kind"), reference.get("name", "")
        resource = {"Pod": PODS, "Secret": SECRETS, "Node": NODES}.get(kind or "")
        if resource is None:
            raise bad_request(f'cannot bind token to object of type "{kind}"')
        bound = self._store.get(resource, namespace if resource.namespaced else "", name)
        if bound is None:
            raise not_found(resource, name)
        if reference.get("uid") not in {None, "", bound.uid}:
            why = (
                f"the UID in the bound object reference ({reference['uid']}) does not match the UID in "
                "record. The object might have been deleted and then recreated"
            )
            message = f'Operation cannot be fulfilled on {kind} "{name}": {why}'
            raise ApiError(409, "Conflict", message, details={"name": name, "kind": kind})
        claim = {"name": name, "uid": bound.uid}
        if resource != PODS:
            return {str(kind).lower(): claim}
        if bound.value["spec"].get("serviceAccountName") != account:
            raise bad_request(
                f'cannot bind token for serviceaccount "{account}" to pod running with different '
                "serviceaccount name."
            )
        node = bound.value["spec"].get("nodeName")
        return ({"node": self._node(node)} if node and self.node_claims else {}) | {"pod": claim}

    def _node(self, name: str) -> Obj:
        node = self._store.get(NODES, "", name)
        return {"name": name, "uid": node.uid} if node is not None else {"name": name}

    def authenticate(self, token: str, audiences: Sequence[str]) -> tuple[User, tuple[str, ...]]:
        """The token's user, and those of ``audiences`` it is for. Raises :class:`TokenRejectedError`."""
        claims = self._verified(token)
        own = claims.get("aud") or []
        own = [own] if isinstance(own, str) else own
        shared = tuple(audience for audience in own if audience in audiences)
        if not shared:
            wanted, given = (" ".join(f'"{one}"' for one in many) for many in (audiences, own))
            raise TokenRejectedError(
                f"token audiences [{given}] is invalid for the target audiences [{wanted}]"
            )
        self._check_times(claims)
        kubernetes = claims.get("kubernetes.io") or {}
        namespace, account = kubernetes.get("namespace", ""), kubernetes.get("serviceaccount") or {}
        if claims.get("sub") != service_account_name(namespace, account.get("name", "")):
            raise TokenRejectedError("service account name does not match the token's subject")
        self._check_alive(SERVICE_ACCOUNTS, "service account", namespace, account)
        extra = {_EXTRA + "credential-id": (f"JTI={claims['jti']}",)} if claims.get("jti") else {}
        for kind, resource in (("pod", PODS), ("secret", SECRETS), ("node", NODES)):
            reference = kubernetes.get(kind)
            if not reference:
                continue
            if kind != "node" or "pod" not in kubernetes:
                self._check_alive(resource, kind, namespace if resource.namespaced else "", reference)
            if kind != "secret":
                extra |= {f"{_EXTRA}{kind}-{part}": (value,) for part, value in reference.items() if value}
        name = account.get("name", "")
        groups = service_account_groups(namespace)
        user = User(
            service_account_name(namespace, name), groups, account.get("uid", ""), dict(sorted(extra.items()))
        )
        return user, shared

    def _verified(self, token: str) -> Obj:
        """The claims of a token that one of our keys signed for our issuer."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise NotOursError("invalid bearer token") from None
        key = self._keys.find(str(header.get("kid", "")))
        if key is None:
            raise self._unknown_key(token)
        try:
            claims: Obj = jwt.decode(
                token, key.private.public_key(), algorithms=[key.algorithm], options=_BY_HAND
            )
        except jwt.PyJWTError:
            raise TokenRejectedError("error in cryptographic primitive") from None
        if not self._is_ours(claims):
            raise NotOursError("invalid bearer token")
        return claims

    def _is_ours(self, claims: Obj) -> bool:
        return claims.get("iss") in {self.issuer, *self.former_issuers}

    def _unknown_key(self, token: str) -> TokenRejectedError:
        """Whether it is another issuer's token, or claims to be ours and is not."""
        try:
            claimed = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            return NotOursError("invalid bearer token")
        if not self._is_ours(claimed):
            return NotOursError("invalid bearer token")
        return TokenRejectedError("no key of this cluster signed the token")

    def _check_times(self, claims: Obj) -> None:
        now = self._now().timestamp()
        if now - LEEWAY.total_seconds() > claims.get("exp", 0):
            raise TokenRejectedError("service account token has expired")
        if now + LEEWAY.total_seconds() < claims.get("nbf", 0):
            raise TokenRejectedError("service account token is not valid yet")

    def _check_alive(self, resource: Any, what: str, namespace: str, reference: Obj) -> None:
        """The object the token speaks of exists, is the same one, and is not long being deleted."""
        name = reference.get("name", "")
        found = self._store.get(resource, namespace, name)
        if found is None:
            if resource == SERVICE_ACCOUNTS:
                raise TokenRejectedError(f'serviceaccounts "{name}" not found')
            raise TokenRejectedError("service account token has been invalidated")
        if found.uid != reference.get("uid"):
            raise TokenRejectedError(
                f"{what} UID ({found.uid}) does not match claim ({reference.get('uid')})"
            )
        deleted = metadata(found.value).get("deletionTimestamp")
        if deleted and deleted < timestamp(self._now() - DELETION_LEEWAY):
            raise TokenRejectedError(f"{what} has been deleted")
