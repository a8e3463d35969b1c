"""``federation clusters istio``: printed or written, and never over what an operator changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from federation.cli.main import main
from tests.core.config.texts import EAST, HUB, WEST


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clusters.toml"
    path.write_text(HUB + EAST + WEST)
    return path


def run(file: Path, *arguments: str) -> int:
    return main(["clusters", "istio", *arguments, "--config", str(file)])


def test_what_is_printed_is_yaml(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file, "west") == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [document.get("kind") for document in documents] == [
        None,
        None,
        "IstioOperator",
        "Istio",
        "IstioCNI",
    ]
    assert documents[0]["global"]["multiCluster"]["clusterName"] == "west-id"


def test_one_form_alone_can_be_piped(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file, "east", "--format", "istioctl", "--listener", "hub.example:443") == 0
    (document,) = yaml.safe_load_all(capsys.readouterr().out)
    assert document["spec"]["values"]["global"]["caAddress"] == "hub.example:443"


def test_files_are_written_and_an_operators_own_are_left(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "settings" / "east"
    assert run(file, "east", "--directory", str(directory)) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in written} == {
        "helm-istiod.yaml",
        "helm-gateway.yaml",
        "istioctl.yaml",
        "sail.yaml",
    }
    assert all(list(yaml.safe_load_all(path.read_text())) for path in written)
    assert run(file, "east", "--directory", str(directory)) == 0  # the same again is no harm
    (directory / "istioctl.yaml").write_text("mine")
    (directory / "sail.yaml").unlink()
    assert run(file, "east", "--directory", str(directory)) == 1
    assert "istioctl.yaml is there and holds something else" in capsys.readouterr().err
    assert (directory / "istioctl.yaml").read_text() == "mine"
    assert not (directory / "sail.yaml").exists()


def test_a_directory_that_is_a_file_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file, "east", "--directory", str(file)) == 1
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["north"], "no cluster is named north; there are: east, west"),
        (["Nö"], "is not a cluster name"),
        (["east", "--listener", "elsewhere.example:443"], "not in the listener's certificate"),
        (["east", "--revision", "../x"], "is not a revision"),
        (["east", "--namespace", "elsewhere"], "not configured"),
    ],
)
def test_what_cannot_be_used_says_so(
    file: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(file, *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_listener_address_without_a_port_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(file, "east", "--listener", "hub.example")
    assert caught.value.code == 2
    assert "host:port" in capsys.readouterr().err
