"""What origins cost: money for each gigabyte and for each thousand requests, by the beginning of an origin's URL. Pure.

Where no price is known no money is shown, and for choices the origin counts as free: it is one's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
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


_HOST: Final = re.compile(r"https?://[^/?*]*", re.ASCII | re.IGNORECASE)

_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


@lru_cache(maxsize=4 * PRICES_MAX)
def with_plain_host(url: str) -> str:
    """Return a URL, or the beginning of one, with its host in small letters and without the port that goes without
    saying: all spellings lead to the same server. In a glob up to the first `*`, which may stand for some of a path."""
    found = _HOST.match(url)
    if found is None:
        return url
    head, rest = found[0].lower(), url[found.end() :]
    return (head if rest.startswith("*") else head.removesuffix(_DEFAULT_PORTS[head.partition(":")[0]])) + rest


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The price of the origins whose URLs begin with `prefix`."""

    prefix: str
    per_gb: float = 0.0
    per_1000_requests: float = 0.0

    def fits(self, url: str) -> bool:
        """Tell whether it is the price of an origin."""
        prefix, url = with_plain_host(self.prefix), with_plain_host(url)
        # Not that of a host whose name merely begins with that of another.
        return url.startswith(prefix) and (prefix.endswith("/") or url[len(prefix) :][:1] in ("", "/", "?"))

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
        return max(
            (one for one in self.price if one.fits(url)), key=lambda one: len(with_plain_host(one.prefix)), default=None
        )

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
