"""``python -m federation``: the same as the ``federation`` command."""

from __future__ import annotations

import sys

from federation.cli.main import main

sys.exit(main())
