"""How long a role's credential for a member cluster lives, and how its renewal goes."""

from __future__ import annotations

import msgspec


class CredentialReport(msgspec.Struct, frozen=True, kw_only=True):
    """One role's credential. Seconds since the epoch, 0 where there is no such moment.

    ``expires`` is 0 where it ends never, or where that is not known. ``renews``: the role renews it itself, and keeps
    it in ``stored``: a file, or a Secret and its key; ``problem`` says why the last try did not succeed, at
    ``failed``.
    """

    issued: float = 0.0
    expires: float = 0.0
    renews: bool = False
    stored: str = ""
    renewed: float = 0.0
    failed: float = 0.0
    problem: str = ""
    remedy: str = ""


NO_CREDENTIAL = CredentialReport()
