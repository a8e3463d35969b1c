"""Token keys that more than one member publishes: one of them may be after the other's tokens. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from federation.state.documents import SharedTokenKey
from federation.status.attention_pairs import names
from federation.status.model import Attention
from federation.status.scene import Scene

MOST_FINDINGS: Final = 8  # one for each set of members; a member could publish the keys of all others


def shared_key_attention(scene: Scene) -> Iterator[Attention]:
    """One for the members that publish the same keys, by what any signer says of them."""
    found: dict[tuple[str, ...], list[SharedTokenKey]] = {}
    for signer in scene.signers.values():
        for shared in signer.shared_keys:
            found.setdefault(tuple(sorted(shared.clusters)), []).append(shared)
    for members, shared_keys in sorted(found.items())[:MOST_FINDINGS]:
        shared = max(shared_keys, key=lambda one: (one.proved, bool(one.holder)))
        yield Attention(
            severity="critical",
            code="token_key_shared",
            what=f"{names(list(members))} publish the same token key (SHA-256 {shared.key[:16]}…): {_whose(shared)}",
            where=", ".join(members),
            remedy=_remedy(shared, members),
        )


def _whose(shared: SharedTokenKey) -> str:
    if not shared.holder:
        return (
            "which of them signs with it is not known yet, so that callers which send no clusterid, or "
            "Istio's default, are refused"
        )
    why = "signs the probe's tokens with it" if shared.proved else "published it first"
    return f"it counts as the key of {shared.holder}, which {why}, and nothing changes for callers there"


def _remedy(shared: SharedTokenKey, members: tuple[str, ...]) -> str:
    others = [name for name in members if name != shared.holder]
    return (
        f"find out who put that key among those of {names(others)} (`kubectl get --raw /openid/v1/jwks` there): give a "
        "control plane that was cloned a key of its own, and take one that was broken into out of the configuration"
    )
