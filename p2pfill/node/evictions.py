"""What a node does for the tracker's requests to make room, and what it says of them.

Each request has a number and is done once, one after the other; what came of it is told until the tracker asks no more.
A report names the titles that may go, in the order in which they do, and then what keeps the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import Final

import trio

from p2pfill.errors import P2PFillError
from p2pfill.model import limits
from p2pfill.model.ids import TitleId
from p2pfill.model.reports import EvictOrder, EvictReport, Keeper, TitleFate, clipped
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.eviction import Evictor
from p2pfill.node.titles import TitleRegistry
from p2pfill.store.store import Store
from p2pfill.store.uses import TitleUse

GRAIN_BYTES: Final = 64 * limits.KIB
"""What can be free is rounded down by that, so that asking for it succeeds though a journal has grown meanwhile."""


class Evictions:
    """The requests of the tracker to one node. Belongs to the event loop."""

    def __init__(self, evictor: Evictor, titles: TitleRegistry, store: Store, log: logging.Logger) -> None:
        self._evictor = evictor
        self._titles = titles
        self._store = store
        self._log = log
        self._reports: dict[int, EvictReport] = {}
        self._turn = trio.Lock()

    def take(self, orders: Iterable[EvictOrder], nursery: trio.Nursery) -> None:
        """Take in the requests of the tracker."""
        wanted = {order.number: order for order in orders}
        self._reports = {number: said for number, said in self._reports.items() if number in wanted}
        for number, order in wanted.items():
            if number not in self._reports and len(self._reports) < limits.EVICTIONS_MAX:
                report = self._reports[number] = EvictReport(number, "looking")
                bounds = ErrorBoundary(self._log, "make room, as was asked for", partial(_note_failure, report))
                nursery.start_soon(bounds.run, self._obey, order, report)

    def reports(self) -> list[EvictReport]:
        """Return what came of the requests so far."""
        return list(self._reports.values())

    async def _obey(self, order: EvictOrder, report: EvictReport) -> None:
        async with self._turn:
            report.free_bytes = await trio.to_thread.run_sync(self._store.free_bytes)
            found, report.more = await self._evictor.survey(limits.EVICT_TITLES_MAX)
            fates = {use.title_id: self._fate(use, kept_by) for use, kept_by in found}
            report.titles = list(fates.values())
            most = await self._evictor.most_free(order.free_bytes)
            if most < order.free_bytes:
                # All of it would not do: nothing goes in vain, and whoever asks hears what would.
                report.most_bytes = max(1, most // GRAIN_BYTES * GRAIN_BYTES)
            elif order.dry_run:
                _foretell(report, order.free_bytes)
            else:
                report.state = "evicting"

                def note(use: TitleUse) -> None:
                    if use.title_id in fates:
                        fates[use.title_id].goes = True
                    report.gone, report.gone_bytes = report.gone + 1, report.gone_bytes + use.size

                await self._evictor.make_room(order.free_bytes, note)
                report.free_bytes = await trio.to_thread.run_sync(self._store.free_bytes)
        report.state = "done"

    def _fate(self, use: TitleUse, kept_by: Keeper) -> TitleFate:
        name, used_at = self._name(use.title_id), max(0.0, use.used_at)
        return TitleFate(use.title_id.hex(), name, use.size, used_at, kept_by, files=use.files)

    def _name(self, title_id: TitleId) -> str:
        stored = self._titles.stored(title_id)
        return "" if stored is None else clipped(stored.manifest.name)


def _foretell(report: EvictReport, free_bytes: int) -> None:
    """Note what would go until so much is free."""
    for fate in report.titles:
        if fate.kept_by == "" and report.free_bytes + report.gone_bytes < free_bytes:
            fate.goes = True
            report.gone, report.gone_bytes = report.gone + 1, report.gone_bytes + fate.size


def _note_failure(report: EvictReport, error: P2PFillError) -> None:
    report.state, report.error = "failed", clipped(str(error)) or type(error).__name__
