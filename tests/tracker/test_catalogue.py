"""The database thread by itself: group commits, failures, and what a killed tracker leaves."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from p2pfill.errors import ConfigError, InternalError, StoreError
from p2pfill.model.reports import TitleReport
from p2pfill.tracker.catalogue import Catalogue, path_of_url
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.records import FillRecord, FillRequest
from p2pfill.tracker.service import Service


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    opened = Catalogue.open(f"sqlite:///{tmp_path}/t.db")
    yield opened
    opened.close()


def fill(name: str) -> FillRecord:
    return FillRecord(name, FillRequest("ab" * 32, "all", []), 1.0)


async def test_a_failing_call_leaves_the_others_of_its_batch_whole(catalogue: Catalogue) -> None:
    failures = []

    async def add(name: str) -> None:
        try:
            row = (name, msgspec.json.encode(fill(name)))
            await catalogue.call(lambda db: db.execute("INSERT INTO fills VALUES (?, ?)", row))
        except StoreError as error:
            failures.append(str(error))

    async with trio.open_nursery() as nursery:
        for name in ["f1", "f2", "f1", "f3"]:  # a fill's id is unique: one of the two f1 must fail
            nursery.start_soon(add, name)
    loaded = await catalogue.load()
    assert [one.fill_id for one in loaded.fills] == ["f1", "f2", "f3"]
    assert len(failures) == 1


async def test_assignments_of_a_deleted_fill_do_not_come_back(catalogue: Catalogue) -> None:
    await catalogue.add_fill(fill("f1"), ["n1"])
    await catalogue.delete_fills(["f1"])
    await catalogue.save([], [], [("f1", "n2")])
    assert (await catalogue.load()).assignments == []


async def test_fills_that_were_stored_before_there_were_deadlines_load(catalogue: Catalogue) -> None:
    record = {
        "fill_id": "f1",
        "request": {"title": "ab" * 32, "selector": "all", "origins": [], "priority": 3, "policy": {"escalate": False}},
        "created_at": 1.0,
    }
    await catalogue.call(lambda db: db.execute("INSERT INTO fills VALUES ('f1', ?)", [json.dumps(record).encode()]))
    due = FillRecord("f2", FillRequest("ab" * 32, "all", [], deadline=2e9), 2.0)
    await catalogue.add_fill(due, [])
    old, new = (await catalogue.load()).fills
    assert (old.request.priority, old.request.deadline, old.request.policy.escalate) == (3, None, False)
    assert new == due
    assert old.urgency < new.urgency


async def test_a_closed_catalogue_refuses(catalogue: Catalogue) -> None:
    catalogue.close()
    with pytest.raises(InternalError):
        await catalogue.load()


async def test_errors_of_the_database_become_store_errors(catalogue: Catalogue) -> None:
    def fail(db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(StoreError, match="free space"):
        await catalogue.call(fail)
    assert (await catalogue.load()).epoch == 1


def test_urls() -> None:
    assert path_of_url("sqlite:///t.db") == "t.db"
    assert path_of_url("sqlite:////var/t.db") == "/var/t.db"
    for wrong in ("t.db", "sqlite://t.db", "sqlite:///"):
        with pytest.raises(ConfigError):
            path_of_url(wrong)


_KILLED = """
import os, signal, sys, trio
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.records import FillRecord, FillRequest
async def main():
    catalogue = Catalogue.open(sys.argv[1])
    await catalogue.add_fill(FillRecord("f1", FillRequest("ab" * 32, "all", []), 1.0), ["n1"])
    os.kill(os.getpid(), signal.SIGKILL)
trio.run(main)
"""


@pytest.mark.process
async def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    done = await trio.run_process([sys.executable, "-c", _KILLED, url], check=False, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    opened = Catalogue.open(url)
    loaded = await opened.load()
    opened.close()
    assert [one.fill_id for one in loaded.fills] == ["f1"]
    assert loaded.assignments == [("f1", "n1")]
    assert loaded.epoch == 2


async def test_a_tracker_that_was_held_up_drops_nobody_at_once(catalogue: Catalogue, make: Any) -> None:
    clock = [0.0]
    service = Service(catalogue, await catalogue.load(), heartbeat_s=1.0, now=lambda: clock[0])
    service.handle_heartbeat("n1", make.report(make.info("n1")))
    clock[0] = 100.0
    assert service.expire() == []
    clock[0] = 100.2
    assert service.expire() == ["n1"]
    assert service.expire() == []


async def test_progress_does_not_change_orders_but_failing_does(catalogue: Catalogue, make: Any) -> None:
    service = Service(catalogue, await catalogue.load(), heartbeat_s=1.0)
    manifest = make.manifest()
    title = manifest.title_id.hex()
    await service.add_title(title, manifest, manifest.encode())
    await service.add_fill(FillRequest(title, "all", []))
    service.handle_heartbeat("n1", make.report(make.info("n1")))

    def beat(sequence: int, state: Any, have: int) -> int:
        report = TitleReport(title, state, chunk_count=4, have_chunks=have)
        service.handle_heartbeat("n2", make.report(make.info("n2"), sequence, report))
        return service.node("n1").version

    first = beat(1, "filling", 0)
    held = beat(2, "filling", 1)
    assert beat(3, "filling", 3) == held
    assert beat(4, "live", 4) == held
    assert not service.roster("n1", title)[0].filling
    assert beat(5, "failed", 0) > held >= first
    assert service.roster("n1", title) == []


async def test_a_fill_of_an_unknown_title_is_refused(catalogue: Catalogue) -> None:
    service = Service(catalogue, await catalogue.load(), heartbeat_s=1.0)
    with pytest.raises(RequestRefused, match="publish"):
        await service.add_fill(FillRequest("ab" * 32, "all", []))
