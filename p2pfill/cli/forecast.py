"""What `p2pfill policy check --night` does: rebuilds a recorded night, and says what another policy would have given.

The simulator runs here, on the machine of whoever asks, and not in the tracker.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from rich.console import Console
from rich.text import Text

from p2pfill.cli.calling import call_tracker
from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.exits import CommandFailed, ExitCode
from p2pfill.cli.nights import default_night
from p2pfill.cli.text import plural, printable, show_bytes, show_seconds
from p2pfill.errors import InternalError, ProtocolError
from p2pfill.sim.rebuild import Figures, NotRebuilt, TitleFigures, ordered_at, rebuild, recorded, run, usable

if TYPE_CHECKING:
    from p2pfill.model.night import RecordedNight, Tiers
    from p2pfill.tracker.records import PolicyVersion

WITHIN: Final = 0.05
"""By what part of what was recorded a tier may be off in a night that counts as rebuilt."""

TRIFLE: Final = 0.005
"""A tier may be off by this part of all bytes in any case: of a tier that brought next to nothing one chunk is much."""

RUN_S_MAX: Final = 1800.0
"""Of one run on this machine: whoever waits longer has better asked about a part of the fleet."""

SHOWN_S: Final = 0.5
"""Between two looks at how far a run is."""

TITLES_MAX: Final = 40
LINES_MAX: Final = 20
"""That are shown; --json has all."""

NAMED_MAX: Final = 4
"""Caches that a line names."""

TIER_NAMES: Final = ("peer", "regional", "origin")


class Forecast(msgspec.Struct):
    """A night rebuilt, and what a policy would have made of it."""

    night: str
    is_over: bool
    policy: int
    """The version that stood; 0: none."""
    seed: int
    recorded: Figures
    rebuilt: Figures
    off: dict[str, float]
    """By tier: what was rebuilt more than recorded, as a part of the latter."""
    is_rebuilt: bool
    """It is within `WITHIN`, so the forecast can be relied on."""
    forecast: Figures
    notes: list[str]


def forecast_night(text: str, night: str, tracker: str, seed: int, *, as_json: bool) -> None:
    """Print what a policy would have made of a night. Raises `CommandFailed` where the night could not be rebuilt."""
    record, stood, notes = trio.run(_fetch, night, tracker)
    found = forecast(record, stood, text, seed, notes, _Progress)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        _print(found, is_same=text == stood.text)
    if not found.is_rebuilt:
        raise CommandFailed(
            f"the night of {night or found.night} was not rebuilt within {WITHIN:.0%}: do not rely on the forecast"
        )


async def _fetch(night: str, tracker: str) -> tuple[RecordedNight, PolicyVersion, list[str]]:
    """Return a night's record, the policy that stood when it began to be filled, and what is to be said of them."""
    async with call_tracker(tracker) as client:
        record = await client.night_record(night or default_night(await client.nights()))
        record, notes = usable(record)
        versions = await client.policies()
        at, ends = ordered_at(record), max([fill.live_at for fill in record.fills] + [0.0]) or record.last_at
        stood = max((one for one in versions if one.applied_at <= at), key=lambda one: one.number, default=None)
        if stood is None and versions and min(one.number for one in versions) > 1:
            raise NotRebuilt(f"the policy that stood in the night of {record.night} is not kept any more")
        if stood is not None:
            stood = await client.policy(stood.number)
        if later := sorted(one.number for one in versions if at < one.applied_at <= ends):
            notes.append(
                f"the policy changed while titles were filled (version {', '.join(map(str, later))}): rebuilt is the "
                f"night under version {0 if stood is None else stood.number}, which stood at first"
            )
    from p2pfill.tracker.records import PolicyVersion

    return record, stood or PolicyVersion(0, 0.0), notes


def forecast(
    record: RecordedNight,
    stood: PolicyVersion,
    policy: str,
    seed: int,
    notes: list[str],
    progress: Callable[[str], Callable[[float], None] | None],
) -> Forecast:
    """Return a night rebuilt and forecast. `progress` is asked once for each run, whose name it is given."""
    runs: list[Figures] = []
    notes = list(notes)
    for name, text in (("rebuilding the night", stood.text), ("under the new policy", policy)):
        made = rebuild(record, stood.text, text)
        notes += [note for note in made.notes if note not in notes]
        try:
            runs.append(run(record, made, seed, progress(name)))
        except (InternalError, ProtocolError) as error:
            raise CommandFailed(f"{name} has shown a fault of p2pfill: {error}; it was with --seed {seed}") from error
    was = recorded(record)
    if any(record.left_out):
        notes.append(
            f"{show_bytes(sum(record.left_out))} of that night are left out: what came for repairs, for what was "
            "withdrawn, or to caches and titles that are not known one by one"
        )
    off, is_rebuilt = compare(was.tiers, runs[0].tiers)
    return Forecast(
        record.night, record.is_over, stood.number, seed, was, runs[0], off,
        is_rebuilt and sum(record.left_out) <= WITHIN * sum(was.tiers), runs[1], notes,
    )  # fmt: skip


def compare(was: Tiers, now: Tiers) -> tuple[dict[str, float], bool]:
    """Return by what part each tier is off, and whether all are near enough."""
    trifle = TRIFLE * sum(was)
    pairs = list(zip(was, now, strict=True))
    off = [(new - old) / old if old else float(new > 0) for old, new in pairs]
    is_near = all(abs(new - old) <= max(WITHIN * old, trifle) for old, new in pairs)
    return dict(zip(TIER_NAMES, off, strict=True)), is_near


