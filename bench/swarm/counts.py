"""What a node's event loop does while it fills, counted from outside: the product has no such counters.

`install` puts a Trio instrument into the run, and wraps the few functions through which all messages and writes of
links go. A count costs half a microsecond: with 256 KiB chunks about 0.03 processor seconds a GB, which are
in the node's own figures. Where the product's functions change, `SEAMS` is what has to follow; a test runs a pair and
fails where something is no longer counted.

A process tells its counts as a line of JSON, {"counts": {...}}, whenever it gets `ASK_SIGNAL`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Final

import trio

ASK_SIGNAL: Final = signal.SIGUSR1

STEPS: Final = "task steps"
TURNS: Final = "loop turns"
WAKES: Final = "wake-ups"
SENT: Final = "messages sent"
RECEIVED: Final = "messages received"
WRITES: Final = "writes"

COUNTS: Final = {
    STEPS: "of Trio: a task ran from one wait to its next",
    TURNS: "of Trio's loop, whether it waited or only looked",
    WAKES: "of Trio's loop out of a wait",
    SENT: "frames that were put into links",
    RECEIVED: "frames that came out of links",
    WRITES: "of a link to its socket, of all frames that were there",
}
"""What is counted, and what that is."""

SEAMS: Final = (
    (SENT, "p2pfill.protocol.link", "encode_frame"),
    (RECEIVED, "p2pfill.protocol.link", "decode_payload"),
    (WRITES, "p2pfill.transport.control", "ControlChannel._write_now"),
)
"""Count -> module and function, each call of which is one."""


class LoopCounter(trio.abc.Instrument):
    """Counts what Trio does."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step."""
        self._counts[STEPS] += 1

    def before_io_wait(self, timeout: float) -> None:
        """Count a turn, and the wake-up that will follow where it waits."""
        self._counts[TURNS] += 1
        if timeout > 0:
            self._counts[WAKES] += 1


def install() -> dict[str, int]:
    """Have the next `trio.run` of this process counted, and its links; return the counts, which grow."""
    counts = dict.fromkeys(COUNTS, 0)
    trio.run = partial(trio.run, instruments=[LoopCounter(counts)])  # type: ignore[assignment]
    for name, module, path in SEAMS:
        _count_calls(module, path, counts, name)

    def tell(number: int, frame: FrameType | None) -> None:
        os.write(1, json.dumps({"counts": counts}).encode() + b"\n")

    signal.signal(ASK_SIGNAL, tell)
    return counts


def _count_calls(module: str, path: str, counts: dict[str, int], name: str) -> None:
    from importlib import import_module

    owner: Any = import_module(module)
    *inside, function = path.split(".")
    for part in inside:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, function)

    def counted(*arguments: Any) -> Any:
        counts[name] += 1
        return original(*arguments)

    setattr(owner, function, counted)
