"""Power loss by replay: records a cache, and a tracker, and starts each on all that its disk may hold after a crash."""

from __future__ import annotations

import logging
import multiprocessing
import random
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

import trio
from blake3 import blake3

from bench.crashes import store_check, store_work, strace, tracker_check
from bench.crashes.disk import Disk, Op, Recording
from bench.crashes.records import Example, PowerPart, Times, used_s
from bench.crashes.states import Same, State, States, build, check_whole

EXAMPLES_MAX: Final = 20
"""Of faults, that a report tells of."""
DAMAGED_EACH: Final = 4
"""States for each prefix in which something is rotten besides."""
SUBJECTS: Final = ("store", "tracker")
"""What is recorded."""
NIGHT_TITLES: Final = 6
"""Of the tracker's recording."""

Say = Callable[[str], object]


class Found(NamedTuple):
    """What a start on one state has shown."""

    faults: list[str]
    recovery_s: float
    told: bool = False


Check = Callable[[Path, int], Awaitable[Found]]
"""Starts on a state, in a directory that it may change, after so many ops."""


class Subject(NamedTuple):
    """A recording, and how states of it are checked."""

    name: str
    recording: Recording
    epochs: Sequence[int]
    """For each prefix, a number that changes with what was promised."""
    check: Check
    same: Same | None = None
    process: Check | None = None
    """On one state of each prefix: with all that starts in a process."""
    damaged: Callable[[Path, int, random.Random], Awaitable[Found]] | None = None
    """Spoils the state first, in a way that no crash does."""


class Share(NamedTuple):
    """What one worker has found."""

    keys: set[bytes]
    made: int
    prefixes: int
    exhaustive: int
    pending_max: int
    damaged: int
    told: int
    faults: Counter[str]
    examples: list[Example]
    recovery_s: list[float]
    process_s: list[float]


class Worker:
    """Goes through some prefixes of a recording, in order."""

    def __init__(
        self, subject: Subject, prefixes: Sequence[int], seed: int, work: Path, say: Say, every: int
    ) -> None:
        """`every`: after how many prefixes a process is started, too."""
        self._subject = subject
        self._every = every
        self._prefixes = prefixes
        self._seed = seed
        self._root = work / "state"
        self._say = say
        self._states = States(subject.recording, seed, subject.same)
        self._seen: set[bytes] = set()
        self._faults: Counter[str] = Counter()
        self._examples: list[Example] = []
        self._recovery_s: list[float] = []
        self._process_s: list[float] = []
        self._damaged = self._told = 0

    async def run(self) -> Share:
        """Start on every state once."""
        chance = random.Random(self._seed)
        for number, prefix in enumerate(self._prefixes, 1):
            whole, drawn, fresh = None, None, 0
            for state in self._states.of(prefix):
                whole = whole or state
                key = blake3(state.held.key + self._subject.epochs[prefix].to_bytes(4, "big")).digest(16)
                if key in self._seen:
                    continue
                self._seen.add(key)
                fresh += 1
                if chance.random() < 1 / fresh:
                    drawn = state  # each of them with the same chance
                found = await self._look(state, self._subject.check)
                self._recovery_s.append(found.recovery_s)
            if drawn is not None and number % self._every == 0 and (process := self._subject.process) is not None:
                self._process_s.append((await self._look(drawn, process)).recovery_s)
            if whole is not None:
                await self._look_at_damaged(whole, chance)
            self._say(f"{self._subject.name}: {number} of {len(self._prefixes)} prefixes, {len(self._seen)} states")
        counts = self._states.counts
        return Share(
            self._seen, counts.made, counts.prefixes, counts.exhaustive, counts.pending_max, self._damaged, self._told,
            self._faults, self._examples, self._recovery_s, self._process_s,
        )  # fmt: skip

    async def _look_at_damaged(self, whole: State, chance: random.Random) -> None:
        if (damaged := self._subject.damaged) is None:
            return
        for _ in range(DAMAGED_EACH):
            found = await self._look(whole, lambda root, prefix: damaged(root, prefix, chance))
            self._damaged += 1
            self._told += found.told

    async def _look(self, state: State, check: Check) -> Found:
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir()
        build(state.held, self._states.contents, self._root)
        found = await check(self._root, state.prefix)
        for fault in found.faults:
            self._faults[fault] += 1
            if self._faults[fault] == 1 and len(self._examples) < EXAMPLES_MAX:
                last = self._subject.recording.ops[max(0, state.prefix - 8) : state.prefix]
                disk = [f"{path} ({len(pieces)} writes)" for path, _, pieces, *_ in state.held.entries]
                self._examples.append(Example(fault, state.prefix, list(map(_describe, last)), disk))
        return found


def _describe(op: Op) -> str:
    return " ".join(str(word) for word in (op.kind, op.name, op.to_name, op.told or op.domains or "everything") if word)


def choose(count: int, wanted: int, seed: int) -> list[int]:
    """Return so many of the prefixes 1 to `count`, by chance but for the last one; all of them where `wanted` is 0."""
    if not wanted or wanted >= count:
        return list(range(1, count + 1))
    return sorted({count, *random.Random(seed).sample(range(1, count), wanted - 1)})


class Settings(NamedTuple):
    """How much is looked at."""

    prefixes: int = 0
    """Of each recording; 0: all."""
    seed: int = 1
    workers: int = 1
    titles: int = NIGHT_TITLES
    """Of the tracker's night."""
    every: int = 1
    """After so many prefixes a node is started on one of their states."""
    only: str = ""
    """Of `SUBJECTS`; all where it is empty."""


