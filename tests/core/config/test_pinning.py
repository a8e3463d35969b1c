"""A pin is appended to any ``clusters.toml``, and nothing else in it changes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.cli.pinning import NewPin, with_pin
from federation.core.config.hub import AnchorPin
from federation.core.errors import ConfigurationError
from federation.core.identity import ClusterName, TrustDomain
from tests.core.config.example import TEXT
from tests.core.config.texts import FILE, GOOD, HUB, OTHER_PIN, PIN, good

ANCHOR = f'[[trust.anchors]]\nfile = "root.pem"\nsha256 = "{PIN}"\n'
PLAIN = NewPin(file="anchors/x.pem", sha256=OTHER_PIN)


def test_the_pin_is_the_last_and_nothing_else_changes() -> None:
    pin = NewPin(
        file="anchors/x.pem",
        sha256=OTHER_PIN,
        clusters=("west",),
        trust_domain="other.example",
        allow_foreign_trust_domain=True,
    )
    text, config = with_pin(GOOD, pin, file=FILE)
    assert text.startswith(GOOD)
    assert config.trust.anchors == (
        *good(GOOD).trust.anchors,
        AnchorPin(
            file=Path("/etc/federation/anchors/x.pem"),
            sha256=OTHER_PIN,
            trust_domain=TrustDomain("other.example"),
            clusters=(ClusterName("west"),),
            allow_foreign_trust_domain=True,
        ),
    )
    assert config == good(text)
    (warning,) = config.warnings
    assert "other.example" in warning


def test_a_pin_can_be_of_several_clusters() -> None:
    pin = NewPin(file="anchors/x.pem", sha256=OTHER_PIN, clusters=("east", "west"))
    _, config = with_pin(GOOD, pin, file=FILE)
    assert config.trust.anchors[-1].clusters == (ClusterName("east"), ClusterName("west"))


def test_what_is_not_given_is_not_written() -> None:
    table = tomllib.loads(PLAIN.table)["trust"]["anchors"][0]
    assert table == {"file": "anchors/x.pem", "sha256": OTHER_PIN}


@given(st.sampled_from([GOOD, HUB, TEXT]), st.sampled_from(["", "\n", "\n\n# the end", "\n  \t", "# x"]))
def test_any_end_of_a_file_will_do(text: str, end: str) -> None:
    extended, config = with_pin(text.rstrip("\n") + end, PLAIN, file=FILE)
    assert config.trust.anchors[-1].sha256 == OTHER_PIN
    assert extended.startswith(text.rstrip("\n") + end)
    assert extended.endswith(f'sha256 = "{OTHER_PIN}"\n')


def test_lines_end_as_the_files_do() -> None:
    text, config = with_pin(GOOD.replace("\n", "\r\n"), PLAIN, file=FILE)
    assert len(config.trust.anchors) == 2
    assert text.count("\n") == text.count("\r\n")


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_name_of_a_file_is_that_file_or_refused(name: str) -> None:
    pin = NewPin(file=name, sha256=OTHER_PIN)
    assert tomllib.loads(pin.table)["trust"]["anchors"] == [{"file": name, "sha256": OTHER_PIN}]
    try:
        _, config = with_pin(GOOD, pin, file=FILE)
    except ConfigurationError as error:
        assert error.findings[-1].key == "trust.anchors[1].file"
        assert not name.isprintable() or name.startswith("~")
    else:
        assert config.trust.anchors[1].file == Path("/etc/federation") / name


@pytest.mark.parametrize(
    ("pin", "key", "says"),
    [
        (NewPin(file="x", sha256=PIN), "trust.anchors[1].sha256", "a second time"),
        (NewPin(file="x", sha256="ab"), "trust.anchors[1].sha256", "not a SHA-256"),
        (
            NewPin(file="x", sha256=OTHER_PIN, clusters=("north",)),
            "trust.anchors[1].cluster",
            "not registered",
        ),
        (
            NewPin(file="x", sha256=OTHER_PIN, trust_domain="other.example"),
            "trust.anchors[1].trust_domain",
            "allow_foreign_trust_domain",
        ),
        (
            NewPin(file="x", sha256=OTHER_PIN, allow_foreign_trust_domain=True),
            "trust.anchors[1].allow_foreign_trust_domain",
            "overrides nothing",
        ),
        (NewPin(file='x"\n[listener]\n"', sha256=OTHER_PIN), "trust.anchors[1].file", "control characters"),
    ],
)
def test_a_pin_that_would_spoil_the_file_is_refused(pin: NewPin, key: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        with_pin(GOOD, pin, file=FILE)
    first, second = refused.value.findings
    assert first.remedy == "nothing was written"
    assert second.key == key
    assert says in f"{second.problem} {second.remedy}"


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace(ANCHOR, f'[trust]\nanchors = [{{ file = "root.pem", sha256 = "{PIN}" }}]\n'),
        f'trust = {{ anchors = [{{ file = "root.pem", sha256 = "{PIN}" }}] }}\n' + GOOD.replace(ANCHOR, ""),
    ],
    ids=["array", "table"],
)
def test_pins_that_are_written_inline_are_left_to_a_person(text: str) -> None:
    assert len(good(text).trust.anchors) == 1
    with pytest.raises(ConfigurationError) as refused:
        with_pin(text, PLAIN, file=FILE)
    assert "inline" in refused.value.findings[0].problem
    assert "by hand" in refused.value.findings[0].remedy


def test_mistakes_that_a_text_has_without_the_pin_are_reported() -> None:
    with pytest.raises(ConfigurationError) as refused:
        with_pin(GOOD.replace("server_names", "servernames"), PLAIN, file=FILE)
    assert {finding.key for finding in refused.value.findings} == {
        "listener.servernames",
        "listener.server_names",
    }
