"""What fill does to viewers: the rate and the latency at which a cache serves them, without fill, beside it, and beside
fill in background mode.

    python -m bench.serving [--rounds 5] [--seconds 10] [--link 400] [--part 0.6] [--out docs/reports/serving] [--json]

A lab of network namespaces (root, iproute2, nginx): a cache, another cache, and viewers, each behind a link of its own.
nginx on the cache serves objects of 256 KiB to viewers who come at random, `part` of the link on average. Meanwhile the
cache fills one title from the other cache and sends it another one, both larger than the link can move in that time.
Contenders take turns: alone, beside fill, beside fill in background mode. A round counts as it is; medians over rounds.

Exit code 1 where viewers beside fill in background mode get less than `RATE_LEAST` of what they get alone, or their
99th percentile takes longer than `P99_MOST` times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.swarm.lab import BURST_BYTES_MIN, QUEUE_MS, Lab, LabError, entered
from bench.swarm.report import table_in_markdown
from bench.swarm.topology import Topology
from p2pfill.bench.measure import Machine, describe_machine, used_s
from p2pfill.bench.processes import find_program
from p2pfill.node.machine import interface_bytes

MODES: Final = ("alone", "fill", "background")
"""In the order of a round."""

RATE_LEAST: Final = 0.95
P99_MOST: Final = 1.2

OBJECT_BYTES: Final = 256 * 1024
OBJECTS: Final = 64
"""Sixteen megabytes: all in memory, so that the link is what is shared, and the processors."""

WARM_S: Final = 4.0
"""From the order until it is measured: links are made, and in background mode the rate has grown."""

HEAD: Final = (
    "viewers", "rate, MB/s", "rate / alone", "p50, ms", "p99, ms", "p99 / alone", "fill in, MB/s", "fill out, MB/s",
    "processors busy", "node, user s", "node, system s",
)  # fmt: skip

P2PFILL: Final = str(Path(sys.executable).with_name("p2pfill"))
ROOT: Final = Path(__file__).parents[1]

_NGINX: Final = """
daemon off; master_process off; worker_processes 1; pid {run}/nginx.pid; error_log {run}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {run}/t1; proxy_temp_path {run}/t2; fastcgi_temp_path {run}/t3;
  uwsgi_temp_path {run}/t4; scgi_temp_path {run}/t5;
  server {{ listen 8080; root {root}; }}
}}
"""


class Round(msgspec.Struct, frozen=True):
    """One measurement; rates are bytes of payload a second, latencies seconds."""

    mode: str
    rate: float
    p50_s: float
    p99_s: float
    unanswered: int
    fill_in: float
    fill_out: float
    busy: float
    """Of one processor, over the whole machine: other work on it is in it."""
    user_s: float
    system_s: float
    """Of the cache's node meanwhile."""


class Report(msgspec.Struct, frozen=True):
    """A run of the benchmark."""

    machine: Machine
    link_mbit: float
    part: float
    seconds: float
    load_before: float
    load_after: float
    rounds: list[Round]


