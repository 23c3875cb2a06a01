"""Sizes, rates and limits as people write them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.errors import ConfigError
from p2pfill.model.quantities import parse_bytes, parse_rate
from p2pfill.model.rates import NO_LIMITS, RateLimits, Rates, read_limits


@pytest.mark.parametrize(
    ("typed", "rate"),
    [("150M", 150 << 20), ("20MiB/s", 20 << 20), ("20MB", 20_000_000), ("1.2Gbit", 150_000_000),
     ("300 Mbps", 37_500_000), ("8000bit/s", 1000), ("max", 0), ("500000", 500_000), (" 1K ", 1024),
     ("300MBps", 300_000_000), ("2KiBps", 2048)],
)  # fmt: skip
def test_a_rate_is_read(typed: str, rate: int) -> None:
    assert parse_rate(typed) == rate


@pytest.mark.parametrize("typed", ["", "fast", "-1M", "0", "1 bit", "5X", "9" * 18 + "T", "1e9", "nan", "M"])
def test_what_is_no_rate_is_refused(typed: str) -> None:
    with pytest.raises(ConfigError):
        parse_rate(typed)


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_refused(typed: str) -> None:
    for parse in (parse_bytes, parse_rate):
        with suppress(ConfigError):
            assert 0 <= parse(typed) <= 1 << 62


def test_limits_are_read_from_a_text_or_a_table() -> None:
    assert read_limits("1M", "rates") == RateLimits(inbound=Rates(total=1 << 20))
    table = {"inbound": {"total": "8Mbit", "origin": "4Mbit"}, "outbound": "max"}
    assert read_limits(table, "rates") == RateLimits(inbound=Rates(total=1_000_000, origin=500_000))


@pytest.mark.parametrize(
    ("value", "place"),
    [({"inbund": "1M"}, "rates.inbund"), ({"inbound": {"far": "1M"}}, "rates.inbound.far"),
     ({"inbound": {"peer": "quick"}}, "rates.inbound.peer"), ({"outbound": {"origin": "1M"}}, "rates.outbound.origin"),
     (True, "rates"), (1.5, "rates"), ({"outbound": []}, "rates.outbound")],
)  # fmt: skip
def test_an_error_names_its_place(value: Any, place: str) -> None:
    with pytest.raises(ConfigError, match=f"^{place}: "):
        read_limits(value, "rates")


def test_the_tighter_limit_holds() -> None:
    one = RateLimits(Rates(total=10, peer=0, origin=3), Rates(total=5))
    other = RateLimits(Rates(total=20, peer=7, origin=2))
    assert one.within(other) == RateLimits(Rates(total=10, peer=7, origin=2), Rates(total=5))
    assert NO_LIMITS.within(one) == one
