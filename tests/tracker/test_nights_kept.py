"""Nights in a tracker's service and its catalogue: orders, late heartbeats, restarts and crashes, older databases."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from tracker.services import publish, service_on

from p2pfill.model.reports import HoursReport, NodeReport, TitleReport
from p2pfill.tracker.applying import apply_policy
from p2pfill.tracker.catalogue import SCHEMA_VERSION
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.night_report import Escalation, build_report
from p2pfill.tracker.night_rows import NightPage, NightRow
from p2pfill.tracker.records import FillRequest, PolicyRequest
from p2pfill.tracker.service import Service

NIGHT = "2026-11-29"


def beat(
    service: Service, make: Any, node: str, sequence: int, *titles: TitleReport, night: str = NIGHT, **more: Any
) -> bool:
    """Send a heartbeat; tell whether it is asked for again."""
    report: NodeReport = make.report(make.info(node), sequence, *titles)
    report = msgspec.structs.replace(report, hours=HoursReport(until=1.0, night=night), **more)
    return service.handle_heartbeat(node, report).again


def filling(title: str, count: int, started_at: float, state: Any = "filling") -> TitleReport:
    return TitleReport(title, state, 4, bytes_origin=count, have_bytes=count, started_at=started_at, number=1)


async def rows(service: Service, night: str = NIGHT) -> dict[tuple[str, str], NightRow]:
    return {(row.node, row.title): row for row in (await service.night(night)).rows}


async def test_a_night_outlives_restarts_and_crashes_of_the_tracker(tmp_path: Path, make: Any) -> None:
    began = time.time()
    async with service_on(tmp_path / "db") as service:
        beat(service, make, "n1", 1)
        title = await publish(service, make, 4)
        await service.add_fill(FillRequest(title, "all", []))
        said = filling(title, 100, began)
        beat(service, make, "n1", 2, said, since=1)
        for _ in range(3):  # a heartbeat whose answer was lost comes again, and late ones come late
            beat(service, make, "n1", 2, said, since=1)
        beat(service, make, "n1", 1, filling(title, 50, began))
        assert (await rows(service))["n1", title].tiers == (0, 0, 100)
        beat(service, make, "n1", 3, filling(title, 150, began), since=2)
        await service.flush()
        beat(service, make, "n1", 4, filling(title, 170, began), since=3)  # the crash comes before that is written
    async with service_on(tmp_path / "db") as service:
        assert beat(service, make, "n1", 5, filling(title, 180, began), since=4)  # it is to say everything again
        beat(service, make, "n1", 6, filling(title, 190, began))
        row = (await rows(service))["n1", title]
        assert (row.tiers, row.number, row.is_wanted) == ((0, 0, 190), 1, True)
        assert abs(row.ordered_at - began) < 10
        beat(service, make, "n1", 7, filling(title, 200, began, "live"), since=6)
        assert (await rows(service))["n1", title].live_at > 0
        assert service.nights.heads[NIGHT].tiers == (0, 0, 200)


async def test_what_is_withdrawn_or_replaced_is_not_to_be_had(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        beat(service, make, "n1", 1)
        old, new = await publish(service, make, 4), await publish(service, make, 5)
        await service.add_fill(FillRequest(old, "all", []))
        await service.add_fill(FillRequest(new, "all", []))
        found = await rows(service)
        assert (found["n1", old].ended, found["n1", new].ended) == ("a newer version was ordered", "")
        await service.withdraw(new)
        assert (await rows(service))["n1", new].ended == "its order was withdrawn"
        await service.add_fill(FillRequest(new, "all", []))
        assert (await rows(service))["n1", new].ended == ""


async def test_a_new_night_begins_with_what_is_lacking(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        beat(service, make, "n1", 1)
        title = await publish(service, make, 4)
        await service.add_fill(FillRequest(title, "all", []))
        beat(service, make, "n1", 2, filling(title, 100, time.time()), since=1)
        beat(service, make, "n1", 3, since=2, night="2026-11-30")  # nothing new but the night
        found = (await rows(service, "2026-11-30"))["n1", title]
        assert (found.is_wanted, found.had_bytes, found.tiers) == (True, 100, (0, 0, 0))
        assert service.nights.in_night(NIGHT) == []


async def test_escalations_name_the_rule_of_the_policy(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        text = '[[fills]]\nname = "patient"\nwaits = { origin = "30s" }\n'
        await apply_policy(service, PolicyRequest(text))
        beat(service, make, "n1", 1)
        title = await publish(service, make, 4)
        said = filling(title, 100, time.time())
        beat(service, make, "n1", 2, msgspec.structs.replace(said, escalations={"starved": 2}), since=1)
        assert (await rows(service))["n1", title].rule == "patient"
        report = build_report(await service.night(NIGHT), {}, {"n1"}, set(), is_over=False)
        assert report.escalations == [Escalation("starved", 2, "patient")]


async def test_a_night_that_cannot_be_written_stays_unsaved(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        beat(service, make, "n1", 1)
        title = await publish(service, make, 4)
        beat(service, make, "n1", 2, filling(title, 100, time.time()), since=1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await service.flush()
        assert service.nights.take_unsaved().rows


async def test_a_database_of_before_has_no_nights_and_is_taken_over(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        beat(service, make, "n1", 1)
        await service.flush()
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        for table in ("nights", "night_caches", "night_rows"):
            db.execute(f"DROP TABLE {table}")
        db.execute("PRAGMA user_version=3")
        db.commit()
    async with service_on(tmp_path / "db") as service:
        assert service.nights.heads == {}
        beat(service, make, "n1", 2)
        assert (await service.night(NIGHT)).head.caches == 1
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


async def test_a_quiet_heartbeat_of_many_titles_costs_little(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        titles = [filling(f"{number:064x}", 0, 1.0, "live") for number in range(5000)]
        beat(service, make, "n1", 1, *titles)
        assert (await service.night(NIGHT)).rows == []
        began = time.process_time()
        for sequence in range(2, 102):
            beat(service, make, "n1", sequence, since=sequence - 1)
        assert time.process_time() - began < 0.5


async def test_what_a_report_is_made_of_is_fetched_for_one_caller_at_a_time(
    client: TrackerClient, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.heartbeat(make.report(make.info("n1")))
    (night,) = [one.night for one in await client.nights()]
    running = most = 0
    real = Service.night

    async def fetch(service: Service, name: str) -> NightPage:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.05)
        page = await real(service, name)
        running -= 1
        return page

    monkeypatch.setattr(Service, "night", fetch)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(client.night, night)
    assert (running, most) == (0, 1)
