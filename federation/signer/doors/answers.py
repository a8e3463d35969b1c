"""What a caller outside learns of an error: a status code and one fixed sentence, by the error's class.

The sentences of refusals and of signing failures are istio-csr's own, word for word. An outage is
``UNAVAILABLE``, because Istio's agents retry that and do not retry ``UNAUTHENTICATED``.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from federation.core.errors import AuthorityViolation, Overloaded, Refused, Unavailable


class Code(Enum):
    """The status codes of gRPC that a door answers with, by their numbers."""

    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


NOT_AUTHENTICATED: Final = "request authenticate failure"
SIGN_FAILED: Final = "failed to sign certificate request"
BAD_CHAIN: Final = "failed to parse and verify signed certificate from issuer"
UNAVAILABLE_NOW: Final = "certificate signing is temporarily unavailable"
OVERLOADED: Final = "too many requests, try again later"


class Answered(Exception):
    """The answer to give instead of a certificate."""

    def __init__(self, code: Code, sentence: str) -> None:
        super().__init__(f"{code.name}: {sentence}")
        self.code = code
        self.sentence = sentence


def answer_to(error: BaseException) -> Answered:
    """The answer an error stands for; its text is not part of it."""
    match error:
        case Refused():
            return Answered(Code.UNAUTHENTICATED, NOT_AUTHENTICATED)
        case Overloaded():
            return Answered(Code.RESOURCE_EXHAUSTED, OVERLOADED)
        case AuthorityViolation():
            return Answered(Code.INTERNAL, BAD_CHAIN)
        case Unavailable() | TimeoutError():
            return Answered(Code.UNAVAILABLE, UNAVAILABLE_NOW)
        case _:
            return Answered(Code.INTERNAL, SIGN_FAILED)
