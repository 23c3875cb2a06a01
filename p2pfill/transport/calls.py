"""Calls that threads want made in the event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from p2pfill.errors import is_fault
from p2pfill.model.faults import as_p2pfill_error


class Calls:
    """A queue of them, in order. Any thread may `put`; the event loop makes them."""

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[[], object], Callable[[Exception], object]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._calls)

    def put(self, call: Callable[[], object], failed: Callable[[Exception], object]) -> None:
        """Have `call` made. What it raises is given to `failed`, which must raise nothing: it would end the loop."""
        self._calls.append((call, failed))

    def make(self) -> None:
        """Make all that are there, and those that come meanwhile."""
        while self._calls:
            call, failed = self._calls.popleft()
            try:
                call()
            except BaseException as error:
                if not is_fault(error):
                    raise
                failed(error if isinstance(error, Exception) else as_p2pfill_error("take in what threads tell", error))
