"""What this node has had of each origin since its process began, and what of that the tracker has yet to be told.

A heartbeat carries totals, of the origins that have news only. So one that is lost, or comes twice, changes nothing,
and a node that reads nothing says nothing. Totals begin at 0 with each start of the process, as the tracker's do with
each new start of a node: who wants to have them for good reads them in between.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from p2pfill.model.budgets import refusing, taken
from p2pfill.model.limits import ORIGINS_COUNTED_MAX, REASON_CHARS_MAX
from p2pfill.model.origins import OriginReport
from p2pfill.model.reports import Allowance, clipped
from p2pfill.model.terms import REGIONAL, BudgetTerms

OTHERS: Final = "others"
"""What is beyond the limit is counted under this name."""

TOGETHER_MAX: Final = 16
"""Of the names that are counted, those kept for what budgets hold together. Each title may have a URL of its own, so in
the end most of what comes is beyond the limit, and budgets must hold for that too."""


class OriginCounts:
    """The counts of one node. Thread-safe; its lock is held for a few operations in memory only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[str, OriginReport] = {}
        self._news: set[str] = set()
        self._on_its_way: set[str] = set()
        self._allowances: dict[str, Allowance] = {}
        self._budgets: Mapping[str, BudgetTerms] = {}
        """Those of the policy."""
        self._reading: dict[str, OriginReport] = {}
        """Origin -> what of it is on its way."""
        self._regional_from = 0
        """What had come of caches beyond the ISP when that was first counted."""

    # ---- what may come: budgets of the fleet's policy (`model.budgets`)

    def set_budgets(self, budgets: Mapping[str, BudgetTerms]) -> None:
        """Go by these budgets from now on, with no allowance of those that are new: orders can come before one does."""
        with self._lock:
            self._budgets = budgets

    def set_allowances(self, allowances: Iterable[Allowance]) -> None:
        """Go by what the tracker has said last; what is on its way already comes."""
        with self._lock:
            found = {}
            for one in allowances:
                terms = self._budgets.get(one.budget)
                least = 0 if terms is None or terms.key != one.terms else taken(terms, self._so_far())
                found[one.budget] = one if one.amount >= least else msgspec.structs.replace(one, amount=least)
            self._allowances = found

    def allowances(self) -> list[Allowance]:
        """Return those that this node goes by."""
        with self._lock:
            return list(self._allowances.values())

    def begin_read(self, name: str, length: int) -> str:
        """Let a chunk be read from an origin (`end_read`), or return the budget that has nothing left for it."""
        with self._lock:
            read = OriginReport(name, requests=1, bytes_kept=length)
            if budget := refusing(self._allowances, self._budgets, self._so_far(), read):
                return budget
            self._note_reading(name, 1, length)
        return ""

    def end_read(self, name: str, length: int) -> None:
        """Note that a read has ended; what has come of it was counted before."""
        with self._lock:
            self._note_reading(name, -1, -length)

    def _note_reading(self, name: str, requests: int, count: int) -> None:
        reading = self._reading.setdefault(name, OriginReport(name))
        reading.requests += requests
        reading.bytes_kept += count
        if not reading.requests:
            del self._reading[name]

    def _so_far(self) -> Iterator[OriginReport]:
        """Yield what has come, and what may be coming."""
        yield from self._totals.values()
        yield from self._reading.values()

    # ---- caches beyond the ISP, of which one budget may be

    def set_regional(self, came: int, coming: int) -> None:
        """Note how many bytes have come from them since the start, and how many were asked for besides."""
        with self._lock:
            if not any(terms.origins == REGIONAL for terms in self._budgets.values()):
                if (counted := self._totals.get(REGIONAL)) is not None:
                    self._regional_from = came - counted.bytes_kept  # nor what comes while there is none
                return
            if REGIONAL not in self._totals:
                self._regional_from = came  # what came before there was a budget is not its
            counts = self._totals.setdefault(REGIONAL, OriginReport(REGIONAL))
            if came - self._regional_from != counts.bytes_kept:
                counts.bytes_kept = came - self._regional_from
                self._news.add(REGIONAL)
            self._reading[REGIONAL] = OriginReport(REGIONAL, bytes_kept=coming)

    def regional_limit(self) -> tuple[int | None, str]:
        """Return up to how many bytes in all since the start may come from them, and the budget that says so; None:
        as many as there are."""
        with self._lock:
            limits = []
            for budget, terms in self._budgets.items():
                if terms.origins == REGIONAL:
                    allowance = self._allowances.get(budget)
                    is_known = allowance is not None and allowance.terms == terms.key
                    amount = allowance.amount if allowance is not None and is_known else 0
                    limits.append((self._regional_from + amount, budget))
            return min(limits, default=(None, ""))

    # ---- what has come

    def add(
        self, name: str, *, requests: int = 0, failed: int = 0, kept: int = 0, wasted: int = 0, given_up: int = 0
    ) -> None:
        """Count what a read has come to; `kept` and `wasted` are bytes."""
        if not (requests or failed or kept or wasted or given_up):
            return  # an origin that may not be read takes no place among those that are counted
        with self._lock:
            name = self._counted_as(name)
            one = self._totals.setdefault(name, OriginReport(name))
            one.requests += requests
            one.failed += failed
            one.bytes_kept += kept
            one.bytes_wasted += wasted
            one.given_up += given_up
            self._news.add(name)

    def _counted_as(self, name: str) -> str:
        """Return the name under which an origin is counted, which all the budgets fit that fit the origin's own."""
        told = clipped(name, REASON_CHARS_MAX)
        if not self._budgets and told in self._totals:
            return told
        # Two are kept for what is beyond the limit, and for caches beyond the ISP.
        room = ORIGINS_COUNTED_MAX - 2 - len(self._totals.keys() - {REGIONAL})
        fitting = [terms for terms in self._budgets.values() if terms.fits(name)]
        names = [told] if told in self._totals or room > TOGETHER_MAX else []
        prices = {price.prefix for terms in fitting if (price := terms.price(name)) is not None}
        together = {terms.origins.replace("*", "…") for terms in fitting} | prices
        names += sorted(together, key=lambda one: (-len(one), one))

        def is_alike(one: str) -> bool:
            return all(terms.fits(one) and terms.price(one) == terms.price(name) for terms in fitting)

        for one in names:
            if (room > 0 or one in self._totals) and is_alike(one):
                return one
        if fitting:
            # Of two budgets, or of one and a price, the one may go by how URLs end: then no name but a whole one fits.
            for one in [*self._totals, told] if room > 0 else list(self._totals):
                if self._budgets_of(one) == self._budgets_of(name) and is_alike(one):
                    return one
        return OTHERS

    def _budgets_of(self, name: str) -> list[str]:
        return [budget for budget, terms in self._budgets.items() if terms.fits(name)]

    def totals(self) -> list[OriginReport]:
        """Return all of them."""
        with self._lock:
            return [msgspec.structs.replace(one) for one in self._totals.values()]

    def bytes_received(self) -> int:
        """Return the payload bytes of all origins, those that were of no use among them."""
        with self._lock:
            return sum(
                one.bytes_kept + one.bytes_wasted for one in self._totals.values() if one.id != REGIONAL
            )

    def take(self) -> list[OriginReport]:
        """Return those of which the tracker is to be told now; they are on their way then."""
        with self._lock:
            self._on_its_way |= self._news
            self._news.clear()
            return [msgspec.structs.replace(self._totals[name]) for name in sorted(self._on_its_way)]

    def acknowledged(self) -> None:
        """Note that the tracker has what was on its way."""
        with self._lock:
            self._on_its_way.clear()

    def begin_again(self) -> None:
        """Tell it everything."""
        with self._lock:
            self._news.update(self._totals)
