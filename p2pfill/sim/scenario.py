"""What to simulate, read from a TOML file: the caches, their network, the titles, and what goes wrong.

A topology of the lab (bench/topologies) is a scenario as it is; what only the simulator knows has defaults that fit the
lab. Rates are Mbit/s in each direction, 0 means without limit.
"""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.cut import Cut
from p2pfill.model.fleet_policy import NO_POLICY, FleetPolicy, parse_policy
from p2pfill.model.ids import NodeId
from p2pfill.model.limits import KIB, MIB
from p2pfill.model.manifest import Manifest, default_chunk_size, layout
from p2pfill.model.node import SERVES_ISP, NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.rates import RateLimits
from p2pfill.model.timing import UPLOAD_SLOTS
from p2pfill.model.windows import FillWindows, at_utc, read_windows

CACHES_MAX: Final = 100_000
"""Beyond this not even the smallest title fits into a machine's memory."""

UNLIMITED_BYTES_S: Final = 1e12
"""The rate of what has no limit: faster than any link that there is."""

MBIT_BYTES: Final = 1e6 / 8


class TitleSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several titles, as topologies of the lab name them."""

    name: str
    size_mib: float
    priority: int = 0
    at: float | None = None
    """When it is ordered, as a part of the bound of all titles together."""
    at_s: float | None = None
    """Or in seconds after the first order."""
    chunk_kib: int = 0
    """0: as `publish` would choose."""
    integrity: Literal["blake3", "xxh3"] = "blake3"
    now: bool = False
    """It is filled whether fill windows are open or not."""
    called: str = ""
    """The name by which rules of the fleet's policy choose it; empty: `name`."""
    policy: FillPolicy | None = None
    """Of its order; None: that of the scenario."""
    origin: str = ""
    """The URL of its origin, by which budgets of the fleet's policy count; empty: the name of the scenario's."""
    deadline: float | None = None
    """When it should be live, in seconds since the epoch: among titles of one priority the earlier goes first."""
    caches: tuple[str, ...] = ()
    """For which it is ordered; empty: all."""
    held: dict[str, float] = {}
    """Cache -> the part of its chunks that is there when the run begins, the first ones; with 1 it is live."""
    parts: dict[str, float] = {}
    """Cache -> the part of its chunks that is to be there, the first ones, where that is not all."""

    @property
    def size(self) -> int:
        """Its bytes."""
        return int(self.size_mib * MIB)

    def manifest(self, parts: int = 0) -> Manifest:
        """Return the title, of so many files that have about the same size, or one.

        Its digests are zeros: whether bytes are right is known without them here.
        """
        chunk_size = self.chunk_kib * KIB or default_chunk_size(self.size)
        ends = [self.size * number // max(parts, 1) for number in range(max(parts, 1) + 1)]
        files = layout((f"file{number:04}", end - start) for number, (start, end) in enumerate(pairwise(ends)))
        count = Cut(files, chunk_size).count
        return Manifest(self.name, chunk_size, files, bytes(16 * count), bytes(32 * count), self.integrity)


class FaultSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that goes wrong, at a time from the start, and is healed `for_s` seconds later."""

    kind: str
    """A name of `p2pfill.sim.faults`."""
    at_s: float = 0.0
    at_part: float | None = None
    """It begins once `node` has this part of the title's chunks, and not before `at_s`; 1: all but one of them."""
    for_s: float = 10.0
    """inf: it is never healed, and what does not need to be is to complete all the same."""
    node: str = ""
    """The cache, or for a partition the cache or ISP, that it befalls."""
    title: str = ""
    """Where a fault is one of a title: the only one that it befalls; empty: all of them."""
    peer: str = ""
    """For `one-way`: the cache that does not hear it; empty: one of the caches with which it is linked."""
    factor: float = 0.1
    """For `slow` and `slow-origin`: what is left of the rate. For `slow-disk`: the part of its speed that is left.
    For `busy`: the part of what it sends that its viewers leave."""


class LabEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens during a fill in the lab, for good: a process ends, a link becomes narrower, a cache joins late."""

    kind: Literal["kill", "slow", "join"]
    host: str
    at: float | None = None
    """As a part of the bound of all caches."""
    at_s: float | None = None
    factor: float = 0.1
    """For `slow`: what is left of the rate."""
    way: Literal["both", "up", "down"] = "both"


class Chaos(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Faults drawn from the seed."""

    kinds: tuple[str, ...] = ()
    """Empty: all of them."""
    count_max: int = 6
    span_s: float = 10.0
    """Faults begin within this time, and each is healed after at most twice as much."""
    clock_offset_s: float = 1000.0
    clock_drift: float = 0.02
    """By how much clocks differ at most, and by what part of a second each second."""
    jitter_ms: float = 5.0
    """What a message takes longer at most."""
    rate_min: float = 0.3
    """Links carry between this part and all of what the scenario says."""
    titles_max: int = 1
    """Into so many titles, at most, what is to be filled is divided, each with a priority and a time of its own."""

    def draw_titles(self, whole: TitleSpec, random: Random) -> tuple[TitleSpec, ...]:
        """Return `whole`, divided."""
        count = random.randint(1, self.titles_max)
        return tuple(
            TitleSpec(
                f"title{number}",
                whole.size_mib / count,
                random.choice((0, 0, 1, 2)),
                at_s=random.uniform(0.0, self.span_s / 2) if number else 0.0,
                chunk_kib=whole.chunk_kib,
                integrity=random.choice(("blake3", "xxh3")),
            )
            for number in range(count)
        )


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Caches that need no names of their own: `caches` in `isps` equal ISPs of `regions` regions."""

    caches: int
    isps: int = 1
    regions: int = 1


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A simulation, apart from its seed."""

    name: str = ""
    isps: dict[str, list[str]] = {}
    fleet: Fleet | None = None
    caches: tuple[NodeInfo, ...] = ()
    """Caches as they say of themselves, besides those of `isps` and `fleet`."""
    regions: dict[str, str] = {}
    """ISP -> region; `region` where it is not named."""
    origin: str = "origin"
    host_mbit: float = 0.0
    uplink_mbit: float = 0.0
    uplinks: dict[str, float] = {}
    """ISP -> Mbit/s of its uplink, where it differs."""
    rates: dict[str, float] = {}
    """Host -> Mbit/s, where it differs."""
    upload_rates: dict[str, float] = {}
    """Host -> Mbit/s that it sends at most, where that is less than its rate."""
    weights: dict[str, float] = {}
    inward: tuple[str, ...] = ()
    """Caches, or all of an ISP, that serve their own ISP alone."""
    size_mib: float = 256
    chunk_kib: int = 0
    """0: as `publish` would choose."""
    titles: tuple[TitleSpec, ...] = ()
    """Several titles instead of the one of `size_mib`."""
    goodput: float = 0.957
    """The part of a link's rate that carries payload: what one TCP stream gets in the lab."""
    delay_ms: float = 0.2
    """One way between two hosts, while no queue stands before a link."""
    isp_delay_ms: float = 0.0
    """What it takes longer into another ISP."""
    region_delay_ms: float = 0.0
    """What it takes longer still into another region."""
    queue_ms: float = 20.0
    """What a message waits longer before each full link: half of the queue that the lab's links have."""
    start_ms: float = 1.0
    """Until the first byte of a transfer moves, where its stream was idle."""
    read_ms: float = 2.0
    """Until the first byte of an origin's answer moves."""
    sync_ms: float = 20.0
    """A commit."""
    order_ms: float = 50.0
    """Within which the order to fill reaches the caches, one after the other."""
    origin_spread: float = 0.0
    """How unequally caches share the origin's link: the standard deviation of the logarithms of what each one's stream
    gets beside others, for the whole of a fill. TCP is not fair to streams that compete for so long; 0: all alike."""
    upload_slots: int = UPLOAD_SLOTS
    policy: FillPolicy = FillPolicy()
    lease_s: float = 6.0
    """After which the tracker takes a silent cache for dead: three heartbeats."""
    poll_s: float = 25.0
    """After which a cache is told its roster again though nothing has changed; 0: never."""
    neighbours: int = 0
    """About how many caches of its own ISP each is linked with, however small the fleet; 0: as a tracker decides."""
    exact: bool = True
    """Sharing of bandwidth worked out over the whole network; see `p2pfill.sim.flows`."""
    wire: bool = False
    """Every message is encoded, and both ends of each link keep the rules of the protocol."""
    check_tiers: bool = True
    """Work out anew, at each request that crosses a border, whether it was due; costs an election a roster."""
    events: tuple[LabEvent, ...] = ()
    apart: tuple[str, ...] = ()
    """Caches that neither the time nor the bound counts."""
    faults: tuple[FaultSpec, ...] = ()
    chaos: Chaos | None = None
    windows: dict[str, Any] = {}
    """Cache, ISP or region -> its fill windows, as in a node's settings; those of a cache come first, then of the ISP.
    The others fill always."""
    fleet_policy: str = ""
    """The fleet's policy, as its document has it (`model.fleet_policy`)."""
    limits: dict[str, RateLimits] = {}
    """Cache -> limits that it keeps to beside those of the policy and of its windows, in bytes a second."""
    open_spans: dict[str, tuple[tuple[float, float, float], ...]] = {}
    """Cache -> when it says that it opens in a moment, opens, and closes, in virtual seconds, in place of fill windows
    and of the policy's."""
    wall_at: str = "2026-11-29T12:00:00"
    """What the walls show when the simulation begins, in UTC."""
    wall_speed: float = 1.0
    """Seconds that go by on the walls in one virtual second."""
    parts: int = 0
    """Each title has so many files, and each cache wants some of them only, drawn from the seed; 0: all of one file."""
    limit_s: float = 600.0
    """Virtual seconds after the last fault is healed, by which everything must be complete."""
    end_s: float = 0.0
    """When the run ends, whatever is lacking then; 0: it goes on until everything is complete."""
    quiet_s: float = 0.0
    """With `end_s` it also ends when nothing has come for so long, and no order, cache or window is yet to come; 0: it
    does not."""

    @classmethod
    def load(cls, path: Path) -> Scenario:
        """Read a scenario, or a topology of the lab. Raises `ConfigError`."""
        try:
            settings: dict[str, Any] = tomllib.loads(path.read_text())
            scenario = msgspec.convert(settings, cls, strict=False)
            scenario.check()
        except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError, ConfigError) as error:
            raise ConfigError(f"{path} is not a scenario: {error}") from error
        return scenario

    def check(self) -> None:
        """Raise `ConfigError` where the parts do not fit together."""
        names = [host for hosts in self.isps.values() for host in hosts]
        names += [info.id for info in self.caches]
        if len(set(names)) != len(names):
            raise ConfigError("host names must be unique")
        if self.fleet is not None and not 0 < self.fleet.caches <= CACHES_MAX:
            raise ConfigError(f"a fleet has 1 to {CACHES_MAX} caches, not {self.fleet.caches}")
        if not self.counted():
            raise ConfigError("there is no cache to fill that counts")
        hosts = {info.id for info in self.infos()} | {self.origin}
        for event in self.events:
            if event.host not in hosts or (event.kind != "slow" and event.host == self.origin):
                raise ConfigError(f"an event ({event.kind}) names {event.host!r}, which is no such host")
            if (event.at is None) == (event.at_s is None):
                raise ConfigError(f"the event of {event.host!r} needs one of at (part of the bound) and at_s (seconds)")
        for label, windows in self.windows.items():
            read_windows(windows, f"windows.{label}")
        self.rules()
        self._check_titles(hosts - {self.origin})
        if not 0 < self.wall_speed <= 1e6 or at_utc(self.wall_at) < 0:
            raise ConfigError("wall_speed is above 0, and wall_at is a time such as 2026-11-29T12:00:00")
        titles = self.all_titles()
        if min(title.size_mib for title in titles) <= 0:
            raise ConfigError("a title is empty")
        if len({title.name for title in titles}) != len(titles):
            raise ConfigError("names of titles must be unique")
        if min(self.ordered_s(title) for title in titles):
            raise ConfigError("one of the titles must be ordered at 0")
        if self.origin_spread < 0 or (self.origin_spread and not self.exact):
            raise ConfigError("origin_spread is not below 0, and needs exact sharing of bandwidth: leave out `exact`")

    def _check_titles(self, caches: set[str]) -> None:
        for title in self.titles:
            for name in (*title.caches, *title.held, *title.parts):
                if name not in caches:
                    raise ConfigError(f"title {title.name!r} names {name!r}, which is no cache")
            if any(not 0 <= part <= 1 for part in (*title.held.values(), *title.parts.values())):
                raise ConfigError(f"a part of title {title.name!r} is not from 0 to 1")

    def rules(self) -> FleetPolicy:
        """Return the fleet's policy. Raises `PolicyError`."""
        return parse_policy(self.fleet_policy) if self.fleet_policy else NO_POLICY

    @property
    def wall_start_s(self) -> float:
        """What the walls show when the simulation begins, in seconds since the epoch."""
        return at_utc(self.wall_at)

    def read_windows(self, windows: object) -> FillWindows:
        """Return a timetable of the scenario. Raises `ConfigError`."""
        return read_windows(windows)

    def windows_of(self, info: NodeInfo) -> object | None:
        """Return the timetable of a cache as it is written; None where it has none."""
        for label in (info.id, info.isp, info.region):
            if label in self.windows:
                found: object = self.windows[label]
                return found
        return None

    def infos(self) -> list[NodeInfo]:
        """Return all caches."""
        found = [
            NodeInfo(NodeId(name), isp, self.regions.get(isp, "region"), weight=self.weights.get(name, 1.0))
            for isp, hosts in self.isps.items()
            for name in hosts
            if name != self.origin
        ]
        if self.fleet is not None:
            fleet = self.fleet
            for number in range(fleet.caches):
                isp = number * fleet.isps // fleet.caches
                region = isp * fleet.regions // fleet.isps
                found.append(NodeInfo(NodeId(f"c{number:05}"), f"isp{isp:03}", f"region{region:02}"))
        return [
            msgspec.structs.replace(info, serves=SERVES_ISP) if {info.id, info.isp} & set(self.inward) else info
            for info in (*found, *self.caches)
        ]

    @property
    def origin_isp(self) -> str:
        """The network in which the origin stands; one of its own where none is named."""
        return next((isp for isp, hosts in self.isps.items() if self.origin in hosts), "cloud")

    def rate(self, host: str) -> float:
        """Return what a host's link carries, in bytes of payload per second."""
        return self._bytes_s(self.rates.get(host, self.host_mbit))

    def upload_rate(self, host: str) -> float:
        """Return what a host sends at most, in bytes of payload per second."""
        return self._bytes_s(self.upload_rates.get(host, self.rates.get(host, self.host_mbit)))

    def uplink_rate(self, isp: str) -> float | None:
        """Return what an ISP's uplink carries, in bytes of payload per second; None where it has no limit.

        The origin stands for a cloud: only its own link is narrow.
        """
        mbit = self.uplinks.get(isp, 0.0 if isp == self.origin_isp else self.uplink_mbit)
        return self._bytes_s(mbit) if mbit else None

    def _bytes_s(self, mbit: float) -> float:
        return mbit * MBIT_BYTES * self.goodput if mbit else UNLIMITED_BYTES_S

    def all_titles(self) -> tuple[TitleSpec, ...]:
        """Return the titles; one where none is named."""
        return self.titles or (TitleSpec("simulated", self.size_mib, chunk_kib=self.chunk_kib),)

    @property
    def size(self) -> int:
        """The bytes of all titles together."""
        return sum(title.size for title in self.all_titles())

    def ordered_s(self, title: TitleSpec) -> float:
        """Return when a title is ordered, in seconds after the first order."""
        return title.at * self.bound_s(self.infos()) if title.at is not None else title.at_s or 0.0

    def counted(self) -> list[NodeInfo]:
        """Return the caches whose end is waited for: none that is apart, killed, or slowed in what it takes in."""
        hit = {event.host for event in self.events if event.kind == "kill"}
        hit |= {event.host for event in self.events if event.kind == "slow" and event.way != "up"}
        return [info for info in self.infos() if info.id not in hit and info.id not in self.apart]

    def at_s(self, event: LabEvent) -> float:
        """Return when an event happens, in seconds after the order."""
        return event.at * self.bound_s(self.infos()) if event.at is not None else event.at_s or 0.0

    def bound_s(self, infos: list[NodeInfo] | None = None) -> float:
        """Return the least seconds in which all titles can reach `infos` (by default those that count).

        The largest of the cuts that are known: one host's link, an ISP's uplink, the origin's link, all of an ISP, and
        all of the fleet.
        """
        size = self.size
        origin = self.upload_rate(self.origin)
        groups: dict[str, list[str]] = {}
        for info in self.counted() if infos is None else infos:
            groups.setdefault(info.isp, []).append(info.id)
        names = [name for group in groups.values() for name in group]
        upload = sum(self.upload_rate(info.id) for info in self.infos())
        joins = {event.host: self.at_s(event) for event in self.events if event.kind == "join"} if infos is None else {}
        cuts = [joins.get(name, 0.0) + size / self.rate(name) for name in names]
        cuts += [size / origin, size * len(names) / (origin + upload)]
        for isp, group in groups.items():
            uplink = self.uplink_rate(isp)
            if uplink is not None:
                sent = sum(self.upload_rate(info.id) for info in self.infos() if info.isp == isp)
                cuts += [size / uplink, size * len(group) / (uplink + sent)]
        return max(cuts)
