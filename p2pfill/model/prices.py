"""What origins cost: money for each gigabyte and for each thousand requests, by the beginning of an origin's URL. Pure.

Where no price is known no money is shown, and for choices the origin counts as free: it is one's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.origins import OriginReport

PRICES_MAX: Final = 1000
"""More than any fleet has contracts."""

PRICE_MAX: Final = 1e9

REQUESTS_PER_GB: Final = 250
"""What a gigabyte takes where chunks have 4 MiB: for the comparison of origins, which has no counts to go by."""

_BEGINNINGS: Final = ("http:", "https:", "s3:", "file:", "/")
"""Of origins, as orders name them. Another prefix fits none, and budgets of money would count nothing by it."""

_GB: Final = 1e9
"""As those count who send the bills."""


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The price of the origins whose URLs begin with `prefix`."""

    prefix: str
    per_gb: float = 0.0
    per_1000_requests: float = 0.0

    def fits(self, url: str) -> bool:
        """Tell whether it is the price of an origin."""
        # Not that of a host whose name merely begins with that of another.
        return url.startswith(self.prefix) and (
            self.prefix.endswith("/") or url[len(self.prefix) :][:1] in ("", "/", "?")
        )

    @property
    def cost(self) -> float:
        """Money for a gigabyte, with the requests that it takes."""
        return self.per_gb + self.per_1000_requests * REQUESTS_PER_GB / 1000


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list of prices, in one currency."""

    currency: str = ""
    """As it is to be shown."""
    price: list[Price] = []

    def of(self, url: str) -> Price | None:
        """Return the price of an origin: the one with the longest prefix; None where none is known."""
        return max((one for one in self.price if one.fits(url)), key=lambda one: len(one.prefix), default=None)

    def money(self, counts: OriginReport) -> float | None:
        """Return what an origin has cost; None where its price is not known."""
        price = self.of(counts.id)
        if price is None:
            return None
        sent = counts.bytes_kept + counts.bytes_wasted
        return price.per_gb * sent / _GB + price.per_1000_requests * counts.requests / 1000

    def costs(self, urls: Iterable[str]) -> dict[str, float]:
        """Return what a gigabyte costs at those of some origins whose price is known."""
        found = {url: self.of(url) for url in urls}
        return {url: price.cost for url, price in found.items() if price is not None}


NO_PRICES: Final = Prices()


def check_prices(prices: Prices) -> Prices:
    """Return `prices`. Raises `ConfigError` where they make no sense."""
    if len(prices.price) > PRICES_MAX or len(prices.currency) > 8:
        raise ConfigError(f"prices: at most {PRICES_MAX} of them, and 8 characters for the currency")
    for one in prices.price:
        if not one.prefix:
            raise ConfigError("prices: each needs the prefix of the URLs that it is for")
        if not one.prefix.lower().startswith(_BEGINNINGS):
            raise ConfigError(
                f"prices: no URL of an origin begins with {one.prefix[:80]!r}: write it as in https://cdn.example/"
            )
        if not (0 <= one.per_gb <= PRICE_MAX and 0 <= one.per_1000_requests <= PRICE_MAX):
            raise ConfigError(f"prices: those of {one.prefix[:80]} are not between 0 and {PRICE_MAX:g}")
    return prices
