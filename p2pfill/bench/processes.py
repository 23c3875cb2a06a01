"""The processes of a benchmark: spoken to in lines of JSON where they are ours, watched, and ended.

Each is in a process group of its own, so Ctrl-C reaches the benchmark only, which then ends them in order. None that
stays up outlives a benchmark that is killed: ours end with their standard input, a pipe that the benchmark holds, and
the kernel ends the others (`TIED`). Whatever a process ends with that it should
not is an error of the whole benchmark: a contender that crashes must not look like one that is fast.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from p2pfill.bench.measure import BenchFailed, Tree

READY_S: Final = 120.0
"""For a process to say that it is ready, while tens of others start on two processors."""
RUN_S_MAX: Final = 900.0
"""A fetch that takes longer has failed."""
STOP_S: Final = 10.0
"""From the end of its input, and from SIGTERM, until more is done."""
LISTEN_S: Final = 10.0
"""For a server to take connections."""
LOOK_MS: Final = 20
"""Between two looks at the memory of a program that ends by itself: little work, and little is missed."""
TIED: Final = ("setpriv", "--pdeathsig", "TERM")
"""What makes a program end with its parent; a part of util-linux, and so of nearly every Linux."""
LINE_BYTES_MAX: Final = 65536
LOG_TAIL_BYTES: Final = 400


class Child:
    """A process that runs until it is stopped. Use as a context manager, so that it is."""

    def __init__(self, name: str, command: Sequence[str], work: Path) -> None:
        """Start `command` in directory `work`, where its log is kept as `NAME.log`."""
        self.name = name
        self._log = work / f"{name}.log"
        tied = TIED if shutil.which(TIED[0]) else ()
        with self._log.open("wb") as log:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                [*tied, *command], stdin=pipe, stdout=pipe, stderr=log, cwd=work, process_group=0, bufsize=0
            )
        self.tree = Tree(self._process.pid)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def tell(self, record: dict[str, Any]) -> None:
        """Write one line of JSON to its standard input. Raises `BenchFailed` where it has ended."""
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps(record).encode() + b"\n")
        except BrokenPipeError as error:
            self._process.wait()
            raise BenchFailed(self._end()) from error

    def read(self, limit_s: float = READY_S) -> dict[str, Any]:
        """Return the next line that it prints, as JSON. Raises `BenchFailed` where none comes in time."""
        assert self._process.stdout is not None  # noqa: S101
        until = time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise BenchFailed(f"{self.name} said nothing for {limit_s:.0f} s: {_tail(self._log)}")
            piece = os.read(self._process.stdout.fileno(), LINE_BYTES_MAX)
            if not piece:
                self._process.wait()
                raise BenchFailed(self._end())
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        record: dict[str, Any] = json.loads(line)
        return record

    def check(self) -> None:
        """Raise `BenchFailed` where it has ended."""
        if self._process.poll() is not None:
            raise BenchFailed(self._end())

    def finish(self) -> None:
        """End its input and wait for its end. Raises `BenchFailed` where that is not a good one."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired as error:
            raise BenchFailed(f"{self.name} did not end {STOP_S:.0f} s after its input: {_tail(self._log)}") from error
        if code:
            raise BenchFailed(self._end())

    def stop(self) -> None:
        """End it, however it is."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _end(self) -> str:
        return f"{self.name} ended with code {self._process.returncode}: {_tail(self._log)}"


def find_program(name: str) -> str | None:
    """Return a program's path; servers lie where only root's shell looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """Return a port of the loopback address on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_listening(server: Child, port: int) -> None:
    """Wait until a server takes connections. Raises `BenchFailed`."""
    until = time.monotonic() + LISTEN_S
    while time.monotonic() < until:
        server.check()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.01)
    raise BenchFailed(f"{server.name} does not listen on port {port} after {LISTEN_S:.0f} s")


class Ended(NamedTuple):
    """What a program took that has come to its end."""

    seconds: float
    """From its start to its end."""
    cpu_s: float
    """Of it and all of its children."""
    peak_bytes: int


def run_program(name: str, command: Sequence[str], work: Path, beside: Sequence[Tree] = ()) -> Ended:
    """Run a program to its end, and look at the memory of the trees `beside` meanwhile.

    Raises `BenchFailed` where it ends with another code than 0, or not within `RUN_S_MAX`.
    """
    log = work / f"{name}.log"
    with log.open("wb") as out:
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=work, process_group=0
        )
    tree = Tree(process.pid)
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        tree.look()
        while not poll.poll(LOOK_MS):
            for one in (tree, *beside):
                one.look()
            if time.monotonic() - began > RUN_S_MAX:
                raise BenchFailed(f"{name} was not done after {RUN_S_MAX:.0f} s: {_tail(log)}")
        seconds = time.monotonic() - began
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        os.close(descriptor)
        if process.returncode is None:
            process.kill()
            process.wait()
    if process.returncode:
        raise BenchFailed(f"{name} ended with code {process.returncode}: {_tail(log)}")
    # One that ended before the first look; this is too much rather than nothing.
    peak_bytes = tree.peak_bytes() or usage.ru_maxrss * 1024
    return Ended(seconds, usage.ru_utime + usage.ru_stime, peak_bytes)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace")[-LOG_TAIL_BYTES:].strip().splitlines()
    return lines[-1] if lines else "it said nothing"
