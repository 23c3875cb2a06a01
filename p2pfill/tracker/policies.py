"""The fleet's policy in the tracker: its versions, which of them stands, and what it says of whom.

A version is the text as it was applied, with all its comments, and what was read of it, who applied it and why. Going
back to one applies it again as a new version, so the log has all that ever stood, up to `VERSIONS_MAX`. Who applied it
is what the caller says: callers are not known yet.

What a node is told follows from the version that stands and from the node's labels. So nothing is kept by node, and
settings are told apart by their digest, also after a restart of the tracker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import msgspec
import trio

from p2pfill.model.fleet_policy import (
    NO_POLICY,
    NO_SETTINGS,
    CacheSettings,
    FleetPolicy,
    PolicyError,
    parse_policy,
    settings_for,
    show_reach,
)
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import ANYWHERE, Reach
from p2pfill.model.prices import NO_PRICES, Prices
from p2pfill.tracker.checks import RequestRefused, require
from p2pfill.tracker.records import PolicyRequest, PolicyVersion

VERSIONS_MAX: Final = 100
"""Versions that are kept, the latest: 25 MB at most, and some months of changes."""

COMMENT_CHARS_MAX: Final = 1000
BY_CHARS_MAX: Final = 256

CACHED_MAX: Final = 10_000
"""Answers that are kept for caches and titles: the same are asked for again and again as rosters change."""


class StoredPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version as the catalogue keeps it."""

    version: PolicyVersion
    policy: FleetPolicy


NOTHING_APPLIED: Final = StoredPolicy(PolicyVersion(0, 0.0), NO_POLICY)


class Policies:
    """All versions that are kept; the last one stands."""

    def __init__(self, stored: Iterable[StoredPolicy] = (), prices: Prices = NO_PRICES) -> None:
        """`prices` is what origins cost, for budgets of money."""
        self.prices: Final = prices
        self.applying = trio.Lock()
        """Held from a look at what stands until another version does."""
        self._versions = {one.version.number: one for one in stored}
        self._set()

    def _set(self) -> None:
        self.stands = max(self._versions.values(), key=lambda one: one.version.number, default=NOTHING_APPLIED)
        policy = self.policy = self.stands.policy
        self._reach = lru_cache(CACHED_MAX)(policy.reach_for)
        self._bars = lru_cache(CACHED_MAX)(policy.bars)
        self._settings = lru_cache(CACHED_MAX)(lambda info: _with_digest(settings_for(policy, info, self.prices)))
        self.budgets = [(rule, rule.terms(self.prices)) for rule in policy.budgets]
        """Each with what counts against it."""

    @property
    def number(self) -> int:
        """Of the version that stands; 0: none was ever applied."""
        return self.stands.version.number

    def versions(self) -> list[PolicyVersion]:
        """Return what is known of all versions but their texts, the latest first."""
        found = [msgspec.structs.replace(one.version, text="") for one in self._versions.values()]
        return sorted(found, key=lambda version: -version.number)

    def get(self, number: int) -> PolicyVersion:
        """Return a version. Raises `RequestRefused`."""
        if (found := self._versions.get(number)) is None:
            kept = f"{min(self._versions)} to {self.number} are kept" if self._versions else "none was ever applied"
            raise RequestRefused(f"there is no version {number} of the fleet's policy: {kept}", 404)
        return found.version

    def put(self, stored: StoredPolicy) -> None:
        """Let a version stand."""
        self._versions[stored.version.number] = stored
        while len(self._versions) > VERSIONS_MAX:
            del self._versions[min(self._versions)]
        self._set()

    # ---- what it says

    def reach(self, info: NodeInfo, title_name: str) -> Reach:
        """Return how far a cache may go for a title."""
        if not self.policy.fills and not self.policy.residency:
            return ANYWHERE
        return self._reach(info, title_name)

    def bars(self, info: NodeInfo, title_name: str) -> str:
        """Return the rule for which a cache may not hold a title; empty where it may."""
        return self._bars(info, title_name) if self.policy.residency else ""

    def explain(self, info: NodeInfo, title_name: str) -> list[str]:
        """Return which rules decide what a cache may do for a title, in sentences for people."""
        said, of_policy = [], f"of the fleet's policy (version {self.number})"
        reach = self.reach(info, title_name)
        if reach.rule:
            said.append(f"Rule {reach.rule!r} {of_policy} decides how far the node goes: {show_reach(reach)}.")
        if reach.residency:
            where = f"Rule {reach.residency!r} {of_policy} keeps the title in the regions {', '.join(reach.regions)}"
            barred = self.bars(info, title_name)
            said.append(f"{where}: the node stands in {info.region}, and gets no order." if barred else f"{where}.")
        return said

    def settings(self, info: NodeInfo) -> tuple[str, CacheSettings]:
        """Return the digest of a cache's settings, and these; an empty digest where no policy was ever applied."""
        return self._settings(info) if self.number else ("", NO_SETTINGS)


def _with_digest(settings: CacheSettings) -> tuple[str, CacheSettings]:
    return hashlib.blake2b(msgspec.json.encode(settings), digest_size=8).hexdigest(), settings


def read_request(request: PolicyRequest) -> FleetPolicy:
    """Return the policy that a request applies. Raises `RequestRefused`."""
    require(len(request.comment) <= COMMENT_CHARS_MAX, f"comment is longer than {COMMENT_CHARS_MAX} characters")
    require(len(request.by) <= BY_CHARS_MAX and request.by.isprintable(), f"by is no text of {BY_CHARS_MAX} characters")
    try:
        return parse_policy(request.text)
    except PolicyError as error:
        raise RequestRefused(str(error)) from error