class _Progress:
    """Shows on a terminal's last line how far a run is, and ends one that takes too long."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = self._shown = time.monotonic()

    def __call__(self, part: float) -> None:
        now = time.monotonic()
        if now - self._began > RUN_S_MAX:
            raise CommandFailed(
                f"{self._name} takes longer than {show_seconds(RUN_S_MAX)} on this machine", ExitCode.TIMEOUT
            )
        if sys.stderr.isatty() and (now - self._shown >= SHOWN_S or part >= 1):
            self._shown = now
            line = f"{self._name}: {min(part, 1.0):.0%}, {now - self._began:.0f} s" if part < 1 else ""
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)


# ---- text


def _print(found: Forecast, *, is_same: bool) -> None:
    console = Console(highlight=False)
    wanted = sum(title.caches for title in found.recorded.titles)
    over = "" if found.is_over else ", which is not over: as far as it has come"
    policy = f"version {found.policy} of the policy stood" if found.policy else "no policy stood"
    console.print(
        Text(
            f"Night of {printable(found.night)}{over}: {plural(len(found.recorded.titles), 'title')}, "
            f"{plural(wanted, 'fill')} of one cache each; {policy}."
        )
    )
    console.print(_tiers_table(found, console.width))
    if found.is_rebuilt:
        console.print(Text(f"The night is rebuilt within {WITHIN:.0%}.", style="green"))
    else:
        console.print(
            Text(f"The night is NOT rebuilt within {WITHIN:.0%}: do not rely on the forecast.", style="bold red")
        )
    if is_same:
        console.print("This is the policy that stood: the forecast is what was rebuilt.")
    console.print(_titles_table(found, console.width))
    for head, lines in (
        ("Not done under the new policy, and why", list(_lacking(found.forecast))),
        ("Not done when rebuilt, and why", list(_lacking(found.rebuilt))),
        ("Further out than planned: chunks rebuilt, and under the new policy", list(_escalations(found))),
        ("Budgets of the new policy", [f"{name}: {show_bytes(used)}" for name, used in found.forecast.budgets.items()]),
        ("What was assumed", found.notes),
    ):
        if lines:
            console.print(Text(f"\n{head}", style="bold"))
            for line in lines[:LINES_MAX]:
                console.print(Text(f"  {printable(line)}"))
            if len(lines) > LINES_MAX:
                console.print(Text(f"  and {len(lines) - LINES_MAX} more; --json has all", style="dim"))


def _tiers_table(found: Forecast, width: int) -> Any:
    columns = [
        Column("from"), Column("recorded", is_right=True), Column("rebuilt", is_right=True),
        Column("off", 1, is_right=True), Column("new policy", is_right=True), Column("change", 2, is_right=True),
    ]  # fmt: skip
    rows = []
    for place, name in enumerate(TIER_NAMES):
        was, rebuilt, now = (one.tiers[place] for one in (found.recorded, found.rebuilt, found.forecast))
        rows.append(
            [Text(name), *map(Text, (show_bytes(was), show_bytes(rebuilt), _change(was, rebuilt), show_bytes(now),
                                     _change(rebuilt, now)))]
        )  # fmt: skip
    return table_within(width, columns, rows)


def _change(before: int, after: int) -> str:
    if before == after:
        return "none"
    if not before:
        return f"+{show_bytes(after)}"
    return f"{(after - before) / before:+.1%}"


def _titles_table(found: Forecast, width: int) -> Any:
    columns = [
        Column("title"), Column("live", is_right=True), Column("rebuilt", 3, is_right=True),
        Column("new", is_right=True), Column("all live", 2), Column("rebuilt", 3), Column("new", 1),
        Column("origin", 0, is_right=True), Column("new", 0, is_right=True),
    ]  # fmt: skip
    rows = []
    for was, rebuilt, now in zip(
        found.recorded.titles, found.rebuilt.titles, found.forecast.titles, strict=True
    ):
        three = (was, rebuilt, now)
        cells = [f"{printable(was.name)} {was.title[:8]}", *(f"{one.live}/{one.caches}" for one in three)]
        cells += [*map(_live_at, three), *(show_bytes(one.tiers[2]) for one in (rebuilt, now))]
        rows.append([Text(cell) for cell in cells])
    return table_within(width, columns, rows[:TITLES_MAX])


def _live_at(title: TitleFigures) -> str:
    return time.strftime("%a %H:%M:%S", time.localtime(title.live_at)) if title.live_at else "no"


def _lacking(figures: Figures) -> list[str]:
    lines = []
    for one in figures.lacking:
        named = ", ".join(one.caches[:NAMED_MAX])
        more = f" and {len(one.caches) - NAMED_MAX} more" if len(one.caches) > NAMED_MAX else ""
        lines.append(f"{one.name} {one.title[:8]} in {named}{more}: {one.reason}")
    if figures.barred:
        lines.append(f"{plural(figures.barred, 'order')} of titles that may not be in the region of the cache")
    return lines


def _escalations(found: Forecast) -> list[str]:
    one, other = found.rebuilt.escalations, found.forecast.escalations
    return [f"{reason}: {one.get(reason, 0)}, {other.get(reason, 0)}" for reason in dict.fromkeys([*one, *other])]
