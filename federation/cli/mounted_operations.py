"""Where two rooms meet that do not know one another: operations of the controller, in the server of status."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from federation.controller.operations_api import PATH, OperationRequest, OperationsApi
from federation.controller.rotation.operations import VERBS, OperationDesk, OperationMac
from federation.core.clock import Clock
from federation.core.documents.controller import Operation
from federation.state.store import StateStore
from federation.status.answers import problem
from federation.status.app import Mounted
from federation.status.authorization import may_operate, usable_token, verified_name
from federation.status.encoding import encode_answer
from federation.status.rotation import operation_view
from federation.status.rotation_model import OperationView
from federation.status.routes import Right, Route
from federation.status.view import ConfigStatus


def operation_mac(config: ConfigStatus) -> OperationMac:
    """The MAC of this controller: by the operate token, else by a key of this process alone."""
    drawn = os.urandom(32)

    async def secret() -> bytes:
        file = config.current.status.operate_token_file
        return drawn if file is None else await usable_token(file) or drawn

    return OperationMac(secret)


def operations(
    store: StateStore,
    config: ConfigStatus,
    clock: Clock,
    mac: OperationMac,
    *,
    leads: Callable[[], bool] = lambda: True,
) -> Mounted:
    """``POST /api/v1/operations`` for the status server of a controller; ``leads`` says whether it does."""
    api = OperationsApi(
        OperationDesk(store, clock=clock, random_bytes=os.urandom, mac=mac),
        config,
        clock=clock,
        encode=_encoded,
        problem=problem,
        may_operate=may_operate,
        caller_of=verified_name,
        leads=leads,
    )

    async def verify_operations(requested: Sequence[Operation]) -> Sequence[bool | None]:
        """Whether each MAC verifies; None where there is no operate token: another process may have made it."""
        token = config.current.status.operate_token_file is not None
        return [True if verified else False if token else None for verified in await mac.are_on(requested)]

    return Mounted(
        routes=[(operate_route(), api.post)],
        accepts=api.accepts,
        with_token=api.takes_token,
        verify_operations=verify_operations,
    )


def operate_route() -> Route:
    """``POST /api/v1/operations``."""
    return Route(
        operation="operate",
        path=PATH,
        method="POST",
        summary=f"Ask for an operation and wait for the leader's decision: {', '.join(VERBS)}. 409 with the operation "
        "where it was refused.",
        right=Right.OPERATE,
        request=OperationRequest,
        answer=OperationView,
        also=(409,),
        problems=(408, 413, 415),
    )


def _encoded(operation: Operation) -> bytes:
    return encode_answer(operation_view(operation))
