"""Who the hub is to AWS: one interface for both ways of coming by credentials."""

from __future__ import annotations

from typing import Protocol

from botocore.credentials import ReadOnlyCredentials


class Login(Protocol):
    """Gives the keys that requests are signed with."""

    @property
    def warning(self) -> str:
        """Why the keys could not be renewed although those held are still good; empty where all is well."""
        ...

    async def keys(self, *, renew: bool = False) -> ReadOnlyCredentials:
        """Keys that are valid now; with ``renew``, renewed where that is due.

        Raises AuthorityMisconfigured or AuthorityUnavailable.
        """
        ...

    def doubt(self) -> None:
        """AWS did not accept the keys: renew them the next time that may be done."""
        ...

    async def close(self) -> None:
        """Let go of connections, and forget the keys."""
        ...
