"""What the status API says, as typed structs: answers, OpenAPI document and CLI come from these.

Times are RFC 3339 in UTC, ``null`` where an instant is not known. Durations are in seconds unless a name says
days.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from federation.core.clock import Instant
from federation.core.documents.controller import ControlPlaneReport, TrustBundleReport
from federation.core.documents.discovery import DiscoveredCluster, SourceReading
from federation.core.documents.trust import Proposal
from federation.core.problem import Health, Problem
from federation.core.rotation.record import Condition, Departure, Setback
from federation.status.rotation_model import (
    ClusterUntil,
    DirectivesView,
    MemberCaView,
    PlanView,
    QuarantineView,
    RotationView,
    UnpinnedView,
)

Verdict = Literal["healthy", "degraded", "failing"]
ClusterVerdict = Literal["healthy", "degraded", "failing", "unknown", "quarantined"]
Severity = Literal["critical", "warning", "notice"]
State = Literal["ready", "degraded", "unavailable", "unknown"]
PublicationState = Literal["current", "pending", "joining", "failed", "unknown"]
WebhooksState = Literal["none", "verified", "not_served", "other_ca", "unknown"]
WorkloadsState = Literal["alive", "no_workloads", "stopped", "never_requested", "unknown"]
PairResult = Literal["failed", "unknown", "quarantined"]
AuthorityUse = Literal["authority", "successor"]
Expiry = Literal["ok", "notice", "warning", "critical", "expired", "unknown"]


class Consequence(Problem, frozen=True, kw_only=True):
    """Something that follows from a cause, and ends with it: ``count`` of that kind, ``detail`` is of the first.

    ``remedy`` is what can be done about it while the cause lasts; empty where ending the cause is all.
    """

    severity: Severity
    count: int = 1
    clusters: list[str] = msgspec.field(default_factory=list)


class Attention(Problem, frozen=True, kw_only=True):
    """One cause that needs attention. A notice alone does not make the federation less than healthy.

    ``detail`` is the whole story; ``fact`` is its first sentence where that says enough by itself, and names the place.
    ``consequences`` follow from it and are listed nowhere else: it is as severe as the severest of them. ``clusters``
    are those that it is about; none where it is about the hub.
    """

    severity: Severity
    fact: str = ""
    clusters: list[str] = msgspec.field(default_factory=list)
    consequences: list[Consequence] = msgspec.field(default_factory=list)


class ConnectionView(Health, frozen=True, kw_only=True):
    """How the controller reaches a member cluster."""

    state: State
    since: Instant = 0.0
    version: str = ""
    clock_skew: float = 0.0


class SignerOnCluster(Health, frozen=True, kw_only=True):
    """How one signer that is live sees a member cluster."""

    state: State
    replica: str
    attestation: str = ""


class SigningView(Health, frozen=True, kw_only=True):
    """Whether workloads of a cluster get certificates, over all signers: ready takes all of them."""

    state: State
    attestation: list[str] = msgspec.field(default_factory=list)
    issuers: list[str] = msgspec.field(default_factory=list)
    issued: int = 0
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    last_issued: Instant = 0.0
    signers: list[SignerOnCluster] = msgspec.field(default_factory=list)


class CredentialView(msgspec.Struct, frozen=True, kw_only=True):
    """A role's credential for a cluster: of the signers, the one that ends first.

    ``expires`` is null where it does not end, or where that is not known. ``renews``: the role renews it itself, and
    keeps it in ``stored``, a file or a Secret and its key; ``problem`` says why the last try, at ``failed``, did not
    succeed.
    """

    role: Literal["signer", "controller"]
    issued: Instant = 0.0
    expires: Instant = 0.0
    renews: bool = False
    stored: str = ""
    renewed: Instant = 0.0
    failed: Instant = 0.0
    problem: str = ""
    remedy: str = ""


class PublicationView(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster's namespaces hold, as read back; ``current`` of them the bundle in force.

    ``joining`` of them keep a CA of the cluster's own for now; ``remedy`` says how that ends.
    """

    state: PublicationState
    detail: str = ""
    remedy: str = ""
    selected: int = 0
    current: int = 0
    pending: int = 0
    failed: int = 0
    terminating: int = 0
    forbidden: int = 0
    excluded: int = 0
    joining: int = 0
    writes: int = 0
    restored: int = 0
    generation: int = 0
    lag: float = 0.0
    read_back: Instant = 0.0
    problems: list[str] = []
    other_writers: list[str] = []


