"""Orders have numbers: which of a name's versions a node is to hold, and what a repeated order means."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
from tracker.services import publish, service_on

from p2pfill.cli.board import state_of
from p2pfill.cli.reasons import reasons
from p2pfill.model.reports import TitleReport
from p2pfill.tracker import views
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service


def beat(service: Service, make: Any, node: str, sequence: int, *titles: TitleReport) -> None:
    service.handle_heartbeat(node, make.report(make.info(node), sequence, *titles))


def orders(service: Service, node: str) -> dict[str, int]:
    return {order.title: order.number for order in service.orders(node)}


async def test_numbers_grow_also_over_restarts_and_withdrawals(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        one, two = [await publish(service, make, chunks) for chunks in (1, 2)]
        beat(service, make, "n1", 1, TitleReport(one, "live", 1, 1), TitleReport(two, "live", 2, 2))
        first = await service.add_fill(FillRequest(one, "all", []))
        second = await service.add_fill(FillRequest(two, "all", []))
        assert orders(service, "n1") == {one: 1, two: 2}
        again = await service.add_fill(FillRequest(one, "all", []))
        assert again.fill_id == first.fill_id
        assert orders(service, "n1") == {one: 3, two: 2}
        await service.delete_fill(first.fill_id)
        await service.flush()
    async with service_on(tmp_path / "db") as service:
        assert orders(service, "n1") == {two: 2}
        await service.add_fill(FillRequest(one, "all", []))
        assert orders(service, "n1") == {one: 4, two: 2}
        assert service.fills[second.fill_id].number == 2


async def test_a_call_that_is_sent_again_changes_nothing(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        one, two = [await publish(service, make, chunks) for chunks in (1, 2)]
        first = await service.add_fill(FillRequest(one, "all", [], call_id="a"))
        await service.add_fill(FillRequest(two, "all", [], call_id="b"))
        assert await service.add_fill(FillRequest(one, "all", [], call_id="a")) == first
        assert service.fills[first.fill_id].number == 1
        await service.add_fill(FillRequest(one, "all", [], call_id="c"))
        assert service.fills[first.fill_id].number == 3


async def test_a_late_joiner_is_told_the_newest_version_only(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        one, two = [await publish(service, make, chunks) for chunks in (1, 2)]
        beat(service, make, "early", 1)
        fill = await service.add_fill(FillRequest(one, "all", []))
        beat(service, make, "early", 2, TitleReport(one, "live", 1, 1, number=1))
        await service.add_fill(FillRequest(two, "all", []))
        beat(service, make, "late", 1)
        assert orders(service, "early") == {one: 1, two: 2}
        assert orders(service, "late") == {two: 2}
        # It takes no part in the elections of what it does not fetch.
        assert "late" not in {entry.node.id for order in service.orders("early") if order.title == one
                              for entry in order.roster}  # fmt: skip
        status = views.fill_status(service, service.fills[fill.fill_id])
        assert status.done
        assert (status.totals.live, status.totals.superseded) == (1, 1)
        # The newer one is withdrawn: the older is wanted there after all.
        before = service.node("late").version
        await service.delete_fill(next(one.fill_id for one in service.fills.values() if one.request.title == two))
        assert orders(service, "late") == {one: 1}
        assert service.node("late").version > before
        assert not views.fill_status(service, service.fills[fill.fill_id]).done


async def test_what_is_said_of_an_older_order_is_not_said_of_the_new_one(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        one = await publish(service, make, 1)
        beat(service, make, "n1", 1)
        fill_id = (await service.add_fill(FillRequest(one, "all", []))).fill_id
        beat(service, make, "n1", 2, TitleReport(one, "failed", 1, 1, error="no room", number=1))
        assert views.fill_status(service, service.fills[fill_id]).totals.failed == 1
        version = service.node("n1").version
        await service.add_fill(FillRequest(one, "all", []))
        assert service.node("n1").version > version
        (node,) = views.fill_status(service, service.fills[fill_id]).nodes
        assert node.report is not None
        assert (node.report.state, node.report.error) == ("waiting", "")
        beat(service, make, "n1", 3, TitleReport(one, "live", 1, 1, number=2))
        assert views.fill_status(service, service.fills[fill_id]).done


async def test_a_database_of_before_is_taken_over(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        one, two = [await publish(service, make, chunks) for chunks in (1, 2)]
        for title in (two, one):
            await service.add_fill(FillRequest(title, "all", []))
    with sqlite3.connect(tmp_path / "db") as db:
        for row, record in db.execute("SELECT id, record FROM fills").fetchall():
            fields = msgspec.json.decode(record)
            del fields["number"], fields["call_id"], fields["request"]["call_id"]
            db.execute("UPDATE fills SET record = ? WHERE id = ?", (msgspec.json.encode(fields), row))
        db.execute("DELETE FROM meta WHERE key = 'number'")
        db.execute("PRAGMA user_version = 1")
    db.close()
    async with service_on(tmp_path / "db") as service:
        assert {fill.request.title: fill.number for fill in service.fills.values()} == {two: 1, one: 2}
        await service.add_fill(FillRequest(two, "all", []))
        assert max(fill.number for fill in service.fills.values()) == 3


async def test_a_cache_that_has_died_is_not_live_in_its_fills(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 2)
        for name in ("n1", "n2"):
            beat(service, make, name, 1, TitleReport(title, "live", 2, 2, finished_at=1.0))
        fill = await service.add_fill(FillRequest(title, "all", [], deadline=2.0))
        before = views.fill_status(service, service.fills[fill.fill_id])
        assert (before.done, before.totals.live, before.totals.lost, before.outlook) == (True, 2, 0, "kept")
        service.nodes["n1"].alive = False
        after = views.fill_status(service, service.fills[fill.fill_id])
        assert (after.done, after.totals.live, after.totals.lost) == (True, 1, 1)
        assert after.outlook == "kept", "what has become of a deadline is final"
        assert [state_of(node) for node in after.nodes] == ["lost", "live"]
        assert reasons(after) == ["n1: its heartbeats have stopped; is it running?"]
