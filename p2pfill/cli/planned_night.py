"""When a night's fill will be over, as the simulator says: the plan as a scenario, coarse, for one night. Pure.

The bound of `plan.feasibility` says before when it is not over. This says when it may be: with the engine that ships,
its requests, elections and waits. The night is made smaller, so that it is simulated while one waits:

- Files that the same caches lack and the same hold are one title. Where these are too many, some stand for all: drawn
  evenly along their order by which ISPs and caches need them, each as large as what it stands for.
- Titles are cut into few chunks. Where these would be larger than chunks can be, bytes, rates and time are scaled: a
  chunk has `CHUNK_BYTES` and takes about `CHUNK_S`, whatever it stands for, so that waits and delays are to a chunk
  what they are in a lab. Beside the night they are then longer than they are.

Not in it: uplinks of regions, which the simulator does not have; origins are one, as fast as all together. `notes` says
where that matters. It stands here, and not in `plan`, since only commands stand on the simulator. Rejected: chunks as
they are. A night of a few terabytes has millions, and takes days to simulate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, Final, NamedTuple

import numpy as np

from p2pfill.errors import ConfigError
from p2pfill.model.ids import NodeId
from p2pfill.model.limits import KIB, MIB
from p2pfill.model.manifest import default_chunk_size
from p2pfill.model.node import NodeInfo
from p2pfill.model.quantities import show_bytes
from p2pfill.model.rates import RateLimits, Rates
from p2pfill.model.windows import show_utc
from p2pfill.plan.feasibility.needs import Needs
from p2pfill.plan.feasibility.network import Network, Night, Span
from p2pfill.plan.tables import Floats, Ints, Placement
from p2pfill.sim.rebuild import CACHES_MAX, CELLS_MAX, EXACT_MAX, QUIET_S
from p2pfill.sim.scenario import MBIT_BYTES, Scenario, TitleSpec
from p2pfill.sim.world import World

PAIRS: Final = 6_000
"""Chunks times caches that are to have them, where nothing else is said: some ten seconds on one core. A quarter takes
a quarter as long, and is off by up to a third where a fill is over in a few chunks' time: each hop takes one."""

CHUNKS_MIN: Final = 16
"""Of a title that stands for others: it comes from several sources, and its first chunk is little of it."""

CHUNK_BYTES: Final = 16 * MIB
"""Of a night that is scaled: the chunk of large titles."""

CHUNK_S: Final = 0.5
"""What such a chunk takes at the usual rate of a cache: little enough for the waits of the engine, and much beside the
delay of a message."""

ORIGIN: Final = "the origin"


class Title(NamedTuple):
    """Files that the same caches lack and hold."""

    needers: Ints
    holders: Ints
    size: float


class Rehearsal(NamedTuple):
    """A night as a scenario."""

    scenario: Scenario
    speed: float
    """Seconds of the night in a virtual one."""
    notes: tuple[str, ...]
    """What was taken otherwise than it is, in sentences for people."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the simulator says of a night."""

    finish: float | None
    """When the last cache has all, in seconds since the epoch; None: not within the night's horizon."""
    caches: int
    """That lack anything."""
    complete: int
    """Of them, those that have all by the horizon."""
    over_uplinks: dict[str, float]
    """ISP -> bytes that come into it."""
    from_origins: float
    """Bytes."""
    notes: tuple[str, ...]


def predict(
    network: Network,
    needs: Needs,
    held: Placement,
    night: Night,
    *,
    seed: int = 1,
    pairs: int = PAIRS,
    policy: str = "",
) -> Prediction:
    """Simulate a night. `policy` is the text of the fleet's policy. Raises `ConfigError` where it is too large."""
    if not len(needs.cache):
        return Prediction(night.start, 0, 0, {}, 0.0, ())
    rehearsal = rehearse(network, needs, held, night, pairs=pairs, policy=policy)
    scenario, names = rehearsal.scenario, network.caches.names
    world = World(scenario, seed)
    world.run(step_s=max(scenario.end_s / 100, 1.0))
    lacking = [names[cache] for cache in np.unique(needs.cache)]
    live = [at for name in lacking if (at := world.caches[name].live_at) is not None]
    finish = night.start + max(live) * rehearsal.speed if len(live) == len(lacking) else None
    bytes_ = float(_sizes(needs).sum()) / scenario.size
    entered = {isp: moved * bytes_ for isp, moved in world.internet.isp_bytes.items()}
    return Prediction(
        finish, len(lacking), len(live), entered, world.internet.origin_bytes * bytes_, rehearsal.notes
    )  # fmt: skip


