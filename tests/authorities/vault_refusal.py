"""How Vault refuses: a status and one text."""

from __future__ import annotations


class Refusal(Exception):
    """Becomes ``{"errors": [text]}`` with that status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def denied() -> Refusal:
    return Refusal(403, "permission denied")


def no_route(path: str) -> Refusal:
    return Refusal(404, f'no handler for route "{path}". route entry not found.')
