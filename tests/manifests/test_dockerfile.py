"""The image: few layers of known things, no secret, no root, nothing that installs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from release import dockerfile
from release.dockerfile import Instruction, instructions
from tests.manifests.tree import ROLES, ROOT, Tree

TEXT = (ROOT / "Dockerfile").read_text()
DOCKERFILE = instructions(TEXT)
IGNORED = (ROOT / ".dockerignore").read_text()


def stages() -> list[tuple[Instruction, ...]]:
    return [stage.instructions for stage in dockerfile.stages(TEXT)]


def every(name: str) -> list[Instruction]:
    return [instruction for instruction in DOCKERFILE if instruction.name == name]


def final(name: str) -> Instruction:
    (found,) = [instruction for instruction in stages()[-1] if instruction.name == name]
    return found


def ignored(path: str) -> bool:
    """Does .dockerignore keep this path from the builder?"""
    return dockerfile.ignored(path, IGNORED)


BUILD_LIMIT = 300.0  # seconds for an installation on a loaded machine


def copied(directory: Path) -> None:
    """The build stage's COPY instructions carried out into ``directory``, with what .dockerignore lets through."""
    for instruction in stages()[0]:
        if instruction.name != "COPY":
            continue
        *names, to = instruction.value.split()
        for source in map(ROOT.joinpath, names):
            files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
            for file in files:
                if ignored(str(file.relative_to(ROOT))):
                    continue
                # Docker copies the contents of a directory, and a file under its own name.
                target = directory / to / (file.relative_to(source) if source.is_dir() else file.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)


def test_the_image_gets_the_hubs_files_and_none_of_the_sandbox(tmp_path: Path) -> None:
    """The steps that bring the hub's own files, carried out with this interpreter into a directory."""
    source, root = tmp_path / "src", tmp_path / "root"
    copied(source)
    own = next(run.words for run in every("RUN") if "--no-deps" in run.words)
    assert own[0] == "/opt/federation/bin/python"

    command = [sys.executable, *own[1:], f"--target={root}", "--quiet"]
    subprocess.run(command, cwd=source, check=True, timeout=BUILD_LIMIT, capture_output=True)

    installed = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    code = {name for name in installed if not re.match(r"federation_hub-[^/]+\.dist-info/|bin/", name)}
    expected = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "federation").rglob("*")
        if path.is_file() and "__pycache__" not in path.relative_to(ROOT).parts
    }
    assert {name for name in code if "__pycache__" not in name} == expected
    assert not [name for name in installed if "sandbox" in name]


def test_the_images_lock_does_not_bring_the_sandbox() -> None:
    locked = next(run.words for run in every("RUN") if "--require-hashes" in run.words)

    assert "--requirement=requirements.lock" in locked
    assert "sandbox" not in (ROOT / "requirements.lock").read_text()


def test_only_instructions_that_are_looked_at_here() -> None:
    assert {instruction.name for instruction in DOCKERFILE} == dockerfile.KNOWN
    with pytest.raises(ValueError, match="VOLUME is not understood"):
        instructions("FROM scratch\nVOLUME /state\n")


def test_both_stages_stand_on_one_tagged_base() -> None:
    base, *others = every("ARG")

    assert [argument.value for argument in others] == ['REVISION=""', 'CREATED=""']
    assert re.fullmatch(r"BASE=python:3\.\d+-slim-\w+", base.value)
    assert [instruction.value for instruction in every("FROM")] == ["${BASE} AS build", "${BASE}"]


def test_the_base_is_a_python_that_the_project_supports() -> None:
    version = every("ARG")[0].value.removeprefix("BASE=python:3.").split("-")[0]

    assert 11 <= int(version) <= 13  # the locks are tried on these


def test_nothing_needs_a_shell() -> None:
    commands = [*every("RUN"), *every("ENTRYPOINT"), *every("CMD")]

    assert all(instruction.words for instruction in commands)


def test_what_is_installed_is_pinned_with_hashes_and_comes_as_wheels() -> None:
    locked, own = [run.words for run in every("RUN") if "install" in run.words]

    assert {"--require-hashes", "--only-binary=:all:", "--requirement=requirements.lock"} <= set(locked)
    assert {"--no-deps", "--no-index", "--no-build-isolation"} <= set(own)


def test_the_image_holds_no_installer_and_no_source_tree() -> None:
    copies = [instruction.value for instruction in stages()[-1] if instruction.name == "COPY"]
    *_, ours, of_the_base, bundled = [run.words for run in every("RUN")]

    assert copies == ["--from=build /opt/federation /opt/federation"]
    assert len([instruction for instruction in stages()[-1] if instruction.name == "RUN"]) == 2
    assert ours[3:] == ["uninstall", "--yes", "setuptools", "pip"]
    assert of_the_base[:4] == ["python", "-m", "pip", "uninstall"]
    assert {"setuptools", "wheel", "pip"} <= set(of_the_base)
    assert "ensurepip" in bundled[2]


def test_it_runs_as_the_user_that_the_manifests_name(hub: Tree) -> None:
    user, group = map(int, final("USER").value.split(":"))

    for role in ROLES:
        context = hub.pod(role)["securityContext"]
        assert (user, group) == (context["runAsUser"], context["runAsGroup"])


def test_it_exposes_the_ports_that_the_manifests_name(hub: Tree) -> None:
    ports = {port for role in ROLES for port in hub.ports(role).values()}

    assert {int(port) for port in final("EXPOSE").value.split()} == ports


def test_it_has_the_manifests_version(hub: Tree) -> None:
    version = hub.container("signer")["image"].rsplit(":", 1)[1]

    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert f'org.opencontainers.image.version="{version}"' in final("LABEL").value


def test_the_manifests_only_add_a_verb_to_its_entry_point(hub: Tree) -> None:
    assert final("ENTRYPOINT").words == ["/opt/federation/bin/python", "-m", "federation"]
    assert final("HEALTHCHECK").value == "NONE"
    for role in ROLES:
        assert "command" not in hub.container(role)
        assert hub.container(role)["args"][0] == role


def test_no_secret_is_an_argument_or_in_the_environment() -> None:
    for instruction in [*every("ARG"), *every("ENV"), *every("LABEL")]:
        assert not re.search(r"(?i)token|secret|password|passwd|private|_key", instruction.value)


def test_the_builder_sees_what_it_copies() -> None:
    sources = [
        word
        for instruction in stages()[0]
        if instruction.name == "COPY"
        for word in instruction.value.split()[:-1]
    ]

    assert sources == ["requirements.lock", "pyproject.toml", "README.md", "LICENSE", "federation"]
    assert not any(ignored(source) for source in [*sources, "federation/core/errors.py"])


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "tests/test_dependencies.py",
        "clusters.toml",
        "demo-state/key.pem",
        "east.kubeconfig",
        "federation/key.pem",
        "federation/signer/tls.key",
        "federation/core/__pycache__/errors.cpython-311.pyc",
        "federation_sandbox/pyproject.toml",
        "federation_sandbox/apiserver/server.py",
        "manifests/member/signer.yaml",
    ],
)
def test_the_builder_sees_nothing_else(path: str) -> None:
    assert ignored(path)
