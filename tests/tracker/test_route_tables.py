"""BGP tables from files: both forms, compressed or not, what is wrong in them, and the longest prefix."""

from __future__ import annotations

import bz2
import gzip
import io
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracker.mrt_files import attribute, attributes, peers, record, rib, segment

from p2pfill.errors import ConfigError
from p2pfill.model.routes import Match, Route, TableFile
from p2pfill.tracker import route_tables
from p2pfill.tracker.mrt import read_mrt
from p2pfill.tracker.route_tables import Trie, load_routes, load_table, parse_address, read_csv

CSV = b"""prefix,as_path,local_preference,med
# from the router in Paris
192.0.2.0/24,64500 64501,120,5
192.0.2.128/25,64500,,

2001:db8::/32,64500 {64502 64503},100,0
0.0.0.0/0,64500 64599
"""

MRT = b"".join(
    [
        peers(2),
        rib("192.0.2.0/24", attributes(segment(2, 1, 2, 3)), attributes(segment(2, 64500, 64501), 120, 5)),
        rib("192.0.2.128/25", attributes(segment(2, 64500)), path_ids=True),
        rib("2001:db8::/32", attributes(segment(2, 64500) + segment(1, 64502, 64503), 100, 0)),
        rib("0.0.0.0/0", attributes(segment(3, 65000) + segment(2, 64500, 64599))),
        rib("198.51.100.0/24"),
        record(3, b"\xff" * 9),  # multicast
        record(1, b"bgp", kind=16),
    ]
)

PLAIN: Callable[[bytes], bytes] = bytes


def table_of(path: Path, data: bytes) -> tuple[Trie, route_tables.TableState]:
    path.write_bytes(data)
    return load_table(path, TableFile(path.name))


