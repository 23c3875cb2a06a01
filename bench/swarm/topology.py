"""What a lab looks like and what happens in it, read from a TOML file. Pure: nothing is built here.

A topology file has these keys; all but `isps` and `host_mbit` may be left out:

    name = "3 ISPs x 4 caches"  what reports call it; by default the file's name
    size_mib = 256              the title's size
    origin = "origin"           the host that serves the title; every other host is a cache to be filled
    host_mbit = 200             every host's link, each way; 0 is not shaped
    uplink_mbit = 100           every ISP's uplink, each way, except that of the origin's ISP, which stands for a cloud
    apart = ["c4"]              caches whose end is not waited for, and which the bound leaves out

    [isps]                      ISP = its hosts
    cloud = ["origin"]
    isp-a = ["a1", "a2"]

    [rates]                     host = Mbit/s of its link each way, instead of host_mbit
    [upload_rates]              host = Mbit/s that it sends at most, instead of its rate
    [uplinks]                   ISP = Mbit/s of its uplink each way, instead of uplink_mbit
    [regions]                   ISP = its region; by default all ISPs are of one
    [weights]                   cache = the upload capacity that it claims relative to others; by default 1

    [[events]]                  what happens during the fill
    kind = "kill"               "kill" ends the host's process, "slow" narrows its link, "join" starts a cache only then
    host = "b1"
    at = 0.5                    when, as a fraction of the bound, as if all caches were there from the start; or
    at_s = 4.0                  when, in seconds after the order
    factor = 0.1                of "slow": what is left of the rate
    way = "both"                of "slow": "up" (what it sends), "down" or "both"

    [[titles]]                  several titles instead of one of size_mib, at least two; then there are no events
    name = "news"
    size_mib = 64
    priority = 10               as in the order; by default 0
    at = 0.3                    when it is ordered, as a fraction of the bound of all titles together; or
    at_s = 4.0                  in seconds after the first order; by default 0, which one of them must be

The caches that count are all but those that are `apart`, are killed, or have their download slowed: a run ends when the
last of them has the title, and its time is compared with the bound of these.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal

import msgspec

ISPS_MAX: Final = 200
HOSTS_MAX: Final = 250
"""Of one ISP: each has a /24."""

SIZE_MIB_MAX: Final = 1 << 20

TITLES_MAX: Final = 16

REGION: Final = "region"
"""Where an ISP is that names none."""

HOST_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
"""Becomes part of a network namespace's name, and a node's id."""


class TopologyError(ValueError):
    """A topology file does not describe a lab; the message says where and why."""


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that happens during a fill; the keys are explained at the top of this file."""

    kind: Literal["kill", "slow", "join"]
    host: str
    at: float | None = None
    at_s: float | None = None
    factor: float = 0.1
    way: Literal["both", "up", "down"] = "both"

    def __post_init__(self) -> None:
        if (self.at is None) == (self.at_s is None):
            raise ValueError(
                f"the event of {self.host!r} needs one of `at` (fraction of the bound) and `at_s` (seconds)"
            )
        if not 0 <= (self.at if self.at is not None else self.at_s or 0) < 3600:
            raise ValueError(f"the event of {self.host!r} must be at 0 or later")
        if not 0 < self.factor <= 1:
            raise ValueError(f"the factor of {self.host!r} must be above 0 and at most 1")

    def at_seconds(self, bound_s: float) -> float:
        """Return when it happens, in seconds after the order; `bound_s` is that of all caches from the start."""
        return self.at * bound_s if self.at is not None else self.at_s or 0.0


