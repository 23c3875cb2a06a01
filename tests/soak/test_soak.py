"""A soak of a minute, what is flat, and the committed report of a longer one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.soak.flatness import FLOORS, judge, theil_sen
from bench.soak.fleet import run_soak
from bench.soak.page import page
from bench.soak.records import Course, Sample, decode, encode
from bench.swarm.processes import RunFailed


@pytest.mark.process
async def test_a_minute_of_titles_and_links_that_come_and_go_leaves_nothing_behind(tmp_path: Path) -> None:
    report = await run_soak(tmp_path, links=24, titles=24, minutes=0.8, every_s=1.0, seed=1)
    happened = report.happened
    assert happened.ordered == 24
    assert not happened.stuck
    assert (happened.wrong, happened.wrong_chunks) == (0, 0)
    assert happened.live >= 20
    assert happened.withdrawn
    assert happened.evicted
    assert happened.renewals
    assert happened.links > 2 * 24, "links have come back"
    assert happened.served_chunks
    assert happened.fetched_chunks
    # Not the entries of all containers: those of the last 64 fills are kept, which a minute does not fill.
    growing = [one for one in report.judged if not one.is_flat]
    assert [one for one in growing if one.what not in ("entries", "objects")] == []
    assert page(decode(encode(report))) == page(report)
    assert {(one.process, one.what) for one in report.judged} >= {
        (process, what) for process in ("node", "tracker") for what in ("rss_bytes", "descriptors", "tasks", "threads")
    }


async def test_too_few_descriptors_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.soak.fleet.descriptors_max", lambda: 1024)
    with pytest.raises(RunFailed, match=r"500 links need 2756 descriptors, and there are 1024: see `ulimit -n`"):
        await run_soak(tmp_path, links=500, titles=1, minutes=0.1, every_s=1.0, seed=1)


# ---- what is flat


def course(growth: float, noise: float = 0.0, outliers: int = 0) -> Course:
    """Return samples of an hour in which tasks grow by `growth` in the second half, from 1,000 on."""
    chance = random.Random(1)
    samples = []
    for number in range(121):
        tasks = 1000 + growth * max(0, number - 60) / 60 + chance.uniform(-noise, noise)
        if number > 60 and number % 6 == 0 and outliers:
            tasks, outliers = tasks + 5000, outliers - 1
        samples.append(Sample(30.0 * number, 50 << 20, 100, 50, 10, int(tasks), 10_000, 1000))
    return Course(samples)


def verdict(course: Course) -> tuple[float, bool]:
    """Return growth of tasks, and whether that counts as none."""
    (one,) = (one for one in judge("node", course) if one.what == "tasks")
    assert one.bound == max(FLOORS["tasks"], 0.05 * one.median)
    return one.growth, one.is_flat


def test_a_slow_leak_is_told_from_noise_and_from_bursts() -> None:
    assert verdict(course(0))[1]
    assert verdict(course(0, noise=100, outliers=8))[1]
    growth, is_flat = verdict(course(100, noise=50, outliers=8))
    assert 80 < growth < 120
    assert not is_flat
    assert verdict(course(-500))[1], "what shrinks is flat"


def test_the_slope_is_the_median_of_all_pairs() -> None:
    assert theil_sen([(0, 0), (1, 2), (2, 4), (3, 6), (4, 1000)]) == 2


def test_a_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="are needed"):
        judge("node", Course(course(0).samples[:10]))


def test_the_committed_report_is_what_its_page_says_and_all_of_it_is_flat() -> None:
    directory = Path(__file__).parents[2] / "docs" / "reports" / "soak"
    report = decode((directory / "soak.json").read_bytes())
    assert page(report) == (directory / "README.md").read_text()
    assert [one for one in report.judged if not one.is_flat] == []
    assert report.happened.wrong == report.happened.wrong_chunks == 0
