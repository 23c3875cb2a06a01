"""Random schedules of one cache's data plane: real threads, a real file, the real engine, and remotes of all kinds.

    python -m tests.transport.schedules [--count N] [--first SEED] [--jobs J] [--integrity blake3|xxh3|both]
    python -m tests.transport.schedules --seed SEED --integrity blake3 --repeat 1000

A schedule is a list of steps drawn from its seed: the loop asks, moves, cancels, reaps late, commits, fills anew;
remotes write headers and slices over one to three streams each, break off, refuse, and the dishonest ones break every
rule. Threads of a real `DataPlane` meet that as they come, so one seed makes the same choices each time, and not the
same race: a seed that has failed is to be repeated often. What must hold, whatever the threads do:

- What was verified, committed or shown has the right bytes, then and to the end of the schedule.
- What answers nothing, or answers once more, is a breach; whoever answers each request at most once, with the right
  bytes, is never accused, and all that was asked of him and was wanted to the end comes.
- In the end the title goes live.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, get_args

import trio

from p2pfill.engine.engine import Effect, Faulted
from p2pfill.engine.link import Link, OpenStream, Owner, owner_of
from p2pfill.engine.requests import Arrival, Outcome, Receive, write_whole
from p2pfill.engine.task import BeginWriteOut, Commit, FillTask, GoLive, ReadOrigin
from p2pfill.errors import RemoteProtocolError, TransferError
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Integrity
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.protocol import messages as m
from p2pfill.sim.channel import PlainChannel, hello_of
from p2pfill.swarm import events
from p2pfill.transport.data import Receiver
from tests.transport.plans import Planned, draw
from tests.transport.remotes import DataLine, Remote, check_streams
from tests.transport.workbench import ORIGIN, Bench, LineUp, WatchedEngine, WildFill, WrongError, bench, is_read

SETTLE_S: Final = 20.0
"""For threads to do what is left for them; they take a fraction of a millisecond."""

SPIN_S: Final = 2e-5
"""Between two looks whether the threads are through."""

class Schedule:
    """One schedule as it runs."""

    def __init__(self, bench: Bench, seed: int, integrity: Integrity) -> None:
        self.bench = bench
        self.plan = draw(seed)
        self.title = bench.titles[integrity]
        self.count = self.title.manifest.chunk_count
        self.now = 0.0
        self.stored = bench.stored(self.title)
        me = NodeInfo(NodeId("me"), "isp", "region")
        self.engine = WatchedEngine(me, random.Random(seed), os.urandom, threading.RLock, 1)
        self.engine.check = self.note_arrival
        self.arrived: dict[Receive, Arrival] = {}
        self.held: set[int] = set()
        """Chunks that were verified for the fill that runs."""
        self.due: dict[Link, None] = {}
        """Links of which something is to be reaped."""
        self.ended: list[DataLine] = []
        """Data streams of whose end the engine has not heard."""
        self.read: list[tuple[FillTask, str, Arrival]] = []
        self.reading = 0
        self.todo: list[Effect] = []
        self.begin_fill()
        self.remotes: list[Remote] = []
        for number, honest in enumerate(self.plan.honest):
            self.link(f"n{number}", honest)

    # ---- set-up

    def begin_fill(self) -> None:
        """Fill the title, or fill it anew."""
        have = self.stored.have.copy()
        self.held = set(have.indexes())
        chance = random.Random(1)
        self.fill = WildFill(self.title.manifest, self.engine.me, FillPolicy(), chance, self.now, have)
        self.task = self.engine.begin_fill(self.now, self.fill, self.stored, [ORIGIN])

    def link(self, name: str, honest: bool) -> None:
        """Open a link to a remote, with as many data streams as the plan says."""
        info = NodeInfo(NodeId(name), "isp", "region")
        channel = PlainChannel(hello_of(self.engine.me, ""), lambda: None)
        remote = Remote(name, honest, self.title, channel)
        link = self.engine.open_link(channel, self.wake)
        remote.link, remote.tell = link, partial(self.handle, remote)
        link.streams = LineUp(remote)
        self.handle(remote, hello_of(info, ""))
        self.remotes.append(remote)
        for number in range(self.plan.lines[int(name[1:])]):
            # Before the first request, so that a schedule of few steps meets them; those that break are asked for anew.
            link._streams_asked += 1
            self.do(OpenStream(link, bytes([number]) * 32))
        remote.hear(100, drops=False)

    def handle(self, remote: Remote, message: m.Message) -> None:
        """Have the engine take a message in."""
        if not remote.is_gone:
            self.engine.handle(self.now, remote.link, message)

    # ---- what threads and streams tell

    def wake(self, link: Link) -> None:
        """Called in the threads."""
        self.bench.plane.tell(lambda: self.due.setdefault(link), self.fail)

    def fail(self, error: Exception) -> None:
        """Nothing that is told raises."""
        raise error

    def note_arrival(self, owner: Owner, arrival: Arrival) -> None:
        """Check what a receive has come to."""
        receive, outcome = arrival.receive, arrival.outcome
        self.bench.outcomes[outcome.value] += 1
        if receive in self.arrived:
            raise WrongError(f"request {receive.request_id} has arrived twice: {self.arrived[receive]}, {arrival}")
        self.arrived[receive] = arrival
        if outcome is Outcome.VERIFIED and owner.task is self.task:
            self.held.add(receive.chunk)
        fill = owner.task.fill
        source = fill.asked_of[owner.request] if isinstance(fill, WildFill) else ""
        if outcome is Outcome.STORE:
            raise WrongError(f"the disk has refused chunk {receive.chunk} of {source}: {arrival.fault}")
        if outcome is Outcome.CORRUPT and self.is_honest(source):
            raise WrongError(f"{source}, which is honest, is said to have sent a wrong chunk: {arrival.fault}")
        self.check_bytes("verified")

    def is_honest(self, source: str) -> bool:
        """Tell whether a source keeps all rules."""
        return source == ORIGIN or self.plan.honest[int(source[1:])]

    async def receive(self, line: DataLine) -> None:
        """Run one data stream; as `node.links.Links` does."""
        try:
            with line.scope:
                await line.receiver.run()
            line.reason = "data stream ended"
        except (TransferError, RemoteProtocolError) as error:
            line.reason, line.breach = str(error), isinstance(error, RemoteProtocolError)
        finally:
            line.far.close()
            line.was_cut = line.scope.cancelled_caught
            line.is_over = True
            if not line.was_cut:
                self.ended.append(line)

    # ---- steps

    async def run(self) -> None:
        """Take all steps, settle, and check. Raises `WrongError`."""
        try:
            for planned in self.plan.steps:
                self.now += 0.04
                await self.take(planned)
            await self.settle()
        finally:
            for remote in self.remotes:
                for line in remote.lines:
                    line.close()
            await self.until(lambda: all(line.is_over for remote in self.remotes for line in remote.lines))
            await self.until(lambda: not self.reading)
            self.stored.close()

    async def take(self, planned: Planned) -> None:
        """Take one step."""
        step, a, b, c = planned
        remote = self.remotes[int(a * len(self.remotes))]
        match step:
            case "ask":
                source = ORIGIN if c < 0.06 else remote.name
                for number in range(1 + int(c * 3)):
                    self.fill.order(self.now, source, (int(b * self.count) + number) % self.count)
                self.decide()
                if a * 1e3 % 1 < 0.7:
                    remote.hear(3, drops=False)
            case "move" | "cancel":
                if (number := self.pick(b, prefers_coming=c < 0.7)) is not None:
                    chunk = self.fill.give_up(number)
                    # From another one, where there is one.
                    others = [one for one in self.remotes if one.name != self.fill.asked_of[number]] or self.remotes
                    remote = others[int(a * len(others))]
                    if step == "move":
                        self.fill.order(self.now, remote.name, chunk)
                    self.decide()
                    if c * 1e2 % 1 < 0.8:
                        remote.hear(100, drops=False)
                        remote.begin(chunk, c * 1e3 % 1, c * 1e4 % 1)
            case "hear":
                remote.hear(1 + int(b * 6), drops=c < 0.5)
            case "write":
                remote.write(b, c, c * 1e3 % 1)
            case "contest":
                lines = self.contested()
                if len(lines) < 2:
                    remote.write(b, c, c * 1e3 % 1)
                else:
                    first = int(a * len(lines))
                    for line, size in (lines[first], b), (lines[first - 1], a * 10 % 1):
                        line.remote.write_on(line, size, c)
            case "break":
                if lines := remote.open_lines():
                    lines[int(b * len(lines))].close()
            case "reject":
                remote.reject(b)
            case "reap":
                self.reap(b)
            case "ended":
                self.hear_ends(1)
            case "decide":
                self.decide()
            case "do":
                if self.todo:
                    self.do(self.todo.pop(int(b * len(self.todo))))
            case "let":
                await trio.lowlevel.checkpoint()
            case "wait":
                time.sleep(1e-5 if b < 0.5 else 0)  # noqa: ASYNC251 (lets the threads run, and not the loop)
                await trio.lowlevel.checkpoint()
            case "drop":
                if remote is not self.remotes[0]:
                    await self.drop(remote)
            case "refill":
                self.refill()

    def pick(self, pick: float, *, prefers_coming: bool) -> int | None:
        """Return a request that is outstanding, one that is being answered if there is one."""
        numbers = self.fill.outstanding()
        if prefers_coming:
            owners = {
                owner_of(receive).request
                for remote in self.remotes
                if (coming := remote.coming())
                for receive in remote.link.book.outstanding()
                if receive.request_id in coming
            }
            numbers = [number for number in numbers if number in owners] or numbers
        return numbers[int(pick * len(numbers))] if numbers else None

    def contested(self) -> list[DataLine]:
        """Return the streams on which one chunk comes that comes on several."""
        lines: dict[int, list[DataLine]] = {}
        for remote in self.remotes:
            for line in remote.open_lines():
                if line.answer is not None and line.answer.header is not None:
                    lines.setdefault(line.answer.header.chunk, []).append(line)
        return next((group for group in lines.values() if len(group) > 1), [])

    def decide(self) -> None:
        """Have the engine decide."""
        self.engine.handle_event(self.task, events.TimePassed())
        self.todo += self.engine.poll(self.now)

    def reap(self, pick: float) -> None:
        """Take in what has come over one link, or over all."""
        due = list(self.due)
        for link in due if pick < 0.5 else due[int((pick - 0.5) * 2 * len(due)) :][:1]:
            del self.due[link]
            self.engine.reap(self.now, link)
        read, self.read = self.read, []
        for task, url, arrival in read:
            self.engine.read_ended(self.now, task, url, arrival)

    def hear_ends(self, count: int) -> None:
        """Tell the engine of streams that have ended."""
        ended, self.ended = self.ended[:count], self.ended[count:]
        for line in ended:
            if not line.remote.is_gone:
                self.engine.stream_ended(self.now, line.remote.link, line.reason, breach=line.breach)

    def do(self, effect: Effect) -> None:
        """Do what the engine wants done."""
        match effect:
            case OpenStream(link):
                remote = next(remote for remote in self.remotes if remote.link is link)
                if not remote.is_gone:
                    line = DataLine(remote)
                    line.receiver = Receiver(line.far, self.bench.next_plane(), line.book)  # type: ignore[arg-type]
                    remote.lines.append(line)
                    self.bench.nursery.start_soon(self.receive, line)
            case ReadOrigin(task, url, receive):
                self.reading += 1
                self.bench.in_thread(partial(self.read_origin, task, url, receive))
            case Commit(task, chunks):
                self.check_bytes("about to be committed", chunks)
                if not task.is_over:
                    self.stored.commit(chunks)
                    self.engine.committed(self.now, task, chunks, 0.0)
            case BeginWriteOut(task):
                self.engine.write_out_begun(self.now, task)
            case GoLive(task):
                self.check_bytes("about to go live", range(self.count))
                self.stored.go_live()
                self.engine.went_live(self.now, task)
            case Faulted(doing, error):
                raise WrongError(f"could not {doing}") from error
            case _:
                pass

    def read_origin(self, task: FillTask, url: str, receive: Receive) -> None:
        """Read a chunk from the origin, which has the right bytes. Runs in a thread."""
        data = self.title.chunk(receive.chunk)
        is_kept = write_whole(receive, lambda: self.stored.write_chunk(receive.chunk, data))
        arrival = Arrival(receive, Outcome.VERIFIED if is_kept else Outcome.WITHDRAWN, len(data))

        def note() -> None:
            self.reading -= 1
            self.read.append((task, url, arrival))

        self.bench.plane.tell(note, self.fail)

    async def drop(self, remote: Remote) -> None:
        """The link to a remote ends, and with it its streams."""
        if remote.is_gone:
            return
        for line in remote.lines:
            line.scope.cancel()
        await self.until(lambda: all(line.is_over for line in remote.lines))
        remote.is_gone = remote.has_broken = True
        self.engine.link_ended(self.now, remote.link)

    def refill(self) -> None:
        """The fill is withdrawn, and ordered once more."""
        if self.task.is_over or self.task.state == "verifying":
            return
        self.engine.withdraw(self.now, self.task)
        if self.task.to_commit:
            self.check_bytes("about to be committed", self.task.to_commit)
            self.stored.commit(self.task.to_commit)
        self.check_accusations()
        self.stored.begin_again()
        self.begin_fill()
        for remote in self.remotes:
            remote.hear(100, drops=False)

    # ---- the end

    async def settle(self) -> None:
        """Let all come that is under way, fetch the rest of an honest remote, and go live."""
        honest = self.remotes[0]
        for _ in range(6):
            await self.calm()
            if self.task.state == "live":
                break
            for number in self.fill.outstanding():
                if self.is_honest(self.fill.asked_of[number]):
                    raise WrongError(f"what {self.fill.asked_of[number]}, which is honest, was asked for never came")
                self.fill.give_up(number)
            for chunk in range(self.count):
                self.fill.order(self.now, honest.name, chunk)
            self.now += 1.0
        for remote in self.remotes:
            if not remote.honest:
                # What comes once the title is live.
                for number in range(4):
                    remote.write(number / 4, 0.9, number / 8)
        await self.calm()
        self.check_bytes("live" if self.task.state == "live" else "verified")
        self.check_accusations()
        wrong = [text for remote in self.remotes for text in check_streams(remote, self.bench.breaches)]
        if wrong:
            raise WrongError("; ".join(wrong))
        if self.task.state != "live":
            raise WrongError(f"the title is {self.task.state}, not live: {self.task.error}, lacks {self.lacking()}")

    def lacking(self) -> dict[int, str]:
        """Return the state of each chunk that is not durable."""
        states = {chunk: self.fill.ledger.state(chunk).name for chunk in range(self.count)}
        return {chunk: state for chunk, state in states.items() if state != "DURABLE"}

    async def calm(self) -> None:
        """Let everything happen that is under way, until nothing is."""
        for _ in range(12):
            self.decide()
            for remote in self.remotes:
                remote.hear(1000, drops=True)
            while self.todo:
                self.do(self.todo.pop(0))
            for remote in self.remotes:
                remote.finish()
            await self.until(self.is_quiet)
            self.hear_ends(1000)
            while self.due or self.read:
                self.reap(0.0)
            self.decide()
            if not self.todo and not any(remote.channel.outbox for remote in self.remotes):
                return
        raise WrongError("it does not come to an end")

    def is_quiet(self) -> bool:
        """Tell whether the threads have nothing left to do, and the loop has heard of all that they did."""
        is_done = all(line.is_over or is_read(line) for remote in self.remotes for line in remote.lines)
        return is_done and not self.reading and not any(plane._news for plane in self.bench.planes)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for threads and tasks."""
        deadline = time.monotonic() + SETTLE_S
        while not is_so():
            if time.monotonic() > deadline:
                raise WrongError("the threads do not come to an end")
            time.sleep(SPIN_S)  # noqa: ASYNC251 (likewise)
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    # ---- checks

    def check_bytes(self, what: str, chunks: Iterable[int] = ()) -> None:
        """Check the bytes of all chunks that are held, and of `chunks`."""
        sealed = {chunk for chunk in range(self.count) if not self.stored.live and self.stored.is_sealed(chunk)}
        on_disk = self.bench.read()
        for chunk in {*chunks, *self.held, *sealed}:
            if on_disk[slice(*self.title.manifest.cut.span(chunk))] != self.title.chunk(chunk):
                raise WrongError(f"WRONG BYTES in chunk {chunk}, which is {what}")

    def check_accusations(self) -> None:
        """Check that nobody honest was accused, but of what he has done."""
        for source, reason in self.fill.accusations:
            if not self.is_honest(source):
                continue
            remote = self.remotes[int(source[1:])] if source != ORIGIN else None
            may_break = remote is not None and remote.has_broken and reason.startswith(("data stream", "not linked"))
            if not may_break and not reason.startswith("refused: "):
                raise WrongError(f"{source}, which is honest, is accused: {reason}")
        for source in (*self.fill.sources.values(), *self.fill.past.values()):
            if source.quarantined and self.is_honest(source.id):
                raise WrongError(f"{source.id}, which is honest, is quarantined: {source.fault_reason}")