def replay(subject: Subject, settings: Settings, work: Path, say: Say) -> PowerPart:
    """Start on the states of a recording."""
    began, before = time.monotonic(), used_s()
    prefixes = choose(len(subject.recording.ops), settings.prefixes, settings.seed)
    if settings.workers == 1:
        shares = [trio.run(Worker(subject, prefixes, settings.seed, work, say, settings.every).run)]
    else:
        shares = _spread(subject, prefixes, settings, work, say)
    used = [after - first for after, first in zip(used_s(), before, strict=True)]
    faults: Counter[str] = Counter()
    for share in shares:
        faults.update(share.faults)
    return PowerPart(
        name=subject.name,
        ops=dict(Counter(op.kind for op in subject.recording.ops)),
        bytes_written=subject.recording.bytes_written,
        prefixes=sum(share.prefixes for share in shares),
        prefixes_exhaustive=sum(share.exhaustive for share in shares),
        pending_max=max(share.pending_max for share in shares),
        states_made=sum(share.made for share in shares),
        states_distinct=len(set[bytes]().union(*(share.keys for share in shares))),
        starts_of_processes=sum(len(share.process_s) for share in shares),
        damaged=sum(share.damaged for share in shares),
        damaged_told=sum(share.told for share in shares),
        faults=dict(faults),
        examples=[example for share in shares for example in share.examples],
        recovery=Times.of([seconds for share in shares for seconds in share.recovery_s]),
        recovery_whole=Times.of([seconds for share in shares for seconds in share.process_s]),
        seconds=round(time.monotonic() - began, 1),
        user_s=round(used[0], 1),
        system_s=round(used[1], 1),
    )


def _spread(subject: Subject, prefixes: Sequence[int], settings: Settings, work: Path, say: Say) -> list[Share]:
    """Share the prefixes out to processes."""
    context = multiprocessing.get_context("fork")  # recording and checks need not be sent; no thread runs yet
    begun = []
    for number in range(settings.workers):
        (place := work / f"worker-{number}").mkdir()
        mine, theirs = context.Pipe(duplex=False)
        some, tell = prefixes[number :: settings.workers], (lambda _: None) if number else say
        one = Worker(subject, some, settings.seed, place, tell, settings.every)
        process = context.Process(target=_send, args=(one, theirs))
        process.start()
        theirs.close()
        begun.append((process, mine))
    shares = [pipe.recv() for _, pipe in begun]
    for process, _ in begun:
        process.join()
    return shares


def _send(worker: Worker, pipe: Connection) -> None:
    pipe.send(trio.run(worker.run))


# ---- the two recordings


def record_store(work: Path, seed: int) -> Subject:
    """Record a cache. Raises `strace.RecordingFailed`, also where the disk is not as it was recorded."""
    night = store_work.prepare(work, seed)
    strace.record([sys.executable, "-m", "bench.crashes.store_work", str(work)], work / "log")
    recording = Disk(night.disk, night.marks).follow(strace.read(work / "log"))
    check_whole(recording, night.disk)
    promised = store_check.promises(recording.ops, night)
    checks = store_check.StoreCheck(night)

    async def check(root: Path, prefix: int) -> Found:
        found = checks.check(root, promised[prefix])
        return Found(found.faults, found.open_s)

    async def process(root: Path, prefix: int) -> Found:
        found = await checks.check_node(root, promised[prefix])
        return Found(found.faults, found.done_s)

    return Subject("store", recording, _epochs(recording.ops), check, process=process)


def record_tracker(work: Path, seed: int, titles: int = NIGHT_TITLES) -> Subject:
    """Record a tracker. Raises `strace.RecordingFailed`."""
    (work / "disk").mkdir()
    command = [sys.executable, "-m", "bench.crashes.tracker_work", str(work), str(seed), str(titles)]
    strace.record(command, work / "log")
    recording = Disk(work / "disk", work / "marks").follow(strace.read(work / "log"))
    check_whole(recording, work / "disk")
    answered = tracker_check.answers(recording.ops)
    with sqlite3.connect(work / "disk" / tracker_check.FILE) as database:
        (number,) = database.execute("SELECT value FROM meta WHERE key = 'database'").fetchone()
    name = f"{number:016x}"

    async def check(root: Path, prefix: int) -> Found:
        return Found(*tracker_check.check(root, answered[prefix], name))

    async def process(root: Path, prefix: int) -> Found:
        return Found(*await tracker_check.check_service(root, answered[prefix], name))

    async def damaged(root: Path, prefix: int, chance: random.Random) -> Found:
        tracker_check.spoil(root, chance)
        return Found(*tracker_check.check(root, answered[prefix], name, is_spoiled=True))

    return Subject(
        "tracker", recording, _epochs(recording.ops), check, tracker_check.what_counts, process, damaged
    )


def _epochs(ops: Sequence[Op]) -> list[int]:
    found = [0]
    for op in ops:
        found.append(found[-1] + (op.kind == "mark"))
    return found


def run(settings: Settings, work: Path, say: Say) -> list[PowerPart]:
    """Record both, and start on their states. Raises `strace.RecordingFailed`."""
    # What a start says of what it finds is not of interest some 10,000 times.
    log = logging.getLogger("p2pfill")
    level = log.level
    log.setLevel(logging.CRITICAL)
    parts = []
    try:
        for name in [settings.only] if settings.only else SUBJECTS:
            (place := work / name).mkdir()
            say(f"recording: {name}")
            subject = (
                record_store(place, settings.seed)
                if name == "store"
                else record_tracker(place, settings.seed, settings.titles)
            )
            parts.append(replay(subject, settings, place, say))
    finally:
        log.setLevel(level)
    return parts
