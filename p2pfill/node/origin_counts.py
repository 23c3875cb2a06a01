"""What this node has had of each origin since its process began, and what of that the tracker has yet to be told.

A heartbeat carries totals, of the origins that have news only. So one that is lost, or comes twice, changes nothing,
and a node that reads nothing says nothing. Totals begin at 0 with each start of the process, as the tracker's do with
each new start of a node: who wants to have them for good reads them in between.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from p2pfill.model.budgets import refusing
from p2pfill.model.limits import ORIGINS_COUNTED_MAX, REASON_CHARS_MAX
from p2pfill.model.reports import Allowance, OriginReport, clipped
from p2pfill.model.selector import matches_glob

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
        self._budgets: Mapping[str, str] = {}
        """Budget -> its origins, as the policy has them."""
        self._reading: dict[str, int] = {}
        """Origin -> bytes of chunks that are being read."""

    # ---- what may come: budgets of the fleet's policy (`model.budgets`)

    def set_budgets(self, budgets: Mapping[str, str]) -> None:
        """Go by these budgets from now on, with no allowance of those that are new: orders can come before one does."""
        with self._lock:
            self._budgets = budgets

    def set_allowances(self, allowances: Iterable[Allowance]) -> None:
        """Go by what the tracker has said last; what is on its way already comes."""
        with self._lock:
            found = {}
            for one in allowances:
                least = self._so_far(one.origins)
                found[one.budget] = one if one.bytes >= least else msgspec.structs.replace(one, bytes=least)
            self._allowances = found

    def allowances(self) -> list[Allowance]:
        """Return those that this node goes by."""
        with self._lock:
            return list(self._allowances.values())

    def begin_read(self, name: str, length: int) -> str:
        """Let a chunk be read from an origin (`end_read`), or return the budget that has nothing left for it."""
        with self._lock:
            if budget := refusing(self._allowances, self._budgets, name, length, self._so_far):
                return budget
            self._reading[name] = self._reading.get(name, 0) + length
        return ""

    def end_read(self, name: str, length: int) -> None:
        """Note that a read has ended; what has come of it was counted before."""
        with self._lock:
            self._reading[name] -= length

    def _so_far(self, origins: str) -> int:
        """Return what has come, or may be coming, from some origins."""
        came = sum(
            one.bytes_kept + one.bytes_wasted for name, one in self._totals.items() if matches_glob(origins, name)
        )
        return came + sum(count for name, count in self._reading.items() if matches_glob(origins, name))

    # ---- what has come

    def add(
        self, name: str, *, requests: int = 0, failed: int = 0, kept: int = 0, wasted: int = 0, given_up: int = 0
    ) -> None:
        """Count what a read has come to; `kept` and `wasted` are bytes."""
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
        told, room = clipped(name, REASON_CHARS_MAX), ORIGINS_COUNTED_MAX - 1 - len(self._totals)
        fitting = [origins for origins in self._budgets.values() if matches_glob(origins, name)]
        names = [told] if told in self._totals or room > TOGETHER_MAX else []
        names += [origins.replace("*", "…") for origins in sorted(fitting, key=len, reverse=True)]
        for one in names:
            if (room > 0 or one in self._totals) and all(matches_glob(origins, one) for origins in fitting):
                return one
        return OTHERS

    def totals(self) -> list[OriginReport]:
        """Return all of them."""
        with self._lock:
            return [msgspec.structs.replace(one) for one in self._totals.values()]

    def bytes_received(self) -> int:
        """Return the payload bytes of all of them, those that were of no use among them."""
        with self._lock:
            return sum(one.bytes_kept + one.bytes_wasted for one in self._totals.values())

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
