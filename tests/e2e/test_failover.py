"""Leaders and signers of a hub are killed, stopped, cut off and replaced under 64 callers, and no call is lost.

The rig and the same at real API servers: ``failover.py``. Here its clocks are shorter, and leaders and signers are lost
at the same time.
"""

from __future__ import annotations

from pathlib import Path

from federation.state.kubernetes_lease import LeaseTimings
from tests.e2e.failover import Settings, lose_both, open_rig
from tests.support.istio_agent import Keepalive
from tests.support.network import Checks
from tests.support.patience import PATIENCE

QUICK = Settings(
    # Callers, API servers and links share one process: where the machine is busy it has to answer in time.
    pause=6.0,
    lease=LeaseTimings(duration=8, deadline=5.5, every=0.6),
    keepalive=Keepalive(interval=1.5, timeout=2.0),
    checks=Checks(every=0.3, timeout=1.0, failures=2),
    leaf=20,
    dwell=2.5,
    silence=5.0,
    longer=0.5,
    pre_stop=0.3,
    rotated="SOAKED",
    # A machine that is busy is no outage: what is answered late is answered.
    listener='receive_deadline = "1m"\ndeadline = "2m"',
    # API servers and the balancer share the cores with the whole suite, and may be later than an agent's last attempt.
    # That none fails is shown by the rig on a quiet machine (docs/failover.md).
    stalls=0.03,
    limit=PATIENCE,
)


async def test_no_call_is_lost_and_no_two_lead(tmp_path: Path) -> None:
    async with open_rig(tmp_path, QUICK) as rig:
        await lose_both(rig)
        await rig.update_in_rotation()
        print(f"\n{rig.table()}")
    assert rig.broken() == []
    assert len(rig.calls) > 5 * QUICK.callers
    assert sum(called.attempts - 1 for called in rig.calls) > 0  # they have noticed
