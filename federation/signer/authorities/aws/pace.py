"""How long to wait for a certificate that AWS issues in its own time.

GetCertificate may be called 75 times a second and IssueCertificate 25 times (quotas of an account and region), so
there are three looks for each certificate, for everybody together. The first wait therefore follows what
issuing has lately taken, so that the first or second look finds the certificate, and each further wait doubles.
"""

from __future__ import annotations

import random
from typing import Final

LOOKS_PER_CERTIFICATE: Final = 3
"""75/s of GetCertificate for 25/s of IssueCertificate."""

SHORTEST, LONGEST = 0.2, 2.0  # seconds of a first wait: AWS mostly issues within one
_START: Final = 0.4
_FASTER: Final = 0.95  # at the first look: perhaps it had been there for long
_SLOWER: Final = 1.5  # at the third look, or later


class Pace:
    """What is learnt from one certificate for the next; one object for all orders of an authority."""

    def __init__(self, jitter: random.Random, *, timeout: float) -> None:
        self._jitter = jitter
        self._longest = min(LONGEST, timeout / 4)
        self._first = min(_START, self._longest)

    def wait(self, looks: int) -> float:
        """Seconds to wait before the next look, after ``looks`` of them."""
        return self._first * 2.0**looks * self._jitter.uniform(0.9, 1.1)

    def found(self, looks: int) -> None:
        """The certificate was there at that look, 1 for the first."""
        if looks < 2:
            self._first = max(SHORTEST, self._first * _FASTER)
        elif looks >= LOOKS_PER_CERTIFICATE:
            self._first = min(self._longest, self._first * _SLOWER)
