"""Completion: what may stand where the cursor is, and the scripts in the shells that are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from federation.cli.completion import FILES, SCRIPTS, answer
from federation.cli.context_file import Contexts, HubContext
from federation.cli.main import VERBS, main
from tests.cli.running import environment
from tests.cli.verbs import verbs
from tests.support.patience import PATIENCE


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a configuration that is being edited, and contexts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "clusters.toml").write_text(
        'trust_domain = 1\n[[clusters]]\nname = "east"\n[[clusters]]\nname = "west"\n'
    )
    (tmp_path / "other.toml").write_text('[[clusters]]\nname = "south"\n')
    (tmp_path / "broken.toml").write_text("[[clusters")
    contexts = Contexts.load()
    for name in ("prod", "lab"):
        contexts.put(name, HubContext(url="http://127.0.0.1:1"))
    contexts.save()
    return tmp_path


def words(*line: str) -> list[str]:
    return [each.partition("\t")[0] for each in answer(line)]


def test_verbs_and_actions_are_completed_with_what_they_do() -> None:
    assert words("") == list(VERBS)
    assert words("clu") == ["clusters"]
    assert answer(["clusters", "l"]) == ["list\twho is registered"]
    assert words("clusters", "nothing", "") == []
    assert words("completion", "") == list(SCRIPTS)


def test_options_are_completed_until_they_are_given() -> None:
    assert "--hub" in words("status", "--")
    assert words("status", "--watch", "--w") == []
    assert words("clusters", "add", "--allow", "a/b", "--allo") == ["--allow"], "this one may be repeated"
    assert set(words("pki", "init", "--key-kind", "ecdsa")) == {"ecdsa-p256", "ecdsa-p384"}


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_option_of_every_verb_is_completed(verb: str) -> None:
    options = {o for a in verbs()[verb]._actions for o in a.option_strings if o.startswith("--")}
    assert set(words(*verb.split(), "--")) == options


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (("clusters", "check", ""), ["east", "west"]),
        (("clusters", "check", "east", ""), []),
        (("clusters", "remove", "--config", "other.toml", ""), ["south"]),
        (("clusters", "remove", "--config=broken.toml", ""), []),
        (("clusters", "remove", "--config", "missing.toml", ""), []),
        (("rotate", "quarantine", "w"), ["west"]),
        (("trust", "dismiss", "--cluster", "e"), ["east"]),
        (("status", "--hub", ""), ["prod", "lab"]),
        (("context", "use", "p"), ["prod"]),
        (("clusters", "list", "--config", ""), [FILES]),
        (("pki", "init", ""), [FILES]),
    ],
)
def test_values_are_completed(line: tuple[str, ...], names: list[str]) -> None:
    assert words(*line) == names


@pytest.fixture
def command(place: Path) -> Path:
    """The command in a directory of its own, and the scripts beside it."""
    directory = place / "bin"
    directory.mkdir()
    file = directory / "federation"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -m federation "$@"\n')
    file.chmod(0o755)
    for shell, script in SCRIPTS.items():
        (directory / f"script.{shell}").write_text(script)
    return directory


def in_shell(shell: str, script: str, command: Path) -> list[str]:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    variables = environment()
    done = subprocess.run(
        [found, "-c", script],
        cwd=command.parent,
        env=variables | {"PATH": f"{command}:{variables['PATH']}", "HOME": str(command)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


BASH = """
source bin/script.bash
complete -p federation >/dev/null || exit 1
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _federation; printf '%s\\n' "${COMPREPLY[@]}"; }
ask federation rot; ask federation clusters check w; ask federation clusters list --config other
"""
ZSH = """
compdef() { registered=$2 }
_describe() { printf '%s\\n' "${(@)${(@P)4}%%:*}" }
_files() { print files }
source bin/script.zsh
[[ $registered == federation ]] || exit 1
ask() { words=("$@"); CURRENT=$#; _federation }
ask federation rot; ask federation clusters check w; ask federation clusters list --config other
true  # what is the last word's file leaves no word to describe
"""
FISH = """
source bin/script.fish
for line in 'federation rot' 'federation clusters check w' 'federation clusters list --config other'
    complete -C $line | string replace -r '\\t.*' ''
end
true  # a file has no meaning to cut off
"""


@pytest.mark.parametrize(
    ("shell", "script", "file"),
    [("bash", BASH, "other.toml"), ("zsh", ZSH, "files"), ("fish", FISH, "other.toml")],
)
def test_the_script_works_in_its_shell(shell: str, script: str, file: str, command: Path) -> None:
    assert in_shell(shell, script, command) == ["rotate", "west", file]


def test_the_script_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == SCRIPTS["bash"]
