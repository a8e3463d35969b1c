"""The command itself: verbs, help, errors in words, exit codes."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from federation.cli.main import VERBS, build_parser, explain, main
from federation.core.errors import ConfigurationError, Mistake, NotReady
from tests.cli.running import environment, federation
from tests.support.patience import PATIENCE

ACTIONS = [*VERBS, "clusters list", "clusters check", "pki init", "bundle show"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_a_module_with_a_parser_and_a_function(verb: str) -> None:
    module = import_module(f"federation.cli.{verb}")
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    assert build_parser([verb]).format_usage() == build_parser([verb, "ignored"]).format_usage()


@pytest.mark.parametrize("action", ACTIONS)
def test_every_option_says_what_it_does(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*action.split(), "--help"])
    assert caught.value.code == 0
    assert f"federation {action}" in capsys.readouterr().out
    parser: argparse.ArgumentParser = build_parser(action.split())
    for word in action.split():
        (choices,) = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        parser = choices[word]
    assert parser.description or any(isinstance(a, argparse._SubParsersAction) for a in parser._actions)
    assert [option.dest for option in parser._actions if not option.help and option.nargs != "A..."] == []


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(f"\n    {verb}" in out for verb in VERBS)


def test_help_imports_nothing_slow() -> None:
    script = (
        "import sys\nfrom federation.cli.main import build_parser\nbuild_parser()\n"
        "print([name for name in ('grpc', 'kubernetes_asyncio', 'uvloop', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [[], ["hubb"], ["hub", "--colour"], ["hub", "--replica", "A/b"]])
def test_a_command_line_that_cannot_be_used_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: federation" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["signer", "controller"])
@pytest.mark.parametrize("address", ["localhost", "host:99999", ":80", "::1:80"])
def test_an_address_that_is_none_is_explained(
    verb: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    option = "--listen" if verb == "signer" else "--status"
    with pytest.raises(SystemExit) as caught:
        main([verb, option, address])
    assert caught.value.code == 2
    assert "host:port" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["hub", "signer", "controller", "clusters list", "clusters check"])
async def test_a_bad_configuration_is_every_finding_and_exit_code_2(verb: str, tmp_path: Path) -> None:
    file = tmp_path / "clusters.toml"
    file.write_text('trust_domain = "X"\nclustres = []\n')
    code, out, err = await federation(*verb.split(), "--config", str(file))
    assert code == 2
    assert out == ""
    assert "clustres: is not a key the hub knows. did you mean clusters?" in err
    assert "trust_domain: 'X' is not a trust domain" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("[[cluster]]\nname = 'east'", "cluster: is not a key the hub knows. did you mean [[clusters]]?"),
        ("[[Clusters]]\nname = 'east'", "Clusters: is not a key the hub knows. did you mean [[clusters]]?"),
        (
            "[[clusters]]\nname = 'east'\npolicy = 'all'",
            "clusters[0].policy: must be a table, not a string. write [clusters.policy]",
        ),
        ("[[clusters]]\nname = 'east'\n[clusters.polcy]\nallow = []", "did you mean [clusters.policy]?"),
        ("[signers]\nprocesses = 1", "signers: is not a key the hub knows. did you mean [signer]?"),
        (
            "[[trust.anchor]]\nfile = 'x'",
            "trust.anchor: is not a key the hub knows. did you mean [[trust.anchors]]?",
        ),
        (
            "[listener]\nserver-names = []",
            "listener.server-names: is not a key the hub knows. did you mean server_names?",
        ),
    ],
)
async def test_a_misspelled_key_is_answered_with_the_nearest_as_it_is_written(
    line: str, meant: str, tmp_path: Path
) -> None:
    file = tmp_path / "clusters.toml"
    file.write_text(f'trust_domain = "mesh.example"\n{line}\n')
    code, _, err = await federation("clusters", "list", "--config", str(file))
    assert code == 2
    assert meant in err


async def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    code, _, err = await federation("hub", "--config", str(tmp_path / "nothing.toml"))
    assert code == 2
    assert f"{tmp_path / 'nothing.toml'}: cannot be read: No such file or directory" in err


def test_errors_inside_a_task_group_are_printed_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    inner = NotReady("cannot listen", where="listener", remedy="free the port")
    group = BaseExceptionGroup("unhandled errors", [ExceptionGroup("inner", [inner])])
    assert explain(group) == 1
    assert capsys.readouterr().err == "federation: listener: cannot listen (free the port)\n"
    findings = ConfigurationError([Mistake("f", "a", "is wrong", "repair it"), Mistake("f", "b", "too", "")])
    assert explain(ExceptionGroup("group", [inner, findings])) == 2
    assert capsys.readouterr().err.splitlines()[1:] == ["federation: f: a: is wrong. repair it", "f: b: too."]


def test_an_unexpected_exception_in_a_group_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        explain(ExceptionGroup("group", [NotReady("x"), ZeroDivisionError()]))


def test_the_version_is_the_distributions() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "federation", "--version"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        env=environment(),
    )
    assert done.stdout.startswith("federation-hub 0.")


def test_a_closed_pipe_prints_no_traceback() -> None:
    script = f"{sys.executable} -m federation pki init --help | true"
    done = subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert "Traceback" not in done.stderr
