"""``python -m federation``: the same as the ``federation`` command."""

import sys

from federation.cli.main import main

sys.exit(main())