def rehearse(
    network: Network, needs: Needs, held: Placement, night: Night, *, pairs: int = PAIRS, policy: str = ""
) -> Rehearsal:
    """Return a night as a scenario of about so many `pairs` of chunks and caches at most. Raises `ConfigError`."""
    titles = _titles(network, needs, held)
    notes = _left_out(network)
    involved = np.unique(np.concatenate([part for title in titles for part in (title.needers, title.holders)]))
    if len(involved) > CACHES_MAX:
        raise ConfigError(
            f"{len(involved)} caches are more than are simulated in a time that one waits for: {CACHES_MAX}"
        )
    copies = sum(len(title.needers) for title in titles) / len(titles)
    most = max(min(CELLS_MAX // len(involved), int(pairs / (copies * CHUNKS_MIN))), 1)
    before, kinds = _passing(network, titles), len(titles)
    if kinds > most:
        titles = _some(titles, most)
    # What stands for others is more or less than what some cache lacks: its rate is so, too, and its time as it was.
    now = _passing(network, titles)
    into, over, out = (
        np.where((of_now > 0) & (of_before > 0), of_now / np.maximum(of_before, 1.0), 1.0)
        for of_now, of_before in zip(now, before, strict=True)
    )
    if kinds > most:
        off = float(np.median(np.abs(into[involved] - 1)))
        notes.append(
            f"{len(titles)} titles stand for {kinds} kinds of files; caches, uplinks and origins are as much faster or "
            f"slower as more or less has to pass them, which is {100 * off:.0f} % for a cache in the middle"
        )
    chunk, byte_scale = _chunk(titles, pairs)
    usual = float(np.median(np.minimum(network.caches.filling[involved], 1e12)))
    rate_scale = usual * CHUNK_S / CHUNK_BYTES if byte_scale != 1 else 1.0
    speed = byte_scale / rate_scale
    if byte_scale != 1:
        notes.append(f"a chunk stands for {show_bytes(chunk * byte_scale)}, and {speed:.3g} s pass in one")
    names = network.caches.names
    scenario = Scenario(
        name="a planned night",
        caches=tuple(_info(network, int(cache)) for cache in involved),
        origin=ORIGIN,
        rates=_rates(network, involved, rate_scale / into, rate_scale / float(out[0])),
        upload_rates=_uploads(network, involved, rate_scale),
        uplinks=_uplinks(network, rate_scale / over),
        goodput=1.0,
        titles=tuple(
            TitleSpec(
                f"title{number}", title.size / byte_scale / MIB, chunk_kib=chunk // KIB,
                caches=tuple(names[cache] for cache in title.needers),
                held={names[cache]: 1.0 for cache in title.holders},
            )
            for number, title in enumerate(titles)
        ),
        delay_ms=0.5, isp_delay_ms=5.0, region_delay_ms=40.0,
        fleet_policy=policy,
        limits={names[cache]: _limits(network, int(cache), rate_scale / float(into[cache])) for cache in involved},
        **_hours(network, involved, night, rate_scale / into, speed),
        wall_at=show_utc(night.start), wall_speed=speed,
        exact=len(involved) <= EXACT_MAX,
        check_tiers=False,
        end_s=max((night.horizon - night.start) / speed, 1.0),
        quiet_s=QUIET_S,
    )  # fmt: skip
    scenario.check()
    return Rehearsal(scenario, speed, tuple(notes))


# ---- titles


def _sizes(needs: Needs) -> Any:
    return needs.size[np.unique(needs.file)]


def _titles(network: Network, needs: Needs, held: Placement) -> list[Title]:
    """Return files as titles, ordered by the ISPs into which they have to come, and then by who needs them."""
    lacked = np.unique(needs.file)
    owners = np.repeat(np.arange(len(held.start) - 1, dtype=np.int32), np.diff(held.start))
    rows = np.isin(held.files, lacked)
    needers, holders = _by_file(needs.file, needs.cache, lacked), _by_file(held.files[rows], owners[rows], lacked)
    found: dict[tuple[bytes, bytes], Title] = {}
    for file, wanted, had in zip(lacked, needers, holders, strict=True):
        key = wanted.tobytes(), had.tobytes()
        before = found[key].size if key in found else 0.0
        found[key] = Title(wanted, had, before + float(needs.size[file]))
    return [found[key] for key in sorted(found, key=lambda key: (_lacking(network, found[key]), key))]


def _lacking(network: Network, title: Title) -> tuple[int, ...]:
    """Return the ISPs into which a title has to come."""
    return tuple(np.setdiff1d(network.isp[title.needers], network.isp[title.holders]).tolist())


def _passing(network: Network, titles: Sequence[Title]) -> tuple[Floats, Floats, Floats]:
    """Return how many bytes have to come into each cache, into each ISP, and out of the origins."""
    caches, isps, world = np.zeros(len(network.spans)), np.zeros(len(network.uplink)), np.zeros(1)
    for title in titles:
        caches[title.needers] += title.size
        isps[list(_lacking(network, title))] += title.size
        world[0] += title.size * (not len(title.holders))
    return caches, isps, world


def _by_file(files: Ints, caches: Ints, known: Ints) -> list[Ints]:
    order = np.lexsort((caches, files))
    return np.split(caches[order], np.searchsorted(files[order], known)[1:])


def _some(titles: Sequence[Title], count: int) -> list[Title]:
    """Return so many titles that stand for all: systematic sampling in proportion to size."""
    ends = np.cumsum([title.size for title in titles])
    step = float(ends[-1]) / count
    drawn = np.searchsorted(ends, (np.arange(count) + 0.5) * step)
    numbers, times = np.unique(drawn, return_counts=True)
    return [titles[number]._replace(size=step * time) for number, time in zip(numbers, times, strict=True)]


def _chunk(titles: Sequence[Title], pairs: int) -> tuple[int, float]:
    """Return the size of a chunk, and how many bytes one of the simulated bytes stands for."""
    chunk = default_chunk_size(int(max(title.size for title in titles)))
    if _pairs(titles, chunk) <= pairs:
        return chunk, 1.0
    stands_for = float(chunk)
    while _pairs(titles, stands_for) > pairs and stands_for < max(title.size for title in titles):
        stands_for *= 1.25
    return CHUNK_BYTES, stands_for / CHUNK_BYTES


def _pairs(titles: Sequence[Title], chunk: float) -> int:
    return sum(int(-(-title.size // chunk)) * len(title.needers) for title in titles)


# ---- the network


def _info(network: Network, cache: int) -> NodeInfo:
    caches = network.caches
    isp, region = int(network.isp[cache]), int(network.region[cache])
    cluster = caches.clusters[caches.cluster[cache]]
    return NodeInfo(NodeId(caches.names[cache]), caches.isps[isp], caches.regions[region], cluster)


def _mbit(rate: float, scale: float) -> float:
    """Return a rate as scenarios have it; 0: no limit."""
    return 0.0 if rate == inf else max(rate / scale, 1.0) / MBIT_BYTES


def _rates(network: Network, involved: Ints, scale: Floats, of_origin: float) -> dict[str, float]:
    """Return what links carry: of a cache what it takes in or serves, whichever is more."""
    caches = network.caches
    both = np.maximum(caches.filling, caches.serving)
    found = {caches.names[cache]: _mbit(float(both[cache]), float(scale[cache])) for cache in involved}
    return found | {ORIGIN: _mbit(sum(origin.rate for origin in network.origins), of_origin)}


def _uploads(network: Network, involved: Ints, scale: float) -> dict[str, float]:
    if network.sending is None:
        return {}
    return {network.caches.names[cache]: _mbit(float(network.sending[cache]), scale) for cache in involved}


def _uplinks(network: Network, scale: Floats) -> dict[str, float]:
    rows = zip(network.caches.isps, network.uplink, scale, strict=True)
    return {isp: _mbit(float(rate), float(by)) for isp, rate, by in rows if rate != inf}


def _limits(network: Network, cache: int, scale: float) -> RateLimits:
    """Return what a cache takes in, which its hours may limit further where all of them are of one rate."""
    rates = {span.rate for span in network.spans[cache]}
    rate = min(float(network.caches.filling[cache]), rates.pop() if len(rates) == 1 else inf)
    return RateLimits(inbound=Rates(total=0 if rate == inf else max(int(rate / scale), 1)))


def _hours(network: Network, involved: Ints, night: Night, scale: Floats, speed: float) -> dict[str, Any]:
    """Return when caches are open: spans where all are of one rate, and windows of the clock where they differ."""
    spans: dict[str, tuple[tuple[float, float, float], ...]] = {}
    windows: dict[str, Any] = {}
    for cache in involved:
        name, found = network.caches.names[cache], network.spans[cache]
        if len({span.rate for span in found}) > 1:
            windows[name] = {
                "timezone": "UTC",
                "window": [one for span in found for one in _windows(span, float(scale[cache]))],
            }
            continue
        ends = [(max(span.begin - night.start, 0.0), min(span.end, night.horizon) - night.start) for span in found]
        spans[name] = tuple((begin / speed, begin / speed, end / speed) for begin, end in ends if end > begin)
    return {"open_spans": spans, "windows": windows}


def _windows(span: Span, scale: float) -> list[dict[str, Any]]:
    """Return a span as windows on a clock that shows UTC, of a day at most each."""
    begin, end = (datetime.fromtimestamp(round(at / 60) * 60, UTC) for at in span[:2])
    found = []
    while begin < end:
        until = min(begin + timedelta(days=1), end)
        window = {"days": f"{begin:%a}", "from": f"{begin:%H:%M}", "to": f"{until:%H:%M}"}
        if span.rate != inf:
            window["rates"] = str(max(int(span.rate / scale), 1))
        found.append(window)
        begin = until
    return found


def _left_out(network: Network) -> list[str]:
    notes = []
    if np.isfinite(network.region_uplink).any():
        notes.append("uplinks of regions are left out")
    if any(origin.regions is not None or origin.files is not None for origin in network.origins):
        notes.append("origins serve all titles to all regions")
    return notes
