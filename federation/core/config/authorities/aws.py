"""``kind = "aws-pca"`` and ``"aws-kms"``: which CA or key, in which region, and as whom.

Forms of ARNs are those of AWS's own references: IssueCertificate (``CertificateArn`` of a CA), Sign
(``KeyId``) and AssumeRoleWithWebIdentity (``RoleArn``). Only the form is checked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from federation.core.config.authorities.common import limits_of
from federation.core.config.authorities.settings import (
    NAME_A_CHAIN,
    AwsConfig,
    AwsKmsAuthorityConfig,
    AwsPcaAuthorityConfig,
    JwtRef,
    RemoteAuthorityConfig,
    jwt_place,
)
from federation.core.config.mistakes import Place, printable
from federation.core.config.tables import Needed
from federation.core.config.types import (
    Value,
    is_plain_http,
    number,
    or_empty,
    path,
    read_as,
    seconds,
    service_url,
    string,
)
from federation.core.errors import InvalidValue

_REGION: Final = re.compile(r"[a-z]{2,8}(?:-[a-z]{2,16}){1,3}-\d{1,2}", re.ASCII)
_ACCOUNT: Final = r"(?P<region>[a-z0-9-]{1,40}):\d{12}:"
_PARTITION: Final = r"arn:aws(?:-[a-z]{1,16}){0,3}"
_CA_ARN: Final = re.compile(
    rf"{_PARTITION}:acm-pca:{_ACCOUNT}certificate-authority/[0-9a-fA-F-]{{36}}", re.ASCII
)
_KEY_ID: Final = r"(?:[0-9a-fA-F-]{36}|mrk-[0-9a-f]{32})"
_ALIAS: Final = r"alias/[A-Za-z0-9/_-]{1,250}"
_KEY: Final = re.compile(rf"{_KEY_ID}|{_ALIAS}", re.ASCII)
_KEY_ARN: Final = re.compile(rf"{_PARTITION}:kms:{_ACCOUNT}(?:key/{_KEY_ID}|{_ALIAS})", re.ASCII)
_ROLE_ARN: Final = re.compile(rf"{_PARTITION}:iam::\d{{12}}:role/[A-Za-z0-9+=,.@_/-]{{1,576}}", re.ASCII)
_WORKLOAD_TEMPLATES: Final = ("EndEntityCertificate/V1",)  # the only one for clients and servers alike
_SERVING_TEMPLATES: Final = ("EndEntityServerAuthCertificate/V1",)
"""Templates that fix every extension but the names, so that no request can make a CA of its leaf (AWS Private CA
User Guide, "template definitions"); those that pass extensions on leave that to who asks."""


def _matching(form: re.Pattern[str], what: str, remedy: str) -> Value[str]:
    @read_as(what.partition(" ")[2])
    def convert(value: object) -> str:
        text = string(value)
        if not form.fullmatch(text):
            raise InvalidValue(f"{printable(text)!r} is not {what}", remedy=remedy)
        return text

    return convert


_region: Final = _matching(_REGION, "a region", 'write it as AWS does, for example "eu-central-1"')
_ca_arn: Final = _matching(
    _CA_ARN,
    "the ARN of a private CA",
    'it looks like "arn:aws:acm-pca:REGION:ACCOUNT:certificate-authority/ID"',
)
_role_arn: Final = _matching(_ROLE_ARN, "the ARN of a role", 'it looks like "arn:aws:iam::ACCOUNT:role/NAME"')


@read_as("key of KMS")
def _kms_key(value: object) -> str:
    text = string(value)
    if not _KEY.fullmatch(text) and not _KEY_ARN.fullmatch(text):
        raise InvalidValue(
            f"{printable(text)!r} is not a key of KMS",
            remedy='write its ID, its ARN, "alias/NAME" or that ARN',
        )
    return text


def _template(known: tuple[str, ...], whom: str) -> Value[str]:
    """What follows ``template/`` in a template's ARN."""

    @read_as(" or ".join(known), enum=list(known))
    def convert(value: object) -> str:
        text = string(value)
        if text not in known:
            problem = "could make a CA" if "CACertificate" in text else f"is not a template for {whom}"
            raise InvalidValue(f"{printable(text)!r} {problem}", remedy=f"use {' or '.join(known)}")
        return text

    return convert


