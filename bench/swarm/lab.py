"""A small Internet on one machine: a network namespace per host, grouped into ISPs, with shaped links.

Every host has a shaped link into its ISP's bridge, every ISP an uplink (shaped or not) into a core router. What crosses
an ISP's border, and what reaches its hosts, is read from the counters of the interfaces in the ISP's namespace,
whatever software runs in the hosts. Needs root, iproute2, and a kernel with network namespaces, veth, bridge and tbf.

A namespace's name holds the process id of the lab that made it. So labs of several processes do not meet, and what one
that was killed has left behind is known by its process being gone, and removed by the next.

Rejected: netem for delay and loss, which the kernels of many test machines lack; delay and loss are the simulator's.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from bench.swarm.topology import Host, Topology

BURST_S: Final = 0.008
"""A link's token bucket holds this much of its rate: two timer ticks at 250 Hz, so that the rate is reached."""

BURST_BYTES_MIN: Final = 72 * 1024
"""One segment as large as segmentation offload makes them: 64 KiB, and headers for each packet that it stands for. A
bucket that is made smaller than what already waits before it never lets that through, nor anything behind it."""

QUEUE_MS: Final = 40
"""How long a packet may queue at a shaped link before it is dropped."""

PREFIX: Final = "p2pfill-lab-"
_OURS: Final = re.compile(rf"{PREFIX}(\d+)-")

COUNTERS_BYTES_MAX: Final = 1 << 20
"""Of /proc/net/dev: 130 bytes an interface."""


class LabError(Exception):
    """The lab cannot be built here; the message says what is missing."""


class IspBytes(NamedTuple):
    """What an ISP's interfaces have carried since the lab was built, in bytes with all headers."""

    border_in: int
    border_out: int
    delivered: int
    """To its hosts, from wherever."""


class HostCounts(NamedTuple):
    """What a host's link has carried since the lab was built, in bytes with all headers, and in packets.

    What is segmented only by the network card counts as one packet, with the headers of one.
    """

    bytes_in: int
    packets_in: int
    bytes_out: int
    packets_out: int


class Reading(NamedTuple):
    """All counters of the lab at one moment."""

    isps: dict[str, IspBytes]
    hosts: dict[str, HostCounts]


