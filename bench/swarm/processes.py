"""The processes of a run: each on a host of the lab, watched, spoken to in lines of JSON, and ended.

Each is in a process group of its own, so Ctrl-C reaches the benchmark only, which then ends them in order. Each reads
its standard input from a pipe that the benchmark holds and stops at its end: none outlives a benchmark that is killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol

import trio

from bench.swarm.clocks import Cpu, GroupUse, ProcessClock, cpu_of, groups_between, read_cpu, read_process
from bench.swarm.counts import ASK_SIGNAL

READY_S: Final = 120.0
"""For a process to say that it is ready, while tens of others start on two cores."""
COUNTS_S: Final = 10.0
"""For a node to say its counts, on a machine that has just become less busy."""
STOP_S: Final = 5.0
"""From SIGTERM to SIGKILL."""
LINE_BYTES_MAX: Final = 65536
LOG_TAIL_BYTES: Final = 400

ROOT: Final = Path(__file__).parents[2]


class RunFailed(Exception):
    """A run did not come to its end; the message says why."""


class Hosts(Protocol):
    """Where processes run: a lab, or this machine."""

    def command(self, host: str, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs `arguments` on a host, as a process with the same id."""


class ThisMachine:
    """No lab: all hosts are this machine."""

    def command(self, host: str, arguments: Sequence[str]) -> list[str]:
        """Return the command line as it is."""
        return list(arguments)


class Use(NamedTuple):
    """What a process took: until the clocks were started, and from then on."""

    start: Cpu
    since: Cpu
    """Of all groups; what threads that ended took of less than `REST_S` is not in it."""
    groups: dict[str, GroupUse]
    """By group of threads, since then."""


NO_CLOCK: Final = ProcessClock(Cpu(0.0, 0.0), {})


class Peer:
    """One process on one host. `name` is the host's, or what else runs there."""

    def __init__(self, name: str, process: trio.Process, log: Path) -> None:
        self.name = name
        self.killed = False
        self._process = process
        self._log = log
        self._buffer = bytearray()
        self._before = self._last = NO_CLOCK
        self._cpu_last = NO_CLOCK.cpu

    async def read_record(self) -> dict[str, Any] | None:
        """Return the next line that it prints, as JSON; None where its output has ended."""
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            piece = await self._process.stdout.receive_some(LINE_BYTES_MAX)
            if not piece:
                return None
            self._buffer += piece
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        record: dict[str, Any] = json.loads(line)
        return record

    async def read_ready(self) -> dict[str, Any]:
        """Return its first line. Raises `RunFailed` where none comes."""
        with trio.move_on_after(READY_S):
            record = await self.read_record()
            if record is not None:
                return record
        raise RunFailed(f"{self.name} did not start: {self.last_words()}")

    async def read_counts(self) -> dict[str, int]:
        """Return what a node counts that was started by `counted_node`. Raises `RunFailed` where it does not answer."""
        with trio.move_on_after(COUNTS_S):
            self._process.send_signal(ASK_SIGNAL)
            while (record := await self.read_record()) is not None:
                if "counts" in record:
                    return dict(record["counts"])
        raise RunFailed(f"{self.name} does not say its counts: {self.last_words()}")

    async def send(self, record: dict[str, Any]) -> None:
        """Write one line of JSON to its standard input."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(record).encode() + b"\n")

    def last_words(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-LOG_TAIL_BYTES:].strip() or "it said nothing"

    def check(self) -> None:
        """Raise `RunFailed` where it has ended by itself."""
        if not self.killed and self._process.poll() is not None:
            raise RunFailed(f"{self.name} ended with code {self._process.returncode}: {self.last_words()}")

    def start_clock(self) -> None:
        """Count processor time from now on."""
        self._before = self._last = read_process(self._process.pid)
        self._cpu_last = self._before.cpu

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def cpu(self) -> Cpu:
        """Return the processor time of all its threads since `start_clock`."""
        if not self.killed:
            with suppress(FileNotFoundError):  # it has ended; `check` says so
                self._cpu_last = read_cpu(self._process.pid)
        before, last = self._before.cpu, self._cpu_last
        return Cpu(last.user_s - before.user_s, last.system_s - before.system_s)

    def cpu_s(self) -> float:
        """Return the processor seconds, user and system, of all its threads since `start_clock`."""
        return sum(self.cpu())

    def read_clock(self) -> None:
        """Note what it has taken by now, for `use`; nothing where it has ended."""
        if not self.killed:
            with suppress(FileNotFoundError, ProcessLookupError):
                self._last = self._last.merge(read_process(self._process.pid))

    def use(self) -> Use:
        """Return what it took between `start_clock` and the last `read_clock`, and before."""
        groups = groups_between(self._before, self._last)
        return Use(self._before.cpu, cpu_of(groups), groups)

    def kill(self) -> None:
        """End it at once, as an event of the run."""
        self.cpu_s()
        self.read_clock()
        self.killed = True
        self._process.kill()

    async def stop(self) -> None:
        """Wait for its end, and see to it."""
        with trio.move_on_after(STOP_S):
            await self._process.wait()
        if self._process.poll() is None:
            self._process.kill()
        await self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                await stream.aclose()

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.terminate()


class Processes:
    """All processes of one run. Use as an async context manager; at its end none of them is left."""

    def __init__(self, lab: Hosts, work: Path) -> None:
        """`work` is where each leaves its log."""
        self._lab = lab
        self._work = work
        self.peers: dict[str, Peer] = {}

    async def __aenter__(self) -> Processes:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True):
            for peer in self.peers.values():
                peer.terminate()
            for peer in self.peers.values():
                await peer.stop()

    async def start(self, host: str, name: str, module: str, arguments: Sequence[str]) -> Peer:
        """Start `python -m MODULE ARGUMENTS…` on a host; `read_ready` tells when it is up."""
        return await self.start_program(host, name, [sys.executable, "-m", module, *arguments])

    async def start_program(self, host: str, name: str, command: Sequence[str]) -> Peer:
        """Start a program on a host; it ends with its standard input."""
        log = self._work / f"{name}.log"
        with log.open("wb") as out:
            process = await trio.lowlevel.open_process(
                self._lab.command(host, command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out.fileno(),
                cwd=ROOT,
                process_group=0,
            )
        self.peers[name] = Peer(name, process, log)
        return self.peers[name]

    def start_clocks(self) -> None:
        """Count the processor time of all from now on."""
        for peer in self.peers.values():
            peer.start_clock()

    def read_clocks(self) -> None:
        """Note what all have taken by now."""
        for peer in self.peers.values():
            peer.read_clock()

    def check(self) -> None:
        """Raise `RunFailed` where one has ended by itself."""
        for peer in self.peers.values():
            peer.check()
