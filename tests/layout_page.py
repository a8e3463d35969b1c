"""``docs/layout.md``: where everything is. Its tables are made from the first line of each module's docstring.

``python -m tests.layout_page`` writes it between its two marks; a test compares it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "layout.md"
PACKAGES = ("federation", "federation_sandbox")
TABLE_HEAD = "| module | holds |\n|---|---|\n"
BEGIN, END = "<!-- tree: begin -->\n", "<!-- tree: end -->\n"


def subject(path: Path) -> str:
    """The first line of the docstring: what the module is for."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


def folders(package: Path) -> Iterator[Path]:
    """The package, and those in it, by name."""
    yield package
    for path in sorted(package.iterdir()):
        if (path / "__init__.py").exists():
            yield from folders(path)


def tree() -> str:
    """One table for each package: its modules and what each is for."""
    parts = []
    for folder in (each for name in PACKAGES for each in folders(ROOT / name)):
        modules = [
            path for path in sorted(folder.glob("*.py")) if path.name not in {"__init__.py", "__main__.py"}
        ]
        if not modules:
            continue
        parts.append(
            f"### `{folder.relative_to(ROOT)}/`\n\n{subject(folder / '__init__.py')}.\n\n{TABLE_HEAD}"
        )
        parts += [f"| `{path.stem}` | {subject(path).replace('|', '/')} |\n" for path in modules]
        parts.append("\n")
    return "".join(parts)


def page(text: str) -> str:
    """The page with the tree of today between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + tree() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
