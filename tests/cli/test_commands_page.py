"""docs/command-line.md: its table of exit codes has the verbs that there are, and says what they do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from federation.cli.hub_access import hub_context
from federation.cli.main import EXIT_INTERRUPTED, main
from tests.cli.test_tables import LISTING
from tests.cli.verbs import verbs

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("| verb | 0 | 1 | 2 |\n")[2].splitlines()[1:]
]


def test_the_table_of_exit_codes_has_every_verb_in_the_order_of_the_help() -> None:
    assert [row[0].strip("`") for row in ROWS] == list(verbs())
    assert all(len(row) == 4 and row[1] and row[3] for row in ROWS)
    assert f"**{EXIT_INTERRUPTED}** interrupted" in PAGE


def test_what_a_help_says_of_code_1_is_in_the_table() -> None:
    """A verb whose help names the code 1 has something there, and one whose API can be away says so."""
    codes = {row[0].strip("`"): row for row in ROWS}
    for verb, parser in verbs().items():
        said = " ".join((parser.description or "").split())
        options = {option for action in parser._actions for option in action.option_strings}
        if re.search(r"\b1 (when|where|where|something|not|one|a file)|[Ee]xits 1", said):
            assert codes[verb][2], verb
        if "--token-file" in options and "API cannot be reached" in said:
            assert "the API cannot be reached" in codes[verb][3], verb


GIVEN = {
    "trust dismiss": ["0" * 64],
    "trust remove": ["0" * 64],
    "rotate quarantine": ["east", "--reason", "x"],
    "rotate release": ["east"],
    "rotate takeover": ["east"],
    "rotate emergency": ["--compromised", "0" * 64, "--yes"],
}
UNREACHED = [
    row[0].strip("`") for row in ROWS if "the API cannot be reached" in row[3] and "`trust l" not in row[0]
]


@pytest.mark.parametrize("verb", [verb for verb in UNREACHED if verb != "trust accept"])
def test_a_hub_that_is_not_there_is_code_2_where_the_table_says_so(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of those that need no configuration before they ask."""
    assert main([*verb.split(), *GIVEN.get(verb, []), "--url", "http://127.0.0.1:1"]) == 2
    assert "http://127.0.0.1:1/api/v1/" in capsys.readouterr().err


def test_the_order_in_which_a_hub_is_found_names_what_the_code_reads() -> None:
    code = Path(hub_context.__code__.co_filename).read_text("utf-8")
    for name in ("FEDERATION_URL", "FEDERATION_CONTEXT", "--url", "--hub"):
        assert name in code
        assert name in PAGE
    assert all(
        f"`{verb}`" in PAGE.partition("## Tables")[2].partition("## Completion")[0] for verb in LISTING
    )
