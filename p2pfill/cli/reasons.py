"""Why a fill does not get on, in plain words: one line a cache and cause, out of what the caches report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from p2pfill.cli.text import plural, printable

if TYPE_CHECKING:
    from p2pfill.tracker.records import FillStatus, NodeProgress

STALLED_S: Final = 5.0
"""Nothing has moved for so long: then the reasons are said, and again after as long."""

LINES_MAX: Final = 8
"""Reasons said at a time: caches of one fleet mostly wait for the same."""


def reasons(status: FillStatus) -> list[str]:
    """Return what the caches that do not hold the title wait for, at most `LINES_MAX` lines."""
    found = dict.fromkeys(line for node in status.nodes for line in _of_node(node))
    lines = [printable(line) for line in found]
    if len(lines) > LINES_MAX:
        lines[LINES_MAX - 1 :] = [f"and {plural(len(lines) - LINES_MAX + 1, 'reason')} more"]
    return lines


def _of_node(progress: NodeProgress) -> Iterator[str]:
    name, report = progress.node.id, progress.report
    if progress.superseded or (report is not None and report.state == "live"):
        return
    if not progress.alive:
        yield f"{name}: its heartbeats have stopped; is it running?"
    elif report is None or report.state == "waiting":
        yield f"{name}: has not begun with this order"
    elif report.state == "failed":
        yield f"{name}: failed: {report.error or 'no reason given'}"
    else:
        bad = [source for source in report.sources if source.reason and source.state not in ("ok", "lost")]
        for source in bad:
            yield f"{name}: {'origin' if source.tier == 'origin' else 'cache'} {source.id}: {source.reason}"
        if not bad:
            for reason, count in report.waits.items():
                yield f"{name}: {plural(count, 'chunk')} wait for {reason}"
            if not report.sources:
                yield f"{name}: knows of no source: no origin is named, and no cache has a part of it"


class Stall:
    """Notes whether a fill moves."""

    def __init__(self) -> None:
        self.moves = True
        """Whether something had moved when it was last looked at."""
        self._moved_at: float | None = None
        self._before: tuple[int, ...] = ()

    def seen(self, status: FillStatus, now: float) -> bool:
        """Take in what is shown at `now`; tell, once in `STALLED_S`, that nothing has moved for so long."""
        totals = status.totals
        state = totals.have_bytes, totals.live, totals.failed, totals.superseded, totals.nodes
        self.moves = self._moved_at is None or state != self._before
        if self._moved_at is None or self.moves:
            self._moved_at, self._before = now, state
        if now < self._moved_at + STALLED_S:
            return False
        self._moved_at = now
        return True


class Remarks:
    """What people should know of origins that work, such as that one has no Range; each is said once."""

    def __init__(self) -> None:
        self.said: list[str] = []
        """All so far, at most `LINES_MAX`."""

    def new(self, status: FillStatus) -> list[str]:
        """Return what was not said before."""
        reports = [node.report for node in status.nodes if node.report is not None]
        found = dict.fromkeys(
            printable(f"origin {source.id}: {source.reason}")
            for report in reports
            for source in report.sources
            if source.tier == "origin" and source.state == "ok" and source.reason
        )
        lines = [line for line in found if line not in self.said][: LINES_MAX - len(self.said)]
        self.said += lines
        return lines
