"""How many files and connections this process may have open."""

from __future__ import annotations

import contextlib
import resource


def raise_limit() -> int:
    """Raise the soft limit to the hard one, as Go's runtime does, and return it.

    A soft limit of 1,024, which many systems start with for the sake of ``select``, is fewer than the connections of
    one mesh.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft
