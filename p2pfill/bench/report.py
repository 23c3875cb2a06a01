"""A page and plots for people, made from the JSON reports in a directory and from nothing else.

Each benchmark writes one JSON file and has one `Section`. The page holds the sections of those files that are there, so
a benchmark can be run alone, and page and plots can be made anew at any time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from p2pfill.bench import fanout, pair, plots
from p2pfill.bench.measure import Machine, Spread, mean_load
from p2pfill.errors import ConfigError

PAGE: Final = "README.md"
GUIDE: Final = "../../benchmark.md"
"""How to read the page, seen from it."""

MIB: Final = 1 << 20

PAIR_AIMS: Final = {
    "xxh3/floor": 0.90,
    "default/floor": 0.75,
    "default/curl": 1.2,
    "default/aria2": 2.0,
    "default/libtorrent": 4.5,
}
"""Ratios of rates that the data path shall reach."""

COST_AIMS: Final = {"sender xxh3/floor": 1.2, "receiver xxh3/floor": 1.25}
"""Ratios of processor time that it shall not pass."""

FAN_AIMS: Final = {"16 receivers/pair": 1.0}


class Section(NamedTuple):
    """One benchmark's part of the page."""

    name: str
    """Of its JSON file and its plots."""
    kind: Any
    """The type of its report; where that has a field `machine`, the page says so."""
    lines: Callable[[Any], list[str]]
    """Its part of the page, from a heading on."""
    draw: Callable[[Any], Any] | None
    """Its plot, as a figure of matplotlib, which the page shows as `NAME.svg`."""


def write(directory: Path, name: str, record: dict[str, Any]) -> list[str]:
    """Write a benchmark's JSON into a directory, and page and plots anew; return what could not be done."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    return redraw(directory)


def redraw(directory: Path) -> list[str]:
    """Make page and plots from the JSON files in a directory; return what could not be done. Raises `ConfigError`."""
    found = load(directory)
    (directory / PAGE).write_text(page(found))
    if why := plots.missing():
        return [f"no plots: {why}"]
    for section in SECTIONS:
        if section.name in found and section.draw is not None:
            plots.save(section.draw(found[section.name]), directory, section.name)
    return []


def load(directory: Path) -> dict[str, Any]:
    """Return the reports in a directory by their sections' names. Raises `ConfigError`."""
    found = {}
    for section in SECTIONS:
        path = directory / f"{section.name}.json"
        if path.is_file():
            try:
                found[section.name] = msgspec.json.decode(path.read_bytes(), type=section.kind)
            except msgspec.DecodeError as error:
                raise ConfigError(f"{str(path)!r} is not a report of this version: {error}") from error
    if not found:
        names = ", ".join(f"{section.name}.json" for section in SECTIONS)
        raise ConfigError(f"{str(directory)!r} holds no report ({names}): make one with p2pfill bench")
    return found


def page(found: dict[str, Any]) -> str:
    """Return the page of some reports."""
    lines = [
        "# Benchmarks on one machine",
        "",
        f"Made by `p2pfill bench`; do not edit. [How to read this and repeat it]({GUIDE}).",
    ]
    for section in SECTIONS:
        if section.name in found:
            report = found[section.name]
            lines += ["", *section.lines(report)]
            if section.draw is not None:
                lines += ["", f"![{section.name}]({section.name}.svg)"]
            if hasattr(report, "machine"):
                lines += ["", machine_line(report.machine)]
    return "\n".join(lines) + "\n"


def machine_line(machine: Machine) -> str:
    """Say where something was measured."""
    native = "" if machine.native else ", without the native module"
    return (
        f"Made {machine.made_at} on {machine.kernel}, {machine.processors} x {machine.processor}, "
        f"{machine.memory_bytes / (1 << 30):.0f} GiB of memory, {machine.file_system}, Python {machine.python}, "
        f"p2pfill {machine.p2pfill}{native}."
    )


def show(spread: Spread, digits: int = 2) -> str:
    """Return a median with its range."""
    return f"{spread.median:.{digits}f} ({spread.min:.{digits}f} to {spread.max:.{digits}f})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table whose first column is text and whose others are figures."""
    aligned = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, aligned, *rows)]


def aim_rows(ratios: dict[str, float | None], aims: dict[str, float], *, most: bool = False) -> list[list[str]]:
    """Return a row for each ratio: what it is, what it shall be, and whether it is."""
    rows = []
    for name, value in ratios.items():
        aim = aims.get(name)
        sign = "at most" if most else "at least"
        told = "" if aim is None else f"{sign} {aim:g}"
        if value is None or aim is None:
            verdict = ""
        else:
            verdict = "yes" if (value <= aim if most else value >= aim) else "**no**"
        rows.append([name, "absent" if value is None else f"{value:.2f}", told, verdict])
    return rows


