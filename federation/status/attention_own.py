"""What needs attention in the CAs that clusters brought when they joined. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from federation.status.model import Attention
from federation.status.own_anchors import own_anchor_views, undeclared
from federation.status.scene import Scene


def own_anchor_attention(scene: Scene, *, joining: Collection[str] = ()) -> Iterator[Attention]:
    """Takeovers to declare, once each; else what an anchor waits for before it leaves by itself.

    Clusters that are ``joining`` are left to :mod:`federation.status.joining`.
    """
    views = own_anchor_views(scene)
    anchored = {name for view in views for name in view.undeclared}
    for name in sorted((anchored | undeclared(scene)) - {*joining}):
        stays = ", and its anchor stays in the bundle" if name in anchored else ""
        yield Attention(
            severity="warning",
            code="takeover_undeclared",
            what=f"a CA other than the hub's counts as issuing there still: rotations wait for it{stays}",
            where=name,
            remedy="once nothing but the hub issues there, declare the takeover: "
            f"`federation rotate takeover {name}`",
        )
    for view in views:
        if view.waits_for and not view.undeclared and not {*joining} & {c.cluster for c in view.waits_for}:
            yield Attention(
                severity="notice",
                code="own_anchor_waits",
                what=f"the CA {view.subject}, which a cluster came with, leaves the bundle by itself; "
                f"it waits: {view.waits_for[0].detail}",
                where=f"bundle: {view.sha256[:16]}",
                remedy="nothing; take its pin out of the configuration once it is gone",
            )
