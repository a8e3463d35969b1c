"""What the PKCS#11 module's return codes mean to an operator.

Codes are those of PKCS #11 v2.40 (OASIS), 5.1; python-pkcs11 makes an exception class of each it knows.
"""

from __future__ import annotations

from typing import Final

import pkcs11

from federation.clusters.answers import harmless
from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable

LOST: Final = (
    pkcs11.SessionHandleInvalid,
    pkcs11.SessionClosed,
    pkcs11.DeviceRemoved,
    pkcs11.TokenNotPresent,
    pkcs11.TokenNotRecognised,
    pkcs11.UserNotLoggedIn,
    pkcs11.KeyHandleInvalid,  # a logout takes the handles of private objects away
    pkcs11.ObjectHandleInvalid,
    pkcs11.OperationActive,  # something went wrong in between: a new session starts clean
    pkcs11.OperationNotInitialized,
    # What clients of network HSMs answer once their connection is gone:
    pkcs11.DeviceError,
    pkcs11.GeneralError,
    pkcs11.FunctionFailed,
)
"""A new session and a new login may help."""

_UNFIT: Final = (
    pkcs11.MechanismInvalid,
    pkcs11.MechanismParamInvalid,
    pkcs11.KeyTypeInconsistent,
    pkcs11.KeySizeRange,
    pkcs11.FunctionRejected,
    pkcs11.FunctionNotSupported,
    pkcs11.DataLenRange,
)


class SessionLost(Exception):
    """There is no session, or it is of no use any more: log in (again), then ask anew."""


def in_words(error: pkcs11.PKCS11Error) -> str:
    """The code's name, and what the library says of it, bounded and printable."""
    name = type(error).__name__
    text = harmless(str(error))[:200]
    return f"{name}: {text}" if text else name


def failed(error: pkcs11.PKCS11Error, doing: str) -> AuthorityMisconfigured | AuthorityUnavailable:
    """What a call that failed, and not for want of a session, is to callers."""
    if isinstance(error, _UNFIT):
        return AuthorityMisconfigured(
            f"{doing}: {in_words(error)}",
            reason="sign_refused",
            remedy="allow the key and the token to sign with CKM_ECDSA or CKM_RSA_PKCS",
        )
    if isinstance(error, pkcs11.SessionCount):
        return AuthorityUnavailable(
            f"{doing}: the token has no session left",
            reason="sessions_exhausted",
            remedy="close sessions of other clients, or raise the token's limit; each signer needs one",
        )
    return AuthorityUnavailable(
        f"{doing}: {in_words(error)}",
        reason="hsm_error",
        remedy="look at the device and at its client's log",
    )


def pin_refused(error: pkcs11.PKCS11Error, where: str) -> AuthorityMisconfigured | None:
    """The error for a login that the token refuses because of the PIN; None where that is not why."""
    match error:
        case pkcs11.PinIncorrect() | pkcs11.PinInvalid() | pkcs11.PinLenRange():
            return refused(where)
        case pkcs11.PinLocked():
            return locked(where)
        case pkcs11.PinExpired():
            return AuthorityMisconfigured(
                f"the user PIN of {where} has expired",
                reason="pin_expired",
                remedy="give the token a new user PIN, and write it where signer.authority.pin points",
            )
        case pkcs11.UserPinNotInitialized():
            return AuthorityMisconfigured(
                f"{where} has no user PIN yet",
                reason="pin_not_set",
                remedy="have the security officer set one, and write it where signer.authority.pin points",
            )
    return None


def refused(where: str) -> AuthorityMisconfigured:
    """The token does not take this PIN."""
    return AuthorityMisconfigured(
        f"{where} refuses the user PIN; it is not tried again, for tokens lock after a few wrong ones",
        reason="pin_refused",
        remedy="write the right one where signer.authority.pin points; restart the signer if it was the"
        " token's PIN that was wrong and is mended",
    )


def differs(where: str) -> AuthorityMisconfigured:
    """Others of this process are logged in with another PIN, so that this one cannot be tried."""
    return AuthorityMisconfigured(
        f"another authority of this signer is logged in to {where} with another user PIN; this one is not tried"
        " meanwhile",
        reason="pin_differs",
        remedy="give both authorities the token's PIN; restart the signer if it was changed on the token",
    )


def locked(where: str) -> AuthorityMisconfigured:
    """The token takes no user PIN at all."""
    return AuthorityMisconfigured(
        f"the user PIN of {where} is locked after too many wrong ones",
        reason="pin_locked",
        remedy="have the security officer set a new user PIN, write it where signer.authority.pin points,"
        " and find out who tried",
    )
