"""Topology files: what they may say, and how mistakes are reported."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from docs.pages import ROOT, blocks, read

from bench.swarm import topology as module
from bench.swarm.__main__ import parse_arguments
from bench.swarm.topology import Event, Title, Topology, TopologyError, load_topology, parse_topology

FILES = sorted((ROOT / "bench" / "topologies").glob("*.toml"))
PAGE = ROOT / "docs" / "swarm-benchmark.md"
BASE = 'host_mbit = 100\n[isps]\ncloud = ["origin"]\nisp-a = ["a1", "a2"]\nisp-b = ["b1"]\n'
TITLES = "[[titles]]\nname = 'bulk'\nsize_mib = 256\n[[titles]]\nname = 'urgent'\nsize_mib = 64\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_topologies_load(path: Path) -> None:
    topology = load_topology(path)
    assert topology.counted()
    assert len({host.address for host in topology.hosts()}) == len(topology.hosts())


def test_several_titles_share_a_lab() -> None:
    topology = parse_topology(BASE + TITLES + "priority = 3\nat = 0.5\n", "x")
    bulk, urgent = topology.titles
    assert topology.size == 320 << 20
    assert (bulk.priority, bulk.at_seconds(8.0), urgent.priority, urgent.at_seconds(8.0)) == (0, 0.0, 3, 4.0)
    by_itself = topology.with_title(urgent)
    assert (by_itself.size, by_itself.titles, by_itself.hosts()) == (64 << 20, [], topology.hosts())
    assert Title(name="x", size_mib=1, at_s=2.0).at_seconds(8.0) == 2.0


def test_what_is_left_out_has_its_default() -> None:
    topology = parse_topology(BASE, "plain")
    assert (topology.name, topology.size_mib, topology.events) == ("plain", 256, [])
    a1 = topology.host("a1")
    assert (a1.isp, a1.region, a1.down_mbit, a1.up_mbit, a1.weight) == ("isp-a", "region", 100, 100, 1)
    assert [cache.name for cache in topology.counted()] == ["a1", "a2", "b1"]


def test_overrides_reach_their_hosts_and_isps() -> None:
    text = "uplink_mbit = 40\n" + BASE + "[rates]\na1 = 50\n[upload_rates]\na2 = 5\n[weights]\na2 = 0.1\n"
    topology = parse_topology(text + '[uplinks]\nisp-b = 20\n[regions]\nisp-b = "south"\n', "x")
    assert (topology.host("a1").down_mbit, topology.host("a1").up_mbit) == (50, 50)
    assert (topology.host("a2").down_mbit, topology.host("a2").up_mbit, topology.host("a2").weight) == (100, 5, 0.1)
    assert [topology.uplink(isp) for isp in topology.isps] == [0, 40, 20]
    assert [topology.host(name).region for name in ("a1", "b1")] == ["region", "south"]


def test_caches_that_are_hit_do_not_count() -> None:
    events = [("kill", "a1", "both"), ("slow", "a2", "up"), ("join", "b1", "both")]
    text = "".join(
        f'[[events]]\nkind = "{kind}"\nhost = "{host}"\nat = 0.5\nway = "{way}"\n' for kind, host, way in events
    )
    topology = parse_topology(BASE + text, "x")
    assert [cache.name for cache in topology.counted()] == ["a2", "b1"]
    assert topology.late() == {"b1"}


def test_when_events_happen() -> None:
    assert Event(kind="kill", host="a1", at=0.25).at_seconds(8.0) == 2.0
    assert Event(kind="kill", host="a1", at_s=3.0).at_seconds(8.0) == 3.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("host_mbit = [", "Invalid"),
        ("host_mbit = 1\n", "Object missing required field `isps`"),
        ("hots_mbit = 1\n" + BASE, "Object contains unknown field `hots_mbit`"),
        (
            BASE + "[[events]]\nkind = 'kill'\nhost = 'a1'\nat = 1\nwhen = 1\n",
            "unknown field `when` - at `$.events[0]`",
        ),
        (
            BASE + "[[events]]\nkind = 'burn'\nhost = 'a1'\nat = 1\n",
            "Invalid enum value 'burn' - at `$.events[0].kind`",
        ),
        (BASE + "[[events]]\nkind = 'kill'\nhost = 'a1'\n", "the event of 'a1' needs one of `at`"),
        (BASE + "[[events]]\nkind = 'kill'\nhost = 'a1'\nat = 1\nat_s = 1\n", "the event of 'a1' needs one of `at`"),
        (BASE + "[[events]]\nkind = 'kill'\nhost = 'a1'\nat = -1\n", "must be at 0 or later"),
        (BASE + "[[events]]\nkind = 'slow'\nhost = 'a1'\nat = 1\nfactor = 0\n", "factor of 'a1' must be above 0"),
        (BASE + "[[events]]\nkind = 'kill'\nhost = 'z9'\nat = 1\n", "an event (kill) names 'z9'"),
        (BASE + "[[events]]\nkind = 'join'\nhost = 'origin'\nat = 1\n", "an event (join) names 'origin'"),
        (BASE + 2 * "[[events]]\nkind = 'join'\nhost = 'a1'\nat = 1\n", "a cache can join only once"),
        (BASE + "[rates]\nz9 = 1\n", "rates names 'z9', which is not one of origin, a1, a2, b1"),
        (BASE + "[weights]\norigin = 1\n", "weights names 'origin'"),
        (BASE + "[uplinks]\na1 = 1\n", "uplinks names 'a1', which is not one of cloud, isp-a, isp-b"),
        (BASE + "[rates]\na1 = -1\n", "a rate cannot be negative"),
        (BASE + "[weights]\na1 = 0\n", "a weight must be above 0"),
        ("origin = 'o'\n" + BASE, "the origin 'o' is in no ISP"),
        ("size_mib = 0\n" + BASE, "size_mib must be"),
        ("apart = ['a1', 'a2', 'b1']\n" + BASE, "no cache is left that counts"),
        (BASE + TITLES[: TITLES.rindex("[[")], "there must be 2 to 16 titles"),
        (BASE + TITLES.replace("urgent", "bulk"), "names of titles must be unique"),
        (BASE + TITLES.replace("urgent", "u 1"), "title name 'u 1'"),
        (BASE + TITLES.replace("size_mib = 64", "size_mib = 0"), "size_mib of title 'urgent' must be"),
        (BASE + TITLES + "at = -1\n", "title 'urgent' must be ordered at 0 or later"),
        (BASE + TITLES + "at = 1\nat_s = 1\n", "title 'urgent' has both `at`"),
        (BASE + TITLES.replace("size", "at = 1\nsize"), "one of the titles must be ordered at 0"),
        (BASE + TITLES + "[[events]]\nkind = 'kill'\nhost = 'a1'\nat = 1\n", "there are no events where"),
        (BASE + 'isp-c = ["a1"]\n', "host names must be unique"),
        (BASE + 'isp-c = ["C 1"]\n', "host name 'C 1'"),
        (BASE + "isp-c = []\n", "ISPs of 1 to 250 hosts"),
        (BASE + "[rates]\na1 = 0\n[[events]]\nkind = 'slow'\nhost = 'a1'\nat = 1\n", "'a1' cannot be slowed"),
    ],
)
def test_mistakes_are_refused_and_named(text: str, said: str) -> None:
    with pytest.raises(TopologyError, match=re.escape(said)):
        parse_topology(text, "x")


def test_errors_of_a_file_name_it(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"none\.toml cannot be read"):
        load_topology(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("x = 1\n")
    with pytest.raises(TopologyError, match=re.escape(f"{tmp_path}/bad.toml: Object contains unknown field `x`")):
        load_topology(tmp_path / "bad.toml")


# ---- what the page and the docstring say


def test_every_key_is_described() -> None:
    page, docstring = read(PAGE), module.__doc__ or ""
    for kind in (Topology, Event, Title):
        for field in msgspec.structs.fields(kind):
            assert f"`{field.name}`" in page, field.name
            assert re.search(rf"\b{field.name}\b", docstring), field.name


def test_the_topology_of_the_page_loads() -> None:
    example, titles = [block for block in blocks(PAGE) if block.language == "text"]
    topology = parse_topology(example.text, "page")
    assert [cache.name for cache in topology.counted()] == ["a1", "a2", "b1", "b2"]
    assert [title.name for title in parse_topology(BASE + titles.text, "page").titles] == ["bulk", "urgent"]


def test_the_options_of_the_page_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    offered = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}
    assert set(re.findall(r"^\| `(--[a-z]+)` \|", read(PAGE), re.MULTILINE)) == offered
