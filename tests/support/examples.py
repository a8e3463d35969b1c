"""How many examples the costliest properties are tried with."""

from __future__ import annotations

import os
from typing import Final

_TIMES: Final = int(os.environ.get("FEDERATION_EXAMPLES", "1"))


def examples(of_one_run: int) -> int:
    """More of them where someone looks for what a usual run does not find."""
    return of_one_run * _TIMES
