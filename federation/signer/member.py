"""What the signer keeps for one member cluster: a session, its token keys, its pods and service accounts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from federation.clusters.budget import Budgets
from federation.clusters.session import MEMBER_ANSWER_BYTES, ClusterSession
from federation.core.clock import Clock
from federation.core.config.model import ClusterConfig
from federation.core.jwks import TokenKey
from federation.signer.attestation.attestor import ClusterAttestor
from federation.signer.attestation.bound_objects import BoundObjects
from federation.signer.attestation.caller import REVIEW
from federation.signer.attestation.key_claims import KeyClaims
from federation.signer.attestation.node_pods import NodePods
from federation.signer.attestation.token_keys import TokenKeys
from federation.signer.attestation.token_review import TokenReviewer


@asynccontextmanager
async def connect(
    config: ClusterConfig, *, clock: Clock, jitter: random.Random, claims: KeyClaims, budgets: Budgets
) -> AsyncIterator[ClusterAttestor]:
    """The attestor of that cluster, kept up to date while the context is open.

    Where TokenReview always decides, nothing is watched, so that no more than TokenReview need be granted;
    keys are looked for all the same, because they tell whose a token is: ``claims`` learns them. Raises
    ConfigurationError for credentials that cannot be used.
    """
    session = await ClusterSession.open(
        config.signer,
        cluster=config.name,
        timeouts=config.timeouts,
        clock=clock,
        budget=budgets.of(config.name),
        most_bytes=MEMBER_ANSWER_BYTES,
    )
    async with session:

        def published(keys: Iterable[TokenKey]) -> None:
            claims.published(str(config.name), (key.sha256 for key in keys), at=clock.now().timestamp())

        keys = TokenKeys(session, clock=clock, jitter=jitter, issuer=config.issuer, published=published)
        objects = BoundObjects(session, timeouts=config.timeouts, clock=clock, jitter=jitter)
        reviewer = TokenReviewer(session, audience=config.audience, clock=clock)
        node_pods = NodePods(session, limit=config.timeouts.request, clock=clock)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(keys.run(), name=f"token keys of {config.name}")]
            if config.attestation != REVIEW:
                tasks.append(group.create_task(objects.run(), name=f"bound objects of {config.name}"))
            try:
                yield ClusterAttestor(
                    config,
                    keys=keys,
                    objects=objects,
                    reviewer=reviewer,
                    node_pods=node_pods,
                    clock=clock,
                    budget=session.budget,
                )
            finally:
                for task in tasks:
                    task.cancel()
                await objects.close()
                await reviewer.close()
                await node_pods.close()
