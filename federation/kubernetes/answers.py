"""What an API server answered, as one of the typed errors of a member cluster.

Texts come from a cluster that may have been broken into: they are cut, freed of control characters and of the
secret that was sent along, before they reach a log or the status page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from federation.core.errors import (
    ClusterConflict,
    ClusterDenied,
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterGone,
    ClusterInvalid,
    ClusterNotFound,
    ClusterServerError,
    ClusterThrottled,
    ClusterTimeout,
    ClusterUnauthorized,
)

MAX_TEXT: Final = 300
LONGEST_RETRY_AFTER: Final = 300.0
"""Seconds. No server may silence the hub for longer, whatever its Retry-After says."""

TERMINATING: Final = "terminating"
"""The reason of a ClusterDenied for an object in a namespace that is being deleted."""

ADMISSION: Final = "admission"
"""The reason of a ClusterDenied by a policy or a webhook."""

_UNGRANTED: Final = re.compile(r'\b[Uu]ser ("[^"]*"|\S+) (cannot|does not have|is not allowed) ')
"""How API servers word what their authorizer refuses: ``... is forbidden: User "x" cannot patch resource ...``."""

_FIND_PARAMETERS: Final = (
    "apply what the policy takes its parameters from, for the hub's guard what `federation trust guard` prints; if it "
    "is there, restart that API server: it finds none for policies that were deleted and made anew"
)

_ADMISSION: Final[tuple[tuple[re.Pattern[str], str, str], ...]] = (
    (
        re.compile(r"being terminated"),
        TERMINATING,
        "nothing: the namespace is being deleted",
    ),
    (
        re.compile(r"(exceeded|failed|insufficient|status unknown for) quota"),
        "quota",
        "raise the ResourceQuota that is named, or delete objects that count against it; the hub tries again by itself",
    ),
    (
        # Kubernetes issues 130887 and 133827, seen with v1.36.2: parameters of a built-in kind are not watched again
        # once no binding names that kind for a second.
        re.compile(r"AdmissionPolicy '[^']*' with binding '[^']*' denied request: .{0,80}no params found"),
        ADMISSION,
        _FIND_PARAMETERS,
    ),
    (
        re.compile(
            r"admission webhook \S+ denied|denied (the )?request|violates PodSecurity|AdmissionPolicy"
        ),
        ADMISSION,
        "let the admission policy or webhook that is named accept this object; the hub tries again by itself",
    ),
)
"""What admission answers though the authorizer has granted the verb: by the message, for the reason of all is the same.

ResourceQuota and NamespaceLifecycle answer 403 with the reason ``Forbidden``, exactly as RBAC does.
"""

_BY_POLICY: Final = re.compile(
    r""" (admission webhook "[^"]*" denied the request|\S+ "[^"]*" is forbidden: \w+AdmissionPolicy '[^']*' )"""
)
"""How an answer begins by which a webhook or a policy refuses, whatever its code.

A webhook's is 400 unless it chooses another one, 401, 429 and 500 among them; that of a policy is 422 by default.
"""

WEBHOOK: Final = "webhook"
"""The reason of a ClusterServerError that comes from an admission webhook which cannot be called."""

_UNCALLED: Final = "failed calling webhook"
_REPAIR_WEBHOOK: Final = (
    "repair the admission webhook that is named, or narrow what it is called for (namespaceSelector, failurePolicy); "
    "the API server itself works"
)
_IMMUTABLE: Final = re.compile(r"\bimmutable\b")
_DELETE_IT: Final = (
    "delete that object there, and the hub writes it anew: what is immutable cannot be changed"
)

_KINDS: Final[Mapping[int, type[ClusterError]]] = {
    401: ClusterUnauthorized,
    403: ClusterForbidden,
    404: ClusterNotFound,
    409: ClusterConflict,
    410: ClusterGone,
}


class Status(msgspec.Struct, frozen=True):
    """Kubernetes' ``meta/v1.Status``, as far as it explains a failure."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""


_status = msgspec.json.Decoder(Status)


def error_for(
    code: int, body: bytes, *, what: str, where: str, retry_after: str = "", secret: str = ""
) -> ClusterError:
    """The error that an answer with a status other than 2xx means.

    ``what`` is the request in words, ``secret`` a token that must not come back in the text.
    """
    explanation = _explanation(body, secret)
    text = f"{what}: {code}{explanation}"
    if (code == 403 or _BY_POLICY.match(explanation)) and (
        denied := _denied(explanation, text, where)
    ) is not None:
        return denied
    if code in _KINDS:
        return _KINDS[code](text, where=where)
    if code == 429:
        return ClusterThrottled(text, where=where, retry_after=parse_retry_after(retry_after))
    if code == 504:
        return ClusterTimeout(text, where=where)
    if 500 <= code <= 599 and _UNCALLED in explanation:
        return ClusterServerError(text, where=where, reason=WEBHOOK, remedy=_REPAIR_WEBHOOK)
    if 500 <= code <= 599:
        return ClusterServerError(text, where=where)
    if 400 <= code <= 499:
        remedy = _DELETE_IT if code == 422 and _IMMUTABLE.search(explanation) else ""
        return ClusterInvalid(text, where=where, remedy=remedy)
    return ClusterGarbage(f"{text} is no answer the Kubernetes API gives", where=where)


def _denied(explanation: str, text: str, where: str) -> ClusterDenied | None:
    """The error where admission refused; None where the authorizer did, or where the answer does not say.

    A policy's own words follow those of the API server, so what comes first says who refused.
    """
    ungranted = _UNGRANTED.search(explanation)
    found = [
        (match.start(), place, reason, remedy)
        for place, (pattern, reason, remedy) in enumerate(_ADMISSION)
        if (match := pattern.search(explanation)) and (ungranted is None or match.start() < ungranted.start())
    ]
    if not found:
        return None
    _, _, reason, remedy = min(found)
    return ClusterDenied(text, where=where, reason=reason, remedy=remedy)


def error_in_watch(status: bytes | msgspec.Raw, *, what: str, where: str, secret: str = "") -> ClusterError:
    """The error that the object of an ERROR event (a ``Status``) means."""
    try:
        code = _status.decode(status).code
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ClusterGarbage(f"{what}: an ERROR event holds no Status", where=where)
    return error_for(code, bytes(status), what=what, where=where, secret=secret)


def parse_retry_after(value: str) -> float:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3); 1.0 where it holds no sensible number.

    The form with a date is not read: Kubernetes never sends it.
    """
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        return 1.0
    return min(max(float(value), 0.0), LONGEST_RETRY_AFTER)


def harmless(text: str, *, secret: str = "") -> str:
    """The text cut to a line, without control characters and without ``secret``."""
    if secret:
        text = text.replace(secret, "[redacted]")
    cut = text[: MAX_TEXT + 1]
    line = "".join(c if c.isprintable() else " " for c in cut)
    return line if len(cut) <= MAX_TEXT else line[:MAX_TEXT] + "..."


def _explanation(body: bytes, secret: str) -> str:
    try:
        status = _status.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    text = status.message or status.reason
    return f" {harmless(text, secret=secret)}" if status.kind == "Status" and text else ""
