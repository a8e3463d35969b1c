"""What must never reach a log, whoever wrote the message: bearer tokens, JWTs and private keys."""

from __future__ import annotations

import re
from typing import Final

_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{0,40})PRIVATE KEY-----.*?(?:-----END \1PRIVATE KEY-----|\Z)", re.DOTALL
)
_BEARER: Final = re.compile(r"\b(bearer|basic)(\s+|%20)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{2,}(?:\.[A-Za-z0-9_-]*){0,3}")


def redact(text: str) -> str:
    """The text without secrets: each is replaced by a word that says what stood there."""
    if "PRIVATE KEY-----" in text:
        text = _PRIVATE_KEY.sub("[private key removed]", text)
    # Nearly every text holds none of these words, and looking for a word costs a tenth of looking for a pattern.
    lower = text.lower()
    if "bearer" in lower or "basic" in lower:
        text = _BEARER.sub(r"\1\2[token removed]", text)
    return _JWT.sub("[token removed]", text) if "eyJ" in text else text