class RefusedView(msgspec.Struct, frozen=True, kw_only=True):
    """Callers that got no certificate; ``count`` and ``since`` are of those after the last one that did.

    ``reason``, ``detail`` and ``remedy`` are of the last one. ``recent``: within the last quarter of an hour;
    ``all``: and none is served.
    """

    recent: bool = False
    all: bool = False
    count: int = 0
    since: Instant = 0.0
    last: Instant = 0.0
    reason: str = ""
    detail: str = ""
    remedy: str = ""


class WorkloadsView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a cluster's workloads get certificates.

    ``workloads`` are live pods that need one of the hub's (null: not known): ``with_certificate`` hold one, of
    ``ended`` it has ended without a renewal, the others have never asked. ``sidecars`` are pods with one and ``asked``
    those of them that have got a certificate of the hub; ``never_requested`` and ``ended_pods`` name the first few
    (``namespace/pod``). ``ambient`` are pods whose node's ztunnel asks for them. ``fine`` is false where something
    keeps them from certificates, or where that is not known. ``first_end`` and ``last_end`` are when the certificates
    that are known there end without a renewal.
    """

    state: WorkloadsState = "unknown"
    fine: bool = False
    detail: str = ""
    remedy: str = ""
    until: Instant = 0.0
    workloads: int | None = None
    with_certificate: int = 0
    ended: int = 0
    ambient: int = 0
    sidecars: int | None = None
    asked: int = 0
    never_requested: list[str] = []
    ended_pods: list[str] = []
    lifetime: float = 0.0
    first_end: Instant = 0.0
    last_end: Instant = 0.0
    refused: RefusedView = RefusedView()


class WebhooksView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the webhooks of Istio that were found verify the istiods that the hub provides certificates for.

    ``detail`` names the first that does not, or says why they are not known; ``others`` counts those that call an
    istiod whose certificate is of another CA.
    """

    state: WebhooksState
    found: int = 0
    others: int = 0
    detail: str = ""


class ProofView(msgspec.Struct, frozen=True, kw_only=True):
    """The ordered pairs that a cluster is part of, as client or as server."""

    pairs: int = 0
    valid: int = 0
    failed: int = 0
    unknown: int = 0
    quarantined: int = 0
    probe_not_after: Instant = 0.0
    probe_detail: str = ""
    probe_reason: str = ""
    probe_remedy: str = ""


