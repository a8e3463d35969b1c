"""What a controller writes: its report with all its parts, operations, takeovers, and the hub's identity."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from federation.core.clock import Instant
from federation.core.documents.credential import NO_CREDENTIAL, CredentialReport
from federation.core.documents.trust import Proposal
from federation.core.problem import Health
from federation.core.rotation.record import Condition, Side


class Takeovers(msgspec.Struct, frozen=True, kw_only=True):
    """When the hub was first configured to issue for each cluster: leaves from before count as unknown."""

    since: dict[str, float] = {}


class Operation(msgspec.Struct, frozen=True, kw_only=True, rename={"mac": "seal"}):
    """What an operator asked for: written by the controller that was asked, decided by the one that leads."""

    id: str
    verb: str  # start | advance | abort | restore | quarantine | release | emergency | takeover | dismiss | remove
    author: str
    asked: float
    arguments: dict[str, str] = {}
    decided: float = 0.0
    outcome: str = ""  # done | refused
    detail: str = ""
    remedy: str = ""
    reason: str = ""  # of a refusal, a stable token
    mac: str = ""  # set by the controller that was asked, and again by the one that decided


class HubRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's own identity, drawn once. Where it is lost, the clusters that bear it are another hub's."""

    id: str
    created: float


class PublicationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a member cluster's namespaces really hold, as read back."""

    selected: int = 0
    current: int = 0  # hold exactly the bundle in force
    pending: int = 0
    failed: int = 0
    terminating: int = 0
    forbidden: int = 0
    excluded: int = 0
    writes: int = 0
    restored: int = 0  # put back after an edit or a deletion
    generation: int = 0  # the newest generation that every selected namespace holds; 0: none
    lag: float = 0.0  # seconds from that generation's creation until the last namespace had it
    read_back: float = 0.0  # when the cluster was last seen
    joining: int = 0  # pending ones that keep a CA of their own until it is accepted
    problems: list[str] = []  # bounded: the first few, in words
    contents: dict[str, int] = {}  # SHA-256 of the content -> number of namespaces
    other_writers: list[str] = []  # field managers, other than ours, that write the same key
    contested: list[str] = []  # namespaces, the first few, that others keep changing
    rival: str = ""  # the identity of another hub that wrote over this one's objects


ControlPlaneState = Literal["provided", "waiting", "foreign", "forbidden", "failed", "unknown", "off"]
TrustBundleState = Literal["current", "pending", "contested", "forbidden", "unknown", "not_served", "off"]

# A report of another version may hold a state that this one does not know: the documents take any, status shows these.
_ControlPlaneState = Annotated[
    str, msgspec.Meta(extra_json_schema={"enum": sorted(get_args(ControlPlaneState))})
]
_TrustBundleState = Annotated[
    str, msgspec.Meta(extra_json_schema={"enum": sorted(get_args(TrustBundleState))})
]


class ControlPlaneReport(msgspec.Struct, frozen=True, kw_only=True):
    """istiod's certificate in one namespace, as its Secret was read back. ``issuer`` is a SHA-256."""

    namespace: str
    secret: str
    state: _ControlPlaneState
    detail: str = ""
    remedy: str = ""
    attention: bool = False  # an operator has to act
    names: list[str] = []
    issuer: str = ""
    not_after: Instant = 0.0
    renew_at: Instant = 0.0
    current: bool = False  # its ca.crt is the bundle meant for the cluster, to the byte
    read_back: Instant = 0.0  # 0 while it is not
    restored: int = 0  # put back after an edit or a deletion
    contested: bool = False  # others keep changing it
    writers: list[str] = []  # of them


