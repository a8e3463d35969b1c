"""Runs every measurement in turn and prints each value beside its target.

Exit code 0 where everything was measured that could be, whether or not targets were met: this is an
instrument, not a gate. Load goes to this machine's loopback only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.processes import allow_many_files
from tests.bench.report import Report, facts

MEASUREMENTS = ["handler", "back_ends", "signing", "clients", "publishing", "start", "scale"]
Run = Callable[..., Coroutine[Any, Any, None]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: about two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every line there as well")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, metavar="NAME", default=MEASUREMENTS)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    allow_many_files()
    report = Report(lambda text: print(text, flush=True), facts())
    print("  ".join(f"{name} {value}" for name, value in report.facts.items()))
    began = time.monotonic()
    for name in options.only:
        run: Run = import_module(f"tests.bench.{name}").run
        with tempfile.TemporaryDirectory(prefix="federation-bench-") as directory:
            uvloop.run(run(report, Path(directory), quick=options.quick))
    print("\n".join(report.summary()))
    print(f"took {time.monotonic() - began:.0f} s")
    if options.json is not None:
        options.json.write_text(report.as_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
