"""More files of a live title, where the disk refuses in the midst of it."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from p2pfill.errors import StoreError
from p2pfill.model.manifest import Manifest
from p2pfill.node import Node
from p2pfill.node import found as found_module
from p2pfill.node.titles import TitlePhase
from p2pfill.store.mending import Mend
from p2pfill.store.publish import publish
from p2pfill.store.rest import Rest
from p2pfill.store.title import StoredTitle
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from tests.node.test_eviction import node_with_tracker, until


def film(tmp_path: Path) -> tuple[Path, Manifest]:
    """Return three files that share a chunk, and their title."""
    src = tmp_path / "src"
    src.mkdir()
    for name in "abc":
        (src / name).write_bytes(os.urandom(3000))
    return src, publish(src, name="film", chunk_size=64 * 1024).manifest


async def have_a(node: Node, client: TrackerClient, src: Path, manifest: Manifest) -> None:
    """Have the first of the files be live."""
    title = manifest.title_id.hex()
    await client.put_title(title, manifest.encode())
    await client.post_fill(FillRequest(title, "all", [str(src)], files=("a",)))
    await until(lambda: node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE)


@pytest.mark.parametrize("refused", [errno.EIO, errno.ENOSPC])
async def test_files_that_the_disk_refused_come_with_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    src, manifest = film(tmp_path)
    title_id = manifest.title_id
    real, failed = Mend.put_aside, False

    def put_aside(mend: Mend, index: int, rest: Rest | None = None) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise OSError(refused, os.strerror(refused))
        real(mend, index, rest)

    async with node_with_tracker(tmp_path) as (node, client):
        await have_a(node, client, src, manifest)
        monkeypatch.setattr(Mend, "put_aside", put_aside)
        await client.post_fill(FillRequest(title_id.hex(), "all", [str(src)], files=("b", "c")))
        live = tmp_path / "a1" / "live" / "film"
        await until(lambda: failed and (node.titles.refusal(title_id) is not None or len(os.listdir(live)) == 3))
        assert node.tracker is not None
        node.tracker.retry()
        await until(lambda: len(os.listdir(live)) == 3 and node.titles.phase_of(title_id) is TitlePhase.LIVE)
        await until(lambda: [report.state for report in node.titles.reports()] == ["live"])


async def test_what_was_kept_of_files_and_was_removed_is_fetched_and_not_served(tmp_path: Path) -> None:
    """They shared a chunk with a file that was wanted before; then they were shown with a hole in that place."""
    src, manifest = film(tmp_path)
    title_id = manifest.title_id
    async with node_with_tracker(tmp_path) as (node, client):
        await have_a(node, client, src, manifest)
        rest = tmp_path / "a1" / "titles" / title_id.hex() / "rest"
        (rest / "1").unlink()
        os.mkfifo(rest / "1")
        (rest / "2").unlink()
        await client.post_fill(FillRequest(title_id.hex(), "all", [str(src)], files=("b", "c")))
        live = tmp_path / "a1" / "live" / "film"
        await until(lambda: len(os.listdir(live)) == 3 and node.titles.phase_of(title_id) is TitlePhase.LIVE)
        assert all((live / name).read_bytes() == (src / name).read_bytes() for name in "abc")
        await until(lambda: [report.state for report in node.titles.reports()] == ["live"])


async def test_a_title_whose_selection_is_lost_is_checked_before_it_is_served(tmp_path: Path) -> None:
    """A node without it said that it held the whole title."""
    src = tmp_path / "src"
    src.mkdir()
    for name in "abc":
        (src / name).write_bytes(os.urandom(200_000))
    manifest: Manifest = publish(src, name="film", chunk_size=64 * 1024).manifest
    title_id = manifest.title_id
    directory = tmp_path / "a1" / "titles" / title_id.hex()
    async with node_with_tracker(tmp_path) as (node, client):
        await client.put_title(title_id.hex(), manifest.encode())
        await client.post_fill(FillRequest(title_id.hex(), "all", [str(src)], files=("a", "b")))
        await until(lambda: node.titles.phase_of(title_id) is TitlePhase.LIVE)
    (directory / "selection").unlink()
    with (directory / "files" / "a").open("r+b") as file:
        file.write(bytes(1000))
    async with node_with_tracker(tmp_path) as (node, client):
        await until(lambda: [report.state for report in node.titles.reports()] == ["live"])
        assert [(report.files, report.have_chunks) for report in node.titles.reports()] == [(2, 8)]
        assert (directory / "files" / "a").read_bytes() == (src / "a").read_bytes()
        assert sorted(os.listdir(directory / "files")) == ["a", "b"]
        assert (directory / "selection").exists()


@pytest.mark.parametrize("refusals", [0, 2])
async def test_a_title_in_doubt_is_checked_while_the_node_serves_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    """The node begins its work before; what the disk refuses meanwhile is tried again."""
    src, manifest = film(tmp_path)
    title_id = manifest.title_id
    async with node_with_tracker(tmp_path) as (node, client):
        await have_a(node, client, src, manifest)
    (tmp_path / "a1" / "titles" / title_id.hex() / "selection").unlink()
    may_end, settle = threading.Event(), StoredTitle.settle_doubt
    left = refusals

    def late(stored: StoredTitle) -> None:
        nonlocal left
        assert may_end.wait(20)
        if left:
            left -= 1
            raise StoreError("cannot keep it: no space left on device")
        settle(stored)

    monkeypatch.setattr(StoredTitle, "settle_doubt", late)
    monkeypatch.setattr(found_module, "CHECK_AGAIN_S", 0.05)
    async with node_with_tracker(tmp_path) as (node, client):
        try:
            await until(lambda: node.tracker is not None and node.titles.orders is not None)
            assert node.titles.phase_of(title_id) is TitlePhase.ABSENT
            assert "being checked" in str(node.titles.refusal(title_id))
        finally:
            may_end.set()
        await until(lambda: node.titles.phase_of(title_id) is TitlePhase.LIVE)
        assert (left, node.titles.refusal(title_id)) == (0, None)
        await until(lambda: [report.state for report in node.titles.reports()] == ["live"])


async def test_a_title_in_doubt_that_is_withdrawn_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src, manifest = film(tmp_path)
    title_id = manifest.title_id
    async with node_with_tracker(tmp_path) as (node, client):
        await have_a(node, client, src, manifest)
    place = tmp_path / "a1" / "titles" / title_id.hex()
    (place / "selection").unlink()
    may_end, settle = threading.Event(), StoredTitle.settle_doubt

    def late(stored: StoredTitle) -> None:
        assert may_end.wait(20)
        settle(stored)

    monkeypatch.setattr(StoredTitle, "settle_doubt", late)
    monkeypatch.setattr(found_module, "CHECK_AGAIN_S", 0.05)
    async with node_with_tracker(tmp_path) as (node, client):
        try:
            await until(lambda: node.titles.orders is not None)
            await client.withdraw(title_id.hex(), urgent=True)
            await until(lambda: not place.exists())
        finally:
            may_end.set()
        await until(lambda: not node.found._doubtful)
        assert node.titles.phase_of(title_id) is TitlePhase.ABSENT
        assert node.titles.refusal(title_id) is None
        assert not (tmp_path / "a1" / "live" / "film").exists()
