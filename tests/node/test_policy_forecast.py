"""A night of a real tracker and real nodes, rebuilt; and another policy forecast, applied, and held against that."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pfill.cli.app import app
from p2pfill.cli.exits import run_app
from p2pfill.node import NodeConfig, open_node
from p2pfill.node.config import Rehearsal
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.night_report import NightReport
from p2pfill.tracker.records import FillRequest, PolicyRequest
from p2pfill.tracker.server import serve_tracker

CHUNK = 65536
CHUNKS = 160
SIZE = CHUNKS * CHUNK
HOUR_S = 8.0
"""What an hour of a night with windows takes."""
NO_WINDOWS: Mapping[str, str] = {}
CACHES = {"a1": "isp-a", "a2": "isp-a", "b1": "isp-b", "b2": "isp-b"}
OWN_COPIES = """
[[fills]]
name = "own-copies"
hops = ["isp", "origin"]
waits = {origin = "2s"}
"""
NOT_FOR_B = '[[residency]]\nname = "licence"\ntitles = "*"\nregions = ["region-a"]\n'


class Lab:
    """A tracker and four nodes in two ISPs."""

    def __init__(self, url: str, client: TrackerClient, root: Path) -> None:
        self.url = url
        self.client = client
        self._root = root

    async def order(self, name: str) -> str:
        """Order a new title for all nodes, and return its id."""
        source = self._root / name
        source.mkdir()
        (source / "film").write_bytes(os.urandom(SIZE))
        manifest = publish(source, name=name, chunk_size=CHUNK).manifest
        title = manifest.title_id.hex()
        await self.client.put_title(title, manifest.encode())
        await self.client.post_fill(FillRequest(title=title, selector="all", origins=[str(source)]))
        return title

    async def fill(self, name: str) -> str:
        """Have all nodes fill a new title; return its id once the night says that it is live in all of them."""
        title = await self.order(name)
        while not any(one.title == title and one.live == len(CACHES) for one in (await self.report()).titles):
            await trio.sleep(0.1)
        return title

    async def until_live(self, count: int) -> None:
        """Wait until the night says that so many titles are live in all nodes."""
        while sum(one.live == len(CACHES) for one in (await self.report()).titles) < count:
            await trio.sleep(0.1)

    async def report(self) -> NightReport:
        night = max(await self.client.nights(), key=lambda night: night.titles)
        return await self.client.night(night.night)

    async def moved(self, title: str) -> tuple[int, int, int]:
        (found,) = (one for one in (await self.report()).titles if one.title == title)
        return found.bytes_peer, found.bytes_regional, found.bytes_origin

    async def check(self, capsys: pytest.CaptureFixture[str], policy: str) -> tuple[int, Any, str]:
        """Run the command on this machine, as people do; return its exit code, what it says as JSON, and to people."""
        file = self._root / "policy.toml"
        file.write_text(policy)
        command = ["policy", "check", str(file), "--night", "last", "--tracker", self.url]
        capsys.readouterr()
        code = await trio.to_thread.run_sync(run_app, app, [*command, "--json"])
        said = capsys.readouterr()
        await trio.to_thread.run_sync(run_app, app, command)
        shown = capsys.readouterr()
        return code, json.loads(said.out or "null"), shown.out + shown.err


@asynccontextmanager
async def lab(
    root: Path, nursery: trio.Nursery, windows: Mapping[str, str] = NO_WINDOWS, clock: Rehearsal | None = None
) -> AsyncIterator[Lab]:
    """Run a tracker and the nodes. Nobody is busy with viewers, however busy this machine is."""
    async def serve(task_status: trio.TaskStatus[str]) -> None:
        await serve_tracker("127.0.0.1:0", f"sqlite:///{root}/tracker.db", heartbeat_s=1.0, task_status=task_status)

    async with AsyncExitStack() as stack:
        url: str = await nursery.start(serve)
        client = await stack.enter_async_context(TrackerClient(url))
        for name, isp in CACHES.items():
            config = NodeConfig(
                id=name, isp=isp, region=f"region-{isp[-1]}", data=str(root / f"data-{name}"), tracker=url, rates="4M",
                windows=windows.get(name, ""), clock=clock,
            )  # fmt: skip
            await stack.enter_async_context(open_node(config, busy=lambda: 0.0))
        while len(await client.nodes()) < len(CACHES):
            await trio.sleep(0.05)
        yield Lab(url, client, root)
    nursery.cancel_scope.cancel()


def near(one: tuple[int, ...], other: tuple[int, ...], part: float) -> bool:
    """Tell whether bytes by tier are alike, within a part of each; one chunk in a tier that has next to none."""
    return all(abs(a - b) <= max(part * max(a, b), CHUNK) for a, b in zip(one, other, strict=True))


@pytest.mark.alone
async def test_a_night_of_windows_is_rebuilt(
    tmp_path: Path, nursery: trio.Nursery, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two titles wait for windows that begin one after the other; who opens later takes from who is done."""
    windows = dict.fromkeys(("a1", "b1"), "02:00,max 08:00,off") | dict.fromkeys(("a2", "b2"), "03:00,max 10:00,off")
    clock = Rehearsal(shows="2026-11-30T01:00:00", at=time.time(), speed=3600 / HOUR_S)
    with trio.fail_after(240):
        async with lab(tmp_path, nursery, windows, clock) as made:
            await made.order("first")
            await made.order("second")
            await made.until_live(2)
            code, found, text = await made.check(capsys, "")
            # With hours of seconds who is said to be open when is a race, which a slow machine loses now and then.
            was = tuple(found["recorded"]["tiers"])
            assert near(tuple(found["rebuilt"]["tiers"]), was, 0.15), text
            assert (code == 0) == found["is_rebuilt"] == ("is rebuilt within 5%" in text)
            assert sum(found["rebuilt"]["tiers"]) == sum(was) == 2 * len(CACHES) * SIZE
            assert [title["live"] for title in found["rebuilt"]["titles"]] == [4, 4]
            assert found["rebuilt"] == found["forecast"], "no policy is what stood"