class Hosts:
    """The lab, and what runs in it."""

    def __init__(self, lab: Lab, work: Path, link_mbit: float) -> None:
        self._lab = lab
        self._work = work
        self._link_mbit = link_mbit

    @contextmanager
    def running(self, host: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a process on a host, and end it."""
        with (self._work / "log").open("ab") as log:
            process = subprocess.Popen(self._lab.command(host, command), cwd=ROOT, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, host: str, *command: str) -> str:
        """Run a process on a host to its end, and return what it prints. Raises `LabError` where it fails."""
        done = subprocess.run(self._lab.command(host, command), cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"`{' '.join(command[:3])} ...` failed: {done.stderr.strip()[-400:]}")
        return done.stdout

    def node(self, host: str, data: str, *flags: str) -> Sequence[str]:
        """Return the command of a node."""
        config = self._work / f"{host}.toml"
        config.write_text(
            f'id = "{host}"\nisp = "isp-a"\ndata = "{self._work / data}"\ntracker = "{self.tracker_url}"\n'
            f'listen = "{self._address(host)}:7400"\nfree_bytes_min = 0\nscrub_bytes_s = 0\n'
            f'health = {{ interface = "eth0", link = "{self._link_mbit:g}Mbit", load = 0 }}\n'
        )
        return (P2PFILL, "node", "--config", str(config), *flags)

    @property
    def tracker_url(self) -> str:
        """Where the tracker listens."""
        return f"http://{self._address('origin')}:7070"

    def cache_url(self) -> str:
        """Where viewers ask."""
        return f"http://{self._address('cache')}:8080"

    def queue_as_usual(self) -> None:
        """Have the cache's link send as an interface does: with the kernel's usual queue, and without saving up.

        A bucket of tokens that has filled while nothing was sent lets an object of a viewer through faster than the
        link is, and only where nothing else uses the link.
        """
        shaping = ("rate", f"{self._link_mbit:g}mbit", "burst", f"{BURST_BYTES_MIN}b", "latency", f"{QUEUE_MS}ms")
        self.run("cache", "tc", "qdisc", "replace", "dev", "eth0", "root", "handle", "98:", "tbf", *shaping)
        self.run("cache", "tc", "qdisc", "add", "dev", "eth0", "parent", "98:", "handle", "99:", "pfifo_fast")

    def order(self, title: str, host: str, *more: str) -> None:
        """Order a title for one cache."""
        self.run(
            "origin", P2PFILL, "fill", str(self._work / f"{title}.fill"), "--to", f"id={host}", "--tracker",
            self.tracker_url, "--origin", str(self._work / title), *more,
        )  # fmt: skip

    def counted(self) -> tuple[int, int]:
        """Return what the cache's link has carried, in and out."""
        with entered(self._lab.space("cache")):
            found = interface_bytes("eth0")
        if found is None:
            raise LabError("the cache has no interface")
        return found

    def _address(self, host: str) -> str:
        return next(one.address for one in self._lab.topology.hosts() if one.name == host)


def measure(mode: str, rate_mbit: float, part: float, seconds: float) -> Round:
    """Build a lab, let one mode run in it, and return what was measured."""
    topology = Topology(
        isps={"cloud": ["origin"], "isp-a": ["cache", "other", "viewer"]}, host_mbit=0.0,
        rates={"cache": rate_mbit},
    )  # fmt: skip
    with TemporaryDirectory(prefix="p2pfill-serving-") as directory, Lab(topology) as lab, ExitStack() as stack:
        work = Path(directory)
        hosts = Hosts(lab, work, rate_mbit)
        hosts.queue_as_usual()
        _make_files(work, int(rate_mbit * 1e6 / 8 * (seconds + WARM_S + 2)))
        for title in ("first", "second"):
            hosts.run("origin", P2PFILL, "publish", str(work / title), "--name", title, "--out", f"{work / title}.fill")
        listen, database = hosts.tracker_url.removeprefix("http://"), f"sqlite:///{work}/tracker.db"
        stack.enter_context(hosts.running("origin", P2PFILL, "tracker", "--listen", listen, "--db", database))
        stack.enter_context(hosts.running("cache", _nginx(), "-p", str(work), "-c", str(work / "nginx.conf")))
        stack.enter_context(hosts.running("other", *hosts.node("other", "data-other")))
        with hosts.running("cache", *hosts.node("cache", "data-cache")):
            _until_answers(hosts)
            hosts.order("first", "other", "--wait", "--later", "--timeout", "120")
            hosts.order("second", "cache", "--wait", "--later", "--timeout", "120")
        flags = ["--background"] if mode == "background" else []
        node = stack.enter_context(hosts.running("cache", *hosts.node("cache", "data-cache", *flags)))
        time.sleep(2.0)
        if mode != "alone":
            hosts.order("first", "cache")
            hosts.order("second", "other")
        time.sleep(WARM_S)
        counted, machine, used, began = hosts.counted(), _machine_s(), used_s(node.pid), time.monotonic()
        a_second = part * rate_mbit * 1e6 / 8 / OBJECT_BYTES
        viewers = ("-m", "bench.viewers", hosts.cache_url(), "--seconds", str(seconds), "--rate", str(a_second))
        said: dict[str, Any] = json.loads(hosts.run("viewer", sys.executable, *viewers, "--objects", str(OBJECTS)))
        passed_s = time.monotonic() - began
        came, went = (after - before for after, before in zip(hosts.counted(), counted, strict=True))
        took = quantiles(said["took_s"], n=100, method="inclusive")
        spent_s = [after - before for after, before in zip(used_s(node.pid), used, strict=True)]
        return Round(
            mode=mode, rate=said["bytes"] / said["seconds"], p50_s=took[49], p99_s=took[98],
            unanswered=said["due"] - said["answered"], fill_in=came / passed_s,
            fill_out=max(0.0, went - 1.05 * OBJECT_BYTES * said["answered"]) / passed_s,
            busy=(_machine_s() - machine) / passed_s, user_s=spent_s[0], system_s=spent_s[1],
        )  # fmt: skip


def _make_files(work: Path, size: int) -> None:
    (work / "objects").mkdir()
    for number in range(OBJECTS):
        (work / "objects" / str(number)).write_bytes(os.urandom(OBJECT_BYTES))
    for title in ("first", "second"):
        (work / title).mkdir()
        with (work / title / "video").open("wb") as file:
            for _ in range(size // (1 << 20)):
                file.write(os.urandom(1 << 20))
    (work / "nginx.conf").write_text(_NGINX.format(run=work, root=work / "objects"))


def _nginx() -> str:
    found = find_program("nginx")
    if found is None:
        raise LabError("nginx is not installed; on Debian: apt-get install nginx-light")
    return found


def _until_answers(hosts: Hosts) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            listed = hosts.run("origin", P2PFILL, "nodes", "list", "--json", "--tracker", hosts.tracker_url)
            if len(json.loads(listed)) == 2:
                return
        except LabError:
            if time.monotonic() > until:
                raise
        time.sleep(0.2)


def _machine_s() -> float:
    """Return the seconds for which processors of this machine were busy since it was started."""
    figures = [int(figure) for figure in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(figures) - figures[3] - figures[4]) / os.sysconf("SC_CLK_TCK")


def rows_of(rounds: Sequence[Round]) -> list[tuple[str, ...]]:
    """Return the lines of the table, of medians."""

    def middle(mode: str, name: str) -> float:
        return float(median(getattr(one, name) for one in rounds if one.mode == mode))

    alone_rate, alone_p99 = middle("alone", "rate"), middle("alone", "p99_s")
    names = {"alone": "alone", "fill": "beside fill", "background": "beside fill in background mode"}
    return [
        (
            names[mode], f"{middle(mode, 'rate') / 1e6:.1f}", f"{middle(mode, 'rate') / alone_rate:.3f}",
            f"{middle(mode, 'p50_s') * 1e3:.1f}", f"{middle(mode, 'p99_s') * 1e3:.1f}",
            f"{middle(mode, 'p99_s') / alone_p99:.2f}", f"{middle(mode, 'fill_in') / 1e6:.1f}",
            f"{middle(mode, 'fill_out') / 1e6:.1f}", f"{middle(mode, 'busy'):.2f}", f"{middle(mode, 'user_s'):.2f}",
            f"{middle(mode, 'system_s'):.2f}",
        )
        for mode in MODES
    ]  # fmt: skip


def is_met(rounds: Sequence[Round]) -> bool:
    """Tell whether viewers beside fill in background mode get what they are to."""
    middle = {
        (mode, name): float(median(getattr(one, name) for one in rounds if one.mode == mode))
        for mode in ("alone", "background")
        for name in ("rate", "p99_s")
    }
    return (
        middle["background", "rate"] >= RATE_LEAST * middle["alone", "rate"]
        and middle["background", "p99_s"] <= P99_MOST * middle["alone", "p99_s"]
    )


def write(report: Report, out: Path) -> None:
    """Write the report as data and as a page."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "serving.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    count = len(report.rounds) // len(MODES)
    page = [
        "# Viewers beside fill\n",
        f"A cache behind a link of {report.link_mbit:g} Mbit/s, whose queue is the kernel's usual one (pfifo_fast), "
        f"serves objects of 256 KiB with nginx to viewers who come at random and want {report.part:.0%} of the link, "
        "while it fills one title from another cache and sends it another one. Medians of "
        f"{count} rounds of {report.seconds:g} s, contenders by turns, in network namespaces of one machine "
        f"({report.machine.processors} processors, {report.machine.kernel}, {report.machine.made_at[:10]}), "
        f"whose load was {report.load_before:.1f} before and {report.load_after:.1f} after. Latency counts from when a "
        "request was due. Fill is what the cache's interface counted besides viewers. Processors busy are of the whole "
        "machine, with all other work on it; the last columns are of the cache's node in one round.\n",
        table_in_markdown(HEAD, rows_of(report.rounds)),
        "\nMade by `make bench-serving`. As data: [serving.json](serving.json).\n",
    ]
    (out / "README.md").write_text("\n".join(page))


def main() -> int:
    """Parse the command line, measure, and print."""
    parser = argparse.ArgumentParser(description="Viewers beside fill")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--link", type=float, default=400.0, help="Mbit/s of the cache's link, each way")
    parser.add_argument("--part", type=float, default=0.6, help="of the link that viewers want")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    rounds = []
    try:
        for number in range(options.rounds):
            for mode in MODES:
                rounds.append(measure(mode, options.link, options.part, options.seconds))
                print(f"round {number + 1}, {mode}: {msgspec.json.encode(rounds[-1]).decode()}", file=sys.stderr)
    except LabError as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    report = Report(
        describe_machine(Path("/tmp")), options.link, options.part, options.seconds, load_before, os.getloadavg()[0],
        rounds,
    )  # fmt: skip
    if options.out is not None:
        write(report, options.out)
    if options.json:
        print(msgspec.json.encode(report).decode())
    else:
        table = Table(*HEAD)
        for row in rows_of(rounds):
            table.add_row(*row)
        Console().print(table)
    return 0 if is_met(rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
