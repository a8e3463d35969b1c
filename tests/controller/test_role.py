"""The controller role on clusters in a box, from sources to proof."""

from __future__ import annotations

from tests.controller.world import World


async def test_every_pair_is_proved(two: World) -> None:
    async with two.controller():
        generation = await two.published()
        report = await two.until(lambda r: r.matrix.valid == 2)
    assert generation.number == 1
    assert report.matrix.rows == ["-v", "v-"]
    assert report.matrix.handshakes == 1
    for name in two.clusters:
        for namespace in ("default", "kube-system", "federation-system"):
            assert two.held(name, namespace) == generation.bundle_pem
        assert two.held(name, "kube-public") is None
