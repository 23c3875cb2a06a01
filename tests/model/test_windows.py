"""Fill windows: what a timetable says of each moment, held against a second reading of the clock on the wall."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.errors import ConfigError
from p2pfill.model.rates import RateLimits, Rates
from p2pfill.model.windows import ALWAYS_OPEN, FillWindows, Window, read_windows, show_time

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns",
         "Africa/Casablanca", "Pacific/Apia")  # fmt: skip
"""Among them offsets of quarters of an hour, a change by half an hour, and one at midnight."""

CHANGES = [
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 3, 8, 7, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    datetime(2026, 2, 15, 2, tzinfo=UTC),
    datetime(2026, 6, 1, tzinfo=UTC),
]
"""Moments at which summer time begins or ends in one of them, and one at which nothing happens."""


@st.composite
def timetables(draw: st.DrawFn) -> FillWindows:
    """Windows that do not overlap, in some zone."""
    cuts = sorted(draw(st.sets(st.integers(0, 24 * 4 - 1).map(lambda n: n * 15), min_size=2, max_size=6)))
    windows = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=False):
        days = tuple(sorted(draw(st.sets(st.integers(0, 6), min_size=1))))
        windows.append(Window(days, start, end))
    over_midnight = draw(st.booleans()) and cuts[0] and len(cuts) % 2 == 0
    if over_midnight:
        windows.append(Window((draw(st.integers(0, 6)),), cuts[-1], cuts[0]))
    return FillWindows(draw(st.sampled_from(ZONES)), tuple(windows), night_min=draw(st.sampled_from((0, 720, 1439))))


def window_on_the_wall(table: FillWindows, epoch_s: float) -> int | None:
    """Return which window is open, read from the windows themselves."""
    wall = datetime.fromtimestamp(epoch_s, ZoneInfo(table.timezone))
    minute = wall.hour * 60 + wall.minute
    for number, window in enumerate(table.windows):
        today, yesterday = wall.weekday() in window.days, (wall.weekday() - 1) % 7 in window.days
        if window.start_min < window.end_min:
            if today and window.start_min <= minute < window.end_min:
                return number
        elif (today and minute >= window.start_min) or (yesterday and minute < window.end_min):
            return number
    return None


@given(timetables(), st.sampled_from(CHANGES), st.integers(-3 * 24 * 60, 24 * 60), st.floats(0, 59.9))
def test_a_cache_is_open_by_the_clock_on_the_wall(
    table: FillWindows, change: datetime, minutes: int, seconds: float
) -> None:
    epoch_s = (change + timedelta(minutes=minutes, seconds=seconds)).timestamp()
    moment = table.at(epoch_s)
    assert moment.window == window_on_the_wall(table, epoch_s)
    assert moment.is_open == (moment.window is not None)


@given(timetables(), st.sampled_from(CHANGES), st.integers(-24 * 60, 4 * 60), st.floats(0, 59.9))
def test_the_next_change_is_the_first_one(table: FillWindows, change: datetime, minutes: int, seconds: float) -> None:
    """Looked for minute by minute."""
    epoch_s = (change + timedelta(minutes=minutes, seconds=seconds)).timestamp()
    moment = table.at(epoch_s)
    assert moment.until > epoch_s
    minute_s = epoch_s // 60 * 60 + 60
    for at_s in range(int(minute_s), int(min(moment.until, minute_s + 48 * 3600)), 60):
        assert window_on_the_wall(table, at_s) == moment.window
    if moment.until < epoch_s + 7 * 24 * 3600:
        assert window_on_the_wall(table, moment.until) != moment.window


@given(timetables(), st.floats(1.7e9, 1.9e9))
def test_a_timetable_survives_the_wire(table: FillWindows, epoch_s: float) -> None:
    again = msgspec.json.decode(msgspec.json.encode(table), type=FillWindows)
    assert again == table
    assert again.at(epoch_s) == table.at(epoch_s)


@given(st.one_of(st.text(max_size=60), st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=4)))
def test_any_value_is_a_timetable_or_refused(value: Any) -> None:
    try:
        table = read_windows(value)
    except ConfigError as error:
        assert str(error).startswith("windows")  # noqa: PT017
    else:
        assert table.at(1.8e9).until > 1.8e9


def at(table: FillWindows, *when: int) -> bool:
    return table.at(datetime(*when, tzinfo=ZoneInfo(table.timezone)).timestamp()).is_open  # type: ignore[arg-type, misc]


def test_a_line_in_the_manner_of_rclone() -> None:
    table = read_windows("Mon-Fri-02:00,1.2G,6T 08:00,off")
    (window,) = table.windows
    assert window.days == (0, 1, 2, 3, 4)
    assert (show_time(window.start_min), show_time(window.end_min)) == ("02:00", "08:00")
    assert window.rates == RateLimits(inbound=Rates(total=int(1.2 * (1 << 30))))
    assert window.budget == 6 << 40
    assert [at(table, 2026, 11, 30, hour) for hour in (1, 2, 7, 8)] == [False, True, True, False]
    assert not at(table, 2026, 11, 28, 3)  # a Saturday


def test_a_line_may_reach_over_midnight_the_week_and_days() -> None:
    night = read_windows("22:00,max 06:00,off")
    assert [at(night, 2026, 11, 29, hour) for hour in (21, 22, 0, 5, 6)] == [False, True, True, True, False]
    weekend = read_windows("Fri-20:00,max Mon-06:00,off")
    edges = ((27, 19), (27, 20), (28, 12), (30, 5), (30, 6))
    assert [at(weekend, 2026, 11, day, hour) for day, hour in edges] == [False, True, True, True, False]
    start = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()
    assert weekend.at(start).until - start <= 3 * 24 * 3600
    always = read_windows("00:00,1M")
    assert all(at(always, 2026, 11, 30, hour) for hour in (0, 12, 23))


def test_a_line_may_begin_with_its_time_zone() -> None:
    line = read_windows("Europe/Berlin Mon-Fri-02:00,1M 08:00,off")
    assert line == read_windows({"timezone": "Europe/Berlin", "timetable": "Mon-Fri-02:00,1M 08:00,off"})
    with pytest.raises(ConfigError, match="time zone 'Berlin' is not known"):
        read_windows("Berlin 02:00,max 08:00,off")


def test_both_spellings_mean_the_same() -> None:
    line = read_windows({"timezone": "Europe/Berlin", "timetable": "Mon-Fri-02:00,1M 08:00,off"})
    table = {"days": "Mon-Fri", "from": "02:00", "to": "08:00", "rates": "1M"}
    assert read_windows({"timezone": "Europe/Berlin", "window": [table]}) == line


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("", "windows: "),
        ("02:00,max 02:00,off", r"windows, entry 2 \(02:00,off\): another entry"),
        ("Mon-Fri-02:00,fast", r"windows, entry 1 .*'fast' is no rate"),
        ("25:00,max", r"windows, entry 1 .*'25:00' is no time"),
        ("02:00,off", "windows: nothing would ever be filled"),
        ("Foo-02:00,max", r"windows, entry 1 .*'Foo' names no days"),
        ("02:00", r"windows, entry 1 .*after the time stands a rate"),
        ("02:00,off,6T", r"windows, entry 1 "),
        ("Mon-02:00-08:00,1M", r"windows, entry 1 .*from 02:00 to 08:00 is two of them: 02:00,max 08:00,off"),
        ("02:00,max,lots", r"windows, entry 1 .*'lots' is no size"),
        ({"zone": "UTC"}, r"windows\.zone: unknown"),
        ({"timezone": "Mars/One"}, r"windows\.timezone: time zone 'Mars/One' is not known"),
        ({"timezone": "../etc/passwd"}, r"windows\.timezone: "),
        ({"window": [{"from": "1:00", "to": "5:00"}, {"from": "4:00", "to": "6:00"}]}, r"windows\.window: windows 1 "),
        ({"window": [{"from": "1:00"}]}, r"windows\.window\[1\]\.to: is lacking"),
        ({"window": [{"from": "1:00", "to": "2:00", "rates": {"in": 1}}]}, r"windows\.window\[1\]\.rates\.in: unknown"),
        ({"window": [{"from": "1:00", "to": "2:00", "budget": 0}]}, r"windows\.window\[1\]\.budget: a budget"),
        ({"window": []}, r"windows\.window: one to"),
        ({"timetable": "02:00,max", "window": []}, r"windows\.timetable: there are windows"),
        ({"at_end": "stop"}, r"windows\.at_end: 'stop' is neither"),
        ({"night_from": "noon"}, r"windows\.night_from: 'noon' is no time"),
        ({"outside": "0"}, r"windows\.outside: "),
        (7, "windows: a table is expected"),
    ],
)
def test_an_error_names_its_place(value: Any, place: str) -> None:
    with pytest.raises(ConfigError, match=f"^{place}"):
        read_windows(value)


def test_without_windows_a_cache_is_always_open() -> None:
    moment = ALWAYS_OPEN.at(1.8e9)
    assert moment.is_open
    assert moment.window is None


def test_summer_time_begins_and_ends() -> None:
    """In Berlin 02:00 to 03:00 was left out on 29 March 2026, and came twice on 25 October."""
    hour = read_windows({"timezone": "Europe/Berlin", "timetable": "02:00,max 03:00,off"})
    spring = datetime(2026, 3, 28, 12, tzinfo=UTC).timestamp()
    opens = hour.at(spring).until
    assert datetime.fromtimestamp(opens, UTC) == datetime(2026, 3, 30, 0, tzinfo=UTC)  # not on the 29th
    late = read_windows({"timezone": "Europe/Berlin", "timetable": "02:30,max 05:00,off"})
    assert datetime.fromtimestamp(late.at(spring).until, UTC) == datetime(2026, 3, 29, 1, tzinfo=UTC)  # 03:00 there
    autumn = datetime(2026, 10, 25, 0, tzinfo=UTC).timestamp()  # 02:00 in summer time
    assert hour.at(autumn).is_open
    assert hour.at(autumn).until - autumn == 2 * 3600


def test_a_night_begins_at_noon_and_bears_its_date() -> None:
    table = read_windows({"timezone": "America/New_York", "timetable": "22:00,max 06:00,off"})
    zone = ZoneInfo("America/New_York")
    assert table.at(datetime(2026, 11, 29, 23, tzinfo=zone).timestamp()).night == "2026-11-29"
    assert table.at(datetime(2026, 11, 30, 5, tzinfo=zone).timestamp()).night == "2026-11-29"
    assert table.at(datetime(2026, 11, 30, 12, tzinfo=zone).timestamp()).night == "2026-11-30"


def hours_a_week(table: FillWindows) -> float:
    """Return for how many hours of a week it is open."""
    return sum(table.at(MONDAY + 900 * part).is_open for part in range(7 * 96)) / 4


MONDAY = datetime(2026, 11, 23, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "spelled", ["Fri-22:00,max Fri-24:00,off", "Sun-22:00,max Sun-24:00,off", "Fri-24:00,max Sat-02:00,off"]
)
def test_the_end_of_a_day_lies_before_the_next_day_and_not_before_its_own(spelled: str) -> None:
    assert hours_a_week(read_windows(spelled)) == 2


def test_a_window_in_a_table_ends_at_the_end_of_a_day_and_does_not_begin_there() -> None:
    table = read_windows({"window": [{"days": "Fri", "from": "22:00", "to": "24:00"}]})
    assert hours_a_week(table) == 2
    assert table.at(MONDAY + 4 * 86400 + 23 * 3600).is_open
    with pytest.raises(ConfigError, match=r"windows.window\[1\].from: no window begins at 24:00"):
        read_windows({"window": [{"days": "Fri", "from": "24:00", "to": "02:00"}]})


def test_a_window_on_no_day_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"windows.window\[1\].days: no day is named"):
        read_windows({"window": [{"days": [], "from": "22:00", "to": "02:00"}]})
