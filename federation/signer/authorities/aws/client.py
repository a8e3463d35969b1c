"""Calls to one AWS service: bounded in time, never repeated behind our back, every failure one typed error.

botocore brings endpoints, signatures and the wire format. What it would take from the environment (proxies,
CA bundles, retries, endpoints of the service) is not taken: the configuration says where AWS is. Its loggers are
kept from writing requests and answers, which hold tokens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import UNSIGNED, xform_name
from botocore.exceptions import BotoCoreError, ClientError

from federation.core.config.authority_model import AwsConfig
from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable
from federation.signer.authorities.aws.failures import CREDENTIAL_REASONS, Call, error_of, failure_of
from federation.signer.authorities.aws.login import Login
from federation.signer.authorities.pem_file import read_pem_file

CONNECT_TIMEOUT: Final = 3.0  # seconds; within every back end's own timeout
OPEN_TIMEOUT: Final = 30.0  # seconds for reading botocore's own description of a service from disk
_AGENT: Final = "federation-hub"
_UNREADABLE: Final = (AttributeError, LookupError, TypeError, ValueError)
"""What botocore's parsers raise for answers that are no JSON or XML of that service."""


def quieten() -> None:
    """Keep botocore's and aiobotocore's loggers at INFO: at DEBUG they write bodies and signed headers."""
    for name in ("botocore", "aiobotocore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.INFO))


class AwsClient:
    """One service in one region. Without a ``login`` its requests are not signed.

    ``where`` names the authority in errors; ``timeout`` is for one call, in seconds.
    """

    def __init__(
        self,
        service: str,
        aws: AwsConfig,
        *,
        where: str,
        timeout: float,
        login: Login | None = None,
        connections: int = 10,
    ) -> None:
        self._service = service
        self._aws = aws
        self._where = where
        self._timeout = timeout
        self._login = login
        self._connections = connections
        self._keys: Any = None
        self._opening = asyncio.Lock()
        self._resources = AsyncExitStack()
        self._client: Any = None

    async def call(
        self,
        operation: str,
        parameters: Mapping[str, object],
        *,
        for_order: bool = False,
        may_issue: bool = False,
        secret: str = "",
    ) -> Mapping[str, Any]:
        """The answer to one call. The flags are those of :class:`Call`, as are the errors."""
        call = Call(f"{self._service}:{operation}", self._where, for_order, may_issue, secret)
        client = await self._open()
        if self._login is not None:
            now = await self._login.keys()
            # botocore signs with what this holds, without waiting for anything
            self._keys.access_key, self._keys.secret_key, self._keys.token = now[:3]
        try:
            async with asyncio.timeout(self._timeout):
                answer = await getattr(client, xform_name(operation))(**parameters)
        except TimeoutError:
            raise call.timed_out(self._timeout) from None
        except ClientError as error:
            told = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            failure = error_of(str(told.get("Code", "")), int(status), str(told.get("Message", "")), call)
            if self._login is not None and failure.reason in CREDENTIAL_REASONS:
                self._login.doubt()
            raise failure from None
        except BotoCoreError as error:
            raise failure_of(error, call) from None
        except _UNREADABLE:
            raise call.garbage() from None
        if not isinstance(answer, dict):
            raise call.garbage()
        return answer

    async def close(self) -> None:
        """Close every connection."""
        self._client = None
        await self._resources.aclose()

    async def _open(self) -> Any:
        if self._client is not None:
            return self._client
        async with self._opening:
            if self._client is None:
                if self._aws.ca_file is not None:  # botocore reads it on the loop, and would hang with it
                    await read_pem_file(self._aws.ca_file)
                try:
                    async with asyncio.timeout(OPEN_TIMEOUT):
                        session = AioSession()
                        session.set_credentials("none", "none")
                        self._keys = await session.get_credentials()
                        self._client = await self._resources.enter_async_context(self._make(session))
                except TimeoutError:
                    raise AuthorityUnavailable(
                        f"botocore was not ready within {OPEN_TIMEOUT:g} s",
                        where=self._where,
                        reason="files_hang",
                        remedy="check the disk that the hub is installed on",
                    ) from None
                except (BotoCoreError, ValueError) as error:
                    raise AuthorityMisconfigured(
                        f"there can be no client for {self._service} ({type(error).__name__})",
                        where=self._where,
                        reason="not_sent",
                        remedy="check signer.authority.region and endpoint",
                    ) from None
        return self._client

    def _make(self, session: AioSession) -> Any:
        quieten()
        is_sts = self._service == "sts"
        return session.create_client(
            self._service,
            region_name=self._aws.region,
            # STS is where AWS's own settings say (AWS_ENDPOINT_URL_STS), as for AWS's own chain of credentials
            endpoint_url=None if is_sts else self._aws.endpoint or None,
            verify=True if self._aws.ca_file is None else str(self._aws.ca_file),
            config=AioConfig(
                connect_timeout=min(CONNECT_TIMEOUT, self._timeout),
                read_timeout=self._timeout,
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=self._connections,
                proxies={},
                defaults_mode="legacy",
                ignore_configured_endpoint_urls=not is_sts,
                signature_version=UNSIGNED if self._login is None else None,
                user_agent_extra=_AGENT,
                warm_up_loader_caches=True,  # in a thread: the files of a service are large
            ),
        )