class Title(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of several titles; the keys are explained at the top of this file."""

    name: str
    size_mib: int
    priority: int = 0
    at: float | None = None
    at_s: float | None = None

    def __post_init__(self) -> None:
        if not HOST_NAME.fullmatch(self.name):
            raise ValueError(f"title name {self.name!r}: use lower-case letters, digits and '-', at most 31")
        if not 1 <= self.size_mib <= SIZE_MIB_MAX:
            raise ValueError(f"size_mib of title {self.name!r} must be 1 to {SIZE_MIB_MAX}")
        if self.at is not None and self.at_s is not None:
            raise ValueError(f"title {self.name!r} has both `at` (fraction of the bound) and `at_s` (seconds)")
        if not 0 <= self.at_seconds(1.0) < 3600:
            raise ValueError(f"title {self.name!r} must be ordered at 0 or later")

    def at_seconds(self, bound_s: float) -> float:
        """Return when it is ordered, in seconds after the first order; `bound_s` is that of all titles together."""
        return self.at * bound_s if self.at is not None else self.at_s or 0.0


class Host(msgspec.Struct, frozen=True):
    """One machine of the lab; rates in Mbit/s, 0 is not shaped."""

    name: str
    isp: str
    region: str
    down_mbit: float
    up_mbit: float
    weight: float
    address: str


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A topology file's contents; the keys are explained at the top of this file."""

    isps: dict[str, list[str]]
    host_mbit: float
    name: str = ""
    uplink_mbit: float = 0.0
    rates: dict[str, float] = {}
    upload_rates: dict[str, float] = {}
    uplinks: dict[str, float] = {}
    regions: dict[str, str] = {}
    weights: dict[str, float] = {}
    size_mib: int = 256
    origin: str = "origin"
    apart: list[str] = []
    events: list[Event] = []
    titles: list[Title] = []

    def __post_init__(self) -> None:
        names = [host for hosts in self.isps.values() for host in hosts]
        bad = [name for name in names if not HOST_NAME.fullmatch(name)]
        if bad:
            raise ValueError(f"host name {bad[0]!r}: use lower-case letters, digits and '-', at most 31")
        if len(set(names)) != len(names):
            raise ValueError("host names must be unique")
        if not 1 <= len(self.isps) <= ISPS_MAX or not all(1 <= len(hosts) <= HOSTS_MAX for hosts in self.isps.values()):
            raise ValueError(f"there must be 1 to {ISPS_MAX} ISPs of 1 to {HOSTS_MAX} hosts")
        if self.origin not in names:
            raise ValueError(f"the origin {self.origin!r} is in no ISP")
        if not 1 <= self.size_mib <= SIZE_MIB_MAX:
            raise ValueError(f"size_mib must be 1 to {SIZE_MIB_MAX}")
        self._check_titles()
        self._check_names(names)
        self._check_numbers()
        if not self.counted():
            raise ValueError("no cache is left that counts: at least one must be neither apart, killed nor slowed")

    def _check_titles(self) -> None:
        names = [title.name for title in self.titles]
        if len(set(names)) != len(names):
            raise ValueError("names of titles must be unique")
        if len(names) == 1 or len(names) > TITLES_MAX:
            raise ValueError(f"there must be 2 to {TITLES_MAX} titles; for one alone, size_mib says how large it is")
        if self.titles and self.events:
            raise ValueError("there are no events where there are several titles")
        if self.titles and min(title.at_seconds(1.0) for title in self.titles) > 0:
            raise ValueError("one of the titles must be ordered at 0")

    def _check_names(self, names: list[str]) -> None:
        caches = [name for name in names if name != self.origin]
        for key, known in (
            ("rates", names),
            ("upload_rates", names),
            ("uplinks", list(self.isps)),
            ("regions", list(self.isps)),
            ("weights", caches),
            ("apart", caches),
        ):
            unknown = [name for name in getattr(self, key) if name not in known]
            if unknown:
                raise ValueError(f"{key} names {unknown[0]!r}, which is not one of {', '.join(known)}")
        for event in self.events:
            if event.host not in (caches if event.kind == "join" else names):
                raise ValueError(f"an event ({event.kind}) names {event.host!r}, which is no such host")
        joining = [event.host for event in self.events if event.kind == "join"]
        if len(set(joining)) != len(joining):
            raise ValueError("a cache can join only once")

    def _check_numbers(self) -> None:
        rates = [self.host_mbit, self.uplink_mbit, *self.rates.values(), *self.upload_rates.values()]
        if min(*rates, *self.uplinks.values()) < 0:
            raise ValueError("a rate cannot be negative")
        if not all(0 < weight <= 1e6 for weight in self.weights.values()):
            raise ValueError("a weight must be above 0")
        unshaped = [e.host for e in self.events if e.kind == "slow" and not self.rates.get(e.host, self.host_mbit)]
        if unshaped:
            raise ValueError(f"{unshaped[0]!r} cannot be slowed: its link has no rate")

    @property
    def size(self) -> int:
        """The bytes of the title, or of all titles together."""
        return (sum(title.size_mib for title in self.titles) or self.size_mib) * 1024 * 1024

    def with_title(self, title: Title) -> Topology:
        """Return the same lab with one of its titles alone."""
        return msgspec.structs.replace(self, titles=[], size_mib=title.size_mib)

    def hosts(self) -> list[Host]:
        """Return all hosts with their addresses."""
        return [
            Host(
                name=host,
                isp=isp,
                region=self.regions.get(isp, REGION),
                down_mbit=(rate := self.rates.get(host, self.host_mbit)),
                up_mbit=self.upload_rates.get(host, rate),
                weight=self.weights.get(host, 1.0),
                address=f"10.{number}.0.{place}",
            )
            for number, (isp, hosts) in enumerate(self.isps.items(), 1)
            for place, host in enumerate(hosts, 1)
        ]

    def host(self, name: str) -> Host:
        """Return one host."""
        return next(host for host in self.hosts() if host.name == name)

    def caches(self) -> list[Host]:
        """Return the hosts that are to be filled."""
        return [host for host in self.hosts() if host.name != self.origin]

    def cloud(self) -> str:
        """Return the ISP of the origin."""
        return self.host(self.origin).isp

    def uplink(self, isp: str) -> float:
        """Return the Mbit/s of an ISP's uplink each way, 0 where it is not shaped."""
        return self.uplinks.get(isp, 0.0 if isp == self.cloud() else self.uplink_mbit)

    def counted(self) -> list[Host]:
        """Return the caches whose end is waited for."""
        hit = {
            event.host for event in self.events if event.kind == "kill" or (event.kind == "slow" and event.way != "up")
        }
        return [cache for cache in self.caches() if cache.name not in hit and cache.name not in self.apart]

    def late(self) -> set[str]:
        """Return the caches that join during the fill."""
        return {event.host for event in self.events if event.kind == "join"}


def parse_topology(text: str, name: str) -> Topology:
    """Read a topology from TOML; `name` is used where it has none. Raises `TopologyError`."""
    try:
        topology = msgspec.toml.decode(text, type=Topology)
    except msgspec.DecodeError as error:
        raise TopologyError(str(error)) from error
    return topology if topology.name else msgspec.structs.replace(topology, name=name)


def load_topology(path: Path) -> Topology:
    """Read a topology file. Raises `TopologyError`."""
    try:
        return parse_topology(path.read_text(), path.stem)
    except TopologyError as error:
        raise TopologyError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{path} cannot be read: {error}") from error
