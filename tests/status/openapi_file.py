"""Writes ``docs/openapi.json`` anew: ``python -m tests.status.openapi_file``. A test compares it with the code."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Final

from federation.cli.mounted_operations import operate_route
from federation.status.openapi import openapi_document
from federation.status.routes import API, Route

FILE: Final = Path(__file__).parents[2] / "docs" / "openapi.json"


def routes() -> list[Route]:
    """What a controller serves, but for the files of the page."""
    return [*API, operate_route()]


def text() -> str:
    """The file as it has to be."""
    document = openapi_document(routes(), importlib.metadata.version("federation-hub"))
    return json.dumps(document, indent=1, sort_keys=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
