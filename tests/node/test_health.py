"""How busy a real node is with its viewers, by a hook, a file or the machine, and what others see of it."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from p2pfill.cli.fleet import busy_lines
from p2pfill.errors import ConfigError
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import ServingReport
from p2pfill.node import Node, NodeConfig, health, machine, open_node
from p2pfill.node.health import HealthConfig
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest, NodeStatus
from p2pfill.tracker.server import serve_tracker

CHUNK = 64 * 1024


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.bin").write_bytes(os.urandom(40 * CHUNK))
    return publish(tmp_path / "src", name="film", chunk_size=CHUNK).manifest


@asynccontextmanager
async def fleet(
    tmp_path: Path, busy: Callable[[], float], *names: str, **settings: Any
) -> AsyncIterator[tuple[TrackerClient, dict[str, Node]]]:
    """Run a tracker and nodes of one ISP; the first is as busy as `busy` says."""
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            serve = partial(serve_tracker, heartbeat_s=0.1)
            url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
            nodes = {}
            for name in names:
                config = NodeConfig(id=name, isp="isp-a", data=str(tmp_path / name), tracker=url, **settings)
                hook = busy if name == names[0] else lambda: 0.0
                nodes[name] = await stack.enter_async_context(open_node(config, busy=hook))
            yield await stack.enter_async_context(TrackerClient(url)), nodes
            await stack.aclose()
            nursery.cancel_scope.cancel()


async def status(client: TrackerClient, name: str, wanted: Callable[[NodeStatus], bool]) -> NodeStatus:
    """Wait until the tracker knows that of a node."""
    while True:
        for node in await client.nodes():
            if node.info.id == name and wanted(node):
                return node
        await trio.sleep(0.05)


async def test_a_busy_node_says_so_and_counts_for_less(tmp_path: Path) -> None:
    level = 0.6
    async with fleet(tmp_path, lambda: level, "a1", "a2") as (client, _):
        told = await status(client, "a1", lambda one: one.serving.busy > 0)
        assert told.serving == ServingReport(0.6, "the program that embeds the node says so", 0.25)
        assert told.info.weight == 0.25
        (line,) = busy_lines([told])
        assert str(line).endswith("(the program that embeds the node says so): 0.25 of its weight is left")
        level = 7.0
        told = await status(client, "a1", lambda one: one.serving.busy == 1.0)
        assert told.info.weight == 0.125
        assert (await status(client, "a2", lambda one: True)).info.weight == 1.0


async def test_who_takes_no_requests_holds_up_nobody(tmp_path: Path, manifest: Manifest) -> None:
    """What it alone in its ISP has comes from the origin, with the reason; it is asked again once it is idle."""
    level = 0.0
    async with fleet(tmp_path, lambda: level, "a1", "a2", "a3") as (client, nodes):
        title, origins = manifest.title_id.hex(), [str(tmp_path / "src")]
        await client.put_title(title, manifest.encode())
        await client.post_fill(FillRequest(title, "id=a1", origins))
        while nodes["a1"].titles.stored(manifest.title_id) is None or not nodes["a1"].titles.is_at_rest(
            manifest.title_id, b""
        ):
            await trio.sleep(0.05)
        level = 1.0
        await status(client, "a1", lambda one: one.serving.busy == 1.0)
        await trio.sleep(1.2)
        created = await client.post_fill(FillRequest(title, "id=a2", origins))
        while not (await client.fill(created.fill_id)).done:
            await trio.sleep(0.05)
        fill = nodes["a2"].fill_of(manifest.title_id)
        assert fill is not None
        report = fill.report()
        assert report.bytes_origin == manifest.size
        assert sum(report.escalations.values()) == 0, "nobody else could fetch it, so nobody's work was done for him"
        assert any(one.reason == "refused: it is busy with its viewers" for one in report.sources), report.sources


@pytest.mark.parametrize("said", ["nan", "text", "raises"])
async def test_a_hook_that_fails_is_told_and_counts_as_idle(
    tmp_path: Path, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    def busy() -> float:
        if said == "raises":
            raise RuntimeError("no answer")
        return float("nan") if said == "nan" else "much"  # type: ignore[return-value]

    async with fleet(tmp_path, busy, "a1") as (client, _):
        told = await status(client, "a1", lambda one: "how busy the cache is" in caplog.text)
        assert told.serving == ServingReport()


async def test_a_hook_that_hangs_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ANSWER_S", 0.1)
    asked = 0

    def busy() -> float:
        nonlocal asked
        asked += 1
        time.sleep(3)
        return 1.0

    async with fleet(tmp_path, busy, "a1") as (client, _):
        await status(client, "a1", lambda one: True)
        await trio.sleep(2.0)
        assert asked == 1, "one thread waits for it, and not one more each second"


async def test_a_file_says_how_busy_the_cache_is(tmp_path: Path) -> None:
    path = tmp_path / "busy"
    found = health.ServingHealth(
        HealthConfig(file=str(path)), tmp_path, lambda: machine.Moved(0, 0), lambda _: None, logging.getLogger()
    )._looker()
    own = machine.Moved(0, 0)
    assert found(own) == (0.0, "")
    path.write_text("0.5\n")
    assert found(own) == (0.5, "busy says so")
    os.utime(path, (1, time.time() - health.FILE_STALE_S - 1))
    assert found(own) == (0.0, "")
    path.write_text("half")
    with pytest.raises(ConfigError, match="write a number from 0 to 1"):
        found(own)


class Figure(float):
    """As a float of numpy, which stays one when it is rounded, and which a report cannot carry."""

    def __round__(self, digits: int | None = None) -> Figure:  # type: ignore[override]
        return self


@pytest.mark.parametrize(
    ("said", "busy"),
    [
        pytest.param(Figure(0.5), 0.5, id="a subclass"), pytest.param(10**400, 1.0, id="huge"),
        pytest.param(-(10**400), 0.0, id="huge below 0"), (True, 1.0), (float("inf"), 1.0),
    ],
)  # fmt: skip
async def test_whatever_number_a_hook_gives_the_tracker_can_be_told(tmp_path: Path, said: float, busy: float) -> None:
    found = health.ServingHealth(
        HealthConfig(), tmp_path, lambda: machine.Moved(0, 0), lambda _: None, logging.getLogger(), lambda: said
    )
    with trio.move_on_after(0.2):
        await found.run()
    report = found.report()
    assert report.busy == busy
    assert msgspec.json.decode(msgspec.json.encode(report), type=ServingReport) == report


async def test_a_file_that_is_being_written_says_what_it_said_before(tmp_path: Path) -> None:
    """A shell empties it first: who looks just then must not take the cache for idle, and rest."""
    path = tmp_path / "busy"
    path.write_text("0.5\n")
    found = health.ServingHealth(
        HealthConfig(file=str(path)), tmp_path, lambda: machine.Moved(0, 0), lambda _: None, logging.getLogger()
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        await trio.sleep(0.3)
        path.write_text("")
        await trio.sleep(1.2)
        assert found.report().busy == 0.5
        path.write_text("0.8\n")
        await trio.sleep(1.2)
        assert found.report().busy == 0.8
        nursery.cancel_scope.cancel()


async def test_a_fifo_in_the_place_of_the_file_is_refused_at_once(tmp_path: Path) -> None:
    """Nobody may ever write to it: opened as a file is, it would keep the thread for good."""
    path = tmp_path / "busy"
    os.mkfifo(path)
    look = health.ServingHealth(
        HealthConfig(file=str(path)), tmp_path, lambda: machine.Moved(0, 0), lambda _: None, logging.getLogger()
    )._looker()
    with trio.fail_after(5), pytest.raises(ConfigError, match="is not a file"):
        await trio.to_thread.run_sync(look, machine.Moved(0, 0), abandon_on_cancel=True)


def test_the_least_weight_of_all_stays_above_nothing(tmp_path: Path) -> None:
    """A tracker refuses a node whose weight is 0."""
    found = health.ServingHealth(
        HealthConfig(), tmp_path, lambda: machine.Moved(0, 0), lambda _: None, logging.getLogger()
    )
    found._health.look(0.0, 1.0)
    least = sys.float_info.min * sys.float_info.epsilon
    assert found.weigh(NodeInfo(id=NodeId("a1"), isp="a", region="", weight=least)).weight > 0


@pytest.mark.parametrize(
    ("counts", "others"),
    [
        ((5_000, 6_000, 0, 8_000, 9_000), (1_000, None, 1_000, 1_000)),  # zeros for a moment
        ((5_000, 6_000, 0, 100, 1_100), (1_000, None, None, 1_000)),  # an interface that was made anew
    ],
)
def test_counters_that_go_back_are_no_traffic(
    monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...], others: tuple[float | None, ...]
) -> None:
    seconds = itertools.count(100.0)
    left = iter(counts)
    monkeypatch.setattr(machine.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(machine, "interface_bytes", lambda name: machine.Moved(next(left), 0))
    link = machine.Link("eth9", 10**9)
    assert link.look(machine.Moved(0, 0)) is None
    for expected in others:
        use = link.look(machine.Moved(0, 0))
        assert (use if use is None else use.others_in) == expected


def test_the_machine_is_looked_at() -> None:
    assert machine.Load().look() >= 0
    link = machine.Link("lo", 10**9)
    assert link.look(machine.Moved(0, 0)) is None
    time.sleep(0.01)
    use = link.look(machine.Moved(0, 0))
    assert use is not None
    assert min(use) >= 0
    assert machine.Link("no such one").look(machine.Moved(0, 0)) is None
    reads = machine.DiskReads(Path("/"))
    first, second = reads.look(), reads.look()
    assert first is None
    assert second is None or second >= 0
    assert machine.link_rate("lo") == 0


@pytest.mark.parametrize("wrong", [{"link_use": 1.0}, {"load": -1}, {"link": "fast"}, {"disk_reads": -2}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        NodeConfig.load(None, id="a1", isp="a", data="/x", health=wrong)


async def test_a_machine_that_cannot_be_looked_at_does_not_end_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(directory: Path) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(health, "DiskReads", refuse)
    with trio.fail_after(30):
        async with open_node(NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"))) as node:
            while "look how busy the cache is" not in caplog.text:
                await trio.sleep(0.02)
            assert node.health.report() == ServingReport()
