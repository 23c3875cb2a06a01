"""The fleet's policy: one document that says when and how fast caches fill, how far they go for what, and what stays
where. Pure: a text in, rules out.

Four lists of rules, in TOML. In the first three the first rule that fits counts, whole, and nothing is merged:

    [[caches]]                      settings of a cache
    name = "eu-nights"
    selector = "region=eu"          as in `model.selector`; absent: all caches
    windows = "02:00,1.2G 08:00,off"
    rates = "300M"

    [[fills]]                       how far a cache goes for a title
    name = "films"
    selector = "region=eu"          of the cache that fills
    titles = "film-*"               names of titles, where * stands for anything; absent: all
    hops = ["isp", "region", "all", "origin"]
    waits = {region = "30s", all = "2m", origin = "5m"}

    [[residency]]                   where a title may be, and whence it may come
    name = "licence"
    titles = "film-*"
    regions = ["eu", "uk"]

    [[budgets]]                     how much may come from far in a night, to all caches together
    name = "cloud"
    origins = "https://cloud.example/*"     their URLs, where * stands for anything; absent: all origins
    bytes = "2TB"                   or money = 120, of the currency in which the tracker knows prices

    [[budgets]]
    name = "transit"
    tier = "regional"               from caches of other ISPs and regions
    bytes = "20TB"

Of budgets each one counts that fits. A hop that `hops` does not name is never used. Residency is a rule of a
title alone: if it were chosen by cache, a cache that no rule names could fetch what may not leave. A rule has a name,
since people are told by it who decided; diffs go by it too.

All that is wrong is found at once (`PolicyError.faults`), each with its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import ANYWHERE, Reach
from p2pfill.model.prices import NO_PRICES, Prices
from p2pfill.model.quantities import UNIT_S, parse_bytes, parse_rate, parse_span, spell_bytes, spell_rate
from p2pfill.model.rates import NO_LIMITS, RateLimits, read_limits
from p2pfill.model.selector import Selector, matches_glob
from p2pfill.model.terms import MILLIONTHS, REGIONAL, BudgetTerms, terms_of
from p2pfill.model.toml import read_toml
from p2pfill.model.windows import DAYS, FillWindows, read_windows, show_time

T = TypeVar("T")

POLICY_CHARS_MAX: Final = 256 * 1024
"""Of the document: some thousand rules with their comments."""

DOTS_MAX: Final = 64
"""Outside of texts and comments, in a line. A dotted key of n parts costs the standard library's reader n^2 / 2 words
of memory: one as long as a document may be takes tens of gigabytes, and these some dozen megabytes in sum."""

RULES_MAX: Final = 256
"""Of each kind: whoever needs more has labels that do not fit its fleet. Each is compared with each order."""

NAME_CHARS_MAX: Final = 64
GLOB_CHARS_MAX: Final = 1024
REGIONS_MAX: Final = 64
WAIT_S_MAX: Final = 7 * 86400.0
"""A week: whoever waits longer means never."""

FAULTS_MAX: Final = 100
"""That are told: more than anybody mends in one go."""

HOPS: Final = ("cluster", "isp", "region", "all", "origin")
"""From near to far: caches of the own cluster, of the ISP, of the region, of other regions, the origin."""

USUAL_HOPS: Final = HOPS[1:]
"""Where a rule names none: clusters make no difference."""

_BEYOND: Final = HOPS[2:]
"""Those that may be left out."""

BUDGET_TIERS: Final = ("origin", "regional")
"""Of which there can be a budget. Inside an ISP there is none: its caches share the work, and need each other."""

MONEY_MAX: Final = 1e9
"""Of a budget of money: more is a mistake, and its millionths fit into 63 bits."""

_ORIGINS_BEGIN: Final = ("http://", "https://", "s3://", "file://", "/")
"""What an origin can begin with: a directory may be a plain path or a URL."""

_ASIDE: Final = re.compile(r"""#[^\n]*|"(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?""")
"""Comments and texts of TOML, each within its line, so that any document is gone through once."""

_selector = lru_cache(maxsize=3 * RULES_MAX)(Selector.parse)
"""Rules keep their selectors as they are written; each is compared with many caches."""


