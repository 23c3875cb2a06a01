"""The lab of a planned night: who is asked for what, what crossed which border, and both sides as real processes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.planner import lab, lab_report, viewing
from bench.planner.lab_report import Border, Run
from bench.planner.sides import BLOCK_BYTES, PullThrough, start_origin, start_planned, watch
from bench.planner.viewing import FILL, HOURS, Log, Requests
from p2pfill.bench.measure import BenchFailed, describe_machine
from p2pfill.cli.demo_world import demo_caches, made_smaller, with_names, write_log
from p2pfill.plan.placement.reactive import Lru
from p2pfill.plan.synthetic import WorldSettings, make_world

REPORT = Path(__file__).parents[2] / "docs" / "reports" / "planner"
HOUR_S = viewing.HOUR_S


def log_of(rows: list[tuple[int, int, int, int]]) -> Log:
    return Log(*np.array(sorted(rows, key=lambda row: row[0]), np.int64).reshape(-1, 4).T)


# ---- who asks for what


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(st.integers(0, 10**6), st.just(0), st.integers(0, 3), st.integers(1, 5000)), max_size=30),
    seed=st.integers(0, 10**6),
)
def test_a_row_is_as_many_files_as_its_bytes_rounded_up_or_down(
    rows: list[tuple[int, int, int, int]], seed: int
) -> None:
    size, log = np.array([7, 100, 999, 5000]), log_of(rows)
    requests = viewing.whole_requests(log, size, seed)
    again = viewing.whole_requests(log, size, seed)
    assert np.array_equal(requests.file, again.file)
    assert (np.diff(requests.hour) >= 0).all()
    for file in range(4):
        streams = log.bytes[log.file == file] / size[file]
        assert np.floor(streams).sum() <= (requests.file == file).sum() <= np.ceil(streams).sum()


def test_on_average_as_many_bytes_are_asked_for_as_the_log_has() -> None:
    size, log = np.array([1000]), log_of([(hour * HOUR_S, 0, 0, 630) for hour in range(400)])
    counts = [viewing.whole_requests(log, size, seed).file.size for seed in range(50)]
    # 20,000 draws: five standard deviations of their mean are 0.017.
    assert np.mean(counts) / 400 == pytest.approx(0.63, abs=0.017)


def test_the_peak_is_in_the_hours_of_most_bytes() -> None:
    rows = [(hour * HOUR_S + 59, 0, 0, 100 + hour) for hour in range(48)] + [(3 * HOUR_S, 0, 0, 5000)]
    assert viewing.peak_hours(log_of(rows)) == [3, 21, 22, 23]
    assert viewing.peak_hours(log_of([]), 2) == [0, 1]


def test_logs_are_read_as_they_are_written_and_each_view_is_a_row(tmp_path: Path) -> None:
    world = made_smaller(with_names(make_world(WorldSettings(titles=10, days=2, views_a_day=300.0), 2)), 5000)
    caches, day = demo_caches(1), world.views.first_day
    write_log(tmp_path / "log.csv", world, caches, day, lab.EACH_VIEW)
    log = viewing.read_logs([tmp_path / "log.csv"], world.catalogue.files, world.views.regions)
    rows = world.views.day == day
    assert log.file.size == world.views.requests[rows].sum()
    assert (np.diff(log.at_s) >= 0).all()
    for region in range(3):
        of = rows & (world.views.region == region)
        seen = np.bincount(log.of(region).file, log.of(region).bytes, len(world.catalogue.files))
        assert np.array_equal(
            seen, np.bincount(world.views.file[of], world.views.bytes[of], len(world.catalogue.files))
        )


# ---- what crossed


def test_what_crossed_is_of_one_day_and_by_border_and_hour() -> None:
    lines = [
        "lru-a\t7\t3\t200\t100\t/f\n", "lru-a\t7\t3\t200\t20\t/f\n", "lru-a\t6\t3\t200\t7\t/f\n",
        "planned-a\t7\t23\t206\t5\t/g\n", "-\t-\t-\t206\t11\t/fill/g\n", "-\t-\t-\t206\t2\t/fill/g\n",
    ]  # fmt: skip
    crossed = viewing.read_crossed(lines, 7)
    assert set(crossed) == {"lru-a", "planned-a", FILL}
    assert (crossed["lru-a"].bytes[3], crossed["lru-a"].requests[3]) == (120, 2)
    assert (sum(crossed["lru-a"].bytes), sum(crossed["planned-a"].bytes)) == (120, 5)
    assert crossed["planned-a"].bytes[23] == 5
    assert sum(crossed[FILL].bytes) == 13
    with pytest.raises(ValueError, match="404"):
        viewing.read_crossed(["lru-a\t7\t3\t404\t100\t/f\n"], 7)


def border(isp: str, lru: int, planned: int, fill: int = 0) -> Border:
    """Return a border over which so many bytes come in each hour; the peak is in two of them."""
    asked, by_plan, by_lru = ([each] * HOURS for each in (100, planned, lru))
    return Border(isp, [4, 5], asked, by_plan, by_lru, HOURS, 1, 2, 24 * lru, 24 * planned, fill, 0, 0, fill)


def run(*borders: Border, seed: int = 1) -> Run:
    used = (1.0, 2.0)
    return Run("base", seed, 3, 1000, 200, [4], list(borders), 1, 1, 0.5, used, used, used, used)


def report(*runs: Run) -> lab_report.Report:
    return lab_report.Report(describe_machine(Path()), "", "1.22.1", 60, 7, 4000.0, 0.1, list(runs))


def test_a_factor_is_lru_over_plan_and_the_origin_is_all_borders() -> None:
    one = run(border("a", 60, 20, fill=48), border("b", 30, 10))
    assert lab_report.peak_factor(one.borders[0]) == 3.0
    assert lab_report.total_factor(one.borders[0]) == pytest.approx(24 * 60 / (24 * 20 + 48))
    assert one.origin.at_peak(one.origin.lru) == 90, "its peak has one hour"
    assert lab_report.peak_factor(one.origin) == 3.0
    assert lab_report.peak_factor(border("c", 60, 0)) == float("inf")


def test_who_saves_nothing_is_named_by_the_median_of_the_seeds() -> None:
    good, bad = border("a", 30, 20), border("a", 20, 21)
    assert lab_report.not_fewer(report(run(good), run(bad), run(good))) == []
    assert lab_report.not_fewer(report(run(good), run(bad), run(bad)))[0] == "a, grade base"


def test_more_bytes_in_all_are_told_of() -> None:
    said = lab_report.in_all([run(border("a", 30, 20, fill=100))])
    assert "fewer bytes in 24 h over every border by the medians; over 0 of 2 borders and seeds it moves more" in said
    said = lab_report.in_all([run(border("a", 30, 20, fill=300), border("b", 30, 20))])
    assert (
        "moves more bytes in 24 h than the LRU over a** by the medians; over 1 of 3 borders and seeds it moves more."
        in said
    )


def test_each_seed_that_saves_nothing_at_peak_is_told_of() -> None:
    good, bad = border("a", 30, 20), border("a", 20, 25)
    assert "with every seed" in lab_report.at_peak([run(good), run(good, seed=2)])
    said = lab_report.at_peak([run(good), run(good, seed=2), run(bad, seed=3)])
    assert "over a with seed 3 (0.80) and the origin with seed 3 (0.80)**, of 6 borders and seeds" in said


def test_a_report_is_data_and_a_page(tmp_path: Path) -> None:
    made = report(run(border("a", 30, 20, fill=500), border("b", 30, 20)), run(border("a", 24, 20), border("b", 1, 0)))
    lab_report.write_report(made, tmp_path)
    assert lab_report.decode_report((tmp_path / "lab.json").read_bytes()) == made
    page = (tmp_path / "lab.md").read_text()
    assert "## Grade base, 2 seeds" in page
    assert "| a | 1.35 (1.20 to 1.50) |" in page
    assert len(lab_report.terminal_tables(made)) == 5


def test_other_grades_stay_in_a_report_of_the_same_code(tmp_path: Path) -> None:
    def kept() -> list[tuple[str, int]]:
        return [(one.grade, one.seed) for one in lab_report.decode_report((tmp_path / "lab.json").read_bytes()).runs]

    base = report(run(border("a", 30, 20)), run(border("a", 30, 20), seed=2))
    hard = msgspec.structs.replace(base, runs=[msgspec.structs.replace(base.runs[0], grade="hard")])
    lab_report.write_report(hard, tmp_path)
    lab_report.write_report(base, tmp_path)
    assert kept() == [("base", 1), ("base", 2), ("hard", 1)]
    lab_report.write_report(msgspec.structs.replace(base, runs=base.runs[:1]), tmp_path)
    assert kept() == [("base", 1), ("hard", 1)]
    lab_report.write_report(msgspec.structs.replace(hard, commit="another"), tmp_path)
    assert kept() == [("hard", 1)]


def test_the_committed_report_is_what_it_says() -> None:
    made = lab_report.decode_report((REPORT / "lab.json").read_bytes())
    assert (REPORT / "lab.json").read_text() == lab_report.encode_report(made)
    assert (REPORT / "lab.md").read_text() == lab_report.page(made)
    for one in made.runs:
        for of in one.borders:
            assert sum(of.lru) <= sum(of.asked)
            assert of.fill >= of.fill_distinct


# ---- the command


def test_without_nginx_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lab, "find_program", lambda name: None)
    assert lab.main(["--seeds", "1"]) == 2
    assert "apt-get install nginx-light" in capsys.readouterr().err


def test_a_fault_of_one_isp_ends_it_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ExceptionGroup("viewers", [BenchFailed("the cache lru-a is full"), BenchFailed("so is lru-b")])

    monkeypatch.setattr(lab, "run", fail)
    assert lab.main([]) == 2
    assert capsys.readouterr().err == "bench.planner.lab: the cache lru-a is full\n"
    monkeypatch.setattr(lab, "run", lambda *_: [][1])
    with pytest.raises(IndexError):
        lab.main([])


def test_grades_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.parse_arguments(["--grade", "hard"]).grade == ["hard"]
    assert lab.parse_arguments([]).grade == ["base", "hard"]
    with pytest.raises(SystemExit):
        lab.parse_arguments(["--grade", "harder"])
    assert "--grade knows base, hard, and not harder" in capsys.readouterr().err


# ---- real servers


def draw(seed: int, count: int, files: int) -> Requests:
    chance = np.random.default_rng(seed)
    return Requests(np.sort(chance.integers(0, HOURS, count)), chance.zipf(1.3, count) % files)


@pytest.mark.process
@pytest.mark.nginx
def test_nginx_is_an_lru_and_a_planned_cache_passes_on_what_is_not_there(tmp_path: Path) -> None:
    lab.nginx_version()
    blocks = np.array([1, 2, 3, 5, 8, 13, 2, 4, 6, 9, 1, 7])
    # A block has room for what nginx keeps at the head of a file.
    size, names = blocks * BLOCK_BYTES - 2000, [f"title-{number % 4}/f{number}" for number in range(len(blocks))]
    for place in ("origin", "one/live", "two/live"):
        for number, name in enumerate(names):
            if place == "origin" or (number < 3 if place == "one/live" else 3 <= number < 6):
                path = tmp_path / place / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes(int(size[number])))
    requests, room = draw(5, 300, len(names)), 24
    with (
        start_origin(tmp_path / "nginx", tmp_path / "origin") as origin,
        PullThrough("lru-a", tmp_path / "lru", origin, room * BLOCK_BYTES) as cache,
        start_planned("planned-a", tmp_path / "planned", origin, [tmp_path / "one", tmp_path / "two"]) as front,
    ):
        watch(cache, requests, names, size)
        watch(front, requests, names, size)
        assert all(used >= 0.0 for used in cache.used_s())
    with (tmp_path / "nginx" / "access.log").open() as lines:
        crossed = viewing.read_crossed(lines, 0)
    # nginx keeps below its limit.
    exact = Lru(room - 1)
    missed = [not exact.ask(file, int(blocks[file])) for file in requests.file.tolist()]
    by_hour = viewing.asked(Requests(requests.hour[missed], requests.file[missed]), size)
    assert crossed["lru-a"] == by_hour
    lacking = requests.file >= 6
    assert crossed["planned-a"] == viewing.asked(Requests(requests.hour[lacking], requests.file[lacking]), size)
    assert 0 < sum(by_hour.requests) < requests.file.size


@pytest.mark.process
@pytest.mark.nginx
def test_a_night_is_planned_filled_and_watched_beside_lrus(tmp_path: Path) -> None:
    lab.nginx_version()
    said: list[str] = []
    tiny = lab.Settings("base", titles=12, days=3, views=400.0, file_bytes=60_000)
    made = trio.run(lab.measure, tmp_path, tiny, 1, said.append)
    assert len(made.borders) == 3
    for of in made.borders:
        assert sum(of.planned) == of.exact_plan, "the nodes have just what the plan says"
        assert sum(of.lru) == pytest.approx(of.exact_lru, rel=0.05)
        assert 0 < sum(of.planned) < sum(of.asked)
        assert 0 < of.planned_requests < of.asked_requests
        assert of.fill >= of.fill_distinct > 0
    assert made.origin.fill_origin == made.fill_logged >= made.fill_distinct
    assert min(*made.nodes_cpu_s, *made.plan_cpu_s) > 0.0
    assert len(said) == 2
