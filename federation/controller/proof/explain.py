"""Why two clusters do not accept one another, in words an operator can act on.

The verdict is the handshake's; the words come from the hub's own path validation of the same chain against
the same trust, and from which generation that trust is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from federation.controller.proof.handshake import HandshakeError, Side
from federation.controller.proof.participants import Case, Content, Participant
from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import Purpose, verify_chain
from federation.state.documents import Generation


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who refused whom and why; the same for every pair of clusters that are equal to the two."""

    side: Side
    what: str
    content: str  # digest of the content the refusing side trusted

    def words(self, client: Participant, server: Participant) -> str:
        """The reason for that pair."""
        refusing, refused = (client, server) if self.side == "client" else (server, client)
        held = refusing.content(self.content)
        where = f" (trust of {held.where} in {refusing.cluster})" if held else ""
        return f"{refusing.cluster} does not accept the leaf of {refused.cluster}: {self.what}{where}"


@dataclass(frozen=True, slots=True)
class Explainer:
    """Explains against the generation in force and its anchors (self-signed or not) at one instant."""

    generation: Generation | None
    anchors: Sequence[Certificate]
    at: datetime

    def explain(self, case: Case, error: HandshakeError) -> Refusal:
        """Say why the case failed."""
        side = error.side
        if error.reason == "credential":
            side = "server" if side == "client" else "client"  # it is the other that has to accept it
        trust, other, purpose = (
            (case.client_trust, case.server, Purpose.SERVER)
            if side == "client"
            else (case.server_trust, case.client, Purpose.CLIENT)
        )
        match error.reason:
            case "certificate_refused":
                what = self._refused(other, trust, purpose, error)
            case "trust":
                what = f"what is held there is no bundle of certificates: {trust.problem or error.what}"
            case "trust_domain":
                what = f"wrong trust domain: {error.what}"
            case "credential":
                what = f"that leaf cannot be used at all: {error.what}"
            case _:
                what = error.what
        return Refusal(side, what, trust.sha256)

    def _refused(self, other: Participant, trust: Content, purpose: Purpose, error: HandshakeError) -> str:
        try:
            verify_chain(other.chain, trust.certificates, self.at, purpose=purpose)
        except InvalidValue as problem:
            return (
                self._missing(other, trust, purpose, problem)
                if problem.reason == "no_anchor"
                else problem.what
            )
        return f"OpenSSL refuses it: {error.what}"

    def _missing(self, other: Participant, trust: Content, purpose: Purpose, problem: InvalidValue) -> str:
        """Which anchor would be needed, and whether it is on its way."""
        number = self.generation.number if self.generation else 0
        try:
            path = verify_chain(other.chain, self.anchors, self.at, purpose=purpose, partial=False)
        except InvalidValue:
            bundle = f"generation {number}" if number else "the bundle"
            return f"it reaches no anchor of {bundle} at all: {problem.what}"
        missing = f"the anchor {path[-1].subject} ({path[-1].sha256[:16]}) is missing there"
        if 0 < trust.generation < number:
            return (
                f"{missing}: generation {number} is not yet published, generation {trust.generation} is held"
            )
        if number and not trust.generation:
            return f"{missing}: somebody else's content is held, not generation {number}"
        return missing
