"""What the configuration asks for, or a file or back end holds, and the hub does not follow without a rotation. Pure.

An edit is a wish. While one is open everything may validate, and all the same the next restart may change it: so
nothing is called well, and ``federation verify`` fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from federation.core.trust.rotation.signing import NOT_IN_FORCE
from federation.status.attention_pairs import names
from federation.status.authorities import authority_views
from federation.status.causes import Finding, Need, damage_facts, finding
from federation.status.model import Attention
from federation.status.scene import Scene

UNSETTLED: Final = "authority_unsettled"
UNFOLLOWED: Final = "signer_unfollowed"
WISHES: Final = frozenset({NOT_IN_FORCE, UNSETTLED, UNFOLLOWED, "another_mesh", "config_problem"})
"""The codes of what is asked for and not followed."""


def is_wish(item: Attention) -> bool:
    """Whether something is asked for that is not followed."""
    return item.code in WISHES


def wish_attention(scene: Scene) -> Iterator[Finding]:
    """Each open wish with what was done instead and what to do."""
    for view in authority_views(scene):
        if view.reason != NOT_IN_FORCE:
            continue
        goes_on = view.state != "unavailable"
        stopped = not goes_on and not any(signer.ready for signer in scene.signers.values())
        item = Attention(
            severity="critical" if stopped else "warning",
            code=NOT_IN_FORCE,
            what=view.detail if goes_on else f"nothing is signed there: {view.detail}",
            where=f"{view.name} on {names(view.signers)}",
            remedy=view.remedy,
        )
        yield finding(item, takes=[(Need.AUTHORITY, "")] if stopped else [])
    for replica, signer in sorted(scene.signers.items()):
        for found in signer.unfollowed:
            yield finding(
                Attention(
                    severity="warning",
                    code=UNFOLLOWED,
                    what=f"it goes on by what it read before: {found}",
                    where=replica,
                    remedy="mend the state store or the document that is named; where the state was restored or set"
                    " back, find out by whom, and restore the newest",
                ),
                rests_on=damage_facts(sorted(scene.snapshot.damaged), found),
            )
    unsettled = scene.leader.rotation.unsettled if scene.leader is not None else ""
    if unsettled:
        yield finding(
            Attention(
                severity="warning",
                code=UNSETTLED,
                what=f"it is not recorded which authority is in force: {unsettled}",
                where="signers",
                remedy="give every signer the same [signer.authority]; it is recorded as soon as all sign with one, and"
                " no certificate of another is valid any more",
            )
        )
