"""Whether a bearer token can be guessed: estimated by what it is made of. Pure."""

from __future__ import annotations

import math
import string
from typing import Final

LEAST_BITS: Final = 128
"""What a token must be worth at the least, as one of 16 random bytes is (NIST SP 800-63B asks for 112 of a secret that
is looked up)."""

LEAST_DISTINCT: Final = 10
"""Different characters. 32 random hex digits have fewer once in some millions."""

MAKE: Final = "make one with `openssl rand -hex 32`"

_LOWER: Final = frozenset(string.ascii_lowercase)
_UPPER: Final = frozenset(string.ascii_uppercase)
_DIGITS: Final = frozenset(string.digits)
_ALPHABETS: Final = (
    _DIGITS,
    frozenset("0123456789abcdef"),
    frozenset("0123456789ABCDEF"),
    _LOWER,
    _UPPER,
    _UPPER | frozenset("234567"),
    _LOWER | _DIGITS,
    _UPPER | _DIGITS,
    _LOWER | _UPPER,
    _LOWER | _UPPER | _DIGITS | frozenset("+/=-_"),
    frozenset(map(chr, range(0x21, 0x7F))),
)


def weakness(token: bytes) -> str:
    """Why the token must not be used, without saying anything of its content; empty where it may.

    The estimate is length times the bits of the smallest usual alphabet that holds all its characters. That is
    right for a random token, and too high for words, which is why few different characters or a repeated part are
    weak as well.
    """
    try:
        text = token.decode("ascii")
    except UnicodeDecodeError:
        return "it is not ASCII"
    if not text:
        return "it is empty"
    used = frozenset(text)
    alphabet = next((a for a in _ALPHABETS if used <= a), None)
    if alphabet is None:
        return "it holds spaces or control characters"
    bits = len(text) * math.log2(len(alphabet))
    if bits < LEAST_BITS:
        return f"its {len(text)} characters are worth {bits:.0f} bits at most, and {LEAST_BITS} are needed"
    if len(used) < LEAST_DISTINCT:
        return f"it holds only {len(used)} different characters"
    if text in (text + text)[1:-1]:
        return "it repeats a part of itself"
    return ""
