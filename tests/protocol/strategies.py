"""Hypothesis strategies for every control message, within its limits."""

from __future__ import annotations

from hypothesis import strategies as st

from p2pfill.model.limits import CHUNK_COUNT_MAX
from p2pfill.protocol import messages as m

u32 = st.integers(0, m.U32_MAX)
chunk = st.integers(0, CHUNK_COUNT_MAX - 1)
chunks = st.lists(chunk, min_size=1, max_size=50).map(tuple)
printable = st.characters(exclude_categories=("Cc", "Cs"))
label = st.text(printable, max_size=m.LABEL_CHARS_MAX)
reason = st.text(printable, max_size=m.REASON_CHARS_MAX)
node_id = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
host = st.from_regex(r"\A[A-Za-z0-9._:%-]{0,253}\Z")
weight = st.floats(min_value=0, exclude_min=True, max_value=m.WEIGHT_MAX)
token = st.binary(min_size=32, max_size=32)
certificate = st.just(b"") | token

hellos = st.builds(m.Hello, node_id, label, label, label, host, st.integers(0, 65535), weight, label, label)
messages = st.one_of(
    hellos,
    st.builds(m.Subscribe, u32, st.binary(min_size=32, max_size=32)),
    st.builds(m.Holdings, u32, st.booleans(), st.integers(0, CHUNK_COUNT_MAX), st.binary(max_size=200)),
    st.builds(m.Have, u32, chunks),
    st.builds(m.Fetching, u32, chunks),
    st.builds(m.Unsubscribe, u32),
    st.builds(m.Request, u32, u32, chunk),
    st.builds(m.Cancel, u32),
    st.builds(m.Reject, u32, st.from_regex(r"\A[a-z][a-z0-9-]{0,31}\Z")),
    st.builds(m.StreamOpen, u32, st.booleans(), certificate),
    st.builds(m.StreamGrant, u32, token, certificate),
    st.builds(m.StreamRefuse, u32, reason),
    st.builds(m.ReportSlow, u32, node_id),
    st.builds(m.Ping, u32),
    st.builds(m.Pong, u32),
    st.builds(m.Goodbye, st.integers(0, 255), reason),
    st.builds(m.Ways, u32, st.integers(0, m.WAYS_ALL)),
    st.builds(m.Interest, u32, st.integers(0, CHUNK_COUNT_MAX), st.binary(max_size=200)),
)
