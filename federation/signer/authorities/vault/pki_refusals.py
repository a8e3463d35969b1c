"""Why the PKI engine did not sign, told apart by status and text (``builtin/logical/pki`` of OpenBao 2 and Vault 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityUnavailable,
)
from federation.signer.authorities.vault.answers import VaultAnswer
from federation.signer.authorities.vault.session import unexpected

_OF_THE_ROLE: Final = (
    "this role",
    "role requires",
    "require_cn",
    "common_name field is required",
    "key type",
    "key_bits",
    "not_before_bound",
    "not_after_bound",
)
_NO_ISSUER: Final = "unable to find pki issuer"
_NO_USAGE: Final = "requested usage"


@dataclass(frozen=True, slots=True)
class PkiPlace:
    """Where a request goes: words for errors."""

    mount: str
    issuer: str
    role: str = ""


def sign_refusal(answer: VaultAnswer, place: PkiPlace) -> AuthorityError | AuthorityUnavailable:
    """The error that an answer to ``sign`` with another status than 2xx and 403 stands for."""
    role = f"the role {place.role} of {place.mount}"
    if answer.status == 400:
        if answer.says("unknown role"):
            return AuthorityMisconfigured(
                f"{role} is not there: {answer.why}",
                reason="not_found",
                remedy="create it as docs/authorities.md says, or name another one",
            )
        if answer.says("beyond the expiration of the ca"):
            return issuer_ends(place, answer.why)
        if answer.says(*_OF_THE_ROLE):
            return AuthorityRefused(
                f"{role} is narrower than the hub's policy: {answer.why}",
                reason="role_too_narrow",
                remedy="widen the role as docs/authorities.md says, or narrow the clusters' policies to it",
            )
        return AuthorityRefused(
            f"{role} refuses the request: {answer.why}",
            reason="request_refused",
            remedy="see Vault's log and audit log for this request",
        )
    return pki_refusal(answer, place, "POST sign")


def pki_refusal(
    answer: VaultAnswer, place: PkiPlace, what: str
) -> AuthorityMisconfigured | AuthorityUnavailable:
    """The error that any other answer of the engine stands for.

    A GET that needs no token is answered with 403 where nothing is mounted.
    """
    if answer.says(_NO_ISSUER):
        return AuthorityMisconfigured(
            f"the issuer {place.issuer} of {place.mount} is not there: {answer.why}",
            reason="not_found",
            remedy=f"name one that `bao list {place.mount}/issuers` shows, or set the default issuer",
        )
    if answer.says(_NO_USAGE):
        return AuthorityMisconfigured(
            f"the issuer {place.issuer} of {place.mount} may not issue: {answer.why}",
            reason="issuer_unusable",
            remedy="it was revoked, or its usage was narrowed: give another issuer, or the usage"
            " issuing-certificates",
        )
    if answer.status in {403, 404, 405} and answer.refusal is not None:
        return AuthorityMisconfigured(
            f"there is no PKI engine at {place.mount}: {answer.why}",
            reason="not_found",
            remedy="enable it there, and check the mount and the namespace in the configuration",
        )
    return unexpected(what, f"of {place.mount}", answer)


def issuer_ends(place: PkiPlace, why: str) -> AuthorityMisconfigured:
    """The intermediate is at its end."""
    return AuthorityMisconfigured(
        f"the issuer {place.issuer} of {place.mount} ends too soon: {why}",
        reason="issuer_expired",
        remedy="make a new intermediate in the engine and set it as the issuer now; workloads cannot renew",
    )
