"""moto's server in a process of its own, as it is or with AWS's documented behaviour put right.

moto has the wire format of AWS's services, but not everything that their documentation promises
(``moto_corrections.py`` names each difference). Tests run against both: with the corrections the hub has to work,
and without them it has to refuse moto's wrong answers.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from tests.support.patience import PATIENCE

_ROOT = Path(__file__).parents[2]


@cache
def moto_url(*, corrected: bool) -> str:
    """The address of the server, which is started on first use and ends with this process."""
    command = [sys.executable, "-m", "tests.authorities.moto_server", *(["corrected"] if corrected else [])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(  # it ends when its standard input does, so also where this process is killed
        command,
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    atexit.register(_end, process)
    port = process.stdout.readline().decode().strip()
    assert port.isdigit(), "moto's server did not start"
    return f"http://127.0.0.1:{port}"


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait(timeout=PATIENCE)


def main() -> None:
    """Serve until standard input ends; the first line written is the port."""
    if "corrected" in sys.argv[1:]:
        from tests.authorities.moto_corrections import correct

        correct()
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    ended.wait()
    os._exit(0)  # werkzeug's threads hold open connections: nothing here is worth waiting for


if __name__ == "__main__":
    main()
