"""One finding of ``federation clusters check``: a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["ok", "warning", "failed"]
Role: TypeAlias = Literal["hub", "signer", "controller"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One finding: ``outcome`` of one ``check`` for one role ("hub" where it concerns the registry)."""

    cluster: str
    role: Role
    check: str
    outcome: Outcome
    detail: str
    remedy: str = ""
