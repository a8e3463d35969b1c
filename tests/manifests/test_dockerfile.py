"""The image: few layers of known things, no secret, no root, nothing that installs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import pytest

from tests.manifests.tree import ROLES, ROOT, Tree

INSTRUCTIONS = {
    "ARG",
    "FROM",
    "WORKDIR",
    "RUN",
    "COPY",
    "LABEL",
    "ENV",
    "USER",
    "EXPOSE",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
}


@dataclass(frozen=True)
class Instruction:
    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """The words of an exec form; raises where it is a shell form."""
        words: list[str] = json.loads(self.value)
        return words


def parse(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(None, 1)) for line in joined.splitlines()]


DOCKERFILE = parse((ROOT / "Dockerfile").read_text())


def stages() -> list[list[Instruction]]:
    found: list[list[Instruction]] = []
    for instruction in DOCKERFILE:
        if instruction.name == "FROM":
            found.append([])
        if found:
            found[-1].append(instruction)
    return found


def every(name: str) -> list[Instruction]:
    return [instruction for instruction in DOCKERFILE if instruction.name == name]


def final(name: str) -> Instruction:
    (found,) = [instruction for instruction in stages()[-1] if instruction.name == name]
    return found


def ignored(path: str) -> bool:
    """Does .dockerignore keep this path from the builder? The last rule that matches decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!")
        places = [path, *map(str, PurePosixPath(path).parents)]
        deep = [PurePosixPath(place).name for place in places] if pattern.startswith("**/") else []
        if any(
            fnmatchcase(place, pattern.removeprefix("**/"))
            for place in (deep or places)
            if "/" not in place or deep
        ):
            verdict = not rule.startswith("!")
    return verdict


def test_only_instructions_that_are_looked_at_here() -> None:
    assert {instruction.name for instruction in DOCKERFILE} == INSTRUCTIONS


def test_both_stages_stand_on_one_tagged_base() -> None:
    (base,) = every("ARG")

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
    uninstall = every("RUN")[-1].words

    assert copies == ["--from=build /opt/federation /opt/federation"]
    assert not [instruction for instruction in stages()[-1] if instruction.name == "RUN"]
    assert uninstall[3:] == ["uninstall", "--yes", "setuptools", "pip"]


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
    ],
)
def test_the_builder_sees_nothing_else(path: str) -> None:
    assert ignored(path)
