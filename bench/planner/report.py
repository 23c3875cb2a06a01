"""The report: tables in the terminal, a page in Markdown, and JSON, from which the others are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
from rich.table import Table

from bench.planner import verdict
from bench.planner.intervals import BLOCK_DAYS, DRAWS
from bench.planner.records import Contestant, Figure, Report, Section
from bench.swarm.report import table_in_markdown

GUIDE: Final = "planner-evaluation.md"
PLACES: Final = 5
JUDGED_HEAD: Final = ("figure", "found", "to reach", "")


def encode_report(report: Report) -> str:
    """Return a report as JSON, with a line for each contender."""
    record: dict[str, Any] = _rounded(msgspec.to_builtins(report))
    for section in record["sections"]:
        section["contestants"] = [msgspec.Raw(msgspec.json.encode(one)) for one in section["contestants"]]
    sections = ",\n  ".join(_section_lines(section) for section in record.pop("sections"))
    head = msgspec.json.format(msgspec.json.encode(record), indent=1).decode()
    return f'{head.removesuffix("}").rstrip()},\n "sections": [\n  {sections}\n ]\n}}\n'


def _section_lines(section: dict[str, Any]) -> str:
    contestants = ",\n    ".join(bytes(one).decode() for one in section.pop("contestants"))
    head = msgspec.json.encode(section).decode()
    return f'{head.removesuffix("}")},\n   "contestants":[\n    {contestants}\n   ]}}'


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, PLACES)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def decode_report(text: str | bytes) -> Report:
    """Read what `encode_report` wrote. Raises `msgspec.DecodeError`."""
    return msgspec.json.decode(text, type=Report)


def hit_rows(section: Section, bounds: bool) -> list[tuple[str, ...]]:
    """Return a row for each contender: its hits, and in brackets, where asked for, by how much the planner is above."""
    return [(_name(one), *(_hit(figure, bounds) for figure in _figures(one, section))) for one in section.contestants]


def ratio_rows(section: Section) -> list[tuple[str, ...]]:
    """Return a row for each contender whose bytes to be expected are known."""
    return [
        (_name(one), *(f"{figure.ratio:.3f}" for figure in one.figures if figure.ratio is not None))
        for one in section.contestants
        if any(figure.ratio is not None for figure in one.figures)
    ]


def _figures(one: Contestant, section: Section) -> list[Figure | None]:
    return list(one.figures) or [None] * len(section.planner.figures)


def _hit(figure: Figure | None, bounds: bool) -> str:
    if figure is None:
        return "cannot be run"
    if figure.more is None or not bounds:
        return f"{figure.hit:.3f}"
    _, low, high = figure.more
    return f"{figure.hit:.3f} ({low:+.3f} to {high:+.3f})"


def _name(one: Contestant) -> str:
    notes = [one.chosen] if one.chosen else []
    notes += ["sees the future"] if one.kind == "future" else []
    return f"{one.name} ({'; '.join(notes)})" if notes else one.name


def _head(section: Section, first: str) -> tuple[str, ...]:
    return (first, *(f"{figure.share:.0%}" for figure in section.planner.figures))


def _what_hits(section: Section) -> str:
    what = "requests" if section.key.startswith("movielens") else "bytes"
    where = "" if len(section.hit_regions) == len(section.regions) else f" in {', '.join(section.hit_regions)}"
    return f"hits by {what}{where}"


def judged_rows(report: Report) -> list[tuple[str, ...]]:
    """Return a row for each figure that has something to reach."""
    return [
        (one.what, f"{one.value:.4f}", f"{one.reach:g}", "" if one.reached else "missed")
        for one in verdict.judge(report)
    ]


def terminal_tables(report: Report) -> list[Table]:
    """Return the tables that a person reads after the run."""
    tables: list[Table] = []
    for section in report.sections:
        named = (
            (_what_hits(section), hit_rows(section, False)),
            ("to the planner that knows the rates", ratio_rows(section)),
        )
        tables += [_table(section.name, _head(section, first), rows) for first, rows in named if rows]
    if rows := judged_rows(report):
        tables.append(_table("What the planner is to reach", JUDGED_HEAD, rows))
    return tables


def _table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(head):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _section_parts(section: Section) -> list[str]:
    regions = "one region" if len(section.regions) == 1 else f"{len(section.regions)} regions"
    parts = [
        f"## {section.name}",
        f"{section.files:,} files, {regions}, {section.requests:,} requests on the {section.days} days that count;"
        f" {section.days_before} days go before.",
        table_in_markdown(_head(section, _what_hits(section)), hit_rows(section, True)).rstrip(),
    ]
    if rows := ratio_rows(section):
        parts.append(table_in_markdown(_head(section, "to the planner that knows the rates"), rows).rstrip())
    seconds = "; ".join(
        f"{one.name} {one.user_s:.1f} + {one.system_s:.1f}" for one in section.contestants if one.figures
    )
    return [*parts, f"Processor seconds (user + system): {seconds}."]


def page(report: Report) -> str:
    """Return the page of a report."""
    report = decode_report(encode_report(report))  # rounded twice, a figure may be another one
    machine = report.machine
    libraries = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    parts = [
        "# The planner beside others",
        f"[How to read this and repeat it](../../{GUIDE}). Each region has a cache of a part of the catalogue's bytes,"
        " named at the head of a column. In brackets: by how much the planner is above, between the bounds of 95% of"
        f" {DRAWS:,} paired draws of stretches of {BLOCK_DAYS} days.",
        table_in_markdown(JUDGED_HEAD, judged_rows(report)).rstrip(),
        "![Contenders beside the planner that knows the rates, and hits on MovieLens](planner.png)",
        *(part for section in report.sections for part in _section_parts(section)),
        *_netflix_parts(report),
        f"Made by `make bench-planner`, seed {report.seed}, {machine.made_at}, commit {report.commit or 'not known'},"
        f" on {machine.kernel}, {machine.processor}, {machine.processors} processors, Python {machine.python},"
        f" {libraries}:"
        f" {report.user_s:.0f} s of processor time in user mode and {report.system_s:.0f} s in the system, all in all."
        " As data: [planner.json](planner.json).",
    ]
    return "\n\n".join(parts) + "\n"


def _netflix_parts(report: Report) -> list[str]:
    if not report.netflix:
        return []
    head = ("recall at 20, next week", "persistence", "planner", "more", "new everywhere", "weeks", "countries")
    rows: list[tuple[str, ...]] = [
        (
            one.category, f"{one.persistence:.3f}", f"{one.planner:.3f}", f"{one.more[1]:+.3f} to {one.more[2]:+.3f}",
            f"{one.never_seen:.0%}", str(one.weeks), str(one.countries),
        )
        for one in report.netflix
    ]  # fmt: skip
    return ["## Netflix's weekly lists by country", table_in_markdown(head, rows).rstrip()]


def write_report(report: Report, directory: Path) -> None:
    """Write JSON and page."""
    text = encode_report(report)
    (directory / "planner.json").write_text(text)
    (directory / "README.md").write_text(page(decode_report(text)))
