"""The attacks of one run, in the order in which they are made, and what status has to say of each."""

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
    """By callers (``load`` names what of :mod:`tests.attack.attackers`) or by a hostile member.

    ``tells`` are codes of findings, of which status has to show one that it did not show before; none where the attack
    is not to be noticed by anyone. What goes on ``around`` it goes on in the measurement at rest as well.
    """

    name: str
    what: str
    load: str = ""
    prepare: tuple[Step, ...] = ()
    around: tuple[Step, ...] = ()
    begin: tuple[Step, ...] = ()
    tells: frozenset[str] = frozenset()


MEMBER: Final = frozenset(
    {"cluster_degraded", "cluster_unavailable", "signing_degraded", "signing_unavailable", "over_budget"}
)
JWKS: Final = Step(HOSTILE, "poison", keys_of=VICTIM)

ATTACKS: Final = (
    Attack(
        "headers-without-a-body",
        "32 connections keep 100 calls each begun, of which no message follows",
        load="headers-without-a-body",
        tells=frozenset({"calls_rejected"}),
    ),
    Attack(
        "dripping-bodies",
        "32 connections with 16 calls each, whose message comes byte by byte",
        load="dripping-bodies",
        tells=frozenset({"calls_rejected"}),
    ),
    Attack(
        "garbage-tokens",
        "200 calls a second with tokens that name an honest cluster",
        load="garbage-tokens",
        tells=frozenset({"unproven_callers_refused"}),
    ),
    Attack(
        "idle-connections",
        "500 connections that only shook hands and 200 that only connected",
        load="idle-connections",
    ),
    Attack(
        "crowds-of-connections",
        "2,000 connections of one address, half of them without TLS, to a listener that takes 1,000",
        load="crowds-of-connections",
        tells=frozenset({"connections_refused"}),
    ),
    Attack(
        "handshakes-without-an-end",
        "1,000 connections of one address that send half of a first message of TLS",
        load="handshakes-without-an-end",
        tells=frozenset({"connections_refused"}),
    ),
    Attack(
        "failing-handshakes",
        "handshakes of one address, as many as it can, that refuse the listener's certificate",
        load="failing-handshakes",
        tells=frozenset({"connections_refused"}),
    ),
    Attack(
        "rapid-resets",
        "32 connections reset each call that they begin, as fast as they can",
        load="rapid-resets",
        tells=frozenset({"connections_refused"}),
    ),
    Attack(
        "endless-headers",
        "32 connections send CONTINUATION without an end",
        load="endless-headers",
        tells=frozenset({"connections_refused"}),
    ),
    Attack(
        "floods-of-control",
        "32 connections send pings, settings and priorities, as fast as they can",
        load="floods-of-control",
        tells=frozenset({"connections_refused"}),
    ),
    Attack(
        "readers-that-do-not-read",
        "32 connections with 16 answered calls each give no window for the answers",
        load="readers-that-do-not-read",
    ),
    Attack(
        "idle-keep-alive",
        "300 idle connections at each address of health and status",
        load="idle-keep-alive",
    ),
    Attack(
        "poisoned-keys",
        "a member publishes another one's token keys",
        load="provoked-looks",
        begin=(JWKS,),
        tells=frozenset({"token_key_shared"}),
    ),
    Attack(
        "poisoned-keys-reconnecting",
        "the same while every connection to the victim is cut again and again",
        load="provoked-looks",
        around=(Step(VICTIM, "reconnect", {"every": 0.5}),),
        begin=(JWKS,),
        tells=frozenset({"token_key_shared"}),
    ),
    Attack(
        "giant-pages",
        "a member answers every list with 30 MiB of 400,000 objects",
        prepare=(Step(HOSTILE, "prepare_pages"),),
        begin=(Step(HOSTILE, "pages"),),
        tells=MEMBER,
    ),
    Attack(
        "churn",
        "a tenant writes 46 certificates into one ConfigMap ten times a second",
        prepare=(Step(HOSTILE, "prepare_churn"),),
        begin=(Step(HOSTILE, "churn"),),
        tells=frozenset({"anchor_proposed", "other_writers", "publication_contested", *MEMBER}),
    ),
    Attack(
        "joining",
        f"{JOINING} namespaces with 46 roots of their own appear in a member",
        prepare=(Step(HOSTILE, "prepare_join", {"namespaces": JOINING}),),
        begin=(Step(HOSTILE, "join"),),
        tells=frozenset({"anchor_proposed", "publication_joining", "publication_pending", *MEMBER}),
    ),
)