@pytest.mark.alone
async def test_a_night_is_rebuilt_and_another_policy_comes_true(
    tmp_path: Path, nursery: trio.Nursery, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each ISP takes a copy from the origin under the new policy, where one copy did for both before."""
    with trio.fail_after(240):
        async with lab(tmp_path, nursery) as made:
            was = await made.moved(await made.fill("first"))
            code, found, text = await made.check(capsys, OWN_COPIES)
            assert (code, found["is_rebuilt"]) == (0, True), text
            assert tuple(found["recorded"]["tiers"]) == was
            assert near(tuple(found["rebuilt"]["tiers"]), was, 0.05)
            assert found["rebuilt"]["titles"][0]["live"] == 4
            assert "rebuilt within 5%" in text
            expected = tuple(found["forecast"]["tiers"])
            assert was[2] < 1.2 * SIZE
            assert 1.9 * SIZE < expected[2] < 2.2 * SIZE
            assert expected[1] == 0
            await made.client.apply_policy(PolicyRequest(OWN_COPIES))
            came = await made.moved(await made.fill("second"))
            assert near(came, expected, 0.1), (came, expected)
            # Both titles, of which the first was filled under no policy: that is said, and rebuilt is what stood then.
            code, found, text = await made.check(capsys, NOT_FOR_B)
            assert "policy changed" in text
            assert found["forecast"]["barred"] == 4
            assert [title["caches"] for title in found["forecast"]["titles"]] == [2, 2]


async def test_what_cannot_be_rebuilt_is_said(
    tmp_path: Path, nursery: trio.Nursery, capsys: pytest.CaptureFixture[str]
) -> None:
    with trio.fail_after(120):
        async with lab(tmp_path, nursery) as made:
            code, found, text = await made.check(capsys, OWN_COPIES)
            assert (code, found) == (2, None)
            assert "nothing was to be had" in text
            title = await made.fill("first")
            (fill,) = await made.client.fills()
            await made.client.delete_fill(fill.fill_id)
            await made.client.delete_title(title)
            code, found, text = await made.check(capsys, OWN_COPIES)
            assert code in (0, 1), "what was in the catalogue when the night heard of it is known"
            assert found["recorded"]["titles"][0]["name"] == "first"
