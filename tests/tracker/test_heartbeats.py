"""Heartbeats that say what is new: taken in pieces, asked for again where they build on nothing, and remembered."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import trio

from p2pfill.model.reports import NodeReport, TitleReport
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.service import Service

TITLES = 50_000
PIECE = 1000


def name_of(number: int) -> str:
    return f"{number:064x}"


def report(make: Any, sequence: int, *titles: TitleReport, boot: str = "boot", **more: Any) -> NodeReport:
    found: NodeReport = make.report(make.info("n1"), sequence, *titles, boot=boot)
    return msgspec.structs.replace(found, **more)


def live(number: int, order: int = 1) -> TitleReport:
    return TitleReport(name_of(number), "live", 4, 4, number=order)


async def test_news_is_taken_in_pieces_and_again_where_it_builds_on_nothing(tmp_path: Path, make: Any) -> None:
    catalogue = Catalogue.open(f"sqlite:///{tmp_path}/db")
    try:
        service = Service(catalogue, await catalogue.load(), heartbeat_s=2.0)
        beat = service.handle_heartbeat
        assert not beat("n1", report(make, 1, live(1), live(2), more=True)).again
        assert not beat("n1", report(make, 2, live(3), since=1)).again
        assert set(service.node("n1").titles) == {name_of(k) for k in (1, 2, 3)}
        # Nothing new; what is gone; what was lost comes with the next one, which builds on an older one.
        assert not beat("n1", report(make, 3, since=2)).again
        assert not beat("n1", report(make, 5, live(1, 2), since=2, gone=[name_of(2)])).again
        assert {t: one.number for t, one in service.node("n1").titles.items()} == {name_of(1): 2, name_of(3): 1}
        assert beat("n1", report(make, 6, since=6)).again
        # It begins anew: what is not said again is gone, but not before the last piece.
        assert not beat("n1", report(make, 7, live(1, 2), more=True)).again
        assert len(service.node("n1").titles) == 2
        assert not beat("n1", report(make, 8, live(9), since=7)).again
        assert set(service.node("n1").titles) == {name_of(1), name_of(9)}
        await service.flush()
        again = Service(catalogue, await catalogue.load(), heartbeat_s=2.0)
        assert again.node("n1").titles == service.node("n1").titles
        assert again.handle_heartbeat("n1", report(make, 9, since=8)).again
        assert again.handle_heartbeat("n1", report(make, 1, boot="other", since=1)).again
    finally:
        await trio.to_thread.run_sync(catalogue.close)


async def test_50_000_titles_of_a_node(tmp_path: Path, make: Any) -> None:
    catalogue = Catalogue.open(f"sqlite:///{tmp_path}/db")
    try:
        service = Service(catalogue, await catalogue.load(), heartbeat_s=2.0)
        sequence = 0
        for first in range(0, TITLES, PIECE):
            sequence += 1
            titles = [live(number) for number in range(first, first + PIECE)]
            said = report(make, sequence, *titles, since=sequence - 1, more=first + PIECE < TITLES)
            assert not service.handle_heartbeat("n1", said).again
        assert len(service.node("n1").titles) == TITLES
        await service.flush()
        quiet = report(make, sequence + 1, since=sequence)
        assert len(msgspec.json.encode(quiet)) < 1000
        began = time.process_time()
        for _ in range(100):
            sequence += 1
            service.handle_heartbeat("n1", msgspec.structs.replace(quiet, sequence=sequence, since=sequence - 1))
        assert time.process_time() - began < 0.5, "a heartbeat with nothing new costs as much as there are titles"
    finally:
        await trio.to_thread.run_sync(catalogue.close)
