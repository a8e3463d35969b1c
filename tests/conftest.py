"""How the suite is spread over the cores, and what it takes out of the way on a loaded machine."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

from tests.support.token_keys import lend_token_keys

settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "quick", settings.get_profile("suite"), derandomize=True, database=None, max_examples=20
)
settings.load_profile("suite")  # how long an example takes says how busy the machine is

# Where an example fails, hypothesis imports this module to write a patch. It imports others, which warn; warnings are
# errors here, and one in the middle of a report ends pytest with an internal error that names no test. An import that
# fails is what hypothesis expects where they are not installed.
sys.modules["hypothesis.extra._patching"] = None  # type: ignore[assignment]


# Images of containers forbid bytecode. Each of the hub's processes would then compile the hub, and each worker the
# suite: a quarter of a second for each process, eleven for each worker.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


# aiohttp reads the machine's public CAs, twice, where it is imported: a twelfth of what a role's start costs. None of
# them may be what a test passes by.
os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull


# No context of the person who runs the suite may be asked, and none be written for them; nor one of another test.
_CONTEXTS = tempfile.mkdtemp(prefix="federation-contexts-")
_NUMBERS = count()
atexit.register(shutil.rmtree, _CONTEXTS, ignore_errors=True)
for _name in ("FEDERATION_URL", "FEDERATION_CONTEXT", "FEDERATION_TOKEN_FILE", "FEDERATION_CA_FILE"):
    os.environ.pop(_name, None)


LONGEST = float(os.environ.get("FEDERATION_LONGEST_TEST", "1800"))
"""Seconds after which a test is taken for one that never ends: a rotation takes four minutes at a load of 17."""

_STDERR = os.dup(2)  # pytest puts a file in its place, which goes with the process


@pytest.fixture(autouse=True)
def _own_contexts() -> None:
    """A directory that is not there, unless the test writes into it."""
    os.environ["XDG_CONFIG_HOME"] = f"{_CONTEXTS}/{next(_NUMBERS)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the worker of a test that hangs, with every stack: xdist then names the test and goes on with the others."""
    del item
    faulthandler.dump_traceback_later(LONGEST, exit=True, file=_STDERR)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_configure() -> None:
    lend_token_keys()


def pytest_collection_finish() -> None:
    """Keep the collector from what nine thousand tests are made of: its rounds would visit that for nothing."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three workers for each core: most tests wait, for lifetimes and for watches. See also :class:`Mixed`."""
    del config
    return 3 * (os.cpu_count() or 1)


class Mixed(LoadFileScheduling):
    """By file, as ``--dist loadfile``: half of the workers run the tests of whole hubs, the others the rest.

    A hub is several processes that compute, and most other tests wait: all hubs at once have no core left on which to
    answer in time, and no hub leaves half of the cores idle. What one half has too much of the other one takes over.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        runs_hubs = self.nodes.index(node) % 2 == 0
        for file in self.workqueue:
            if runs_a_hub(file) == runs_hubs:
                self.workqueue.move_to_end(file, last=False)
                break
        super()._assign_work_unit(node)


def runs_a_hub(file: str) -> bool:
    return "/e2e/" in file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Where files stay together."""
    return Mixed(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection(session: pytest.Session) -> None:
    """Have each worker start with another share of the modules if all are collected.

    Workers collect the same modules in the same order: in a clean checkout each would compile every one of them.
    Import errors are reported by the collection itself.
    """
    config = session.config
    worker = getattr(config, "workerinput", None)
    if worker is None or config.args != config.getini("testpaths"):
        return
    here = Path(__file__).parent
    modules = sorted(
        ".".join(path.relative_to(here.parent).with_suffix("").parts) for path in here.rglob("test_*.py")
    )
    for module in modules[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(module)
