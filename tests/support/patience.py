"""How long a test waits for what has to come.

It comes within a second where nothing else runs. How long it takes on a machine that is busy says nothing about the
hub, so this bound is far away: it ends a test whose condition never comes, and costs time only then. A duration that is
a promise is tested on a virtual clock, or by what the hub counts, and not by this.
"""

from __future__ import annotations

from typing import Final

PATIENCE: Final = 300.0  # seconds

UNDELAYED: Final = 120.0
"""Seconds for what another cluster's trouble must not delay, where only a running hub shows it: long enough for a
machine that is busy, and too short to wait until many requests of the troubled one have timed out."""
