"""What a signer writes: its report, until when its leaves may live, pods with certificates, and its pins."""

from __future__ import annotations

from typing import Final

import msgspec

from federation.core.documents.credential import NO_CREDENTIAL, CredentialReport
from federation.core.documents.trust import Proposal
from federation.core.problem import Health


class ExpiryBound(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Until when (seconds since the epoch) a leaf so delivered can be valid, at the latest."""

    cluster: str
    issuer: str  # SHA-256 of the issuer's certificate; empty where it was not known beforehand
    generation: int
    until: float


class ExpiryBoundTable(msgspec.Struct, frozen=True, kw_only=True):
    """How far the leaves of one signer reach."""

    replica: str
    rows: list[ExpiryBound] = []


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


class AuthorityReport(Health, frozen=True, kw_only=True):
    """What a signer signs with; ``reason`` is vault_sealed, forbidden, throttled, ..."""

    name: str
    kind: str
    subject: str = ""
    sha256: str = ""
    not_after: float = 0.0
    chain_pem: str = ""  # the intermediates, issuer first: public, and what the controller may publish
    proposals: list[Proposal] = msgspec.field(
        default_factory=list
    )  # roots that the back end names and are not pinned
    quota: float = 0.0  # certificates a second that the back end allows all signers together; 0: none known
    share: float = 0.0  # how much of that this signer takes
    rate: float = 0.0  # certificates a second asked of it recently by this signer
    queued: int = 0
    refused_early: int = 0  # requests that were refused because their turn would have come too late
    capacity: int = (
        0  # workloads that the whole quota can carry at the lifetime issued recently; 0: no limit known
    )
    circuit: str = ""  # closed | open | half-open; empty where the key is in this process
    retry_at: float = 0.0  # when an open circuit is tried next
    uncertain: int = 0  # requests whose answer was lost, and which may have issued
    violations: int = 0  # answers that were something other than what was asked for
    last_violation: str = ""
    last_violation_at: float = 0.0
    crl_next_update: float = 0.0
    crl_revoked: int = 0
    kept: bool = False  # configured no longer: once this signer is restarted, it has it no more


class WorkloadsReport(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"with_certificate": "holding", "never_requested": "never_asked"},
):
    """The live pods of a cluster and the certificates that all signers have issued to them, as one signer knows them.

    The first fields are those of :class:`federation.core.trust.liveness.SignsOfLife`. ``sidecars`` are pods that have
    one, ``asked`` those of them that have got a certificate of the hub. Names are ``namespace/pod``, the first few.
    """

    workloads: int | None = None
    with_certificate: int = 0
    lapsed: int = 0
    ambient: int = 0
    known_from: float = 0.0
    watched: bool = True
    detail: str = "it is not reported"
    sidecars: int | None = None
    asked: int = 0
    never_requested: list[str] = []  # pods with a sidecar that have not, and had time to
    ended: list[str] = []  # pods whose certificate has ended
    lifetime: float = 0.0  # seconds that certificates for workloads live, on average
    first_end: float = 0.0  # when the first of the certificates that are known ends; 0: none is known
    last_end: float = 0.0  # and the last


REMOVED_CLUSTER: Final = "removed_cluster"
"""The reason for which callers are refused whose cluster was registered until now."""


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


class SignerClusterReport(Health, frozen=True, kw_only=True):
    """How one signer sees one member cluster."""

    issuer: str = ""
    keys: int = 0
    attestation: str = ""  # token-keys | token-review: what a request would be checked with now
    issued: int = 0
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    last_issued: float = 0.0
    own_issued: int = 0  # of issued: to the hub's own accounts (the probe, istiod's certificate)
    own_refused: dict[str, int] = msgspec.field(default_factory=dict)  # of refused: likewise
    workload_issued_at: float = 0.0  # when another caller than those was last issued one
    refusals: RefusalsReport = RefusalsReport()  # of callers other than those, which are of the cluster
    unproven: RefusalsReport = (
        RefusalsReport()
    )  # of callers that only named it: nothing shows that they are of it
    workloads: WorkloadsReport = WorkloadsReport()
    credential: CredentialReport = NO_CREDENTIAL


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """A latency histogram: upper bounds in seconds, cumulative counts, sum in seconds."""

    bounds: list[float] = []
    counts: list[int] = []
    total: float = 0.0
    count: int = 0


class RejectedCallsReport(msgspec.Struct, frozen=True, kw_only=True, rename={"recent": "lately"}):
    """Calls or connections that ended before anyone was answerable for them, by reason.

    Since the start, and of late (ten minutes); ``addresses`` are those with most of late.
    """

    total: dict[str, int] = {}
    recent: dict[str, int] = {}
    addresses: dict[str, int] = {}


class SignerReport(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={
        "not_applied": "unfollowed",
        "directives": "orders",
        "unattributed": "unplaced",
        "rejected_calls": "turned_away",
    },
):
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
    not_applied: list[str] = []  # what the state holds by now and it does not follow, with why
    signs: str = ""  # SHA-256 of the intermediate that it signs with where no cluster is an exception
    rotation: int = 0  # whose directives it follows
    directives: str = ""  # the state of that rotation
    serving_not_after: float = 0.0
    serving_issuer: str = ""  # SHA-256 of the intermediate that issued the listener's certificate
    serving_pem: str = ""  # the chain that its listener shows, leaf first: public
    issued: int = 0
    clusters: dict[str, SignerClusterReport] = {}
    unattributed: RefusalsReport = RefusalsReport()  # callers that no registered cluster can be found for
    removed: RefusalsReport = RefusalsReport()  # callers that name a cluster which was registered until now
    shared_keys: list[SharedTokenKey] = []
    rejected_calls: RejectedCallsReport = RejectedCallsReport()
    connections_refused: RejectedCallsReport = RejectedCallsReport()
    latency: Histogram = Histogram()
    open_files: int = 0  # connections count as well; 0 where that cannot be known
    open_files_limit: int = 0  # of the process; 0 where nothing limits them
