"""Data streams keep to a limit: a short measurement, and the committed report."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench import rates
from tests.measure import acheck_at_most

REPORT = Path(__file__).parents[2] / "docs" / "reports" / "rates"


@pytest.mark.alone
@pytest.mark.parametrize("direction", rates.DIRECTIONS)
@pytest.mark.parametrize("streams", [1, 16])
async def test_a_limit_holds_and_a_change_within_a_second(direction: rates.Direction, streams: int) -> None:
    async def off(number: int) -> float:
        point = await rates.measure(direction, streams, 20_000_000, 3.0)
        return max(abs(point.off), abs(point.changed_off))

    await acheck_at_most(rates.OFF_MAX, off)


def test_the_report_holds_what_is_promised() -> None:
    report = msgspec.json.decode((REPORT / "rates.json").read_bytes(), type=rates.Report)
    assert report.seconds >= 10
    assert {(point.direction, point.streams) for point in report.points} == {
        (direction, streams) for direction in rates.DIRECTIONS for streams in (1, 4, 16)
    }
    for point in report.points:
        assert max(abs(point.off), abs(point.changed_off)) <= rates.OFF_MAX, point
    assert (REPORT / "README.md").read_text() == rates.page(report)
