"""Costs of routes at the tracker: they order a roster inside a tier and never across, and are read anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tracker.conftest import make_info, make_report
from tracker.services import publish

from p2pfill.errors import ConfigError
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo, tier_between
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.ranking import QUEUE_BUSY, Candidate, rank_sources
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.routes import RouteBook
from p2pfill.tracker.server import serve_tracker
from p2pfill.tracker.service import Service

CONFIG = """
[[pair]]
receiver = "id=a1"
source = "id=a2"
cost = 7

[[table]]
file = "rib.csv"
"""

RIB = "198.51.100.0/25,1 2 3\n198.51.100.128/25,1 4\n"


def configure(path: Path, config: str = CONFIG, rib: str = RIB) -> Path:
    path.joinpath("rib.csv").write_text(rib)
    path.joinpath("routes.toml").write_text(config)
    return path / "routes.toml"


ME = NodeInfo(NodeId("me"), "a", "eu", "c1")

nodes = st.builds(
    NodeInfo, st.sampled_from("abcdefgh").map(NodeId), st.sampled_from("ab"), st.sampled_from(["eu", "us"]),
    st.sampled_from(["", "c1"]),
)  # fmt: skip
candidates = st.builds(
    Candidate, nodes, st.booleans(), st.integers(0, 10), st.just(10), st.integers(0, 9),
    st.sampled_from([0, QUEUE_BUSY]), st.booleans(),
)  # fmt: skip


@given(st.lists(candidates, max_size=8, unique_by=lambda one: one.node.id), st.data())
def test_costs_order_inside_a_tier_and_a_site_and_never_across(found: list[Candidate], data: st.DataObject) -> None:
    costs = {one.node.id: data.draw(st.floats(-100, 1e9)) for one in found}
    ranked = rank_sources(ME, found, lambda _, source: costs[source.id])
    free = rank_sources(ME, found)

    def place(entry: Any) -> tuple[object, ...]:
        near = entry.node.isp == "a" and entry.node.cluster == "c1"
        return tier_between(ME, entry.node), 0 if near else 1 if entry.node.region == "eu" else 2

    assert [place(entry) for entry in ranked] == [place(entry) for entry in free]
    assert {entry.node.id for entry in ranked} == {entry.node.id for entry in free}


def source(name: str, **more: Any) -> Candidate:
    return Candidate(NodeInfo(NodeId(name), "a", "eu"), False, more.pop("have", 10), 10, **more)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (source("cheap", have=1), source("dear")),
        (source("cheap", upload_active=9), source("dear")),
        # What is dear and idle serves before what is cheap and busy, or does not answer.
        (source("dear"), source("cheap", upload_queued=QUEUE_BUSY)),
        (source("dear"), source("cheap", late=True)),
    ],
)
def test_cost_stands_between_health_and_holdings(better: Candidate, worse: Candidate) -> None:
    entries = rank_sources(ME, [worse, better], lambda _, node: 5.0 if node.id == "dear" else 0.25)
    assert [entry.node.id for entry in entries] == [better.node.id, worse.node.id]
    assert {entry.node.id: entry.cost for entry in entries} == {"dear": 5.0, "cheap": 0.25}
    assert "route cost 5; " in entries[0 if better.node.id == "dear" else 1].reason


async def test_a_roster_carries_what_each_route_costs(tmp_path: Path, make: Any) -> None:
    book = RouteBook(configure(tmp_path))
    await book.read()
    catalogue = Catalogue.open(f"sqlite:///{tmp_path}/db")
    service = Service(catalogue, await catalogue.load(), heartbeat_s=2.0, routes=book)
    title = await publish(service, make, 4)
    hosts = {"a1": "198.51.100.1", "a2": "198.51.100.2", "a3": "198.51.100.129", "a4": "203.0.113.1"}
    for name, host in hosts.items():
        service.handle_heartbeat(name, make_report(msgspec.structs.replace(make_info(name), host=host)))
    await service.add_fill(FillRequest(title, "all", ["http://o/"]))
    (order,) = service.orders("a1")
    assert [(entry.node.id, entry.cost) for entry in order.roster] == [("a3", 3.0), ("a2", 7.0), ("a4", 16.0)]
    configure(tmp_path, rib="203.0.113.0/24,1 2 3\n")
    await book.read()
    (order,) = service.orders("a1")
    assert {entry.node.id: entry.cost for entry in order.roster} == {"a4": 3.0, "a2": 23.0, "a3": 16.0}
    catalogue.close()


async def test_what_cannot_be_read_leaves_what_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    book = RouteBook(configure(tmp_path, rib=RIB + "nonsense\n"))
    assert book.routes is None
    state = await book.read()
    assert (state.tables[0].prefixes, state.tables[0].wrong) == (2, 1)
    assert "rib.csv: 1 lines or records cannot be used: 3: 1 columns" in caplog.text
    before = book.routes
    configure(tmp_path, rib="")
    with pytest.raises(ConfigError, match="no prefix that can be read"):
        await book.read()
    await book.read_or_log()
    assert "what was read before counts" in caplog.text
    assert book.routes is before
    assert book.state() == state
    with pytest.raises(ConfigError, match="start the tracker with --routes FILE"):
        await RouteBook().read()


async def test_the_api_explains_and_reads_anew(tmp_path: Path, nursery: trio.Nursery) -> None:
    book = RouteBook(configure(tmp_path))
    await book.read()
    url = await nursery.start(
        lambda task_status: serve_tracker(
            "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db", routes=book, task_status=task_status
        )
    )
    async with TrackerClient(url) as client:
        for name, host in {"a1": "198.51.100.1", "a2": "198.51.100.130"}.items():
            await client.heartbeat(make_report(msgspec.structs.replace(make_info(name), host=host)))
        found = await client.route("a1", "a2")
        assert [(part.kind, part.cost) for part in found.parts][:2] == [("configured", 7.0), ("as_hops", 3.0)]
        assert (found.source.prefix, found.source.as_path, found.cost) == ("198.51.100.128/25", ["1", "4"], 10.0)
        assert (await client.route("198.51.100.7", "2001:db8::1")).parts[1].value == 16
        with pytest.raises(TrackerRefused, match="'nosuch' is neither a cache of this tracker nor an IP") as refused:
            await client.route("a1", "nosuch")
        assert refused.value.status == 404
        configure(tmp_path, CONFIG + "\n[weights]\nas_hop = 2\n")
        assert (await client.read_routes()).weights.as_hop == 2
        assert (await client.route("a1", "a2")).cost == 13.0
        configure(tmp_path, "[[pair]]\n")
        with pytest.raises(TrackerRefused, match="missing required field `cost`") as refused:
            await client.read_routes()
        assert refused.value.status == 409
        assert (await client.routes()).weights.as_hop == 2


async def test_without_costs_it_is_said_how_to_have_them(client: TrackerClient) -> None:
    for call in (client.routes, client.read_routes, lambda: client.route("10.0.0.1", "10.0.0.2")):
        with pytest.raises(TrackerRefused, match="start the tracker with --routes FILE") as refused:
            await call()  # type: ignore[operator,unused-ignore]
        assert refused.value.status == 409
