"""What origins cost."""

from __future__ import annotations

import pytest

from p2pfill.errors import ConfigError
from p2pfill.model.origins import OriginReport
from p2pfill.model.prices import Price, Prices, check_prices

PRICES = Prices(
    "EUR",
    [
        Price("https://cdn.example", per_gb=0.02, per_1000_requests=0.4),
        Price("https://cdn.example/cold/", per_gb=0.09),
        Price("s3://films", per_gb=0.05, per_1000_requests=0.004),
    ],
)


@pytest.mark.parametrize(
    ("url", "per_gb"),
    [
        ("https://cdn.example", 0.02),
        ("https://cdn.example/films", 0.02),
        ("https://cdn.example/cold/a", 0.09),
        ("https://cdn.example/colder", 0.02),
        ("https://cdn.example.attacker.net/films", None),
        ("s3://films?region=eu-central-1", 0.05),
        ("s3://films-2/x", None),
        ("/srv/films", None),
    ],
)
def test_the_longest_prefix_counts(url: str, per_gb: float | None) -> None:
    price = PRICES.of(url)
    assert (price and price.per_gb) == per_gb


def test_money_is_for_all_bytes_that_were_sent_and_for_requests() -> None:
    counts = OriginReport("https://cdn.example/a", requests=5000, bytes_kept=3 * 10**9, bytes_wasted=10**9)
    assert PRICES.money(counts) == pytest.approx(4 * 0.02 + 5 * 0.4)
    assert PRICES.money(OriginReport("http://elsewhere/", requests=5)) is None


def test_what_a_gigabyte_costs_is_told_where_it_is_known() -> None:
    costs = PRICES.costs(["https://cdn.example/a", "s3://films/b", "/srv/films"])
    assert costs == {"https://cdn.example/a": pytest.approx(0.12), "s3://films/b": pytest.approx(0.051)}


@pytest.mark.parametrize(
    "wrong",
    [
        Prices("a currency", []),
        Prices("EUR", [Price("")]),
        Prices("EUR", [Price("cdn.example/", per_gb=0.02)]),
        Prices("EUR", [Price("http://a/", per_gb=-1.0)]),
        Prices("EUR", [Price("http://a/", per_gb=float("nan"))]),
        Prices("EUR", [Price("http://a/", per_1000_requests=1e10)]),
    ],
)
def test_prices_that_make_no_sense_are_refused(wrong: Prices) -> None:
    with pytest.raises(ConfigError, match="prices"):
        check_prices(wrong)
