"""Looking for rot: what people ask for over the tracker, what a node does by itself, and a node that is not running."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from p2pfill.cli import main
from p2pfill.model.manifest import Manifest
from p2pfill.node import Node, NodeConfig, open_node, scrubber
from p2pfill.node.titles import TitlePhase
from p2pfill.store.publish import publish
from p2pfill.store.verify import verify_tree
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker

CHUNK = 64 * 1024
LIMIT_S = 60.0


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make_title(tmp_path, "film")


def make_title(tmp_path: Path, name: str) -> Manifest:
    src = tmp_path / "src" / name
    src.mkdir(parents=True, exist_ok=True)
    (src / "m.bin").write_bytes(os.urandom(30 * CHUNK + 7))
    (src / "b.bin").write_bytes(os.urandom(9 * CHUNK + 1))
    return publish(src, name=name, chunk_size=CHUNK).manifest


def ruin(live: Path) -> None:
    (live / "b.bin").unlink()
    with (live / "m.bin").open("r+b") as file:
        file.seek(20 * CHUNK)
        byte = file.read(1)
        file.seek(20 * CHUNK)
        file.write(bytes([byte[0] ^ 1]))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.02)


@asynccontextmanager
async def fleet(tmp_path: Path, names: tuple[str, ...]) -> AsyncIterator[tuple[str, dict[str, Node], TrackerClient]]:
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tracker, heartbeat_s=0.3)
            url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(TrackerClient(url))
                nodes = {}
                for name in names:
                    config = NodeConfig(id=name, isp="isp-a", data=str(tmp_path / name), tracker=url)
                    nodes[name] = await stack.enter_async_context(open_node(config))
                while len(await client.nodes()) < len(names):
                    await trio.sleep(0.02)
                yield url, nodes, client
            nursery.cancel_scope.cancel()


async def fill(client: TrackerClient, nodes: dict[str, Node], manifest: Manifest, origin: Path | None) -> None:
    title = manifest.title_id.hex()
    await client.put_title(title, manifest.encode())
    origins = [str(origin)] if origin is not None else []
    await client.post_fill(FillRequest(title=title, selector="all", origins=origins))
    for node in nodes.values():
        await until(lambda node=node: node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE)  # type: ignore[misc]
    while not all(any(t.title == title and t.state == "live" for t in n.titles) for n in await client.nodes()):
        await trio.sleep(0.02)


async def command(*arguments: str) -> int:
    return await trio.to_thread.run_sync(lambda: main(list(arguments)))


async def test_scrub_finds_and_repairs_on_the_caches_that_are_meant(
    tmp_path: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    async with fleet(tmp_path, ("a1", "a2")) as (url, nodes, client):
        await fill(client, nodes, manifest, tmp_path / "src" / "film")
        for name in nodes:
            ruin(tmp_path / name / "live" / "film")
        assert await command("scrub", "film", "--node", "a1", "--tracker", url, "--wait", "--json") == 0
        status = json.loads(capsys.readouterr().out)
        (only,) = status["nodes"]
        assert status["done"]
        assert (only["node"], only["report"]["state"]) == ("a1", "whole")
        assert (only["report"]["lost_files"], only["report"]["checked_chunks"]) == (1, manifest.chunk_count)
        assert only["report"]["bad_chunks"] == 11
        assert verify_tree(tmp_path / "a1" / "live" / "film", manifest).ok
        assert not verify_tree(tmp_path / "a2" / "live" / "film", manifest).ok
        assert await command("scrub", "film", "--tracker", url, "--wait") == 0
        assert verify_tree(tmp_path / "a2" / "live" / "film", manifest).ok
        assert "a2: whole" in capsys.readouterr().out
        await until(lambda: not nodes["a1"].scrubber.reports())  # the tracker has heard it
        assert await command("scrub", "film", "--node", "id=x*", "--tracker", url, "--wait") == 2
        assert "no running cache matches" in capsys.readouterr().err


def alter(live: Path) -> set[Path]:
    """Let files and directories lose their time or mode, as a careless copy or command does; return which."""
    os.utime(live / "m.bin", (5, 5))
    (live / "b.bin").chmod(0o600)
    (live / "sub" / "empty").chmod(0o777)
    (live / "sub").chmod(0o700)
    return {live / "m.bin", live / "b.bin", live / "sub" / "empty", live / "sub"}


def shown(place: Path) -> tuple[int, int]:
    status = place.stat()
    return status.st_mode, status.st_mtime_ns if place.is_file() else 0


async def test_times_and_modes_come_back_without_a_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "src" / "film" / "sub").mkdir(parents=True)
    (tmp_path / "src" / "film" / "sub" / "empty").touch()
    manifest = make_title(tmp_path, "film")
    source, live = tmp_path / "src" / "film", tmp_path / "a1" / "live" / "film"
    async with fleet(tmp_path, ("a1",)) as (url, nodes, client):
        await fill(client, nodes, manifest, source)
        source.rename(tmp_path / "away")
        before = {place: shown(place) for place in live.rglob("*")}
        altered = alter(live)
        assert {place for place, was in before.items() if shown(place) != was} == altered
        assert await command("scrub", "film", "--tracker", url, "--wait", "--timeout", "20") == 0
        assert "whole" in (said := capsys.readouterr().out)
        assert "4 files of another time or mode put right" in said
        assert {place: shown(place) for place in before} == before
        assert await command("scrub", "film", "--tracker", url, "--wait") == 0
        assert "put right" not in capsys.readouterr().out
    alter(live)
    assert await command("scrub", "--data", str(tmp_path / "a1"), manifest.title_id.hex()[:5]) == 0
    assert "of another time or mode, put right: m.bin" in capsys.readouterr().out
    assert {place: shown(place) for place in before} == before


async def test_without_a_source_the_wait_ends_and_explain_says_why(
    tmp_path: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "src" / "film"
    async with fleet(tmp_path, ("a1",)) as (url, nodes, client):
        await fill(client, nodes, manifest, source)
        source.rename(tmp_path / "away")
        ruin(tmp_path / "a1" / "live" / "film")
        assert await command("scrub", "film", "--tracker", url, "--wait", "--timeout", "2") == 4
        said = capsys.readouterr()
        assert "repairing" in said.out
        assert "11 bad, 1 file lost" in said.out
        assert await command("explain", "a1", "film", "--tracker", url) == 0
        assert f"11 of {manifest.chunk_count} chunks are bad on its disk" in capsys.readouterr().out
        (tmp_path / "away").rename(source)
        await until(lambda: nodes["a1"].titles.phase_of(manifest.title_id) is TitlePhase.LIVE)


async def test_a_node_goes_round_by_itself_and_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubber, "BEGIN_S", 0.05)
    monkeypatch.setattr(scrubber, "YIELD_S", 0.05)
    monkeypatch.setattr(scrubber, "SLICE_BYTES", CHUNK)
    titles = [make_title(tmp_path, f"t{number}") for number in range(3)]
    titles.sort(key=lambda manifest: manifest.title_id)
    config = NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"), scrub_bytes_s=0)
    with trio.fail_after(LIMIT_S):
        async with open_node(config) as node:
            for manifest in titles:
                await (await node.start_fill(manifest, [str(tmp_path / "src" / manifest.name)])).wait()
            assert node.scrubber.report().began_at == 0
        slow = NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"), scrub_bytes_s=20 * CHUNK)
        async with open_node(slow) as node:
            await until(lambda: node.scrubber.report().checked_bytes > 3 * CHUNK)
            await node.scrubber._save()
            began_at = node.scrubber.report().began_at
        place = json.loads((tmp_path / "a1" / "scrub.json").read_bytes())
        assert place["title"] == titles[0].title_id.hex()
        assert place["chunk"] >= 3
        ruin(tmp_path / "a1" / "live" / titles[1].name)
        fast = NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"), scrub_bytes_s=1 << 30)
        async with open_node(fast) as node:
            await until(lambda: node.scrubber.report().ended_at > 0)
            said = node.scrubber.report()
            assert said.began_at == began_at
            assert said.checked_bytes == sum(manifest.chunk_count for manifest in titles) * CHUNK
            assert said.bad_chunks == 1, "those of the lost file were found at the start"
            assert node.titles.phase_of(titles[1].title_id) is TitlePhase.REPAIRING
            repairs = await node.start_fill(titles[1], [str(tmp_path / "src" / titles[1].name)])
            await repairs.wait()
            assert verify_tree(tmp_path / "a1" / "live" / titles[1].name, titles[1]).ok


async def test_the_round_waits_for_fills_that_move_and_for_no_others(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubber, "YIELD_S", 0.05)
    config = NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"), scrub_bytes_s=1 << 30)
    with trio.fail_after(LIMIT_S):
        async with open_node(config) as node:
            fill = await node.start_fill(manifest)
            moved = 0

            def move() -> int:
                nonlocal moved
                moved += moved < 5
                return moved

            monkeypatch.setattr(node.scrubber, "_moved", move)
            await node.scrubber._yield_to_fills()
            assert moved == 5
            fill.withdraw()


def test_a_node_that_is_not_running_is_looked_at_by_hand(
    tmp_path: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    data, source = tmp_path / "a1", tmp_path / "src" / "film"

    async def run() -> None:
        with trio.fail_after(LIMIT_S):
            async with open_node(NodeConfig(id="a1", isp="isp-a", data=str(data))) as node:
                await (await node.start_fill(manifest, [str(source)])).wait()
                assert await command("scrub", "--data", str(data)) == 1  # it is in use

    async def again() -> None:
        with trio.fail_after(LIMIT_S):
            async with open_node(NodeConfig(id="a1", isp="isp-a", data=str(data))) as node:
                assert node.titles.phase_of(manifest.title_id) is TitlePhase.REPAIRING
                await (await node.start_fill(manifest, [str(source)])).wait()

    trio.run(run)
    assert "in use" in capsys.readouterr().err
    assert main(["scrub", "--data", str(data)]) == 0
    assert "all good" in capsys.readouterr().out
    ruin(data / "live" / "film")
    assert main(["scrub", "film", "--data", str(data), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    (only,) = said["titles"]
    assert len(only["bad"]) == 11
    assert only["missing"] == ["b.bin"]
    trio.run(again)
    assert main(["scrub", "--data", str(data)]) == 0
    assert verify_tree(data / "live" / "film", manifest).ok
    assert main(["scrub"]) == 2
    assert main(["scrub", "other", "--data", str(data)]) == 2


async def test_a_lost_link_is_found_and_shown_again(
    tmp_path: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    async with fleet(tmp_path, ("a1",)) as (url, nodes, client):
        await fill(client, nodes, manifest, tmp_path / "src" / "film")
        live = tmp_path / "a1" / "live" / "film"
        live.unlink()
        assert await command("scrub", "film", "--tracker", url, "--wait") == 0
        assert verify_tree(live, manifest).ok
        live.unlink()
        live.mkdir()
        assert await command("scrub", "film", "--tracker", url, "--wait") == 1
        assert "cannot show title 'film'" in capsys.readouterr().err
        live.rmdir()
        assert await command("scrub", "film", "--tracker", url, "--wait") == 0
        assert verify_tree(live, manifest).ok
