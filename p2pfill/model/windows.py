"""Fill windows: the hours of the week, on a cache's own clock, in which it fills. Pure.

A timetable is read by the clock on the wall: a cache is open at each moment at which that clock shows a time inside
a window. So when summer time begins, a window in the hour that is left out does not happen, and one that begins in it
begins at its end; when summer time ends, a window in the hour that comes twice is open twice. Rejected: windows that
last so many hours of elapsed time. They would run into the morning once a year, which is what a window is to prevent.

A *night* is the time from one `night_from` to the next (noon, as a rule); it is named by the date on which it begins,
and budgets are for one night.

Two spellings. A table, as in TOML:

    timezone = "Europe/Berlin"
    budget = "6T"
    [[window]]
    days = "Mon-Fri"
    from = "02:00"
    to = "08:00"
    rates = "1.2G"

A line in the manner of rclone's timetable, in which each entry holds until the next: `Mon-Fri-02:00,1.2G 08:00,off`.
Unlike there, `off` means that nothing is filled, and `max` that there is no limit. A third field is a budget:
`02:00,max,6T`. A time zone may stand before the first entry: `Europe/Berlin 02:00,max 08:00,off`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.quantities import parse_bytes, parse_rate
from p2pfill.model.rates import NO_LIMITS, RateLimits, Rates, read_limits

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MIN: Final = 24 * 60
WEEK_MIN: Final = 7 * DAY_MIN

WINDOWS_MAX: Final = 64
"""Windows of one timetable: nine for each day of the week."""

LINE_CHARS_MAX: Final = 4096
"""Of a timetable in one line: some hundred entries."""

LOOK_AHEAD_S: Final = 8 * 24 * 3600
"""How far the next change is looked for: a week, and a day that an hour is left out of."""

HOUR_S: Final = 3600

_TIME: Final = re.compile(r"(?P<hour>\d{1,2}):(?P<minute>\d{2})", re.ASCII)
_SPAN: Final = re.compile(r"\d{1,2}:\d{2}-\d{1,2}:\d{2}", re.ASCII)
_DAYS: Final = r"[A-Za-z]{3}(?:-[A-Za-z]{3})?"
_ENTRY: Final = re.compile(rf"((?P<days>{_DAYS}(?:,{_DAYS})*)-)?(?P<rest>\d.*)")

AtEnd = Literal["finish", "hand-back"]


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Hours in which a cache fills. Times are minutes since midnight on the wall."""

    days: tuple[int, ...]
    """On which it begins; 0 is Monday."""
    start_min: int
    end_min: int
    """Where it is not after `start_min`, on the following day; equal to it, a whole day later."""
    rates: RateLimits = NO_LIMITS
    budget: int = 0
    """Bytes that may come in within it in one night; 0: no limit."""

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield its begin and end as minutes of the week, of which the end may lie in the week after."""
        length = (self.end_min - self.start_min - 1) % DAY_MIN + 1
        for day in self.days:
            start = day * DAY_MIN + self.start_min
            yield start, start + length


class Moment(NamedTuple):
    """What a timetable says of one moment."""

    is_open: bool
    window: int | None
    """Which window is open; None: none is, or the cache has no windows."""
    until: float
    """The next moment at which this changes, or `LOOK_AHEAD_S` later; seconds since the epoch."""
    night: str
    """The date on which the night began, `2026-11-29`."""


class FillWindows(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A cache's timetable. Without windows it is always open."""

    timezone: str = "UTC"
    windows: tuple[Window, ...] = ()
    night_min: int = 12 * 60
    """When a night begins, in minutes since midnight."""
    budget: int = 0
    """Bytes that may come in within a night, in all windows together; 0: no limit."""
    at_end: AtEnd = "finish"
    """What becomes of chunks in flight when a window ends: they are received, or handed back to be had later."""
    outside: int = 0
    """Bytes a second that may come in outside of windows, of what is allowed there; 0: no limit."""

    def __post_init__(self) -> None:
        zone_of(self.timezone)
        in_day = range(DAY_MIN)
        if self.night_min not in in_day or len(self.windows) > WINDOWS_MAX:
            raise ConfigError(f"a timetable has at most {WINDOWS_MAX} windows, and a night begins within a day")
        for window in self.windows:
            if window.start_min not in in_day or window.end_min not in in_day or not set(window.days) <= set(range(7)):
                raise ConfigError("a window lies outside of the week")
        if min(self.budget, self.outside, *(window.budget for window in self.windows)) < 0:
            raise ConfigError("a budget or rate is below 0")
        _changes(self.windows)

    def at(self, epoch_s: float) -> Moment:
        """Return what holds at a moment, given in seconds since the epoch."""
        zone = zone_of(self.timezone)
        wall, night = _wall(epoch_s, zone), self.night(epoch_s)
        if not self.windows:
            return Moment(True, None, epoch_s + LOOK_AHEAD_S, night)
        changes = _changes(self.windows)
        window = _state(changes, wall)
        return Moment(window is not None, window, _next_change(epoch_s, zone, changes, window), night)

    def night(self, epoch_s: float) -> str:
        """Return the date on which the night of a moment began, `2026-11-29`."""
        wall = _wall(epoch_s, zone_of(self.timezone))
        return (wall - timedelta(minutes=self.night_min)).date().isoformat()

    def rates_of(self, window: int | None) -> RateLimits:
        """Return the limits within a window, or outside of all."""
        return RateLimits(inbound=Rates(total=self.outside)) if window is None else self.windows[window].rates


