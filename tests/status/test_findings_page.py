"""The users' index of findings is the code's, and every finding says what to do."""

from __future__ import annotations

from tests.status.findings_page import PAGE, entries, page


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.status.findings_page"


def test_every_finding_says_what_happened_and_what_to_do() -> None:
    found = entries()
    assert len(found) > 60
    assert [entry.codes for entry in found if not entry.says or not entry.do] == []
