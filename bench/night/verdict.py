"""What nights have shown, beside what they are to show. Pure.

*Outside* is judged by interfaces alone. All that came in at a cache while it was closed, less the headers of the
packets, is what all of its connections carried: control traffic, for the tracker and other caches go on talking with
it. That must be less than one chunk in all of the night, so not even one was fetched.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from bench.night.records import Night, NightsReport
from bench.night.topology import NightTopology
from bench.swarm.summary import Figure
from p2pfill.model.manifest import default_chunk_size

ORIGIN_COPIES_MAX: Final = 1.05
ISP_COPIES_MAX: Final = 1.08


class Judged(NamedTuple):
    """One figure of a night."""

    name: str
    of: Callable[[Night, NightTopology], float]
    reach: str = ""
    """What it is to reach, in words; empty: it is only told."""
    is_good: Callable[[float, NightTopology], bool] = lambda value, topology: True
    places: int = 2


def chunk_bytes(topology: NightTopology) -> int:
    """Return the size of the smallest chunk of all titles."""
    return min(default_chunk_size(title.size_mib << 20) for title in topology.titles)


def urgent(topology: NightTopology) -> str:
    """Return the name of the title that goes first."""
    return max(topology.titles, key=lambda title: title.priority).name


def after_opening(night: Night, titles: Iterable[str]) -> Iterator[float]:
    """Yield how long each cache took for the last of some titles, from when its window opened or they were ordered."""
    names = list(titles)
    for cache in night.caches.values():
        if all(name in cache.live_s for name in names):
            ordered_s = max(night.ordered_s[name] for name in names)
            yield max(cache.live_s[name] for name in names) - max(cache.windows[0].opens_s, ordered_s)


def _lacking(night: Night, topology: NightTopology) -> float:
    return sum(title.name not in cache.live_s for cache in night.caches.values() for title in topology.titles)


def _not_first(night: Night, topology: NightTopology) -> float:
    name = urgent(topology)
    return sum(
        name not in cache.live_s or min(cache.live_s, key=lambda title: cache.live_s[title]) != name
        for cache in night.caches.values()
    )


JUDGED: Final = (
    Judged("titles lacking in caches", _lacking, "0", lambda value, _: value == 0, 0),
    Judged("caches in which the urgent title was not the first", _not_first, "0", lambda value, _: value == 0, 0),
    Judged(
        "came in outside of windows, without headers, kB: the cache with most",
        lambda night, _: max(cache.outside.content_in for cache in night.caches.values()) / 1000,
        "less than a chunk",
        lambda value, topology: value * 1000 < chunk_bytes(topology),
        0,
    ),
    Judged(
        "the same with headers, kB",
        lambda night, _: max(cache.outside.bytes_in for cache in night.caches.values()) / 1000,
        places=0,
    ),
    Judged(
        "origin copies, wire",
        lambda night, _: night.origin.wire,
        f"at most {ORIGIN_COPIES_MAX}",
        lambda value, _: value <= ORIGIN_COPIES_MAX,
        3,
    ),
    Judged("origin copies, payload", lambda night, _: night.origin.payload, places=3),
    Judged(
        "copies into an ISP, wire: the ISP with most",
        lambda night, _: max(copies.wire for copies in night.isps.values()),
        f"at most {ISP_COPIES_MAX}",
        lambda value, _: value <= ISP_COPIES_MAX,
        3,
    ),
    Judged(
        "copies into an ISP, payload: the ISP with most",
        lambda night, _: max(copies.payload for copies in night.isps.values()),
        places=3,
    ),
    Judged(
        "urgent title live, s after window and order: the last cache",
        lambda night, topology: max(after_opening(night, [urgent(topology)]), default=0.0),
        places=1,
    ),
    Judged(
        "all titles live, s after window and order: the last cache",
        lambda night, topology: max(after_opening(night, [title.name for title in topology.titles]), default=0.0),
        places=1,
    ),
    Judged("chunks from further out than planned", lambda night, _: sum(night.escalations.values()), places=0),
    Judged(
        "what the viewers had, Mbit/s",
        lambda night, _: night.viewers_bytes * 8 / 1e6 / max(night.viewers_s, 0.001),
        places=1,
    ),
    Judged("processor s of all processes, user", lambda night, _: night.user_s, places=1),
    Judged("processor s of all processes, system", lambda night, _: night.system_s, places=1),
    Judged(
        "the machine's processors busy, for whomever, %",
        lambda night, _: 100 * night.load.busy if night.load else 0.0,
        places=0,
    ),
    Judged("load average before the night", lambda night, _: night.load_average, places=1),
)


def good_nights(report: NightsReport) -> list[Night]:
    """Return the nights that came to their end."""
    return [night for night in report.nights if not night.failed]


def misses(night: Night, topology: NightTopology) -> list[str]:
    """Return, in words, what a night was to reach and has not."""
    if night.failed:
        return [night.failed]
    values = [(judged, judged.of(night, topology)) for judged in JUDGED]
    return [
        f"{judged.name}: {value:.{judged.places}f}, and not {judged.reach}"
        for judged, value in values
        if not judged.is_good(value, topology)
    ]


def figures(report: NightsReport) -> list[tuple[Judged, Figure]]:
    """Return each figure over all nights that came to their end."""
    found = []
    for judged in JUDGED:
        values = [judged.of(night, report.topology) for night in good_nights(report)]
        if values:
            found.append((judged, Figure(statistics.median(values), min(values), max(values))))
    return found


def typical(nights: list[Night], topology: NightTopology) -> Night | None:
    """Return the night that is drawn: the one whose last cache took a median time, of an even number the lower one."""
    names = [title.name for title in topology.titles]
    ended = sorted(
        (night for night in nights if not night.failed), key=lambda night: max(after_opening(night, names), default=0.0)
    )
    return ended[(len(ended) - 1) // 2] if ended else None
