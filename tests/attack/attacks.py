"""The attacks of one run, in order, and the findings that status has to report for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

HONEST: Final = ("east", "west")
VICTIM: Final = "east"
HOSTILE: Final = "north"
JOINING: Final = 300  # namespaces


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a member does; ``keys_of`` puts that cluster's public keys into its arguments."""

    cluster: str
    do: str
    arguments: dict[str, Any] = field(default_factory=dict)
    keys_of: str = ""


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack by callers (``load`` names one of :mod:`tests.attack.attackers`) or by a hostile member.

    ``findings`` are codes; status has to report at least one of them that it did not report before. It is empty where
    the attack has no effect that status should report. The steps of ``around`` run during the measurement at rest, too.
    """

    name: str
    what: str
    load: str = ""
    prepare: tuple[Step, ...] = ()
    around: tuple[Step, ...] = ()
    begin: tuple[Step, ...] = ()
    findings: frozenset[str] = frozenset()


MEMBER: Final = frozenset(
    {"cluster_degraded", "cluster_unavailable", "signing_degraded", "signing_unavailable", "over_budget"}
)
JWKS: Final = Step(HOSTILE, "poison", keys_of=VICTIM)

ATTACKS: Final = (
    Attack(
        "headers-without-a-body",
        "32 connections keep 100 calls each open and never send a message",
        load="headers-without-a-body",
        findings=frozenset({"calls_rejected"}),
    ),
    Attack(
        "dripping-bodies",
        "32 connections with 16 calls each, whose messages arrive byte by byte",
        load="dripping-bodies",
        findings=frozenset({"calls_rejected"}),
    ),
    Attack(
        "garbage-tokens",
        "200 calls a second with tokens that name an honest cluster",
        load="garbage-tokens",
        findings=frozenset({"unproven_callers_refused"}),
    ),
    Attack(
        "idle-connections",
        "500 connections that make no call after their TLS handshake, and 200 without a handshake",
        load="idle-connections",
    ),
    Attack(
        "crowds-of-connections",
        "2,000 connections from one address, half of them without TLS, to a listener that accepts 1,000",
        load="crowds-of-connections",
        findings=frozenset({"connections_refused"}),
    ),
    Attack(
        "handshakes-without-an-end",
        "1,000 connections from one address that send half a TLS ClientHello",
        load="handshakes-without-an-end",
        findings=frozenset({"connections_refused"}),
    ),
    Attack(
        "failing-handshakes",
        "handshakes from one address that reject the listener's certificate, as fast as possible",
        load="failing-handshakes",
        findings=frozenset({"connections_refused"}),
    ),
    Attack(
        "rapid-resets",
        "32 connections reset each call right after its start, as fast as possible",
        load="rapid-resets",
        findings=frozenset({"connections_refused"}),
    ),
    Attack(
        "endless-headers",
        "32 connections send CONTINUATION frames without end",
        load="endless-headers",
        findings=frozenset({"connections_refused"}),
    ),
    Attack(
        "floods-of-control",
        "32 connections send pings, settings and priorities, as fast as possible",
        load="floods-of-control",
        findings=frozenset({"connections_refused"}),
    ),
    Attack(
        "readers-that-do-not-read",
        "32 connections with 16 answered calls each and a flow-control window of zero for the answers",
        load="readers-that-do-not-read",
    ),
    Attack(
        "idle-keep-alive",
        "300 idle connections to each health and status address",
        load="idle-keep-alive",
    ),
    Attack(
        "poisoned-keys",
        "a member publishes another member's token keys",
        load="unknown-key-ids",
        begin=(JWKS,),
        findings=frozenset({"token_key_shared"}),
    ),
    Attack(
        "poisoned-keys-reconnecting",
        "the same while every connection to the victim is cut again and again",
        load="unknown-key-ids",
        around=(Step(VICTIM, "reconnect", {"every": 0.5}),),
        begin=(JWKS,),
        findings=frozenset({"token_key_shared"}),
    ),
    Attack(
        "giant-pages",
        "a member answers every list with 30 MiB of 400,000 objects",
        prepare=(Step(HOSTILE, "prepare_pages"),),
        begin=(Step(HOSTILE, "pages"),),
        findings=MEMBER,
    ),
    Attack(
        "churn",
        "a tenant writes 46 certificates into one ConfigMap ten times a second",
        prepare=(Step(HOSTILE, "prepare_churn"),),
        begin=(Step(HOSTILE, "churn"),),
        findings=frozenset({"anchor_proposed", "other_writers", "publication_contested", *MEMBER}),
    ),
    Attack(
        "joining",
        f"{JOINING} namespaces with 46 roots of their own appear in a member",
        prepare=(Step(HOSTILE, "prepare_join", {"namespaces": JOINING}),),
        begin=(Step(HOSTILE, "join"),),
        findings=frozenset({"anchor_proposed", "publication_joining", "publication_pending", *MEMBER}),
    ),
)