class WebhookReport(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook configuration that calls an istiod. ``anchors`` (SHA-256) are what its caBundles trust."""

    name: str  # kind/name
    istiod: str  # namespace/service, or https://HOST of one in another cluster
    revision: str = ""
    state: str = ""  # verifies | empty | other_ca | not_provided: whether it verifies what the hub provides
    anchors: list[str] = []


class TrustBundleReport(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a member cluster's ClusterTrustBundle, as read back."""

    state: _TrustBundleState = ""  # empty: not reported
    counted: bool = False  # the gates of a rotation count it: it is there, or was
    name: str = ""
    version: str = ""  # of the API, as the cluster serves it
    detail: str = ""
    remedy: str = ""
    writes: int = 0
    restored: int = 0  # put back after an edit or a deletion


class ControllerClusterReport(Health, frozen=True, kw_only=True):
    """How the controller sees one member cluster; ``reason`` is unreachable, timeout, forbidden, garbage, ..."""

    since: float = 0.0
    version: str = ""
    clock_skew: float = 0.0
    publication: PublicationReport = PublicationReport()
    probe_not_after: float = 0.0
    probe_detail: str = ""  # why there is no probe leaf
    probe_reason: str = ""
    probe_remedy: str = ""
    probe_chain: list[str] = msgspec.field(default_factory=list)  # fingerprints, leaf first
    trust_bundle: TrustBundleReport = TrustBundleReport()
    control_planes: list[ControlPlaneReport] = msgspec.field(default_factory=list)
    webhooks: list[WebhookReport] = msgspec.field(default_factory=list)
    webhooks_detail: str = ""  # why Istio's webhooks are not known
    credential: CredentialReport = NO_CREDENTIAL


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """Every ordered pair of clusters. Row: client, column: server; v valid, x failed, ? unknown, - itself."""

    computed: float = 0.0
    clusters: list[str] = []
    rows: list[str] = []
    reasons: dict[str, str] = {}  # "client>server" -> why it is not valid, in words
    pairs: int = 0
    valid: int = 0
    handshakes: int = 0  # really computed; equal cases once


class Dependent(msgspec.Struct, frozen=True, kw_only=True):
    """What holds trust in a cluster besides its workloads and namespaces, and which anchors (SHA-256), as found.

    ``obstacle`` is the condition of a rotation that it does not meet as it is, with the reason.
    """

    cluster: str
    what: str
    detail: str
    anchors: list[str] = []
    obstacle: str = ""


class PlanReport(msgspec.Struct, frozen=True, kw_only=True, rename={"dependents": "holders"}):
    """What a start would do now. A side that cannot be determined is None; ``problem`` says why a start is refused.

    ``conditions`` are those of the first gate. ``longest_leaf`` is for how many seconds a leaf that is out may
    have to be reckoned with; ``rate`` and ``quota`` are certificates per second, 0 for no limit known.
    """

    old: Side | None = None
    new: Side | None = None
    problem: str = ""
    remedy: str = ""
    canary: list[str] = []
    waves: list[list[str]] = []
    automatic: bool = True
    soak: float = 0.0
    longest_leaf: float = 0.0
    rate: float = 0.0
    quota: float = 0.0
    conditions: list[Condition] = []
    dependents: list[Dependent] = []


class LossReport(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that fails if a side is left now: in which clusters, and until when (0: that cannot be determined).

    With ``at_removal`` it begins when that side's root is removed, else as soon as the other side signs.
    """

    side: str  # old | new: the one that is left; empty: an anchor whose pin is gone
    what: str
    at_removal: bool
    clusters: dict[str, float] = {}


class JoinStepReport(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a cluster that joins: done where every condition is met."""

    step: str  # accept | serve | renew | control_plane | move | switch_off | takeover | drop
    done: bool
    conditions: list[Condition] = []


class UnpinnedReport(msgspec.Struct, frozen=True, kw_only=True):
    """An anchor that is published although its pin is gone: what it waits for, and what fails without it.

    ``clusters`` are those whose own CA it was. ``opens_at`` is when it leaves at the earliest; 0: that cannot be
    determined.
    """

    since: float
    subject: str = ""
    clusters: list[str] = []
    opens_at: float = 0.0
    conditions: list[Condition] = []
    losses: list[LossReport] = []


class RotationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The gate out of the state that the rotation is in, as the leader sees it now.

    ``returning`` is what clusters that are to leave their quarantine wait for, ``dropping`` what each accepted
    CA of a cluster's own (SHA-256) waits for before it leaves the bundle. ``undeclared`` names the clusters where
    another CA counts as issuing still, until a person says otherwise. ``losses`` is given while a rotation is
    under way, ``plan`` while none is. ``joining`` are the steps of each cluster that has a CA of its own. ``unpinned``
    are anchors (SHA-256) that are published although their pin is gone, ``removed`` clusters that are registered no
    more with the end of the certificates that live on there. ``unsettled`` is why it is not recorded which authority
    is in force; empty where it is, or none signs yet. ``names_gone`` are names that the listener had, with when each
    was taken away.
    """

    computed: float = 0.0
    number: int = 0
    state: str = ""
    open: bool = False
    opens_at: float = 0.0
    conditions: list[Condition] = []
    returning: dict[str, list[Condition]] = {}
    dropping: dict[str, list[Condition]] = {}
    undeclared: list[str] = []
    joining: dict[str, list[JoinStepReport]] = {}
    unpinned: dict[str, UnpinnedReport] = {}
    removed: dict[str, float] = {}
    losses: list[LossReport] = []
    plan: PlanReport | None = None
    unsettled: str = ""
    names_gone: dict[str, float] = {}
    problem: str = ""  # why the rotation cannot be worked on at all


class SignerListenerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What new connections to the listener of one signer met. ``since`` it shows the certificate with that SHA-256.

    ``proved_at`` is when it was last accepted, by the anchors of ``generation``.
    """

    replica: str
    sha256: str = ""
    since: float = 0.0
    state: str = ""  # proved | refused | not_met; empty: not tried yet
    detail: str = ""
    proved_at: float = 0.0
    generation: int = 0


class ListenerReport(msgspec.Struct, frozen=True, kw_only=True):
    """The last round of new connections to the signers' listener, and how many it took."""

    computed: float = 0.0
    connections: int = 0
    signers: list[SignerListenerReport] = []


class ControllerReport(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"proposals_stored": "proposals_kept", "listener": "door"},
):
    """One controller process."""

    replica: str
    started: float
    updated: float
    heartbeat: float
    leader: bool
    ready: bool
    reasons: list[str] = []
    config_digest: str = ""
    config_problems: list[str] = []
    warnings: list[str] = []
    generation: int = 0
    sources: dict[str, str] = {}  # source -> "ok" or why its last known good is used
    clusters: dict[str, ControllerClusterReport] = {}
    matrix: Matrix = Matrix()
    proposals: list[Proposal] = []
    hub: str = ""  # this hub's identity
    dismissed: list[str] = []  # SHA-256 of roots that back ends name and an operator has dismissed
    proposals_stored: bool = (
        False  # each is in a document of its own as well: what this report says is a copy
    )
    proposals_problems: list[str] = []  # why what was found may not be all, or may not survive a restart
    write_refusals: int = 0
    rotation: RotationReport = RotationReport()
    listener: ListenerReport = ListenerReport()
    open_files: int = 0  # connections count as well; 0 where that cannot be known
    open_files_limit: int = 0  # of the process; 0 where nothing limits them
