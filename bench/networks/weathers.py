"""The kinds of bad weather that a fill goes through, and what fills them: by name."""

from __future__ import annotations

from typing import Final, NamedTuple

from bench.networks.proxy import Weather

KIB: Final = 1024


class Kind(NamedTuple):
    """A kind of bad network."""

    what: str
    """For people."""
    weather: Weather


KINDS: Final[dict[str, Kind]] = {
    "calm": Kind("nothing but the origin held back, as in all the others", Weather()),
    "delay": Kind("150 ms each way", Weather(delay_s=0.15)),
    "throttle": Kind("50 KiB/s each way of each connection", Weather(rate_bytes_s=50 * KIB)),
    "resets": Kind("a connection is reset after 300 KiB", Weather(reset_every=300 * KIB)),
    "truncation": Kind("a connection ends in the middle after 300 KiB", Weather(truncate_every=300 * KIB)),
    "corruption": Kind("a bit is turned every 300 KiB", Weather(corrupt_every=300 * KIB)),
    "stalls": Kind("a connection moves no more after 300 KiB, until healing", Weather(stall_every=300 * KIB)),
    "black-holes": Kind(
        "the same, and never again: only new connections work after healing",
        Weather(stall_every=300 * KIB, is_black_hole=True),
    ),
    "storm": Kind(
        "delay of 50 ms, and resets, truncation, corruption and stalls every 600 KiB each",
        Weather(
            delay_s=0.05, reset_every=600 * KIB, truncate_every=600 * KIB, corrupt_every=600 * KIB,
            stall_every=600 * KIB,
        ),
    ),
}  # fmt: skip
"""Means: how often it happens is chance, whose seed the report has. The tracker's connections are hit too, and control
links, which carry some kilobytes of each fill, in about one of ten."""
