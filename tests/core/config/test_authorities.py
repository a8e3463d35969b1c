"""Each kind of ``[signer.authority]``: what it becomes, and what is refused, with the key and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.core.config.authorities.settings import (
    AwsConfig,
    AwsKmsAuthorityConfig,
    AwsPcaAuthorityConfig,
    CertificateRef,
    CertManagerAuthorityConfig,
    ConjurAuthorityConfig,
    ConjurConfig,
    JwtRef,
    Pkcs11AuthorityConfig,
    SecretRef,
    SpiffeConfig,
    VaultAuth,
    VaultAuthorityConfig,
    VaultServer,
    VaultTransitAuthorityConfig,
)
from federation.core.config.clusters import Credentials
from tests.core.config.authority_texts import (
    CA_ARN,
    CERT_MANAGER,
    CONJUR,
    EVERY_REMOTE,
    KEY_ID,
    KMS,
    KUBERNETES,
    PCA,
    PKCS11,
    SPIFFE,
    TRANSIT,
    VARIABLES,
    VAULT,
    hub,
    line,
    login,
    without,
)
from tests.core.config.texts import GOOD, HUB, good, mistakes, with_line

DIRECTORY = Path("/etc/federation")
BY_SERVICE_ACCOUNT = VaultAuth(
    method="kubernetes", mount="kubernetes", role="hub", jwt=JwtRef("file", "/etc/federation/token")
)


def authority(text: str, *tables: str) -> object:
    return good(hub(text, *tables)).signer.authority


def refused(text: str, *tables: str) -> dict[str, str]:
    """Every mistake of that authority, by its key without the table it is in."""
    found = mistakes(hub(text, *tables))
    assert all(key.startswith("signer.") for key in found)
    return {key.removeprefix("signer.").removeprefix("authority."): said for key, said in found.items()}


def test_a_small_vault_gets_the_models_defaults() -> None:
    assert authority(VAULT, KUBERNETES) == VaultAuthorityConfig(
        name="shared",
        server=VaultServer(address="https://vault.example:8200", auth=BY_SERVICE_ACCOUNT),
        role="workload",
        serving_role="door",
    )


def test_every_key_of_a_vault_is_read() -> None:
    text = f"""{VAULT}
