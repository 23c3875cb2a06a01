"""A recorded fill, played again, decides the same: one between real nodes, and simulated ones under faults."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from sim.worlds import CHAOS

from p2pfill.cli import main
from p2pfill.errors import ConfigError
from p2pfill.model.manifest import Manifest
from p2pfill.node import NodeConfig, open_node
from p2pfill.sim import cache as cache_module
from p2pfill.sim.scenario import Scenario
from p2pfill.sim.world import World
from p2pfill.store.publish import publish
from p2pfill.swarm.recording import RecordingFill, play, read_lines
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker


async def fill_for_real(tmp_path: Path, manifest: Manifest) -> None:
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_tracker, "127.0.0.1:0", f"sqlite:///{tmp_path}/tracker.db")
        async with AsyncExitStack() as stack:
            nodes = []
            for name, isp in {"a1": "a", "a2": "a", "b1": "b"}.items():
                record = str(tmp_path / "records")
                config = NodeConfig(id=name, isp=isp, data=str(tmp_path / name), tracker=url, record=record)
                nodes.append(await stack.enter_async_context(open_node(config)))
            async with TrackerClient(url) as client:
                while len(await client.nodes()) < 3:
                    await trio.sleep(0.05)
                title = manifest.title_id.hex()
                await client.put_title(title, manifest.encode())
                await client.post_fill(FillRequest(title=title, selector="all", origins=[str(tmp_path / "src")]))
                for node in nodes:
                    while (filling := node.fill_of(manifest.title_id)) is None:
                        await trio.sleep(0.02)
                    await filling.wait()
        nursery.cancel_scope.cancel()


async def test_a_fill_of_real_nodes_replays_to_the_same_actions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("src", "records"):
        (tmp_path / name).mkdir()
    (tmp_path / "src" / "file").write_bytes(Random(1).randbytes(3_000_000))
    manifest = publish(tmp_path / "src", name="t", chunk_size=65536).manifest
    with trio.fail_after(60):
        await fill_for_real(tmp_path, manifest)
    records = sorted((tmp_path / "records").iterdir())
    assert [path.name.split("-")[0] for path in records] == ["a1", "a2", "b1"]
    for path in records:
        fill, played, difference = play(read_lines(path.read_bytes()), Random)
        assert difference is None
        assert played > manifest.chunk_count
        assert fill.ledger.is_complete()
        assert fill.manifest.title_id == manifest.title_id
        assert main(["sim", "--replay", str(path)]) == 0
        assert "the same actions; 46 of 46 chunks verified" in capsys.readouterr().out


def record_simulated(monkeypatch: pytest.MonkeyPatch, seed: int) -> list[list[bytes]]:
    recordings: list[list[bytes]] = []

    def make(*arguments: object, heard: bool, **_: object) -> RecordingFill:
        lines: list[bytes] = []
        recordings.append(lines)
        _, manifest, me, policy, _, now, durable = arguments
        return RecordingFill(
            lines.append, "s", manifest, me, policy, Random("s"), now, durable, heard=heard  # type: ignore[arg-type]
        )  # fmt: skip

    monkeypatch.setattr(cache_module, "CheckedFill", make)
    World(Scenario.load(CHAOS), seed).run()
    return recordings


@pytest.mark.parametrize("seed", [2, 9, 11])
def test_simulated_fills_replay_to_the_same_actions(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    recordings = record_simulated(monkeypatch, seed)
    assert len(recordings) >= 7
    for lines in recordings:
        _, played, difference = play(lines, Random)
        assert difference is None
        assert played == len(lines) - 1


def test_the_first_difference_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = record_simulated(monkeypatch, 2)[0]
    changed = next(number for number, line in enumerate(lines, 1) if b'"RequestChunk"' in line)
    lines[changed - 1] = lines[changed - 1].replace(b'"chunk":', b'"chunk":1', 1)
    _, _, difference = play(lines, Random)
    assert difference is not None
    assert difference.line == changed
    assert difference.recorded != difference.played
    path = tmp_path / "x.fill-record"
    path.write_bytes(b"".join(lines))
    assert main(["sim", "--replay", str(path), "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["line"] == changed
    assert f"line {changed}, at " in said.err


BAD = [
    b"",
    b"{}\n",
    b"\xff\n",
    b'{"format":"p2pfill-fill-2"}\n',
]
BAD_CALLS = [
    b"\n",
    b"[]\n",
    b'["+",1.0,"NoSuchEvent",{}]\n',
    b'["+",1.0,"SourceLost",{"origin":"x"}]\n',
    b'["+",1.0,"HoldingsArrived",{"source":"a","holdings":[3,"////"]}]\n',
    b'["?",1.0,[["RequestChunk"]]]\n',
    b'["?","1",[]]\n',
]


def test_what_is_no_recording_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for data in BAD:
        with pytest.raises(ConfigError):
            play(read_lines(data), Random)
    header = record_simulated(monkeypatch, 2)[0][0]
    assert play([header], Random)[2] is None
    for call in BAD_CALLS:
        with pytest.raises(ConfigError, match="line 2"):
            play([header, call], Random)
    assert main(["sim", "--replay", str(tmp_path / "absent")]) == 2
    assert main(["sim"]) == 2


def test_a_last_line_that_was_cut_short_is_left_out() -> None:
    assert list(read_lines(b"one\ntwo\nthr")) == [b"one", b"two"]


@pytest.mark.parametrize("fault", ["gone", "full"])
async def test_a_recording_that_cannot_be_written_does_not_hold_up_the_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    for name in ("src", "records"):
        (tmp_path / name).mkdir()
    (tmp_path / "src" / "file").write_bytes(Random(1).randbytes(300_000))
    manifest = publish(tmp_path / "src", name="t", chunk_size=65536).manifest
    config = NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"), record=str(tmp_path / "records"))
    if fault == "gone":
        (tmp_path / "records").rmdir()
    else:
        plain = Path.open

        def open_full(path: Path, *arguments: Any, **options: Any) -> Any:
            if path.suffix == ".fill-record":
                return open("/dev/full", "wb", buffering=16)
            return plain(path, *arguments, **options)

        monkeypatch.setattr(Path, "open", open_full)
    with trio.fail_after(30):
        async with open_node(config) as node:
            report = await node.fill(manifest, [str(tmp_path / "src")])
    assert report.state == "live"
    assert "record" in caplog.text
