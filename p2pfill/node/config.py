"""A node's settings, from a TOML file and from flags."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.hosts import is_loopback
from p2pfill.model.identity import Role
from p2pfill.model.ids import node_id_from_text
from p2pfill.model.limits import WEIGHT_MAX
from p2pfill.model.node import SERVES_ISP, NodeInfo
from p2pfill.model.rates import NO_LIMITS, RateLimits, read_limits
from p2pfill.model.timing import UPLOAD_SLOTS
from p2pfill.model.toml import read_toml
from p2pfill.model.windows import ALWAYS_OPEN, FillWindows, at_utc, read_windows
from p2pfill.node.health import HealthConfig
from p2pfill.node.in_use import split_command
from p2pfill.origin.access import OriginAccess, read_access
from p2pfill.origin.urls import check_origin
from p2pfill.tracker.urls import tracker_url

WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 (nothing listens here)
"""Addresses to listen on which nobody can connect to."""

_ADVERTISED: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^\s:\[\]/?#@]+)(?::(?P<port>\d{1,6}))?", re.ASCII)


class Rehearsal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A clock that shows another time than it is, and may run faster: a night then passes in a minute.

    Only the fill windows go by it. All nodes of a rehearsal are given the same one.
    """

    shows: str
    """What it shows, as 2026-11-29T20:00:00, in UTC."""
    at: float
    """When it shows that, in seconds since the epoch."""
    speed: float = 1.0
    """Seconds that it shows to go by in one."""

    def __post_init__(self) -> None:
        if not 0 < self.speed <= 100_000 or not 0 <= self.at < 1e11:
            raise ConfigError("clock: speed must be above 0 (and within reason), and at is a time")
        at_utc(self.shows)

    def __call__(self) -> float:
        """Return what it shows now, in seconds since the epoch."""
        return at_utc(self.shows) + (time.time() - self.at) * self.speed


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of a node; each is a key of the TOML file and a flag of `p2pfill node`."""

    id: str
    isp: str
    data: str
    """The directory that holds the titles."""
    region: str = "default"
    cluster: str = ""
    listen: str = "127.0.0.1:0"
    """HOST:PORT for control links and data streams; port 0 takes any free one."""
    advertise: str = ""
    """HOST or HOST:PORT that other nodes are told to connect to, an IPv6 address before a port in brackets; by default
    those of `listen`. The port is needed where one is forwarded to another."""
    tracker: str = ""
    """The tracker's URL. Without one, fills are started by the program that embeds the node."""
    identity: str = ""
    """A directory with the cache's certificate and key, and the authorities that it trusts (`trust.credentials`). With
    it all control links and the tracker's API are encrypted, and both sides show who they are."""
    insecure: bool = False
    """Listen beyond this machine without `identity`: whoever reaches the port is believed."""
    encrypt_data: bool = False
    """Whether payload goes through TLS between this cache and all others, whatever those say; needs `identity`. By
    default it does where the other cache is set so."""
    serves: str = ""
    """Whom it gives chunks to: "isp" for caches of its own ISP alone. By default all; it takes them from all."""
    weight: float = 1.0
    """Upload capacity relative to other caches."""
    latitude: float | None = None
    """Degrees north, with `longitude`: where the cache stands, for costs of routes."""
    longitude: float | None = None
    upload_slots: int = UPLOAD_SLOTS
    """Chunks sent at a time. Few would be held by receivers behind slow links, while the uplink has room for others."""
    data_workers: int = 4
    """Threads that move payload between sockets and disk."""
    drop_pages: bool = False
    """Whether titles leave the page cache once no other cache asks for them. By default they stay, as what was filled
    last is what is watched next, and a cache that asks late is served out of memory: see `node.cached`."""
    free_bytes_min: int = 1024**3
    """Where less is free on the disk, titles go that no order wants, the longest unused first; 0: only when a
    fill finds no room."""
    in_use_command: str = ""
    """A command that prints which titles viewers use, one a line, before any go; see `node.in_use`. It is run
    without a shell. Where it fails, nothing goes."""
    scrub_bytes_s: int = 4 * 1024 * 1024
    """Bytes a second that the scrubber reads of live titles, round after round; 0 turns it off. A disk reads so much in
    a few hundredths of its time, and 10 TB are read within a month."""
    windows: str | dict[str, Any] = ""
    """When the node fills: a timetable as a text or a table, see `model.windows`. By default always."""
    clock: Rehearsal | None = None
    """For rehearsals: what the clock of the fill windows shows, instead of the time."""
    rates: str | int | dict[str, Any] = ""
    """How fast this cache may receive and send (`model.rates.read_limits`): a text such as "150MiB" for all that comes
    in, or a table with `inbound` and `outbound`. Empty: as fast as it can. SIGHUP has the file's read again."""
    background: bool = False
    """Whether fill takes only what viewers leave of the link and, in a process of its own, of the processors; see
    `node.background`."""
    health: HealthConfig = HealthConfig()
    """From when on the cache counts as busy with its viewers, and does less for other caches (`node.health`)."""
    origins_allow: tuple[str, ...] = ()
    """Where origins may be: hosts (`cdn.example`, `*.cdn.example`), addresses and ranges (`10.1.0.0/16`), each with a
    scheme before it and a port after it or without, and buckets (`s3://films`). By default anywhere but where no origin
    is ever meant, and on the loopback of this machine only for a node that is wholly on it; see `origin.access`."""
    origin_dir: tuple[str, ...] = ()
    """Directories of this machine below which origins may lie. By default none, and any for a node that is wholly on
    loopback."""
    record: str = ""
    """A directory to which every fill writes what it decides and why, for `p2pfill sim --replay`."""

    def __post_init__(self) -> None:
        node_id_from_text(self.id)
        if not self.isp or not self.region or not self.data:
            raise ConfigError("isp, region and data must not be empty")
        if self.serves not in ("", SERVES_ISP):
            raise ConfigError(f"serves {self.serves[:40]!r} cannot be used: write {SERVES_ISP!r}, or leave it out")
        if not (0 < self.weight <= WEIGHT_MAX and 0 < self.upload_slots <= 1024 and 0 < self.data_workers <= 256):
            raise ConfigError(
                f"weight, upload_slots and data_workers must be above 0 and at most {WEIGHT_MAX:g}, 1024 and 256"
            )
        if (self.latitude is None) != (self.longitude is None):
            raise ConfigError("latitude and longitude go together: set both, or neither")
        if not (abs(self.latitude or 0.0) <= 90 and abs(self.longitude or 0.0) <= 180):
            raise ConfigError("latitude is in degrees from -90 to 90, longitude from -180 to 180")
        if not 0 <= self.free_bytes_min <= 1 << 60:
            raise ConfigError("free_bytes_min must be 0 or above (and within reason)")
        if not 0 <= self.scrub_bytes_s <= 1 << 40:
            raise ConfigError("scrub_bytes_s must be 0 or above (and within reason)")
        self.limits()
        split_command(self.in_use_command)
        self.origin_access()
        self.fill_windows()
        host, _ = self.listen_address()
        self.advertised()
        if self.tracker:
            tracker_url(self.tracker)
        if self.record and not Path(self.record).is_dir():
            raise ConfigError(f"record {self.record!r} is not a directory: make it, or leave the setting out")
        if self.tracker and not self.advertise and host in WILDCARDS:
            raise ConfigError(
                f"listen address {self.listen!r} means every address of this machine, and others need one: set "
                "advertise to the host on which other caches reach this one, or listen on that"
            )
        if self.identity and self.insecure:
            raise ConfigError("identity and insecure exclude each other: leave one of them out")
        if self.encrypt_data and not self.identity:
            raise ConfigError(
                "encrypt_data needs a certificate, by which caches know each other: give the node its identity (see "
                "docs/certificates.md), or leave encrypt_data out"
            )
        if not (self.identity or self.insecure or is_loopback(host)):
            raise ConfigError(
                f"listen address {self.listen!r} is reached by others, and nobody is asked who he is: give the node a "
                "certificate (identity, see docs/certificates.md), or say insecure if all who reach it are trusted"
            )

    def fill_windows(self) -> FillWindows:
        """Return the timetable of `windows`. Raises `ConfigError`."""
        return ALWAYS_OPEN if self.windows == "" else read_windows(self.windows)

    def limits(self) -> RateLimits:
        """Return what `rates` says. Raises `ConfigError`."""
        return NO_LIMITS if self.rates == "" else read_limits(self.rates, "rates")

    def origin_access(self) -> OriginAccess:
        """Return which origins this node may read. Raises `ConfigError`.

        Where all that it speaks to is on this machine, nobody else can have it read something.
        """
        hosts = [self.listen_address()[0], self.advertised()[0]]
        if self.tracker:
            hosts.append(urlsplit(tracker_url(self.tracker)).hostname or "")
        is_local = all(is_loopback(host) for host in hosts if host)
        return read_access(self.origins_allow, self.origin_dir, is_local=is_local)

    def listen_address(self) -> tuple[str, int]:
        """Return host and port of `listen`. Raises `ConfigError`."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"listen address {self.listen!r} cannot be used: write HOST:PORT, e.g. 10.0.0.11:7400")
        return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 (an empty host means all addresses)

    def advertised(self) -> tuple[str, int]:
        """Return the host and the port of `advertise`: "" and 0 where `listen` says them. Raises `ConfigError`."""
        if not self.advertise:
            return "", 0
        advice = f"advertise {self.advertise[:100]!r} cannot be used: write HOST or HOST:PORT, e.g. 198.51.100.7:7400"
        with suppress(ValueError):
            return str(IPv6Address(self.advertise)), 0
        found = _ADVERTISED.fullmatch(self.advertise)
        if found is None:
            raise ConfigError(f"{advice}; an IPv6 address before a port stands in brackets")
        port = int(found["port"] or 0)
        if found["port"] is not None and not 0 < port <= 65535:
            raise ConfigError(f"{advice}, with a port from 1 to 65535")
        try:
            check_origin(f"http://{found['host']}/")
        except ConfigError as error:
            raise ConfigError(f"{advice}; this is no host ({error})") from error
        return found["host"].strip("[]"), port

    def info(self, port: int) -> NodeInfo:
        """Return what the fleet is told of this node once it listens on `port`."""
        host, told_port = self.advertised()
        return NodeInfo(
            id=node_id_from_text(self.id),
            isp=self.isp,
            region=self.region,
            cluster=self.cluster,
            host=host or self.listen_address()[0],
            port=told_port or port,
            weight=self.weight,
            latitude=self.latitude,
            longitude=self.longitude,
            serves=self.serves,
        )

    @classmethod
    def load(cls, path: Path | None, **overrides: Any) -> NodeConfig:
        """Read the TOML file at `path` (or none) and apply those `overrides` that are not None.

        Raises `ConfigError`, in one line that names the setting.
        """
        settings: dict[str, Any] = {}
        if path is not None:
            try:
                settings = read_toml(path.read_text(encoding="utf-8-sig"))
            except OSError as error:
                raise ConfigError(f"cannot read config file {str(path)!r}: {error.strerror}") from error
            except (ConfigError, UnicodeDecodeError) as error:
                raise ConfigError(f"config file {str(path)!r} is not valid TOML: {error}") from error
        settings.update({name: value for name, value in overrides.items() if value is not None})
        if isinstance(directory := settings.get("identity"), str) and directory:
            # Who the node is and where it stands need not be said twice; `load_credentials` looks whether both agree.
            from p2pfill.trust.credentials import Credentials

            me = Credentials(Path(directory)).identity
            if me.role is Role.CACHE:
                mine = {"id": me.name, "isp": me.isp, "region": me.region, "cluster": me.cluster}
                settings = mine | {"serves": me.serves} | settings
        try:
            return msgspec.convert(settings, cls)
        except msgspec.ValidationError as error:
            # A ConfigError raised by a check above arrives wrapped; its own words are the clearer ones.
            cause = error.__cause__
            if isinstance(cause, ConfigError):
                raise cause from error
            raise ConfigError(f"node settings: {error}; see `p2pfill node --help`") from error
