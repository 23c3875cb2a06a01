"""What is lost of a tracker's database is told, and never in silence."""

from __future__ import annotations

import logging
import os
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import trio
from rich.console import Console
from tracker.services import publish, service_on

from p2pfill.cli.fleet import status_view
from p2pfill.errors import ConfigError, StoreError
from p2pfill.model.reports import TitleReport
from p2pfill.tracker import views
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.commits import LINE_BYTES, SUFFIX
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker


async def died(path: Path, make: Any, into: Path) -> list[str]:
    """Publish and order three titles, and leave `into` as SIGKILL would leave it; return what was ordered."""
    titles = []
    async with service_on(path) as service:
        for chunks in (2, 3, 4):
            titles.append(await publish(service, make, chunks))
            await service.add_fill(FillRequest(titles[-1], "all", ["http://o/"]))
        for end in ("", "-wal", SUFFIX):
            shutil.copy(f"{path}{end}", f"{into}{end}")
    return titles


def beside(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def damage(wal: Path, how: str) -> None:
    data = bytearray(wal.read_bytes())
    if how == "cut":
        del data[len(data) * 2 // 3 :]
    elif how == "flipped":
        data[len(data) * 2 // 3] ^= 1
    elif how == "gone":
        wal.unlink()
        return
    wal.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
async def test_a_damaged_log_of_writes_is_told(
    tmp_path: Path, make: Any, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "killed.db"
    titles = await died(tmp_path / "t.db", make, path)
    async with service_on(path) as whole:
        assert set(whole.titles) == set(titles)
        assert whole.losses == []
        before, number = whole.database, max(fill.number for fill in whole.fills.values())
    await died(tmp_path / "u.db", make, path)
    damage(Path(f"{path}-wal"), how)
    with caplog.at_level(logging.ERROR, "p2pfill.tracker"):
        async with service_on(path) as service:
            assert len(service.titles) < 3
            (loss,) = service.losses
            assert "are lost" in loss.text or "is gone" in loss.text
            assert "bring back" in loss.text
            assert service.database != before
            title = await publish(service, make, 5)
            await service.add_fill(FillRequest(title, "all", ["http://o/"]))
            assert max(fill.number for fill in service.fills.values()) > number
            name = service.database
    assert loss.text in caplog.text
    async with service_on(path) as again:
        assert [one.text for one in again.losses] == [loss.text]
        assert again.database == name


async def test_a_database_that_is_gone_is_told(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "t.db"
    async with service_on(path) as service:
        first = service.database
        title = await publish(service, make, 3)
        await service.add_fill(FillRequest(title, "all", ["http://o/"]))
        assert service.losses == []
    path.unlink()
    async with service_on(path) as service:
        assert service.database != first
        assert "is gone" in service.losses[0].text
        await publish(service, make, 3)
        await service.add_fill(FillRequest(title, "all", ["http://o/"]))
        assert [fill.number for fill in service.fills.values()] == [2], "older orders stand on caches"


@pytest.mark.parametrize("wrong", [None, b"", b"p2pfill-commits x y z\n", b"\xff" * LINE_BYTES])
async def test_a_missing_or_odd_count_is_no_loss(tmp_path: Path, make: Any, wrong: bytes | None) -> None:
    path = tmp_path / "t.db"
    async with service_on(path) as service:
        title, name = await publish(service, make, 3), service.database
    beside(path).unlink()
    if wrong is not None:
        beside(path).write_bytes(wrong)
    async with service_on(path) as service:
        assert (service.losses, service.database, list(service.titles)) == ([], name, [title])
        await publish(service, make, 4)
    assert int(beside(path).read_text().split()[2]) > 2


async def test_the_count_is_there_after_a_power_loss(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's own bytes are synced in any case; without its entry in the directory nobody finds it."""
    found: list[tuple[str, list[str]]] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        fsync(fd)
        place = os.readlink(f"/proc/self/fd/{fd}")
        found.append((place, os.listdir(place) if os.path.isdir(place) else []))

    monkeypatch.setattr(os, "fsync", note)
    async with service_on(tmp_path / "t.db") as service:
        await publish(service, make, 3)
    assert any(place == str(tmp_path) and f"t.db{SUFFIX}" in names for place, names in found)


async def test_a_database_that_does_not_fit_together_says_what_to_do(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "t.db"
    async with service_on(path) as service:
        await publish(service, make, 3)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"put a copy of it and of .* back, or move .* away") as caught:
        async with service_on(path):
            pass
    assert "\n" not in str(caught.value)


async def test_a_database_that_is_moved_away_takes_nothing_more(tmp_path: Path, make: Any) -> None:
    path, away = tmp_path / "t.db", tmp_path / "away.db"
    async with service_on(path) as service:
        title = await publish(service, make, 3)
        path.rename(away)
        with pytest.raises(StoreError, match=r"was moved away or replaced.*; put it back"):
            await publish(service, make, 4)
        path.write_bytes(b"")
        with pytest.raises(StoreError, match="was moved away or replaced"):
            await publish(service, make, 4)
        assert await service.manifest(title)
        away.replace(path)
        await publish(service, make, 4)


async def test_reading_counts_no_commit(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "t.db"
    async with service_on(path) as service:
        title = await publish(service, make, 3)
        said = beside(path).read_text()
        await service.manifest(title)
        assert beside(path).read_text() == said


async def test_a_count_that_cannot_be_written_stops_nothing(
    tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.db"
    beside(path).mkdir()
    async with service_on(path) as service:
        await publish(service, make, 3)
        await trio.lowlevel.checkpoint()
    assert "would not be noticed" in caplog.text


async def test_what_is_ordered_of_a_new_database_is_newer_than_what_nodes_have_done(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "t.db") as service:
        title = await publish(service, make, 3)
        for sequence, number in enumerate((41, 1 << 61), 1):
            report = make.report(make.info("n1"), sequence, TitleReport(title, "live", 3, 3, number=number))
            service.handle_heartbeat("n1", report)
        await service.add_fill(FillRequest(title, "all", ["http://o/"]))
        assert [fill.number for fill in service.fills.values()] == [42]


async def test_a_loss_is_told_by_health_and_status(tmp_path: Path, client: TrackerClient, make: Any) -> None:
    assert (await client.health()).losses == (await client.status()).losses == []
    path = tmp_path / "u.db"
    async with service_on(path) as service:
        await publish(service, make, 3)
    path.unlink()
    async with service_on(path) as service:
        health, status = views.health(service), views.status(service, 0.0)
        assert health.status == "degraded"
        assert "is gone" in health.losses[0]
        assert status.losses == health.losses
        console = Console(width=500, record=True, file=StringIO())
        console.print(status_view(status))
        assert health.losses[0] in console.export_text()


@pytest.mark.parametrize("how", ["another kind of file", "cut", "a page of it"])
async def test_a_database_that_is_damaged_is_told_with_what_helps(tmp_path: Path, make: Any, how: str) -> None:
    path = tmp_path / "t.db"
    async with service_on(path) as service:
        title = await publish(service, make, 3)
    assert path.stat().st_size > 40_960
    with path.open("r+b") as file:
        if how == "cut":
            file.truncate(40_960)
        else:
            file.seek(0 if how == "another kind of file" else 4096)
            file.write(b"\xa5" * 16_384)
    with pytest.raises(ConfigError, match=r"put a copy .* back, or move .*t\.db away"):
        await serve_tracker("127.0.0.1:0", f"sqlite:///{path}")
    # What it says to do does: that the old one is gone is told, and caches bring back what they have.
    path.rename(tmp_path / "aside.db")
    async with service_on(path) as fresh:
        assert title not in fresh.titles
        assert "is gone" in fresh.losses[0].text
