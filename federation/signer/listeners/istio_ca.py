"""Istio's CA protocol: metadata and message in, evidence and signing request out, then a reply or an error's status.

``clusterid`` given more than once counts as not given, as in istio-csr. ``CertSigner`` is ignored: sidecars always
send it. ``ImpersonatedIdentity`` (ztunnel) is passed on as it came where it is a string of a length that an identity
can have; an empty one counts as not given, as in istiod.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from federation.core.call_slots import CallSlot
from federation.core.errors import AttestationRefused, FederationError, NotReady, RequestRefused
from federation.core.identity import MAX_SPIFFE_ID_BYTES
from federation.core.istio.ca_protocol import METHOD, decode_request, encode_response
from federation.signer.attestation.attestor import TokenEvidence
from federation.signer.issuance import Issuance, SigningRequest
from federation.signer.listeners.grpc import answer_to
from federation.signer.listeners.rejected_calls import RefusalLog, RejectedCalls

_logger = logging.getLogger(__name__)

IMPERSONATED_IDENTITY: Final = "ImpersonatedIdentity"
_BEARER: Final = "bearer "


class IstioCaService:
    """``IstioCertificateService`` as a function from bytes to bytes."""

    method: Final = METHOD

    def __init__(
        self,
        issuance: Issuance,
        refusals: RefusalLog,
        reject: RejectedCalls,
        connections_refused: RejectedCalls,
    ) -> None:
        self._issuance = issuance
        self._refusals = refusals
        self._rejected_calls = reject
        self._connections_refused = connections_refused

    async def handle(
        self, message: bytes, metadata: Iterable[tuple[str, str | bytes]], *, slot: CallSlot
    ) -> bytes:
        """The reply to this message. Raises Answered with the status and the sentence to give instead."""
        try:
            try:
                evidence, request = _evidence(metadata), _signing_request(message)
            except FederationError as error:
                self._rejected_calls.note(error.reason, slot.peer)
                raise
            return encode_response(await self._issuance.issue(evidence, request, slot))
        except FederationError as error:
            self._refusals.note(error, peer=slot.peer)
            raise answer_to(error) from None
        except Exception as error:
            _logger.exception("a certificate request failed unexpectedly", extra={"peer": slot.peer})
            raise answer_to(error) from None

    def reject(self, error: FederationError, *, peer: str) -> None:
        """The transport has ended a call: it had no slot, or did not come or end in time."""
        self._refusals.note(error, peer=peer)
        if not isinstance(error, NotReady):  # that one came in, and is counted with its cluster
            self._rejected_calls.note(error.reason, peer)

    def connection_refused(self, error: FederationError, *, peer: str) -> None:
        """The transport has ended a connection, or did not take it."""
        self._refusals.note(error, peer=peer)
        self._connections_refused.note(error.reason, peer)


def _signing_request(message: bytes) -> SigningRequest:
    request = decode_request(message)
    impersonated = request.metadata.get(IMPERSONATED_IDENTITY, "")
    if not isinstance(impersonated, str) or len(impersonated) > MAX_SPIFFE_ID_BYTES:
        raise RequestRefused(
            f"{IMPERSONATED_IDENTITY} is not a string of at most {MAX_SPIFFE_ID_BYTES} characters",
            reason="impersonated_malformed",
        )
    return SigningRequest(request.csr, request.validity_seconds, impersonated)


def _evidence(metadata: Iterable[tuple[str, str | bytes]]) -> TokenEvidence:
    """The one bearer token and the cluster ID in a call's metadata."""
    tokens: list[str] = []
    cluster_ids: list[str] = []
    for name, value in metadata:
        if name == "authorization" and isinstance(value, str) and value[: len(_BEARER)].lower() == _BEARER:
            tokens.append(value[len(_BEARER) :])
        elif name == "clusterid" and isinstance(value, str):
            cluster_ids.append(value)
    if len(tokens) != 1:
        raise AttestationRefused(
            f"{len(tokens)} bearer tokens; exactly one is needed",
            reason="token_missing" if not tokens else "token_ambiguous",
        )
    return TokenEvidence(tokens[0], cluster_ids[0] if len(cluster_ids) == 1 else "")
