"""One attack of `make attack`, to show that the measurement itself works; the whole run is not part of the suite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.__main__ import main, verdict
from tests.attack.attacks import ATTACKS
from tests.attack.field import Seen

REPOSITORY = Path(__file__).resolve().parents[2]


def seen(*, refused: int = 0, p99: float = 0.02, repair: float = 0.1, missed: int = 0) -> Seen:
    calls = {"answered": 100, "refused": refused, "retried": 0, "reasons": {}, "p50": p99, "p99": p99}
    nothing = {"answered": 0, "refused": 0, "retried": 0, "reasons": {}, "p50": 0.0, "p99": 0.0}
    return Seen({"standing": calls, "fresh": nothing}, [repair], [0.01], missed)


@pytest.mark.parametrize(
    ("under", "reported", "shown", "met", "false_green"),
    [
        (seen(), True, 0, True, False),
        (seen(), False, 0, False, True),  # status has to report a finding and does not
        (seen(refused=1), True, 0, False, False),
        (seen(p99=0.07), True, 0, False, False),
        (seen(repair=60.0), False, 0, False, True),
        (seen(missed=1), True, 0, False, False),
        (seen(), True, 1, False, False),
    ],
)
def test_the_goal_is_met_only_if_no_honest_caller_is_harmed_and_status_reports_the_attack(
    under: Seen, reported: bool, shown: int, met: bool, false_green: bool
) -> None:
    found = verdict(ATTACKS[0], seen(), under, reported=reported, shown=shown)
    assert (found.met, found.false_green) == (met, false_green)


def test_an_unknown_attack_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "sunshine"]) == 2
    assert "sunshine" in capsys.readouterr().err


def test_one_attack_on_a_running_hub_prints_one_document() -> None:
    # How soon it is reported is for a quiet machine to say.
    command = [sys.executable, "-m", "tests.attack", "--json", "--quick", "--reported-within", "240"]
    command += ["--only", "headers-without-a-body"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=REPOSITORY, check=False)
    (attack,) = json.loads(done.stdout)["attacks"]
    assert {"name", "honest_refused", "p99_ratio", "repair_seconds", "false_green"} <= attack.keys()
    assert attack["honest_refused"] == 0, done.stderr
    assert attack["honest_answered"] > 0
    assert attack["health_missed"] == 0, done.stderr
    assert not attack["false_green"], done.stderr
    # Latencies count on a quiet machine only; here other tests share its cores.
    assert done.returncode == (0 if attack["met"] else 1)
