"""How the report of an authority says what is wrong with it: one function for each way, all pure.

An authority is ready, degraded (it signs, and something is wrong) or unavailable; ``reason`` is a stable token,
``detail`` and ``remedy`` are for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from federation.core.documents.signer import AuthorityReport
from federation.core.errors import FederationError


def with_problem(
    report: AuthorityReport,
    state: Literal["degraded", "unavailable"],
    problem: FederationError,
    detail: str = "",
) -> AuthorityReport:
    """The report of an authority with this problem; ``detail`` is the problem's text where it is not given."""
    return msgspec.structs.replace(
        report, state=state, reason=problem.reason, detail=detail or str(problem), remedy=problem.remedy
    )


def with_warnings(report: AuthorityReport, warnings: Sequence[str]) -> AuthorityReport:
    """The report of an authority that signs although its back end warns of something."""
    if not warnings:
        return report
    return msgspec.structs.replace(report, state="degraded", reason="warning", detail="; ".join(warnings))


def awaits_canary(report: AuthorityReport, failed: FederationError | None) -> AuthorityReport:
    """The report of an authority that counts for nothing before it has signed; ``failed`` is its last problem."""
    if report.state == "unavailable":
        return report  # that it cannot sign at all says more
    return msgspec.structs.replace(
        report,
        state="unavailable",
        reason=failed.reason if failed is not None else "on_trial",
        detail=f"on trial: {failed or 'it has not signed yet'}",
        remedy=failed.remedy if failed is not None else "",
    )


def withheld(
    report: AuthorityReport, name: str, why: str, remedy: str, *, reason: str = ""
) -> AuthorityReport:
    """The report of an authority that goes on although the one of that name is configured, with why."""
    return msgspec.structs.replace(
        report,
        state="degraded" if report.state == "ready" else report.state,
        reason=reason or report.reason or "cannot_take_over",
        detail="; ".join(filter(None, (report.detail, f"{name} cannot take over: {why}"))),
        remedy=remedy or report.remedy,
    )