class _Changes(NamedTuple):
    """A week as changes: from each minute on, a window is open or none is."""

    minutes: tuple[int, ...]
    windows: tuple[int | None, ...]


@lru_cache(maxsize=256)
def zone_of(name: str) -> tzinfo:
    """Return a time zone by its IANA name. Raises `ConfigError`."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(f"time zone {name[:60]!r} is not known: write an IANA name, such as Europe/Berlin") from error


@lru_cache(maxsize=1024)
def _changes(windows: tuple[Window, ...]) -> _Changes:
    """Return a week of them. Raises `ConfigError` where two are open at the same time."""
    spans: list[tuple[int, int, int]] = []
    for number, window in enumerate(windows):
        for start, end in window.spans():
            spans.append((start, min(end, WEEK_MIN), number))
            if end > WEEK_MIN:
                spans.append((0, end - WEEK_MIN, number))
    spans.sort()
    changes: list[tuple[int, int | None]] = []
    before = holder = 0
    for start, end, number in spans:
        if start < before:
            day, minute = divmod(start, DAY_MIN)
            raise ConfigError(
                f"windows {holder + 1} and {number + 1} are both open on {DAYS[day]} at {show_time(minute)}: "
                "let one end first"
            )
        if start > before:
            changes.append((before, None))
        if not changes or changes[-1][1] != number:
            changes.append((start, number))
        before, holder = end, number
    if before < WEEK_MIN:
        changes.append((before, None))
    return _Changes(tuple(minute for minute, _ in changes), tuple(state for _, state in changes))


def _wall(epoch_s: float, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(epoch_s, zone)


def _minute_of_week(wall: datetime) -> int:
    return wall.weekday() * DAY_MIN + wall.hour * 60 + wall.minute


def _state(changes: _Changes, wall: datetime) -> int | None:
    return changes.windows[bisect_right(changes.minutes, _minute_of_week(wall)) - 1]


def _next_change(epoch_s: float, zone: tzinfo, changes: _Changes, window: int | None) -> float:
    """Return when something else than `window` holds next.

    Hour by hour, since clocks may be changed meanwhile: within an hour of constant offset the wall runs as the epoch.
    """
    limit = epoch_s + LOOK_AHEAD_S
    start = epoch_s
    while start < limit:
        # Offsets change at whole quarters of an hour of the epoch, in every zone that is in use.
        end = min(limit, (start // 900 + 1) * 900)
        wall = _wall(start, zone)
        minute = _minute_of_week(wall)
        place = bisect_right(changes.minutes, minute)
        if changes.windows[place - 1] != window:
            return start
        if place < len(changes.minutes):  # neighbours in the table differ
            # Whole seconds, whatever a float has made of a part of one.
            reached = float(int(start) - wall.second + (changes.minutes[place] - minute) * 60)
            if start < reached < end:
                return reached
        start = end
    return limit


def at_utc(text: str) -> float:
    """Return a time such as `2026-11-29T12:00:00` in seconds since the epoch. Raises `ConfigError`.

    It is in UTC where it names no offset from it.
    """
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{text[:40]!r} is no time: write it as in 2026-11-29T12:00:00") from error


def show_utc(epoch_s: float) -> str:
    """Return a time in seconds since the epoch as `at_utc` reads it."""
    return datetime.fromtimestamp(epoch_s, UTC).replace(tzinfo=None).isoformat()


def show_time(minute: int) -> str:
    """Return minutes since midnight as `02:30`."""
    return f"{minute // 60:02}:{minute % 60:02}"


# ---- spellings


def read_windows(value: Any, place: str = "windows") -> FillWindows:
    """Return the timetable that a text, or a table as TOML gives it, spells; `place` names it in errors.

    Raises `ConfigError`, which begins with the place of what is wrong.
    """
    if isinstance(value, str):
        zone, _, line = value.strip().partition(" ")
        if ":" in zone or not line:
            return FillWindows(windows=_read_line(value, place))
        _at(place, zone_of, zone)
        return FillWindows(zone, _read_line(line, place))
    table = _table(value, place, ("timezone", "timetable", "window", "night_from", "budget", "at_end", "outside"))
    fields: dict[str, Any] = {}
    if "timezone" in table:
        fields["timezone"] = _text(table["timezone"], f"{place}.timezone")
        _at(f"{place}.timezone", zone_of, fields["timezone"])
    if "timetable" in table and "window" in table:
        raise ConfigError(f"{place}.timetable: there are windows beside it; spell them in one way only")
    if "timetable" in table:
        fields["windows"] = _read_line(_text(table["timetable"], f"{place}.timetable"), f"{place}.timetable")
    if "window" in table:
        fields["windows"] = _read_tables(table["window"], f"{place}.window")
    if "night_from" in table:
        fields["night_min"] = _time(table["night_from"], f"{place}.night_from") % DAY_MIN
    if "budget" in table:
        fields["budget"] = _size(table["budget"], f"{place}.budget")
    if "outside" in table:
        fields["outside"] = _at(f"{place}.outside", parse_rate, _text(table["outside"], f"{place}.outside"))
    if "at_end" in table:
        if table["at_end"] not in ("finish", "hand-back"):
            raise ConfigError(f"{place}.at_end: {table['at_end']!r:.40} is neither 'finish' nor 'hand-back'")
        fields["at_end"] = table["at_end"]
    return FillWindows(**fields)


def _read_tables(value: Any, place: str) -> tuple[Window, ...]:
    if not isinstance(value, list | tuple) or not value or len(value) > WINDOWS_MAX:
        raise ConfigError(f"{place}: one to {WINDOWS_MAX} tables stand here, as in [[window]]")
    found = []
    for number, part in enumerate(value, 1):
        here = f"{place}[{number}]"
        table = _table(part, here, ("days", "from", "to", "rates", "budget"))
        for key in ("from", "to"):
            if key not in table:
                raise ConfigError(f"{here}.{key}: is lacking; write a time of the day such as '02:00'")
        found.append(
            Window(
                _days(table.get("days", "Mon-Sun"), f"{here}.days"),
                _begin(table["from"], f"{here}.from"),
                _time(table["to"], f"{here}.to") % DAY_MIN,
                read_limits(table["rates"], f"{here}.rates") if "rates" in table else NO_LIMITS,
                _size(table["budget"], f"{here}.budget") if "budget" in table else 0,
            )
        )
    windows = tuple(found)
    _at(place, _changes, windows)
    return windows


class _Entry(NamedTuple):
    """One entry of a line, on one day of the week: what holds from then on."""

    minute: int
    what: tuple[RateLimits, int] | None


def _read_line(line: str, place: str) -> tuple[Window, ...]:
    """Return the windows of a timetable in one line: each entry holds until the next one in the week."""
    if len(line) > LINE_CHARS_MAX or not line.split():
        example = "'Mon-Fri-02:00,1.2G 08:00,off'"
        raise ConfigError(f"{place}: a timetable has 1 to {LINE_CHARS_MAX} characters, as in {example}")
    week: dict[int, _Entry] = {}
    for number, text in enumerate(line.split(), 1):
        here = f"{place}, entry {number} ({text[:40]})"
        for entry in _read_entry(text, here):
            if entry.minute in week:
                day, minute = divmod(entry.minute, DAY_MIN)
                raise ConfigError(f"{here}: another entry begins on {DAYS[day]} at {show_time(minute)} already")
            week[entry.minute] = entry
    entries = [week[minute] for minute in sorted(week)]
    if all(entry.what is None for entry in entries):
        raise ConfigError(f"{place}: nothing would ever be filled; give a time and a rate, as in '02:00,max 08:00,off'")
    return _merge(entries)


def _read_entry(text: str, place: str) -> Iterator[_Entry]:
    found = _ENTRY.fullmatch(text)
    if found is None:
        raise ConfigError(f"{place}: write [DAYS-]HH:MM,RATE[,BUDGET], as in 02:00,1.2G or Mon-Fri-08:00,off")
    days = _days(found["days"] or "Mon-Sun", place)
    time, *fields = found["rest"].split(",")
    if _SPAN.fullmatch(time):
        start, end = time.split("-")
        raise ConfigError(f"{place}: an entry says what holds from a time on; from {start} to {end} is two of them: "
                          f"{start},max {end},off")
    minute = _time(time, place)
    if not 1 <= len(fields) <= 2 or (fields[0] == "off" and len(fields) > 1):
        raise ConfigError(f"{place}: after the time stands a rate, max or off, and perhaps a budget of bytes")
    what = None
    if fields[0] != "off":
        rate = _at(place, parse_rate, fields[0])
        what = RateLimits(inbound=Rates(total=rate)), _size(fields[1], place) if len(fields) > 1 else 0
    for day in days:
        yield _Entry((day * DAY_MIN + minute) % WEEK_MIN, what)  # 24:00 is on the following day


def _merge(entries: Sequence[_Entry]) -> tuple[Window, ...]:
    """Return the windows that entries of a week mean; those of several days that are alike are one."""
    days: dict[tuple[int, int, RateLimits, int], list[int]] = {}
    for place, entry in enumerate(entries):
        if entry.what is None:
            continue
        end = entries[(place + 1) % len(entries)].minute
        length = (end - entry.minute - 1) % WEEK_MIN + 1
        start = entry.minute
        while length > 0:  # a window lasts a day at most
            day, minute = divmod(start % WEEK_MIN, DAY_MIN)
            part = min(length, DAY_MIN)
            days.setdefault((minute, (minute + part) % DAY_MIN, *entry.what), []).append(day)
            start, length = start + part, length - part
    windows = [
        Window(tuple(sorted(on)), start, end, rates, budget) for (start, end, rates, budget), on in days.items()
    ]
    return tuple(sorted(windows, key=lambda window: (window.days, window.start_min)))


def _days(value: Any, place: str) -> tuple[int, ...]:
    names = {name.lower(): number for number, name in enumerate(DAYS)}
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    found: set[int] = set()
    for part in parts:
        ends = [names.get(end.strip().lower()) for end in str(part).split("-")]
        first, last = ends[0], ends[-1]
        if first is None or last is None or len(ends) > 2:
            raise ConfigError(f"{place}: {str(part)[:40]!r} names no days; write Mon, Sat-Sun or Mon,Wed-Fri")
        found.update((first + step) % 7 for step in range((last - first) % 7 + 1))
    if not found:
        raise ConfigError(f"{place}: no day is named; leave it out for every day")
    return tuple(sorted(found))


def _begin(value: Any, place: str) -> int:
    """Return when a window begins, in minutes since midnight."""
    minute = _time(value, place)
    if minute == DAY_MIN:
        raise ConfigError(f"{place}: no window begins at 24:00; write 00:00, and the day that begins then")
    return minute


def _time(value: Any, place: str) -> int:
    """Return a time of the day in minutes since midnight, up to 24:00."""
    found = _TIME.fullmatch(str(value).strip())
    if found is None or int(found["hour"]) > 24 or int(found["minute"]) > 59:
        raise ConfigError(f"{place}: {str(value)[:40]!r} is no time of the day; write HH:MM, as in 02:30")
    minute = int(found["hour"]) * 60 + int(found["minute"])
    if minute > DAY_MIN:
        raise ConfigError(f"{place}: {str(value)[:40]!r} is no time of the day; the last one is 24:00")
    return minute


def _size(value: Any, place: str) -> int:
    size = value if isinstance(value, int) and not isinstance(value, bool) else _at(place, parse_bytes, str(value))
    if not 0 < size < 1 << 62:
        raise ConfigError(f"{place}: a budget is a number of bytes above 0, as in 6T")
    return int(size)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{place}: a text is expected")
    return value


def _table(value: Any, place: str, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: a table is expected, or a timetable such as 'Mon-Fri-02:00,1.2G 08:00,off'")
    for key in value:
        if key not in keys:
            raise ConfigError(f"{place}.{str(key)[:40]}: unknown; there may be {', '.join(keys)}")
    return value


def _at(place: str, parse: Any, value: Any) -> Any:
    try:
        return parse(value)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


ALWAYS_OPEN: Final = FillWindows()
"""Of a cache that has no windows."""
