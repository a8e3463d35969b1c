"""What the roles tell each other, as typed documents. One writer each; readers tolerate unknown fields.

===========================  ==================  =====================================================================
key                          written by          holds
===========================  ==================  =====================================================================
``generations/<number>``     controller leader   one generation of trust, never changed once written
``current``                  controller leader   number and digest of the generation in force
``controllers/<replica>``    that controller     what it sees: clusters, publication, proof, proposals
``signers/<replica>``        that signer         what it uses and how it fares
``horizons/<replica>``       that signer         how far its leaves reach, written ahead of issuing
``callers/<replica>``        that signer         which pods it has issued certificates to
``pins/<replica>``           that signer         which anchors in force its own configuration pins, or pinned
``rotation``                 controller leader   the rotation under way or the last one, and quarantines
``orders``                   controller leader   what signers are to sign with, and where they are to stop
``takeovers``                controller leader   since when the hub has issued for each cluster
``operations/<id>``          any controller      what an operator asked for, and what became of it
``hub``                      controller leader   this hub's identity, drawn once
``proposals/<cluster>``      controller leader   anchors found in that cluster, open and dismissed
``proposals/_authorities``   controller leader   likewise, of roots that a back end has named
===========================  ==================  =====================================================================

What processes that are gone have left is removed by the controller that leads, once nothing depends on it.
Times are seconds since the epoch (UTC) as floats, so that documents compare without parsing.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from federation.state.damage import StateDamaged, remedy_for

Document = TypeVar("Document", bound=msgspec.Struct)


class AnchorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate of a bundle, with where it came from."""

    sha256: str
    subject: str
    kind: str  # root | intermediate | accepted
    origin: str
    trust_domain: str
    cluster: str = ""
    not_before: float
    not_after: float
    foreign_override: bool = False
    odd: str = ""  # what is odd about it, which keeps no verifier from trusting it
    refused: str = ""  # why verifiers do not trust what is signed below it


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A change of trust: strictly increasing number, reason, author, time, content."""

    number: int
    created: float
    reason: str
    author: str
    trust_domain: str
    sha256: str  # of bundle_pem
    bundle_pem: str
    anchors: list[AnchorRecord]
    evidence: dict[str, str] = {}


class Current(msgspec.Struct, frozen=True, kw_only=True):
    """Which generation is in force. Clusters in ``behind`` still get the older one named there."""

    number: int
    sha256: str
    behind: dict[str, int] = {}

    def number_for(self, cluster: str) -> int:
        """The generation that this cluster is to hold and to be given."""
        return self.behind.get(cluster, self.number)


class HorizonRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Until when (seconds since the epoch) a leaf so delivered can be valid, at the latest."""

    cluster: str
    issuer: str  # SHA-256 of the issuer's certificate; empty where it was not known beforehand
    generation: int
    until: float


class HorizonTable(msgspec.Struct, frozen=True, kw_only=True):
    """How far the leaves of one signer reach."""

    replica: str
    rows: list[HorizonRow] = []


class CallersOfCluster(msgspec.Struct, frozen=True, kw_only=True):
    """The pods of one cluster that got certificates: digests of their UIDs and until when those are valid, packed.

    Before ``known_from`` (seconds since the epoch) pods may hold certificates that are not among these.
    """

    pods: bytes = b""  # 5 bytes each, ascending
    ends: bytes = b""  # 4 bytes each: seconds since the epoch, in the order of ``pods``
    known_from: float = 0.0


class KeyClaim(msgspec.Struct, frozen=True, kw_only=True):
    """That a member publishes a token key; ``proved`` where a token of the hub's own account there was signed by it."""

    key: str  # SHA-256 of its SubjectPublicKeyInfo, hex
    first: float
    seen: float
    proved: bool = False


class SharedTokenKey(msgspec.Struct, frozen=True, kw_only=True):
    """A token key that several members publish; ``holder`` is the one it belongs to, empty where that is not known."""

    key: str  # SHA-256 of its SubjectPublicKeyInfo, hex
    clusters: list[str]
    holder: str = ""
    proved: bool = False


