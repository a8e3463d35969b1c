"""Two kubeconfigs that are read at the same instant by a process that has read none before."""

from __future__ import annotations

import subprocess
import sys

from tests.support.patience import PATIENCE

PROGRAM = """
import sys, threading
sys.setswitchinterval(1e-6)
from federation.kubernetes.kubeconfig import parse_kubeconfig
from federation.core.errors import ConfigurationError

barrier = threading.Barrier(8)
refusals = []

def read(number):
    barrier.wait()
    text = b'{"kind": "Config", "apiVersion": "v1", "contexts": [], "number": %d}' % number
    try:
        parse_kubeconfig(text, file="kubeconfig", context=None, allowed_exec=())
    except ConfigurationError as error:
        refusals.append(error)

threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(refusals))
"""


def test_a_process_survives_its_first_kubeconfigs() -> None:
    for _ in range(8):  # without the types resolved at import, about every second process crashes here
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert (done.returncode, done.stdout.strip()) == (0, "8"), done.stderr