def ip(*arguments: str, netns: str | None = None) -> str:
    """Run one `ip` command and return what it prints. Raises `LabError`."""
    return _run("ip", *(["-n", netns] if netns else []), *arguments)


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed; on Debian: apt-get install iproute2") from error
    except subprocess.CalledProcessError as error:
        raise LabError(f"`{' '.join(command)}` failed: {error.stderr.strip()}") from error


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Put the calling thread into a network namespace meanwhile; sockets made there stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        if libc.setns(there.fileno(), 0):
            raise LabError(f"cannot enter namespace {namespace}: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            libc.setns(home.fileno(), 0)


def remove_leftovers() -> list[str]:
    """Remove the namespaces of labs whose process is gone; return their names."""
    found = [line.split()[0] for line in ip("netns", "list").splitlines() if line.strip()]
    stale = [name for name in found if (made := _OURS.match(name)) and not Path("/proc", made[1]).exists()]
    for name in stale:
        with suppress(LabError):
            ip("netns", "del", name)
    return stale


class Lab:
    """A topology, built. Use as a context manager; at its end nothing of it is left."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self._spaces: list[str] = []
        self._counters: dict[str, int] = {}

    def __enter__(self) -> Lab:
        if os.geteuid():
            raise LabError("the lab needs root, to make network namespaces")
        remove_leftovers()
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

    def space(self, host: str) -> str:
        """Return the name of a host's namespace."""
        return f"{PREFIX}{os.getpid()}-h-{host}"

    def command(self, host: str, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs `arguments` on a host, as a process with the same id."""
        return ["ip", "netns", "exec", self.space(host), *arguments]

    def isp_bytes(self) -> dict[str, IspBytes]:
        """Return what the interfaces of each ISP have counted. Costs a few system calls an ISP."""
        return self.read().isps

    def read(self) -> Reading:
        """Return what the interfaces have counted, of each ISP and each host; costs the same."""
        devices = {isp: _read_devices(fd) for isp, fd in self._counters.items()}
        hosts = {host.name: devices[host.isp][self._port(host)].turned() for host in self.topology.hosts()}
        return Reading({isp: _of_isp(found) for isp, found in devices.items()}, hosts)

    def congestion_control(self) -> str:
        """Return what TCP of the hosts uses."""
        return _run(*self.command(self.topology.origin, ["cat", "/proc/sys/net/ipv4/tcp_congestion_control"])).strip()

    def slow(self, host: Host, factor: float, way: str) -> None:
        """Leave a host only this part of its rate: of what it sends ("up"), is sent ("down"), or "both"."""
        if way in ("both", "up"):
            self._shape(self.space(host.name), "eth0", host.up_mbit * factor, verb="change")
        if way in ("both", "down"):
            self._shape(self._isp_space(host.isp), self._port(host), host.down_mbit * factor, verb="change")

    # ---- construction

    def _build(self) -> None:
        core = self._make(f"{PREFIX}{os.getpid()}-core", routes=True)
        for number, isp in enumerate(self.topology.isps, 1):
            self._build_isp(core, number, isp)

    def _build_isp(self, core: str, number: int, isp: str) -> None:
        space = self._make(self._isp_space(isp), routes=True)
        ip("link", "add", "br0", "type", "bridge", netns=space)
        ip("addr", "add", f"10.{number}.0.254/24", "dev", "br0", netns=space)
        ip("link", "set", "br0", "up", netns=space)
        far = f"isp{number}"
        self._wire("uplink", space, far, core)
        ip("addr", "add", f"10.200.{number}.1/30", "dev", "uplink", netns=space)
        ip("addr", "add", f"10.200.{number}.2/30", "dev", far, netns=core)
        ip("route", "add", "default", "via", f"10.200.{number}.2", netns=space)
        ip("route", "add", f"10.{number}.0.0/24", "via", f"10.200.{number}.1", netns=core)
        self._shape(space, "uplink", self.topology.uplink(isp))
        self._shape(core, far, self.topology.uplink(isp))
        for host in self.topology.hosts():
            if host.isp == isp:
                self._build_host(space, number, host)
        with entered(space):
            self._counters[isp] = os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)

    def _build_host(self, isp_space: str, number: int, host: Host) -> None:
        space = self._make(self.space(host.name), routes=False)
        port = self._port(host)
        self._wire("eth0", space, port, isp_space)
        ip("link", "set", port, "master", "br0", netns=isp_space)
        ip("addr", "add", f"{host.address}/24", "dev", "eth0", netns=space)
        ip("route", "add", "default", "via", f"10.{number}.0.254", netns=space)
        self._shape(space, "eth0", host.up_mbit)
        self._shape(isp_space, port, host.down_mbit)

    def _isp_space(self, isp: str) -> str:
        return f"{PREFIX}{os.getpid()}-i-{list(self.topology.isps).index(isp) + 1}"

    def _port(self, host: Host) -> str:
        return f"port{host.address.rpartition('.')[2]}"

    def _make(self, space: str, *, routes: bool) -> str:
        # Noted first: whoever is interrupted in between must still remove it.
        self._spaces.append(space)
        ip("netns", "add", space)
        ip("link", "set", "lo", "up", netns=space)
        if routes:
            _run("ip", "netns", "exec", space, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        return space

    def _wire(self, first: str, first_space: str, second: str, second_space: str) -> None:
        ip("link", "add", first, "netns", first_space, "type", "veth", "peer", "name", second, "netns", second_space)
        ip("link", "set", first, "up", netns=first_space)
        ip("link", "set", second, "up", netns=second_space)

    def _shape(self, space: str, device: str, rate_mbit: float, verb: str = "add") -> None:
        if rate_mbit:
            burst = max(BURST_BYTES_MIN, int(rate_mbit * 1e6 / 8 * BURST_S))
            shaping = ["rate", f"{rate_mbit:g}mbit", "burst", f"{burst}b", "latency", f"{QUEUE_MS}ms"]
            _run("tc", "-n", space, "qdisc", verb, "dev", device, "root", "tbf", *shaping)

    def _remove(self) -> None:
        for fd in self._counters.values():
            os.close(fd)
        self._counters.clear()
        while self._spaces:
            with suppress(LabError):
                ip("netns", "del", self._spaces[-1])
            self._spaces.pop()


class _Device(NamedTuple):
    received: int
    packets_received: int
    sent: int
    packets_sent: int

    def turned(self) -> HostCounts:
        """Return it as the host at its other end counts."""
        return HostCounts(self.sent, self.packets_sent, self.received, self.packets_received)


def _read_devices(fd: int) -> dict[str, _Device]:
    """Read /proc/net/dev of a namespace."""
    found = {}
    for line in os.pread(fd, COUNTERS_BYTES_MAX, 0).decode().splitlines()[2:]:
        device, _, fields = line.partition(":")
        counts = [int(text) for text in fields.split()]
        found[device.strip()] = _Device(counts[0], counts[1], counts[8], counts[9])
    return found


def _of_isp(devices: dict[str, _Device]) -> IspBytes:
    """Sum up what the interfaces of an ISP have counted. What comes out of a host's port there has reached the host."""
    uplink = devices["uplink"]
    delivered = sum(device.sent for name, device in devices.items() if name.startswith("port"))
    return IspBytes(uplink.received, uplink.sent, delivered)