namespace = "admin/mesh"
ca_file = "vault-ca.pem"
mount = "pki/mesh"
issuer = "2024.1"
quota = 12.5
max_in_flight = 3
max_queued = 9
timeout = "800ms"
poll_seconds = "1m"
"""
    auth = login("jwt", 'mount = "oidc/hub"', 'role = "hub"', 'jwt = "spiffe:https://vault.example"')
    assert authority(text, auth, SPIFFE) == VaultAuthorityConfig(
        name="shared",
        server=VaultServer(
            address="https://vault.example:8200",
            auth=VaultAuth(
                method="jwt", mount="oidc/hub", role="hub", jwt=JwtRef("spiffe", "https://vault.example")
            ),
            namespace="admin/mesh",
            ca_file=DIRECTORY / "vault-ca.pem",
        ),
        mount="pki/mesh",
        issuer="2024.1",
        role="workload",
        serving_role="door",
        quota=12.5,
        max_in_flight=3,
        max_queued=9,
        timeout=0.8,
        poll_seconds=60.0,
    )


def test_a_small_transit_gets_the_models_defaults() -> None:
    assert authority(TRANSIT, KUBERNETES) == VaultTransitAuthorityConfig(
        name="shared",
        server=VaultServer(address="https://vault.example:8200", auth=BY_SERVICE_ACCOUNT),
        key="mesh",
        certificate_file=DIRECTORY / "chain.pem",
    )


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (
            login("token", 'token = "file:/run/token"'),
            VaultAuth(method="token", mount="token", token=SecretRef("file", "/run/token")),
        ),
        (
            login("approle", 'role_id = "env:ROLE_ID"', 'secret_id = "conjur:vault/secret id"'),
            VaultAuth(
                method="approle",
                mount="approle",
                role_id=SecretRef("env", "ROLE_ID"),
                secret_id=SecretRef("conjur", "vault/secret id"),
            ),
        ),
        (
            login(
                "approle",
                'mount = "hubs"',
                'role_id = "file:r"',
                'secret_id = "file:s"',
                "secret_id_wrapped = true",
                'role = "hub"',
            ),
            VaultAuth(
                method="approle",
                mount="hubs",
                role="hub",
                role_id=SecretRef("file", "/etc/federation/r"),
                secret_id=SecretRef("file", "/etc/federation/s"),
                secret_id_wrapped=True,
            ),
        ),
        (
            login("cert", 'client_certificate_file = "c.pem"', 'client_key_file = "/run/k.pem"'),
            VaultAuth(
                method="cert",
                mount="cert",
                certificate=CertificateRef(DIRECTORY / "c.pem", Path("/run/k.pem")),
            ),
        ),
        (
            login("cert", 'role = "hub"', 'client_certificate = "spiffe"'),
            VaultAuth(method="cert", mount="cert", role="hub", certificate=CertificateRef()),
        ),
    ],
    ids=["token", "approle", "wrapped", "cert files", "cert spiffe"],
)
def test_the_ways_to_log_in(auth: str, expected: VaultAuth) -> None:
    found = authority(VAULT, auth, CONJUR, SPIFFE)
    assert isinstance(found, VaultAuthorityConfig)
    assert found.server.auth == expected


def test_a_small_pkcs11_gets_the_models_defaults() -> None:
    assert authority(PKCS11) == Pkcs11AuthorityConfig(
        name="shared",
        module=Path("/usr/lib/p11.so"),
        pin=SecretRef("file", "/run/pin"),
        certificate_file=DIRECTORY / "chain.pem",
        token="mesh",
        key_label="issuing",
    )


@pytest.mark.parametrize(
    ("lines", "slot", "serial", "key_id"),
    [
        ('slot = 0\nkey_id = "A1:b2"', 0, "", "a1b2"),
        ('serial = "0123456789abcdef"\nkey_id = "01"', None, "0123456789abcdef", "01"),
    ],
)
def test_a_token_by_slot_or_serial_and_a_key_by_its_id(
    lines: str, slot: int | None, serial: str, key_id: str
) -> None:
    found = authority(without(PKCS11, "token", "key_label") + lines)
    assert isinstance(found, Pkcs11AuthorityConfig)
    assert (found.token, found.slot, found.serial) == ("", slot, serial)
    assert (found.key_label, found.key_id) == ("", key_id)


def test_a_key_by_uri_is_the_key_by_its_parts() -> None:
    by_uri = without(PKCS11, "token", "key_label") + 'uri = "pkcs11:token=mesh;object=issuing"\n'
    assert authority(by_uri) == authority(PKCS11)


def test_a_uri_may_name_the_module_as_well() -> None:
    uri = 'uri = "pkcs11:token=mesh;object=issuing?module-path=/usr/lib/p11.so"\n'
    assert authority(without(PKCS11, "token", "key_label", "module") + uri) == authority(PKCS11)
    assert authority(without(PKCS11, "token", "key_label") + uri) == authority(PKCS11)
    found = refused(without(line(PKCS11, 'module = "/usr/lib/other.so"'), "token", "key_label") + uri)
    assert set(found) == {"module"}


def test_a_small_cert_manager_gets_the_models_defaults() -> None:
    assert authority(CERT_MANAGER) == CertManagerAuthorityConfig(
        name="shared",
        credentials=Credentials(kubeconfig=DIRECTORY / "management"),
        namespace="requests",
        issuer_name="venafi.example",
    )


def test_every_key_of_cert_manager_is_read() -> None:
    text = f"""{CERT_MANAGER}
context = "admin@management"
allowed_exec = ["/usr/bin/aws"]
issuer_kind = "StepClusterIssuer"
issuer_group = "certmanager.step.sm"
"""
    assert authority(text) == CertManagerAuthorityConfig(
        name="shared",
        credentials=Credentials(
            kubeconfig=DIRECTORY / "management", context="admin@management", allowed_exec=("/usr/bin/aws",)
        ),
        namespace="requests",
        issuer_name="venafi.example",
        issuer_kind="StepClusterIssuer",
        issuer_group="certmanager.step.sm",
    )
    own = authority(line(without(CERT_MANAGER, "kubeconfig"), "in_cluster = true"))
    assert isinstance(own, CertManagerAuthorityConfig)
    assert own.credentials == Credentials(kubeconfig=None, in_cluster=True)


def test_a_small_private_ca_gets_the_models_defaults() -> None:
    assert authority(PCA) == AwsPcaAuthorityConfig(
        name="shared", aws=AwsConfig(region="eu-central-1"), ca_arn=CA_ARN
    )


def test_every_key_of_a_private_ca_is_read() -> None:
    text = f"""{PCA}
