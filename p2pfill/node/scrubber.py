"""Looking whether what is on disk is still what it was: on request, and all the time at a low rate.

A look reads chunks by the paths of their files (`store.scrub.FreshLook`), in worker threads, some MiB at a time with a
pause after each, so that it takes a bounded share of the disk. What is bad goes to the registry at once, which has it
fetched anew. Requests of the tracker have numbers, and what came of each is told until the tracker asks no more.

The round through all titles yields while fills move, goes in the order of the titles' ids, and keeps its place in a
small file, so that a node that is started every day gets through too. Lost is at most what a minute has read.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

from p2pfill.errors import P2PFillError, StoreError
from p2pfill.model import limits
from p2pfill.model.ids import title_id_from_hex
from p2pfill.model.packing import JSON_ERRORS
from p2pfill.model.reports import ScrubberReport, ScrubOrder, ScrubReport, clipped
from p2pfill.model.selection import chunks_of_file
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.titles import TitlePhase, TitleRegistry
from p2pfill.store.scrub import FreshLook
from p2pfill.store.title import StoredTitle

SLICE_BYTES: Final = 8 * limits.MIB
"""What one call to a worker thread reads: a fraction of a second of a disk."""

ORDERED_BYTES_S: Final = 256 * limits.MIB
"""Of a look that somebody has asked for: most of a disk, but not all of it, while viewers read."""

ORDERS_MAX: Final = 256
"""Requests that are remembered; a tracker asks for no more at a time."""

BEGIN_S: Final = 60.0
"""Before the round goes on after a start: a node that starts has more urgent things to read."""

YIELD_S: Final = 5.0
"""How long the round waits before it looks again whether fills still move."""

ROUND_S_MIN: Final = 86400.0
"""From the beginning of one round to that of the next: what little a small cache holds need not be read all day."""

SAVE_S: Final = 60.0
"""How often the place of the round is written down."""

PLACE_FILE: Final = "scrub.json"


class Place(msgspec.Struct):
    """Where the round is; what is kept of it across restarts."""

    began_at: float = 0.0
    """Seconds since the epoch; 0 before the first."""
    ended_at: float = 0.0
    title: str = ""
    """The title that is looked at, or comes next; those with smaller ids are done."""
    chunk: int = 0
    checked_bytes: int = 0
    bad_chunks: int = 0


@dataclass
class _Found:
    """What one look at a title has found."""

    checked_chunks: int = 0
    bad: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    altered: int = 0


class Scrubber:
    """Looks at the titles of one node. Belongs to the event loop."""

    def __init__(self, titles: TitleRegistry, root: Path, rate_bytes_s: int, log: logging.Logger) -> None:
        """`rate_bytes_s` is that of the round, 0 for none."""
        self._titles = titles
        self._file = root / PLACE_FILE
        self._rate_bytes_s = rate_bytes_s
        self._log = log
        self._place = Place()
        self._saved_at = 0.0
        self._reports: dict[int, ScrubReport] = {}
        self._turn = trio.Lock()
        """Held by the request that is being looked at."""

    # ---- requests

    def take(self, orders: Iterable[ScrubOrder], nursery: trio.Nursery) -> None:
        """Take in the requests of the tracker; each is done once."""
        wanted = {order.number: order for order in orders}
        self._reports = {number: said for number, said in self._reports.items() if number in wanted}
        for number, order in wanted.items():
            if number not in self._reports and len(self._reports) < ORDERS_MAX:
                report = self._reports[number] = ScrubReport(number, order.title, "checking")
                bounds = ErrorBoundary(self._log, f"scrub title {order.title[:64]}", partial(_note_failure, report))
                nursery.start_soon(bounds.run, self._obey, report)

    def reports(self) -> list[ScrubReport]:
        """Return what came of the requests so far."""
        return list(self._reports.values())

    async def _obey(self, report: ScrubReport) -> None:
        title_id = title_id_from_hex(report.title)
        async with self._turn:
            found = _Found()
            stored = self._titles.stored(title_id)
            if stored is None:
                raise StoreError("the title is not held here")
            report.chunk_count = stored.wanted.count()

            def tell() -> None:
                report.checked_chunks, report.bad_chunks = found.checked_chunks, len(found.bad)
                report.lost_files, report.altered_files = len(found.lost), found.altered

            await self._look(stored, found, ORDERED_BYTES_S, 0, tell)
        report.state = "repairing"
        while self._titles.phase_of(title_id) is TitlePhase.REPAIRING:
            fill = self._titles.fill_of(title_id)
            report.error = fill.error if fill is not None else ""
            # Another fill may take up the repair where this one has failed.
            with trio.move_on_after(YIELD_S):
                await fill.done.wait() if fill is not None and not fill.done.is_set() else await trio.sleep(YIELD_S)
        report.state, report.error = "whole", ""
        self._log.info(
            "scrubbed %r: %d chunks were bad, %d files lost", stored.manifest.name, len(found.bad), len(found.lost)
        )

    # ---- one title

    async def _look(
        self, stored: StoredTitle, found: _Found, rate_bytes_s: int, first: int, tell: Callable[[], object]
    ) -> None:
        """Look at a title from chunk `first` on, and have what is bad fetched anew. `tell` is called after each step.

        Raises `StoreError`.
        """
        title_id = stored.manifest.title_id
        look = await trio.to_thread.run_sync(FreshLook, stored)
        try:
            if stored.live:
                await self._titles.look_at_link(title_id)
            await trio.to_thread.run_sync(look.show_again)
            if look.altered:
                found.altered = len(look.altered)
                self._log.warning(
                    "%d files or directories of %r had lost their time or mode, as %s", found.altered,
                    stored.manifest.name, look.altered[0],
                )  # fmt: skip
            lost = await trio.to_thread.run_sync(look.lost_files)
            if lost:
                found.lost.update(lost)
                found.bad.update(chunk for index in lost for chunk in chunks_of_file(stored.manifest, index))
                await self._titles.repair(title_id)
                tell()
            step = max(1, SLICE_BYTES // stored.manifest.chunk_size)
            for start in range(first, stored.manifest.chunk_count, step):
                began = trio.current_time()
                wanted, last = stored.wanted, min(start + step, stored.manifest.chunk_count)
                chunks = [chunk for chunk in range(start, last) if wanted[chunk]]
                bad = await trio.to_thread.run_sync(_bad_of, look, stored, chunks)
                found.checked_chunks += len(chunks)
                if bad:
                    found.bad.update(bad)
                    await self._titles.repair(title_id, bad)
                tell()
                await trio.sleep_until(began + len(chunks) * stored.manifest.chunk_size / rate_bytes_s)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(look.close)

    # ---- the round

    def report(self) -> ScrubberReport:
        """Return how far the round is."""
        place = self._place
        return ScrubberReport(self._rate_bytes_s, place.began_at, place.ended_at, place.checked_bytes, place.bad_chunks)

    async def run(self) -> None:
        """Go through all live titles, round after round; runs until cancelled."""
        if not self._rate_bytes_s:
            return
        async with ErrorBoundary(self._log, "read where the scrubber was", level=logging.INFO):
            self._place = await trio.to_thread.run_sync(_read_place, self._file)
        await trio.sleep(BEGIN_S)
        while True:
            async with ErrorBoundary(self._log, "go on with the round of the scrubber"):
                await self._go_round()
            await trio.sleep(YIELD_S)

    async def _go_round(self) -> None:
        place = self._place
        if place.ended_at >= place.began_at:
            if time.time() < place.began_at + ROUND_S_MIN:
                return
            place = self._place = Place(began_at=time.time(), ended_at=place.ended_at)
        live = self._titles.live_ids()
        for title_id in live[bisect_left(live, place.title, key=bytes.hex) :]:
            name = title_id.hex()
            if name != place.title:
                place.title, place.chunk = name, 0
            await self._yield_to_fills()
            stored = self._titles.stored(title_id)
            if stored is not None and stored.live:
                async with ErrorBoundary(self._log, f"look at title {name}"):
                    while not await self._look_in_round(stored, place):
                        await self._yield_to_fills()
            place.title, place.chunk = f"{name}0", 0  # whatever comes after it
        place.title, place.chunk, place.ended_at = "", 0, max(time.time(), place.began_at)
        await self._save()

    async def _look_in_round(self, stored: StoredTitle, place: Place) -> bool:
        """Look at a title from the place on; False where fills have come between."""
        found, first, size, before = _Found(), place.chunk, stored.manifest.chunk_size, place.bad_chunks
        checked_bytes = place.checked_bytes

        def tell() -> None:
            place.chunk = first + found.checked_chunks
            place.checked_bytes = checked_bytes + found.checked_chunks * size
            place.bad_chunks = before + len(found.bad)

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_yielding, scope)
                await self._look(stored, found, self._rate_bytes_s, first, tell)
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught or trio.current_time() > self._saved_at + SAVE_S:
            await self._save()
        return not scope.cancelled_caught

    async def _keep_yielding(self, scope: trio.CancelScope) -> None:
        """End the look when fills move; keep its place now and then."""
        moved = self._moved()
        while True:
            await trio.sleep(min(YIELD_S, 1.0))
            if (now := self._moved()) != moved:
                scope.cancel()
            moved = now
            if trio.current_time() > self._saved_at + SAVE_S:
                await self._save()

    async def _yield_to_fills(self) -> None:
        """Wait until no fill has got on for a while: one that waits for a source keeps nobody from anything."""
        moved = -1
        while (now := self._moved()) != moved and self._titles.running_fills():
            moved = now
            await trio.sleep(YIELD_S)

    def _moved(self) -> int:
        """Return a figure that changes when a fill gets a chunk."""
        return sum(fill.fill.ledger.have.count() for fill in self._titles.running_fills())

    async def _save(self) -> None:
        self._saved_at = trio.current_time()
        async with ErrorBoundary(self._log, "write down where the scrubber is", level=logging.INFO):
            await trio.to_thread.run_sync(_write_place, self._file, msgspec.json.encode(self._place))


def _note_failure(report: ScrubReport, error: P2PFillError) -> None:
    report.state, report.error = "failed", clipped(str(error)) or type(error).__name__


def _bad_of(look: FreshLook, stored: StoredTitle, chunks: list[int]) -> list[int]:
    """Return which chunks are bad, of those that should be good. Runs in a thread. Raises `StoreError`."""
    # Looked at again after it: a chunk may have been found bad, and its file lost, meanwhile.
    return [chunk for chunk in chunks if stored.have[chunk] and not look.is_good(chunk) and stored.have[chunk]]


def _read_place(file: Path) -> Place:
    """Return the place that was kept; a new one where there is none, or it cannot be read."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Place)
    except (OSError, *JSON_ERRORS):
        return Place()


def _write_place(file: Path, data: bytes) -> None:
    """Keep a place. Not synced: what a crash loses of it is read again. Raises `StoreError`."""
    partial_file = file.with_suffix(".new")
    try:
        partial_file.write_bytes(data)
        partial_file.replace(file)
    except OSError as error:
        raise StoreError(f"cannot write {str(file)!r}: {error.strerror}") from error