def repeat_command(seed: int, integrity: str) -> str:
    """Return what repeats a schedule; often, since threads run as they like."""
    return f"python -m tests.transport.schedules --seed {seed} --integrity {integrity} --repeat 1000"


async def run_seeds(folder: Path, seeds: Iterable[int], integrities: Iterable[Integrity]) -> tuple[int, Bench]:
    """Run schedules; return how many, and the bench. Raises `WrongError`, which says how to repeat the schedule."""
    count, failed = 0, None
    async with bench(folder) as made:
        for seed, integrity in itertools.product(seeds, integrities):
            try:
                await Schedule(made, seed, integrity).run()
            except Exception as error:  # noqa: BLE001  (raised again below)
                text = f"seed {seed}: {error or type(error).__name__}; repeat: {repeat_command(seed, integrity)}"
                failed = WrongError(text)
                failed.__cause__ = error
                break
            count += 1
    if failed is not None:
        raise failed  # here, where no nursery makes a group of it
    return count, made


# ---- by hand


class Given(argparse.Namespace):
    """What was asked for on the command line."""

    count: int
    first: int
    seed: int | None
    repeat: int
    jobs: int
    integrity: str


def run_part(given: Given) -> int:
    """Run some seeds in this process, and print what came of them."""
    kinds: tuple[Integrity, ...] = get_args(Integrity)
    integrities = kinds if given.integrity == "both" else tuple(k for k in kinds if k == given.integrity)
    seeds = range(given.first, given.first + given.count) if given.seed is None else [given.seed] * given.repeat
    shm = Path("/dev/shm")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        try:
            count, made = trio.run(run_seeds, Path(folder), seeds, integrities)
        except WrongError as error:
            if not isinstance(error.__cause__, WrongError):
                traceback.print_exception(error)
            print(error, flush=True)
            return 1
    used = resource.getrusage(resource.RUSAGE_SELF)
    breaches = ", ".join(f"{kind} {number}" for kind, number in made.breaches.most_common())
    outcomes = ", ".join(f"{kind} {number}" for kind, number in made.outcomes.most_common())
    print(
        f"{count} schedules ({given.integrity}), seeds {seeds[0]} to {seeds[-1]}: wrong bytes 0, false accusations 0; "
        f"{time.monotonic() - began:.1f} s, processor {used.ru_utime:.1f} s user and {used.ru_stime:.1f} s system\n"
        f"  breaches: {breaches}\n  chunks: {outcomes}",
        flush=True,
    )
    return 0


def main() -> None:
    """Run seeds, in several processes where asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.transport.schedules", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="schedules, each with every integrity asked for")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--integrity", choices=("blake3", "xxh3", "both"), default="both")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--repeat", type=int, default=1, help="as often")
    given = parser.parse_args(namespace=Given())
    if given.seed is not None or given.jobs == 1:
        raise SystemExit(run_part(given))
    each = -(-given.count // given.jobs)
    command = [sys.executable, "-m", "tests.transport.schedules", "--integrity", given.integrity]
    end = given.first + given.count
    running = [
        subprocess.Popen([*command, "--first", str(first), "--count", str(min(each, end - first))])
        for first in range(given.first, end, each)
    ]
    raise SystemExit(max(process.wait() for process in running))


if __name__ == "__main__":
    main()