endpoint = "https://vpce-1.acm-pca.eu-central-1.vpce.amazonaws.com/"
role_arn = "arn:aws:iam::111122223333:role/mesh/federation-signer"
jwt = "file:/run/aws/token"
ca_file = "proxy-ca.pem"
template = "EndEntityCertificate/V1"
serving_template = "EndEntityServerAuthCertificate/V1"
"""
    assert authority(text) == AwsPcaAuthorityConfig(
        name="shared",
        aws=AwsConfig(
            region="eu-central-1",
            endpoint="https://vpce-1.acm-pca.eu-central-1.vpce.amazonaws.com",
            role_arn="arn:aws:iam::111122223333:role/mesh/federation-signer",
            jwt=JwtRef("file", "/run/aws/token"),
            ca_file=DIRECTORY / "proxy-ca.pem",
        ),
        ca_arn=CA_ARN,
        template="EndEntityCertificate/V1",
        serving_template="EndEntityServerAuthCertificate/V1",
    )


@pytest.mark.parametrize(
    "key",
    [
        KEY_ID,
        "mrk-1234abcd12ab34cd56ef1234567890ab",
        "alias/mesh/issuing_1",
        f"arn:aws:kms:eu-central-1:111122223333:key/{KEY_ID}",
        "arn:aws:kms:eu-central-1:111122223333:alias/mesh",
    ],
)
def test_a_key_of_kms_in_each_of_its_forms(key: str) -> None:
    assert authority(line(KMS, f'key_id = "{key}"')) == AwsKmsAuthorityConfig(
        name="shared",
        aws=AwsConfig(region="eu-central-1"),
        key_id=key,
        certificate_file=DIRECTORY / "chain.pem",
    )


@pytest.mark.parametrize("region", ["us-gov-west-1", "cn-north-1", "eusc-de-east-1", "ap-southeast-7"])
def test_regions_of_every_partition(region: str) -> None:
    assert authority(line(KMS, f'region = "{region}"'))


def test_an_intermediate_in_conjur() -> None:
    config = good(hub(VARIABLES, CONJUR))
    assert config.signer.authority == ConjurAuthorityConfig(
        name="shared", chain_variable="pki/chain", key_variable="pki/key"
    )
    assert config.signer.conjur == ConjurConfig(
        url="https://conjur.example", account="acme", authenticator="hub", jwt=JwtRef("file", "/run/token")
    )
    assert config.signer.spiffe is None


def test_every_key_of_conjur_and_of_the_workload_api_is_read() -> None:
    conjur = without(CONJUR, "jwt") + (
        'jwt = "spiffe:conjur"\nhost = "host/mesh/hub"\nca_file = "ca.pem"\npoll = "2m"\ntimeout = 3\n'
    )
    spiffe = '[signer.spiffe]\nsocket = "unix:///run/agent.sock"\ntimeout = "2s"\n'
    config = good(hub(VARIABLES, conjur, spiffe))
    assert config.signer.conjur == ConjurConfig(
        url="https://conjur.example",
        account="acme",
        authenticator="hub",
        jwt=JwtRef("spiffe", "conjur"),
        host="host/mesh/hub",
        ca_file=DIRECTORY / "ca.pem",
        poll=120.0,
        timeout=3.0,
    )
    assert config.signer.spiffe == SpiffeConfig(socket=Path("/run/agent.sock"), timeout=2.0)


def test_sources_of_credentials_may_be_there_before_they_are_used() -> None:
    config = good(GOOD + CONJUR + SPIFFE)
    assert config.signer.conjur is not None
    assert config.signer.spiffe is not None


def test_the_keys_of_an_unknown_kind_are_not_judged() -> None:
    found = refused(line(VAULT, 'kind = "valt"') + KUBERNETES)
    assert set(found) == {"kind"}
    assert "did you mean vault?" in found["kind"]


@pytest.mark.parametrize("kind", EVERY_REMOTE)
def test_a_bare_table_of_a_kind_names_all_that_is_missing(kind: str) -> None:
    bare = f'[signer.authority]\nkind = "{kind}"\n'
    required = {
        "vault": {"address", "role", "serving_role", "auth"},
        "vault-transit": {"address", "key", "certificate_file", "auth"},
        "pkcs11": {"module", "pin", "certificate_file", "token", "key_label"},
        "cert-manager": {"kubeconfig", "namespace", "issuer_name"},
        "aws-pca": {"region", "ca_arn"},
        "aws-kms": {"region", "key_id", "certificate_file"},
    }
    assert set(refused(bare)) == {"name"} | required[kind]


@pytest.mark.parametrize(
    ("method", "missing"),
    [
        ("token", {"token"}),
        ("kubernetes", {"role", "jwt"}),
        ("jwt", {"role", "jwt"}),
        ("approle", {"role_id", "secret_id"}),
        ("cert", {"client_certificate_file"}),
    ],
)
def test_a_bare_method_names_all_that_is_missing(method: str, missing: set[str]) -> None:
    assert set(refused(VAULT, login(method))) == {f"auth.{key}" for key in missing}


@pytest.mark.parametrize(
    ("processes", "warned"), [("", True), ("processes = 2\n", True), ("processes = 1\n", False)]
)
def test_a_wrapping_token_is_for_one_process(processes: str, warned: bool) -> None:
    auth = login("approle", 'role_id = "file:r"', 'secret_id = "file:s"', "secret_id_wrapped = true")
    text = hub(VAULT, auth).replace("[signer.authority]", f"[signer]\n{processes}[signer.authority]", 1)
    found = [warning for warning in good(text).warnings if "secret_id_wrapped" in warning]
    assert bool(found) is warned
    assert all("signer.processes = 1" in warning for warning in found)


METHOD_KEYS = {
    "mount": '"m"',
    "role": '"r"',
    "jwt": '"file:j"',
    "token": '"file:t"',
    "role_id": '"file:r"',
    "secret_id": '"file:s"',
    "secret_id_wrapped": "true",
    "client_certificate_file": '"c"',
    "client_key_file": '"k"',
}
TAKEN = {
    "token": {"token"},
    "kubernetes": {"mount", "role", "jwt"},
    "jwt": {"mount", "role", "jwt"},
    "approle": {"mount", "role", "role_id", "secret_id", "secret_id_wrapped"},
    "cert": {"mount", "role", "client_certificate_file", "client_key_file"},
}


@pytest.mark.parametrize("method", TAKEN)
def test_exactly_the_keys_of_the_chosen_method_are_taken(method: str) -> None:
    found = refused(VAULT, login(method, *(f"{key} = {value}" for key, value in METHOD_KEYS.items())))
    assert set(found) == {f"auth.{key}" for key in set(METHOD_KEYS) - TAKEN[method]}
    assert all(f"is not a key of method {method}" in said for said in found.values())
    assert all("use the method it belongs to: " in said for said in found.values())


def test_without_a_method_no_key_is_called_unknown() -> None:
    auth = '[signer.authority.auth]\ntoken = "file:t"\nsecret_id = "file:s"\nmethd = "token"\n'
    assert set(refused(VAULT, auth)) == {"auth.method", "auth.methd"}


def test_with_an_unknown_method_a_key_of_none_is_called_unknown() -> None:
    found = refused(VAULT, login("kerberos", 'token = "file:t"', 'kubeconfig = "k"'))
    assert set(found) == {"auth.method", "auth.kubeconfig"}


VAULT_WHOLE = VAULT + KUBERNETES
MISTAKES = [
    (VAULT_WHOLE, 'name = "A b"', "name", "not a name for an authority"),
    (VAULT_WHOLE, 'address = "http://vault.example:8200"', "address", "plain http to another machine"),
    (VAULT_WHOLE, 'address = "vault.example"', "address", "https://HOST"),
    (VAULT_WHOLE, 'address = "https://u:p@vault.example"', "address", "holds a user or a password"),
    (VAULT_WHOLE, 'namespace = "admin/"', "namespace", 'without "/" at its ends'),
    (VAULT_WHOLE, 'mount = "../sys"', "mount", "not a path in Vault"),
    (VAULT_WHOLE, 'role = "a/b"', "role", "not a name in Vault"),
    (VAULT_WHOLE, 'serving_role = ".."', "serving_role", "not a name in Vault"),
    (VAULT_WHOLE, 'issuer = ""', "issuer", "not a name in Vault"),
    (VAULT_WHOLE, "insecure = true", "insecure", "not a key the hub knows"),
    (VAULT_WHOLE, "quota = -1", "quota", "use 0 to 100000"),
    (VAULT_WHOLE, "quota = nan", "quota", "out of range"),
    (VAULT_WHOLE, 'quota = "25"', "quota", "must be a number, not a string"),
    (VAULT_WHOLE, "max_in_flight = 0", "max_in_flight", "use 1 to"),
    (VAULT_WHOLE, "max_queued = 1e9", "max_queued", "whole number"),
    (VAULT_WHOLE, "poll_seconds = 0", "poll_seconds", "use 0.1 s to 3600 s"),
    (VAULT_WHOLE, "timeout = 0", "timeout", "use 0.1 s to 120 s"),
    (VAULT_WHOLE, 'timeout = "10s"', "timeout", "the listener would give up first"),
    (TRANSIT + KUBERNETES, 'key = ""', "key", "not a name in Vault"),
    (PKCS11, 'token = ""', "token", "is empty"),
    (PKCS11, f'token = "{"x" * 33}"', "token", "longer than 32 bytes"),
    (PKCS11, "slot = 3", "slot", "names the token a second time, beside token"),
    (PKCS11, 'serial = "1"', "serial", "a second time"),
    (PKCS11, 'key_id = "0g"', "key_id", "not a key's ID in hex"),
    (PKCS11, 'pin = "1234"', "pin", "is never written here"),
    (CERT_MANAGER, 'namespace = "A"', "namespace", "not a namespace name"),
    (CERT_MANAGER, 'issuer_name = "a/b"', "issuer_name", "not an object name"),
    (CERT_MANAGER, 'issuer_kind = "clusterissuer"', "issuer_kind", "not a kind"),
    (CERT_MANAGER, 'issuer_group = ""', "issuer_group", "not a DNS name"),
    (CERT_MANAGER, "in_cluster = true", "kubeconfig", "contradicts in_cluster"),
    (PCA, 'region = "Frankfurt"', "region", "not a region"),
    (PCA, 'region = "eu-west-1"', "ca_arn", "is in eu-central-1, not in eu-west-1"),
    (PCA, 'ca_arn = "arn:aws:acm-pca:eu-central-1:1:certificate-authority/x"', "ca_arn", "private CA"),
    (PCA, f'ca_arn = "{CA_ARN.replace("acm-pca", "acm")}"', "ca_arn", "not the ARN of a private CA"),
    (PCA, 'endpoint = "http://pca.example"', "endpoint", "plain http"),
    (PCA, 'role_arn = "arn:aws:iam::111122223333:role/hub"', "jwt", "is missing beside role_arn"),
    (PCA, 'jwt = "file:token"', "role_arn", "is missing beside jwt"),
    (PCA, 'template = "RootCACertificate/V1"', "template", "make a CA"),
    (PCA, 'template = "SubordinateCACertificate_PathLen0/V1"', "template", "make a CA"),
    (PCA, 'template = "BlankSubordinateCACertificate_PathLen0_CSRPassthrough/V1"', "template", "make a CA"),
    (PCA, 'serving_template = "BlankRootCACertificate_APIPassthrough/V1"', "serving_template", "make a CA"),
    (
        PCA,
        'serving_template = "OCSPSigningCertificate/V1"',
        "serving_template",
        "not a template for the listener",
    ),
    (PCA, 'template = "EndEntityServerAuthCertificate/V1"', "template", "not a template for workloads"),
    (PCA, 'template = "EndEntityCertificate_CSRPassthrough/V1"', "template", "not a template for workloads"),
    (PCA, 'template = "arn:aws:acm-pca:::template/EndEntityCertificate/V1"', "template", "not a template"),
    (KMS, 'key_id = "mesh"', "key_id", "alias/NAME"),
    (KMS, 'key_id = "arn:aws:kms:us-east-1:111122223333:alias/mesh"', "key_id", "is in us-east-1"),
    (VARIABLES + CONJUR, 'key_variable = "conjur:pki/key"', "key_variable", "its ID alone"),
    (VARIABLES + CONJUR, 'key_variable = "acme:variable:pki/key"', "key_variable", "its ID alone"),
    (VARIABLES + CONJUR, 'key_variable = "pki/chain"', "key_variable", "the chain's variable"),
    (VARIABLES + CONJUR, 'chain_variable = "/pki"', "chain_variable", "its ID alone"),
    (VARIABLES + CONJUR, 'chain_variable = "a,b"', "chain_variable", "its ID alone"),
    (VARIABLES + CONJUR, "quota = 5", "quota", "not a key the hub knows"),
]


@pytest.mark.parametrize(("text", "written", "key", "says"), MISTAKES, ids=[case[1] for case in MISTAKES])
def test_a_single_mistake_is_named_with_its_key_and_remedy(
    text: str, written: str, key: str, says: str
) -> None:
    found = refused(line(text, written))
    assert set(found) == {key}
    assert says in found[key]


@pytest.mark.parametrize(
    ("auth", "key", "says"),
    [
        (login("kerberos"), "method", "kubernetes"),
        (login("token", 'token = "hvs.abcdef"'), "token", "is never written here"),
        (login("token", 'token = "env:1X"'), "token", "no environment variable"),
        (login("token", 'token = "file:"'), "token", "file:PATH"),
        (login("token", 'token = "file:~/.vault-token"'), "token", "'~' is not expanded"),
        (login("token", 'token = "file:///run/token"'), "token", "is a URL"),
        (login("token", 'token = "spiffe:vault"'), "token", "not a place of a secret"),
        (login("token", "token = 7"), "token", "must be a string"),
        (login("jwt", 'role = "r"', 'jwt = "env:TOKEN"'), "jwt", "nothing renews it"),
        (login("jwt", 'role = "r"', 'jwt = "conjur:token"'), "jwt", "nothing renews it"),
        (login("jwt", 'role = "r"', 'jwt = "eyJhbGciOi"'), "jwt", "is never written here"),
        (login("jwt", 'role = "r"', 'jwt = "file:j"', 'mount = "auth/jwt"'), "mount", 'leave "auth/" out'),
        (login("approle", 'role_id = "file:a"', 'secret_id = "file:a"'), "secret_id", "keep them apart"),
        (
            login("approle", 'role_id = "file:a"', 'secret_id = "file:b"', 'role = "hub"'),
            "role",
            "secret_id_wrapped",
        ),
        (login("cert", 'client_certificate_file = "c"'), "client_key_file", "is missing"),
        (login("cert", 'client_key_file = "k"'), "client_certificate_file", "is missing"),
        (
            login("cert", 'client_certificate_file = "c"', 'client_key_file = "c"'),
            "client_key_file",
            "a file of its own",
        ),
        (
            login("cert", 'client_certificate = "spiffe"', 'client_key_file = "k"'),
            "client_key_file",
            "contradicts client_certificate",
        ),
        (login("cert", 'client_certificate = "c.pem"'), "client_certificate", 'can only be "spiffe"'),
    ],
)
def test_mistakes_in_a_way_to_log_in(auth: str, key: str, says: str) -> None:
    found = refused(VAULT, auth, SPIFFE)
    assert set(found) == {f"auth.{key}"}
    assert says in found[f"auth.{key}"]


@pytest.mark.parametrize(
    ("written", "key", "says"),
    [
        ('url = "http://conjur.example"', "url", "plain http"),
        ('account = "a/b"', "account", "not an account"),
        ('authenticator = "authn-jwt/hub"', "authenticator", "no '/'"),
        ('jwt = "conjur:token"', "jwt", "nothing renews it"),
        ('jwt = "spiffe:conjur"', "jwt", "[signer.spiffe]"),
        ('host = "a b"', "host", "space"),
        ("poll = 0", "poll", "use 0.1 s"),
        ('timeout = "2m"', "timeout", "use 0.1 s to 60 s"),
        ('password = "x"', "password", "not a key the hub knows"),
    ],
)
def test_mistakes_in_conjur(written: str, key: str, says: str) -> None:
    name = written.partition(" = ")[0]
    found = refused(VARIABLES, without(CONJUR, name) + written + "\n")
    assert set(found) == {f"conjur.{key}"}
    assert says in found[f"conjur.{key}"]


@pytest.mark.parametrize(
    ("written", "key"),
    [('socket = "api.sock"', "socket"), ('socket = "tcp://127.0.0.1:8081"', "socket"), ("", "socket")],
)
def test_mistakes_in_the_workload_api(written: str, key: str) -> None:
    found = refused(VARIABLES, CONJUR, f"[signer.spiffe]\n{written}\n")
    assert set(found) == {f"spiffe.{key}"}


@pytest.mark.parametrize(
    ("text", "key", "needs"),
    [
        (VARIABLES, "kind", "[signer.conjur]"),
        (line(PKCS11, 'pin = "conjur:hsm/pin"'), "pin", "[signer.conjur]"),
        (VAULT + login("token", 'token = "conjur:vault/token"'), "auth.token", "[signer.conjur]"),
        (
            VAULT + login("approle", 'role_id = "file:r"', 'secret_id = "conjur:s"'),
            "auth.secret_id",
            "[signer.conjur]",
        ),
        (VAULT + login("jwt", 'role = "r"', 'jwt = "spiffe:vault"'), "auth.jwt", "[signer.spiffe]"),
        (
            VAULT + login("cert", 'client_certificate = "spiffe"'),
            "auth.client_certificate",
            "[signer.spiffe]",
        ),
        (
            PCA + 'role_arn = "arn:aws:iam::111122223333:role/hub"\njwt = "spiffe:sts"\n',
            "jwt",
            "[signer.spiffe]",
        ),
    ],
)
def test_what_a_reference_needs_has_to_be_there(text: str, key: str, needs: str) -> None:
    found = refused(text)
    assert set(found) == {key}
    assert needs in found[key]
    assert refused(text, CONJUR, SPIFFE) == {}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (line(line(VAULT, 'address = "http://127.0.0.1:8200"'), 'ca_file = "ca"') + KUBERNETES, "ca_file"),
        (line(line(KMS, 'endpoint = "http://[::1]:5000"'), 'ca_file = "ca"'), "ca_file"),
        (
            VARIABLES + CONJUR.replace("https://conjur.example", "http://localhost") + 'ca_file = "ca"\n',
            "conjur.ca_file",
        ),
    ],
    ids=["vault", "aws", "conjur"],
)
def test_a_ca_file_with_a_plain_http_address_is_refused_as_unused(text: str, key: str) -> None:
    found = refused(text)
    assert set(found) == {key}
    assert "is never used" in found[key]


def test_a_client_certificate_needs_tls() -> None:
    auth = login("cert", 'client_certificate_file = "c"', 'client_key_file = "k"')
    found = refused(line(VAULT, 'address = "http://localhost:8200"'), auth)
    assert set(found) == {"address"}
    assert "no client certificate is shown" in found["address"]


def test_a_token_from_the_environment_is_warned_about() -> None:
    (warning,) = good(hub(VAULT, login("token", 'token = "env:VAULT_TOKEN"'))).warnings
    assert warning.startswith("signer.authority.auth.token: ")
    assert "logs in anew" in warning
    assert good(hub(VAULT, login("token", 'token = "file:token"'))).warnings == ()


@pytest.mark.parametrize("kind", EVERY_REMOTE)
def test_a_timeout_that_exceeds_the_listeners_deadline_is_reported_at_the_timeout(kind: str) -> None:
    text = with_line('deadline = "3s"', in_table="listener", text=hub(EVERY_REMOTE[kind]))
    found = mistakes(text)
    assert set(found) == {"signer.authority.timeout"}
    assert "listener.deadline 3 s" in found["signer.authority.timeout"]
    patient = with_line(
        'deadline = "3s"', in_table="listener", text=hub(line(EVERY_REMOTE[kind], "timeout = 2.9"))
    )
    assert mistakes(patient) == {}


@pytest.mark.parametrize("uri", ["pkcs11:object=issuing", "pkcs11:token=mesh", "mesh", ""])
def test_a_uri_names_a_token_and_a_key(uri: str) -> None:
    found = refused(without(PKCS11, "token", "key_label") + f'uri = "{uri}"\n')
    assert set(found) == {"uri"}


def test_a_uri_stands_alone() -> None:
    found = refused(PKCS11 + 'uri = "pkcs11:token=mesh;object=issuing"\n')
    assert set(found) == {"token", "key_label"}


def test_mistakes_of_all_the_tables_are_found_at_once() -> None:
    text = """
[signer]
processes = -1
[signer.authority]
kind = "vault"
address = "http://vault.example"
role = "workload"
[signer.authority.auth]
method = "approle"
role_id = "conjur:id"
token = "file:t"
[signer.spiffe]
socket = "relative"
"""
    assert set(refused(text)) == {
        "processes",
        "name",
        "address",
        "serving_role",
        "auth.role_id",
        "auth.secret_id",
        "auth.token",
        "spiffe.socket",
    }


def test_without_an_authority_the_rest_is_judged_all_the_same() -> None:
    text = HUB.replace("[signer.authority]", "[signer.conjur]")
    found = mistakes(text)
    assert {"signer.authority", "signer.conjur.url", "signer.conjur.name"} <= set(found)
