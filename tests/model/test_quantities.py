"""Sizes and rates: what is spelled is exact, short, and read as the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.quantities import parse_bytes, parse_rate, spell_bytes, spell_rate


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (400, "400 B"), (20_000_000, "20 MB"), (1_500_000, "1.5 MB"), (2 * 10**12, "2 TB"),
        (150 << 20, "150 MiB"), (400 << 20, "400 MiB"), (6 << 40, "6 TiB"), (1_001, "1001 B"),
    ],
)  # fmt: skip
def test_a_size_is_spelled_as_people_type_it(count: int, text: str) -> None:
    assert spell_bytes(count) == text
    assert spell_rate(count) == f"{text}/s"


ROUND = st.builds(lambda count, unit: count * unit, st.integers(1, 9999), st.sampled_from([10**6, 10**9, 1 << 20]))


@given(st.integers(1, 1 << 50) | ROUND)
def test_what_is_spelled_is_read_as_the_same(count: int) -> None:
    assert parse_bytes(spell_bytes(count)) == count
    assert parse_rate(spell_rate(count)) == count


def test_a_part_of_a_unit_loses_no_byte() -> None:
    assert parse_bytes("1.001KB") == 1001
    assert parse_rate("4.019 MB/s") == 4_019_000