@dataclass(frozen=True, kw_only=True)
class _AwsTable(RemoteAuthorityConfig):
    """The keys of every authority in AWS.

    Credentials come by AWS's own chain: web identity, container, instance, files.
    """

    region: Annotated[str, _region, Needed('write the region, for example "eu-central-1"')]
    """The region of the CA or key."""
    endpoint: Annotated[str, or_empty(service_url)] = ""
    """A VPC endpoint or a test server; empty for AWS's own."""
    ca_file: Annotated[Path | None, path] = None
    """The CA of the endpoint's certificate. Unset: the system's CAs."""
    role_arn: Annotated[str, or_empty(_role_arn)] = ""
    """A role that is assumed by the token below, instead of AWS's own chain of credentials."""
    jwt: Annotated[JwtRef | None, jwt_place] = None
    """The token that the role is assumed with. Unset: AWS's own chain of credentials is used."""

    @property
    def aws(self) -> AwsConfig:
        """Where AWS is called."""
        return AwsConfig(
            region=self.region,
            endpoint=self.endpoint,
            role_arn=self.role_arn,
            jwt=self.jwt,
            ca_file=self.ca_file,
        )

    def check(self, place: Place) -> None:
        """What must hold between its keys."""
        place.check(self, _role_and_token, _ca_used)


@dataclass(frozen=True, kw_only=True)
class AwsPcaTable(_AwsTable):
    """AWS Private CA: it holds the key and issues by a template. Needs the package extra ``aws``."""

    kind: Literal["aws-pca"] = "aws-pca"
    """A CA of AWS Private CA."""
    ca_arn: Annotated[str, _ca_arn, Needed("write the ARN of the CA that issues, the intermediate's own")]
    """The CA that issues: the intermediate itself."""
    template: Annotated[str, _template(_WORKLOAD_TEMPLATES, "workloads")] = "EndEntityCertificate/V1"
    """The template of workloads' certificates: what follows template/ in its ARN."""
    serving_template: Annotated[str, _template(_SERVING_TEMPLATES, "the listener")] = (
        "EndEntityServerAuthCertificate/V1"
    )
    """The template of the listener's own certificate."""
    quota: Annotated[float, number(0, 100_000)] = 25.0
    """Certificates per second for all signers together; 25 is what AWS gives an account in a region."""
    timeout: Annotated[float, seconds(0.1, 120)] = 8.0
    """How long one request may take: less than listener.deadline. Issuing is asynchronous there."""

    def check(self, place: Place) -> None:
        """What must hold between its keys."""
        super().check(place)
        place.check(self, _ca_in_its_region)

    def build(self) -> AwsPcaAuthorityConfig:
        """The authority's settings, once nothing in the file is wrong."""
        return AwsPcaAuthorityConfig(
            **limits_of(self),
            aws=self.aws,
            ca_arn=self.ca_arn,
            template=self.template,
            serving_template=self.serving_template,
        )


@dataclass(frozen=True, kw_only=True)
class AwsKmsTable(_AwsTable):
    """An asymmetric key in AWS KMS that signs what the hub has built. Needs the package extra ``aws``."""

    kind: Literal["aws-kms"] = "aws-kms"
    """A key in AWS KMS."""
    key_id: Annotated[str, _kms_key, Needed("write the key's ID or ARN, or those of an alias")]
    """An asymmetric key for SIGN_VERIFY: its ID or ARN, or "alias/NAME" or that ARN."""
    certificate_file: Annotated[Path, path, Needed(NAME_A_CHAIN)]
    """The intermediate first, then what is between it and the root, as PEM."""
    quota: Annotated[float, number(0, 100_000)] = 1000.0
    """Signatures per second for all signers together; 1000 is what AWS gives an account in a region."""

    def check(self, place: Place) -> None:
        """What must hold between its keys."""
        super().check(place)
        place.check(self, _key_in_its_region)

    def build(self) -> AwsKmsAuthorityConfig:
        """The authority's settings, once nothing in the file is wrong."""
        return AwsKmsAuthorityConfig(
            **limits_of(self), aws=self.aws, key_id=self.key_id, certificate_file=self.certificate_file
        )


def _role_and_token(place: Place, table: _AwsTable) -> None:
    if place.has("jwt") and not place.has("role_arn"):
        place.mistake(
            "role_arn", "is missing beside jwt", "name the role that is assumed with it, or neither"
        )
    if table.role_arn and not place.has("jwt"):
        place.mistake(
            "jwt",
            "is missing beside role_arn",
            "name the token that the role is assumed with, or neither: AWS's own chain of credentials is used then",
        )


def _ca_used(place: Place, table: _AwsTable) -> None:
    if is_plain_http(table.endpoint) and table.ca_file is not None:
        place.mistake("ca_file", "is never used: the endpoint is http", "use https, or remove it")


def _ca_in_its_region(place: Place, table: AwsPcaTable) -> None:
    _check_region(place, "ca_arn", _CA_ARN, table.ca_arn, table.region)


def _key_in_its_region(place: Place, table: AwsKmsTable) -> None:
    _check_region(place, "key_id", _KEY_ARN, table.key_id, table.region)


def _check_region(place: Place, key: str, form: re.Pattern[str], arn: str, region: str) -> None:
    """An ARN says its region, and a call to another one would only say that there is no such thing."""
    match = form.fullmatch(arn)
    if match is not None and match["region"] != region:
        place.mistake(key, f"is in {match['region']}, not in {region}", "correct the ARN or region")