@pytest.mark.parametrize("pack", [PLAIN, gzip.compress, bz2.compress])
@pytest.mark.parametrize("data", [CSV, MRT], ids=["csv", "mrt"])
def test_a_table_is_read_whatever_its_form(data: bytes, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    trie, state = table_of(tmp_path / "rib", pack(data))
    assert (state.prefixes, state.wrong, state.file) == (4, 0, "rib")
    assert trie.find("192.0.2.1") == Match("192.0.2.0/24", Route(("64500", "64501"), 120, 5))
    assert trie.find("192.0.2.200") == Match("192.0.2.128/25", Route(("64500",)))
    assert trie.find("::ffff:192.0.2.200") == trie.find("192.0.2.200")
    assert trie.find("2001:db8::7") == trie.find("[2001:db8::7]") != trie.find("2001:db9::7")
    found = trie.find("2001:db8::7")
    assert found is not None
    assert found.route.as_path == ("64500", "{64502,64503}")
    assert trie.find("8.8.8.8") == Match("0.0.0.0/0", Route(("64500", "64599")))
    assert trie.find("2001:db9::7") is None, "the default route is of the other family"
    assert trie.find("cache.example") is None


def test_lines_that_cannot_be_used_are_named_and_the_others_count(tmp_path: Path) -> None:
    lines = [
        b"192.0.2.0/24,64500", b"192.0.2.0/33,64500", b"nonsense", b"10.0.0.0/8,64500 x", b"10.0.0.0/8,1,-1",
        b"10.0.0.0/8,1,2,3,4", b"10.0.0.0/8,1,,4294967296", b"\xff\xfe,1",
        b"10.0.0.0/8," + b"1 " * 40_000, b"198.51.100.0/24,64501",
    ]  # fmt: skip
    trie, state = table_of(tmp_path / "rib.csv", b"\n".join(lines))
    assert (len(trie), state.wrong) == (2, 8)
    assert [one.split(":")[0] for one in state.wrong_first] == ["2", "3", "4", "5", "6"]
    assert "'64500 x' is not numbers" in state.wrong_first[2]


def test_records_that_cannot_be_used_are_named_and_the_others_count(tmp_path: Path) -> None:
    good = rib("192.0.2.0/24", attributes(segment(2, 64500)))
    bad = [
        record(2, b"\0\0\0\0\x21" + b"\0" * 7),  # a prefix of 33 bits
        record(2, b"\0\0"),
        rib("10.0.0.0/8", attributes(segment(2, 1))[:-2]),
        rib("10.0.0.0/8", attributes(segment(9, 1))),
        rib("10.0.0.0/8", attributes(segment(2, 1)[:-1])),
        rib("10.0.0.0/8", attribute(4, b"\0")),
        rib("10.0.0.0/8", attributes(segment(2, 1)))[:-3],  # takes the next record's first bytes, so this is the end
    ]
    trie, state = table_of(tmp_path / "rib", peers() + good + b"".join(bad))
    assert (len(trie), state.wrong) == (1, 7)
    assert [one.split(":")[0] for one in state.wrong_first] == ["3", "4", "5", "6", "7"]
    assert "33 bits" in state.wrong_first[0]
    long = peers() + good + b"\0\0\0\0\0\x0d\0\x02\xff\xff\xff\xff" + good
    assert "what follows cannot be found" in table_of(tmp_path / "rib", long)[1].wrong_first[0]


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_any_bytes_are_read_to_their_end(data: bytes) -> None:
    for reader in (read_csv, read_mrt):
        for entry in reader(io.BytesIO(data)):
            assert bool(entry.wrong) != bool(entry.prefix)
    head, tail = MRT[: len(MRT) // 2], MRT[len(MRT) // 2 :]
    for _ in read_mrt(io.BytesIO(head + data + tail)):
        pass


@contextmanager
def restored(number: signal.Signals) -> Iterator[None]:
    """Undo what an import does to a signal: after this one, whoever writes to a connection that is closed would die."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_another_reader_of_the_format_finds_the_same(tmp_path: Path) -> None:
    with restored(signal.SIGPIPE):
        import mrtparse  # type: ignore[import-untyped,unused-ignore]
    path = tmp_path / "rib"
    path.write_bytes(MRT[: MRT.index(rib("198.51.100.0/24"))])
    theirs = {}
    for one in mrtparse.Reader(str(path)):
        for entry in one.data.get("rib_entries", []):
            values = {next(iter(a["type"])): a["value"] for a in entry["path_attributes"]}
            path_of = [n for s in values[2] if 2 in s["type"] for n in s["value"]]
            sets = ["{" + ",".join(s["value"]) + "}" for s in values[2] if 1 in s["type"]]
            route = Route((*path_of, *sets), values.get(5), values.get(4))
            theirs.setdefault(f"{one.data['prefix']}/{one.data['length']}", []).append(route)
    with path.open("rb") as file:
        ours = {entry.prefix: entry.route for entry in read_mrt(file)}
    assert ours.keys() == theirs.keys()
    assert all(route in theirs[prefix] for prefix, route in ours.items())
    assert not any(other.is_better_than(ours[prefix]) for prefix, routes in theirs.items() for other in routes)


prefixes = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda one: ip_network(one, strict=False)),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(
        lambda one: ip_network((one[0].to_bytes(16, "big"), one[1]), strict=False)
    ),
)


@given(st.lists(prefixes, max_size=20), st.data())
@settings(max_examples=200)
def test_the_longest_prefix_is_that_of_a_search_through_all(networks: list[Any], data: st.DataObject) -> None:
    trie = Trie("rib")
    for network in networks:
        trie.add(str(network), Route((str(network.prefixlen),)))
    assert len(trie) == len(set(networks))
    within = [data.draw(st.integers(0, min(255, network.num_addresses - 1))) for network in networks]
    near = [network.network_address + offset for network, offset in zip(networks, within, strict=True)]
    for address in [*near, ip_address("203.0.113.7"), ip_address("2001:db8::7")]:
        found = trie.find(str(address))
        expected = max(
            (one for one in networks if one.version == address.version and address in one),
            key=lambda one: one.prefixlen, default=None,
        )  # fmt: skip
        if parse_address(str(address)) == address:
            assert (found and found.prefix) == (expected and str(expected))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "cannot read the routes in"),
        ({"routes.toml": "[weight]"}, "unknown field `weight`"),
        ({"routes.toml": "x = ["}, "cannot use the routes"),
        ({"routes.toml": "[weights]\nkm = -1"}, "weights.km"),
        ({"routes.toml": "[[pair]]\nreceiver = 'ips=a'\ncost = 1"}, "did you mean isp="),
        ({"routes.toml": "[[table]]\nfile = 'rib'"}, "cannot read the table in .*rib: No such file"),
        ({"routes.toml": "[[table]]\nfile = 'rib'", "rib": ""}, "it has no prefix that can be read$"),
        ({"routes.toml": "[[table]]\nfile = 'rib'", "rib": "a\nb\n"}, "the first that is wrong is 1: 1 columns"),
    ],
)
def test_what_cannot_be_used_is_said_with_the_place(files: dict[str, str], says: str, tmp_path: Path) -> None:
    for name, text in files.items():
        tmp_path.joinpath(name).write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_routes(tmp_path / "routes.toml")


def test_a_compressed_file_that_is_cut_short_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the table in .*rib: .*end"):
        table_of(tmp_path / "rib", gzip.compress(CSV)[:-12])


def test_a_table_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_tables, "PREFIXES_MAX", 3)
    with pytest.raises(ConfigError, match="more than 3 prefixes"):
        table_of(tmp_path / "rib", CSV)


def test_without_the_library_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytricia", None)
    with pytest.raises(ConfigError, match=r"p2pfill\[routes\]"):
        table_of(tmp_path / "rib", CSV)


def test_tables_lie_beside_the_file_that_names_them(tmp_path: Path) -> None:
    tmp_path.joinpath("rib.csv").write_bytes(CSV)
    config = "[weights]\nas_hop = 2\n[[pair]]\nreceiver = 'isp=a'\ncost = 3\n[[table]]\nfile = 'rib.csv'\n"
    tmp_path.joinpath("routes.toml").write_text(config)
    loaded = load_routes(tmp_path / "routes.toml")
    assert [state.prefixes for state in loaded.tables] == [4]
    assert loaded.routes.weights.as_hop == 2
