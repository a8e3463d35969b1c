"""How the hub reaches one API server: the keys that a member's table and cert-manager's share."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from federation.core.config.access import Credentials
from federation.core.config.tables import Table
from federation.core.config.values import boolean, nonempty, relative_to

CREDENTIAL_KEYS: Final = ("kubeconfig", "context", "in_cluster", "allowed_exec")
_NOBODY: Final = Credentials(kubeconfig=None)  # for its defaults


def read_credentials(table: Table, directory: Path, where_to_say: str) -> Credentials | None:
    """A kubeconfig or the pod's own service account; None, with findings, where neither can be used.

    ``where_to_say`` is the remedy for a table that names neither.
    """
    in_cluster = table.get("in_cluster", boolean, _NOBODY.in_cluster)
    context = table.get("context", nonempty, _NOBODY.context)
    commands = table.list_of("allowed_exec", nonempty, _NOBODY.allowed_exec)
    kubeconfig = table.get("kubeconfig", relative_to(directory), None)
    if not in_cluster:
        if not table.has("kubeconfig"):
            table.mistake("kubeconfig", "is missing: the hub cannot connect", where_to_say)
        return (
            None
            if kubeconfig is None
            else Credentials(kubeconfig=kubeconfig, context=context, allowed_exec=commands)
        )
    for name in ("kubeconfig", "context", "allowed_exec"):
        if table.has(name):
            table.mistake(name, "contradicts in_cluster = true", "keep one of the two")
    return Credentials(kubeconfig=None, in_cluster=True)
