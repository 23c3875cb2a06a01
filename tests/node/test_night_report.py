"""The report of a night is what its nodes say: a real tracker, which is started anew in mid-night, and real nodes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import trio

from p2pfill.model.reports import TitleReport
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.night_report import NightReport
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker

CHUNK = 65536
SIZE = 40 * CHUNK
MIDNIGHT = datetime(2026, 11, 30, tzinfo=UTC).timestamp()
NIGHT = "2026-11-29"
EARLY, LATE = "02:00,max 05:00,off", "20:00,max 21:00,off"


class Clock:
    """The wall of all nodes: it runs, and can be set."""

    def __init__(self, hour: float) -> None:
        self.set(hour)

    def set(self, hour: float) -> None:
        """Let it show an hour of 30 November 2026, UTC."""
        self._from = MIDNIGHT + hour * 3600 - trio.current_time()

    def __call__(self) -> float:
        return self._from + trio.current_time()


class Tracker:
    """A tracker that can be started anew, at the same address."""

    def __init__(self, nursery: trio.Nursery, root: Path) -> None:
        self._nursery = nursery
        self._root = root
        self._listen = "127.0.0.1:0"
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def start(self) -> str:
        self._scope, self._ended = trio.CancelScope(), trio.Event()

        async def serve(task_status: trio.TaskStatus[str]) -> None:
            with self._scope:
                db = f"sqlite:///{self._root}/tracker.db"
                await serve_tracker(self._listen, db, heartbeat_s=0.3, task_status=task_status)
            self._ended.set()

        url: str = await self._nursery.start(serve)
        self._listen = urlsplit(url).netloc
        return url

    async def stop(self) -> None:
        self._scope.cancel()
        await self._ended.wait()


def moved(report: TitleReport) -> tuple[int, int, int]:
    return report.bytes_peer, report.bytes_regional, report.bytes_origin


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await trio.sleep(0.02)


async def report_when(client: TrackerClient, holds: Callable[[NightReport], bool]) -> NightReport:
    """Return the night's report once it says what its nodes have said by now."""
    while not holds(report := await client.night(NIGHT)):
        await trio.sleep(0.1)
    return report


def has_heard_all(report: NightReport) -> bool:
    """Tell whether all have said how it stands after their windows: also those that the new tracker had to ask."""
    are_closed = all(not cache.windows or cache.windows[-1].closed_at for cache in report.caches)
    causes = {row.node: row.cause for row in report.titles[0].rows}
    return are_closed and report.totals.live == 3 and "silent" not in causes.values() and causes["d1"] == "budget"


async def test_a_report_is_what_the_nodes_say(tmp_path: Path, nursery: trio.Nursery) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "film").write_bytes(os.urandom(SIZE))
    manifest = publish(tmp_path / "src", name="film", chunk_size=CHUNK).manifest
    title = manifest.title_id.hex()
    tables = {"a1": EARLY, "a2": EARLY, "b1": EARLY, "c1": LATE, "d1": {"timetable": EARLY, "budget": SIZE // 2}}
    clock, nodes = Clock(1.0), dict[str, Node]()
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            tracker = Tracker(nursery, tmp_path)
            url = await tracker.start()
            client = await stack.enter_async_context(TrackerClient(url))
            for name, table in tables.items():
                config = NodeConfig(id=name, isp=name[0], data=str(tmp_path / name), tracker=url, windows=table)
                nodes[name] = await stack.enter_async_context(open_node(config, wall=clock))
            while len(await client.nodes()) < len(nodes):
                await trio.sleep(0.05)

            def said(name: str) -> TitleReport:
                fill = nodes[name].fill_of(manifest.title_id)
                assert fill is not None
                return fill.report()

            await client.put_title(title, manifest.encode())
            await client.post_fill(FillRequest(title=title, selector="all", origins=[str(tmp_path / "src")]))
            await until(lambda: all(node.fill_of(manifest.title_id) is not None for node in nodes.values()))
            report = await report_when(client, lambda report: report.totals.wanted == 5)
            assert report.totals.live == sum(step.bytes_origin for step in report.course) == 0
            assert {row.cause for row in report.titles[0].rows} == {"waiting"}

            clock.set(2.5)
            await until(lambda: all(said(name).state == "live" for name in ("a1", "b1")))
            await tracker.stop()  # what comes meanwhile is not lost
            await until(lambda: said("a2").state == "live" and nodes["d1"].hours.report().budget_used)
            await tracker.start()
            clock.set(6.0)
            report = await report_when(client, has_heard_all)
            rows = {row.node: row for row in report.titles[0].rows}
            for name, row in rows.items():
                assert (row.bytes_peer, row.bytes_regional, row.bytes_origin) == moved(said(name)), name
                assert row.duplicate_bytes == said(name).duplicate_bytes
                assert {one.reason: one.count for one in row.escalations} == said(name).escalations
                assert sum(one.bytes for one in row.far) == row.bytes_regional + row.bytes_origin
                if row.state == "live":
                    assert row.ordered_at < row.live_at <= report.last_at
            assert {name: row.cause for name, row in rows.items()} == {
                "a1": "", "a2": "", "b1": "", "c1": "waiting", "d1": "budget",
            }  # fmt: skip
            film = report.titles[0]
            assert (film.name, film.caches, film.live, film.least_origin_bytes) == ("film", 5, 3, SIZE)
            assert {one.isp: one.least_bytes for one in film.isps} == dict.fromkeys("abcd", SIZE)
            totals = report.totals
            steps = [(one.bytes_peer, one.bytes_regional, one.bytes_origin) for one in report.course]
            sums = (totals.bytes_peer, totals.bytes_regional, totals.bytes_origin)
            assert tuple(map(sum, zip(*steps, strict=True))) == sums
            caches = {cache.node: cache for cache in report.caches}
            assert caches["c1"].windows == []
            assert caches["d1"].used_bytes == nodes["d1"].hours.report().used_bytes
            assert (caches["d1"].budget_bytes, caches["d1"].lacking) == (SIZE // 2, 1)
            assert caches["a1"].budget_used_at == 0 < caches["d1"].budget_used_at

            # Out of cycle: in the same night, beside its windows.
            await client.post_fill(
                FillRequest(title=title, selector="id=c1", origins=[str(tmp_path / "src")], now=True)
            )
            report = await report_when(client, lambda report: report.totals.live == 4)
            (out_of_cycle,) = (cache for cache in report.caches if cache.node == "c1")
            assert out_of_cycle.exempt_bytes == nodes["c1"].hours.report().exempt_bytes == SIZE
            # The next night begins with what is lacking.
            clock.set(24 + 13.0)
            while {one.night for one in await client.nights()} != {NIGHT, "2026-12-01"}:
                await trio.sleep(0.1)
            while not (await client.night(NIGHT)).is_over:
                await trio.sleep(0.1)
            while not (following := await client.night("2026-12-01")).titles:
                await trio.sleep(0.1)
            assert [(row.node, row.had_bytes) for row in following.titles[0].rows] == [("d1", said("d1").have_bytes)]
            assert not following.is_over
            assert following.titles[0].least_origin_bytes == SIZE - said("d1").have_bytes
        await tracker.stop()
