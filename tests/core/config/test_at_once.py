"""A rule between keys is applied also where other keys are wrong, and says nothing of values that cannot be used."""

from __future__ import annotations

import pytest

from federation.core.config.load import parse_config
from federation.core.errors import ConfigurationError
from tests.core.config.authority_texts import (
    CERT_MANAGER,
    CONJUR,
    KUBERNETES,
    PCA,
    PKCS11,
    VARIABLES,
    VAULT,
    hub,
    line,
    login,
)
from tests.core.config.texts import (
    AUTHORITY,
    EAST,
    FILE,
    GOOD,
    HUB,
    OTHER_PIN,
    PIN,
    WEST,
    mistakes,
    with_line,
)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (
            with_line("max_concurrent_per_cluster = 600\ndeadline = true", in_table="listener"),
            {"listener.max_concurrent_per_cluster", "listener.deadline"},
        ),
        (
            with_line("deadline = 3\nlisten = 5", in_table="listener", text=hub(VAULT + KUBERNETES)),
            {"listener.listen", "signer.authority.timeout"},
        ),
        (
            hub(
                line(VAULT, 'address = "http://localhost"').replace('role = "workload"', "")
                + login("cert", "role = 5")
            ),
            {
                *("signer.authority.address", "signer.authority.role"),
                *("signer.authority.auth.role", "signer.authority.auth.client_certificate_file"),
            },
        ),
        (
            hub(line(PKCS11, "pin = 7") + 'uri = "pkcs11:token=a"\n'),
            {f"signer.authority.{key}" for key in ("pin", "uri", "token", "key_label")},
        ),
        (
            hub(line(CERT_MANAGER, "namespace = 7") + "in_cluster = true\n"),
            {"signer.authority.namespace", "signer.authority.kubeconfig"},
        ),
        (
            hub(line(line(PCA, 'region = "eu-west-1"'), "quota = true")),
            {"signer.authority.quota", "signer.authority.ca_arn"},
        ),
        (
            hub(line(VARIABLES, 'key_variable = "pki/chain"').replace('name = "shared"', "") + CONJUR),
            {"signer.authority.name", "signer.authority.key_variable"},
        ),
        (
            GOOD
            + AUTHORITY.replace("authority", "successor").replace('key_file = "key.pem"', "key_file = 5"),
            {"signer.successor.key_file", "signer.successor.name", "signer.successor.certificate_file"},
        ),
        (
            HUB + EAST.replace('"east"', '"East"') + WEST.replace("west-id", "east-id"),
            {"clusters[0].name", "clusters[1].cluster_id"},
        ),
        (
            HUB + EAST + WEST.replace('name = "west"', "").replace("west-signer", "east-signer"),
            {"clusters[1].name", "clusters[1].signer"},
        ),
        (
            GOOD.replace("[listener]", f'[[trust.anchors]]\nfile = 5\nsha256 = "{PIN}"\n[listener]'),
            {"trust.anchors[1].file", "trust.anchors[1].sha256"},
        ),
        (
            with_line('cluster = "north"\nstaged = 1', in_table="trust.anchors"),
            {"trust.anchors[0].staged", "trust.anchors[0].cluster"},
        ),
        (
            GOOD + '[clusters.policy]\nlongest_ttl = 60\ndefault_ttl = 61\nallow = ["x"]\n',
            {"clusters[1].policy.default_ttl", "clusters[1].policy.allow[0]"},
        ),
        (
            with_line('certificate_file = "c"\nlisten = 7', in_table="status"),
            {"status.key_file", "status.listen"},
        ),
    ],
)
def test_a_rule_runs_beside_a_wrong_key(text: str, keys: set[str]) -> None:
    assert set(mistakes(text)) == keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (
            with_line('max_concurrent = "x"\nmax_concurrent_per_cluster = 600', in_table="listener"),
            {"listener.max_concurrent"},
        ),
        (
            with_line('listen = "0.0.0.0:80"\ninsecure_allow_unauthenticated = "yes"', in_table="status"),
            {"status.insecure_allow_unauthenticated"},
        ),
        (GOOD.replace('server_names = ["hub.example"]', "server_names = 5"), {"listener.server_names"}),
        (
            GOOD + '[clusters.policy]\nlongest_ttl = "x"\ndefault_ttl = "90d"\n',
            {"clusters[1].policy.longest_ttl"},
        ),
        (
            GOOD.replace('trust_domain = "mesh.example"', "trust_domain = 5").replace(
                "[listener]",
                f'[[trust.anchors]]\nfile = "f"\nsha256 = "{OTHER_PIN}"\ntrust_domain = "other"\n[listener]',
            ),
            {"trust_domain"},
        ),
        (
            with_line('cluster = "north"', in_table="trust.anchors").replace('"west"', '"West"'),
            {"clusters[1].name"},
        ),
        (
            with_line(
                'deadline = "x"', in_table="listener", text=hub(line(VAULT, "timeout = 100") + KUBERNETES)
            ),
            {"listener.deadline"},
        ),
    ],
)
def test_a_rule_says_nothing_of_a_value_that_cannot_be_used(text: str, keys: set[str]) -> None:
    """A default in the place of what is wrong would make mistakes of its own."""
    assert set(mistakes(text)) == keys


def test_a_mistake_under_a_former_name_is_named_by_it() -> None:
    assert set(mistakes(with_line("token_file = 5", in_table="status"))) == {"status.token_file"}
    assert set(mistakes(with_line("own_anchors = 5", in_table="clusters"))) == {"clusters[0].own_anchors"}


def test_nothing_that_is_raised_leads_to_the_librarys_errors() -> None:
    """They hold what the file holds, and a traceback prints the whole chain."""
    with pytest.raises(ConfigurationError) as refused:
        parse_config(hub(PKCS11.replace('"file:/run/pin"', '"Zq9secret"')), file=FILE)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None
    assert "Zq9secret" not in repr(refused.value.findings)
