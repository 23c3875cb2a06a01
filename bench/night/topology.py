"""What happens in a night of the lab, read from a TOML file. Pure.

A file has the keys of a topology (`bench.swarm.topology`), several titles among them, and these:

    wall_at = "2026-11-28T21:00:00"   what the clocks of the windows show when the night begins, in UTC
    wall_speed = 720                  how many seconds go by on them in one
    lasts_s = 64                      when the night is over, in seconds after its beginning

    [windows]                         cache, ISP or region = its fill windows, as a text or a table of texts
    europe = "Europe/Berlin 02:00,max 06:00,off"

    [viewers]                         who keeps a cache busy all night
    name = "viewers"                  their host, which is in the ISP of the cache, with a link that is not shaped
    cache = "e-hub"
    streams = 4                       downloads at a time
    mbit = 40                         Mbit/s of each, as of a film that is watched; 0: as fast as it comes

Titles are ordered `at_s` seconds after the beginning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bench.swarm.topology import HOST_NAME, Host, Topology, TopologyError
from p2pfill.errors import ConfigError
from p2pfill.model.windows import FillWindows, at_utc, read_windows

LASTS_S_MAX: Final = 3600.0
STREAMS_MAX: Final = 64


class Span(NamedTuple):
    """A fill window, in seconds after the beginning of the night."""

    opens_s: float
    closes_s: float


class Viewers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who keeps a cache busy; the keys are explained at the top of this file."""

    name: str
    cache: str
    streams: int = 4
    mbit: float = 0.0


class NightTopology(Topology, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A night file's contents; the keys are explained at the top of this file."""

    wall_at: str
    wall_speed: float
    lasts_s: float
    windows: dict[str, str | dict[str, str]]
    viewers: Viewers

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.titles or any(title.at is not None for title in self.titles):
            raise ValueError("a night has several titles, each with `at_s`")
        if not 0 < self.lasts_s <= LASTS_S_MAX or not 0 < self.wall_speed <= 100_000:
            raise ValueError(f"lasts_s is above 0 and at most {LASTS_S_MAX:g}, and wall_speed above 0")
        host, cache = self.viewers.name, self.viewers.cache
        if cache not in [found.name for found in self.caches()]:
            raise ValueError(f"the viewers watch {cache!r}, which is no cache")
        if not HOST_NAME.fullmatch(host) or any(host in hosts for hosts in self.isps.values()):
            raise ValueError(f"the viewers' name {host!r} is a host's, or has other letters than a host's may have")
        if not 1 <= self.viewers.streams <= STREAMS_MAX or self.viewers.mbit < 0:
            raise ValueError(f"there are 1 to {STREAMS_MAX} streams of viewers, of 0 Mbit/s or more")
        try:
            at_utc(self.wall_at)
            for label, windows in self.windows.items():
                read_windows(windows, f"windows.{label}")
        except ConfigError as error:
            raise ValueError(str(error)) from error
        without = [found.name for found in self.caches() if not self.spans(found)]
        if without:
            raise ValueError(f"{without[0]!r} has no fill window in this night")

    def hosts(self) -> list[Host]:
        """Return all hosts with their addresses, that of the viewers too."""
        found = super().hosts()
        cache = next((host for host in found if host.name == self.viewers.cache), None)
        if cache is not None:
            place = cache.address.rpartition(".")[0]
            address = f"{place}.{len(self.isps[cache.isp]) + 1}"
            found.append(Host(self.viewers.name, cache.isp, cache.region, 0.0, 0.0, 1.0, address))
        return found

    def caches(self) -> list[Host]:
        """Return the hosts that are to be filled."""
        return [host for host in super().caches() if host.name != self.viewers.name]

    def written_windows(self, cache: Host) -> str | dict[str, str]:
        """Return the timetable of a cache as the file has it; empty where it has none."""
        labels = (cache.name, cache.isp, cache.region)
        return next((self.windows[label] for label in labels if label in self.windows), "")

    def wall(self, seconds: float) -> float:
        """Return what the clocks show so long after the beginning, in seconds since the epoch."""
        return at_utc(self.wall_at) + seconds * self.wall_speed

    def date(self) -> str:
        """Return how the tracker names the night: by the date on which it begins where the first window opens."""
        first = min(self.caches(), key=lambda cache: self.spans(cache)[0].opens_s)
        windows = read_windows(self.written_windows(first))
        return windows.night(self.wall(self.spans(first)[0].opens_s))

    def spans(self, cache: Host) -> list[Span]:
        """Return the fill windows of a cache in this night."""
        written = self.written_windows(cache)
        windows = read_windows(written) if written else FillWindows()
        found: list[Span] = []
        at_s = 0.0
        while at_s < self.lasts_s:
            moment = windows.at(self.wall(at_s))
            ends_s = at_s + max(moment.until - self.wall(at_s), 1.0) / self.wall_speed
            if moment.is_open:
                found.append(Span(at_s, min(ends_s, self.lasts_s)))
            at_s = ends_s
        return found


def load_night(path: Path) -> NightTopology:
    """Read a night file. Raises `TopologyError`."""
    try:
        night = msgspec.toml.decode(path.read_text(), type=NightTopology)
    except msgspec.DecodeError as error:
        raise TopologyError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{path} cannot be read: {error}") from error
    return night if night.name else msgspec.structs.replace(night, name=path.stem)
