"""One tree of errors; each knows what happened, where, and what the operator should do about it.

::

    FederationError
    ├── ConfigurationError        what an operator wrote cannot be used (all findings at once)
    │   └── OutOfFiles            it could not be read, because this process may open no more files
    ├── InvalidValue              a value that cannot exist: identity, fingerprint, PEM, certificate
    ├── Refused                   the caller is at fault; asking again will not help
    │   ├── AttestationRefused    the caller did not prove who it is
    │   ├── RequestRefused        the CSR holds what a workload may not ask for
    │   └── PolicyRefused         proven, but not allowed by its cluster's policy
    ├── Unavailable               nothing is wrong with the request; a retry may help
    │   ├── Overloaded            a queue or quota of ours is full
    │   ├── NotReady              no bundle, no valid authority, shutting down
    │   ├── StateUnavailable      the state store cannot be read or written
    │   ├── AuthorityUnavailable  the back end that signs is down, sealed, on standby
    │   │   ├── AuthorityThrottled    it asks for fewer requests, with the time to wait
    │   │   └── AuthorityUncertain    it may have issued, but its answer did not arrive
    │   └── ClusterError          a member cluster did not answer as it should
    │       ├── ClusterUnreachable    no connection, DNS, TLS
    │       ├── ClusterTimeout        connected, no answer in time
    │       ├── ClusterWithheld       nothing was sent: this process may not write any more
    │       ├── ClusterUnauthorized   401: our credentials are not accepted
    │       ├── ClusterForbidden      403: the cluster's authorizer (RBAC) does not grant the verb
    │       ├── ClusterDenied         403: granted, but its admission refuses this object: a quota, a policy, a webhook
    │       ├── ClusterNotFound       404
    │       ├── ClusterConflict       409: another writer owns the field or wrote first
    │       ├── ClusterGone           410: a resourceVersion or continue token is too old
    │       ├── ClusterInvalid        other 4xx: the request itself is refused
    │       ├── ClusterThrottled      429, with the server's Retry-After
    │       ├── ClusterServerError    5xx
    │       └── ClusterGarbage        an answer that is not what the API promises
    │           └── ClusterOverBudget     more of it than one cluster may send
    └── AuthorityError            the authority cannot be used until an operator corrects it
        ├── AuthorityMisconfigured    key, chain, role or permission is wrong
        ├── AuthorityRefused          it refuses this one request: its own rules are narrower than the policy
        └── AuthorityViolation        it returned something other than what was requested: an alarm

A caller outside never sees the text of any of these: the listener maps a *class* to a status code and one fixed
sentence. The text goes to the log and to status, so it may name files, clusters and namespaces, never a token or a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Self


class FederationError(Exception):
    """Base of everything the hub raises on purpose.

    ``reason`` is a short stable token in snake_case: the label of metrics and the key of status texts.
    """

    default_reason: ClassVar[str] = "error"
    default_remedy: ClassVar[str] = ""

    def __init__(self, what: str, *, where: str = "", remedy: str = "", reason: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy or self.default_remedy
        self.reason = reason or self.default_reason

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what

    def diagnostics(self) -> str:
        """The whole story for a person: what happened, where, and what to do."""
        return f"{self} ({self.remedy})" if self.remedy else str(self)

    def without_frames(self) -> Self:
        """The same error, to be remembered, or to be raised again after it was.

        A traceback holds each frame that it went through, with all that is in it: a token, a request, and the error
        that was remembered before. So each error would keep the last one, and that its own, for as long as the trouble
        lasts; and a remembered error that is raised again would get longer each time.
        """
        same = type(self).__new__(type(self))
        same.args = self.args
        same.__dict__.update(self.__dict__)
        return same


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in something an operator wrote: where it is, what is wrong and how to correct it."""

    file: str
    key: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.key}" if self.key else self.file
        return f"{place}: {self.problem}. {self.remedy}" if self.remedy else f"{place}: {self.problem}."


class ConfigurationError(FederationError):
    """What an operator wrote cannot be used; carries every finding, not just the first."""

    default_reason = "configuration"

    def __init__(self, findings: Iterable[Mistake]) -> None:
        self.findings = tuple(findings)
        first = str(self.findings[0]) if self.findings else "configuration refused"
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        super().__init__(first + more, remedy="correct every finding, then reload")

    def diagnostics(self) -> str:
        """Every finding on a line of its own."""
        return "\n".join(str(finding) for finding in self.findings)


OPEN_FILES: Final = "open_files"
"""The reason of an error that the process may open no more files: nothing is wrong with what it wanted to open."""

MORE_FILES: Final = (
    "raise the limit of open files of the hub's processes: LimitNOFILE= of a systemd unit, the nofile ulimit of a "
    "container, `ulimit -Hn` of a shell; each takes what the hard limit allows once it is restarted"
)


class OutOfFiles(ConfigurationError):
    """What is configured could not be opened, because this process may open no more files."""

    default_reason = OPEN_FILES

    def __init__(self, file: str, key: str, why: str) -> None:
        super().__init__([Mistake(file, key, f"this process may open no more files ({why})", MORE_FILES)])
        self.remedy = MORE_FILES


class InvalidValue(FederationError):
    """A value that cannot exist: raised by constructors and parsers of the core."""

    default_reason = "invalid_value"


class Refused(FederationError):
    """The caller is at fault; the same request will be refused again."""

    default_reason = "refused"


class AttestationRefused(Refused):
    """The caller did not prove who it is."""

    default_reason = "attestation"


class RequestRefused(Refused):
    """The certificate request holds what a workload may not ask for."""

    default_reason = "request"


