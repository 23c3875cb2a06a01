"""The planner's bench: nobody looks ahead, hits are counted rightly, and the committed report is what it says."""

from __future__ import annotations

import math
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.planner import __main__ as command
from bench.planner import corrected, intervals, movielens, netflix, policies, report, rolling, verdict
from bench.planner.contenders import Truth
from bench.planner.decay import Decay
from bench.planner.foreseen import Foreseen
from bench.planner.planned import Planner, Scope
from bench.planner.records import Recall
from p2pfill.plan.synthetic import WorldSettings, make_world
from p2pfill.plan.tables import Catalogue, Forecast, Ints, Longs, Views

REPORT = Path(__file__).parents[2] / "docs" / "reports" / "planner"
FIRST = 20_454


@pytest.fixture(scope="module")
def data() -> rolling.Dataset:
    """A small world of twelve days, of which the last four count."""
    world = make_world(WorldSettings("hard", titles=120, regions=2, days=12, views_a_day=1_500.0), 3)
    return rolling.Dataset(
        "small", "small", world.catalogue, world.views, FIRST + 4, FIRST + 8, (0.05, 0.3), FIRST, world=world
    )


def after(views: Views, day: int, seed: int) -> Views:
    """Return other views from a day on: of other files, and of other sizes."""
    rows = views.day >= day
    random = np.random.default_rng(seed)
    changed = {}
    for name in ("file", "bytes", "requests"):
        column = getattr(views, name)
        changed[name] = np.where(rows, random.permutation(column), column)
    return replace(views, **changed)


class Recorded:
    """A contender that keeps the forecasts of another."""

    name = "recorded"

    def __init__(self, inner: rolling.Contender) -> None:
        self._inner = inner
        self.forecasts: dict[int, Forecast] = {}

    def take_in(self, day: int, region: Ints, file: Ints, size: Longs, requests: Longs) -> None:
        self._inner.take_in(day, region, file, size, requests)

    def forecast(self, day: int) -> Forecast:
        self.forecasts[day] = self._inner.forecast(day)
        return self.forecasts[day]


@pytest.mark.parametrize("kind", ["planner", "alike", "alone", "decay", "corrected"])
def test_another_future_leaves_the_forecast_of_today_as_it_is(
    data: rolling.Dataset, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrected, "FIRST_DAYS", 3)
    day = FIRST + 9
    other = replace(data, views=after(data.views, day, 1))

    def forecasts(of: rolling.Dataset) -> dict[int, Forecast]:
        scopes = {"planner": Scope.HIERARCHICAL, "alike": Scope.GLOBAL, "alone": Scope.REGIONAL}
        inner: rolling.Contender = Decay(of.catalogue, of.views.regions, 3.0)
        if kind in scopes:
            inner = Planner(of.catalogue, of.views.regions, scopes[kind])
        elif kind == "corrected":
            inner = corrected.Corrected(of.catalogue, of.views.regions)
        recorded = Recorded(inner)
        rolling.roll(recorded, of)
        return recorded.forecasts

    one, another = forecasts(data), forecasts(other)
    for earlier in range(data.tuned_from, day + 1):
        assert np.array_equal(one[earlier].streams, another[earlier].streams), earlier
        assert np.array_equal(one[earlier].requests, another[earlier].requests), earlier
    assert not np.array_equal(one[day + 1].streams, another[day + 1].streams), (
        "what was changed is seen on the next day"
    )


def test_what_is_chosen_hangs_on_days_before_those_that_count(data: rolling.Dataset) -> None:
    def chosen(of: rolling.Dataset) -> str:
        return rolling.best_of(
            "decay", [(f"{days:g}", rolling.roll(decay(of, days), of)) for days in (0.1, 1.0, 9.0)], of
        ).chosen

    def decay(of: rolling.Dataset, days: float) -> Decay:
        return Decay(of.catalogue, of.views.regions, days)

    assert chosen(data) == chosen(replace(data, views=after(data.views, data.scored_from, 2)))


