"""Why a fill does not get on, in plain words, out of what the caches report: one line a cause, with who has it.

Causes are ordered by the bytes that are lacking for them, so that the first one is worth looking at first. What chunks
wait for is no cause where a source from which they would come is known to be bad: then that is. Nor is it one to wait
for another cache of the ISP: what that one waits for is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from p2pfill.cli.text import plural, printable
from p2pfill.cli.windows import show_hours
from p2pfill.swarm.waits import HELD_FOR

if TYPE_CHECKING:
    from p2pfill.model.reports import SourceReport, TitleReport
    from p2pfill.tracker.records import FillStatus, NodeProgress

STALLED_S: Final = 5.0
"""Nothing has moved for so long: then the reasons are said, and again after as long."""

LINES_MAX: Final = 8
"""Causes said at a time: caches of one fleet mostly wait for the same."""

CACHES_NAMED: Final = 3
"""Of those that have a cause."""

OF_OTHERS: Final = "the ISP's fill master"

TIERS: Final = {
    "room at a peer": ("peer",),
    "the origin, which cannot be reached from here": ("origin",),
    "a source beyond the ISP": ("regional", "origin"),
}
"""What chunks wait for (`swarm.waits`) -> the tiers of those from whom they would come."""


@dataclass
class Cause:
    """Why caches lack what they lack."""

    text: str
    caches: list[str]
    lacking: float
    """Bytes."""
    chunks: int = 0
    """That wait for it, where that can be said."""

    def __str__(self) -> str:
        names, more = self.caches[:CACHES_NAMED], len(self.caches) - CACHES_NAMED
        who = ", ".join(names) + (f" and {plural(more, 'other cache')}" if more > 0 else "")
        waits = f"{plural(self.chunks, 'chunk')} wait for " if self.chunks else ""
        return printable(f"{who}: {waits}{self.text}")


def reasons(status: FillStatus) -> list[str]:
    """Return what the caches that do not hold the title wait for, at most `LINES_MAX` lines."""
    lines = [str(cause) for cause in causes(status)]
    if len(lines) > LINES_MAX:
        lines[LINES_MAX - 1 :] = [f"and {plural(len(lines) - LINES_MAX + 1, 'cause')} more"]
    return lines


def causes(status: FillStatus) -> list[Cause]:
    """Return why caches do not hold the title, the cause first for which most bytes are lacking."""
    of_nodes = [(progress, list(_of_node(progress, _lacking(progress, status)))) for progress in status.nodes]
    roots: dict[str, list[Cause]] = {}  # ISP -> what caches that live there wait for, but for each other
    for progress, of_node in of_nodes:
        if progress.alive:
            roots.setdefault(progress.node.isp, []).extend(one for one in of_node if not _is_of_others(one))
    found: dict[str, Cause] = {}
    for progress, of_node in of_nodes:
        for one in of_node:
            if _is_of_others(one) and (behind := roots.get(progress.node.isp)):
                for root in behind:
                    _add(found, replace(root, caches=[], chunks=0, lacking=one.lacking / len(behind)))
                one = replace(one, lacking=0.0)
            _add(found, one)
    return sorted(found.values(), key=lambda one: (-one.lacking, -len(one.caches)))


def _add(found: dict[str, Cause], one: Cause) -> None:
    before = found.get(one.text)
    if before is None:
        found[one.text] = replace(one, caches=list(one.caches))
        return
    before.lacking += one.lacking
    before.chunks += one.chunks
    before.caches += [name for name in one.caches if name not in before.caches]


def _is_of_others(cause: Cause) -> bool:
    return cause.text.startswith(OF_OTHERS)


def _lacking(progress: NodeProgress, status: FillStatus) -> int:
    report = progress.report
    have, whole = (0, 0) if report is None else (report.have_bytes, report.title_bytes)
    return max(0, (whole or status.title_bytes) - have)


def _of_node(progress: NodeProgress, lacking: int) -> Iterator[Cause]:
    report = progress.report
    caches: list[str] = [progress.node.id]
    if progress.superseded:
        return
    if progress.alive and progress.unreached:
        # What others lack for it they say themselves, and not that it is for this.
        yield Cause(f"{progress.unreached}: see its advertise", caches, 0)
    if not progress.alive:
        # Where it was whole nothing is lacking but itself.
        yield Cause("its heartbeats have stopped; is it running?", caches, max(1, lacking))
    elif report is not None and report.state == "live":
        return
    elif report is not None and report.state == "waiting" and report.error:
        yield Cause(f"waits for its disk: {report.error}", caches, lacking)
    elif report is None or report.state == "waiting":
        yield Cause("has not begun with this order", caches, lacking)
    elif report.state == "failed":
        yield Cause(f"failed: {report.error or 'no reason given'}", caches, lacking)
    elif progress.hours.phase != "open" and report.waits.get(HELD_FOR["window"]):
        hours = progress.hours
        why = "tonight's budget is used up" if hours.budget_used else f"its fill window is {show_hours(hours)}"
        yield Cause(f"{why}; to fill at once order it with --now", caches, lacking)
    elif not report.sources:
        yield from (Cause(reason, caches, 0, count) for reason, count in report.waits.items())
        yield Cause("knows of no source: no origin is named, and no cache has a part of it", caches, lacking)
    else:
        yield from _of_waits(report, caches, lacking)


def _of_waits(report: TitleReport, caches: list[str], lacking: int) -> Iterator[Cause]:
    """Yield what the chunks of a fill wait for; a bad source for what would come from it."""
    bad = [source for source in report.sources if source.reason and source.state not in ("ok", "lost")]
    blamed = dict.fromkeys((source.id for source in bad), 0.0)
    waits = {reason: count for reason, count in report.waits.items() if count > 0}
    whole = sum(waits.values())
    for reason, count in waits.items():
        share = lacking * count / whole
        if behind := _behind(reason, report, bad):
            for source in behind:
                blamed[source.id] += share / len(behind)
        else:
            yield Cause(reason, caches, share, count)
    for source in bad:
        kind = "origin" if source.tier == "origin" else "cache"
        share = blamed[source.id] if whole else lacking / len(bad)
        yield Cause(f"{kind} {source.id}: {source.reason}", caches, share)


def _behind(reason: str, report: TitleReport, bad: list[SourceReport]) -> list[SourceReport]:
    """Return the bad sources that are why chunks wait for `reason`: none while a good one sends such chunks."""
    tiers = TIERS.get(reason, ())
    if any(source.state == "ok" and source.in_flight and source.tier in tiers for source in report.sources):
        return []
    return [source for source in bad if source.tier in tiers]


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
    """What people should know though all may be well: that an origin has no Range, or that a cache does not reach
    itself at the address that others are told. Each is said once."""

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
        found |= dict.fromkeys(
            printable(f"{node.node.id}: {node.unreached}: see its advertise")
            for node in status.nodes
            if node.alive and node.unreached
        )
        lines = [line for line in found if line not in self.said][: LINES_MAX - len(self.said)]
        self.said += lines
        return lines
