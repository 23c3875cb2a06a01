"""What counts against a budget of the fleet's policy, and how much. Pure.

A budget is of bytes or of money, from origins or from caches beyond the ISP. What those give is counted under one name,
as though they were an origin (`REGIONAL`), so that all that holds for origins holds for them.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from math import ceil
from typing import Final

import msgspec

from p2pfill.model.origins import OriginReport
from p2pfill.model.prices import REQUESTS_PER_GB, Price, Prices, with_plain_host
from p2pfill.model.selector import matches_glob

REGIONAL: Final = "regional"
"""The name under which is counted what caches of other ISPs and regions give. No origin has it: those begin with a
scheme, or with a slash."""

MILLIONTHS: Final = 1_000_000
"""Of money, in whole ones of which it is counted: what is counted must add up to the same for node and tracker."""

KEPT: Final = 1024
"""Keys and prices that are kept: of a policy's rules, and of the origins of a node."""


class BudgetTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What counts against one budget."""

    origins: str
    """A glob over the URLs of origins without their queries, or `REGIONAL`."""
    prices: tuple[Price, ...] = ()
    """Where it is of money; an origin without a price costs nothing."""

    def __hash__(self) -> int:
        # Of a thousand prices it would take longer than all that is looked up by it.
        return hash((self.origins, len(self.prices), self.prices[:1]))

    @property
    def key(self) -> str:
        """What tells them from others of the same budget, as of an earlier policy."""
        return _key_of(self)

    def fits(self, origin: str) -> bool:
        """Tell whether an origin, by its URL without a query, is one of those."""
        if origin == REGIONAL or self.origins == REGIONAL:
            return origin == self.origins
        # After a star it is not known what is of the host: that fits as it is written.
        return matches_glob(self.origins, origin) or matches_glob(
            with_plain_host(self.origins), with_plain_host(origin)
        )

    def price(self, origin: str) -> Price | None:
        """Return the price of an origin; None where it has none, or the budget is of bytes."""
        return _price_of(self, origin) if self.prices else None

    def amount(self, counts: OriginReport) -> int:
        """Return what an origin has taken of the budget: bytes, or millionths of money, rounded up."""
        sent = counts.bytes_kept + counts.bytes_wasted
        if not self.prices:
            return sent
        price = self.price(counts.id)
        return 0 if price is None else _money(price, sent, counts.requests)

    def most(self, count: int) -> int:
        """Return what so many bytes take at most, with the requests that they take as a rule."""
        if not self.prices:
            return count
        dearest = max(self.prices, key=lambda price: price.cost)
        return max(1, _money(dearest, count, ceil(count * REQUESTS_PER_GB / 1e9)))


def terms_of(origins: str, prices: Prices) -> BudgetTerms:
    """Return the terms of a budget of money: with the prices that an origin of it can have."""
    head = with_plain_host(origins.partition("*")[0])
    prefixes = [(with_plain_host(one.prefix), one) for one in prices.price]
    found = [one for prefix, one in prefixes if prefix.startswith(head) or head.startswith(prefix)]
    return BudgetTerms(origins, tuple(found) or (Price(origins),))


def _money(price: Price, count: int, requests: int) -> int:
    gigabytes, thousands = count / 1e9, requests / 1000
    # What a float is off by is no millionth more.
    return ceil(round(MILLIONTHS * (price.per_gb * gigabytes + price.per_1000_requests * thousands), 3))


@lru_cache(maxsize=KEPT)
def _key_of(terms: BudgetTerms) -> str:
    if not terms.prices:
        return terms.origins
    return f"{terms.origins} {hashlib.blake2b(msgspec.msgpack.encode(terms.prices), digest_size=8).hexdigest()}"


@lru_cache(maxsize=KEPT)
def _price_of(terms: BudgetTerms, origin: str) -> Price | None:
    return Prices(price=list(terms.prices)).of(origin)
