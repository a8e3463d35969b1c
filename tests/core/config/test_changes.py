"""What the audit says of a change of the configuration: what came, what went, where something differs, and no value."""

from __future__ import annotations

import pytest

from federation.core.config.changes import MOST_NAMED, changes
from federation.core.config.load import parse_config
from tests.core.config.texts import EAST, GOOD, HUB, with_line


def said(before: str, after: str) -> tuple[str, str]:
    """Without the digests, which both begin with."""
    both = parse_config(before, file="a"), parse_config(after, file="a")
    texts = changes(*both)
    assert all(text.startswith(f"digest {each.digest[:16]}") for text, each in zip(texts, both, strict=True))
    first, second = (text.partition("; ")[2] for text in texts)
    return first, second


@pytest.mark.parametrize(
    ("after", "gone", "come"),
    [
        (GOOD, "", ""),
        (HUB + EAST, "cluster west", ""),
        (with_line("max_concurrent = 7", in_table="listener"), "", "changed listener"),
        (with_line('attestation = "token-review"', in_table="clusters"), "", "changed clusters.east"),
        (GOOD.replace('name = "west"', 'name = "north"'), "cluster west", "cluster north"),
    ],
)
def test_each_says_what_the_other_one_lacks(after: str, gone: str, come: str) -> None:
    assert said(GOOD, after) == (gone, come)


def test_a_pin_is_named_and_no_value_is() -> None:
    pin, other = "12" * 32, "34" * 32
    pinned = f'{GOOD}\n[[trust.anchors]]\nfile = "secret-place.pem"\nsha256 = "{pin}"\n'
    staged = pinned.replace(f'"{pin}"', f'"{other}"\nstaged = true')
    assert said(GOOD, pinned) == ("", f"pin {pin}; changed trust")
    gone, come = said(pinned, staged)
    assert (gone, come) == (f"pin {pin}", f"pin {other}; staged {other}; changed trust")
    assert "secret-place" not in gone + come


def test_many_are_a_number() -> None:
    many = "".join(EAST.replace("east", f"c{number:03}") for number in range(200))
    _, come = said(HUB + EAST, HUB + EAST + many)
    assert come.endswith(f"c{MOST_NAMED - 1:03} and {200 - MOST_NAMED} more")
    assert len(come) < 200
