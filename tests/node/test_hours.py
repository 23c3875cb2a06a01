"""Nodes that fill in their windows only: several in one process with a tracker, over real sockets, by a set clock."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from p2pfill.engine.hours import Hours
from p2pfill.model.fleet_policy import CacheSettings
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import HeartbeatReply, NodeReport, TitleReport
from p2pfill.model.windows import read_windows
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node.hours import USE_FILE, _write_use
from p2pfill.node.settings import SETTINGS
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker

CHUNK = 65536
SIZE = 40 * CHUNK
MIDNIGHT = datetime(2026, 11, 30, tzinfo=UTC).timestamp()
HOUR_S = 3600.0


class Clock:
    """The wall of all nodes: it runs, and can be set."""

    def __init__(self, hour: float) -> None:
        self.set(hour)

    def set(self, hour: float) -> None:
        """Let it show an hour of 30 November 2026, UTC."""
        self._from = MIDNIGHT + hour * HOUR_S - trio.current_time()

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        return self._from + trio.current_time()


class Night:
    """Some nodes, their tracker, and a title with its origin."""

    def __init__(self, root: Path, clock: Clock, client: TrackerClient, tracker: trio.CancelScope) -> None:
        self.root, self.clock, self.client, self.tracker = root, clock, client, tracker
        self.nodes: dict[str, Node] = {}
        tree = root / "src"
        tree.mkdir()
        (tree / "film").write_bytes(os.urandom(SIZE))
        self.manifest: Manifest = publish(tree, name="film", chunk_size=CHUNK).manifest

    async def order(self, *, now: bool = False) -> None:
        """Order the title for all."""
        title = self.manifest.title_id.hex()
        await self.client.put_title(title, self.manifest.encode())
        origins = [str(self.root / "src")]
        await self.client.post_fill(FillRequest(title=title, selector="all", origins=origins, now=now))

    def report(self, name: str) -> TitleReport | None:
        """Return what a node says of the title."""
        filling = self.nodes[name].fill_of(self.manifest.title_id)
        return None if filling is None else filling.report()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a condition."""
        with trio.fail_after(20):
            while not holds():
                await trio.sleep(0.02)

    def is_live(self, *names: str) -> bool:
        """Tell whether these nodes hold the title."""
        return all((report := self.report(name)) is not None and report.state == "live" for name in names)

    def moved(self, name: str) -> int:
        """Return the bytes of the title that have come to a node."""
        report = self.report(name)
        return 0 if report is None else report.bytes_peer + report.bytes_regional + report.bytes_origin


async def _serve(scope: trio.CancelScope, db: str, task_status: trio.TaskStatus[str]) -> None:
    with scope:
        await serve_tracker("127.0.0.1:0", db, task_status=task_status)


@asynccontextmanager
async def night(tmp_path: Path, hour: float, **windows: Any) -> AsyncIterator[Night]:
    """Open a tracker and a node for each of `windows`; the first letter of its name is its ISP."""
    clock = Clock(hour)
    async with trio.open_nursery() as nursery:
        tracker = trio.CancelScope()
        url = await nursery.start(_serve, tracker, f"sqlite:///{tmp_path}/tracker.db")
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(TrackerClient(url))
            found = Night(tmp_path, clock, client, tracker)
            for name, table in windows.items():
                config = NodeConfig(id=name, isp=name[0], data=str(tmp_path / name), tracker=url, windows=table)
                found.nodes[name] = await stack.enter_async_context(open_node(config, wall=clock))
            with trio.fail_after(10):
                while len(await client.nodes()) < len(windows):
                    await trio.sleep(0.05)
            yield found
        nursery.cancel_scope.cancel()


async def test_caches_fill_in_their_windows_and_later_ones_take_from_those_who_are_done(tmp_path: Path) -> None:
    early, late = "02:00,max 05:00,off", "05:00,max 08:00,off"
    async with night(tmp_path, 1.0, a1=early, a2=late, b1=early, b2=late) as fleet:
        await fleet.order()
        await fleet.until(lambda: all(fleet.report(name) is not None for name in fleet.nodes))
        await trio.sleep(1.5)
        for name in fleet.nodes:
            report = fleet.report(name)
            assert report is not None
            assert report.waits == {"the cache's next fill window": 40}
            assert fleet.moved(name) == 0
        fleet.clock.set(2.5)
        await fleet.until(lambda: fleet.is_live("a1", "b1"))
        assert fleet.moved("a2") == fleet.moved("b2") == 0
        fleet.clock.set(5.5)
        await fleet.until(lambda: fleet.is_live("a2", "b2"))
        reports = {name: fleet.report(name) for name in fleet.nodes}
        for name, report in reports.items():
            assert report is not None
            assert report.escalations == {}, name
            if name in ("a2", "b2"):
                assert report.bytes_peer == SIZE
        assert sum(report.bytes_origin for report in reports.values() if report is not None) == SIZE


