"""``kind = "aws-pca"`` and ``"aws-kms"``: which CA or key, in which region, and as whom.

Forms of ARNs are those of AWS's own references: IssueCertificate (``CertificateArn`` of a CA), Sign
(``KeyId``) and AssumeRoleWithWebIdentity (``RoleArn``). Only the form is checked here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from federation.core.config.authorities.common import AuthorityContext, read_name, read_remote
from federation.core.config.authorities.settings import (
    AwsConfig,
    AwsKmsAuthorityConfig,
    AwsPcaAuthorityConfig,
)
from federation.core.config.mistakes import Convert, Table, printable
from federation.core.config.types import is_plain_http, service_url, string
from federation.core.errors import InvalidValue

_AWS: Final = AwsConfig(region="")  # these stand for the model's defaults, and nothing else
_PCA: Final = AwsPcaAuthorityConfig(name="", aws=_AWS, ca_arn="")
_KMS: Final = AwsKmsAuthorityConfig(name="", aws=_AWS, key_id="", certificate_file=Path())

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


def read_aws_pca(table: Table, context: AuthorityContext) -> AwsPcaAuthorityConfig | None:
    """A CA of AWS Private CA."""
    name = read_name(table)
    remote = read_remote(table, _PCA, context)
    aws = _aws(table, context)
    ca_arn = table.require("ca_arn", _ca_arn, "write the ARN of the CA that issues, the intermediate's own")
    if aws is not None and ca_arn is not None:
        _check_region(table, "ca_arn", _CA_ARN, ca_arn, aws.region)
    template = table.get("template", _template(_WORKLOAD_TEMPLATES, "workloads"), _PCA.template)
    serving = table.get(
        "serving_template", _template(_SERVING_TEMPLATES, "the listener"), _PCA.serving_template
    )
    if name is None or aws is None or ca_arn is None:
        return None
    return AwsPcaAuthorityConfig(
        name=name, aws=aws, ca_arn=ca_arn, template=template, serving_template=serving, **remote
    )


def read_aws_kms(table: Table, context: AuthorityContext) -> AwsKmsAuthorityConfig | None:
    """An asymmetric key of AWS KMS."""
    name = read_name(table)
    remote = read_remote(table, _KMS, context)
    aws = _aws(table, context)
    key_id = table.require("key_id", _kms_key, "write the key's ID or ARN, or those of an alias")
    if aws is not None and key_id is not None:
        _check_region(table, "key_id", _KEY_ARN, key_id, aws.region)
    certificate = table.require(
        "certificate_file",
        context.path,
        "name the PEM file of the intermediate and what stands between it and the root",
    )
    if name is None or aws is None or key_id is None or certificate is None:
        return None
    return AwsKmsAuthorityConfig(name=name, aws=aws, key_id=key_id, certificate_file=certificate, **remote)


def _aws(table: Table, context: AuthorityContext) -> AwsConfig | None:
    region = table.require("region", _region, 'write the region, for example "eu-central-1"')
    endpoint = table.get("endpoint", _url_or_empty, _AWS.endpoint)
    role_arn = table.get("role_arn", _role_arn_or_empty, _AWS.role_arn)
    jwt = table.get("jwt", context.jwt, _AWS.jwt)
    ca_file = table.get("ca_file", context.path, _AWS.ca_file)
    if table.has("jwt") and not table.has("role_arn"):
        table.mistake(
            "role_arn", "is missing beside jwt", "name the role that is assumed with it, or neither"
        )
    if role_arn and not table.has("jwt"):
        table.mistake(
            "jwt",
            "is missing beside role_arn",
            "name the token that the role is assumed with, or neither: AWS's own chain of credentials is used then",
        )
    if is_plain_http(endpoint) and ca_file is not None:
        table.mistake("ca_file", "is never used: the endpoint is http", "use https, or remove it")
    if region is None:
        return None
    return AwsConfig(region=region, endpoint=endpoint, role_arn=role_arn, jwt=jwt, ca_file=ca_file)


def _check_region(table: Table, key: str, form: re.Pattern[str], arn: str, region: str) -> None:
    """An ARN says its region, and a call to another one would only say that there is no such thing."""
    match = form.fullmatch(arn)
    if match is not None and match["region"] != region:
        table.mistake(key, f"is in {match['region']}, not in {region}", "mend the ARN or region")


def _matching(form: re.Pattern[str], what: str, remedy: str) -> Convert[str]:
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


def _kms_key(value: object) -> str:
    text = string(value)
    if not _KEY.fullmatch(text) and not _KEY_ARN.fullmatch(text):
        raise InvalidValue(
            f"{printable(text)!r} is not a key of KMS",
            remedy='write its ID, its ARN, "alias/NAME" or that ARN',
        )
    return text


def _template(known: tuple[str, ...], whom: str) -> Convert[str]:
    """What stands after ``template/`` in a template's ARN."""

    def convert(value: object) -> str:
        text = string(value)
        if text not in known:
            problem = "could make a CA" if "CACertificate" in text else f"is not a template for {whom}"
            raise InvalidValue(f"{printable(text)!r} {problem}", remedy=f"use {' or '.join(known)}")
        return text

    return convert


def _role_arn_or_empty(value: object) -> str:
    return _role_arn(value) if string(value) else ""


def _url_or_empty(value: object) -> str:
    return service_url(value) if string(value) else ""
