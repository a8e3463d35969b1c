"""What a line of the audit says, whichever role writes it: who did what, from where, and what it changed. Pure.

A line is a record of the logs ``federation.signer.audit``, ``federation.controller.audit`` and, for the configuration
that a process runs, ``federation.runtime.audit``; with ``--log-format json`` each is one JSON object. Every one has all
of :data:`FIELDS`, and beside them what its action has.
"""

from __future__ import annotations

from typing import Final, Literal

Action = Literal[
    "issue",
    "request_operation",
    "refuse_request",
    "decide_operation",
    "change_rotation",
    "put_generation_in_force",
    "change_configuration",
    "refuse_configuration",
]
ActorKind = Literal[
    "workload", "node-proxy", "local", "token", "kubernetes", "oidc", "operator", "leader", "file", "unknown"
]

FIELDS: Final = ("actor", "actor_kind", "source", "action", "object", "before", "after")
"""Who (a name that was verified), how that was verified, the address that it came from, what was done to what, and the
state before and after; :data:`NONE` where there is none."""

NONE: Final = "none"


def audit_fields(
    action: Action,
    *,
    actor: str,
    actor_kind: ActorKind,
    source: str,
    object: str,  # noqa: A002 - the field's own name
    before: str = NONE,
    after: str = NONE,
) -> dict[str, str]:
    """The fields that every line has."""
    return {
        "actor": actor or NONE,
        "actor_kind": actor_kind,
        "source": source or NONE,
        "action": action,
        "object": object or NONE,
        "before": before or NONE,
        "after": after or NONE,
    }