# ---- pair


PAIR_HEAD: Final = [
    "", "GB/s", "cpu s/GB, sender", "receiver", "peak MiB, sender", "receiver", "checked", "on disk",
]  # fmt: skip


def is_in_memory(report: pair.PairReport) -> bool:
    """Tell whether no disk took part. The two are different questions, so a page may answer both."""
    return report.machine.file_system in ("tmpfs", "ramfs")


def pair_name(report: pair.PairReport) -> str:
    """Return the name of the section to which a report belongs."""
    return "pair-memory" if is_in_memory(report) else "pair"


def pair_rows(report: pair.PairReport) -> list[list[str]]:
    """Return a row for each contender, under `PAIR_HEAD`."""
    rates, costs, peaks = pair.rates(report), pair.costs(report), pair.peaks(report)
    return [
        [
            f"**{name}**: {one.title}",
            show(rates[name]),
            show(costs[name]["sender"]),
            show(costs[name]["receiver"]),
            f"{peaks[name]['sender'] / MIB:.0f}",
            f"{peaks[name]['receiver'] / MIB:.0f}",
            one.checks,
            "yes" if one.durable else "no",
        ]
        for name, one in report.contenders.items()
    ]


def pair_lines(report: pair.PairReport) -> list[str]:
    """Return the pair's part of the page."""
    runs = max(len(one.runs) for one in report.contenders.values())
    place = "a file system in memory, where no disk is waited for" if is_in_memory(report) else "a disk"
    return [
        f"## One pair{' in memory' if is_in_memory(report) else ''}",
        "",
        f"A file of {report.size_bytes // MIB:,} MiB from one process to another over loopback, on {place}; {runs} "
        "runs of each by turns; medians, ranges in brackets.",
        "",
        *table(PAIR_HEAD, pair_rows(report)),
        "",
        *(f"Left out: {name}, {why}.\n" for name, why in report.absent.items()),
        *table(
            ["ratio of medians", "is", "aim", "reached"],
            aim_rows(pair.ratios(report), PAIR_AIMS)
            + [
                [f"processor time per GB, {row[0]}", *row[1:]]
                for row in aim_rows(pair.cost_ratios(report), COST_AIMS, most=True)
            ],
        ),
        "",
        "What the machine did meanwhile, on average:",
        "",
        *table(
            ["", "processors busy", "waiting for the disk", "disk busy", "written to it, of the file"],
            [_load_row(name, one, report.size_bytes) for name, one in report.contenders.items()],
        ),
        "",
        "Measured: " + "; ".join(dict.fromkeys(one.version for one in report.contenders.values())) + ".",
    ]


def _load_row(name: str, one: pair.Measured, size_bytes: int) -> list[str]:
    load = mean_load([run.load for run in one.runs])
    written = "" if load.disk_written_bytes is None else f"{load.disk_written_bytes / size_bytes:.0%}"
    return [name, f"{load.busy:.0%}", f"{load.waiting:.0%}", _part(load.disk_busy), written]


def _part(part: float | None) -> str:
    return "" if part is None else f"{part:.0%}"


# ---- fan-out


FAN_HEAD: Final = [
    "", "MiB each", "GB/s together", "of its pair", "cpu s/GB, senders", "receivers", "peak MiB of the one",
    "cpus busy", "disk busy",
]  # fmt: skip


def fan_rows(report: fanout.FanReport, show: Callable[[Spread], str] = show) -> list[list[str]]:
    """Return a row for each number of nodes, under `FAN_HEAD`; `show` writes a figure and its range."""
    rows = []
    for point in report.points:
        cost, load = fanout.cost(point), mean_load([run.load for run in point.runs])
        rows.append(
            [
                f"{fanout.DIRECTIONS[point.direction]} {point.count}",
                f"{point.size_bytes // MIB}",
                show(fanout.rate(point)),
                f"{fanout.over_pair(report, point):.2f}",
                show(cost["sender"]),
                show(cost["receiver"]),
                f"{fanout.one_peak_bytes(point) / MIB:.0f}",
                f"{load.busy:.0%}",
                _part(load.disk_busy),
            ]
        )
    return rows


def limits_line(report: fanout.FanReport) -> str:
    """Say where the machine had no more to give."""
    limited = [
        f"{fanout.DIRECTIONS[point.direction]} {point.count}: {what}"
        for point in report.points
        if (what := fanout.limit_of(point))
    ]
    said = "; ".join(limited) if limited else "nothing"
    return f"Busy all the time ({fanout.LIMITED:.0%} or more), and so what was measured: {said}."


