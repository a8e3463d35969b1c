"""A child notices at once that its supervisor has died, however it died, and does not outlive it for long.

The supervisor holds the writing end of each child's standard input and never writes; the kernel closes it with the
supervisor's death. A thread waits for that, so that even a child whose event loop hangs ends. Nothing here
depends on Linux, unlike ``PR_SET_PDEATHSIG``, which besides is lost where the spawning thread ends first.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import Final

log = logging.getLogger(__name__)

VARIABLE: Final = "FEDERATION_SUPERVISED"
"""Set in a child's environment by the supervisor; without it standard input is nobody's lifeline."""


def hold(*, grace: float) -> None:
    """End this process after its supervisor: SIGTERM to itself, and for good after ``grace`` seconds.

    Does nothing in a process that no supervisor started.
    """
    if os.environ.pop(VARIABLE, None) is None:  # popped: what this process starts has no such lifeline
        return
    source = os.dup(sys.stdin.fileno())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())  # a plugin we start must not hold, or read, the lifeline
    os.close(nothing)
    threading.Thread(target=_wait, args=(source, grace), name="lifeline", daemon=True).start()


def _wait(source: int, grace: float) -> None:
    while os.read(source, 1):
        pass
    log.warning("the supervisor is gone: draining")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    log.error("not drained in time: ending at once", extra={"grace": grace})
    os._exit(1)
