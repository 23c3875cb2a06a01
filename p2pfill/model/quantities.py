"""Sizes, rates and spans of time as people write them in commands, configuration and policies."""

from __future__ import annotations

import re
from typing import Final

from p2pfill.errors import ConfigError

_SIZE: Final = re.compile(
    r"(?P<number>\d{1,18}(\.\d{1,9})?)\s*((?P<unit>[KMGT])(?P<base>iB|B)?|B)?", re.ASCII | re.IGNORECASE
)
_BITS: Final = re.compile(
    r"(?P<number>\d{1,18}(\.\d{1,9})?)\s*(?P<unit>[KMGT]?)(bit(/s)?|bps)", re.ASCII | re.IGNORECASE
)

UNIT_S: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_SPAN: Final = re.compile(r"(?=\d)(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,6})?)s)?", re.ASCII)

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

QUANTITY_MAX: Final = 1 << 62
"""Bytes, or bytes a second: far above all that exists, and exact as an integer of 64 bits."""


def parse_bytes(text: str) -> int:
    """Return the size that a person has typed: `500000`, `1.5GiB`, `2 TB`, `20G`. Raises `ConfigError`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{text[:40]!r} is no size: write bytes, or a number with KiB, MiB, GiB or TiB, as in 20GiB")
    base = 1000 if (found["base"] or "").upper() == "B" else 1024
    return _bounded(text, float(found["number"]) * base ** " KMGT".index((found["unit"] or " ").upper()))


def parse_rate(text: str) -> int:
    """Return a rate in bytes a second: a size, with `/s` or not (`150M`, `20MiB/s`), or bits (`1.2Gbit`, `300Mbps`).

    Bits count in thousands, as links are sold; `MBps` are bytes. `max` is 0: no limit. Raises `ConfigError`.
    """
    text = re.sub(r"(?<=B)ps\Z", "/s", text.strip())
    if text.lower() == "max":
        return 0
    if (found := _BITS.fullmatch(text)) is not None:
        rate = _bounded(text, float(found["number"]) * 1000 ** " KMGT".index((found["unit"] or " ").upper()) / 8)
    elif (size := _SIZE.fullmatch(re.sub(r"/s\Z", "", text))) is not None:
        rate = parse_bytes(size[0])
    else:
        raise ConfigError(f"{text[:40]!r} is no rate: write bytes a second as in 150MiB, bits as in 1.2Gbit, or max")
    if not rate:
        raise ConfigError(f"rate {text[:40]!r} would let nothing through: leave it out or write max for no limit")
    return rate


def parse_span(text: str) -> float | None:
    """Return the seconds of a span such as `90m`, `1h30m` or `0.5s`; None where it is none."""
    found = _SPAN.fullmatch(text)
    if found is None:
        return None
    return sum(float(part or 0) * unit for part, unit in zip(found.groups(), UNIT_S.values(), strict=True))


def show_bytes(count: float) -> str:
    """Return a size with a binary unit and three digits: `512 MiB`, `1.25 GiB`."""
    value = float(count)
    for unit in _UNITS[:-1]:
        if value < 1000:
            return f"{_three(value)} {unit}"
        value /= 1024
    return f"{_three(value)} {_UNITS[-1]}"


def _three(value: float) -> str:
    if value == int(value) or value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spell_bytes(count: int) -> str:
    """Return a size exactly, as short as it can be typed: `150 MiB`, `2 TB`, `1.5 MB`, `400 B`."""
    said = [f"{count} B"]
    for power, unit in enumerate("KMGT", 1):
        if count >= 1000**power and count * 1000 % 1000**power == 0:
            whole, thousandths = divmod(count * 1000 // 1000**power, 1000)
            said.append(f"{whole}{f'.{thousandths:03}'.rstrip('0') if thousandths else ''} {unit}B")
        if count >= 1024**power and count % 1024**power == 0:
            said.append(f"{count // 1024**power} {unit}iB")
    return min(reversed(said), key=len)


def spell_rate(bytes_s: int) -> str:
    """Return a rate exactly: `150 MiB/s`."""
    return f"{spell_bytes(bytes_s)}/s"


def _bounded(text: str, value: float) -> int:
    if value > QUANTITY_MAX:
        raise ConfigError(f"{text[:40]!r} is beyond reason")
    return int(round(value, 3))  # 1.001 times 1000 is 1000.9999999999999 to a float
