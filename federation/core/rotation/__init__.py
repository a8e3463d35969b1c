"""Rotation of a root or an intermediate, as a pure state machine.

::

    STABLE ──propose──▶ STAGED ──▶ PUBLISHING ──▶ SOAKED ──▶ CANARY ──▶ ACTIVE ──▶ UNPUBLISHING ──▶ RETIRED
                          │            │            ▲ ◀─fails──┘│          │ ◀──restore──┘
                          │            └────────────┴───────────┴──────────┴──abort──▶ ABORTING ──▶ STABLE
                          └──abort──▶ STABLE

    emergency of the old side: STAGED to ACTIVE, ABORTING ──▶ EMERGENCY ──▶ UNPUBLISHING ──▶ RETIRED
    emergency of the new side: PUBLISHING to ACTIVE ──▶ ABORTING ──▶ STABLE
                               STAGED ──▶ STABLE, or ABORTING where the root that was named is published already

An intermediate under the same root goes from STAGED to SOAKED, from ACTIVE and EMERGENCY to RETIRED, and from
ABORTING to STABLE: no bundle changes.

The rules, each enforced by a gate (``gates.py``) or by what is computed from the record (``effects.py``):

1.  The new authority is validated, and a signature of it verified, before anything is published.
2.  Publish before use: nothing is signed under the new root until every consumer is known to trust it: what
    every namespace was read back to hold, and what every unexpired leaf was delivered with.
3.  Drain before remove: the old root stays until no unexpired leaf needs it.
4.  Successive bundles differ by one step: each is a subset of the one before it or the other way round.
5.  Unreachable is not converged: such a cluster blocks, or a person quarantines it, and then nothing is
    issued there.
6.  Anything unknown counts as the worst case: leaves from before the hub, an issuer that was not known
    beforehand, a report that is old.
7.  Istio's control plane counts: those that verify istiod (agents, kube-apiserver by a webhook's caBundle) are
    known to trust the new root before its certificate is re-signed under it, and that certificate is of the side
    that stays before a root is removed.
8.  Every transition carries the evidence that it was taken on. The record is the only memory, so a restart
    continues where it was.

The rules rest on two more, which other rooms follow and the tests show with them: the controller observes the world
only after everything that follows from the record is persisted; a signer persists a bound before it delivers, and then
reads the directives and what is in force once more before anything is delivered by that bound.

``record.py`` holds the values and how a transition is recorded, ``world.py`` what is observed, ``conditions.py`` the
single conditions (those of one cluster: ``cluster_conditions.py``) and ``gates.py`` what they open (with the gate of an
anchor that leaves without a rotation), ``transitions.py`` the steps that gates allow, what an operator may ask for and
the emergency, and ``effects.py`` what follows for bundles and signers, and what an emergency will cost.
"""
