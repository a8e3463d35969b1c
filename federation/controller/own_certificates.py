"""A certificate for one of the hub's own accounts in a member cluster, from the listener as for any workload.

The cluster gives a token of the account (TokenRequest), the listener a certificate for it. The caller makes the
key and sends it nowhere; a reply is read as an agent reads it, and the caller checks that it is what was requested.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federation.clusters.permissions import create_account
from federation.controller.proof.listener_check import SignerListener
from federation.core.config.clusters import ClusterConfig
from federation.core.errors import ClusterGarbage, ClusterNotFound, InvalidValue
from federation.core.identity import ServiceAccountRef
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates
from federation.core.pki.requests import build_request
from federation.kubernetes.session import SMALL_ANSWER_BYTES, ClusterSession

TOKEN_SECONDS: Final = 600
"""The shortest the TokenRequest API grants."""

CERT_CHAIN: Final = "cert_chain of the signer's listener"

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,8192}")
"""What a bearer token may consist of (RFC 6750, 2.1), and as much as the listener reads of it. gRPC refuses to send
anything else, by an error that callers do not expect."""

_LIKE_ISTIOS_AGENT: Final = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "")])
"""Istio's agents send an empty organization; the probe asks as they do."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the listener answered: the leaf and the certificates above it, and the bundle that came with them."""

    chain: tuple[Certificate, ...]
    delivered: bytes = field(repr=False)


class _TokenStatus(msgspec.Struct):
    token: str = ""


class _TokenRequest(msgspec.Struct):
    status: _TokenStatus


_decode_token = msgspec.json.Decoder(_TokenRequest).decode


class OwnAccount:
    """One account of the hub's in one cluster, and how it gets certificates."""

    def __init__(
        self,
        session: ClusterSession,
        cluster: ClusterConfig,
        account: ServiceAccountRef,
        listener: SignerListener,
    ) -> None:
        self._session = session
        self._cluster = cluster
        self._account = account
        self._listener = listener

    async def request(
        self, names: x509.SubjectAlternativeName, key: ec.EllipticCurvePrivateKey, *, lifetime: float
    ) -> Reply:
        """A certificate for these names and this key; ``lifetime`` 0 asks for what the cluster's policy gives.

        Raises what the session and the listener raise, and InvalidValue for a reply that is none.
        """
        token = await self._token()
        elements = await self._listener.request(
            csr=build_request(key, names, subject=_LIKE_ISTIOS_AGENT),
            token=token,
            cluster_id=self._cluster.cluster_id,
            lifetime=lifetime,
        )
        return read_reply(elements, key)

    async def _token(self) -> str:
        account, where = self._account, str(self._cluster.name)
        path = f"/api/v1/namespaces/{account.namespace}/serviceaccounts/{account.name}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [self._cluster.audience], "expirationSeconds": TOKEN_SECONDS},
        }
        try:
            answer = await self._session.request(
                "POST", path, body=msgspec.json.encode(body), most_bytes=SMALL_ANSWER_BYTES
            )
            token = _decode_token(answer).status.token
        except ClusterNotFound:
            raise ClusterNotFound(
                f"the service account {account} does not exist",
                where=where,
                remedy=create_account(account),
            ) from None
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ClusterGarbage("the answer to a token request is not a TokenRequest", where=where) from None
        if not _TOKEN.fullmatch(token):
            raise ClusterGarbage("the answer to a token request holds no token", where=where)
        return token


def read_reply(elements: tuple[str, ...], key: ec.EllipticCurvePrivateKey) -> Reply:
    """The reply in these elements, whose leaf holds that key. Raises InvalidValue."""
    if len(elements) < 2:
        raise InvalidValue("there is no bundle after the leaf", where=CERT_CHAIN)
    chain: list[Certificate] = []
    for element in elements[:-1]:
        found = parse_certificates(element.encode(), where=CERT_CHAIN)
        if len(found) != 1:
            raise InvalidValue("an element before the last holds more than one certificate", where=CERT_CHAIN)
        chain += found
    if chain[0].public_key != key.public_key():
        raise InvalidValue("the leaf has another key than was requested", where=CERT_CHAIN)
    delivered = elements[-1].encode()
    parse_certificates(delivered, where=CERT_CHAIN)
    return Reply(tuple(chain), delivered)
