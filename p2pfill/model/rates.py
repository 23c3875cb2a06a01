"""How fast a cache may receive and send. Pure data: who keeps to it is `transport`.

All rates are bytes of payload a second, averaged over ten seconds; 0 means no limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.quantities import QUANTITY_MAX, parse_rate, spell_rate

TIERS: Final = ("peer", "regional", "origin")


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits of one direction."""

    total: int = 0
    """Of all tiers together."""
    peer: int = 0
    regional: int = 0
    origin: int = 0
    """Inbound only."""

    def __post_init__(self) -> None:
        for rate in (self.total, self.peer, self.regional, self.origin):
            if not 0 <= rate <= QUANTITY_MAX:
                raise ValueError("a rate must be from 0, which is no limit, to 2^62 bytes a second")

    def within(self, other: Rates) -> Rates:
        """Return the tighter one of both limits, each by each."""
        return Rates(*(_tighter(getattr(self, name), getattr(other, name)) for name in ("total", *TIERS)))


class RateLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a cache may move."""

    inbound: Rates = Rates()
    outbound: Rates = Rates()

    def within(self, other: RateLimits) -> RateLimits:
        """Return the tighter one of both, each limit by itself."""
        return RateLimits(self.inbound.within(other.inbound), self.outbound.within(other.outbound))


NO_LIMITS: Final = RateLimits()


def spell(limits: RateLimits) -> str:
    """Return limits in a line for people, such as "in: total 150 MB/s, origin 20 MB/s; out: no limit"."""
    return f"in: {_spell(limits.inbound)}; out: {_spell(limits.outbound)}"


def _spell(rates: Rates) -> str:
    said = [f"{name} {spell_rate(rate)}" for name in ("total", *TIERS) if (rate := getattr(rates, name))]
    return ", ".join(said) or "no limit"


def _tighter(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other


def read_limits(value: Any, place: str) -> RateLimits:
    """Return the limits that TOML or JSON spells; `place` names it in errors. Raises `ConfigError`.

    A text such as `"1.2G"` limits all that comes in. A table may have `inbound` and `outbound`, each a text for the
    total or a table with `total`, `peer`, `regional` and, inbound, `origin`.
    """
    if not isinstance(value, dict):
        return RateLimits(inbound=Rates(total=_rate(value, place)))
    _check_keys(value, ("inbound", "outbound"), place)
    directions = {name: _read_rates(part, f"{place}.{name}") for name, part in value.items()}
    if directions.get("outbound", Rates()).origin:
        raise ConfigError(f"{place}.outbound.origin: nothing is sent to origins; leave it out")
    return RateLimits(**directions)


def parse_limits(words: Sequence[str]) -> RateLimits:
    """Return the limits that a person has typed, such as `150MiB`, or `in=150MiB in.origin=20MiB out=1.2Gbit`.

    Raises `ConfigError`. A rate alone is for all that comes in.
    """
    table: dict[str, dict[str, str]] = {}
    for word in words:
        key, _, rate = word.rpartition("=")
        direction, _, tier = (key or "in").partition(".")
        name = {"in": "inbound", "out": "outbound"}.get(direction)
        if name is None or tier not in ("", *TIERS):
            raise ConfigError(f"{word[:80]!r} is no limit: write RATE, in=RATE, out=RATE, in.TIER=RATE, out.TIER=RATE")
        if (tier or "total") in table.setdefault(name, {}):
            raise ConfigError(f"{word[:80]!r} is a second limit of the same: give one")
        table[name][tier or "total"] = rate
    return read_limits(table, "limit")


def _read_rates(value: Any, place: str) -> Rates:
    if not isinstance(value, dict):
        return Rates(total=_rate(value, place))
    _check_keys(value, ("total", *TIERS), place)
    return Rates(**{name: _rate(part, f"{place}.{name}") for name, part in value.items()})


def _check_keys(value: dict[Any, Any], known: tuple[str, ...], place: str) -> None:
    for key in value:
        if key not in known:
            raise ConfigError(f"{place}.{str(key)[:40]}: unknown; it may have {', '.join(known)}")


def _rate(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ConfigError(f"{place}: a rate is a text such as '150MiB', '1.2Gbit' or 'max'")
    try:
        return parse_rate(str(value))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
