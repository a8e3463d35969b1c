"""What Vault answered: decoded strictly, and its refusals as harmless text.

Vault's API wraps results in ``data`` and refusals in ``errors`` (HTTP API, "Error response"). Texts come from
the other side: they are cut, freed of control characters and of every secret that was sent along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import msgspec

from federation.clusters.answers import LONGEST_RETRY_AFTER
from federation.core.clock import Clock
from federation.core.errors import AuthorityUnavailable

MAX_TEXT: Final = 200
NOT_VAULT: Final = "something other than Vault answers at that address: check it, and proxies on the way"

T = TypeVar("T")


class _Errors(msgspec.Struct, frozen=True):
    errors: tuple[str, ...]


_errors = msgspec.json.Decoder(_Errors)


@dataclass(frozen=True, slots=True)
class VaultAnswer:
    """One answer. Neither its body nor what is ``hidden`` in its texts is ever shown."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    hidden: tuple[str, ...] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        """True for a 2xx."""
        return 200 <= self.status <= 299

    @property
    def refusal(self) -> str | None:
        """What Vault says is wrong, as one harmless line; None where this is not how Vault refuses."""
        try:
            text = " ".join("; ".join(_errors.decode(self.body).errors).split())
        except (msgspec.MsgspecError, UnicodeError):
            return None
        for secret in self.hidden:
            if secret:
                text = text.replace(secret, "[redacted]")
        return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT])

    @property
    def why(self) -> str:
        """The status, and what Vault says where it says something."""
        return f"{self.status} {self.refusal}" if self.refusal else str(self.status)

    def says(self, *texts: str) -> bool:
        """True where the refusal holds one of these, in lower case."""
        refusal = (self.refusal or "").lower()
        return any(text in refusal for text in texts)

    def read(self, shape: type[T], *, what: str) -> T:
        """The body in this shape. Raises AuthorityUnavailable with the reason ``garbage``."""
        try:
            return msgspec.json.decode(self.body, type=shape)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise AuthorityUnavailable(
                f"the answer to {what} is not what Vault's API promises",
                reason="garbage",
                remedy=NOT_VAULT,
            ) from None


def retry_after(value: str, clock: Clock) -> float:
    """Seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3); 0 where there is none."""
    if value.isascii() and value.isdigit() and len(value) <= 9:
        return min(float(value), LONGEST_RETRY_AFTER)
    try:
        seconds = (parsedate_to_datetime(value) - clock.now()).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
