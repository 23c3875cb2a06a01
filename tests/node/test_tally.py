"""What has come of a title from where is still known after a restart."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2pfill.engine.task import Commit, GoLive
from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import TitleReport
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.store.publish import publish
from p2pfill.store.tally import BYTES_MAX, TALLY, Tally, read_tally, write_tally

CHUNK = 64 * 1024


@asynccontextmanager
async def node_at(tmp_path: Path, name: str = "a1") -> AsyncIterator[Node]:
    with trio.fail_after(60):
        async with open_node(NodeConfig(id=name, isp="isp-a", data=str(tmp_path / name))) as node:
            yield node


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.02)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.bin").write_bytes(os.urandom(300 * CHUNK + 77))
    return publish(tmp_path / "src", name="film", chunk_size=CHUNK).manifest


def report(node: Node, manifest: Manifest) -> TitleReport:
    return next(one for one in node.report().titles if one.title == manifest.title_id.hex())


async def test_bytes_of_before_a_restart_are_not_forgotten(tmp_path: Path, manifest: Manifest) -> None:
    origins = [str(tmp_path / "src")]
    async with node_at(tmp_path) as node:
        fill = await node.start_fill(manifest, origins)
        await until(lambda: fill.fill.ledger.have.count() >= 20)
        before = report(node, manifest)
    assert before.bytes_origin > 0
    async with node_at(tmp_path) as node:
        fill = await node.start_fill(manifest, origins)
        said = report(node, manifest)
        assert said.bytes_origin >= before.bytes_origin
        assert said.started_at == before.started_at
        await fill.wait()
        said = report(node, manifest)
        # What was on its way when the first node ended was fetched twice.
        assert said.bytes_origin >= manifest.size, said
        assert said.finished_at > said.started_at == before.started_at
    async with node_at(tmp_path) as node:
        again = report(node, manifest)
        assert (again.state, again.bytes_origin, again.started_at) == ("live", said.bytes_origin, said.started_at)
        assert again.finished_at == pytest.approx(said.finished_at, abs=5.0)


async def test_what_the_engine_wants_of_a_fill_that_has_just_ended(tmp_path: Path, manifest: Manifest) -> None:
    """Its nursery is closed a turn before it knows: a commit is left to its end, and nothing is raised."""
    async with node_at(tmp_path) as node:
        fill = await node.start_fill(manifest, [str(tmp_path / "src")])
        await fill.wait()
        async with trio.open_nursery() as closed:
            pass
        fill._nursery = closed
        fill.perform(Commit(fill.task, [3, 4]))
        fill.perform(GoLive(fill.task))
        assert fill.task.to_commit == [3, 4]
        fill.task.to_commit.clear()


@pytest.mark.parametrize("kept", [None, b"", b"rubbish", b"[]", b'{"bytes_peer": -1}', b'"' * (BYTES_MAX + 1), b"\xff"])
def test_figures_that_cannot_be_read_are_none(tmp_path: Path, kept: bytes | None) -> None:
    if kept is not None:
        (tmp_path / TALLY).write_bytes(kept)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert read_tally(directory) == Tally()
        written = Tally(1, 2, 3, 4, 5, {"starved": 6}, 7.0, 8.0)
        write_tally(directory, written)
        assert read_tally(directory) == written
    finally:
        os.close(directory)
    assert os.listdir(tmp_path) == [TALLY]