class PolicyError(ConfigError):
    """A policy cannot be used. `faults` has all that is wrong with it, a line each, which begins with its place."""

    def __init__(self, faults: Sequence[str]) -> None:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        super().__init__(f"the policy cannot be used: {faults[0]}{more}")
        self.faults = tuple(faults[:FAULTS_MAX])


class CacheRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Settings of the caches that a selector means."""

    name: str
    selector: str = "all"
    windows: FillWindows | None = None
    rates: RateLimits = NO_LIMITS


class FillRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How far the caches that a selector means may go for some titles."""

    name: str
    selector: str = "all"
    titles: str = "*"
    hops: tuple[str, ...] = USUAL_HOPS
    """Some of `HOPS`, in that order."""
    waits: dict[str, float] = {}
    """Hop -> seconds, where there is a wait."""
    minimum: int = 0
    """Bytes a second: where nearer caches give less, the next hop joins in; 0: it does not."""

    def wait_s(self, hop: str) -> float | None:
        """Return after how many seconds a hop may be used; None: never."""
        return self.waits.get(hop, 0.0) if hop in self.hops else None


class ResidencyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The regions which some titles may not leave."""

    name: str
    regions: tuple[str, ...]
    titles: str = "*"


class BudgetRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How much may come from some origins, or from caches beyond the ISP, to the whole fleet in a night."""

    name: str
    bytes: int = 0
    """0: it is one of money."""
    origins: str = "*"
    tier: str = "origin"
    """One of `BUDGET_TIERS`."""
    money: float = 0.0
    """In the currency of the tracker's prices."""

    def terms(self, prices: Prices) -> BudgetTerms:
        """Return what counts against it."""
        if self.tier != "origin":
            return BudgetTerms(REGIONAL)
        return terms_of(self.origins, prices) if self.money else BudgetTerms(self.origins)

    @property
    def limit(self) -> int:
        """Bytes, or millionths of money."""
        return round(self.money * MILLIONTHS) if self.money else self.bytes

    @property
    def ledger(self) -> str:
        """The name under which it is counted what was spent: what is counted in another unit is another budget."""
        unit = "money" if self.money else self.tier
        # No name has a tab, so no other budget has that one.
        return self.name if unit == "origin" else f"{self.name}\t{unit}"


class FleetPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All rules, each kind in the order in which they are tried. Built by `parse_policy`, which has checked it."""

    caches: tuple[CacheRule, ...] = ()
    fills: tuple[FillRule, ...] = ()
    residency: tuple[ResidencyRule, ...] = ()
    budgets: tuple[BudgetRule, ...] = ()

    def rule_for(self, cache: NodeInfo) -> CacheRule | None:
        """Return the rule with a cache's settings."""
        return next((rule for rule in self.caches if _selector(rule.selector).matches(cache)), None)

    def residency_of(self, title_name: str) -> ResidencyRule | None:
        """Return the rule that keeps a title in some regions."""
        return next((rule for rule in self.residency if matches_glob(rule.titles, title_name)), None)

    def fill_rule_for(self, cache: NodeInfo, title_name: str) -> FillRule | None:
        """Return the rule that says how far a cache may go for a title."""
        for rule in self.fills:
            if matches_glob(rule.titles, title_name) and _selector(rule.selector).matches(cache):
                return rule
        return None

    def reach_for(self, cache: NodeInfo, title_name: str) -> Reach:
        """Return how far a cache may go for a title, by both kinds of rules."""
        rule, residency = self.fill_rule_for(cache, title_name), self.residency_of(title_name)
        if rule is None and residency is None:
            return ANYWHERE
        region_s, world_s, origin_s = (0.0, 0.0, 0.0) if rule is None else map(rule.wait_s, _BEYOND)
        return Reach(
            region_s, world_s, origin_s,
            isp_s=rule.wait_s("isp") if rule is not None and "cluster" in rule.hops else None,
            minimum_bytes_s=0 if rule is None else rule.minimum,
            rule="" if rule is None else rule.name,
            regions=() if residency is None else residency.regions,
            residency="" if residency is None else residency.name,
        )  # fmt: skip

    def bars(self, cache: NodeInfo, title_name: str) -> str:
        """Return the name of the rule for which a cache may not hold a title; empty where it may."""
        residency = self.residency_of(title_name)
        return residency.name if residency is not None and cache.region not in residency.regions else ""


NO_POLICY: Final = FleetPolicy()


# ---- reading


