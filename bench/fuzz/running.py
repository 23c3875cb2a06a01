"""Starts workers, reads what they say, and sums it up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from bench.fuzz.target import Target
from bench.fuzz.worker import Notes, Spec
from p2pfill.model.limits import MIB

ROOT: Final = Path(__file__).parents[2]

TIMEOUT_S: Final = 5
"""For one input: a thousand times what most take, on a busy machine too."""
MEMORY_MIB: Final = 768
"""Of a worker in all: the program and the libraries take 60 to 120."""

PART_RUNS: Final = 500_000
"""From so many on, what a target is given is shared out to as many workers as there may be."""

_PROGRESS: Final = re.compile(rb"^#\d+\s.*?cov: (\d+) .*?corp: (\d+)/", re.MULTILINE)
_EXECUTED: Final = re.compile(rb"stat::number_of_executed_units:\s*(\d+)")
_PEAK: Final = re.compile(rb"stat::peak_rss_mb:\s*(\d+)")


class Find(msgspec.Struct, frozen=True):
    """An input that has broken something."""

    target: str
    file: str
    said: str
    """The last line of what was said of it."""
    command: str
    """What repeats it."""


class Found(msgspec.Struct):
    """What came of one target."""

    target: str
    runs: int = 0
    taken: int = 0
    """Of these, such as were no error."""
    seconds: float = 0.0
    processor_s: float = 0.0
    edges: int = 0
    """Places in the code between which it was led; at most, of its workers."""
    inputs: int = 0
    """That reach something that no other does."""
    began_bytes: int = 0
    """Resident memory of a worker once it was warm; of the one that has most at its end."""
    ended_bytes: int = 0
    peak_bytes: int = 0
    finds: list[Find] = []

    @property
    def runs_s(self) -> float:
        """Inputs a second, of all workers together."""
        return self.runs / self.seconds if self.seconds else 0.0


class Options(msgspec.Struct, frozen=True):
    """How much is to be done, and where."""

    out: Path
    runs: int | None = None
    seconds: int | None = None
    workers: int = 2
    pure: bool = False
    corpora: Path | None = None
    """Where what was found on the way is kept; None: nowhere."""
    seed: int = 0


def runs_of(target: Target, options: Options) -> int:
    """Return how many inputs a target is given."""
    return target.runs if options.runs is None else options.runs


def fuzz(targets: list[Target], options: Options) -> Iterator[Found]:
    """Run targets; yield what came of each, as it ends."""
    parts = []
    for target in targets:
        runs = runs_of(target, options)
        count = options.workers if runs >= PART_RUNS else 1
        parts.append((target, [runs // count + (number < runs % count) for number in range(count)]))
    with ThreadPoolExecutor(options.workers) as pool:
        waiting = [
            (target, [pool.submit(_run_worker, target, runs, number, options) for number, runs in enumerate(shares)])
            for target, shares in parts
        ]
        try:
            for target, works in waiting:
                yield _sum_up(target.name, [work.result() for work in works])
        finally:
            pool.shutdown(cancel_futures=True)


def _sum_up(name: str, parts: list[Found]) -> Found:
    found = Found(name)
    for part in parts:
        found.runs += part.runs
        found.taken += part.taken
        found.processor_s += part.processor_s
        found.finds = [*found.finds, *part.finds]
        found.seconds = max(found.seconds, part.seconds)
        found.edges, found.inputs = max(found.edges, part.edges), max(found.inputs, part.inputs)
        found.peak_bytes = max(found.peak_bytes, part.peak_bytes)
    largest = max(parts, key=lambda part: part.ended_bytes)
    found.began_bytes, found.ended_bytes = largest.began_bytes, largest.ended_bytes
    return found


def _run_worker(target: Target, runs: int, number: int, options: Options) -> Found:
    memory = Path("/dev/shm")  # what a target writes is no matter for a disk
    with TemporaryDirectory(prefix="p2pfill-fuzz-", dir=memory if memory.is_dir() else None) as made:
        work = Path(made)
        spec = Spec(
            target.name,
            target.open.__module__,
            ["bench.fuzz", *target.code],
            made,
            str(work / "notes.json"),
            runs,
            options.seed + number + 1,
        )
        corpus, given = work / "corpus", work / "inputs"
        corpus.mkdir()
        given.mkdir()
        for count, data in enumerate(target.inputs()):
            (given / f"{count:04}").write_bytes(data)
        options.out.mkdir(parents=True, exist_ok=True)
        flags = [
            f"-runs={runs}",
            f"-seed={spec.seed}",
            f"-timeout={TIMEOUT_S}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-max_len={target.size_max}",
            f"-artifact_prefix={options.out / target.name}-",
            "-print_final_stats=1",
            "-reload=0",
            *(() if options.seconds is None else (f"-max_total_time={options.seconds}",)),
        ]
        if target.words:
            (work / "words").write_text("".join(f'"{_escaped(word)}"\n' for word in target.words if word))
            flags.append(f"-dict={work / 'words'}")
        began = time.monotonic()
        command = [sys.executable, "-m", "bench.fuzz.worker", msgspec.json.encode(spec).decode(), *flags, corpus, given]
        environment = {**os.environ, "PYTHONHASHSEED": "0", **({"P2PFILL_PURE": "1"} if options.pure else {})}
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
        found = _read(target, ended.stderr + ended.stdout, Path(spec.notes))
        found.seconds = time.monotonic() - began
        if ended.returncode:
            found.finds = [_find_of(target, ended, work, options.out)]
        if options.corpora is not None:
            (options.corpora / target.name).mkdir(parents=True, exist_ok=True)
            for path in corpus.iterdir():
                (options.corpora / target.name / path.name).write_bytes(path.read_bytes())
    return found


def _escaped(word: str) -> str:
    return "".join(chr(byte) if 32 < byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word.encode())


def _read(target: Target, said: bytes, notes_file: Path) -> Found:
    """Return what a worker has said, and noted."""
    notes = Notes()
    if notes_file.exists() and notes_file.stat().st_size:
        notes = msgspec.json.decode(notes_file.read_bytes(), type=Notes)
    found = Found(target.name, notes.runs, notes.taken, processor_s=notes.processor_s)
    found.began_bytes, found.ended_bytes = notes.began_bytes, notes.ended_bytes
    if progress := _PROGRESS.findall(said):
        found.edges, found.inputs = int(progress[-1][0]), int(progress[-1][1])
    if executed := _EXECUTED.search(said):
        found.runs = int(executed[1])
    if peak := _PEAK.search(said):
        found.peak_bytes = max(int(peak[1]) * MIB, notes.ended_bytes)  # it is in whole MiB
    return found


def _find_of(target: Target, ended: subprocess.CompletedProcess[bytes], work: Path, out: Path) -> Find:
    """Return what ended a worker, whose input is kept with its output beside it."""
    said = (ended.stdout + ended.stderr).decode(errors="replace")
    by_library = re.search(r"Test unit written to (\S+)", said)
    own = [path for path in work.iterdir() if path.suffix in (".history", ".input")]
    data = own[0].read_bytes() if own else Path(by_library[1]).read_bytes() if by_library else b""
    # What the library has kept beside is the input alone, and may break nothing by itself.
    for written in [Path(by_library[1])] if by_library else []:
        written.unlink()
    suffix = ".history" if own and own[0].suffix == ".history" else ""
    file = out / f"{target.name}-{sha256(data).hexdigest()[:12]}{suffix}"
    file.write_bytes(data)
    file.with_name(f"{file.name}.log").write_text(said)
    lines = [
        line for line in said.splitlines() if re.match(r"\s*(\w+\.)*\w*(Error|Broken|Exception|libFuzzer)\b", line)
    ]
    last = next(reversed(lines), f"ended with status {ended.returncode}").strip()
    return Find(target.name, str(file), last[:500], f"python -m bench.fuzz {target.name} --repeat {file}")
