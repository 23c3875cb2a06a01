"""The works of the micro benchmarks take as many instructions as their baseline says, and a fault is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.micro import instructions
from bench.micro.works import WORKS

BASELINES = json.loads(instructions.BASELINE.read_text())


def baseline(**counts: int) -> dict[str, Any]:
    return {"libraries": instructions.libraries(), "counts": counts}


def test_no_work_takes_more_instructions_than_its_baseline() -> None:
    if why := instructions.lacking():
        pytest.skip(why)
    if (build := instructions.build_name()) not in BASELINES:
        pytest.skip(f"no baseline for {build}; to make one: python -m bench.micro.instructions --update")
    if (libraries := instructions.libraries()) != (held := BASELINES[build]["libraries"]):
        pytest.skip(f"the baseline was made with other libraries: {held}, and here are {libraries}")
    faults = instructions.compare(instructions.count_works(), BASELINES[build])
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("build", BASELINES)
def test_each_baseline_has_all_works_that_are_counted(build: str) -> None:
    counted = {work.name for work in WORKS.values() if work.times_counted}
    assert BASELINES[build]["counts"].keys() == counted
    assert BASELINES[build]["libraries"].keys() == instructions.libraries().keys()


def test_there_is_a_baseline_for_more_than_one_build() -> None:
    assert len(BASELINES) > 1


def test_what_is_slower_or_faster_by_more_than_the_tolerance_is_named() -> None:
    held = baseline(encode=1000, decode=1000, rank=1000)
    assert instructions.compare({"encode": 1050, "decode": 950, "rank": 1000}, held) == []
    assert instructions.compare({"encode": 1051, "decode": 949, "rank": 1000}, held) == [
        "decode: 949 instructions, -5.1% against 1,000",
        "encode: 1,051 instructions, +5.1% against 1,000",
    ]


def test_a_work_that_is_missing_on_one_side_is_named() -> None:
    found = instructions.compare({"encode": 1000}, baseline(decode=1000))
    assert found == ["decode: is no longer counted", "encode: is not in the baseline"]


def test_other_libraries_are_named_with_a_fault() -> None:
    held = baseline(encode=1000)
    held["libraries"]["msgspec"] = "0.1"
    assert instructions.compare({"encode": 1000}, held) == []
    assert instructions.compare({"encode": 2000}, held)[-1] == "the baseline was made with msgspec 0.1"