class JoinStepView(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a cluster that joins with a CA of its own: done where every condition is met."""

    step: str
    what: str
    done: bool
    conditions: list[Condition]


class JoiningView(msgspec.Struct, frozen=True, kw_only=True):
    """The step of a cluster that has a CA of its own: the first one that is not done, and what it waits for.

    ``until`` is when that is met at the latest, null where more than time has to pass.
    """

    step: str
    number: int
    of: int
    detail: str
    remedy: str
    until: Instant
    steps: list[JoinStepView]


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """One registered cluster, merged from the leader's and every signer's view of it.

    ``joining`` is null where it has no CA of its own, or where it is not known how it joins.
    """

    name: str
    cluster_id: str
    network: str
    health: ClusterVerdict
    summary: str
    connection: ConnectionView
    signing: SigningView
    publication: PublicationView
    proof: ProofView
    workloads: WorkloadsView = WorkloadsView()
    quarantine: QuarantineView | None = None
    cluster_trust_bundle: TrustBundleReport = TrustBundleReport(state="unknown")
    control_planes: list[ControlPlaneReport] = []
    webhooks: WebhooksView = WebhooksView(state="unknown")
    trusted_node_accounts: list[str] = []  # of ztunnel: may ask for the identities of pods on their node
    joining: JoiningView | None = None
    credentials: list[CredentialView] = []


class AnchorView(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate of the bundle with its provenance. ``days_left`` is negative once it has expired."""

    sha256: str
    subject: str
    kind: str
    origin: str
    trust_domain: str
    cluster: str
    not_before: Instant
    not_after: Instant
    days_left: float
    expiry: Expiry
    foreign_override: bool


class BundleView(msgspec.Struct, frozen=True, kw_only=True):
    """The generation of trust in force."""

    generation: int
    sha256: str
    created: Instant
    reason: str
    author: str
    trust_domain: str
    size: int
    anchors: list[AnchorView]


class GenerationView(msgspec.Struct, frozen=True, kw_only=True):
    """One change of trust; ``anchors`` are SHA-256 fingerprints."""

    number: int
    sha256: str
    created: Instant
    reason: str
    author: str
    in_force: bool
    anchors: list[str]
    evidence: dict[str, str]


class AuthorityView(Health, frozen=True, kw_only=True):
    """An intermediate that signers can sign with, and which of them have it.

    ``use`` says which table of the configuration it is: ``[signer.authority]`` or ``[signer.successor]``; ``signs``
    whether it signs at present, in some cluster at least. ``quota`` is what its back end allows all of them together
    and ``rate`` what they ask of it, in certificates per second; ``capacity`` is how many workloads that quota can
    carry at the lifetime issued recently (0: no limit known). ``refused_early`` counts requests whose turn would have
    come too late, ``uncertain`` those whose answer was lost, ``violations`` answers that were not what was asked for.
    """

    name: str
    kind: str
    use: AuthorityUse = "authority"
    signs: bool = True
    state: State
    subject: str
    sha256: str
    not_after: Instant
    days_left: float
    expiry: Expiry
    signers: list[str]
    quota: float
    rate: float
    queued: int
    refused_early: int
    capacity: int
    circuit: str
    retry_at: Instant
    uncertain: int
    violations: int
    last_violation: str
    last_violation_at: Instant
    crl_next_update: Instant
    crl_revoked: int


class SignerView(msgspec.Struct, frozen=True, kw_only=True):
    """One signer process. ``ready`` is false for one that is stale, whatever its last report said.

    ``directives`` is the state of the rotation whose directives it follows, ``follows_directives`` whether these are
    the ones given now.
    """

    replica: str
    ready: bool
    stale: bool
    reasons: list[str]
    address: str
    started: Instant
    updated: Instant
    age: float
    generation: int
    generations_behind: int
    holds_bundle_in_force: bool
    runs_current_configuration: bool
    authority: str
    successor: str = ""
    successor_state: State | None = None
    rotation: int = 0
    directives: str = ""
    follows_directives: bool = True
    serving_not_after: Instant
    issued: int
    refused: int
    listener: str = ""  # proved | refused | not_met by new connections; empty where none was tried yet
    listener_detail: str = ""
    listener_proved_at: Instant = 0.0


class ControllerView(msgspec.Struct, frozen=True, kw_only=True):
    """One controller process. ``leader`` is false for one that is stale.

    ``hub`` is the identity that is written on every object in a member cluster; the leader reports it.
    """

    replica: str
    leader: bool
    ready: bool
    stale: bool
    reasons: list[str]
    started: Instant
    updated: Instant
    age: float
    generation: int
    runs_current_configuration: bool
    sources: dict[str, str]
    hub: str = ""


class PairReason(msgspec.Struct, frozen=True, kw_only=True):
    """Why one ordered pair is not known to be valid."""

    client: str
    server: str
    result: PairResult
    reason: str


class MatrixView(msgspec.Struct, frozen=True, kw_only=True):
    """Every ordered pair of registered clusters; row: client, column: server.

    Cells: ``v`` validated, ``x`` failed, ``?`` unknown, ``q`` with a quarantined cluster, whatever was proved of
    it, ``-`` the cluster itself. With a quarantined cluster the matrix is not ``proven``. Nothing older than the
    bundle in force, nothing of a controller that is no longer seen and nothing of a cluster that is not
    read back is shown as ``v``.
    """

    proven: bool
    computed: Instant
    generation: int
    clusters: list[str]
    rows: list[str]
    pairs: int
    valid: int
    failed: int
    unknown: int
    quarantined: int = 0
    handshakes: int
    reasons: list[PairReason]
    reasons_omitted: int = 0


class FederationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer: a verdict, what needs attention, and everything that both rest on.

    ``rotation`` is null where none ever was, ``rotation_plan`` while one is under way or where no leader reports it.
    With a ``rotation_problem`` neither the rotation nor quarantines are known, which is not that there are none.
    ``member_cas`` are the accepted CAs of clusters that joined, while they are in the bundle. ``unpinned`` are
    anchors that are published although their pin is gone, ``removed_clusters`` those that are registered no more and
    whose certificates live on, ``departures`` anchors that left without a rotation, newest first. ``setbacks`` are the
    times that state was found to be set back, newest first.
    """

    verdict: Verdict
    summary: str
    generated: datetime
    trust_domain: str
    attention: list[Attention]
    clusters: list[ClusterView]
    matrix: MatrixView
    bundle: BundleView | None
    generations: list[GenerationView]
    authorities: list[AuthorityView]
    signers: list[SignerView]
    controllers: list[ControllerView]
    proposals: list[Proposal]
    rotation: RotationView | None = None
    rotation_problem: str = ""
    rotation_plan: PlanView | None = None
    directives: DirectivesView | None = None
    quarantined: list[QuarantineView] = []
    member_cas: list[MemberCaView] = []
    unpinned: list[UnpinnedView] = []
    removed_clusters: list[ClusterUntil] = []
    departures: list[Departure] = []
    setbacks: list[Setback] = []
    insecure_options: list[str]
    open_policies: list[str] = []  # clusters that may have every identity that is not reserved
    config_problems: list[str]
    certificates_issued: int
    refusals: dict[str, int]


class Clusters(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``/api/v1/clusters``; ``remaining`` come after the last one, by ``continue_token``."""

    clusters: list[ClusterView]
    continue_token: str = ""
    remaining: int = 0


class DiscoveryView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``/api/v1/discovered``: what the leading controller found when it looked for clusters.

    It is not ``enabled`` where the configuration names no source. ``updated`` is when it last looked; null: not yet.
    ``sources`` are in every answer, of ``clusters`` ``remaining`` come after the last one, by ``continue_token``.
    Nothing here is trusted, and none of it is a credential.
    """

    enabled: bool
    updated: Instant = 0.0
    sources: list[SourceReading] = []
    clusters: list[DiscoveredCluster] = []
    continue_token: str = ""
    remaining: int = 0


class GenerationsView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``/api/v1/generations``, newest first; ``remaining`` come after the last one, by ``continue_token``."""

    generations: list[GenerationView]
    continue_token: str = ""
    remaining: int = 0


class HistoryView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``/api/v1/history``: what signers did in each of the last minutes, as this process has counted it.

    It counts ``since`` its start and forgets with its end. ``first`` is when the first bucket begins and ``step`` how
    many seconds each lasts; the last one is not over yet. ``issued`` and ``refused`` are of workloads, without the
    hub's own accounts; ``ended`` is how many pods had a certificate that ended without a renewal. ``null`` stands for a
    bucket in which nothing could be read. ``refusals`` sums up the refused of all buckets by reason.
    """

    since: Instant
    first: Instant
    step: float
    issued: list[int | None]
    refused: list[int | None]
    ended: list[int | None]
    refusals: dict[str, int]


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``/healthz`` and ``/readyz``."""

    ready: bool
    reasons: list[str] = []


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 9457 (application/problem+json) has it: what a caller may know, nothing of the inside."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    remedy: str = ""
