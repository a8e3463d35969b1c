"""``--sort``, ``--filter`` and ``--json`` of the verbs that list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from federation.cli.main import main
from tests.cli.verbs import verbs
from tests.core.config.texts import EAST, HUB, WEST

LISTING = ("clusters list", "clusters check", "clusters discovered", "trust list", "context list")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clusters.toml"
    tenth = EAST.replace("east", "c10")
    path.write_text(
        HUB
        + tenth
        + EAST.replace("east", "c9")
        + WEST.replace('name = "west"', 'name = "west"\nnetwork = "N"')
    )
    return path


def listed(capsys: pytest.CaptureFixture[str], file: Path, *arguments: str) -> list[str]:
    assert main(["clusters", "list", "--config", str(file), *arguments]) == 0
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]


@pytest.mark.parametrize("verb", LISTING)
def test_every_verb_that_lists_takes_them(verb: str) -> None:
    options = {option for action in verbs()[verb]._actions for option in action.option_strings}
    assert {"--sort", "--filter", "--json"} <= options


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((), ["c10", "c9", "west"]),
        (("--sort", "name"), ["c9", "c10", "west"]),
        (("--sort", "NAME:desc"), ["west", "c10", "c9"]),
        (("--filter", "name=C*"), ["c10", "c9"]),
        (("--filter", "name!=c*"), ["west"]),
        (("--filter", "name=c*", "--filter", "cluster_id=*9-id"), ["c9"]),
        (("--filter", "network=-", "--sort", "cluster-id"), ["c9", "c10"]),
        (("--filter", "name=[cw]*"), ["as"]),
    ],
)
def test_rows_are_chosen_and_sorted(
    arguments: tuple[str, ...], names: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if names == ["as"]:
        assert main(["clusters", "list", "--config", str(file), *arguments]) == 0
        assert capsys.readouterr().out == "no row is as --filter says\n", "a bracket is a bracket"
    else:
        assert listed(capsys, file, *arguments) == names


def test_json_has_the_same_rows(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--filter", "name=c*", "--sort", "name", "--json"]
    assert main(["clusters", "list", "--config", str(file), *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [cluster["name"] for cluster in document["clusters"]] == ["c9", "c10"]
    assert document["trust_domain"] == "mesh.example"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--sort", "nmae"), "there is no column 'nmae': did you mean name?"),
        (("--filter", "nam=x"), "did you mean name?"),
        (("--filter", "name"), "is not COLUMN=TEXT"),
    ],
)
def test_a_column_that_is_none_is_exit_code_2(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["clusters", "list", *arguments])
    assert caught.value.code == 2
    assert says in capsys.readouterr().err