def fan_lines(report: fanout.FanReport) -> list[str]:
    """Return the fan-out's part of the page."""
    runs = max(len(point.runs) for point in report.points)
    lines = [
        "## One node and many",
        "",
        f"Nodes with default settings over loopback, {runs} runs of each by turns; medians, ranges in brackets. "
        "Receivers know of the sources alone.",
        "",
        *table(FAN_HEAD, fan_rows(report)),
        "",
        limits_line(report),
    ]
    aimed = {name: value for name, value in fanout.ratios(report).items() if name in FAN_AIMS}
    if aimed:
        head = ["ratio of medians", "is", "aim", "reached"]
        lines += ["", *table(head, aim_rows(dict(aimed), FAN_AIMS))]
    return lines


# ---- big titles


BIG_HEAD: Final = [
    "", "publish s", "verify s", "first chunk s, complete", "half there", "peak MiB: publish", "node",
    "node and peers", "node half there and peers",
]  # fmt: skip


def big_rows(report: dict[str, Any]) -> list[list[str]]:
    """Return a row for each title, under `BIG_HEAD`; the last columns for the largest of each kind."""
    rows = []
    for kind in ("sparse", "small_files"):
        for one in report[kind]:
            size = f"{one['bytes'] / (1 << 30):.0f} GiB, {one['chunks']:,} chunks" if kind == "sparse" else ""
            crowds = [one[state].get("crowd") for state in ("complete", "half")]
            rows.append(
                [
                    size or f"{one['files']:,} files, {one['chunks']:,} chunks",
                    f"{one['publish_s']:.2f}",
                    f"{one['verify_s']:.2f}",
                    f"{one['complete']['chunk_s']:.2f}",
                    f"{one['half']['chunk_s']:.2f}",
                    f"{one['publish_rss_mib']:.0f}",
                    f"{one['complete']['rss_mib']:.0f}",
                    *(f"{crowd['peak_rss_mib']:.0f}" if crowd else "" for crowd in crowds),
                ]
            )
    return rows


def big_lines(report: dict[str, Any]) -> list[str]:
    """Return the part of the page about big titles."""
    growth = {
        kind: ", ".join(f"{name.replace('_s', '')} {value:.2f}" for name, value in report["growth"][kind].items())
        for kind in ("sparse", "small_files")
    }
    return [
        "## Big titles",
        "",
        "A sparse file, and many small ones: real commands, real peers. *First chunk* is the time from the start of a "
        "node's process, with the title in its store, until a peer has its first chunk; a node with an empty store "
        f"listens after {report['start_empty_s']:.2f} s. Half of a title needs the tracker's order too.",
        "",
        *table(BIG_HEAD, big_rows(report)),
        "",
        "Growth from the second largest to the largest, as the power of the size (1 is linear): "
        f"sparse: {growth['sparse']}; small files: {growth['small_files']}.",
    ]


# ---- micro benchmarks


MICRO_HEAD: Final = ["", "us", "a second", "GB/s", "pure Python, times as long"]


def micro_lines(report: dict[str, Any]) -> list[str]:
    """Return the part of the page about single functions."""
    scheduler, tracker = report["scheduler"], report["tracker"]
    rows = [
        [
            f"**{work['name']}**: {work['unit']}",
            f"{work['median_s'] * 1e6:,.1f}",
            f"{work['per_s']:,.0f}",
            f"{work['bytes_s'] / 1e9:.1f}" if work["bytes_s"] else "",
            f"{work['pure_over_native']:.1f}" if work["pure_over_native"] else "",
        ]
        for work in report["works"]
    ]
    return [
        "## Parts",
        "",
        *table(MICRO_HEAD, rows),
        "",
        f"**Scheduler**, {scheduler['sources']} sources and {scheduler['chunks']:,} chunks: all that a fill works out "
        f"for a chunk takes {scheduler['holding_us']:.0f} us where sources have all, {scheduler['filling_us']:.0f} us "
        "where they fill too and tell of each chunk. 5 GB/s of 4 MiB chunks are "
        f"{scheduler['core_part_at_5_gb_s']:.1%} of a core then (aim: 5%).",
        "",
        f"**Tracker**, {tracker['nodes']:,} nodes, SQLite: {tracker['http_per_cpu_s']:,.0f} heartbeats per second of "
        f"processor through HTTP (aim: {tracker['wanted_http_per_cpu_s_min']:,}), "
        f"{tracker['service_per_cpu_s']:,.0f} without it.",
    ]


SECTIONS: Final = (
    Section("pair", pair.PairReport, pair_lines, plots.draw_pair),
    Section("pair-memory", pair.PairReport, pair_lines, plots.draw_pair),
    Section("fanout", fanout.FanReport, fan_lines, plots.draw_fanout),
    Section("big", dict[str, Any], big_lines, plots.draw_big),
    Section("micro", dict[str, Any], micro_lines, None),
)
"""In the order of the page."""
