"""A controller with safeties of the rotation removed: shows that the tests of rotation can fail.

Its gates do not have the conditions that ``FEDERATION_UNSAFE`` names, separated by commas; by default they do not ask
what leaves were delivered with. Nothing outside of the tests can do this: the rules are no setting.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Final

from federation.cli.main import main
from federation.controller.rotation import driver
from federation.core.rotation.transitions import advance

VARIABLE: Final = "FEDERATION_UNSAFE"
REMOVED: Final = frozenset(os.environ.get(VARIABLE, "leaves").split(","))

if __name__ == "__main__":
    vars(driver)["advance"] = partial(advance, without=REMOVED)
    sys.exit(main(["controller", "--replica", "unsafe-controller", *sys.argv[1:]]))
