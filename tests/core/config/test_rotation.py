"""What a rotation is configured by: staged roots, a successor, its settings, older leaves; and where state is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.config.clusters import Credentials
from federation.core.config.hub import RotationConfig, StateConfig
from tests.core.config.authority_texts import CONJUR, KUBERNETES, PKCS11, VARIABLES, VAULT, hub
from tests.core.config.texts import AUTHORITY, EAST, GOOD, HUB, OTHER_PIN, PIN, good, mistakes, with_line

STAGED = f'[[trust.anchors]]\nfile = "new-root.pem"\nsha256 = "{OTHER_PIN}"\nstaged = true\n'
STATE = '[state]\ndirectory = "state"\n'


def successor(authority: str, name: str = "next") -> str:
    """That authority as the successor, with a name of its own."""
    text = authority.replace("signer.authority", "signer.successor")
    return text.replace('name = "shared"', f'name = "{name}"')


def test_a_staged_root_is_pinned_and_marked_as_staged() -> None:
    trust = good(GOOD.replace("[listener]", STAGED + "[listener]")).trust
    assert trust.pins == {PIN, OTHER_PIN}
    assert trust.staged == {OTHER_PIN}


def test_at_least_one_anchor_must_not_be_staged() -> None:
    found = mistakes(with_line("staged = true", in_table="trust.anchors"))
    assert set(found) == {"trust.anchors"}
    assert "remove staged" in found["trust.anchors"]
    assert set(mistakes(with_line("staged = 1", in_table="trust.anchors"))) == {"trust.anchors[0].staged"}


def test_a_successor_is_read_as_an_authority_is() -> None:
    text = successor(AUTHORITY).replace("chain.pem", "next.pem").replace("key.pem", "next-key.pem")
    signer = good(GOOD + text).signer
    assert signer.authority.name == "shared"
    assert signer.successor == LocalAuthorityConfig(
        name="next",
        certificate_file=Path("/etc/federation/next.pem"),
        key_file=Path("/etc/federation/next-key.pem"),
    )
    assert good(GOOD).signer.successor is None


def test_a_successor_logs_in_and_is_limited_on_its_own() -> None:
    text = successor(VAULT + 'quota = 7\ntimeout = "2s"\n' + KUBERNETES)
    found = good(hub(VAULT + KUBERNETES, text.replace("vault.example", "other.example"))).signer.successor
    assert found is not None
    assert (found.name, found.kind) == ("next", "vault")
    assert (found.quota, found.timeout) == (7.0, 2.0)  # type: ignore[union-attr]
    assert set(mistakes(hub(VAULT + KUBERNETES, text + 'timeout = "30s"\n'))) >= {
        "signer.successor.auth.timeout"
    }


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (GOOD + successor(AUTHORITY), "certificate_file", "same intermediate"),
        (
            GOOD + successor(AUTHORITY, "shared").replace("chain.pem", "next.pem"),
            "name",
            "a name of its own",
        ),
        (
            hub(VAULT + KUBERNETES, successor(VAULT + "quota = 9\n" + KUBERNETES)),
            "",
            "nothing to rotate to",
        ),
        (hub(VARIABLES, CONJUR, successor(VARIABLES)), "", "nothing to rotate to"),
        (hub(PKCS11, successor(PKCS11)), "certificate_file", "same intermediate"),
        (GOOD + successor(AUTHORITY) + 'kind = "vualt"\n', "kind", "did you mean vault?"),
        (hub(VAULT + KUBERNETES, successor(VARIABLES)), "kind", "needs Conjur"),
        (GOOD.replace(STATE, "") + f"{STATE}[signer]\nsuccessor = 1\n", "", "must be a table"),
    ],
    ids=["file", "name", "vault", "conjur", "pkcs11", "kind", "no-conjur", "shape"],
)
def test_a_successor_that_is_none(text: str, key: str, says: str) -> None:
    found = mistakes(text)
    place = ".".join(part for part in ("signer.successor", key) if part)
    assert says in found[place]
    assert all(other.startswith("signer.") for other in found)


def test_every_key_of_a_rotation_is_read() -> None:
    text = '[controller.rotation]\nautomatic = false\nsoak = "15m"\nwaves = 5\nskew = "2m"\nfresh = "90s"\n'
    assert good(GOOD + text).controller.rotation == RotationConfig(
        automatic=False, soak=900.0, waves=5, skew=120.0, fresh=90.0
    )
    assert good(GOOD).controller.rotation == RotationConfig()


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('soak = "31d"', "soak"),
        ("soak = -1", "soak"),
        ("waves = 0", "waves"),
        ("waves = 1.0", "waves"),
        ('skew = "61m"', "skew"),
        ("fresh = 0", "fresh"),
        ('fresh = "2h"', "fresh"),
        ("automatic = 1", "automatic"),
        ('soack = "1h"', "soack"),
    ],
)
def test_mistakes_in_a_rotation(line: str, key: str) -> None:
    assert set(mistakes(GOOD + f"[controller.rotation]\n{line}\n")) == {f"controller.rotation.{key}"}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[controller.rotation]\nsoak = 0\n", "controller.rotation.soak"),
        ('[controller.rotation]\nfresh = "20s"\n', "controller.rotation.fresh"),
        ('[controller.proof]\ninterval = "1h"\n', "controller.rotation.fresh"),
    ],
)
def test_what_weakens_or_starves_the_gates_is_warned_about(text: str, key: str) -> None:
    assert {warning.partition(": ")[0] for warning in good(GOOD + text).warnings} == {key}


def test_a_gate_with_time_enough_is_not_warned_about() -> None:
    text = "[controller.proof]\ninterval = 30\n[controller.rotation]\nfresh = 90\nsoak = 0.1\nskew = 0\n"
    assert good(GOOD + text).warnings == ()


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ('"365d"', 365 * 86400.0), ('"36h"', 129600.0)])
def test_the_life_of_earlier_leaves_may_be_declared(value: str, seconds: float) -> None:
    config = good(with_line(f"earlier_longest_ttl = {value}", in_table="clusters"))
    assert [cluster.earlier_longest_ttl for cluster in config.clusters] == [seconds, None]


@pytest.mark.parametrize("value", ["-1", '"366d"', "true", '""'])
def test_a_life_of_earlier_leaves_that_is_none(value: str) -> None:
    found = mistakes(with_line(f"earlier_longest_ttl = {value}", in_table="clusters"))
    assert set(found) == {"clusters[0].earlier_longest_ttl"}


def test_what_becomes_of_own_anchors_is_said_for_each_cluster() -> None:
    config = good(with_line('member_cas = "replace"', in_table="clusters"))
    assert [cluster.member_cas for cluster in config.clusters] == ["replace", "hold"]


@pytest.mark.parametrize("value", ['"keep"', "true", '""'])
def test_nothing_else_becomes_of_own_anchors(value: str) -> None:
    found = mistakes(with_line(f"member_cas = {value}", in_table="clusters"))
    assert set(found) == {"clusters[0].member_cas"}


def test_state_in_files_is_the_default_and_can_be_said() -> None:
    said = GOOD.replace(STATE, f'{STATE}kind = "files"\n')
    assert good(said).state == good(GOOD).state == StateConfig(directory=Path("/etc/federation/state"))


@pytest.mark.parametrize(
    ("lines", "credentials"),
    [
        ("in_cluster = true", Credentials(kubeconfig=None, in_cluster=True)),
        (
            'kubeconfig = "hub"\ncontext = "management"\nallowed_exec = ["/usr/bin/aws"]',
            Credentials(
                kubeconfig=Path("/etc/federation/hub"), context="management", allowed_exec=("/usr/bin/aws",)
            ),
        ),
    ],
    ids=["in-cluster", "kubeconfig"],
)
def test_state_in_kubernetes(lines: str, credentials: Credentials) -> None:
    text = GOOD.replace(STATE, f'[state]\nkind = "kubernetes"\nnamespace = "hub"\n{lines}\n')
    assert good(text).state == StateConfig(kind="kubernetes", namespace="hub", credentials=credentials)


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ('kind = "kubernetes"\nin_cluster = true', {"namespace": "only the hub may write"}),
        ('kind = "kubernetes"\nnamespace = "hub"', {"kubeconfig": "in_cluster = true"}),
        ('kind = "kubernetes"\nnamespace = "Hub"\nin_cluster = true', {"namespace": "not a namespace"}),
        (
            'kind = "kubernetes"\nnamespace = "hub"\nin_cluster = true\ndirectory = "state"',
            {"directory": 'a key of kind = "files"'},
        ),
        (
            'kind = "kubernetes"\nnamespace = "hub"\nin_cluster = true\nkubeconfig = "k"',
            {"kubeconfig": "contradicts"},
        ),
        (
            'namespace = "hub"\nin_cluster = true',
            {"directory": "is missing", "namespace": "set that kind", "in_cluster": "set that kind"},
        ),
        ('kind = "etcd"\nnamespace = "hub"', {"kind": "known here: files, kubernetes"}),
        ('kind = "kubernets"', {"kind": "did you mean kubernetes?"}),
        ('directory = "state"\nquota = 1', {"quota": "not a key the hub knows"}),
        ('directory = "state"\nnamespac = "hub"', {"namespac": "did you mean namespace?"}),
    ],
)
def test_mistakes_in_state(table: str, found: dict[str, str]) -> None:
    said = mistakes(GOOD.replace(STATE, f"[state]\n{table}\n"))
    assert set(said) == {f"state.{key}" for key in found}
    assert all(words in said[f"state.{key}"] for key, words in found.items())


def test_the_hub_may_have_a_successor_before_any_cluster() -> None:
    text = successor(AUTHORITY).replace("chain.pem", "next.pem")
    assert good(HUB + text).clusters == ()
    assert len(good(HUB + text + EAST).clusters) == 1
