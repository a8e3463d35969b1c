"""x509-limbo, a suite of certificate chains and what verifiers should make of them, as a comparison.

Its cases are not part of this repository. ``FEDERATION_LIMBO`` names a ``limbo.json``; every case in which the hub
decides otherwise has to be covered by a reason here, and every reason by a case. docs/security.md says the same.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import pytest

from tests.core.pki.limbo import verdict

SUITE: Final = os.environ.get("FEDERATION_LIMBO", "")

STRICTER: Final = {
    "pathlen::validation-ignores-pathlen-in-leaf": "a workload's certificate is no CA (X509-SVID, 4.1); webpki agrees",
    "rfc5280::ca-as-leaf": "a workload's certificate is no CA (X509-SVID, 4.1); webpki agrees",
    "pathlen::self-issued-certs-pathlen": "Go counts what a CA issued to itself",
    "rfc5280::nc::permitted-self-issued": "Go compares the names of what a CA issued to itself",
    "rfc5280::nc::permitted-dn-match": "neither Go nor webpki processes constraints on subjects",
    "rfc5280::nc::nc-forbids-othername-noop": "Go refuses a critical constraint on names that it does not know",
    "rfc5280::nc::nc-permits-email-*": "constraints on mail addresses permit none: nothing in a mesh has one",
    "rfc5280::validity::notafter-fractional": "validity ends at its last second; Go agrees",
}
LAXER: Final = {
    "crl::*": "revocation of leaves is not judged: leaves live for hours, and no verifier of a mesh reads the CRL",
    "pathlen::max-chain-depth-*": "no caller asks for a depth: paths have 8 certificates at most",
    "rfc5280::aki::*": "key identifiers may be missing: no verifier of a mesh asks for them, and old roots have none",
    "rfc5280::ski::*": "key identifiers may be missing: no verifier of a mesh asks for them, and old roots have none",
    "webpki::aki::*": "the key identifiers of a root are not judged: only its name and key are used",
    "rfc5280::root-non-critical-basic-constraints": "old roots are like that; all verifiers of a mesh take them",
    "rfc5280::nc::permitted-dns-match-noncritical": "name constraints hold whether they are critical or not",
    "rfc5280::nc::invalid-dnsname-leading-period": "a leading dot means subdomains only, as all verifiers read it",
    "rfc5280::nc::not-allowed-in-ee-*": "constraints in a leaf bind no other certificate; the hub issues none",
    "rfc5280::san::noncritical-with-empty-subject": "the hub's own are critical; no verifier of a mesh asks for it",
    "rfc5280::san::underscore-dns": "Kubernetes has names with underscores, and Go and webpki take them",
    "webpki::cn::*": "the common name of a leaf is not looked at, by no verifier of a mesh either",
    "webpki::eku::*": "a rule of the CA/Browser Forum, not of a mesh; EKUs of issuers do confine leaves",
    "webpki::san::*": "a rule of the CA/Browser Forum, not of a mesh",
}


def reason_for(case: str, reasons: dict[str, str]) -> str | None:
    return next((pattern for pattern in reasons if fnmatchcase(case, pattern)), None)


@pytest.mark.skipif(not SUITE, reason="needs a limbo.json of x509-limbo in FEDERATION_LIMBO")
def test_where_the_hub_decides_otherwise_there_is_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    cases = json.loads(Path(SUITE).read_bytes())["testcases"]
    agree, used, without = 0, Counter[str](), []
    for case in cases:
        said = verdict(case)
        if bool(said) is (case["expected_result"] == "FAILURE"):
            agree += 1
            continue
        pattern = reason_for(case["id"], STRICTER if said else LAXER)
        used.update([pattern] if pattern else [])
        without += [] if pattern else [f"{case['id']}: {said or 'accepted'}"]
    with capsys.disabled():
        print(f"\nx509-limbo: {len(cases)} cases, {agree} agree, {sum(used.values())} differ for a reason")
        for pattern, count in used.items():
            print(f"  {count:3} {pattern}: {STRICTER.get(pattern) or LAXER[pattern]}")
    assert without == []
    assert {*STRICTER, *LAXER} == used.keys(), "a reason without a case"
