"""How well data streams keep to a limit: payload over ten seconds beside what is set, and after a change.

    python -m bench.rates [--streams 1,4,16] [--rates 2M,25M,100M] [--seconds 10] [--out docs/reports/rates] [--json]

Two data planes of one process, as two nodes have them, over TCP on the loopback network and files in memory. Nothing
else limits them: without a limit they move a gigabyte a second and more. The limit is that of the receiving plane
(inbound) or of the sending one (outbound). What counts is payload that the receiving end has written.

Exit code 1 where a rate is off by more than `OFF_MAX`.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Literal

import msgspec
import trio
import xxhash
from rich.console import Console
from rich.table import Table

from bench.swarm.report import table_in_markdown
from p2pfill.bench.measure import Machine, describe_machine
from p2pfill.engine.requests import Receive, RequestBook
from p2pfill.engine.uploads import NextUpload
from p2pfill.errors import ConfigError, TransferError
from p2pfill.model.ids import TitleId
from p2pfill.model.quantities import parse_rate
from p2pfill.model.rates import NO_LIMITS, RateLimits, Rates
from p2pfill.model.urgency import Urgency
from p2pfill.protocol.data import DataHeader
from p2pfill.transport.data import Receiver, Sender, Upload
from p2pfill.transport.plane import DataPlane

Direction = Literal["inbound", "outbound"]
DIRECTIONS: Final[tuple[Direction, ...]] = ("inbound", "outbound")

OFF_MAX: Final = 0.03
CHUNK: Final = 1024 * 1024
WARM_S: Final = 1.0
"""Before the measurement: streams open, buffers of the kernel fill."""
HOLD_S: Final = 1.0
"""Within what a change takes hold."""

TIMES: Final = 3
"""Measurements of a point on a machine that others use: the first that is good counts, and how many it took is told."""

HEAD: Final = ("limited", "streams", "set, MB/s", "measured / set", "after a change / set", "measured")


class Point(msgspec.Struct, frozen=True):
    """One limit and what was measured; all rates are bytes of payload a second."""

    direction: Direction
    streams: int
    rate_bytes_s: int
    measured_bytes_s: float
    """Over all of the time."""
    changed_to_bytes_s: int
    """Half of the rate, set while all streams run."""
    changed_bytes_s: float
    """Measured from `HOLD_S` after the change on."""
    times: int = 1
    """How often it was measured: the last time counts."""

    @property
    def off(self) -> float:
        """By what part more was moved than what was set."""
        return self.measured_bytes_s / self.rate_bytes_s - 1

    @property
    def is_good(self) -> bool:
        """Whether both are within what is promised."""
        return max(abs(self.off), abs(self.changed_off)) <= OFF_MAX

    @property
    def changed_off(self) -> float:
        """The same after the change."""
        return self.changed_bytes_s / self.changed_to_bytes_s - 1


class Report(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: Machine
    seconds: float
    points: list[Point]


class Memory:
    """A file in memory, each chunk of which is the same."""

    def __init__(self, payload: bytes) -> None:
        self.fd = os.memfd_create("chunk")
        os.pwrite(self.fd, payload, 0)
        self._lock = threading.RLock()

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        """Yield where the rest of the chunk is."""
        if start < CHUNK:
            yield self.fd, start, CHUNK - start

    def write_lock(self, chunk: int) -> threading.RLock:  # type: ignore[valid-type]
        """Return its lock."""
        return self._lock

    def is_sealed(self, chunk: int) -> bool:
        """It is written again and again."""
        return False

    def seal(self, chunk: int) -> None:
        """Do nothing."""

    def check_blake3(self, chunk: int, digest: bytes | None = None) -> bool:
        """Nothing is checked but XXH3."""
        return True


class Pipe:
    """One data stream that is sent chunk after chunk."""

    def __init__(self, source: Memory, digest: bytes, here: DataPlane, there: DataPlane) -> None:
        self._source, self._digest = source, digest
        self._target = Memory(bytes(CHUNK))
        self._here, self._there = here, there
        self.book = RequestBook(self._reap, threading.RLock())
        self._wanted = NextUpload(Urgency(), TitleId(bytes(32)))
        self._number = 0
        self.receiver: Receiver | None = None

    def _reap(self) -> None:
        self._there.tell(self.book.reap, _raise)

    def _take(self) -> Upload:
        self._number += 1
        header = DataHeader(self._number, 0, CHUNK)
        self.book.post(Receive(self._number, self._target, 0, CHUNK, self._digest, None, None, threading.RLock()))
        return Upload(header, self._source, self._wanted)

    async def run(self, listener: trio.SocketListener, task_status: trio.TaskStatus[None]) -> None:
        """Move chunks until cancelled."""
        port = listener.socket.getsockname()[1]
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        far = await listener.accept()
        task_status.started()  # the next one may connect
        with stream.socket, far.socket:
            self.receiver = Receiver(stream.socket, self._there, self.book)
            sender = Sender(far.socket, self._here, self._take, lambda: self._wanted, lambda header: None)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(sender.run)
                    nursery.start_soon(self.receiver.run)
            except* TransferError:
                pass  # one end goes before the other


def _raise(error: Exception) -> None:
    raise error


async def measure(direction: Direction, streams: int, rate: int, seconds: float) -> Point:
    """Move chunks over some streams at a limit, and at half of it."""
    payload = os.urandom(CHUNK)
    digest, source = xxhash.xxh3_128_digest(payload), Memory(payload)
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(DataPlane(4, max(16, streams)).running())
        there = await stack.enter_async_context(DataPlane(4, 16).running())
        nursery = await stack.enter_async_context(trio.open_nursery())
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        throttle = here.throttle if direction == "outbound" else there.throttle

        def limit(total: int) -> None:
            rates = Rates(total=total)
            throttle.put("bench", RateLimits(**{direction: rates}))

        limit(rate)
        pipes = [Pipe(source, digest, here, there) for _ in range(streams)]
        for pipe in pipes:
            await nursery.start(lambda task_status, pipe=pipe: pipe.run(listener, task_status))

        async def moved_a_second(span_s: float) -> float:
            began, before = trio.current_time(), _moved(pipes)
            await trio.sleep(span_s)
            return (_moved(pipes) - before) / (trio.current_time() - began)

        await trio.sleep(WARM_S)
        measured = await moved_a_second(seconds)
        limit(rate // 2)
        await trio.sleep(HOLD_S)
        changed = await moved_a_second(seconds / 2)
        throttle.put("bench", NO_LIMITS)
        nursery.cancel_scope.cancel()
    await listener.aclose()
    return Point(direction, streams, rate, round(measured, 1), rate // 2, round(changed, 1))


def measure_well(direction: Direction, streams: int, rate: int, seconds: float) -> Point:
    """Measure until it is good, at most `TIMES` times."""
    for times in range(1, TIMES + 1):
        point = msgspec.structs.replace(trio.run(measure, direction, streams, rate, seconds), times=times)
        if point.is_good:
            break
    return point


def _moved(pipes: list[Pipe]) -> int:
    return sum(pipe.receiver.moved_bytes for pipe in pipes if pipe.receiver is not None)


def row(point: Point) -> tuple[str, ...]:
    """Return a point as `HEAD` says."""
    return (
        point.direction,
        str(point.streams),
        f"{point.rate_bytes_s / 1e6:g}",
        f"{1 + point.off:.3f}",
        f"{1 + point.changed_off:.3f}",
        "once" if point.times == 1 else f"{point.times} times",
    )


def page(report: Report) -> str:
    """Return the report for people."""
    machine = report.machine
    return "\n".join(
        [
            "# Rates that hold",
            "",
            f"Payload that the receiving ends have written in {report.seconds:g} seconds, beside the limit that was set"
            " for what comes in or goes out; and, from one second after the limit was halved, for half as long. Two"
            f" data planes on the loopback network of one machine ({machine.processors} processors, {machine.kernel},"
            f" {machine.made_at}), which other work shared: where it was"
            f" measured more than once, that was off by more than {OFF_MAX:.0%} before.",
            "",
            table_in_markdown(HEAD, [row(point) for point in report.points]),
            "Made by `make bench-rates`. As data: [rates.json](rates.json).",
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code: 1 where a rate is off, 2 where it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m bench.rates", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", default="1,4,16", help="how many (default: 1,4,16)")
    parser.add_argument("--rates", default="2MB,25MB,100MB", help="limits (default: 2MB,25MB,100MB)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default: 10)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write rates.json and README.md there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json, highlight=False)
    try:
        rates = [parse_rate(text) for text in options.rates.split(",")]
        counts = [int(text) for text in options.streams.split(",")]
    except (ConfigError, ValueError) as error:
        parser.error(str(error))
    points: list[Point] = []
    for direction in DIRECTIONS:
        for rate in rates:
            for count in counts:
                points.append(measure_well(direction, count, rate, options.seconds))
                console.print(*row(points[-1]), soft_wrap=True)
    report = Report(describe_machine(Path("/tmp")), options.seconds, points)
    table = Table(*HEAD)
    for point in points:
        table.add_row(*row(point))
    console.print(table)
    if options.json:
        print(msgspec.json.encode(report).decode())
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "rates.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        (options.out / "README.md").write_text(page(report))
    return int(not all(point.is_good for point in points))


if __name__ == "__main__":
    sys.exit(main())