async def test_a_closed_cache_is_no_master_and_nobody_waits_for_it(tmp_path: Path) -> None:
    """Were it one, half of the title would wait for it until it is taken for stalled, and be an escalation."""
    async with night(tmp_path, 3.0, a1="02:00,max 05:00,off", a2="05:00,max 08:00,off") as fleet:
        began = trio.current_time()
        await fleet.order()
        await fleet.until(lambda: fleet.is_live("a1"))
        assert trio.current_time() - began < 3.0  # the wait of a policy for a master that stalls
        report = fleet.report("a1")
        assert report is not None
        assert (report.bytes_origin, report.escalations) == (SIZE, {})
        statuses = {status.info.id: status.hours for status in await fleet.client.nodes()}
        assert (statuses["a1"].phase, statuses["a2"].phase) == ("open", "closed")
        assert statuses["a2"].until == MIDNIGHT + 5 * HOUR_S


async def test_an_order_out_of_cycle_is_filled_at_once_and_counted(tmp_path: Path) -> None:
    closed = "22:00,max 23:00,off"
    async with night(tmp_path, 12.0, a1=closed, a2=closed) as fleet:
        await fleet.order()
        await trio.sleep(1.0)
        assert fleet.moved("a1") == fleet.moved("a2") == 0
        await fleet.order(now=True)
        await fleet.until(lambda: fleet.is_live("a1", "a2"))
        for node in fleet.nodes.values():
            hours = node.hours.report()
            assert (hours.phase, hours.used_bytes, hours.exempt_bytes) == ("closed", 0, SIZE)
        reports = [fleet.report(name) for name in fleet.nodes]
        assert sum(report.bytes_origin for report in reports if report is not None) == SIZE


async def test_titles_for_which_viewers_wait_and_those_ordered_out_of_cycle_do_not_displace_each_other(
    tmp_path: Path,
) -> None:
    async with night(tmp_path, 12.0, a1="22:00,max 23:00,off") as fleet:
        film, other = fleet.manifest.title_id, TitleId(b"\1" * 32)
        await fleet.order(now=True)
        fleet.nodes["a1"].set_exempt([other])
        await fleet.until(lambda: fleet.is_live("a1"))
        node = fleet.nodes["a1"]
        for awaited, ordered in (([film], [other]), ([other], [film]), ([], [film]), ([film], [])):
            node.set_exempt(awaited)
            node.set_out_of_cycle(ordered)
            assert node.engine._exempt == {*awaited, *ordered}