class CallersTable(msgspec.Struct, frozen=True, kw_only=True):
    """What one signer knows of callers: which pods it has issued to, and whose the keys of tokens are.

    ``closed`` by one that ended: nothing came after it.
    """

    replica: str
    closed: bool = False
    clusters: dict[str, CallersOfCluster] = {}
    keys: dict[str, list[KeyClaim]] = {}


class PinsTable(msgspec.Struct, frozen=True, kw_only=True):
    """The anchors (SHA-256) of the bundles in force that one signer's own configuration pins, or pinned once."""

    replica: str
    anchors: list[str] = []


class Takeovers(msgspec.Struct, frozen=True, kw_only=True):
    """When the hub was first configured to issue for each cluster: leaves from before count as unknown."""

    since: dict[str, float] = {}


class Operation(msgspec.Struct, frozen=True, kw_only=True):
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
    seal: str = ""  # set by the controller that was asked, and again by the one that decided


class HubRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's own identity, drawn once. Where it is lost, the clusters that bear it are another hub's."""

    id: str
    created: float


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """An anchor that was found but is not pinned; only a person can accept it. ``cluster`` is empty for a CA's own."""

    sha256: str
    subject: str
    cluster: str
    origin: str
    not_after: float
    first_seen: float = 0.0
    pem: str = ""  # the certificate itself, for whoever accepts it
    places: list[str] = []  # namespaces that it was seen in, the first few; "" for what is in none


