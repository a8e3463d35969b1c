"""The image starts: the Dockerfile's steps carried out in a folder, with this machine's Python as the base.

What a builder would do is done by ``release.image_root``: by chroot, in order, as written. Only the locked packages
come from this environment instead of a registry; ``FEDERATION_IMAGE_FETCH=1`` fetches them, as the step says.
"""

from __future__ import annotations

import json
import os
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest

from federation.runtime.clock import SystemClock
from federation_sandbox.box import Box, DevelopmentCa
from federation_sandbox.demo import sandbox_members
from release.image_root import Root, build, locked, missing, normalized

ROOT = Path(__file__).resolve().parents[2]
USER = 65532
LACKS = missing()

pytestmark = pytest.mark.skipif(bool(LACKS), reason=f"the image's root cannot be made here: {LACKS}")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Root:
    fetched = os.environ.get("FEDERATION_IMAGE_FETCH") == "1"
    packages = None if fetched else Path(sysconfig.get_paths()["purelib"])
    arguments = {"REVISION": "0123abcd", "CREATED": "2026-11-30T00:00:00Z"}
    return build(ROOT, tmp_path_factory.mktemp("image"), arguments=arguments, packages=packages)


def test_it_holds_the_locked_packages_and_the_hub_and_nothing_else(image: Root) -> None:
    (site,) = image.inside("/opt/federation/lib").glob("python3.*/site-packages")
    installed = {normalized(each.name): each.version for each in distributions(path=[str(site)])}
    wanted = locked((ROOT / "requirements.lock").read_text("utf-8"))
    del wanted["setuptools"]
    assert installed.pop("federation-hub") == image.labels["org.opencontainers.image.version"]
    assert installed == wanted
    assert not [
        path for path in site.iterdir() if "sandbox" in path.name or path.name in {"pip", "setuptools"}
    ]
    programs = {path.name for path in image.inside("/opt/federation/bin").iterdir()}
    assert "federation" in programs
    assert not [name for name in programs if name.startswith("pip")]
    assert image.labels["org.opencontainers.image.revision"] == "0123abcd"


def test_the_bill_of_materials_is_of_what_is_installed(image: Root) -> None:
    materials = pytest.importorskip("release.sbom", reason="cyclonedx-python-lib is not installed")
    (site,) = image.inside("/opt/federation/lib").glob("python3.*/site-packages")
    installed = {normalized(each.name): each.version for each in distributions(path=[str(site)])}
    del installed["federation-hub"]
    listed = materials.read_lock((ROOT / "requirements.lock").read_text("utf-8"))
    named = {name: each.version for name, each in listed.items() if name not in materials.BUILD_TOOLS}
    assert named == installed


PROBE = """
import importlib.util, json, os, pathlib
def writes(path):
    try:
        pathlib.Path(path).touch()
    except OSError:
        return False
    return True
status = pathlib.Path("/proc/self/status").read_text()
print(json.dumps({
    "user": [os.getuid(), os.getgid(), os.getgroups()],
    "capabilities": [line.split()[1].strip("0") for line in status.splitlines() if line.startswith("Cap")],
    "writes": [path for path in ("/x", "/opt/federation/x", "/etc/x", "/usr/x", "/tmp/x") if writes(path)],
    "modules": [name for name in ("pip", "setuptools", "ensurepip", "federation_sandbox", "pytest")
                if importlib.util.find_spec(name)],
    "hub": importlib.util.find_spec("federation").origin,
}))
"""


def test_it_runs_without_any_right_on_a_read_only_root_and_can_install_nothing(image: Root) -> None:
    said = image.run(["federation", "--version"], read_only=True)
    assert (said.returncode, said.stdout.split()[0]) == (0, "federation-hub"), said.stderr

    asked = image.run([image.entrypoint[0], "-c", PROBE], read_only=True)
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout)
    assert found["user"] == [USER, USER, [USER]] or found["user"] == [USER, USER, []]
    assert set(found["capabilities"]) == {""}
    assert found["writes"] == ["/tmp/x"]
    assert found["modules"] == []
    assert found["hub"].startswith("/opt/federation/")


async def test_both_roles_start_and_every_pair_is_proved(image: Root, tmp_path: Path) -> None:
    clock = SystemClock()
    async with sandbox_members(tmp_path, ("east", "west"), clock=clock) as members:
        ca = DevelopmentCa.create(tmp_path / "ca", name="first", clock=clock)
        box = Box(directory=tmp_path, members=members, ca=ca, clock=clock, proof_interval=1.0)
        box.hub_command = image.command(image.entrypoint, read_only=True, binds=[tmp_path])
        await box.register()
        (tmp_path / "state").mkdir(mode=0o700)
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.chown(path, USER, USER)
        await box.start_hub()
        try:
            await box.wait_ready()
            matrix = await box.wait_proved()
            status = await box.get("/api/v1/status")
        finally:
            ended = await box.stop_hub()
    assert matrix["valid"] == 2
    assert len(status["signers"]) == len(status["controllers"]) == 1
    assert ended == 0, "a pod's end is orderly"
    owners = {path.stat().st_uid for path in (tmp_path / "state").rglob("*")}
    assert owners == {USER}, "the roles wrote it"
