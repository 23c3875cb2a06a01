"""A report for people (a table in the terminal, a page in Markdown) and for scripts (JSON).

The JSON is the source: table, page and plots are made from it alone, so they can be made again at any time
(`--redraw`). Of the curves it keeps those of the median run of each contender, which are the ones that are drawn.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.table import Table

from bench.swarm import costs, summary, titles
from bench.swarm.bounds import bound_s, cache_bound_s, cuts
from bench.swarm.records import Report, Run, Surroundings
from bench.swarm.summary import Figure
from bench.swarm.topology import Topology

GUIDE: Final = Path(__file__).parents[2] / "docs" / "swarm-benchmark.md"


def make_report(topology: Topology, runs: list[Run], absent: dict[str, str], surroundings: Surroundings) -> Report:
    """Put a report together."""
    plain_s = bound_s(topology, surroundings.goodput)
    joins_s = {event.host: event.at_seconds(plain_s) for event in topology.events if event.kind == "join"}
    found = cuts(topology, surroundings.goodput, joins_s)
    return Report(
        topology=topology,
        bound_s=found[0].seconds,
        cuts=[(cut.name, round(cut.seconds, 3)) for cut in found[:4]],
        surroundings=surroundings,
        absent=absent,
        runs=runs,
    )


def surroundings(
    versions: dict[str, str], congestion_control: str, goodput: float, goodput_measured: float | None
) -> Surroundings:
    """Describe this machine, now."""
    return Surroundings(
        made_at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        kernel=f"{platform.system()} {platform.release()}",
        processors=os.cpu_count() or 0,
        python=platform.python_version(),
        congestion_control=congestion_control,
        versions=versions,
        goodput=goodput,
        goodput_measured=goodput_measured,
    )


# ---- JSON


def encode_report(report: Report) -> str:
    """Return a report as JSON with a line a run, curves of the median runs only, and the summary."""
    record: dict[str, Any] = msgspec.to_builtins(_slim(report))
    runs, floors = ([_plain(run) for run in record.pop(key)] for key in ("runs", "floors"))
    record["topology"] = _without_empty(record["topology"], "titles")
    record["summary"] = rounded(summary.as_record(report))
    if report.topology.titles:
        record["summary"]["titles"] = rounded(titles.as_record(report))
        del record["summary"]["ratios"]  # the runs are of different titles
    if found := costs.as_record(report):
        record["summary"]["costs"] = rounded(found)
    head = msgspec.json.format(msgspec.json.encode(record), indent=1).decode()
    text = head.removesuffix("}").rstrip()
    for key, group in (("runs", runs), *((("floors", floors),) if floors else ())):
        lines = ",\n  ".join(msgspec.json.encode(rounded(run)).decode() for run in group)
        text += f',\n "{key}": [\n  {lines}\n ]'
    return f"{text}\n}}\n"


def _plain(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run without the fields that are empty for contenders that do not count, and in reports made before."""
    for key in ("titles_s", "moved_bytes", "wire_bytes", "processes", "groups", "machine", "chunks", "counts"):
        run = _without_empty(run, key)
    return run


def decode_report(text: str | bytes) -> Report:
    """Read what `encode_report` wrote. Raises `msgspec.DecodeError`."""
    return msgspec.json.decode(text, type=Report)


def _slim(report: Report) -> Report:
    drawn = [id(summary.median_run(report, name)) for name in summary.contenders(report)]
    return msgspec.structs.replace(
        report,
        runs=[run if id(run) in drawn else _without_curves(run) for run in report.runs],
        floors=[_without_curves(run) for run in report.floors],
    )


def _without_curves(run: Run) -> Run:
    caches = {name: msgspec.structs.replace(cache, curve=[]) for name, cache in run.caches.items()}
    return msgspec.structs.replace(run, caches=caches, borders=[])