class Dismissal(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's word that an anchor which was found needs no attention. It ends when it is not held any more."""

    sha256: str
    author: str
    at: float
    reason: str = ""
    operation: str = ""  # the id of the one that dismissed it


class FoundAnchors(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one cluster, or named by back ends, and is not pinned.

    ``crowded``: more was found than is kept, and has no place until some of this is answered.
    """

    found: list[Proposal] = []
    dismissed: list[Dismissal] = []
    crowded: bool = False


class AuthorityReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a signer signs with."""

    name: str
    kind: str
    state: str  # ready | degraded | unavailable
    subject: str = ""
    sha256: str = ""
    not_after: float = 0.0
    reason: str = (
        ""  # a stable token where the state is not ready: vault_sealed | forbidden | throttled | ...
    )
    detail: str = ""
    remedy: str = ""
    chain_pem: str = ""  # the intermediates, issuer first: public, and what the controller may publish
    proposals: list[Proposal] = []  # roots that the back end names and nobody has pinned
    quota: float = 0.0  # certificates a second that the back end allows all signers together; 0: none known
    share: float = 0.0  # how much of that this signer takes
    rate: float = 0.0  # certificates a second asked of it lately by this signer
    queued: int = 0
    refused_early: int = 0  # requests that were refused because their turn would have come too late
    capacity: int = (
        0  # workloads that the whole quota can carry at the lifetime issued lately; 0: no limit known
    )
    circuit: str = ""  # closed | open | half-open; empty where the key is held here
    retry_at: float = 0.0  # when an open circuit is tried next
    uncertain: int = 0  # requests whose answer was lost, and which may have issued
    violations: int = 0  # answers that were something other than what was asked for
    last_violation: str = ""
    last_violation_at: float = 0.0
    crl_next_update: float = 0.0
    crl_revoked: int = 0
    kept: bool = False  # configured no longer: once this signer is restarted, it has it no more


class WorkloadsReport(msgspec.Struct, frozen=True, kw_only=True):
    """The live pods of a cluster and the certificates that all signers have issued to them, as one signer knows them.

    The first fields are those of :class:`federation.core.trust.life.SignsOfLife`. ``sidecars`` are pods that have
    one, ``asked`` those of them that have got a certificate of the hub. Names are ``namespace/pod``, the first few.
    """

    workloads: int | None = None
    holding: int = 0
    lapsed: int = 0
    ambient: int = 0
    known_from: float = 0.0
    watched: bool = True
    detail: str = "it is not reported"
    sidecars: int | None = None
    asked: int = 0
    never_asked: list[str] = []  # pods with a sidecar that have not, and had time to
    ended: list[str] = []  # pods whose certificate has ended
    lifetime: float = 0.0  # seconds that certificates for workloads live, on average
    first_end: float = 0.0  # when the first of the certificates that are known ends; 0: none is known
    last_end: float = 0.0  # and the last


class RefusalsReport(msgspec.Struct, frozen=True, kw_only=True):
    """Callers that got no certificate. ``count`` and ``since`` are of those after the last one that did.

    ``reason``, ``detail`` and ``remedy`` are of the ``last`` one. Times are 0 where there was none.
    """

    count: int = 0
    since: float = 0.0
    last: float = 0.0
    reason: str = ""
    detail: str = ""
    remedy: str = ""


class SignerClusterReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one signer sees one member cluster."""

    state: str  # ready | degraded | unavailable, with the reason below
    reason: str = ""
    detail: str = ""
    remedy: str = ""
    issuer: str = ""
    keys: int = 0
    attestation: str = ""  # token-keys | token-review: what a request would be checked with now
    issued: int = 0
    refused: dict[str, int] = {}
    last_issued: float = 0.0
    own_issued: int = 0  # of issued: to the hub's own accounts (the probe, istiod's certificate)
    own_refused: dict[str, int] = {}  # of refused: likewise
    workload_issued_at: float = 0.0  # when another caller than those was last issued one
    refusals: RefusalsReport = RefusalsReport()  # of callers other than those, which are of the cluster
    unproven: RefusalsReport = (
        RefusalsReport()
    )  # of callers that only named it: nothing shows that they are of it
    workloads: WorkloadsReport = WorkloadsReport()


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """A latency histogram: upper bounds in seconds, cumulative counts, sum in seconds."""

    bounds: list[float] = []
    counts: list[int] = []
    total: float = 0.0
    count: int = 0


class TurnedAwayReport(msgspec.Struct, frozen=True, kw_only=True):
    """Calls or connections that ended before anyone was answerable for them, by reason.

    Since the start, and of late (ten minutes); ``addresses`` are those with most of late.
    """

    total: dict[str, int] = {}
    lately: dict[str, int] = {}
    addresses: dict[str, int] = {}


class SignerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One signer process, written every few seconds; older than ``heartbeat`` times three means it is gone."""

    replica: str
    started: float
    updated: float
    heartbeat: float
    ready: bool
    reasons: list[str] = []
    address: str = ""
    config_digest: str = ""
    config_problems: list[str] = []
    warnings: list[str] = []
    generation: int = 0
    bundle_sha256: str = ""
    authority: AuthorityReport | None = None
    successor: AuthorityReport | None = None
    unfollowed: list[str] = []  # what the state holds by now and it does not follow, with why
    signs: str = ""  # SHA-256 of the intermediate that it signs with where no cluster is an exception
    rotation: int = 0  # whose orders it follows
    orders: str = ""  # the state of that rotation
    serving_not_after: float = 0.0
    serving_issuer: str = ""  # SHA-256 of the intermediate that issued the door's certificate
    serving_pem: str = ""  # the chain that its door shows, leaf first: public
    issued: int = 0
    clusters: dict[str, SignerClusterReport] = {}
    unplaced: RefusalsReport = RefusalsReport()  # callers that no registered cluster can be found for
    shared_keys: list[SharedTokenKey] = []
    turned_away: TurnedAwayReport = TurnedAwayReport()
    connections_refused: TurnedAwayReport = TurnedAwayReport()
    latency: Histogram = Histogram()


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
    restored: int = 0  # put back after somebody's edit or deletion
    generation: int = 0  # the newest generation that every selected namespace holds; 0: none
    lag: float = 0.0  # seconds from that generation's creation until the last namespace held it
    read_back: float = 0.0  # when the cluster was last heard of
    joining: int = 0  # pending ones that keep a CA of their own until it is accepted
    problems: list[str] = []  # bounded: the first few, in words
    contents: dict[str, int] = {}  # SHA-256 of what is held -> number of namespaces
    other_writers: list[str] = []  # field managers, other than ours, that write the same key
    contested: list[str] = []  # namespaces, the first few, that others keep changing
    rival: str = ""  # the identity of another hub that wrote over this one's objects


class ControlPlaneReport(msgspec.Struct, frozen=True, kw_only=True):
    """istiod's certificate in one namespace, as its Secret was read back. ``issuer`` is a SHA-256."""

    namespace: str
    secret: str
    state: str  # provided | waiting | foreign | forbidden | failed | off
    detail: str = ""
    remedy: str = ""
    attention: bool = False  # an operator has to act
    names: list[str] = []
    issuer: str = ""
    not_after: float = 0.0
    renew_at: float = 0.0
    current: bool = False  # its ca.crt is the bundle meant for the cluster, to the byte
    read_back: float = 0.0  # 0 while it is not
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

    state: str = (
        ""  # off | not_served | forbidden | pending | current | contested | unknown; empty: not reported
    )
    counted: bool = False  # the gates of a rotation count it: it is there, or was
    name: str = ""
    version: str = ""  # of the API, as the cluster serves it
    detail: str = ""
    remedy: str = ""
    writes: int = 0
    restored: int = 0  # put back after an edit or a deletion


class ControllerClusterReport(msgspec.Struct, frozen=True, kw_only=True):
    """How the controller sees one member cluster."""

    state: str  # ready | degraded | unavailable
    reason: str = ""  # unreachable | timeout | forbidden | garbage | ...
    detail: str = ""
    remedy: str = ""
    since: float = 0.0
    version: str = ""
    clock_skew: float = 0.0
    publication: PublicationReport = PublicationReport()
    probe_not_after: float = 0.0
    probe_detail: str = ""  # why there is no probe leaf
    probe_reason: str = ""
    probe_remedy: str = ""
    probe_chain: list[str] = []  # fingerprints, leaf first
    trust_bundle: TrustBundleReport = TrustBundleReport()
    control_planes: list[ControlPlaneReport] = []
    webhooks: list[WebhookReport] = []
    webhooks_detail: str = ""  # why Istio's webhooks are not known


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """Every ordered pair of clusters. Row: client, column: server; v valid, x failed, ? unknown, - itself."""

    computed: float = 0.0
    clusters: list[str] = []
    rows: list[str] = []
    reasons: dict[str, str] = {}  # "client>server" -> why it is not valid, in words
    pairs: int = 0
    valid: int = 0
    handshakes: int = 0  # really computed; equal cases once


class ConditionReport(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of the gate that a rotation stands before. ``until``: when it is met at the earliest."""

    name: str
    met: bool
    detail: str
    cluster: str = ""
    until: float = 0.0


class SideReport(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a rotation that could be started: SHA-256 of its certificates, and their subjects."""

    root: str
    intermediate: str
    subject: str = ""
    root_subject: str = ""


class HolderReport(msgspec.Struct, frozen=True, kw_only=True):
    """What holds trust in a cluster besides its workloads and namespaces, and which anchors (SHA-256), as found.

    ``obstacle`` is the condition of a rotation that it does not meet as it is, with the reason.
    """

    cluster: str
    what: str
    detail: str
    anchors: list[str] = []
    obstacle: str = ""


class PlanReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a start would do now. A side that cannot be told is None; ``problem`` says why a start is refused.

    ``conditions`` are those of the first gate. ``longest_leaf`` is for how many seconds a leaf that is out may
    have to be reckoned with; ``rate`` and ``quota`` are certificates per second, 0 for no limit known.
    """

    old: SideReport | None = None
    new: SideReport | None = None
    problem: str = ""
    remedy: str = ""
    canary: list[str] = []
    waves: list[list[str]] = []
    automatic: bool = True
    soak: float = 0.0
    longest_leaf: float = 0.0
    rate: float = 0.0
    quota: float = 0.0
    conditions: list[ConditionReport] = []
    holders: list[HolderReport] = []


class LossReport(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that fails if a side is left now: in which clusters, and until when (0: that cannot be told).

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
    conditions: list[ConditionReport] = []


class UnpinnedReport(msgspec.Struct, frozen=True, kw_only=True):
    """An anchor that is published although its pin is gone: what it waits for, and what fails without it.

    ``clusters`` are those whose own CA it was. ``opens_at`` is when it leaves at the earliest; 0: that cannot be told.
    """

    since: float
    subject: str = ""
    clusters: list[str] = []
    opens_at: float = 0.0
    conditions: list[ConditionReport] = []
    losses: list[LossReport] = []


class RotationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The gate that the rotation under way stands before, as the leader sees it now.

    ``returning`` is what clusters that are to leave their quarantine wait for, ``dropping`` what each accepted
    CA of a cluster's own (SHA-256) waits for before it leaves the bundle. ``undeclared`` names the clusters where
    another CA counts as issuing still, until a person says otherwise. ``losses`` is told while a rotation is
    under way, ``plan`` while none is. ``joining`` are the steps of each cluster that has a CA of its own. ``unpinned``
    are anchors (SHA-256) that are published although their pin is gone, ``removed`` clusters that are registered no
    more with the end of the certificates that live on there. ``unsettled`` is why it is not recorded which authority
    is in force; empty where it is, or none signs yet. ``names_gone`` are names that the door had, with when each was
    taken away.
    """

    computed: float = 0.0
    number: int = 0
    state: str = ""
    open: bool = False
    opens_at: float = 0.0
    conditions: list[ConditionReport] = []
    returning: dict[str, list[ConditionReport]] = {}
    dropping: dict[str, list[ConditionReport]] = {}
    undeclared: list[str] = []
    joining: dict[str, list[JoinStepReport]] = {}
    unpinned: dict[str, UnpinnedReport] = {}
    removed: dict[str, float] = {}
    losses: list[LossReport] = []
    plan: PlanReport | None = None
    unsettled: str = ""
    names_gone: dict[str, float] = {}
    problem: str = ""  # why the rotation cannot be worked on at all


class SignerDoorReport(msgspec.Struct, frozen=True, kw_only=True):
    """What new connections to the door of one signer met. ``since`` it shows the certificate with that SHA-256.

    ``proved_at`` is when it was last accepted, by the anchors of ``generation``.
    """

    replica: str
    sha256: str = ""
    since: float = 0.0
    state: str = ""  # proved | refused | not_met; empty: not tried yet
    detail: str = ""
    proved_at: float = 0.0
    generation: int = 0


class DoorReport(msgspec.Struct, frozen=True, kw_only=True):
    """The last round of new connections to the signers' door, and how many it took."""

    computed: float = 0.0
    connections: int = 0
    signers: list[SignerDoorReport] = []


class ControllerReport(msgspec.Struct, frozen=True, kw_only=True):
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
    proposals_kept: bool = False  # each is in a document of its own as well: what this report says is a copy
    proposals_problems: list[str] = []  # why what was found may not be all, or may not survive a restart
    write_refusals: int = 0
    rotation: RotationReport = RotationReport()
    door: DoorReport = DoorReport()


def encode(document: msgspec.Struct) -> bytes:
    """The document as JSON bytes."""
    return msgspec.json.encode(document)


def decode(data: bytes, kind: type[Document], *, key: str) -> Document:
    """The document of that kind; raises StateDamaged naming the key where the bytes are not one."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:  # the decoder raises all three
        raise StateDamaged(
            f"the document is not a {kind.__name__}: {error}", where=key, remedy=remedy_for(key)
        ) from error


def generation_key(number: int) -> str:
    """The key of a generation; zero-padded so that keys sort as numbers do."""
    return f"generations/{number:012d}"
