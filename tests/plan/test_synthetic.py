"""Made worlds of viewing: the same for the same seed, and what they say of themselves holds."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.errors import ConfigError
from p2pfill.plan.synthetic import GRADES, Grade, World, WorldSettings, make_world
from p2pfill.plan.tables import Views

SMALL = WorldSettings(titles=150, days=20, views_a_day=3_000.0)


@pytest.fixture(scope="module", params=["base", "hard"])
def world(request: pytest.FixtureRequest) -> World:
    grade: Grade = request.param
    return make_world(replace(SMALL, grade=grade), seed=5)


def same(one: Views, other: Views) -> bool:
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(Views))


def test_the_same_seed_makes_the_same_world_and_another_does_not(world: World) -> None:
    again = make_world(world.settings, world.seed)
    assert same(world.views, again.views)
    assert np.array_equal(world.title_rates, again.title_rates)
    assert np.array_equal(world.load.served, again.load.served)
    assert np.array_equal(world.catalogue.hint, again.catalogue.hint, equal_nan=True)
    assert world.catalogue.files == again.catalogue.files
    assert not same(world.views, make_world(world.settings, world.seed + 1).views)


def test_more_views_leave_catalogue_and_hints_of_the_same_size(world: World) -> None:
    """What is drawn for one purpose hangs on nothing that is drawn for another."""
    thin = make_world(replace(world.settings, views_a_day=300.0), world.seed)
    assert thin.catalogue.files == world.catalogue.files
    assert np.array_equal(thin.catalogue.size, world.catalogue.size)
    assert np.allclose(thin.catalogue.hint * 10, world.catalogue.hint, equal_nan=True)
    assert np.allclose(thin.title_rates * 10, world.title_rates)


@settings(max_examples=25, deadline=None)
@given(
    grade=st.sampled_from(sorted(GRADES)), titles=st.integers(1, 60), regions=st.integers(1, 4), days=st.integers(1, 9),
    views=st.floats(0.5, 500.0), kinds=st.integers(1, 6), genres=st.integers(1, 8), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_tables_are_well_formed_whatever_the_settings(
    grade: Grade, titles: int, regions: int, days: int, views: float, kinds: int, genres: int, seed: int
) -> None:
    world = make_world(WorldSettings(grade, titles, regions, days, views, kinds, genres), seed)
    catalogue, seen = world.catalogue, world.views
    order = np.lexsort((seen.file, seen.region, seen.day))
    assert np.array_equal(order, np.arange(seen.day.size)), "ordered by day, region, file"
    cells = np.stack([seen.day, seen.region, seen.file], axis=1)
    assert np.unique(cells, axis=0).shape == cells.shape
    assert (seen.requests > 0).all()
    assert (seen.bytes > 0).all()
    assert (seen.bytes <= seen.requests * catalogue.size[seen.file]).all()
    assert (catalogue.size > 0).all()
    assert set(catalogue.title.tolist()) == set(range(titles))
    assert len(catalogue.files) == catalogue.size.size == catalogue.kind.size
    assert (seen.day >= seen.first_day).all()
    assert (seen.day <= seen.last_day).all()
    assert (catalogue.released[catalogue.title[seen.file]] <= seen.day).all(), "nothing is watched before its release"
    assert world.load.served.shape == (regions, days * 24)
    for array in (catalogue.genre, catalogue.released, catalogue.title, catalogue.kind, seen.day, seen.file):
        assert array.dtype == np.int32
    for array in (catalogue.size, seen.bytes, seen.requests):
        assert array.dtype == np.int64


def test_what_is_watched_is_drawn_from_the_rates(world: World) -> None:
    """By chi-squared of the views of each region and title over all days: mean and deviation as Poisson has them."""
    seen, catalogue = world.views, world.catalogue
    expected = world.title_rates.sum(axis=0)
    cells = seen.region.astype(np.int64) * len(catalogue.titles) + catalogue.title[seen.file]
    watched = np.bincount(cells, seen.requests, expected.size).reshape(expected.shape)
    often = expected > 5
    deviations = (watched - expected)[often] / np.sqrt(expected[often])
    assert often.sum() > 100
    assert abs(deviations.mean()) < 0.25
    assert 0.8 < deviations.std() < 1.2


def test_the_truth_is_of_requests_and_streams_alike(world: World) -> None:
    catalogue, seen = world.catalogue, world.views
    truths = [world.truth(day) for day in world.days]
    requests = sum(truth.requests.sum() for truth in truths)
    assert requests == pytest.approx(world.title_rates.sum())
    assert seen.requests.sum() == pytest.approx(requests, rel=0.02)
    streams = sum((truth.streams * catalogue.size).sum() for truth in truths)
    assert seen.bytes.sum() == pytest.approx(streams, rel=0.03)
    assert all((truth.streams <= truth.requests).all() for truth in truths)


def test_views_a_day_are_what_was_asked_for_but_for_jumps() -> None:
    base = make_world(SMALL, 3)
    assert base.views.requests.sum() / SMALL.days == pytest.approx(SMALL.views_a_day, rel=0.1)
    hard = make_world(replace(SMALL, grade="hard", titles=1500), 3)
    assert hard.views.requests.sum() / SMALL.days > 1.02 * SMALL.views_a_day, "jumps come on top"


def test_hints_are_of_first_days_and_often_wrong() -> None:
    for grade, hardness in GRADES.items():
        world = make_world(replace(SMALL, grade=grade, titles=1500, days=60), 4)
        first = world.catalogue.released - world.views.first_day
        launched = (first >= 0) & (first < 60) & ~np.isnan(world.catalogue.hint)
        views = world.title_rates[first.clip(0, 59), :, np.arange(1500)].sum(axis=1)
        off = np.log(world.catalogue.hint[launched] / views[launched])
        assert abs(off.mean()) < 0.3
        assert off.std() == pytest.approx(hardness.hint_sigma, rel=0.25)
        assert np.isnan(world.catalogue.hint).mean() == pytest.approx(1 - SMALL.hinted, abs=0.05)


def test_load_of_a_day_is_what_was_streamed_and_has_an_evening(world: World) -> None:
    served = world.load.served.reshape(SMALL.regions, SMALL.days, 24)
    for number, day in enumerate(world.days):
        for region in range(SMALL.regions):
            rows = (world.views.day == day) & (world.views.region == region)
            assert served[region, number].sum() == pytest.approx(world.views.bytes[rows].sum(), rel=1e-9)
    by_hour = served[0].mean(axis=0)
    assert by_hour[18:23].min() > 2 * by_hour[2:6].max()


def test_the_hard_grade_has_what_the_base_grade_lacks() -> None:
    base, hard = (make_world(WorldSettings(grade, titles=800, days=40), 9) for grade in ("base", "hard"))

    def spread_of_launches(made: World) -> float:
        first = made.catalogue.released - made.views.first_day
        within = (first >= 0) & (first < 40)
        views = made.title_rates[np.clip(first, 0, 39), :, np.arange(800)].sum(axis=1)
        return float(np.log(views[within]).std())

    def late_regions(made: World) -> int:
        """Titles that one region watches at least a week before another does."""
        first = np.where(made.title_rates > 0, np.arange(40)[:, None, None], 99).min(axis=0)
        launched = made.catalogue.released > made.views.first_day
        return int(((first.max(axis=0) - first.min(axis=0))[launched] >= 7).sum())

    def greatest_rise(made: World) -> float:
        """Of a title that has been there for long, from one day to the next."""
        old = made.catalogue.released < made.views.first_day - 60
        daily = made.title_rates.sum(axis=1)[:, old]
        return float((daily[1:] / daily[:-1]).max())

    assert spread_of_launches(hard) > 1.2 * spread_of_launches(base)
    assert late_regions(base) == 0
    assert late_regions(hard) > 5
    assert greatest_rise(base) < 2
    assert greatest_rise(hard) > 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"titles": 0}, {"regions": 0}, {"days": 0}, {"views_a_day": 0.0}, {"kinds": 7}, {"genres": 0}, {"hinted": 1.5},
        {"grade": "easy"}, {"titles": 300_000}, {"titles": 100_000, "days": 900, "regions": 9},
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_said(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="made world"):
        make_world(replace(SMALL, **wrong), 1)  # type: ignore[arg-type]
