"""One sender, one receiver, file to file on loopback, all contenders by turns.

A machine's speed drifts, so in each round everybody runs once, and in every second round in the opposite order. The
first round warms caches and memory and does not count. The source lies in the page cache. Before each run all that is
still to be written is written, and what was fetched before is gone, so that nobody runs in another one's shadow.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from p2pfill.bench.contenders import CONTENDERS, Contender
from p2pfill.bench.measure import BenchFailed, Load, Machine, Spread, Tree, begin, describe_machine
from p2pfill.bench.source import MIB, make_source
from p2pfill.errors import ConfigError

RATIOS: Final = (
    "xxh3/floor", "default/floor", "xxh3/floor-synced", "default/floor-synced", "default/curl", "default/aria2",
    "default/libtorrent", "default/rsync",
)  # fmt: skip
"""Of rates, which reports always hold; null where one of the two is absent."""

COSTS: Final = (("sender", "xxh3/floor"), ("receiver", "xxh3/floor"), ("receiver", "default/floor"))
"""Ratios of processor seconds per GB."""

COPIES: Final = 6
"""Of the file that lie on the disk at most: source, two seeds, a copy, and what the file system has yet to free."""

Said = Callable[[str], object]
"""Told what is being done, for people who wait."""


class Run(msgspec.Struct, frozen=True):
    """One counted fetch."""

    seconds: float
    sender_cpu_s: float
    receiver_cpu_s: float
    sender_peak_bytes: int
    receiver_peak_bytes: int
    load: Load


class Measured(msgspec.Struct, frozen=True):
    """A contender and its runs."""

    title: str
    version: str
    checks: str
    durable: bool
    runs: list[Run]


class PairReport(msgspec.Struct, frozen=True):
    """Everything that was measured."""

    machine: Machine
    size_bytes: int
    contenders: dict[str, Measured]
    absent: dict[str, str]
    """Who was asked for and could not run, and why."""


def choose(names: Sequence[str]) -> tuple[list[type[Contender]], dict[str, str]]:
    """Return the contenders of these names (of all, where there are none) that can run, and why the others cannot."""
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise ConfigError(f"there is no contender {unknown[0]!r}; there are {', '.join(CONTENDERS)}")
    kinds = [kind for name, kind in CONTENDERS.items() if not names or name in names]
    absent = {kind.name: why for kind in kinds if (why := kind.missing())}
    return [kind for kind in kinds if kind.name not in absent], absent


def run_pair(
    work: Path, mib: int, runs: int, names: Sequence[str] = (), said: Said = lambda text: None
) -> PairReport:
    """Run everybody in an empty directory. Raises `ConfigError`, and `BenchFailed` where a contender fails."""
    kinds, absent = choose(names)
    if not kinds:
        raise BenchFailed("; ".join(f"{name}: {why}" for name, why in absent.items()))
    check_room(work, COPIES * mib * MIB)
    said(f"writing a source of {mib} MiB")
    source = make_source(work / "source", mib)
    found: dict[str, list[Run]] = {kind.name: [] for kind in kinds}
    with ExitStack() as stack:
        senders: list[tuple[Contender, Tree]] = []
        for kind in kinds:
            said(f"starting {kind.name}")
            place = work / kind.name
            place.mkdir()
            contender = kind(source, place)
            stack.callback(contender.stop)
            senders.append((contender, contender.start()))
        for number in range(runs + 1):
            for contender, tree in senders if number % 2 else reversed(senders):
                said(f"{f'run {number} of {runs}' if number else 'warm-up'}: {contender.name}")
                run = _run_once(contender, tree)
                if number:
                    found[contender.name].append(run)
    return PairReport(
        machine=describe_machine(work),
        size_bytes=source.size,
        contenders={
            kind.name: Measured(kind.title, kind.version(), kind.checks, kind.durable, found[kind.name])
            for kind in kinds
        },
        absent=absent,
    )


def _run_once(contender: Contender, sender: Tree) -> Run:
    contender.prepare()
    meter = begin(contender.work, sender)
    fetched = contender.fetch()
    load, sender_cpu_s = meter.read(), sender.cpu_s()
    contender.source.check(contender.copy, contender.name)
    contender.clear()
    return Run(fetched.seconds, sender_cpu_s, fetched.cpu_s, sender.peak_bytes(), fetched.peak_bytes, load)


def check_room(work: Path, needed_bytes: int) -> None:
    """Raise `ConfigError` where a directory has not enough room."""
    free = shutil.disk_usage(work).free
    if free < needed_bytes:
        raise ConfigError(
            f"{str(work.parent)!r} has {free // MIB:,} MiB free and this needs {needed_bytes // MIB:,}: "
            "choose a smaller --mib, or another directory with --work"
        )


# ---- what the runs say; pure


def rates(report: PairReport) -> dict[str, Spread]:
    """Return the rate of each contender in GB/s."""
    return {
        name: Spread.of(report.size_bytes / run.seconds / 1e9 for run in one.runs)
        for name, one in report.contenders.items()
    }


def costs(report: PairReport) -> dict[str, dict[str, Spread]]:
    """Return the processor seconds per GB of each side of each contender."""
    gb = report.size_bytes / 1e9
    return {
        name: {
            "sender": Spread.of(run.sender_cpu_s / gb for run in one.runs),
            "receiver": Spread.of(run.receiver_cpu_s / gb for run in one.runs),
        }
        for name, one in report.contenders.items()
    }


def peaks(report: PairReport) -> dict[str, dict[str, int]]:
    """Return the most memory, in bytes, that each side of each contender had in any run."""
    return {
        name: {
            "sender": max(run.sender_peak_bytes for run in one.runs),
            "receiver": max(run.receiver_peak_bytes for run in one.runs),
        }
        for name, one in report.contenders.items()
    }


def ratio(medians: Mapping[str, float], pair: str) -> float | None:
    """Return the ratio of the medians of `A/B`; None where one of them is absent."""
    one, _, other = pair.partition("/")
    return medians[one] / medians[other] if one in medians and medians.get(other) else None


def ratios(report: PairReport) -> dict[str, float | None]:
    """Return the ratios of rates."""
    medians = {name: spread.median for name, spread in rates(report).items()}
    return {pair: ratio(medians, pair) for pair in RATIOS}


def cost_ratios(report: PairReport) -> dict[str, float | None]:
    """Return the ratios of processor seconds per GB, by side and pair: `sender xxh3/floor`."""
    found = costs(report)
    return {
        f"{side} {pair}": ratio({name: sides[side].median for name, sides in found.items()}, pair)
        for side, pair in COSTS
    }


def as_record(report: PairReport) -> dict[str, Any]:
    """Return what the report says, and the report itself, as JSON has it."""
    said: dict[str, Any] = msgspec.to_builtins(
        {
            "ratios": ratios(report),
            "cost_ratios": cost_ratios(report),
            "rate_gb_s": rates(report),
            "cpu_s_per_gb": costs(report),
            "peak_bytes": peaks(report),
        }
    )
    record: dict[str, Any] = msgspec.to_builtins(report)
    return said | record
