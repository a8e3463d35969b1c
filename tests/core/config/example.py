"""``clusters.example.toml`` taken apart: what is in use, and the blocks that are there to be uncommented."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TEXT = (Path(__file__).parents[3] / "clusters.example.toml").read_text("utf-8")

_TABLE = re.compile(r"\[([a-z_.]+)\]$")
_VARIANT = re.compile(r'(?:kind|method) = "([a-z0-9-]+)"$')
_KEY = re.compile(r"(#?)([a-z0-9_]+) = ((?:\"[^\"]*\"|[^#\"])*?)\s*(?:# (.*))?$")

AUTHORITY = "signer.authority"
AUTH = "signer.authority.auth"


@dataclass(frozen=True)
class Key:
    """One line of a block that sets a key, with the table it is in and the remark at its end."""

    number: int
    table: str
    name: str
    is_set: bool
    remark: str

    @property
    def is_default(self) -> bool:
        """True where the line states a default."""
        return not self.is_set and not self.remark


@dataclass(frozen=True)
class Block:
    """A table that is not in use, uncommented; ``variant`` is its kind or method."""

    table: str
    variant: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.table}={self.variant}" if self.variant else self.table

    @property
    def keys(self) -> list[Key]:
        """Every key of it, set or not, in the order of the lines."""
        found, table = [], ""
        for number, line in enumerate(self.lines):
            if match := _TABLE.match(line):
                table = match[1]
            elif match := _KEY.match(line):
                found.append(Key(number, table, match[2], not match[1], match[4] or ""))
        return found

    def with_lines(self, *numbers: int, without: tuple[str, ...] = ()) -> Block:
        """The block with those lines uncommented as well, and without those keys."""
        dropped = {key.number for key in self.keys if key.name in without}
        lines = tuple(
            "" if number in dropped else line[1:] if number in numbers else line
            for number, line in enumerate(self.lines)
        )
        return Block(self.table, self.variant, lines)

    def with_table(self, other: Block) -> Block:
        """The block with ``other`` in the place of its table of that name."""
        start = self.lines.index(f"[{other.table}]")
        return Block(self.table, f"{self.variant}+{other.variant}", (*self.lines[:start], *other.lines))

    @property
    def with_every_key(self) -> Block:
        """The block with all that can be set at once."""
        wanted = [key.number for key in self.keys if key.is_default or key.remark == "no default"]
        return self.with_lines(*wanted)


def _take_apart() -> tuple[str, list[Block]]:
    plain: list[str] = []
    blocks: list[list[str]] = []
    inside = False
    for line in TEXT.splitlines():
        starts = not inside and line.startswith("#[")
        inside = line.startswith("#") and (inside or starts)
        if starts:
            blocks.append([])
        if inside:
            blocks[-1].append(line[1:])
        else:
            plain.append(line)
    return "\n".join(plain) + "\n", [_block(lines) for lines in blocks]


def _block(lines: list[str]) -> Block:
    table = _TABLE.match(lines[0])
    assert table is not None, lines[0]
    variant = _VARIANT.match(next(line for line in lines[1:] if not line.startswith("#")))
    return Block(table[1], variant[1] if variant else "", tuple(lines))


PLAIN, BLOCKS = _take_apart()

KINDS = {block.variant: block for block in BLOCKS if block.table == AUTHORITY}
METHODS = {block.variant: block for block in BLOCKS if block.table == AUTH}
CONJUR, SPIFFE, SUCCESSOR, STATE = (
    next(block for block in BLOCKS if block.table == table)
    for table in ("signer.conjur", "signer.spiffe", "signer.successor", "state")
)
FORMS = [*KINDS.values(), *(KINDS["vault"].with_table(method) for method in METHODS.values())]
"""Every authority of the file that is not in use, Vault's once for each way to log in."""


def with_successor(block: Block = SUCCESSOR) -> str:
    """The whole file with a successor of its authority."""
    before, mark, after = PLAIN.partition("[controller.publication]\n")
    return "\n".join([before, *block.lines, "", mark + after])


def with_state(block: Block = STATE) -> str:
    """The whole file with that block in the place of the state that is in use."""
    before, _, rest = PLAIN.partition("[state]\n")
    _, _, after = rest.partition("\n\n")
    return "\n".join([before, *block.lines, "", after])


def in_use(authority: Block, *, conjur: Block = CONJUR, spiffe: Block = SPIFFE) -> str:
    """The whole file with that authority in place of the one in use, with Conjur and the Workload API."""
    before, _, rest = PLAIN.partition(f"[{AUTHORITY}]\n")
    _, _, after = rest.partition("\n\n")
    return "\n".join([before, *authority.lines, *conjur.lines, *spiffe.lines, "", after])
