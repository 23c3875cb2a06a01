"""How busy a cache is with its viewers, looked at each second, and what follows of it (`engine.health`).

The program that embeds the node knows best, and gives a function; a daemon of another language writes a number into a
file. Without either the machine is looked at: processes that want to run, reads that the disk has outstanding, and what
others move on the link. By default only a machine that serves nobody well any more counts as busy, since a figure of
the machine cannot tell viewers from other work.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import trio

from p2pfill.engine.health import Health
from p2pfill.errors import ConfigError, StoreError
from p2pfill.model.limits import REASON_CHARS_MAX
from p2pfill.model.node import NodeInfo
from p2pfill.model.quantities import parse_rate
from p2pfill.model.reports import ServingReport, clipped
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.machine import DiskReads, Link, Load, Moved
from p2pfill.transport.looks import next_look

LOOK_S: Final = 1.0
"""Between two looks: viewers notice what lasts for seconds."""

ANSWER_S: Final = 5.0
"""For the function or the file to answer; then the cache counts as busy as it was said before."""

FAULT_REST_S: Final = 30.0
"""Until the next look where one has failed: a log that is told the same each second is of no use."""

FILE_STALE_S: Final = 60.0
"""A file that was not written for so long says nothing: the daemon that wrote it may be gone."""

FILE_BYTES_MAX: Final = 64
"""A number."""

Busy = Callable[[], float]
"""How busy a cache is with its viewers: 0 not at all, 1 has nothing to spare. Called in a worker thread."""


class HealthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """From when on a machine counts as busy; a 0 leaves a figure out."""

    load: float = 8.0
    """Processes that run or want to, besides the node, for each processor; with twice as many nothing is spared."""
    disk_reads: float = 32.0
    """Reads that the disk of the titles has outstanding; with twice as many nothing is spared."""
    link_use: float = 0.8
    """The part of the link that others than the node use; with all of it nothing is spared."""
    link: str = ""
    """What the link carries, as "10Gbit"; by default what the kernel says of it."""
    interface: str = ""
    """Which it is; by default that of the default route."""
    file: str = ""
    """A file into which the serving daemon writes how busy it is, from 0 to 1, at least each minute. Then the machine
    is not looked at."""

    def __post_init__(self) -> None:
        if not (0 <= self.load <= 1e6 and 0 <= self.disk_reads <= 1e6 and 0 <= self.link_use < 1):
            raise ConfigError("health: load and disk_reads are 0 or above, and link_use is a part below 1")
        if self.link:
            parse_rate(self.link)

    def link_rate(self) -> int:
        """Return what the link carries, bytes a second; 0: as the kernel says."""
        return parse_rate(self.link) if self.link else 0


class _Said(NamedTuple):
    busy: float
    why: str


IDLE: Final = _Said(0.0, "")


class ServingHealth:
    """Looks how busy one cache is. `on_change` is called in the event loop with the part of upload slots that is left.
    """

    def __init__(
        self,
        config: HealthConfig,
        data: Path,
        moved: Callable[[], Moved],
        on_change: Callable[[float], object],
        log: logging.Logger,
        hook: Busy | None = None,
    ) -> None:
        self._health = Health()
        self._said = IDLE
        self._config = config
        self._data = data
        self._moved = moved
        self._on_change = on_change
        self._log = log
        self._hook = hook
        self._is_known = True
        """The last look has not failed."""

    def report(self) -> ServingReport:
        """Return what the tracker is told."""
        return ServingReport(round(self._said.busy, 3), self._said.why, self._health.step.weight)

    def weigh(self, info: NodeInfo) -> NodeInfo:
        """Return what others are told of the node: with the weight that is left."""
        part = self._health.step.weight
        # A weight so small that nothing is left of a part of it stays: it is above 0 everywhere.
        return info if part == 1.0 else msgspec.structs.replace(info, weight=info.weight * part or info.weight)

    async def run(self) -> None:
        """Look each second, until cancelled."""
        look: Callable[[Moved], _Said] | None = None
        one = trio.CapacityLimiter(1)  # a function that hangs keeps one thread, not one more each second
        while True:
            self._is_known = True
            async with ErrorBoundary(self._log, "look how busy the cache is with its viewers", self._forget):
                if look is None:
                    look = await trio.to_thread.run_sync(self._looker)
                with trio.move_on_after(ANSWER_S):
                    self._said = await trio.to_thread.run_sync(look, self._moved(), abandon_on_cancel=True, limiter=one)
            before = self._health.step
            if self._health.look(trio.current_time(), self._said.busy):
                step = self._health.step
                self._log.info(
                    "%s: %g of its weight and %g of its upload slots are left for other caches; before %g and %g",
                    self._said.why or "less busy with viewers", step.weight, step.admits, before.weight, before.admits,
                )  # fmt: skip
                self._on_change(step.admits)
            if self._is_known:
                await next_look(LOOK_S)
            else:
                await trio.sleep(FAULT_REST_S)

    def _forget(self, error: object) -> None:
        """Take the cache for idle: what cannot be asked is not known, and a fill that stands still helps nobody."""
        self._said = IDLE
        self._is_known = False

    # ---- for worker threads

    def _looker(self) -> Callable[[Moved], _Said]:
        if (hook := self._hook) is not None:
            return lambda _: _Said(_part(hook()), "the program that embeds the node says so")
        if self._config.file:
            return lambda _: _read(Path(self._config.file), self._said)
        config = self._config
        link, disk, load = Link(config.interface, config.link_rate()), DiskReads(self._data), Load()

        def look(own: Moved) -> _Said:
            found = [IDLE]
            runnable, reads, use = load.look(), disk.look(), link.look(own)
            if config.load:
                found.append(_Said(_beyond(runnable, config.load), f"{runnable:.1f} other processes a processor"))
            if config.disk_reads and reads is not None:
                found.append(_Said(_beyond(reads, config.disk_reads), f"{reads:.0f} reads of the disk outstanding"))
            if config.link_use and use is not None and link.rate:
                part = max(use.others_in, use.others_out) / link.rate
                said = f"others use {part:.0%} of {link.interface}"
                found.append(_Said(_clip((part - config.link_use) / (1 - config.link_use)), said))
            busiest = max(found)
            return busiest if busiest.busy else IDLE

        return look


def _beyond(figure: float, limit: float) -> float:
    return _clip(figure / limit - 1)


def _clip(part: float) -> float:
    return min(1.0, max(0.0, part))


def _part(busy: object) -> float:
    """Return how busy that is. Raises `ConfigError` where it is no number."""
    # Numbers of other libraries too, but what leaves is a float and nothing that is derived of it: reports carry those.
    if not isinstance(busy, Real) or busy != busy:
        raise ConfigError(f"how busy the cache is must be a number from 0 to 1, not {busy!r:.40}")
    return 0.0 if busy <= 0 else float(busy) if busy < 1 else 1.0


def _read(path: Path, before: _Said) -> _Said:
    """Return what a file says; `before` where it is just being written. Raises `StoreError` and `ConfigError`."""
    try:
        # A pipe to which nobody writes would keep the thread.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"{str(path)!r} is not a file: write a number from 0 to 1 into one")
            text, written_s = file.read(FILE_BYTES_MAX), found.st_mtime
    except FileNotFoundError:
        return IDLE
    except OSError as error:
        raise StoreError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if time.time() > written_s + FILE_STALE_S:
        return IDLE
    if not text:
        return before  # a shell empties it before it writes
    try:
        busy = float(text)
    except ValueError:
        raise ConfigError(f"{str(path)!r} has {text[:20]!r}: write a number from 0 to 1") from None
    return _Said(_part(busy), clipped(f"{path.name} says so", REASON_CHARS_MAX))


