"""Hypothesis strategies that several tests of this room share."""

from __future__ import annotations

import string

from hypothesis import strategies as st

from federation.core.identity import ServiceAccountRef, SpiffeId, TrustDomain
from federation.core.pki import der

_ENDS = string.ascii_lowercase + string.digits

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
subdomains = st.lists(labels, min_size=1, max_size=3).map(".".join)
trust_domains = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,30}[a-z0-9])?", fullmatch=True).map(TrustDomain)
accounts = st.builds(ServiceAccountRef, labels, subdomains)
identities = st.builds(SpiffeId, trust_domains, accounts)

elements = st.recursive(
    st.builds(
        lambda tag, content: der.encode(tag, content),
        st.sampled_from([0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x16, 0x81, 0x82, 0x86, 0x87]),
        st.binary(max_size=12),
    ),
    lambda inner: st.builds(
        lambda tag, parts: der.encode(tag, *parts),
        st.sampled_from([0x30, 0x31, 0xA0, 0xA3]),
        st.lists(inner, max_size=4),
    ),
    max_leaves=10,
)
"""Well-formed DER of no particular meaning."""
