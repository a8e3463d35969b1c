"""What the hub sends in protobuf, read by the library."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.kubernetes.protobuf import encode_token_review
from federation_sandbox.apiserver.protobuf import read_protobuf


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8192),
    st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable()),
)
def test_a_token_review_is_what_the_library_reads(token: str, audience: str) -> None:
    assert read_protobuf(encode_token_review(token, audience), "TokenReview") == {
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "spec": {"token": token, "audiences": [audience]},
    }


def test_lengths_of_every_size_are_written_as_the_library_reads_them() -> None:
    for size in (1, 125, 126, 127, 128, 129, 16_380, 16_384, 2_097_152):
        spec = read_protobuf(encode_token_review("t" * size, "istio-ca"), "TokenReview")["spec"]
        assert spec == {"token": "t" * size, "audiences": ["istio-ca"]}