def test_nobody_is_above_the_planner_that_knows_the_rates(data: rolling.Dataset) -> None:
    assert data.world is not None
    truth = rolling.roll(Truth(data.world), data)
    for contender in (Planner(data.catalogue, data.views.regions), Decay(data.catalogue, data.views.regions, 2.0)):
        course = rolling.roll(contender, data)
        # A density order is the best but for the last files, which do not fit.
        assert (course.expected_bytes.sum(axis=(0, 2)) <= 1.005 * truth.expected_bytes.sum(axis=(0, 2))).all()
    foreseen = rolling.roll(Foreseen(data.world), data).expected_bytes.sum(axis=(0, 2))
    assert (foreseen <= 1.005 * truth.expected_bytes.sum(axis=(0, 2))).all()
    assert (foreseen > 0.8 * truth.expected_bytes.sum(axis=(0, 2))).all()
    every_day = sum((data.world.truth(day).streams * data.catalogue.size).sum(axis=1) for day in data.world.days[4:])
    assert (truth.expected_bytes.sum(axis=0) < every_day).all()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40), capacity=st.integers(0, 300), seed=st.integers(0, 99)
)
def test_a_cache_is_filled_in_order_and_what_does_not_fit_is_passed_over(
    sizes: list[int], capacity: int, seed: int
) -> None:
    size = np.array(sizes, np.int64)
    order = np.random.default_rng(seed).permutation(size.size)
    left, expected = capacity, np.zeros(size.size, bool)
    for file in order.tolist():
        if size[file] <= left:
            expected[file] = True
            left -= int(size[file])
    assert np.array_equal(rolling.place(order, size, capacity), expected)


def test_hits_are_those_of_the_files_placed() -> None:
    """Two files, one of which fits; counted by hand."""
    catalogue = movielens_like(2, size=(10, 30))
    views = Views(
        ("all",), 0, 2, np.array([0, 1, 2, 2], np.int32), np.zeros(4, np.int32), np.array([0, 0, 0, 1], np.int32),
        np.array([10, 10, 5, 60], np.int64), np.array([1, 1, 1, 2], np.int64),
    )  # fmt: skip
    small = rolling.Dataset("two", "two", catalogue, views, 1, 2, (0.25, 1.0))
    course = rolling.roll(Decay(catalogue, views.regions, math.inf), small)
    assert course.hit_bytes[:, :, 0].tolist() == [[10, 10], [5, 65]]
    assert course.hit_requests[:, :, 0].tolist() == [[1, 1], [1, 3]]
    all_bytes, all_requests = rolling.totals(small)
    assert all_bytes.tolist() == [[10], [65]]
    assert all_requests.tolist() == [[1], [3]]


def movielens_like(files: int, size: tuple[int, ...] | None = None) -> Catalogue:
    names = tuple(f"film {number}" for number in range(files))
    none, ones = np.zeros(files, np.int32), np.ones(files, np.int64)
    return Catalogue(
        names, ("drama",), ("film",), none, none, np.full(files, np.nan), names, np.arange(files, dtype=np.int32), none,
        np.array(size, np.int64) if size else ones,
    )  # fmt: skip


def stream(files: int, asked: list[int]) -> tuple[rolling.Dataset, rolling.Requests]:
    """A day of requests, in their order, of files of one size; caches of a tenth and of half of them."""
    file = np.array(asked, np.int64)
    requests = rolling.Requests(file, np.zeros(file.size, np.int32), np.ones(file.size))
    counts = np.bincount(file, minlength=files)
    seen = np.flatnonzero(counts).astype(np.int32)
    zeros = np.zeros(seen.size, np.int32)
    views = Views(("all",), 0, 0, zeros, zeros, seen, counts[seen].astype(np.int64), counts[seen].astype(np.int64))
    return rolling.Dataset("s", "s", movielens_like(files), views, 0, 0, (0.1, 0.5), 0, requests), requests


@pytest.mark.parametrize("policy", ["LRU", "Belady"])
def test_a_policy_of_the_library_is_what_its_name_says(policy: str) -> None:
    asked = np.random.default_rng(1).zipf(1.3, 3_000) % 40
    data, requests = stream(40, asked.tolist())
    course = policies.run_policy(policy, requests, data, 0)
    assert course is not None
    following = policies.next_requests(requests.file).tolist()
    for share, capacity in enumerate((4, 20)):
        held: dict[int, int] = {}
        hits = 0
        for at, file in enumerate(asked.tolist()):
            hits += file in held
            if file not in held and len(held) == capacity:
                del held[min(held, key=held.__getitem__) if policy == "LRU" else max(held, key=held.__getitem__)]
            held[file] = at if policy == "LRU" else following[at]
        assert course.hit_requests[0, share, 0] == pytest.approx(hits, rel=0.01)


