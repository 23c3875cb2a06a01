"""An empty cache joins a tracker with many orders: rosters follow in pieces, and it is told all of them in the end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tracker.conftest import make_info, make_report
from tracker.services import publish, service_on

from p2pfill.model.ids import TitleId
from p2pfill.model.reports import TitleReport
from p2pfill.node.standing import StandingOrders
from p2pfill.swarm.neighbourhood import Neighbourhoods
from p2pfill.tracker import service as service_module
from p2pfill.tracker.behind import Behind
from p2pfill.tracker.catalogue import Catalogue, Snapshot, StoredReport
from p2pfill.tracker.nights import Nights
from p2pfill.tracker.records import FillRecord, FillRequest, TitleRecord
from p2pfill.tracker.service import FOLLOWED_AT_ONCE, PIECE_BYTES_MAX, Service

TITLES = 3000
CACHES = 10


def at_rest() -> Snapshot:
    """Return a fleet in which all hold all titles."""
    titles = [TitleRecord(f"{k:064x}", f"film{k}", 1 << 30, 1 << 22, 256, 3, 0.0) for k in range(TITLES)]
    fills = [
        FillRecord(f"f{k}", FillRequest(one.title, "all", ["http://origin/x"], priority=k % 7), float(k), k + 1)
        for k, one in enumerate(titles)
    ]
    held = [TitleReport(one.title, "live", 256, 256, number=k + 1) for k, one in enumerate(titles)]
    nodes = [f"n{number}" for number in range(CACHES)]
    return Snapshot(
        epoch=1,
        number=TITLES,
        titles=titles,
        fills=fills,
        assignments=[(fill.fill_id, node) for fill in fills for node in nodes],
        nodes=[StoredReport(make_report(make_info(node)), 0.0) for node in nodes],
        withdrawn=[],
        holdings=dict.fromkeys(nodes, held),
        nights=Nights(),
    )


class Counted:
    """How many rosters are worked out at a time."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, title_id: TitleId, chunk_count: int) -> Neighbourhoods:
        self.made += 1
        return Neighbourhoods(title_id, chunk_count)


async def take_all(service: Service, standing: StandingOrders, name: str) -> list[int]:
    """Take all pieces of a node's orders; return how long they are."""
    sizes = []
    with trio.fail_after(120):
        while True:
            answer = await service.wait_changes(name, standing.cursor, 5.0)
            sizes.append(len(msgspec.json.encode(answer)))
            standing.take(answer)
            await trio.sleep(0.001)
            if not answer.more:
                return sizes


async def test_an_empty_cache_has_some_rosters_worked_out_at_a_time(nursery: trio.Nursery) -> None:
    catalogue, count = Catalogue.open("sqlite:///:memory:"), Counted()
    try:
        service = Service(catalogue, at_rest(), heartbeat_s=2.0, neighbourhood_factory=count)
        while service.catch_up():
            pass
        assert count.made == 0
        service.handle_heartbeat("empty", make_report(make_info("empty")))
        assert count.made <= FOLLOWED_AT_ONCE
        before = count.made
        assert service.catch_up()
        assert count.made - before <= FOLLOWED_AT_ONCE
        first = await service.wait_changes("empty", "", 0.0)
        assert first.more, "or it would take what it was not told of for withdrawn"
        assert {service.fill(order.fill_id).request.priority for order in first.orders} == {6}, "the most urgent first"

        nursery.start_soon(service.follow_rosters)
        standing = StandingOrders()
        sizes = await take_all(service, standing, "empty")
        assert standing.is_whole
        assert len(standing.orders) == TITLES
        assert all(len(order.roster) == CACHES for order in standing.orders.values())
        assert max(sizes) < 2 * PIECE_BYTES_MAX
        # Those who hold the titles are told whom to be linked with, too.
        other = StandingOrders()
        await take_all(service, other, "n0")
        assert "empty" in {info.id for info in other.linked}
        # What is ordered now does not wait for what is behind.
        service._lose(service.node("empty"))
        assert service._behind
        title = standing.orders[next(reversed(standing.orders))].title
        await service.add_fill(FillRequest(title, "all", ["http://other"]))
        told = (await service.wait_changes("n0", other.cursor, 0.0)).orders
        assert "http://other" in {url for order in told for url in order.origins}
        nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(catalogue.close)


async def test_the_last_of_what_was_behind_is_told_though_it_changes_nothing(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a node would wait for the end of its first orders until something else happens."""
    monkeypatch.setattr(service_module, "FOLLOWED_AT_ONCE", 1)
    async with service_on(tmp_path / "db") as service:
        service.handle_heartbeat("a", make.report(make.info("a")))
        titles = [await publish(service, make, chunks) for chunks in (4, 5, 6)]
        for title in titles:  # versions of one name: the newest alone is wanted
            await service.add_fill(FillRequest(title, "id=b", ["http://origin"]))
        service.handle_heartbeat("b", make.report(make.info("b")))
        standing = StandingOrders()
        while True:
            answer = await service.wait_changes("b", standing.cursor, 0.0)
            standing.take(answer)
            if not answer.more:
                break
            version = service.node("b").version
            service.catch_up()
            assert service.node("b").version != version or "b" in service._behind
        assert standing.is_whole
        assert [order.title for order in standing.orders.values()] == titles[-1:]


async def test_a_node_is_removed_while_rosters_are_behind(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "FOLLOWED_AT_ONCE", 1)
    async with service_on(tmp_path / "db") as service:
        for name in ("a", "b", "c"):
            service.handle_heartbeat(name, make.report(make.info(name)))
        for name in "xyz":
            manifest = make.manifest(name)
            await service.add_title(manifest.title_id.hex(), manifest, manifest.encode())
            await service.add_fill(FillRequest(manifest.title_id.hex(), "all", ["http://origin"]))
        while service.catch_up():
            pass
        service._lose(service.node("c"))
        assert service._behind
        await service.delete_node("c")
        for order in service.orders("a"):
            assert {entry.node.id for entry in order.roster} == {"b"}
        while service.catch_up():
            pass
        assert not service._behind


@given(st.lists(st.tuples(st.sampled_from("tuvw"), st.frozensets(st.sampled_from("abc")))), st.randoms())
def test_what_is_behind_is_counted(steps: list[tuple[str, frozenset[str]]], random: Random) -> None:
    behind = Behind()
    waits: dict[str, set[str]] = {}
    for title, nodes in steps:
        if random.random() < 0.3:
            assert behind.take(title) == waits.pop(title, set())
        else:
            behind.add([title], nodes)
            waits.setdefault(title, set()).update(nodes)
        counts = Counter(node for some in waits.values() for node in some)
        assert {node for node in "abc" if node in behind} == set(counts)
        assert behind.first() == next(iter(waits), None)
        assert len(behind) == len(waits)
