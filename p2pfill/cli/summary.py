"""What a demo has shown: as tables for people and as one record for scripts."""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from p2pfill.cli.text import show_bytes, show_percent, show_rate, show_seconds
from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import TitleReport
from p2pfill.tracker.records import FillStatus


class CacheOutcome(NamedTuple):
    """One cache at the end; `verified` means that every byte on its disk is the title's and nothing is extra."""

    id: str
    isp: str
    report: TitleReport | None
    verified: bool
    fault: str


class DemoOutcome(NamedTuple):
    """A finished demo."""

    manifest: Manifest
    status: FillStatus
    caches: list[CacheOutcome]
    verify_s: float

    @property
    def makespan_s(self) -> float:
        """From the order to the last cache live; 0 where none finished. All clocks are this machine's."""
        finished = [cache.report.finished_at for cache in self.caches if cache.report and cache.report.finished_at]
        return max(0.0, max(finished) - self.status.fill.created_at) if finished else 0.0

    def copies(self, count: int) -> float:
        """Return payload bytes as a multiple of the title; 0 for an empty title."""
        return count / self.manifest.size if self.manifest.size else 0.0


def demo_record(outcome: DemoOutcome) -> dict[str, Any]:
    """Return what `p2pfill demo --json` prints."""
    totals = outcome.status.totals
    return {
        "title_bytes": outcome.manifest.size,
        "title": outcome.manifest.title_id.hex(),
        "files": len(outcome.manifest.files),
        "chunks": outcome.manifest.chunk_count,
        "caches": len(outcome.caches),
        "completed": totals.live,
        "verified": sum(cache.verified for cache in outcome.caches),
        "makespan_s": round(outcome.makespan_s, 3),
        "bytes_by_tier": {
            "peer": totals.bytes_peer,
            "regional": totals.bytes_regional,
            "origin": totals.bytes_origin,
        },
        "origin_copies": round(outcome.copies(totals.bytes_origin), 4),
        "isp_copies": {isp: round(outcome.copies(count), 4) for isp, count in sorted(totals.isp_bytes.items())},
        "duplicate_bytes": totals.duplicate_bytes,
        "escalations": dict(sorted(totals.escalations.items())),
    }


def demo_view(outcome: DemoOutcome) -> RenderableType:
    """Return the summary that a person reads."""
    totals = outcome.status.totals
    moved = totals.bytes_peer + totals.bytes_regional + totals.bytes_origin
    verified = sum(cache.verified for cache in outcome.caches)
    good = verified == len(outcome.caches)
    lines = [
        ("complete", f"{totals.live} of {len(outcome.caches)} caches"),
        (
            "verified",
            f"{verified} of {len(outcome.caches)}, every byte on disk ({show_seconds(outcome.verify_s)})",
        ),
        (
            "time",
            f"{outcome.makespan_s:.2f} s from the order to the last cache live"
            + (f", {show_rate(moved / outcome.makespan_s)} in all" if outcome.makespan_s else ""),
        ),
        ("origin", f"{outcome.copies(totals.bytes_origin):.2f} copies left it (1.00 is the least)"),
    ]
    lines += [
        (isp, f"{outcome.copies(count):.2f} copies crossed its border (1.00 is the least)")
        for isp, count in sorted(totals.isp_bytes.items())
    ]
    share = show_percent(totals.bytes_peer, moved) if moved else "0 %"
    lines.append(("local", f"{share} of all bytes came from a cache of the same ISP"))
    lines.append(("wasted", f"{show_bytes(totals.duplicate_bytes)} arrived and were of no use"))
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(totals.escalations.items()))
    lines.append(("escalated", reasons or "never"))
    grid = Table.grid(padding=(0, 2))
    for name, text in lines:
        grid.add_row(Text(name, style="bold"), Text(text))
    return Group(
        Text(""),
        _caches_table(outcome),
        Text(""),
        grid,
        Text("All bytes are right." if good else "The demo FAILED.", style="bold green" if good else "bold red"),
    )


def _caches_table(outcome: DemoOutcome) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("cache", "isp", "verified"):
        table.add_column(name)
    for name in ("peer", "regional", "origin", "time"):
        table.add_column(name, justify="right")
    for cache in outcome.caches:
        report = cache.report
        counts = (report.bytes_peer, report.bytes_regional, report.bytes_origin) if report else (0, 0, 0)
        took_s = report.finished_at - report.started_at if report and report.finished_at else 0.0
        table.add_row(
            cache.id,
            cache.isp,
            Text("yes", style="green") if cache.verified else Text("NO", style="bold red"),
            *(show_bytes(count) if count else "-" for count in counts),
            f"{took_s:.2f} s" if took_s else "-",
        )
    return table