def _without_empty(record: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a record without a field that not all reports need, where it is empty."""
    return record if record[key] else {name: value for name, value in record.items() if name != key}


def rounded(value: Any) -> Any:
    """Return plain data with floats to four places: what lies beyond is noise."""
    match value:
        case float():
            return round(value, 4)
        case dict():
            return {key: rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [rounded(item) for item in value]
        case _:
            return value


# ---- tables


def columns(report: Report) -> tuple[str, ...]:
    """Return the table's columns; a cache's own bound is of interest only where not all have the same."""
    own = ("slowest cache / its bound",) if _bounds_differ(report) else ()
    copies = ("origin copies, payload", "origin copies, wire", "copies into each ISP")
    return ("", "time / bound", "seconds", *own, *copies, "processor s")


def _bounds_differ(report: Report) -> bool:
    topology = report.topology
    bounds = [cache_bound_s(topology, host, report.surroundings.goodput) for host in topology.counted()]
    return bool(topology.late()) or max(bounds) > 1.01 * min(bounds)


def rows(report: Report) -> list[tuple[str, ...]]:
    """Return the table's rows under `columns`: medians, with ranges where there are several runs."""
    blank = ("",) * (len(columns(report)) - 2)
    found: list[tuple[str, ...]] = []
    for name in summary.contenders(report):
        figures = summary.figures(report, name)
        if not figures:
            found.append((name, f"failed: {summary.failures(report, name)[0]}", *blank))
            continue
        lost = len(summary.failures(report, name))
        copies = summary.isp_copies(report, name).values()
        found.append(
            (
                f"{name} ({lost} of {lost + len(summary.good_runs(report, name))} runs failed)" if lost else name,
                _show(figures["time_over_bound"]),
                _show(figures["seconds"], 1),
                *([_show(figures["worst_cache_over_bound"])] if _bounds_differ(report) else []),
                _show(figures["origin_copies"]),
                _show(figures["origin_border_copies"]),
                f"{min(copies):.2f}" if max(copies) - min(copies) < 0.01 else f"{min(copies):.2f} to {max(copies):.2f}",
                _show(figures["cpu_s"], 1),
            )
        )
    found += [(name, f"left out: {why}", *blank) for name, why in report.absent.items()]
    return found


def _show(figure: Figure, places: int = 2) -> str:
    median, least, most = (f"{value:.{places}f}" for value in figure)
    return median if least == most else f"{median} ({least} to {most})"


def terminal_table(report: Report) -> Table:
    """Return the table that a person reads after the runs."""
    return _table(f"{report.topology.name}: {bound_line(report)}", columns(report), rows(report))


def titles_table(report: Report) -> Table | None:
    """Return the second table, where there are several titles: what each takes beside the others."""
    made = titles.rows(report, _show)
    return _table("Titles side by side", titles.HEAD, made, words=2) if made else None


def cost_tables(report: Report) -> list[Table]:
    """Return the tables of processor time that a terminal shows; none where the report does not have it."""
    made = costs.tables(report, _show)
    return [_table(table.name, table.head, table.rows) for table in made if table.name in costs.AT_ONCE]


def _table(name: str, head: tuple[str, ...], body: list[tuple[str, ...]], words: int = 1) -> Table:
    """Return a table of which the first columns, so many, hold words."""
    table = Table(title=name, title_justify="left")
    for number, column in enumerate(head):
        # No word is cut where the terminal is narrow.
        texts = [column, *(row[number] for row in body)]
        longest = max((len(word) for text in texts for word in text.split()), default=0)
        table.add_column(column, justify="right" if number >= words else "left", min_width=longest)
    for row in body:
        table.add_row(*row)
    return table


def bound_line(report: Report) -> str:
    """Return the bound and where it comes from, in words."""
    name, _ = report.cuts[0]
    what = f"{report.topology.size >> 20} MiB" + (" in all" if report.topology.titles else "")
    return f"{what}, bound {report.bound_s:.1f} s ({name})"


def ratio_lines(report: Report) -> list[str]:
    """Return a line for each pair of contenders, in words."""
    names = summary.contenders(report)
    lines: list[str] = []
    if report.topology.titles:
        return lines
    for other in names[1:]:
        found = summary.ratios(report, names[0], other)
        words = {"seconds": "the time", "origin_border_copies": "the bytes out of the origin"}
        words |= {"border_copies": "the bytes over borders", "cpu_s": "the processor time"}
        parts = ", ".join(f"{value:.2f} of {words[key]}" for key, value in found.items())
        if parts:
            lines.append(f"{names[0]} takes {parts} of {other} (ratios of medians).")
    return lines


def markdown_table(report: Report) -> str:
    """Return the table in Markdown."""
    return table_in_markdown(columns(report), rows(report))


def titles_markdown(report: Report) -> str:
    """Return the table of several titles in Markdown, nothing where there is none."""
    made = titles.rows(report, _show)
    return table_in_markdown(titles.HEAD, made) if made else ""


def costs_markdown(report: Report, guide: str) -> list[str]:
    """Return what is said of processor time, in Markdown; nothing where the report does not have it."""
    made = costs.tables(report, _show)
    parts = ["## Processor time", f"[What these figures are]({guide}#processor-time)."] if made else []
    for name, head, body in made:
        parts += [f"{name}:", table_in_markdown(head, body).rstrip()]
    return [*parts, *costs.lines(report)]


def table_in_markdown(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown: names to the left, figures to the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in body]
    return "\n".join(lines) + "\n"


def markdown_page(report: Report, key: str, guide: str) -> str:
    """Return the page of a report; `key` is the name of its files, `guide` the path to the page that explains it."""
    where = report.surroundings
    runs = max((len(summary.good_runs(report, name)) for name in summary.contenders(report)), default=0)
    measured = f"; iperf3 found {where.goodput_measured:.3f} here" if where.goodput_measured else ""
    parts = [
        f"# {report.topology.name}",
        f"[How to read this and repeat it]({guide}). Medians of {runs} runs each, taken in turns; ranges in brackets."
        if runs > 1
        else f"[How to read this and repeat it]({guide}). One run each.",
        f"{bound_line(report)}, counted with {where.goodput:.3f} of link rates{measured}.",
        markdown_table(report).rstrip(),
        titles_markdown(report).rstrip(),
        *ratio_lines(report),
        *costs_markdown(report, guide),
        f"![Completion of each cache over time]({key}-curves.svg)",
        f"![Copies of the title by where caches took them from]({key}-bytes.svg)",
        _events(report),
        f"Made {where.made_at} on {where.kernel}, {where.processors} processors, Python {where.python}, TCP "
        f"{where.congestion_control}: {', '.join(where.versions.values())}. As data: [{key}.json]({key}.json).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _events(report: Report) -> str:
    words = {"kill": "is killed", "slow": "is slowed", "join": "joins"}
    said = [
        f"{event.host} {words[event.kind]}"
        + (f" to {event.factor:g} of its rate" if event.kind == "slow" else "")
        + (f" at {event.at:g} of the bound" if event.at is not None else f" after {event.at_s:g} s")
        for event in report.topology.events
    ]
    counted = len(report.topology.counted())
    if len(report.topology.caches()) == counted:
        return "; ".join(said) + "." if said else ""
    return ("; ".join(said) + ". " if said else "") + f"Time and bound are those of the other {counted} caches."


def overview(reports: dict[str, Report], guide: str) -> str:
    """Return one page with the tables of several reports; the keys are the names of their files."""
    parts = [
        "# Swarm benchmark: all topologies",
        f"[How to read this and repeat it]({guide}). Medians; ranges in brackets.",
    ]
    for key, report in sorted(reports.items()):
        parts += [f"## [{report.topology.name}]({key}.md)", f"{bound_line(report)}."]
        parts += [_events(report), markdown_table(report).rstrip(), titles_markdown(report).rstrip()]
        parts += ratio_lines(report)
    return "\n\n".join(part for part in parts if part) + "\n"


def write_report(report: Report, directory: Path, key: str) -> None:
    """Write a report's JSON and page."""
    (directory / f"{key}.json").write_text(encode_report(report))
    (directory / f"{key}.md").write_text(markdown_page(report, key, guide_from(directory)))


def guide_from(directory: Path) -> str:
    """Return the path from a directory to the page that explains reports."""
    return Path(os.path.relpath(GUIDE, directory.resolve())).as_posix()


def read_reports(directory: Path) -> dict[str, Report]:
    """Return all reports of a directory by the names of their files. Raises `msgspec.DecodeError`."""
    return {path.stem: decode_report(path.read_bytes()) for path in sorted(directory.glob("*.json"))}
