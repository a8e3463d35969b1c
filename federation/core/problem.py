"""One shape for "something is not as it should be", in every module. Where all is well there is None, never a text.

A problem is a value: a role reports it, status lists it, a command prints it. What is *raised* is an error of
``core/errors``.
"""

from __future__ import annotations

from typing import Self

import msgspec

from federation.core.clock import Instant


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be.

    ``code`` is a stable token in snake_case: the label of metrics, and the key of docs/findings.md. ``detail`` is a
    sentence with names and numbers, ``where`` the cluster, file or process that it is about, ``remedy`` what an
    operator does about it. ``since`` is 0 where that is not known.
    """

    code: str
    detail: str
    where: str = ""
    remedy: str = ""
    since: Instant = 0.0

    @classmethod
    def unless(
        cls, fine: bool, *, code: str, detail: str, where: str = "", remedy: str = "", since: float = 0.0
    ) -> Self | None:
        """None where it is ``fine``: for documents that hold the parts of a problem as fields of their own."""
        return None if fine else cls(code=code, detail=detail, where=where, remedy=remedy, since=since)

    @property
    def sentence(self) -> str:
        """The detail with its place before it, unless it begins with that."""
        if not self.where or self.detail.startswith(f"{self.where} "):
            return self.detail
        return f"{self.where}: {self.detail}"


class Health(msgspec.Struct, frozen=True):
    """How something fares: ready, or in a state whose problem is in separate fields, as reports are written.

    ``reason`` is the problem's code; it is empty where the thing is ready, and where no reason was given.
    """

    state: str  # ready | degraded | unavailable | unknown
    reason: str = ""
    detail: str = ""
    remedy: str = ""

    @property
    def problem(self) -> Problem | None:
        """What is wrong; None where it is ready."""
        return Problem.unless(
            self.state == "ready",
            code=self.reason or self.state,
            detail=self.detail or self.reason or self.state,
            remedy=self.remedy,
        )
