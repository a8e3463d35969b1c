"""A trial of an authority: it signs throw-away leaves, for a workload and for the door, which are verified.

With how a report tells of an authority that has not passed one yet. What goes wrong in a trial is no alarm:
nobody was given anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import msgspec

from federation.core.errors import AuthorityUnavailable, FederationError
from federation.core.pki.certificate import Certificate
from federation.core.pki.leaf import LeafProfile
from federation.signer.authorities.catalogue import Surroundings
from federation.signer.authorities.interface import KeptAuthority
from federation.signer.authorities.probe import probe_once
from federation.state.documents import AuthorityReport

_logger = logging.getLogger(__name__)


class Trial:
    """Tries authorities; ``hosts`` are the door's names. What was logged last is not logged again."""

    def __init__(self, around: Surroundings, hosts: Callable[[], tuple[str, ...]]) -> None:
        self._around = around
        self._hosts = hosts
        self._told = ""

    async def run(self, authority: KeptAuthority, anchors: Iterable[Certificate]) -> FederationError | None:
        """What is wrong with what it signs, by these anchors; None where it signs as it should."""
        try:
            for profile in LeafProfile:
                await probe_once(
                    authority, profile, anchors=anchors, hosts=self._hosts(), around=self._around
                )
        except FederationError as error:
            if str(error) != self._told:
                _logger.warning("the authority does not sign as it should: %s", error.diagnostics())
            self._told = str(error)
            return error
        except Exception:  # a mistake in one back end must not end a signer whose other one may be good
            _logger.exception("an authority on trial failed for a reason nobody foresaw")
            return AuthorityUnavailable(
                "signing failed for a reason nobody foresaw",
                remedy="look at the log of this signer",
                reason="unforeseen",
            )
        self._told = ""
        return None


def untried(report: AuthorityReport, failed: FederationError | None) -> AuthorityReport:
    """The report of an authority that counts for nothing before it has signed; ``failed`` is its last trial."""
    if report.state == "unavailable":
        return report  # that it cannot sign at all says more
    return msgspec.structs.replace(
        report,
        state="unavailable",
        reason=failed.reason if failed is not None else "on_trial",
        detail=f"on trial: {failed or 'it has not signed yet'}",
        remedy=failed.remedy if failed is not None else "",
    )


def held_back(
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