async def test_a_budget_closes_the_window_and_outlives_a_restart(tmp_path: Path) -> None:
    table = {"window": [{"from": "02:00", "to": "08:00"}], "budget": SIZE // 2}
    async with night(tmp_path, 3.0, a1=table) as fleet:
        await fleet.order()
        await fleet.until(lambda: fleet.nodes["a1"].hours.report().budget_used)
        hours = fleet.nodes["a1"].hours.report()
        assert (hours.phase, hours.night, hours.budget_bytes) == ("closed", "2026-11-29", SIZE // 2)
        assert fleet.moved("a1") >= SIZE // 2
    used = msgspec.json.decode((tmp_path / "a1" / USE_FILE).read_bytes())
    assert used["2026-11-29"]["total"] >= SIZE // 2
    config = NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"), windows=table)
    async with open_node(config, wall=Clock(3.0)) as node:
        assert node.hours.report().budget_used
    async with open_node(config, wall=Clock(24 + 3.0)) as node:
        assert node.hours.report().phase == "open"


async def test_a_clock_that_jumps_a_day_opens_and_closes_at_once(tmp_path: Path) -> None:
    clock = Clock(12.0)
    config = NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"), windows="Tue-00:00,max Wed-00:00,off")
    async with open_node(config, wall=clock) as node:
        assert node.hours.report().phase == "closed"
        for hour, phase in ((36.0, "open"), (12.0, "closed"), (23.9999, "soon"), (24.0, "open")):
            clock.set(hour)
            with trio.fail_after(2):
                while node.hours.report().phase != phase:
                    await trio.sleep(0.02)
            assert node.engine.is_open == (phase == "open")


@pytest.mark.parametrize("jumps", [True, False])
async def test_one_whose_clock_jumps_into_the_window_that_it_has_just_announced_is_not_known_to_others(
    tmp_path: Path, jumps: bool
) -> None:
    clock = Clock(2.0 - 1 / HOUR_S if jumps else 2.0 - 3 / HOUR_S)
    config = NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"), windows="02:00,max 05:00,off")
    async with open_node(config, wall=clock) as node:
        assert node.hours.report().phase == "soon"
        told = []
        set_open = node.engine.set_open

        def watched(now: float, *, is_open: bool, is_announced: bool, **rest: Any) -> None:
            if is_open and not node.engine.is_open:
                told.append(is_announced)
            set_open(now, is_open=is_open, is_announced=is_announced, **rest)

        node.engine.set_open = watched  # type: ignore[method-assign]
        if jumps:
            await trio.sleep(0.3)
            clock.set(3.0)
        with trio.fail_after(10):
            while not told:
                await trio.sleep(0.02)
        assert told == [not jumps]


async def test_what_was_used_is_on_the_disk_before_it_takes_the_place_of_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not leave an empty file, which would give the night its budget anew."""
    durable: set[int] = set()
    replaced: list[bool] = []
    fsync, replace = os.fsync, os.replace

    def noted(fd: int) -> None:
        fsync(fd)
        durable.add(os.fstat(fd).st_ino)

    def watched(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        replaced.append(os.stat(source, dir_fd=src_dir_fd).st_ino in durable)
        replace(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", watched)
    await trio.to_thread.run_sync(_write_use, tmp_path / USE_FILE, b"{}")
    assert replaced == [True]
    assert (tmp_path / USE_FILE).read_bytes() == b"{}"


async def test_what_was_used_and_cannot_be_read_stops_no_node(tmp_path: Path) -> None:
    (tmp_path / "a1").mkdir()
    (tmp_path / "a1" / USE_FILE).write_bytes(b"\x00 not json")
    config = NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"), windows={"budget": 10})
    async with open_node(config, wall=Clock(3.0)) as node:
        assert node.hours.report().phase == "open"


async def test_what_was_used_of_a_window_of_the_policy_outlives_a_restart(tmp_path: Path) -> None:
    """The node begins with its configuration, which has no windows, and what was used is of those of the policy."""
    windows = read_windows({"window": [{"from": "02:00", "to": "08:00", "budget": 10}]})
    hours = Hours(windows)
    hours.count(MIDNIGHT + 3 * HOUR_S, 10)
    (tmp_path / "a1").mkdir()
    (tmp_path / "a1" / USE_FILE).write_bytes(msgspec.json.encode(hours.used))
    stored = {"digest": "d", "settings": CacheSettings(windows=windows)}
    (tmp_path / "a1" / SETTINGS).write_bytes(msgspec.json.encode(stored))
    config = NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"))
    async with open_node(config, wall=Clock(3.0)) as node:
        assert node.hours.windows == windows
        assert node.hours.report().budget_used


async def test_a_window_that_closes_while_a_heartbeat_is_on_its_way_is_told_at_once(tmp_path: Path) -> None:
    clock = Clock(1.0)
    async with trio.open_nursery() as nursery:
        serve = partial(serve_tracker, heartbeat_s=30.0)
        url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/tracker.db")
        config = NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"), tracker=url, windows="02:00,max 05:00,off")
        async with TrackerClient(url) as client, open_node(config, wall=clock) as node:

            async def until(phase: str) -> None:
                while [status.hours.phase for status in await client.nodes()] != [phase]:
                    await trio.sleep(0.05)

            with trio.fail_after(5):
                await until("closed")
            assert node.tracker is not None
            heartbeat, on_its_way = node.tracker._client.heartbeat, trio.Event()

            async def slow(report: NodeReport) -> HeartbeatReply:
                reply = await heartbeat(report)
                on_its_way.set()
                await trio.sleep(0.6)
                return reply

            node.tracker._client.heartbeat = slow  # type: ignore[method-assign]
            clock.set(3.0)
            with trio.fail_after(5):
                await on_its_way.wait()
                clock.set(6.0)
                await until("closed")
        nursery.cancel_scope.cancel()


async def test_a_tracker_that_is_away_when_windows_open_costs_no_second_copy(tmp_path: Path) -> None:
    """Each would elect itself alone, since the others were closed when the tracker spoke last."""
    windows = "02:00,max 05:00,off"
    async with night(tmp_path, 1.0, a1=windows, a2=windows, a3=windows) as fleet:
        await fleet.order()
        await fleet.until(lambda: all(len(node.links.sockets()) == 2 for node in fleet.nodes.values()))
        fleet.tracker.cancel()
        await trio.sleep(0.5)
        fleet.clock.set(2.5)
        await fleet.until(lambda: fleet.is_live("a1", "a2", "a3"))
        reports = [report for name in fleet.nodes if (report := fleet.report(name)) is not None]
        assert sum(report.bytes_origin for report in reports) == SIZE
        assert all(report.escalations == {} for report in reports)
