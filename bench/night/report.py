"""The report of some nights: a table in the terminal, a page in Markdown, and JSON, from which the others are made."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.table import Table

from bench.night import verdict
from bench.night.records import Night, NightsReport
from bench.swarm.report import guide_from, rounded, table_in_markdown
from p2pfill.cli.text import plural

HEAD: Final = ("a night", "median", "least", "most", "to reach")
REGION_HEAD: Final = (
    "region", "window, s", "urgent title live, s after opening", "all live, s after opening",
    "came in outside, without headers, kB", "sent outside, MB",
)  # fmt: skip


def encode_report(report: NightsReport) -> str:
    """Return a report as JSON with a line a night, of which the typical one keeps its course."""
    typical = verdict.typical(report.nights, report.topology)
    nights = [night if night is typical else _without_course(night) for night in report.nights]
    record: dict[str, Any] = msgspec.to_builtins(report)
    del record["nights"]
    head = msgspec.json.format(msgspec.json.encode(rounded(record)), indent=1).decode()
    lines = ",\n  ".join(msgspec.json.encode(rounded(msgspec.to_builtins(night))).decode() for night in nights)
    return f'{head.removesuffix("}").rstrip()},\n "nights": [\n  {lines}\n ]\n}}\n'


def decode_report(text: str | bytes) -> NightsReport:
    """Read what `encode_report` wrote. Raises `msgspec.DecodeError`."""
    return msgspec.json.decode(text, type=NightsReport)


def _without_course(night: Night) -> Night:
    caches = {name: msgspec.structs.replace(cache, course=[]) for name, cache in night.caches.items()}
    return msgspec.structs.replace(night, caches=caches)


def rows(report: NightsReport) -> list[tuple[str, ...]]:
    """Return the table's rows under `HEAD`."""
    return [
        (judged.name, *(f"{value:.{judged.places}f}" for value in figure), judged.reach)
        for judged, figure in verdict.figures(report)
    ]


def region_rows(report: NightsReport) -> list[tuple[str, ...]]:
    """Return a row for each region: medians over the nights of its last, or worst, cache."""
    topology = report.topology
    found: list[tuple[str, ...]] = []
    for region in dict.fromkeys(cache.region for cache in topology.caches()):
        nights = [
            msgspec.structs.replace(
                night, caches={name: cache for name, cache in night.caches.items() if cache.region == region}
            )
            for night in verdict.good_nights(report)
        ]
        if not nights:
            continue
        span = next(iter(nights[0].caches.values())).windows[0]
        found.append(
            (
                region,
                f"{span.opens_s:.0f} to {span.closes_s:.0f}",
                _median([_last(night, [verdict.urgent(topology)]) for night in nights], 1),
                _median([_last(night, [title.name for title in topology.titles]) for night in nights], 1),
                _median([max(c.outside.content_in for c in night.caches.values()) / 1e3 for night in nights], 0),
                _median([sum(c.outside.bytes_out for c in night.caches.values()) / 1e6 for night in nights], 1),
            )
        )
    return found


def _last(night: Night, titles: list[str]) -> float:
    """Return when the last cache had the last of some titles, after its window opened."""
    times = [
        max(cache.live_s[title] for title in titles) - cache.windows[0].opens_s
        for cache in night.caches.values()
        if all(title in cache.live_s for title in titles)
    ]
    return max(times, default=0.0)


def _median(values: list[float], places: int) -> str:
    return f"{statistics.median(values):.{places}f}"


def terminal_table(report: NightsReport) -> Table:
    """Return the table that a person reads after the nights."""
    table = Table(title=f"{report.topology.name}: {_what(report)}", title_justify="left")
    for number, column in enumerate(HEAD):
        table.add_column(column, justify="right" if number else "left")
    for row in rows(report):
        table.add_row(*row)
    return table


def _what(report: NightsReport) -> str:
    titles = ", ".join(f"{title.name} {title.size_mib} MiB" for title in report.topology.titles)
    return f"{plural(len(report.nights), 'night')}, each of {report.topology.lasts_s:g} s; {titles}"


def page(report: NightsReport, guide: str) -> str:
    """Return the page of a report; `guide` is the path to the page that explains it."""
    where, topology = report.surroundings, report.topology
    viewers = topology.viewers
    urgent = next(title for title in topology.titles if title.name == verdict.urgent(topology))
    failed = [night.failed for night in report.nights if night.failed]
    missed = [
        f"Night {number}: {miss}."
        for number, night in enumerate(report.nights, 1)
        for miss in verdict.misses(night, topology)
        if not night.failed
    ]
    parts = [
        "# Nights in the lab",
        f"[How to read this and repeat it]({guide}#a-night). {topology.name[:1].upper()}{topology.name[1:]}."
        f" {_what(report)}; *{urgent.name}* is urgent and ordered {urgent.at_seconds(0.0):g} s after the others, while"
        f" the first region fills. An hour is {3600 / topology.wall_speed:g} s. {plural(viewers.streams, 'viewer')} of"
        f" {viewers.mbit:g} Mbit/s each watch from {viewers.cache} all night, over the link over which it fills. Caches"
        f" have {topology.host_mbit:g} Mbit/s each way, the borders of their ISPs {topology.uplink_mbit:g}, and the"
        f" origin {topology.host(topology.origin).up_mbit:g}.",
        table_in_markdown(HEAD, rows(report)).rstrip(),
        f"A chunk has {verdict.chunk_bytes(topology) / 1000:.0f} kB.",
        "The regions, as medians; of each its last cache, or the one with most:",
        table_in_markdown(REGION_HEAD, region_rows(report)).rstrip(),
        "What was missed: " + " ".join(missed) if missed else "No night missed anything that it was to reach.",
        f"{plural(len(failed), 'night')} did not come to an end: {'; '.join(failed)}." if failed else "",
        "![What came in at the caches of each region, under their windows](night.svg)",
        f"Made {where.made_at} on {where.kernel}, {where.processors} processors, Python {where.python}, TCP"
        f" {where.congestion_control}: {', '.join(where.versions.values())}; the machine was shared with other work, as"
        " the last rows tell. As data: [night.json](night.json).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_report(report: NightsReport, directory: Path) -> None:
    """Write JSON and page."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "night.json").write_text(encode_report(report))
    (directory / "README.md").write_text(page(decode_report(encode_report(report)), guide_from(directory)))
