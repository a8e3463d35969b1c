"""How far a registered cluster has come by the status API: stage after stage, each with what it waits for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.status.model import ClusterView, ControllerView, FederationStatus, SignerView


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage; ``waits`` says what is missing, empty where it is reached. A ``stop`` is not overcome by waiting."""

    name: str
    waits: str = ""
    remedy: str = ""
    stop: bool = False

    @property
    def reached(self) -> bool:
        """Whether nothing is missing."""
        return not self.waits

    def __str__(self) -> str:
        if self.reached:
            return f"{self.name}: done"
        return f"{self.name}: waits: {self.waits}" + (f" ({self.remedy})" if self.remedy else "")


NAMES = ("configuration read", "connected", "namespaces provided", "pairs proved")


def stages(status: FederationStatus, name: str) -> tuple[Stage, ...]:
    """Every stage up to the first that is not reached, with it."""
    view = next((view for view in status.clusters if view.name == name), None)
    reached: list[Stage] = []
    for stage in (
        _read(status, view),
        *((_connected(view), _provided(view), _proved(status, view)) if view else ()),
    ):
        reached.append(stage)
        if not stage.reached:
            break
    return tuple(reached)


def _read(status: FederationStatus, view: ClusterView | None) -> Stage:
    stage = NAMES[0]
    if status.config_problems:
        return Stage(stage, f"the hub refuses the configuration: {status.config_problems[0]}", stop=True)
    if view is None:
        return Stage(stage, "the controller has not read it yet")
    behind = _behind(status)
    return Stage(stage, f"{', '.join(behind)} runs the configuration before it" if behind else "")


def _behind(status: FederationStatus) -> list[str]:
    """The processes alive that run another configuration than the controller that answers."""
    processes: list[ControllerView | SignerView] = [*status.controllers, *status.signers]
    return [p.replica for p in processes if not p.stale and not p.runs_current_configuration]


def _connected(view: ClusterView) -> Stage:
    stage = NAMES[1]
    for role, health in (("controller", view.connection), ("signer", view.signing)):
        if health.state != "ready":
            return Stage(stage, f"{role}: {health.detail or health.state}", health.remedy)
    return Stage(stage)


def _provided(view: ClusterView) -> Stage:
    stage, publication = NAMES[2], view.publication
    if publication.state == "joining":
        return Stage(
            stage,
            f"{publication.joining} namespaces hold a CA of the cluster's own, which stays until it is accepted",
            f"go on with `federation clusters join {view.name}`",
            stop=True,
        )
    if publication.state == "current":
        return Stage(stage)
    so_far = f"{publication.current} of {publication.selected} namespaces hold the bundle"
    return Stage(stage, publication.detail or so_far, publication.remedy)


def _proved(status: FederationStatus, view: ClusterView) -> Stage:
    stage, proof = NAMES[3], view.proof
    if (
        len(status.clusters) == 1
    ):  # no pair: the certificate that the cluster's probe got says what can be said
        return Stage(
            stage, "" if proof.probe_not_after else proof.probe_detail or "its probe has no certificate yet"
        )
    if proof.valid and proof.valid + proof.quarantined == proof.pairs:
        return Stage(stage)
    faults = [r for r in status.matrix.reasons if view.name in {r.client, r.server}]
    why = proof.probe_detail or (
        f"{faults[0].client} > {faults[0].server}: {faults[0].reason}" if faults else ""
    )
    return Stage(
        stage,
        f"{proof.valid} of {proof.pairs} pairs validate" + (f": {why}" if why else ""),
        proof.probe_remedy,
    )


def holders(status: FederationStatus, name: str) -> Sequence[str]:
    """Who has not let go of a cluster that was taken out of the configuration."""
    if any(view.name == name for view in status.clusters):
        return ["the controller that answers"]
    return _behind(status)
