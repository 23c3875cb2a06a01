"""Names in certificates: one way to write each, and none for two."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.errors import ConfigError
from p2pfill.model.identity import (
    URI_CHARS_MAX,
    Identity,
    Role,
    check_identity,
    host_from_text,
    identity_from_uri,
)
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo

ODD = "/%?#: \t\n\0\x7f.\\aA1-_~äß日\u0301\u202e\ud800\U0001f980é"
WORDS = st.one_of(st.text(ODD, max_size=6), st.text(max_size=20), st.integers(100, 130).map("日".__mul__))
NAMES = st.one_of(st.text(string.ascii_letters + string.digits + "._-", max_size=70), WORDS)
DOMAINS = st.one_of(st.sampled_from(["fleet.example", "a", "a/cache"]), st.text("ab.-_/A", max_size=8))


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    role = draw(st.sampled_from(Role))
    places = draw(st.tuples(WORDS, WORDS, WORDS)) if role is Role.CACHE or draw(st.booleans()) else ("", "", "")
    return Identity(draw(DOMAINS), role, draw(NAMES), *places)


def is_good(identity: Identity) -> bool:
    try:
        check_identity(identity)
    except ConfigError:
        return False
    return True


@given(identities())
def test_what_can_be_a_name_comes_back_from_its_uri(identity: Identity) -> None:
    if is_good(identity):
        assert identity_from_uri(identity.uri) == identity
        assert identity.uri.isascii()
        assert len(identity.uri) <= URI_CHARS_MAX


@given(WORDS.filter(bool), WORDS.filter(bool), WORDS)
def test_any_place_that_can_be_named_comes_back(region: str, isp: str, cluster: str) -> None:
    identity = Identity("fleet.example", Role.CACHE, "a1", region, isp, cluster)
    words = (region, isp, cluster)
    fits = all(len(word) <= 128 and word.isprintable() for word in words)
    if fits and sum(len(word.encode()) * 3 for word in words) < 900:
        assert identity_from_uri(identity.uri) == identity
    elif not fits:
        assert not is_good(identity)


@given(identities(), identities())
def test_no_two_have_one_uri(one: Identity, other: Identity) -> None:
    if is_good(one) and is_good(other):
        assert (one.uri == other.uri) == (one == other)


GOOD = "spiffe://fleet.example/cache/a1/region/europe/isp/i%2Fp/cluster/c1"


@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 3), st.text("/%2Fcacheuser.A\0ä", max_size=4))))
def test_a_uri_is_written_in_one_way_or_names_nobody(changes: list[tuple[int, int, str]]) -> None:
    uri = GOOD
    for place, gone, new in changes:
        uri = uri[:place] + new + uri[place + gone :]
    try:
        identity = identity_from_uri(uri)
    except ConfigError:
        return
    assert identity.uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "", "spiffe://", "spiffe://fleet.example", "fleet.example/user/anna", "https://fleet.example/user/anna",
        "spiffe://Fleet.example/user/anna", "spiffe://fleet.example:1/user/anna", "spiffe://fleet.example/user/anna/",
        "spiffe://fleet.example/user/anna?x", "spiffe://fleet.example/user/ann%61", "spiffe://fleet.example/root/anna",
        "spiffe://fleet.example//user/anna", "spiffe://fleet.example/user/../anna", "spiffe://fleet.example/cache/a1",
        "spiffe://fleet.example/cache/a1/isp/i/region/r", "spiffe://fleet.example/cache/a1/region/r/isp/",
        "spiffe://fleet.example/cache/a1/region/r/isp/i/cluster/", "spiffe://fleet.example/cache/a1/region/r/region/i",
        "spiffe://fleet.example/user/anna/region/r/isp/i", "spiffe://fleet.example/cache/a1/region/r/isp/%ff",
        "spiffe://fleet.example/cache/a1/region/r/isp/i%2fp", "spiffe://fleet.example/cache/a1/region/r/isp/ä",
        "spiffe://fleet.example/user/" + "a" * 2000, "spiffe://" + "%" * 5000,
    ],
)  # fmt: skip
def test_uris_that_name_nobody(uri: str) -> None:
    with pytest.raises(ConfigError):
        identity_from_uri(uri)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("A1.Example", "a1.example"), ("10.0.0.1", "10.0.0.1"), ("2001:DB8:0:0::1", "2001:db8::1"), ("::1", "::1"),
        ("localhost", "localhost"), ("a_b-c.example", "a_b-c.example"), ("1und1.example", "1und1.example"),
    ],
)  # fmt: skip
def test_hosts_are_written_in_one_way(text: str, host: str) -> None:
    assert host_from_text(text) == host == host_from_text(host)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "a..b", "a.", "*", "*.a", "a b", "a/b", "a:1", "[::1]", "10.0.0.1:80", "10.0.0", "1", "0x7f.1",
        "a.0x7f", "010.0.0.1", "0.0.0.0", "::", "224.0.0.1", "fe80::1%eth0", "-a.b", "ä.example", "a" * 64,
        "a." * 127 + "ab",
        "a\n", "\0",
    ],
)  # fmt: skip
def test_texts_that_are_no_host(text: str) -> None:
    with pytest.raises(ConfigError):
        host_from_text(text)


@given(st.text(max_size=80))
def test_any_text_is_a_host_or_none(text: str) -> None:
    try:
        host = host_from_text(text)
    except ConfigError:
        return
    check_identity(Identity("fleet.example", Role.TRACKER, "t", hosts=(host,)))


def test_hosts_of_a_name_are_as_they_are_written() -> None:
    for hosts in (("A1.example",), ("2001:DB8::1",), ("*.example",), ("a1",) * 65):
        assert not is_good(Identity("fleet.example", Role.TRACKER, "t", hosts=hosts))


def test_a_cache_is_what_its_certificate_says() -> None:
    named = Identity("fleet.example", Role.CACHE, "a1", "eu", "i", "c", ("a1.example", "2001:db8::1"))

    def said(**more: str) -> str:
        fields = {"id": "a1", "region": "eu", "isp": "i", "cluster": "c", "host": "a1.example"} | more
        return named.disagrees_with(NodeInfo(**(fields | {"id": NodeId(fields["id"])})))  # type: ignore[arg-type]

    for host in ("a1.example", "A1.Example", "2001:db8::1", "2001:DB8:0::1"):
        assert said(host=host) == ""
    for field, value in (("id", "b1"), ("region", "us"), ("isp", "j"), ("cluster", ""), ("host", "10.0.0.1")):
        assert field in said(**{field: value})
        assert "certificate" in said(**{field: value})