@pytest.mark.parametrize("policy", [name for name in policies.POLICIES if name != policies.SEES_THE_FUTURE])
def test_a_cache_that_is_too_small_for_a_policy_costs_no_other(policy: str) -> None:
    """Of one file, for which S3-FIFO and W-TinyLFU of the library are not made; and of half of them."""
    asked = np.random.default_rng(1).zipf(1.3, 2_000) % 40
    data, requests = stream(40, asked.tolist())
    course = policies.run_policy(policy, requests, replace(data, shares=(0.025, 0.5)), 0)
    assert course is not None
    assert course.hit_requests[0, 0, 0] < course.hit_requests[0, 1, 0]
    assert course.hit_requests[0, 1, 0] > 0.6 * requests.file.size


def test_a_process_that_ends_early_is_followed_by_another(tmp_path: Path) -> None:
    requests = stream(10, [1, 2, 1, 3])[1]
    np.savez(
        tmp_path / "requests.npz", object=requests.file, size=np.ones(4, np.int64),
        following=policies.next_requests(requests.file), capacity=[3, -1, 5], unit=[1, 1, 1], window=[0.5] * 3,
    )  # fmt: skip
    np.save(tmp_path / "0.npy", np.packbits([0, 0, 1, 0]))
    policies._run_children("no such policy", tmp_path, 3)
    assert [np.load(tmp_path / f"{number}.npy").size for number in range(3)] == [1, 0, 0]


def test_bounds_hold_the_difference_and_narrow_with_days() -> None:
    random = np.random.default_rng(4)

    def bounds(days: int) -> tuple[float, float, float]:
        asked = np.full(days, 100.0)
        one = random.binomial(100, 0.5, days).astype(float)
        other = random.binomial(100, 0.4, days).astype(float)
        found = intervals.paired(one, other, asked, 1)
        assert found[0] == pytest.approx((one - other).sum() / asked.sum())
        return found

    long, short = ([bounds(days) for _ in range(40)] for days in (400, 60))
    # 95% of them would hold it; of 40, fewer than 33 do in one of a thousand draws of the test.
    assert sum(low < 0.1 < high for _, low, high in long) >= 33
    width = [np.mean([high - low for _, low, high in found]) for found in (long, short)]
    assert width[0] == pytest.approx(width[1] * np.sqrt(60 / 400), rel=0.15)
    same = np.arange(30.0)
    assert intervals.paired(same, same, np.full(30, 50.0), 1) == (0.0, 0.0, 0.0)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Of the form of RecBole's, with four ratings."""
    path = tmp_path / "recbole.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{movielens.WITHIN}.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            "7\t9\t3\t86500\n8\t5\t4\t86400\n7\t5\t1\t172900\n8\t5\t1\t86401\n",
        )
        archive.writestr(
            f"{movielens.WITHIN}.item",
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
            '5\tA "film\t1995\tDrama Comedy\n9\tB\t\tComedy\n',
        )
        archive.writestr(
            f"{movielens.WITHIN}.user",
            "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n7\t2\tM\tx\t94043\n8\t2\tF\tx\tV5A\n",
        )
    return path


def test_movielens_is_read_out_of_the_wheel(wheel: Path) -> None:
    whole = movielens.read_movielens(wheel, by_region=False)
    assert whole.views.regions == ("all",)
    assert (whole.views.first_day, whole.views.last_day, whole.scored_from) == (1, 2, 61)
    assert whole.views.day.tolist() == [1, 1, 2]
    assert whole.views.file.tolist() == [0, 1, 0]
    assert whole.views.requests.tolist() == [2, 1, 1]
    assert whole.requests is not None
    assert whole.requests.file.tolist() == [0, 0, 1, 0], "in the order of time"
    assert whole.catalogue.genres == ("Comedy", "Drama")
    assert whole.catalogue.released.tolist() == [9131, 7305]
    regional = movielens.read_movielens(wheel, by_region=True)
    assert [regional.views.regions[place] for place in regional.views.region.tolist()] == [
        "zip 9",
        "elsewhere",
        "zip 9",
    ]


