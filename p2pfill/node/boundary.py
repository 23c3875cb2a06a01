"""Where everything that one unit of work raises ends, and becomes the state of that unit.

A unit is one title's fill, one read from an origin, one link, one data stream, one stored title, one order, one call to
the tracker. All of them are tasks below one nursery, and what leaves a task ends the node. So each unit runs inside a
boundary:

    async with ErrorBoundary(log, "fill title 1f2e...", self.abort):
        ...

Faults (`errors.is_fault`) end there. They are logged once, those that nobody foresaw with their traceback, and handed
to a callback as one `P2PFillError`, whose text is the reason that people are shown. A cancellation goes on, and so do
KeyboardInterrupt and SystemExit. Trio may raise them in one group with faults: the group is then split, the faults end
here and the rest goes on.

Rejected: one boundary at the top of the node that starts a failed task again. It knows nothing of units, so it cannot
say which of them has failed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, TypeVar, TypeVarTuple

from p2pfill.errors import P2PFillError, is_fault
from p2pfill.model.faults import as_p2pfill_error, is_foreseen

Arguments = TypeVarTuple("Arguments")
Parameters = ParamSpec("Parameters")
UnitT = TypeVar("UnitT", bound="Unit")


class ErrorBoundary:
    """Ends what the block raises; may be used again, also while it is in use, and in any thread.

    `doing` says what the unit does, as in "read chunk 3 from an origin", and may be set anew. `ended` is called, in
    the thread of the block, with what the unit's state is to be made of. `level` is that of foreseen faults in the log:
    low for those that are all in the day's work, and in the unit's state anyway.
    """

    def __init__(
        self,
        log: logging.Logger,
        doing: str,
        ended: Callable[[P2PFillError], object] = lambda error: None,
        level: int = logging.WARNING,
    ) -> None:
        self._log = log
        self.doing = doing
        self._ended = ended
        self._level = level

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            return False
        fault, rest = _split(error)
        if fault is not None:
            self._end(fault)
        if rest is error:
            return False
        if rest is not None:
            # Without its context: the faults in it are dealt with, and must not be told again.
            raise rest from None
        return True

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, error, trace)

    async def run(self, work: Callable[[*Arguments], Awaitable[object]], *arguments: *Arguments) -> None:
        """Await `work(*arguments)` inside the boundary."""
        async with self:
            await work(*arguments)

    def _end(self, fault: BaseException) -> None:
        error = as_p2pfill_error(self.doing, fault)
        if is_foreseen(fault):
            self._log.log(self._level, "cannot %s: %s", self.doing, error)
        else:
            self._log.error("%s", error, exc_info=fault)
        try:
            self._ended(error)
        except BaseException as second:
            if not is_fault(second):
                raise
            # A unit that cannot even note its end must not end the others for that.
            self._log.exception("cannot note that it failed to %s: %r", self.doing, second)


class Unit(Protocol):
    """An object that is a unit of work by itself."""

    @property
    def bounds(self) -> ErrorBoundary:
        """Where what its methods raise ends."""


def bounded(
    method: Callable[Concatenate[UnitT, Parameters], None],
) -> Callable[Concatenate[UnitT, Parameters], None]:
    """Have a method of a unit, which other units call, raise nothing: its faults are its own unit's end."""

    @wraps(method)
    def inside(unit: UnitT, /, *arguments: Parameters.args, **named: Parameters.kwargs) -> None:
        with unit.bounds:
            method(unit, *arguments, **named)

    return inside


def _split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Return the faults in `error`, and what must go on."""
    if is_fault(error):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        return error.split(is_fault)
    return None, error
