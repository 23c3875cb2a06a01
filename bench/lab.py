"""A small Internet on one machine: a network namespace per host, grouped into ISPs, with shaped links.

Every host has a shaped link into its ISP's bridge, every ISP an uplink (shaped or not) into a core router. What crosses
an ISP's border is read from the counters of its uplink's interface, whatever software runs in the hosts. Needs root,
iproute2, and a kernel with veth, bridge and tbf.

Rejected: netem for delay and loss, which the kernels of many test machines lack; delay and loss are the simulator's.
"""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

BURST_S: Final = 0.008
"""A link's token bucket holds this much of its rate: two timer ticks at 250 Hz, so that the rate is reached."""

BURST_BYTES_MIN: Final = 64 * 1024
"""One segment as large as segmentation offload makes them."""

QUEUE_MS: Final = 40
"""How long a packet may queue at a shaped link before it is dropped."""

ISP_MAX: Final = 200
HOSTS_MAX: Final = 250
"""Of one ISP: each has a /24."""


@dataclass(frozen=True)
class Host:
    """One machine of the lab."""

    name: str
    isp: str
    rate_mbit: float
    address: str


@dataclass(frozen=True)
class Topology:
    """What a topology file says. Rates are Mbit/s in each direction; an uplink of 0 is not shaped."""

    name: str
    isps: dict[str, list[str]]
    host_mbit: float
    uplink_mbit: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)
    size_mib: int = 256
    origin: str = "origin"
    """The host that serves the title; its ISP is its own."""

    @classmethod
    def load(cls, path: Path) -> Topology:
        """Read a TOML file. Raises `ValueError` where it does not describe a lab."""
        settings: dict[str, Any] = tomllib.loads(path.read_text())
        isps = {name: list(hosts) for name, hosts in settings.pop("isps").items()}
        topology = cls(name=settings.pop("name", path.stem), isps=isps, **settings)
        names = [host for hosts in topology.isps.values() for host in hosts]
        if len(set(names)) != len(names) or len(isps) > ISP_MAX or max(map(len, isps.values())) > HOSTS_MAX:
            raise ValueError(f"{path}: host names must be unique, ISPs at most {ISP_MAX} of {HOSTS_MAX} hosts")
        if topology.origin not in names:
            raise ValueError(f"{path}: the origin {topology.origin!r} is in no ISP")
        return topology

    def hosts(self) -> list[Host]:
        """Return all hosts with their addresses."""
        return [
            Host(host, isp, self.rates.get(host, self.host_mbit), f"10.{number}.0.{place}")
            for number, (isp, hosts) in enumerate(self.isps.items(), 1)
            for place, host in enumerate(hosts, 1)
        ]

    def caches(self) -> list[Host]:
        """Return the hosts that are to be filled."""
        return [host for host in self.hosts() if host.name != self.origin]


def ip(*arguments: str, netns: str | None = None) -> str:
    """Run one `ip` command and return what it prints. Raises `subprocess.CalledProcessError`."""
    command = ["ip", *(["-n", netns] if netns else []), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Lab:
    """A topology, built. Use as a context manager; at its end nothing of it is left."""

    def __init__(self, topology: Topology, prefix: str = "pf") -> None:
        """`prefix` (at most 4 characters) keeps labs on one machine apart."""
        self.topology = topology
        self._prefix = prefix
        self._spaces: list[str] = []

    def __enter__(self) -> Lab:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def command(self, host: str, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs `arguments` on a host."""
        return ["ip", "netns", "exec", f"{self._prefix}-{host}", *arguments]

    def border_bytes(self) -> dict[str, tuple[int, int]]:
        """Return, per ISP, the bytes that have come in over its uplink and gone out."""
        counts = {}
        for number, isp in enumerate(self.topology.isps, 1):
            names = (f"/sys/class/net/{self._prefix}u{number}a/statistics/{way}_bytes" for way in ("rx", "tx"))
            command = ["ip", "netns", "exec", f"{self._prefix}-isp{number}", "cat", *names]
            into, out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            counts[isp] = (int(into), int(out))
        return counts

    # ---- construction

    def _build(self) -> None:
        core = self._space("core")
        for number, isp in enumerate(self.topology.isps, 1):
            self._build_isp(core, number, isp)

    def _build_isp(self, core: str, number: int, isp: str) -> None:
        space = self._space(f"isp{number}")
        ip("link", "add", "br0", "type", "bridge", netns=space)
        ip("addr", "add", f"10.{number}.0.254/24", "dev", "br0", netns=space)
        ip("link", "set", "br0", "up", netns=space)
        near, far = f"{self._prefix}u{number}a", f"{self._prefix}u{number}b"
        self._wire(near, space, far, core)
        ip("addr", "add", f"10.200.{number}.1/30", "dev", near, netns=space)
        ip("addr", "add", f"10.200.{number}.2/30", "dev", far, netns=core)
        ip("route", "add", "default", "via", f"10.200.{number}.2", netns=space)
        ip("route", "add", f"10.{number}.0.0/24", "via", f"10.200.{number}.1", netns=core)
        # An origin stands for a cloud: only its own link is narrow.
        if self.topology.uplink_mbit and self.topology.origin not in self.topology.isps[isp]:
            self._shape(space, near, self.topology.uplink_mbit)
            self._shape(core, far, self.topology.uplink_mbit)
        for place, host in enumerate([h for h in self.topology.hosts() if h.isp == isp], 1):
            self._build_host(space, number, place, host)

    def _build_host(self, isp_space: str, number: int, place: int, host: Host) -> None:
        space = self._space(host.name)
        inside, outside = f"{self._prefix}h{number}x{place}", f"{self._prefix}h{number}y{place}"
        self._wire(inside, space, outside, isp_space)
        ip("link", "set", outside, "master", "br0", netns=isp_space)
        ip("addr", "add", f"{host.address}/24", "dev", inside, netns=space)
        ip("route", "add", "default", "via", f"10.{number}.0.254", netns=space)
        if host.rate_mbit:
            self._shape(space, inside, host.rate_mbit)
            self._shape(isp_space, outside, host.rate_mbit)

    def _space(self, name: str) -> str:
        space = f"{self._prefix}-{name}"
        ip("netns", "add", space)
        self._spaces.append(space)
        ip("link", "set", "lo", "up", netns=space)
        subprocess.run(["ip", "netns", "exec", space, "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
        return space

    def _wire(self, first: str, first_space: str, second: str, second_space: str) -> None:
        ip("link", "add", first, "netns", first_space, "type", "veth", "peer", "name", second, "netns", second_space)
        ip("link", "set", first, "up", netns=first_space)
        ip("link", "set", second, "up", netns=second_space)

    def _shape(self, space: str, device: str, rate_mbit: float) -> None:
        burst = max(BURST_BYTES_MIN, int(rate_mbit * 1e6 / 8 * BURST_S))
        shaping = ["rate", f"{rate_mbit:g}mbit", "burst", f"{burst}b", "latency", f"{QUEUE_MS}ms"]
        subprocess.run(["tc", "-n", space, "qdisc", "add", "dev", device, "root", "tbf", *shaping], check=True)

    def _remove(self) -> None:
        for space in reversed(self._spaces):
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", space)
        self._spaces.clear()