def parse_policy(text: str) -> FleetPolicy:
    """Return the policy that a TOML text spells. Raises `PolicyError` with all that is wrong with it."""
    if len(text) > POLICY_CHARS_MAX:
        raise PolicyError([f"it has {len(text)} characters: at most {POLICY_CHARS_MAX} are allowed"])
    for number, line in enumerate(_ASIDE.sub("", text).split("\n"), 1):
        if line.count(".") > DOTS_MAX:
            raise PolicyError([f"line {number} has more than {DOTS_MAX} dots: no key has so many parts"])
    try:
        document = read_toml(text)
    except ConfigError as error:
        raise PolicyError([f"not TOML that can be read: {error}"]) from error
    reader = _Reader()
    reader.known(document, ("caches", "fills", "residency", "budgets"), "")
    policy = FleetPolicy(
        reader.rules(document, "caches", reader.cache_rule),
        reader.rules(document, "fills", reader.fill_rule),
        reader.rules(document, "residency", reader.residency_rule),
        reader.rules(document, "budgets", reader.budget_rule),
    )
    if reader.faults:
        raise PolicyError(reader.faults)
    return policy


class _Reader:
    """Reads rule by rule and goes on after each fault."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def fault(self, place: str, what: str) -> None:
        self.faults.append(f"{place}: {what}")

    def attempt(self, place: str, read: Callable[[], T], default: T) -> T:
        """Return what `read` does, whose errors begin with their place already where `place` is empty."""
        try:
            return read()
        except ConfigError as error:
            self.faults.append(f"{place}: {error}" if place else str(error))
            return default

    def known(self, table: dict[str, Any], keys: Sequence[str], place: str) -> None:
        for key in table:
            if key not in keys:
                near = get_close_matches(key, keys, 1)
                meant = f": did you mean {near[0]}?" if near else f"; it may have {', '.join(keys)}"
                self.fault(f"{place}.{key[:40]}" if place else key[:40], f"unknown{meant}")

    def rules(self, document: dict[str, Any], kind: str, read: Callable[[dict[str, Any], str], T]) -> tuple[T, ...]:
        tables = document.get(kind, [])
        if not isinstance(tables, list):
            self.fault(kind, f"write each rule as a table of its own, below [[{kind}]]")
            return ()
        if len(tables) > RULES_MAX:
            self.fault(kind, f"{len(tables)} rules: at most {RULES_MAX} are allowed")
            return ()
        rules, names = [], dict[str, int]()
        for number, table in enumerate(tables):
            place = f"{kind}[{number}]"
            if not isinstance(table, dict):
                self.fault(place, "not a table")
                continue
            rules.append(read(table, place))
            name = table.get("name")
            if isinstance(name, str) and names.setdefault(name, number) != number:
                self.fault(f"{place}.name", f"{name[:40]!r} is the name of {kind}[{names[name]}] too")
        return tuple(rules)

    def text(self, table: dict[str, Any], key: str, place: str, default: str, chars_max: int) -> str:
        value = table.get(key, default)
        if not isinstance(value, str) or not 0 < len(value) <= chars_max or not value.isprintable():
            lacks = key not in table
            what = "is missing" if lacks else f"is no text of 1 to {chars_max} printable characters"
            self.fault(f"{place}.{key}", what)
            return default
        return value

    def texts(self, table: dict[str, Any], key: str, place: str, most: int) -> tuple[str, ...]:
        """Return a list of texts; what is none of them is a fault."""
        values = table.get(key)
        if not isinstance(values, list) or not 0 < len(values) <= most:
            self.fault(f"{place}.{key}", f"is no list of 1 to {most} names")
            return ()
        found: list[str] = []
        for number, value in enumerate(values):
            if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARS_MAX or not value.isprintable():
                self.fault(f"{place}.{key}[{number}]", f"is no name of 1 to {NAME_CHARS_MAX} printable characters")
            elif value in found:
                self.fault(f"{place}.{key}[{number}]", f"{value!r} stands there twice")
            else:
                found.append(value)
        return tuple(found)

    def name(self, table: dict[str, Any], place: str) -> str:
        return self.text(table, "name", place, "", NAME_CHARS_MAX)

    def selector(self, table: dict[str, Any], place: str) -> str:
        place = f"{place}.selector"
        if not isinstance(text := table.get("selector", "all"), str):
            self.fault(place, "is no text")
            return "all"
        return self.attempt(place, lambda: Selector.parse(text).text, "all")

    def cache_rule(self, table: dict[str, Any], place: str) -> CacheRule:
        self.known(table, ("name", "selector", "windows", "rates"), place)
        windows, rates = None, NO_LIMITS
        if "windows" in table:
            windows = self.attempt("", lambda: read_windows(table["windows"], f"{place}.windows"), None)
        if "rates" in table:
            rates = self.attempt("", lambda: read_limits(table["rates"], f"{place}.rates"), NO_LIMITS)
        if "windows" not in table and "rates" not in table:
            self.fault(place, "has neither windows nor rates: it would say nothing")
        return CacheRule(self.name(table, place), self.selector(table, place), windows, rates)

    def fill_rule(self, table: dict[str, Any], place: str) -> FillRule:
        self.known(table, ("name", "selector", "titles", "hops", "waits", "minimum"), place)
        hops = USUAL_HOPS if "hops" not in table else self._hops(table, place)
        titles = self.text(table, "titles", place, "*", GLOB_CHARS_MAX)
        waits = self._waits(table.get("waits", {}), hops, place)
        minimum = self.attempt(f"{place}.minimum", lambda: parse_rate(str(table.get("minimum", "max"))), 0)
        return FillRule(self.name(table, place), self.selector(table, place), titles, hops, waits, minimum)

    def _hops(self, table: dict[str, Any], place: str) -> tuple[str, ...]:
        named = self.texts(table, "hops", place, len(HOPS))
        for number, hop in enumerate(named):
            if hop not in HOPS:
                self.fault(f"{place}.hops[{number}]", f"{hop[:40]!r} is none of {', '.join(HOPS)}")
        if named and "isp" not in named:
            self.fault(f"{place}.hops", "isp is missing: the caches of an ISP share the work, and need each other")
        return tuple(hop for hop in HOPS if hop in named)

    def _waits(self, value: Any, hops: Sequence[str], place: str) -> dict[str, float]:
        place = f"{place}.waits"
        if not isinstance(value, dict):
            self.fault(place, "write a table of hop and time, as in {origin = '5m'}")
            return {}
        self.known(value, HOPS[1:], place)
        waits: dict[str, float] = {}
        nearer_s, nearer = 0.0, ""
        for hop in HOPS[1:]:
            if hop not in value:
                continue
            if hop == "isp" and "cluster" not in hops:
                self.fault(f"{place}.isp", 'hops does not name cluster, so all of the ISP is near: add "cluster"')
            elif hop not in hops:
                self.fault(f"{place}.{hop}", "hops does not name it: it is never used")
            wait_s = self.attempt("", lambda hop=hop: _seconds(value[hop], f"{place}.{hop}"), None)  # type: ignore[misc]
            if wait_s is None:
                continue
            if wait_s < nearer_s:
                self.fault(f"{place}.{hop}", f"is less than that of {nearer}: no farther hop opens before a nearer one")
            nearer_s, nearer = wait_s, hop
            waits[hop] = wait_s
        # What a farther hop says nothing of waits as long as a nearer one.
        nearer_s = 0.0
        for hop in HOPS[1:] if "cluster" in hops else _BEYOND:
            nearer_s = max(nearer_s, waits.get(hop, 0.0))
            if hop in hops and nearer_s:
                waits[hop] = nearer_s
        return waits

    def residency_rule(self, table: dict[str, Any], place: str) -> ResidencyRule:
        self.known(table, ("name", "titles", "regions"), place)
        regions = self.texts(table, "regions", place, REGIONS_MAX)
        return ResidencyRule(
            self.name(table, place), regions, self.text(table, "titles", place, "*", GLOB_CHARS_MAX)
        )

    def budget_rule(self, table: dict[str, Any], place: str) -> BudgetRule:
        self.known(table, ("name", "tier", "origins", "bytes", "money"), place)
        origins = self.text(table, "origins", place, "*", GLOB_CHARS_MAX)
        tier = table.get("tier", "origin")
        if tier not in BUDGET_TIERS:
            why = ": the caches of an ISP share the work, and need each other" if tier == "peer" else ""
            self.fault(f"{place}.tier", f"is none of {', '.join(BUDGET_TIERS)}{why}")
            tier = "origin"
        if tier != "origin":
            for key in {"origins", "money"} & table.keys():
                self.fault(f"{place}.{key}", f"goes with tier origin alone, not with {tier}")
        elif "bytes" in table and "money" in table:
            self.fault(place, "has both bytes and money: write two budgets, of which each one counts")
        if "money" in table:
            return BudgetRule(self.name(table, place), 0, origins, tier, self._money(table["money"], f"{place}.money"))
        size = self.attempt(f"{place}.bytes", lambda: _size(table.get("bytes")), 0)
        return BudgetRule(self.name(table, place), size, origins, tier)

    def _money(self, value: Any, place: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 / MILLIONTHS <= value <= MONEY_MAX:
            self.fault(place, f"is no amount: write a number above 0, up to {MONEY_MAX:g}, in the currency of prices")
            return 0.0
        return float(value)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ConfigError("write a size as in '2TB' or '500GiB'; what may be paid goes into money")
    return parse_bytes(str(value))


def _seconds(value: Any, place: str) -> float:
    wait_s = parse_span(value.strip()) if isinstance(value, str) else None
    if wait_s is None:
        raise ConfigError(f"{place}: is no time: write it as in '30s', '5m' or '1h30m'")
    if wait_s > WAIT_S_MAX:
        raise ConfigError(f"{place}: is longer than a week; leave the hop out where it is never to be used")
    return wait_s


# ---- in words


def show_seconds(wait_s: float) -> str:
    """Return a wait as it is written: `1h30m`."""
    parts, left = [], wait_s
    for unit, length in UNIT_S.items():
        count, left = (left, 0.0) if unit == "s" else divmod(left, length)
        if count:
            parts.append(f"{count:g}{unit}")
    return "".join(parts) or "0s"


def show_reach(reach: Reach) -> str:
    """Return how far that goes, in words: `isp, region after 30s, never all, origin after 5m`."""
    said = ["isp"]
    if reach.isp_s is not None:
        said = ["cluster", f"isp after {show_seconds(reach.isp_s)}" if reach.isp_s else "isp"]
    for hop, wait_s in zip(_BEYOND, (reach.region_s, reach.world_s, reach.origin_s), strict=True):
        said.append(f"never {hop}" if wait_s is None else f"{hop} after {show_seconds(wait_s)}" if wait_s else hop)
    return ", ".join(said) + (f"; at least {spell_rate(reach.minimum_bytes_s)}" if reach.minimum_bytes_s else "")


def show_windows(windows: FillWindows) -> str:
    """Return a timetable in words."""
    said = []
    for window in windows.windows:
        days = "daily" if len(window.days) == 7 else ",".join(DAYS[day] for day in window.days)
        rates = "" if window.rates == NO_LIMITS else f" at {show_rates(window.rates)}"
        budget = f" up to {spell_bytes(window.budget)}" if window.budget else ""
        said.append(f"{days} {show_time(window.start_min)}-{show_time(window.end_min)}{rates}{budget}")
    extras = [f"time zone {windows.timezone}", f"night from {show_time(windows.night_min)}", f"at end {windows.at_end}"]
    if windows.budget:
        extras.append(f"{spell_bytes(windows.budget)} a night")
    if windows.outside:
        extras.append(f"{spell_rate(windows.outside)} outside")
    return f"{'; '.join(said) or 'always open'} ({', '.join(extras)})"


def show_rates(limits: RateLimits) -> str:
    """Return limits in words."""
    said = []
    for direction in ("inbound", "outbound"):
        rates = getattr(limits, direction)
        said += [
            f"{direction}{'' if tier == 'total' else f' from {tier}' if direction == 'inbound' else f' to {tier}'} "
            f"{spell_rate(rate)}"
            for tier in ("total", "peer", "regional", "origin")
            if (rate := getattr(rates, tier))
        ]
    return ", ".join(said) or "no limit"


Rule = CacheRule | FillRule | ResidencyRule | BudgetRule


def rule_in_words(rule: Rule) -> dict[str, str]:
    """Return what a rule says, by the key that says it."""
    match rule:
        case CacheRule():
            windows = "of its own" if rule.windows is None else show_windows(rule.windows)
            return {"selector": rule.selector, "windows": windows, "rates": show_rates(rule.rates)}
        case FillRule():
            waits = [f"{hop} {show_seconds(rule.waits[hop])}" for hop in HOPS if hop in rule.waits]
            return {
                "selector": rule.selector, "titles": rule.titles, "hops": ", ".join(rule.hops),
                "waits": ", ".join(waits) or "none",
                "minimum": spell_rate(rule.minimum) if rule.minimum else "none",
            }  # fmt: skip
        case ResidencyRule():
            return {"titles": rule.titles, "regions": ", ".join(rule.regions)}
        case BudgetRule():
            source = {"origins": rule.origins} if rule.tier == "origin" else {"tier": rule.tier}
            if rule.money:
                return {**source, "money": f"{rule.money:g} a night"}
            return {**source, "bytes": f"{spell_bytes(rule.bytes)} a night"}


def doubts(policy: FleetPolicy, prices: Prices | None = None) -> list[str]:
    """Return what can be used and is hardly meant, a line each: budgets of origins that no URL can be, and, where the
    prices are known, of money of origins that have none."""
    unpriced = [
        f"budgets {rule.name!r}: the tracker knows no price of any origin that {rule.origins!r} fits, so it costs "
        "nothing and is not limited: start the tracker with --prices"
        for rule in policy.budgets
        if prices is not None and rule.money and not any(price.cost for price in rule.terms(prices).prices)
    ]
    return unpriced + [
        f"budgets {rule.name!r}: no origin is limited by {rule.origins!r}, since URLs begin with https://, http://, "
        f"s3:// or file://: write *{rule.origins}* for all that have it in them"
        for rule in policy.budgets
        if not _could_begin(rule.origins.partition("*")[0], is_whole="*" not in rule.origins)
    ]


def _could_begin(head: str, *, is_whole: bool) -> bool:
    """Return whether an origin can begin with `head`, or be that."""
    if head.startswith(_ORIGINS_BEGIN):
        return True
    return not is_whole and any(one.startswith(head) for one in _ORIGINS_BEGIN)


def diff(before: FleetPolicy, after: FleetPolicy) -> list[str]:
    """Return what has changed from one policy to another, a line each; none where they say the same."""
    said: list[str] = []
    for kind in ("caches", "fills", "residency", "budgets"):
        said.extend(_diff_rules(kind, getattr(before, kind), getattr(after, kind)))
    return said


def _diff_rules(kind: str, before: Iterable[Rule], after: Iterable[Rule]) -> list[str]:
    old, new = {rule.name: rule for rule in before}, {rule.name: rule for rule in after}
    said = [f"- {kind} {name!r}: {_in_a_line(rule)}" for name, rule in old.items() if name not in new]
    for name, rule in new.items():
        if name not in old:
            said.append(f"+ {kind} {name!r}: {_in_a_line(rule)}")
            continue
        was, now = rule_in_words(old[name]), rule_in_words(rule)
        for key in dict.fromkeys([*was, *now]):
            if (one := was.get(key, "none")) != (other := now.get(key, "none")):
                said.append(f"~ {kind} {name!r}: {key} was {one}, is {other}")
    order, order_now = [name for name in old if name in new], [name for name in new if name in old]
    if order != order_now:
        said.append(f"~ {kind}: tried in the order {', '.join(new)}; was {', '.join(old)}")
    return said


def _in_a_line(rule: Rule) -> str:
    return "; ".join(f"{key} {text}" for key, text in rule_in_words(rule).items())


# ---- what goes to a cache


class CacheSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the fleet's policy says of one cache, apart from its titles."""

    rule: str = ""
    """The rule that says so; empty where none does."""
    windows: FillWindows | None = None
    """None: the policy says nothing of them, and the cache goes by its own."""
    rates: RateLimits = NO_LIMITS
    budgets: dict[str, BudgetTerms] = msgspec.field(default_factory=dict)
    """Budget -> of what nothing may come without an allowance (`model.budgets`)."""


NO_SETTINGS: Final = CacheSettings()


def settings_for(policy: FleetPolicy, cache: NodeInfo, prices: Prices = NO_PRICES) -> CacheSettings:
    """Return the settings of a cache; `prices` is what origins cost, for budgets of money."""
    rule = policy.rule_for(cache)
    budgets = {budget.name: budget.terms(prices) for budget in policy.budgets}
    if rule is None:
        return CacheSettings(budgets=budgets)
    return CacheSettings(rule.name, rule.windows, rule.rates, budgets)
