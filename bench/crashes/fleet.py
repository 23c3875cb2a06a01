"""A fleet whose processes are killed: a tracker, a cache beyond the ISP, and two in it, all with certificates.

`hub` lies in an ISP of its own. In `isp-a` nearly all that is fetched across the border is fetched by `a1`, whose
weight is a hundred times that of `a2`. All is on this machine. Rates are limited, so that a fill takes about a second
and a kill meets it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import trio

from bench.crashes.strace import HERE, find_strace
from bench.swarm.identities import TRACKER_NAME, Identities
from bench.swarm.topology import Host
from p2pfill.bench.processes import free_port
from p2pfill.errors import P2PFillError, TrackerError
from p2pfill.model.limits import KIB, MIB
from p2pfill.model.manifest import Manifest
from p2pfill.model.rates import read_limits
from p2pfill.model.reports import TitleReport
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient

ADDRESS: Final = "127.0.0.1"
CACHES: Final = {"hub": ("isp-h", 1.0), "a1": ("isp-a", 100.0), "a2": ("isp-a", 1.0)}
TRACKER: Final = "tracker"

CHUNK_BYTES: Final = 64 * KIB
TITLE_BYTES: Final = 2 * MIB
INBOUND_BYTES_S: Final = 3 * MIB
HEARTBEAT_S: Final = 1.0
SETTINGS: Final = "[health]\nload = 0\ndisk_reads = 0\nlink_use = 0\n"
"""Of all caches: that this machine is busy, as with other fleets, keeps none from serving."""
READY_S: Final = 120.0
"""For a process to start, on a machine that is busy."""
DONE_S: Final = 120.0
"""For a fill of a second."""
LOOK_S: Final = 0.04

AT_CALLS: Final = {
    "pwrite64": 25, "fdatasync,fsync,syncfs": 8, "rename,renameat,renameat2": 5, "unlink,unlinkat": 2,
    "symlink,symlinkat": 1, "mkdir,mkdirat": 1, "fchmod,utimensat": 4,
}  # fmt: skip
"""Calls of a cache at which it is killed -> how many of them it makes about, in one thread, in a fill."""
AT_CALLS_OF_SEED: Final = {"sendfile": 12}
AT_CALLS_OF_TRACKER: Final = {"pwrite64": 80, "fdatasync,fsync": 10}
AT_CALL_S: Final = 2.0
"""Added to the time after which a process is killed that may be killed at a call: it works more slowly then."""


class KillsFailed(P2PFillError):
    """The kills cannot be gone on with."""


class Title(NamedTuple):
    """What is filled in one round."""

    name: str
    root: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        """Its id, in hexadecimal digits."""
        return self.manifest.title_id.hex()


class Fleet:
    """The processes. `close` ends them."""

    def __init__(self, work: Path, chance: random.Random) -> None:
        """Make identities below `work`. Raises `ConfigError`, `OSError`."""
        self._work = work
        self._chance = chance
        self._ports = {name: free_port() for name in (TRACKER, *CACHES)}
        hosts = [Host(name, isp, "region", 0.0, 0.0, weight, ADDRESS) for name, (isp, weight) in CACHES.items()]
        self._identities = Identities(work / "identities", ADDRESS, hosts)
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._titles = 0
        (work / "node.toml").write_text(SETTINGS)
        self.url = f"https://{ADDRESS}:{self._ports[TRACKER]}"

    def client(self) -> TrackerClient:
        """Return a client that may do everything."""
        return self._identities.client(self.url)

    def data(self, name: str) -> Path:
        """Return the data directory of a cache."""
        return self._work / f"data-{name}"

    def log(self, name: str) -> str:
        """Return what a process has said so far."""
        return (self._work / f"{name}.log").read_text(errors="replace")

    # ---- processes

    def start(self, name: str) -> None:
        """Start a process, and do not wait for it."""
        if name == TRACKER:
            trust = ["--identity", self._identities.of(TRACKER_NAME), "--grants", str(self._identities.grants)]
            words = ["tracker", "--listen", f"{ADDRESS}:{self._ports[name]}", *trust]
            words += ["--db", f"sqlite:///{self._work}/tracker.db", "--heartbeat", str(HEARTBEAT_S)]
        else:
            words = ["node", "--config", str(self._work / "node.toml"), "--data", str(self.data(name))]
            words += ["--identity", self._identities.of(name)]
            words += ["--listen", f"{ADDRESS}:{self._ports[name]}", "--tracker", self.url]
            words += ["--weight", f"{CACHES[name][1]:g}", "--scrub-rate", "0", "--free-min", "0"]
        command = [sys.executable, "-m", "p2pfill.cli", *words, "--json", "--until-eof"]
        with (self._work / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=HERE,
                process_group=0, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
            )  # fmt: skip

    async def wait_ready(self, name: str) -> None:
        """Wait until a process that was started is ready. Raises `KillsFailed`."""
        process = self._processes[name]
        assert process.stdout is not None
        line = ""
        with trio.move_on_after(READY_S):
            line = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
        if not line:
            raise KillsFailed(f"{name} did not start: {self.log(name)[-2000:]}")

    async def kill(self, name: str, after_s: float, *, at_call: bool) -> bool:
        """Kill a process after some time, or before that at one of its calls; tell whether it was at a call."""
        process = self._processes[name]
        tracer = self._trace(name) if at_call else None
        with trio.move_on_after(after_s + AT_CALL_S * (tracer is not None)):
            while process.poll() is None:
                await trio.sleep(LOOK_S / 4)
        was_at_call = process.poll() is not None
        if was_at_call and (process.returncode != -signal.SIGKILL or tracer is None):
            raise KillsFailed(f"{name} has ended by itself with {process.returncode}: {self.log(name)[-2000:]}")
        process.kill()
        process.wait()
        if tracer is not None:
            tracer.kill()
            tracer.wait()
        self._let_go(process)
        return was_at_call

    def _trace(self, name: str) -> subprocess.Popen[bytes] | None:
        """Have the kernel kill a process at one of its next calls, as far as strace is here and may do so."""
        if (strace := find_strace()) is None:
            return None
        calls = {TRACKER: AT_CALLS_OF_TRACKER, "hub": AT_CALLS_OF_SEED}.get(name, AT_CALLS)
        which = self._chance.choice(list(calls))
        fault = f"inject={which}:signal=KILL:when={self._chance.randint(1, calls[which])}"
        whom = ["-p", str(self._processes[name].pid)]
        return subprocess.Popen(
            [strace, "-f", "-qq", *whom, "-e", f"trace={which}", "-e", fault, "-o", "/dev/null"],
            stderr=subprocess.DEVNULL,
        )

    def check(self) -> None:
        """Raise `KillsFailed` where a process has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise KillsFailed(f"{name} has ended by itself with {process.returncode}: {self.log(name)[-2000:]}")

    def tracebacks(self) -> list[str]:
        """Return the faults that processes have logged."""
        return [
            f"{name}.log: {text[text.index('Traceback') :][:1000]}"
            for name in (TRACKER, *CACHES)
            if "Traceback" in (text := self.log(name))
        ]

    def close(self) -> None:
        """End all processes."""
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self._processes.values():
            try:
                process.wait(READY_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._let_go(process)

    def _let_go(self, process: subprocess.Popen[str]) -> None:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    async def begin(self) -> None:
        """Start all, and wait until the tracker knows all caches. Raises `KillsFailed`."""
        self.start(TRACKER)
        await self.wait_ready(TRACKER)
        for name in CACHES:
            self.start(name)
        for name in CACHES:
            await self.wait_ready(name)
        async with self.client() as client:
            with trio.fail_after(READY_S):
                while sum(node.alive for node in await client.nodes()) < len(CACHES):
                    await trio.sleep(LOOK_S)
            await client.set_limit("all", read_limits({"inbound": INBOUND_BYTES_S}, "rates"))

    # ---- titles

    def make_title(self) -> Title:
        """Make a title of many chunks, in files with and without space of their own."""
        self._titles += 1
        name = f"film-{self._titles}"
        root = self._work / "sources" / name
        (root / "sub").mkdir(parents=True)
        (root / "movie.bin").write_bytes(self._chance.randbytes(TITLE_BYTES - 300_000))
        for number in range(5):
            (root / "sub" / f"{number}.srt").write_bytes(self._chance.randbytes(60_000))
        (root / "empty").touch()
        return Title(name, root, publish(root, name=name, chunk_size=CHUNK_BYTES).manifest)

    def compare(self, cache: str, titles: dict[str, Title], *, whole: Sequence[str] = ()) -> tuple[int, list[str]]:
        """Compare what a cache shows with its sources; return how many files were compared, and what is wrong.

        Titles in `whole` must be shown, with all of their files.
        """
        live, count, faults = self.data(cache) / "live", 0, []
        shown = {entry.name for entry in os.scandir(live)} if live.is_dir() else set()
        faults += [f"{cache} does not show {name}" for name in whole if name not in shown]
        for name in shown:
            if (title := titles.get(name)) is None:
                faults.append(f"{cache} shows {name}, which nobody has made")
                continue
            for path in filter(Path.is_file, title.root.rglob("*")):
                place = live / name / path.relative_to(title.root)
                try:
                    data = place.read_bytes()
                except FileNotFoundError:
                    if name in whole:
                        faults.append(f"{cache} lacks {name}/{path.name}")
                    continue
                count += 1
                if data != path.read_bytes():
                    faults.append(f"{cache} shows {name}/{path.name} with wrong bytes")
        return count, faults


async def wait_live(
    fleet: Fleet, client: TrackerClient, title: Title, caches: Sequence[str], since: float = 0.0
) -> dict[str, TitleReport]:
    """Wait until caches have reported, after the time `since`, that a title is live. Raises `KillsFailed`."""
    found: dict[str, TitleReport] = {}
    until = time.monotonic() + DONE_S
    while len(found) < len(caches):
        fleet.check()
        if time.monotonic() > until:
            raise KillsFailed(f"{title.name} is not live on {sorted(set(caches) - found.keys())} after {DONE_S:.0f} s")
        await trio.sleep(LOOK_S)
        for cache in caches:
            with suppress(TrackerError):
                node = await client.node(cache)
                report = next((one for one in node.titles if one.title == title.id), None)
                if node.seen_at > since and report is not None and report.state == "live":
                    found[cache] = report
    return found