class PolicyRefused(Refused):
    """The caller is who it says, but its cluster's policy does not allow what it asks for."""

    default_reason = "policy"


class Unavailable(FederationError):
    """Nothing is wrong with the request; asking again may help."""

    default_reason = "unavailable"


class Overloaded(Unavailable):
    """A queue or a quota of the hub's own is full."""

    default_reason = "overloaded"


class NotReady(Unavailable):
    """The role cannot serve yet or any more: no bundle, no valid authority, draining."""

    default_reason = "not_ready"


class StateUnavailable(Unavailable):
    """The state store cannot be read or written. What needs it stops; nothing is guessed."""

    default_reason = "state_unavailable"


class AuthorityUnavailable(Unavailable):
    """The back end that signs is down, sealed, on standby or throttled."""

    default_reason = "authority_unavailable"


class AuthorityThrottled(AuthorityUnavailable):
    """The back end asks for fewer requests; ``retry_after`` is in seconds, 0 where it does not say."""

    default_reason = "throttled"
    default_remedy = "lower signer.authority.quota to what the back end allows, or have its limit raised"

    def __init__(
        self, what: str, *, where: str = "", remedy: str = "", reason: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(what, where=where, remedy=remedy, reason=reason)
        self.retry_after = retry_after


class AuthorityUncertain(AuthorityUnavailable):
    """The request reached the back end and the answer did not come: it may have issued, and counts as if it had."""

    default_reason = "outcome_unknown"
    default_remedy = "check the load of the back end and the network path to it; the hub tries again"


class ClusterError(Unavailable):
    """A member cluster did not answer as it should; ``where`` is the cluster's name."""

    default_reason = "cluster_error"


class ClusterUnreachable(ClusterError):
    """No connection: DNS, TCP, TLS or proxy."""

    default_reason = "unreachable"
    default_remedy = (
        "check the server address, proxy-url, certificate-authority and network path of its kubeconfig"
    )


class ClusterTimeout(ClusterError):
    """The connection is open, the answer did not come in time."""

    default_reason = "timeout"
    default_remedy = "check the load of its API server and the way to it, or raise [clusters.timeouts] for it"


class ClusterWithheld(ClusterError):
    """A write was not sent, or not to its end: this process does not lead any more. The cluster may be well."""

    default_reason = "leadership_lost"
    default_remedy = "nothing: the controller that leads by now writes it"


class ClusterUnauthorized(ClusterError):
    """401: the credentials of the kubeconfig are not accepted."""

    default_reason = "unauthorized"
    default_remedy = (
        "renew the credentials that are configured for it: those of its kubeconfig, or the pod's own"
    )


class ClusterForbidden(ClusterError):
    """403: the cluster's authorizer does not grant what the role needs."""

    default_reason = "forbidden"
    default_remedy = (
        "apply manifests/member to that cluster; `federation clusters check` names the missing verb"
    )


class ClusterDenied(ClusterError):
    """Admission: the verb is granted, this object is refused by a quota, a policy or a webhook there."""

    default_reason = "denied"
    default_remedy = (
        "read what the API server answered: something in that cluster refuses this object, not the right"
    )


class ClusterNotFound(ClusterError):
    """404: the object, or the API, is not there."""

    default_reason = "not_found"


class ClusterConflict(ClusterError):
    """409: another writer owns the field, or wrote first."""

    default_reason = "conflict"


class ClusterGone(ClusterError):
    """410: a resourceVersion or continue token is too old; list again."""

    default_reason = "gone"


class ClusterInvalid(ClusterError):
    """Any other 4xx: the API server refuses the request itself."""

    default_reason = "invalid"


class ClusterThrottled(ClusterError):
    """429: the API server asks us to slow down; ``retry_after`` is in seconds."""

    default_reason = "throttled"
    default_remedy = "give the hub's user a priority level of its own there (API Priority and Fairness)"

    def __init__(self, what: str, *, where: str = "", retry_after: float = 1.0) -> None:
        super().__init__(what, where=where)
        self.retry_after = retry_after


class ClusterServerError(ClusterError):
    """5xx: the API server, or something in front of it, failed."""

    default_reason = "server_error"
    default_remedy = "check the API server of that cluster; the hub keeps trying"


class ClusterGarbage(ClusterError):
    """An answer that is not what the Kubernetes API promises: not JSON, wrong kind, cut short."""

    default_reason = "garbage"
    default_remedy = (
        "something other than a Kubernetes API answers at that address: check the server URL and proxies"
    )


class ClusterOverBudget(ClusterGarbage):
    """A member sends more than one cluster may cost: bytes, objects or processor time. Others are not affected."""

    default_reason = "over_budget"
    default_remedy = (
        "find what fills or changes namespaces, ConfigMaps, pods or service accounts there, in its audit log or by "
        "`kubectl get configmaps --all-namespaces --watch-only` and the like; no other cluster is affected"
    )


class AuthorityError(FederationError):
    """The authority cannot be used until an operator corrects it."""

    default_reason = "authority"


class AuthorityMisconfigured(AuthorityError):
    """Key, chain, role or permission of the authority is wrong."""

    default_reason = "authority_misconfigured"


class AuthorityRefused(AuthorityError):
    """The back end refuses this one request; the same one will be refused again, another one may pass."""

    default_reason = "authority_refused"


class AuthorityViolation(AuthorityError):
    """The authority returned something other than what was requested of it: an alarm, and never handed out."""

    default_reason = "authority_violation"
    default_remedy = "treat the back end as compromised until its answer is explained"
