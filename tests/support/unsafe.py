"""A controller with one safety of the rotation removed: shows that the tests of rotation can fail.

The gate no longer asks what leaves were delivered with. Nothing outside of the tests can do this: the rules
are no setting.
"""

from __future__ import annotations

import sys
from functools import partial

from federation.cli.main import main
from federation.controller.rotation import driver
from federation.core.trust.rotation.machine import advance

REMOVED = frozenset({"leaves"})

if __name__ == "__main__":
    driver.advance = partial(advance, without=REMOVED)  # type: ignore[assignment]
    sys.exit(main(["controller", "--replica", "unsafe-controller", *sys.argv[1:]]))
