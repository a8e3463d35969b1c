"""``docs/findings.md``, made from the code: every finding of status with what to do about it.

``python -m tests.status.findings_page`` writes it; a test compares it.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "findings.md"
STATUS = ROOT / "federation" / "status"
GAP = "…"
"""Stands for what is put in when the message is made."""

STATES: Mapping[str, tuple[str, ...]] = {
    "connection.state": ("degraded", "unavailable", "unknown"),
    "signing.state": ("degraded", "unavailable", "unknown"),
    "publication.state": ("failed", "pending", "unknown"),
    "plane.state": ("waiting", "foreign", "forbidden", "failed", "unknown", "provided"),
    "bundle.state": ("pending", "contested", "forbidden", "unknown"),
    "view.state": ("degraded", "unavailable", "unknown"),
    "view.expiry": ("notice", "warning", "critical", "expired", "unknown"),
    "state": ("notice", "warning", "critical", "expired", "unknown"),
    "reason": ("listener_certificate", "listener_unavailable"),
}
"""What the variable part of a code may be."""

IN_OTHER_WORDS: Mapping[str, str] = {
    "cluster_unavailable": "… is unreachable (does not answer in time, does not accept the controller's credentials"
    ", …) since …; certificates there last until …, the first ends at …: …",
}
"""What is put together of too many parts to be read off the code, by one of its codes."""

HEAD = """# Findings

Every entry that status lists under "needs attention", by its `code` (`/api/v1/status`, `attention[].code`), as the code
makes it: … stands for names, numbers and times. What follows from an entry is listed with it as `consequences` and not
by itself, so that each cause stands there once; it is as severe as the severest of them. "By what reports it": the
words come with the error, from the process or the back end that met it.

This page is made from the code.

| code | severity | says | do |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Entry:
    """One place in the code that makes a finding."""

    codes: tuple[str, ...]
    severity: str
    says: str
    do: str


def entries() -> list[Entry]:
    """Every place, by its first code."""
    found = [entry for path in sorted(STATUS.rglob("*.py")) for entry in _of_module(path)]
    return sorted(found, key=lambda entry: (entry.codes, entry.says))


def page() -> str:
    """The whole page."""
    rows = [
        f"| {', '.join(f'`{code}`' for code in entry.codes)} | {entry.severity} | {entry.says} | {entry.do} |"
        for entry in entries()
    ]
    return HEAD + "\n".join(rows) + "\n"


@dataclass(frozen=True)
class Scope:
    """What names stand for where a finding is made: of the module, or assigned in the function."""

    module: ModuleType
    local: Mapping[str, Sequence[ast.expr]]

    def constant(self, name: str) -> object:
        """What the module calls so."""
        return getattr(self.module, name, None)


def _of_module(path: Path) -> Iterator[Entry]:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for function in ast.parse(path.read_text()).body:
        if isinstance(function, ast.FunctionDef):
            yield from _of_function(function, module)


def _of_function(function: ast.FunctionDef, of: ModuleType) -> Iterator[Entry]:
    local: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            local.setdefault(node.targets[0].id, []).append(node.value)
    module = Scope(of, local)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Attention":
            given = {each.arg: each.value for each in node.keywords if each.arg}
            yield Entry(
                codes=tuple(dict.fromkeys(_codes(given["code"], module))),
                severity=" or ".join(_severities(given["severity"])),
                says=_words(given["code"], module) or _cell(given["detail"], module),
                do=_cell(given["remedy"], module) if "remedy" in given else "",
            )


def _codes(node: ast.expr, module: Scope) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(code)):
            yield code
        case ast.IfExp():
            yield from _codes(node.body, module)
            yield from _codes(node.orelse, module)
        case ast.JoinedStr(values=[ast.Constant(value=str(begin)), ast.FormattedValue(value=part)]):
            yield from (f"{begin}{state}" for state in STATES[ast.unparse(part)])
        case ast.Name(id=name) if isinstance(module.constant(name), str):
            yield str(module.constant(name))
        case _:
            yield from STATES[ast.unparse(node)]


def _words(node: ast.expr, module: Scope) -> str:
    return next((IN_OTHER_WORDS[code] for code in _codes(node, module) if code in IN_OTHER_WORDS), "")


def _severities(node: ast.expr) -> list[str]:
    words = [
        each.value
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and each.value in {"critical", "warning", "notice"}
    ]
    return words or ["as severe as the case is"]


def _cell(node: ast.expr, module: Scope) -> str:
    texts = list(dict.fromkeys(text for text in _texts(node, module) if text.strip(f"{GAP} :")))
    return " / ".join(texts).replace("|", "\\|") if texts else "by what reports it"


def _texts(node: ast.expr, module: Scope) -> Iterator[str]:
    """The texts that an expression may give."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr() if not any(
            part.value.strip(" :;")
            for part in node.values
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        ):
            for part in node.values:  # put together of what has been written before
                if isinstance(part, ast.FormattedValue):
                    yield from _texts(part.value, module)
        case ast.Name(id=name) if name in module.local:
            for value in module.local[name]:
                if name not in {each.id for each in ast.walk(value) if isinstance(each, ast.Name)}:
                    yield from _texts(value, module)
        case ast.JoinedStr():
            parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
            yield "".join(map(str, parts))
        case ast.IfExp():
            yield from _texts(node.body, module)
            yield from _texts(node.orelse, module)
        case ast.BoolOp():
            for value in node.values:
                yield from (
                    _texts(value, module) if not isinstance(value, ast.Attribute) else ("by what reports it",)
                )
        case ast.BinOp(op=ast.Add()):
            rights = list(_texts(node.right, module))
            yield from (f"{left}{right}" for left in _texts(node.left, module) for right in rights)
        case ast.Name(id=name) if isinstance(module.constant(name), str):
            yield str(module.constant(name))
        case ast.Call(func=ast.Attribute(attr="get", value=ast.Name(id=name))) if isinstance(
            found := module.constant(name), dict
        ):
            yield from found.values()
        case ast.Call(
            func=ast.Attribute(
                attr="get",
                value=ast.Dict(values=values),
            )
        ):
            for value in values:
                yield from _texts(value, module)
            yield from _texts(node.args[1], module)
        case ast.Call(func=ast.Name(id=name)) if (function := _function(module.module, name)) is not None:
            for each in ast.walk(function):
                if isinstance(each, ast.Return) and each.value is not None:
                    yield from _texts(each.value, module)
        case _:
            yield GAP


def _function(module: ModuleType, name: str) -> ast.FunctionDef | None:
    """The function that the module calls so, which may be another module's."""
    module = sys.modules.get(getattr(getattr(module, name, None), "__module__", module.__name__), module)
    if module.__file__ is None:
        return None
    tree = ast.parse(Path(module.__file__).read_text())
    return next((each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == name), None)


if __name__ == "__main__":
    PAGE.write_text(page())
