"""Who reads JSON of others foresees everything that the decoder raises for it.

msgspec raises UnicodeDecodeError, which is none of its own errors, for text that is not UTF-8. Where only its own were
foreseen a member's answer ended what was done for it, instead of being garbage.
"""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "federation"
ENOUGH = {"UnicodeError", "ValueError"}


def test_a_handler_of_decoding_errors_also_covers_text_that_is_not_utf_8() -> None:
    short = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ExceptHandler) and node.type is not None
        if "msgspec." in (caught := ast.unparse(node.type)) and not any(name in caught for name in ENOUGH)
    ]
    assert short == []