def test_a_wheel_without_movielens_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other", "")
    assert command.main(["--only", "movielens", "--movielens", str(tmp_path / "other.whl")]) == 2
    assert "no MovieLens" in capsys.readouterr().err


def made_lists(path: Path, weeks: int = 12) -> Path:
    """Lists of two countries: each week one title enters at the top of both, and the lowest leaves."""
    lines = ["\t".join(("country_name", *netflix.COLUMNS, "cumulative_weeks_in_top_10"))]
    for week in range(weeks):
        date = str(np.datetime64("2024-01-07") + 7 * week)
        for country in ("AT", "NZ"):
            for rank in range(1, 11):
                title = f"film {week + 10 - rank}"
                lines.append("\t".join(("x", country, date, "Films", str(rank), title, "N/A", "1")))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_netflix_lists_are_read_and_forecast(tmp_path: Path) -> None:
    (films,) = netflix.read_netflix(made_lists(tmp_path / "lists.tsv"))
    assert films.countries == ("AT", "NZ")
    assert films.week.size == 240
    found = netflix.recall(films, 1)
    assert (found.weeks, found.countries) == (4, 2)
    # Nine of ten stay; the tenth is new everywhere, and nobody can name it.
    assert found.persistence == pytest.approx(0.9)
    assert found.planner == pytest.approx(0.9)
    assert found.never_seen == 1.0


def test_netflix_forecasts_see_no_list_of_the_week_itself(tmp_path: Path) -> None:
    (films,) = netflix.read_netflix(made_lists(tmp_path / "lists.tsv"))
    week = int(films.week.max())
    catalogue, views = netflix.tables_of(films, week)
    assert catalogue.released.max() < week
    assert views.last_day == week - 1
    earlier = films.week < week
    cut = {name: getattr(films, name)[earlier] for name in ("week", "country", "title", "rank")}
    assert netflix.planned(films, week) == netflix.planned(replace(films, **cut), week)
    assert netflix.persistence(films, week) == netflix.persistence(replace(films, **cut), week)


def test_a_table_that_is_not_netflixs_is_said(tmp_path: Path) -> None:
    (tmp_path / "other.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(movielens.NoData, match="country_iso2"):
        netflix.read_netflix(tmp_path / "other.tsv")


def test_a_report_comes_back_from_json_and_says_what_was_missed(data: rolling.Dataset, tmp_path: Path) -> None:
    section = command.evaluate(replace(data, key="hard", shares=(0.05, 0.3)), False, 1, lambda text: None)
    made = report.Report(
        command.describe_machine(tmp_path), "abc", {"numpy": "2"}, 1, 1.5, 0.5, [section],
        [Recall("Films", 4, 2, 0.9, 0.5, (-0.4, -0.5, -0.3), 1.0)],
    )  # fmt: skip
    again = report.decode_report(report.encode_report(made))
    assert report.encode_report(again) == report.encode_report(made)
    assert report.page(again) == report.page(made)
    missed = [one.what for one in verdict.judge(again) if not one.reached]
    assert "Netflix, Films: recall at 20" in missed
    assert section.planner.figures[0].ratio is not None
    assert section.planner.figures[0].more is None


def test_the_committed_page_is_made_of_the_committed_figures() -> None:
    made = report.decode_report((REPORT / "planner.json").read_bytes())
    assert (REPORT / "README.md").read_text() == report.page(made)
    assert {section.key for section in made.sections} == set(command.KEYS)
    assert made.commit
    for section in made.sections:
        assert section.days >= 40
        for one in section.contestants:
            assert one.figures, f"{one.name} on {section.name}"
            for figure in one.figures:
                if figure.more is not None:
                    more, low, high = figure.more
                    assert low <= more <= high
                    assert section.planner.figures[one.figures.index(figure)].hit - figure.hit == pytest.approx(
                        more, abs=3e-5
                    )
