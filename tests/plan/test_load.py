"""What is foreseen of hourly load, and whether bands hold what they say."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.errors import ConfigError
from p2pfill.plan.hours.bands import BEYOND_MAX, QUANTILES, calibrate, pinball
from p2pfill.plan.hours.load import CHOICE_DAYS_MIN, LoadForecast, Replay, choose, forecast, replay, until
from p2pfill.plan.hours.profile import DAY_HOURS, KNOWN_FIRST, OUTAGE_HOURS_MAX, cut_days, expect
from p2pfill.plan.tables import Floats, Load

MONDAY = 473_352
"""2024-01-01 00:00 in UTC."""

LONG_DAYS = 150
LONG_REPLAY = 80


def hour_of(*date: int) -> int:
    return int(datetime(*date, tzinfo=UTC).timestamp()) // 3600  # type: ignore[misc,arg-type]


def made(days: int, *, seed: int = 0, noise: float = 0.1, level: float = 1e12, shift: int = 0) -> Floats:
    """Return an evening peak that is higher at weekends; `shift` hours of it on the wall."""
    hours = np.arange(days * 24) + shift
    shape = 0.15 + np.exp(-(((hours % 24 - 20) / 3.0) ** 2)) * np.where(hours // 24 % 7 >= 5, 1.5, 1.0)
    return level * shape * np.exp(noise * np.random.default_rng(seed).standard_normal(len(hours)))


def load_of(*rows: Floats, first: int = MONDAY) -> Load:
    return Load(tuple(f"c{row}" for row in range(len(rows))), first, np.array(rows))


def plain_of(load: Load, zone: str = "UTC", holidays: tuple[int, ...] = ()) -> Floats:
    """Return what the plain model expects of tomorrow, by cache and hour."""
    return expect(cut_days(load, (zone,) * len(load.names), holidays)).expected[-1]


@lru_cache(maxsize=1)
def long_replay() -> tuple[Load, Replay]:
    """Return five months of two caches: after a day above the usual comes one below, which no profile of weeks has."""
    chance = np.random.default_rng(5)
    rows = []
    for cache in range(2):
        level = np.ones(LONG_DAYS)
        for day in range(1, LONG_DAYS):
            level[day] = 1 - 0.8 * (level[day - 1] - 1) + 0.12 * chance.standard_normal()
        rows.append(made(LONG_DAYS, seed=cache) * np.repeat(np.maximum(level, 0.2), 24))
    load = load_of(*rows)
    return load, replay(load, days=LONG_REPLAY)


# ---- the plain model


def test_a_week_that_comes_again_is_foreseen() -> None:
    served = made(36, noise=0.0)
    assert plain_of(load_of(served[: 35 * 24]))[0] == pytest.approx(served[35 * 24 :], rel=0.02)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_level_that_moves_is_followed_within_days(factor: float) -> None:
    served = made(46, noise=0.0)
    served[40 * 24 :] *= factor
    expected = plain_of(load_of(served[: 45 * 24]))[0].sum() / served[45 * 24 :].sum()
    assert expected == pytest.approx(1, abs=0.15)


def test_hours_follow_the_clock_on_the_wall() -> None:
    """Where summer time has begun the evening comes an hour earlier in UTC, from the first day on."""
    first = hour_of(2024, 2, 26)
    change = hour_of(2024, 3, 31)
    in_utc = made(60, noise=0.0, shift=1)
    load = until(load_of(in_utc, first=first), change + 12)
    with_zone, without = plain_of(load, "Europe/Berlin")[0], plain_of(load)[0]
    # The day that is forecast begins at 12:00 in UTC; until then viewers went to bed at 19:00 in UTC.
    assert int(np.argmax(without)) + 12 == 19
    assert int(np.argmax(with_zone)) + 12 == 18


def test_a_holiday_is_as_a_sunday() -> None:
    served = made(42, noise=0.0)
    wednesday = MONDAY // 24 + 37
    load = until(load_of(served), wednesday * 24)
    usual, holiday = plain_of(load)[0], plain_of(load, holidays=(wednesday,))[0]
    assert usual.max() == pytest.approx(served[37 * 24 : 38 * 24].max(), rel=0.05)
    assert holiday.max() == pytest.approx(served[34 * 24 : 35 * 24].max(), rel=0.05)


def test_what_was_served_on_a_holiday_is_no_usual_wednesday() -> None:
    served = made(45, noise=0.0)
    served[37 * 24 : 38 * 24] = served[34 * 24 : 35 * 24]
    load = until(load_of(served), MONDAY + 44 * 24)
    told, untold = plain_of(load, holidays=(MONDAY // 24 + 37,))[0], plain_of(load)[0]
    usual = served[30 * 24 : 31 * 24].max()
    assert abs(told.max() / usual - 1) < abs(untold.max() / usual - 1)


@pytest.mark.parametrize("hours", [1, 9, 40, OUTAGE_HOURS_MAX])
def test_an_outage_changes_nothing(hours: int) -> None:
    served = made(41, noise=0.0)
    away = served[: 40 * 24].copy()
    away[-hours:] = 0
    assert plain_of(load_of(away))[0] == pytest.approx(served[40 * 24 :], rel=0.05)


def test_a_cache_that_serves_nothing_any_more_is_believed() -> None:
    served = made(60, noise=0.0)
    served[40 * 24 :] = 0
    assert plain_of(load_of(served))[0].max() < 0.05 * served.max()


def test_a_cache_with_few_viewers_has_hours_without_any() -> None:
    """Its empty hours are no outages: what it serves on the whole is foreseen, not what it serves when it serves."""
    served = np.random.default_rng(1).poisson(0.7, 80 * 24) * 1e9
    assert plain_of(load_of(served))[0].mean() == pytest.approx(served.mean(), rel=0.25)


def test_a_new_cache_has_the_week_of_the_others() -> None:
    """One that is known since a day, a Monday, is expected to have more viewers on Saturday, as all others have."""
    old = [made(47, noise=0.0, level=level) for level in (1e12, 3e12)]
    new = made(47, noise=0.0, level=2e11)
    new[: 42 * 24] = np.nan
    new[43 * 24 :] = np.nan  # no logs came since
    expected = plain_of(load_of(*old, new))[2]
    assert expected.max() == pytest.approx(made(48, noise=0.0, level=2e11)[47 * 24 :].max(), rel=0.15)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), share=st.floats(0, 0.98), hours=st.integers(0, 24 * 20), first=st.integers(0, 500_000),
    zone=st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York", "Australia/Lord_Howe"]),
)  # fmt: skip
def test_whatever_is_missing_something_sane_is_said(seed: int, share: float, hours: int, first: int, zone: str) -> None:
    chance = np.random.default_rng(seed)
    served = made(20, seed=seed)[:hours]
    served[chance.random(hours) < share] = np.nan
    said = forecast(load_of(served, np.full(hours, np.nan), first=first), (zone, "UTC"))
    assert said.first_hour == first + hours
    assert np.isnan(said.served[1]).all() or np.isfinite(said.served[1]).all()
    if (~np.isnan(served)).sum() < KNOWN_FIRST:
        assert np.isnan(said.served[0]).all()
        return
    assert np.isfinite(said.served[0]).all()
    assert (said.served[0] >= 0).all()
    assert (np.diff(said.served[0], axis=-1) >= 0).all()
    assert said.served[0].max() <= BEYOND_MAX * np.nanmax(served)


# ---- bands


@pytest.mark.parametrize("jump", [1.0, 3.0])
def test_bands_hold_what_they_say_also_when_noise_changes(jump: float) -> None:
    """From one day on errors are three times as large: a band of fixed scores would hold half of them for weeks."""
    chance = np.random.default_rng(0)
    days, at = 160, 100
    size = np.where(np.arange(days) < at, 1.0, jump)[:, None, None]
    taken = 100 + 10 * size * chance.standard_normal((days, 3, 24))
    bands = calibrate(np.full((days, 3, 24, len(QUANTILES)), 100.0), np.full((days, 3, 24), 8.0), taken)
    late = slice(at + 14, None)
    inside = (taken[late] >= bands[late][..., 0]) & (taken[late] <= bands[late][..., -1])
    half = (taken[late] >= bands[late][..., 1]) & (taken[late] <= bands[late][..., -2])
    assert inside.mean() == pytest.approx(0.9, abs=0.03)
    assert half.mean() == pytest.approx(0.5, abs=0.06)


def test_a_load_with_a_long_tail_has_bands_with_one() -> None:
    taken = 100 * np.random.default_rng(0).lognormal(0, 0.8, (100, 2, 24))
    bands = calibrate(np.full((100, 2, 24, len(QUANTILES)), 100.0), np.full((100, 2, 24), 50.0), taken)[-1]
    assert (bands[..., -1] - bands[..., 2] > 2 * (bands[..., 2] - bands[..., 0])).all()
    assert ((taken[60:] > bands[0, 0, -1]).mean() - 0.05) < 0.03


def test_a_new_cache_has_the_bands_of_the_others() -> None:
    chance = np.random.default_rng(0)
    taken = 100 + 10 * chance.standard_normal((60, 3, 24))
    taken[:-1, 2] = np.nan
    bands = calibrate(np.full((60, 3, 24, len(QUANTILES)), 100.0), np.full((60, 3, 24), 8.0), taken)[-1]
    assert bands[2, 0, -1] == pytest.approx(bands[0, 0, -1], rel=0.03)


def test_the_loss_of_a_quantile_is_least_at_it() -> None:
    """Pinball loss by its definition: q above, 1 - q below."""
    loss = pinball(np.array([[1.0, 1.0, 1.0, 1.0, 1.0]]), np.array([3.0]))
    assert loss[0] == pytest.approx(2 * np.mean(QUANTILES))
    assert pinball(np.array([[5.0] * 5]), np.array([3.0]))[0] == pytest.approx(2 * (1 - np.mean(QUANTILES)))


# ---- both models


def test_nobody_looks_ahead() -> None:
    """Whatever comes later, what was said of a day before it stays."""
    served = made(60)
    changed = served.copy()
    changed[50 * 24 :] = made(10, seed=9) * 5
    before, after = (replay(load_of(one), days=26) for one in (served, changed))
    day = 50 - (60 - 26)
    assert before.by_correction[day].min() > 0
    for one, other in ((before.by_plain, after.by_plain), (before.by_correction, after.by_correction)):
        assert np.array_equal(one[: day + 1], other[: day + 1], equal_nan=True)
        assert not np.array_equal(one[day + 1], other[day + 1], equal_nan=True)
    assert np.array_equal(before.is_corrected[: day + 1], after.is_corrected[: day + 1])


def test_it_loses_less_than_the_weekly_naive_forecast_and_its_bands_hold() -> None:
    load, made_replay = long_replay()
    taken, counts = made_replay.plain.taken, slice(40, -1)
    naive = load.served.reshape(2, LONG_DAYS, 24).swapaxes(0, 1)[LONG_DAYS - LONG_REPLAY + 40 - 7 : -7]
    loss = pinball(made_replay.served[counts], taken[counts]).mean()
    assert loss < 0.4 * pinball(np.repeat(naive[..., None], 5, -1), taken[counts]).mean()
    served = made_replay.served[counts]
    assert ((taken[counts] >= served[..., 0]) & (taken[counts] <= served[..., -1])).mean() == pytest.approx(
        0.9, abs=0.04
    )


def test_the_correction_counts_where_it_is_better() -> None:
    """That a low day follows on a high one it can learn, from two caches together, and the plain model cannot."""
    _, made_replay = long_replay()
    taken = made_replay.plain.taken[40:-1]
    plain = pinball(made_replay.by_plain[40:-1], taken).mean()
    assert pinball(made_replay.by_correction[40:-1], taken).mean() < 0.9 * plain
    assert made_replay.is_corrected[40:].mean() > 0.9
    assert pinball(made_replay.served[40:-1], taken).mean() < 0.9 * plain


def test_the_plain_model_counts_where_a_correction_is_worse() -> None:
    """A correction that was right so far, and is wrong from now on, is left within the weeks that decide."""
    chance = np.random.default_rng(0)
    taken = 100 + 10 * chance.standard_normal((60, 2, 24))
    good = np.full((60, 2, 24, len(QUANTILES)), 100.0) + 10 * np.array([-1.6, -0.7, 0, 0.7, 1.6])
    bad = good.copy()
    bad[30:, 0] += 40
    chosen = choose(good + 5, bad, taken)
    assert not chosen[:CHOICE_DAYS_MIN].any()
    assert chosen[CHOICE_DAYS_MIN + 1 : 30].all()
    assert not chosen[40:, 0].any()
    assert chosen[40:, 1].all()


def test_a_young_fleet_goes_by_the_plain_model() -> None:
    said = forecast(load_of(made(10)))
    assert not said.is_corrected.any()
    assert said.known.tolist() == [240]
    assert np.isfinite(said.served).all()


def test_the_same_load_has_the_same_forecast() -> None:
    load = load_of(made(30))
    assert np.array_equal(forecast(load, seed=3).served, forecast(load, seed=3).served)


def test_bands_are_named_by_their_share() -> None:
    said = LoadForecast(("c",), 0, np.arange(120.0).reshape(1, 24, 5), np.zeros(1, np.bool_), np.zeros(1))
    lower, upper = said.band(0.9)
    assert (lower[0, 0], upper[0, 0]) == (0, 4)
    assert said.band(0.5)[1][0, 0] == 3
    with pytest.raises(ValueError, match="no band of 80%"):
        said.band(0.8)


def test_a_load_is_cut_and_filled_up_to_an_hour() -> None:
    load = load_of(np.arange(30.0))
    assert until(load, MONDAY + 5).served.tolist() == [[0, 1, 2, 3, 4]]
    longer = until(load, MONDAY + 32).served
    assert longer.shape == (1, 32)
    assert np.isnan(longer[0, 30:]).all()
    assert until(load, MONDAY - 1).served.shape == (1, 0)


def test_what_cannot_be_used_is_said() -> None:
    load = load_of(made(2))
    with pytest.raises(ConfigError, match="Mars/Olympus"):
        forecast(load, ("Mars/Olympus",))
    with pytest.raises(ValueError, match="do not fit"):
        forecast(load, ("UTC", "UTC"))
    for wrong in (-1.0, np.inf):
        with pytest.raises(ValueError, match="below 0 or infinite"):
            forecast(load_of(np.array([wrong])))


def test_days_end_where_the_load_ends() -> None:
    days = cut_days(load_of(np.arange(30.0)), ("UTC",), ())
    assert days.served.shape == (3, 1, DAY_HOURS)
    assert days.first_hour == MONDAY + 30 - 48
    assert days.served[1, 0].tolist() == list(range(6, 30))
    assert days.cell[1, 0, 0] == 6
    assert np.isnan(days.served[2]).all()
