"""What `p2pfill plan report` shows: text and tables no wider than the terminal. Times are those of this machine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.text import plural, printable, show_bytes, show_percent, show_seconds

if TYPE_CHECKING:
    from p2pfill.plan.report.day import Class, DayReport, Example, Part
    from p2pfill.plan.report.night import Why
    from p2pfill.plan.report.report import NightPart, NotThere, PlanReport

EXAMPLES_SHOWN: Final = 3
"""Of each class; --json has more."""
CLUSTERS_SHOWN: Final = 20
"""Those that missed most bytes."""
FILES_SHOWN: Final = 12
CACHES_NAMED: Final = 4
SEVERAL: Final = 1.005
"""Times the least: less is the least, but for what is rounded."""

CLASS_TEXTS: Final[dict[Class, str]] = {
    "planned": "there, as planned",
    "besides": "there, by another order",
    "new": "not planned: new",
    "too low": "not planned: forecast too low",
    "no space": "not planned: no space",
    "window": "planned, not there: window",
    "rate": "planned, not there: rate",
    "route": "planned, not there: route",
    "health": "planned, not there: health",
    "order": "planned, not there: order",
}
WHY_TEXTS: Final[dict[Why, str]] = {
    "window": "window: the time did not do, or is yet to come",
    "rate": "rate: a budget or a rate was spent",
    "route": "route: no way to a source",
    "health": "health: the cache was down, or its fill failed",
    "order": "order: nothing had ordered it",
}
NEXT_STEPS: Final[dict[Why, str]] = {
    "window": "`p2pfill plan check` says which window to widen, and what to leave out",
    "rate": "raise the budget or the rate, or plan less: `p2pfill plan check`",
    "route": "`p2pfill explain` says of a fill where its sources are, `p2pfill policy` what is forbidden",
    "health": "`p2pfill status` and `p2pfill night report` say more of these caches",
    "order": "`p2pfill plan apply` makes the orders, of titles that the tracker has",
}


def report_view(report: PlanReport, width: int, notes: Sequence[str] = ()) -> RenderableType:
    """Return a report as text and tables of at most `width` characters."""
    night = report.night
    parts: list[RenderableType] = [Text(printable(_summary(report)))]
    for note in (*notes, *_notes(report)):
        parts.append(Text(printable(note), style="yellow"))
    if night.planned_bytes or night.came.total:
        parts += [_head("Where it came from"), _tiers_table(night, width), Text(_beside_the_least(night), style="dim")]
    parts += [_head("Finish"), Padding(Text(_finish(night)), (0, 0, 0, 2))]
    if night.not_there:
        parts.append(_head("What is not there, and why"))
        parts += [part for one in night.not_there for part in _lacking(one)]
    if report.viewing is not None:
        parts += _viewing(report.viewing, width)
    return Group(*parts)


def _head(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _lines(lines: Sequence[str], style: str = "") -> Padding:
    return Padding(Text("\n".join(map(printable, lines)), style=style), (0, 0, 0, 4))


def _at(epoch_s: float) -> str:
    return time.strftime("%a %Y-%m-%d %H:%M %Z", time.localtime(epoch_s))


# ---- the night


def _summary(report: PlanReport) -> str:
    night = report.night
    over = "" if night.is_over else ", which is not over"
    text = f"Plan for {report.day}, filled in the night of {night.night}{over}: "
    if night.planned:
        text += (
            f"{night.there:,} of {night.planned:,} copies that were to come are there ({show_bytes(night.there_bytes)} "
            f"of {show_bytes(night.planned_bytes)})"
        )
    else:
        text += "nothing was to come"
    text += f", and {night.stays_there:,} of {night.stays:,} that were to stay." if night.stays else "."
    if (day := report.viewing) is not None:
        text += (
            f" Of {show_bytes(day.demand_bytes)} that were watched, {_share(day.hit_bytes, day.demand_bytes)} lay in a "
            f"cache of their cluster; {_share(day.expected_hit_bytes, day.expected_bytes)} of "
            f"{show_bytes(day.expected_bytes)} were expected to."
        )
    return text


def _notes(report: PlanReport) -> Iterator[str]:
    night = report.night
    if report.unknown_titles:
        shown, more = report.unknown_titles[:CACHES_NAMED], len(report.unknown_titles) - CACHES_NAMED
        named = ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
        yield (
            f"The tracker does not have {plural(len(report.unknown_titles), 'title')} of the plan ({named}): `p2pfill "
            "publish` and `p2pfill plan apply` once more."
        )
    if night.unknown_caches:
        shown, more = night.unknown_caches[:CACHES_NAMED], len(night.unknown_caches) - CACHES_NAMED
        named = ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
        yield (
            f"The night knows nothing of {plural(len(night.unknown_caches), 'cache')} of the plan ({named}): are they "
            "running, and is it their tracker?"
        )
    lacking = sum(one.copies for one in night.not_there if one.why == "order")
    if night.planned and lacking >= night.planned and not night.there:
        yield "None of the plan was ordered: was it applied? `p2pfill plan apply` does that."
    if report.viewing is not None and report.viewing.unknown_files:
        yield (
            f"{plural(report.viewing.unknown_files, 'file')} of the plan ({report.viewing.unknown_file}, …) cannot be "
            "found in the catalogue, whose files the plan names TITLE/FILE: is it the one that the plan was made of?"
        )
    if report.unknown_bytes:
        yield (
            f"{show_bytes(report.unknown_bytes)} more were watched of files or in regions that the tables do not name: "
            "they are in no figure here."
        )


def _tiers_table(night: NightPart, width: int) -> RenderableType:
    columns = [
        Column("from"), Column("planned", 0, is_right=True), Column("came", 0, is_right=True),
        Column("for others", 1, is_right=True),
    ]  # fmt: skip
    texts = {"peer": "caches of the ISP", "region": "the region", "other": "other regions", "origin": "origins"}
    rows = [
        [Text(text), *(Text(show_bytes(getattr(tiers, tier))) for tiers in (night.least, night.came, night.besides))]
        for tier, text in texts.items()
    ]
    totals = (night.least.total, night.came.total, night.besides.total)
    rows.append([Text("in all"), *map(Text, map(show_bytes, totals))])
    if not night.besides.total:
        columns, rows = columns[:3], [row[:3] for row in rows]
    return table_within(width, columns, rows)


def _beside_the_least(night: NightPart) -> str:
    is_whole = night.there == night.planned
    return (
        f"Into ISPs came {_times(night.came.into_isps, night.least.into_isps, is_whole)}, and out of origins "
        f"{_times(night.came.origin, night.least.origin, is_whole)}. The least is each file once into each ISP that "
        "had no copy of it, and once out of an origin where no cache had one."
    )


def _times(came: int, least: int, is_whole: bool) -> str:
    if least and not is_whole:
        return f"{show_bytes(came)}, where all of it takes {show_bytes(least)} at least"
    if least:
        times = came / least
        return f"{times:.2f} times the least ({show_bytes(least)})" if times >= SEVERAL else show_bytes(came)
    return f"{show_bytes(came)}, where nothing had to" if came else "nothing, as nothing had to"


def _finish(night: NightPart) -> str:
    if not night.planned:
        return "nothing was to come"
    bound = f"; by the plan's proof it could not be before {_at(night.bound_at)}" if night.bound_at else ""
    if night.there < night.planned:
        missing = night.planned - night.there
        due = " by" if night.is_over else ", due by"
        by = f"{due} {_at(night.deadline)}" if night.deadline else ""
        return f"{_copies(missing)} {'did not come' if night.is_over else 'not there yet'}{by}{bound}"
    if not night.finish_at:
        return f"all is there; when, the night does not say{bound}"
    late = ""
    if night.deadline:
        apart = show_seconds(abs(night.deadline - night.finish_at))
        late = f", {apart} {'before' if night.finish_at <= night.deadline else 'after'} the deadline"
    untimed = ""
    if night.untimed:
        untimed = (
            f"; of {_copies(night.untimed)} the night does not say when, as of files that are added to a live title"
        )
    return f"the last copy was there at {_at(night.finish_at)}{late}{bound}{untimed}"


def _copies(count: int) -> str:
    return "1 copy" if count == 1 else f"{count:,} copies"


def _lacking(one: NotThere) -> Iterator[RenderableType]:
    yield Padding(
        Text(f"{WHY_TEXTS[one.why]}: {_copies(one.copies)}, {show_bytes(one.bytes)}", style="bold"), (0, 0, 0, 2)
    )
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for copy in one.examples:
        alike[copy.file, copy.said].append(copy.cache)
    lines = []
    for (file, said), caches in list(alike.items())[:EXAMPLES_SHOWN]:
        more = f" and {len(caches) - CACHES_NAMED} more" if len(caches) > CACHES_NAMED else ""
        lines.append(f"{file} in {', '.join(caches[:CACHES_NAMED])}{more}: {said}")
    yield _lines(lines)
    yield _lines([f"next: {NEXT_STEPS[one.why]}"], "dim")


# ---- the day


def _viewing(day: DayReport, width: int) -> list[RenderableType]:
    columns = [
        Column("what was watched"), Column("bytes", 0, is_right=True), Column("share", 0, is_right=True),
        Column("files", 1, is_right=True),
    ]  # fmt: skip
    rows = [
        [
            Text(CLASS_TEXTS[part.name]), Text(show_bytes(part.bytes)), Text(_share(part.bytes, day.demand_bytes)),
            Text(f"{part.files:,}"),
        ]
        for part in day.parts if part.bytes
    ]  # fmt: skip
    rows.append([Text("in all"), Text(show_bytes(day.demand_bytes)), Text("100 %"), Text("")])
    parts: list[RenderableType] = [_head("The day, by clusters and files"), table_within(width, columns, rows)]
    misses = [part for part in day.parts if part.examples]
    if misses:
        parts.append(_head("Misses of most bytes"))
        parts += [line for part in misses for line in _examples(part)]
    parts += [_head("Clusters"), _clusters_table(day, width)]
    if len(day.clusters) > CLUSTERS_SHOWN:
        parts.append(Text(f"and {len(day.clusters) - CLUSTERS_SHOWN:,} that missed less; --json has all", style="dim"))
    if day.files:
        parts += [_head("Forecast, for the files of most bytes"), _files_table(day, width)]
    if day.banded:
        parts.append(
            Text(
                f"{_share(day.in_band, day.banded)} of {plural(day.banded, 'forecast')} of a file in a region came "
                "within the band of 90 % (those of one stream or more)."
            )
        )
    return parts


def _examples(part: Part) -> Iterator[RenderableType]:
    yield Padding(Text(CLASS_TEXTS[part.name], style="bold"), (0, 0, 0, 2))
    yield _lines([_example(one) for one in part.examples[:EXAMPLES_SHOWN]])


def _example(one: Example) -> str:
    why = f"; {one.said}" if one.said else f"; a place took more than {_streams(one.margin)}"
    streams = f"{_streams(one.streams)} streams, {_streams(one.expected)} expected"
    return f"{one.file} in {one.cluster}: {show_bytes(one.bytes)} ({streams}){why}"


def _clusters_table(day: DayReport, width: int) -> RenderableType:
    columns = [
        Column("cluster"), Column("region", 3), Column("expected", 1, is_right=True), Column("watched", is_right=True),
        Column("there", 0, is_right=True), Column("expected there", 2, is_right=True),
        Column("can serve", 1, is_right=True),
        Column("most missed for", 0),
    ]  # fmt: skip
    worst = sorted(day.clusters, key=lambda one: (one.hit_bytes - one.demand_bytes, one.cluster))
    rows = []
    for one in worst[:CLUSTERS_SHOWN]:
        misses = {name: count for name, count in one.parts.items() if name not in ("planned", "besides")}
        worst_of = max(misses.items(), key=lambda item: item[1])[0] if misses else None
        rows.append([
            Text(printable(one.cluster)), Text(printable(one.region)), Text(show_bytes(one.expected_bytes)),
            Text(show_bytes(one.demand_bytes)), Text(_share(one.hit_bytes, one.demand_bytes)),
            Text(_share(one.expected_hit_bytes, one.expected_bytes)),
            Text(show_bytes(one.carries_bytes), style="red" if one.hit_bytes > one.carries_bytes else ""),
            Text(CLASS_TEXTS[worst_of].rpartition(": ")[2] if worst_of else ""),
        ])  # fmt: skip
    return table_within(width, columns, rows)


def _files_table(day: DayReport, width: int) -> RenderableType:
    columns = [
        Column("file"), Column("region"), Column("expected streams", 0, is_right=True),
        Column("give or take", 1, is_right=True), Column("came", 0, is_right=True), Column("size", 2, is_right=True),
    ]  # fmt: skip
    rows = [
        [
            Text(printable(one.file)), Text(printable(one.region)), Text(_streams(one.expected)),
            Text(_streams(one.spread)), Text(_streams(one.came)), Text(show_bytes(one.size)),
        ]
        for one in day.files[:FILES_SHOWN]
    ]  # fmt: skip
    return table_within(width, columns, rows)


def _streams(count: float) -> str:
    return f"{count:,.0f}" if count >= 100 or count == int(count) else f"{count:.1f}" if count >= 1 else f"{count:.2f}"


def _share(part: float, whole: float) -> str:
    if 0 < part < whole / 100:
        return "< 1 %"
    return show_percent(int(part), int(whole)) if whole >= 1 else "0 %"
