"""What new connections to the door met: callers that are connected do not notice what new ones refuse. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from federation.state.documents import SignerDoorReport
from federation.status.attention_pairs import names
from federation.status.freshness import elapsed, finite, instant
from federation.status.model import Attention
from federation.status.scene import Scene

PATIENCE: Final = (
    60.0  # seconds within which new connections find every signer, and a report follows what is shown
)


def arrival_attention(scene: Scene) -> Iterator[Attention]:
    """One for each cause, with the signers that it concerns."""
    found = scene.leader.door.signers if scene.leader is not None else []
    refused: dict[str, list[SignerDoorReport]] = {}
    for door in found:
        if door.replica not in scene.signers:
            continue  # that it is gone is told already
        if door.state == "refused":
            refused.setdefault(door.detail, []).append(door)
        elif door.state == "not_met" and scene.now - max(door.since, door.proved_at) > PATIENCE:
            yield Attention(
                severity="warning",
                code="door_not_met",
                what=f"no new connection reached this signer's door, so it is not proved: {door.detail}",
                where=door.replica,
                remedy="see that controller.proof.signer_address leads to every signer, and that nothing on the way"
                " keeps the controller from them",
                since=instant(max(door.since, door.proved_at)),
            )
    yield from _names_gone(scene)
    for detail, doors in refused.items():
        yield Attention(
            severity="critical",
            code="door_refused",
            what=f"workloads that start or reconnect refuse the door's certificate: {detail}",
            where=names([door.replica for door in doors]),
            remedy=_remedy(detail),
            since=instant(min(door.since for door in doors)),
        )


def _names_gone(scene: Scene) -> Iterator[Attention]:
    """Names that agents may call the door by still, for as long as what they hold may live."""
    longest = max((cluster.policy.longest_ttl for cluster in scene.config.clusters), default=0.0)
    gone = scene.leader.rotation.names_gone if scene.leader is not None else {}
    lately = {name: at for name, at in gone.items() if 0 <= scene.now - finite(at) < longest}
    if lately:
        yield Attention(
            severity="warning",
            code="door_name_gone",
            what=f"its certificate is for {names(sorted(lately))} no more: pods that were injected with that address"
            f" get no certificate, and the last that they hold ends within {elapsed(longest)}",
            where="door",
            remedy="put it back into door.server_names until every pod was restarted with another address; nothing, if"
            " all were",
            since=instant(min(lately.values())),
        )


def _remedy(detail: str) -> str:
    if "verify it for" in detail or "not valid for" in detail:
        return "put the name that agents use (their caAddress) into door.server_names; it is taken up without a restart"
    return "`federation authority check` says what is wrong with what signs it; mend that, and the door renews itself"
