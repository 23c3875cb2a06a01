"""What a forecast knows, what it must not know, and that each of its parts learns what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.plan.popularity.launch import LaunchCurve, LaunchSizes
from p2pfill.plan.popularity.levels import Levels, log_gamma
from p2pfill.plan.popularity.lifts import Lifts
from p2pfill.plan.popularity.popularity import Model, PopularitySettings, Scope, explain, forecast, learn
from p2pfill.plan.popularity.shrinkage import views_to_believe
from p2pfill.plan.popularity.volume import GenreWeek
from p2pfill.plan.tables import Catalogue, Floats, Views

FIRST = 20_000
REGIONS = ("north", "south", "west")
DAYS = 30
TITLES = 60


def make_catalogue(released: dict[int, int] | None = None, hint: dict[int, float] | None = None) -> Catalogue:
    """Return titles of three genres with two files each, long released but for those named."""
    days = np.full(TITLES, FIRST - 900, np.int32)
    hints = np.full(TITLES, np.nan)
    for title, day in (released or {}).items():
        days[title] = FIRST + day
    for title, views in (hint or {}).items():
        hints[title] = views
    title = np.repeat(np.arange(TITLES, dtype=np.int32), 2)
    return Catalogue(
        titles=tuple(f"t{number}" for number in range(TITLES)),
        genres=("a", "b", "c"),
        kinds=("big", "small"),
        genre=(np.arange(TITLES) % 3).astype(np.int32),
        released=days,
        hint=hints,
        files=tuple(f"f{number}" for number in range(2 * TITLES)),
        title=title,
        kind=np.tile(np.array([0, 1], np.int32), TITLES),
        size=np.where(np.arange(2 * TITLES) % 2 == 0, 4_000, 1_000).astype(np.int64),
    )


def make_rates(seed: int, released: dict[int, int] | None = None) -> Floats:
    """Return views by day, region and file: old titles steady, launches that fade by half every four days."""
    random = np.random.default_rng(seed)
    level = np.exp(random.normal(1.5, 1.0, TITLES))
    liked = np.exp(random.normal(0.0, 0.5, (3, 3)))[:, np.arange(TITLES) % 3]
    curve = np.ones((DAYS + 5, TITLES))
    for title, day in (released or {}).items():
        age = np.arange(DAYS + 5) - day
        curve[:, title] = np.where(age >= 0, 3 * 0.5 ** (np.maximum(age, 0) / 4), 0)
        level[title] = 30.0
    of_title = curve[:, None, :] * level * liked
    return np.repeat(of_title, 2, axis=2) * np.tile([0.3, 0.7], TITLES)


def make_views(catalogue: Catalogue, rates: Floats, seed: int, days: int = DAYS) -> Views:
    counts = np.random.default_rng(seed).poisson(rates[:days])
    day, region, file = np.nonzero(counts)
    requests = counts[day, region, file].astype(np.int64)
    return Views(
        REGIONS, FIRST, FIRST + days - 1, (day + FIRST).astype(np.int32), region.astype(np.int32),
        file.astype(np.int32), requests * catalogue.size[file] // 2, requests,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> tuple[Catalogue, Floats, Views]:
    catalogue, rates = make_catalogue(), make_rates(1)
    return catalogue, rates, make_views(catalogue, rates, 2)


@pytest.mark.parametrize("scope", list(Scope))
def test_no_look_ahead(plain: tuple[Catalogue, Floats, Views], scope: Scope) -> None:
    """Whatever comes on the day and after it, the forecast is the same to the bit."""
    catalogue, _, views = plain
    chosen = PopularitySettings(scope=scope)
    day = FIRST + 20
    late = views.day >= day
    other = replace(views, bytes=np.where(late, views.bytes * 1000, views.bytes), requests=views.requests + late * 77)
    first, second = (forecast(table, catalogue, day, chosen) for table in (views, other))
    third = forecast(views.until(day), catalogue, day, chosen)
    for made in (second, third):
        assert np.array_equal(first.streams, made.streams)
        assert np.array_equal(first.requests, made.requests)
        assert np.array_equal(first.spread, made.spread)
    assert not np.array_equal(first.streams, forecast(other, catalogue, day + 1, chosen).streams)


def test_asking_does_not_change_the_model(plain: tuple[Catalogue, Floats, Views]) -> None:
    """A model that was asked for each day, and for days far ahead, says what one says that was asked once."""
    catalogue, _, views = plain
    asked = Model(catalogue, REGIONS)
    for day in range(FIRST, FIRST + 12):
        asked.forecast(day)
        asked.forecast(day + 5)
        asked.explain(day, "t1", "south")
        rows = views.day == day
        asked.take_in(day, views.region[rows], views.file[rows], views.bytes[rows], views.requests[rows])
    once = forecast(views, catalogue, FIRST + 12)
    assert np.array_equal(asked.forecast(FIRST + 12).streams, once.streams)


@pytest.mark.parametrize("lost", [range(15, 22), range(22, 23), (3, 9, 20)], ids=["week", "day", "days"])
def test_lost_days_are_no_days_without_views(plain: tuple[Catalogue, Floats, Views], lost: Sequence[int]) -> None:
    catalogue, rates, views = plain
    day = FIRST + 24
    unknown = tuple(FIRST + one for one in lost)
    rows = ~np.isin(views.day, unknown)
    kept = replace(
        views, day=views.day[rows], region=views.region[rows], file=views.file[rows], bytes=views.bytes[rows],
        requests=views.requests[rows], unknown=unknown,
    )  # fmt: skip
    whole, made, as_zeros = (
        forecast(table, catalogue, day).streams for table in (views, kept, replace(kept, unknown=()))
    )
    assert made.sum() == pytest.approx(whole.sum(), rel=0.06)
    true = rates[24] / 2
    assert abs(made - true).sum() < 1.2 * abs(whole - true).sum()
    assert abs(made - true).sum() < abs(as_zeros - true).sum()


def test_days_that_are_not_known_do_not_count_before_they_come(plain: tuple[Catalogue, Floats, Views]) -> None:
    _, _, views = plain
    lost = replace(views, unknown=(FIRST + 3, FIRST + 9))
    assert lost.until(FIRST + 9).unknown == (FIRST + 3,)


def test_days_come_in_order(plain: tuple[Catalogue, Floats, Views]) -> None:
    catalogue, _, views = plain
    model = learn(views, catalogue)
    with pytest.raises(ValueError, match="known already"):
        model.forecast(FIRST + 3)
    nothing = np.zeros(0, np.int32)
    with pytest.raises(ValueError, match="comes after"):
        model.take_in(FIRST, nothing, nothing, nothing.astype(np.int64), nothing.astype(np.int64))


def test_steady_demand_is_found(plain: tuple[Catalogue, Floats, Views]) -> None:
    """Where nothing changes, totals are met within 3 %, cells better than by the last day; requests likewise."""
    catalogue, rates, views = plain
    made = forecast(views, catalogue, FIRST + DAYS)
    truth = rates[DAYS] / 2
    assert made.streams.sum() == pytest.approx(truth.sum(), rel=0.03)
    assert made.requests.sum() == pytest.approx(rates[DAYS].sum(), rel=0.03)
    last = np.zeros_like(truth)
    rows = views.day == FIRST + DAYS - 1
    last[views.region[rows], views.file[rows]] = views.bytes[rows] / catalogue.size[views.file[rows]]
    assert np.abs(made.streams - truth).sum() < 0.4 * np.abs(last - truth).sum()


def test_bands_hold_what_they_say(plain: tuple[Catalogue, Floats, Views]) -> None:
    """Of cells with some views each, 90 % bands hold about 90 % of what came."""
    catalogue, _, views = plain
    model = Model(catalogue, REGIONS)
    held = cells = 0
    for day in range(FIRST, FIRST + DAYS):
        rows = views.day == day
        if day >= FIRST + 12:
            made = model.forecast(day)
            seen = np.zeros_like(made.streams)
            seen[views.region[rows], views.file[rows]] = views.bytes[rows] / catalogue.size[views.file[rows]]
            busy = made.streams > 2
            held += int((np.abs(seen - made.streams) < 1.645 * made.spread)[busy].sum())
            cells += int(busy.sum())
        model.take_in(day, views.region[rows], views.file[rows], views.bytes[rows], views.requests[rows])
    assert cells > 1000
    assert 0.86 < held / cells < 0.94


def test_a_launch_goes_by_its_hint_or_by_its_genre() -> None:
    """What nobody has seen is zero before its day; on it, a hint decides, and past launches of the genre otherwise."""
    released = {3: 4, 6: 7, 9: 10, 12: 13, 15: 16, 18: 19} | {21: DAYS, 24: DAYS, 27: DAYS}
    rates = make_rates(3, released)
    # Operators hint twice what comes.
    first_day = {title: float(rates[day, :, 2 * title : 2 * title + 2].sum()) for title, day in released.items()}
    hints = {title: 2 * first_day[title] for title in (3, 6, 9, 12, 15, 18)} | {21: 2 * 10.0, 24: 2 * 1000.0}
    catalogue = make_catalogue(released, hints)
    model = learn(make_views(catalogue, rates, 4), catalogue)
    assert explain_sum(model, "t27", FIRST + DAYS) == pytest.approx(first_day[27] / 2, rel=0.6)
    small, large = (explain_sum(model, title, FIRST + DAYS) for title in ("t21", "t24"))
    assert large == pytest.approx(100 * small, rel=1e-6)
    # Launches brought a quarter of their hints: half the views, and half a file each. Two of eight are prior.
    assert 0.25 * 2000 < large < 0.6 * 2000
    early = forecast(make_views(catalogue, rates, 4), catalogue, FIRST + DAYS - 1)
    assert not early.streams[:, np.isin(catalogue.title, (21, 24, 27))].any()


def explain_sum(model: Model, title: str, day: int) -> float:
    return sum(model.explain(day, title, region).streams for region in REGIONS)


def test_a_region_that_opens_late_is_expected_when_others_have_opened() -> None:
    """The chance of being open falls while nothing is seen, and a view settles it."""
    released = dict.fromkeys(range(0, 30, 3), 5)
    rates = make_rates(5, released)
    late = rates.copy()
    late[: DAYS - 1, 2, :1] = 0
    late[: DAYS - 1, 2, 1:2] = 0
    catalogue = make_catalogue(released)
    before = explain(make_views(catalogue, late, 6), catalogue, FIRST + DAYS - 1, "t0", "west")
    after = explain(make_views(catalogue, late, 6), catalogue, FIRST + DAYS, "t0", "west")
    assert before.open < 0.3
    assert after.open == 1.0
    assert after.phase > 1


def test_the_catalogue_of_the_day_may_have_grown(plain: tuple[Catalogue, Floats, Views]) -> None:
    """Learned anew with a title more, in whatever place, others are as before; on its day it goes by its hint."""
    catalogue, _, views = plain
    day = FIRST + 20
    grown = replace(
        catalogue,
        titles=("new", *catalogue.titles),
        genre=np.insert(catalogue.genre, 0, 1).astype(np.int32),
        released=np.insert(catalogue.released, 0, day).astype(np.int32),
        hint=np.insert(catalogue.hint, 0, 90.0),
        files=("new-file", *catalogue.files),
        title=np.insert(catalogue.title + 1, 0, 0).astype(np.int32),
        kind=np.insert(catalogue.kind, 0, 0).astype(np.int32),
        size=np.insert(catalogue.size, 0, 4_000),
    )
    made = forecast(replace(views, file=views.file + 1), grown, day)
    assert made.streams[:, 1:] == pytest.approx(forecast(views, catalogue, day).streams, rel=1e-9)
    assert 30 < made.streams[:, 0].sum() < 130
    assert not forecast(replace(views, file=views.file + 1), grown, day - 1).streams[:, 0].any()


def test_reasons_multiply_to_the_forecast(plain: tuple[Catalogue, Floats, Views]) -> None:
    catalogue, _, views = plain
    for scope in Scope:
        chosen = PopularitySettings(scope=scope)
        why = explain(views, catalogue, FIRST + 20, "t7", "west", chosen)
        product = why.level * why.audience * why.genre_lift * why.own_lift * why.phase * why.open
        made = forecast(views, catalogue, FIRST + 20, chosen)
        assert product == pytest.approx(why.streams)
        assert made.streams[2, catalogue.title == 7].sum() == pytest.approx(why.streams)
        assert why.seen
        assert why.spread > 0
    with pytest.raises(KeyError):
        explain(views, catalogue, FIRST + 20, "t7", "nowhere")


def test_regions_that_differ_are_told_apart_and_thin_ones_learn_of_others(
    plain: tuple[Catalogue, Floats, Views],
) -> None:
    """By the error of its cells, learning of all and of itself beats each alone."""
    catalogue, rates, _ = plain
    thin = rates / 8
    views = make_views(catalogue, thin, 8)
    errors = {}
    for scope in Scope:
        made = forecast(views, catalogue, FIRST + DAYS, PopularitySettings(scope=scope))
        errors[scope] = float(np.abs(made.streams - thin[DAYS] / 2).sum())
    assert errors[Scope.HIERARCHICAL] < 0.95 * errors[Scope.REGIONAL]
    assert errors[Scope.HIERARCHICAL] < 0.95 * errors[Scope.GLOBAL]


def test_nothing_known_is_no_error() -> None:
    catalogue = make_catalogue({0: 0}, {0: 50.0})
    nothing = np.zeros(0, np.int32)
    views = Views(
        REGIONS, FIRST, FIRST + 2, nothing, nothing, nothing, nothing.astype(np.int64), nothing.astype(np.int64)
    )
    made = forecast(views, catalogue, FIRST + 3)
    assert np.isfinite(made.streams).all()
    assert np.isfinite(made.spread).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 40, 10**9]))
@settings(max_examples=15, deadline=None)
def test_any_table_gives_numbers(seed: int, bound: int) -> None:
    """Outages, single views, views before a release: forecasts stay finite, not negative, and of the size seen."""
    random = np.random.default_rng(seed)
    catalogue = make_catalogue({0: 3, 1: 5, 2: 9, 3: 20}, {1: 1e6, 2: 1e-6})
    counts = random.integers(0, bound, (12, 3, 2 * TITLES)) * (random.random((12, 3, 2 * TITLES)) < random.random() / 5)
    counts[random.integers(0, 12)] = 0
    day, region, file = np.nonzero(counts)
    many = counts[day, region, file].astype(np.int64)
    views = Views(
        REGIONS, FIRST, FIRST + 11, (day + FIRST).astype(np.int32), region.astype(np.int32), file.astype(np.int32),
        many, many,
    )  # fmt: skip
    made = forecast(views, catalogue, FIRST + 12)
    for values in (made.streams, made.requests, made.spread):
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    most = (counts / catalogue.size).sum(axis=(1, 2)).max()
    assert most == 0 or made.streams.sum() <= 10 * most + 10


def test_curve_learns_the_steps_and_bounds_jumps() -> None:
    curve = LaunchCurve(2)
    age = np.zeros(50, np.int32)
    genre = np.repeat(np.array([0, 1], np.int32), 25)
    for _ in range(40):
        curve.learn(genre, age, np.full(50, 10.0), np.where(genre == 0, 5.0, 8.0))
    assert curve.step[0, 0] == pytest.approx(0.5, abs=0.02)
    assert curve.step[1, 0] == pytest.approx(0.8, abs=0.02)
    curve.learn(genre, age + 100, np.full(50, 1.0), np.full(50, 1e6))
    assert curve.step[:, 100].max() < 1.03


def test_sizes_learn_the_bias_of_hints() -> None:
    sizes = LaunchSizes(1)
    genre = np.zeros(40, np.int32)
    hint = np.full(40, 100.0)
    _, before = sizes.prior(genre, hint, 1.0)
    sizes.learn(genre, hint, np.full(40, 30.0))
    mean, after = sizes.prior(genre, hint, 1.0)
    assert mean[0] == pytest.approx(30, rel=0.15)
    assert after[0] > before[0]


def test_a_hint_is_worth_what_hints_have_been_worth() -> None:
    """Where hints err as much as launches differ, half of what a hint is above the mean is believed."""
    random = np.random.default_rng(3)
    truth = random.normal(5.0, 1.0, 400)
    genre = np.zeros(400, np.int32)
    high = np.array([5.0, 7.0])
    for sigma, slope in ((1.0, 0.5), (0.3, 0.917)):
        sizes = LaunchSizes(1)
        sizes.learn(genre, np.exp(truth + random.normal(0.0, sigma, 400)), np.exp(truth))
        mean, shape = sizes.prior(np.zeros(2, np.int32), np.exp(high), 1.0)
        assert float(np.log(mean[1] / mean[0])) == pytest.approx(2 * slope, rel=0.15)
        # The mean of what came, and not of its logarithm, for the variance that a hint leaves.
        left = sigma**2 / (1 + sigma**2)
        assert mean[0] == pytest.approx(np.exp(5 + left / 2), rel=0.15)
        assert shape[0] == pytest.approx(1 / np.expm1(left), rel=0.3)


def test_launches_that_nobody_watched_make_no_others_big() -> None:
    """Their logarithms are far off; the mean of the next stays within that of those before."""
    sizes = LaunchSizes(1)
    sizes.learn(np.zeros(40, np.int32), np.full(40, np.nan), np.where(np.arange(40) % 2, 100.0, 1e-12))
    mean, shape = sizes.prior(np.zeros(1, np.int32), np.full(1, np.nan), 50.0)
    assert 25 < mean[0] < 100
    assert shape[0] > 0.04


def test_a_genre_has_its_saturdays() -> None:
    """Twice as much on one weekday is found to be; a genre like all others stays at 1, and means stay what they are."""
    random = np.random.default_rng(5)
    week, genre = GenreWeek(3), np.repeat(np.arange(3, dtype=np.int32), 30)
    for day in range(70):
        rate = np.where((genre == 0) & (day % 7 == 2), 20.0, 10.0)
        week.learn(day, genre, random.poisson(rate).astype(np.float64), np.full(90, 10.0))
    factors = np.stack([week.expected(day) for day in range(7)])
    # Beside all genres on that day, which have a third more.
    assert factors[2, 0] == pytest.approx(2 / (4 / 3) / ((6 + 1.5) / 7), rel=0.1)
    assert factors[2, 1] == pytest.approx(factors[2, 2], rel=0.1)
    assert factors.mean(axis=0) == pytest.approx(np.ones(3))


def test_weeks_in_which_genres_only_come_in_flocks_teach_no_weekdays() -> None:
    random = np.random.default_rng(6)
    week, genre = GenreWeek(4), np.repeat(np.arange(4, dtype=np.int32), 20)
    for day in range(70):
        flock = random.gamma(1.0, 1.0, 4)[genre]
        week.learn(day, genre, random.poisson(flock).astype(np.float64), np.ones(80))
    assert np.abs(np.stack([week.expected(day) for day in range(7)]) - 1).max() < 0.15


def test_groups_are_believed_as_far_as_they_differ() -> None:
    random = np.random.default_rng(7)
    due = np.full(400, 100.0)
    for differ in (0.0, 0.01, 0.25):
        factor = random.gamma(1 / differ, differ, 400) if differ else np.ones(400)
        prior = views_to_believe(random.poisson(due * factor).astype(np.float64), due, 1.0, 399, 50.0)
        assert prior == pytest.approx(1 / differ, rel=0.3) if differ else prior > 600


def test_a_title_that_jumps_in_one_region_is_lifted_there_at_once() -> None:
    """Four days after, most of it is known, which a memory that suits all others would not allow; those keep theirs."""
    random = np.random.default_rng(8)
    lifts = Lifts(2, np.zeros(50, np.int32), 1)
    liked = np.exp(random.normal(0.0, 0.7, 50))
    share = np.stack([liked, np.ones(50)]) / (liked + 1)
    for day in range(64):
        rate = 40 * share
        if day >= 60:
            rate[:, 0] = 40 * np.array([0.95, 0.05])
        lifts.learn(random.poisson(rate).astype(np.float64), np.full((2, 50), 20.0), np.full(2, 0.5))
    found = lifts.value / lifts.value.sum(axis=0)
    assert found[0, 0] > 0.7
    assert np.sqrt(np.mean((found[0, 1:] - share[0, 1:]) ** 2)) < 0.03


def test_a_title_that_jumped_forgets_and_a_steady_one_does_not() -> None:
    """After a jump to twenty times the views, four days bring the level to within a fifth."""
    random = np.random.default_rng(9)
    levels = Levels(np.full(100, 10.0), np.full(100, 1.0))
    one = np.ones(100)
    for day in range(40):
        rate = np.full(100, 10.0)
        rate[0] = 200.0 if day >= 36 else 10.0
        levels.step(one, 10.0, 1.0)
        levels.learn(random.poisson(rate).astype(np.float64), one)
    assert levels.mean()[0] == pytest.approx(200, rel=0.2)
    assert np.sqrt(np.mean((levels.mean()[1:] - 10) ** 2)) < 1.5


@given(st.floats(1e-6, 1e9))
def test_log_gamma(value: float) -> None:
    from math import lgamma

    assert float(log_gamma(np.array([value]))[0]) == pytest.approx(lgamma(value), rel=1e-6, abs=1e-4)
