"""What stands for a fault in the state of what it has ended: one error, whose text is a line for people."""

from __future__ import annotations

from p2pfill.errors import InternalError, LocalProtocolError, P2PFillError, leaves_of
from p2pfill.model.limits import REASON_CHARS_MAX
from p2pfill.model.reports import clipped


def is_foreseen(fault: BaseException) -> bool:
    """Tell whether all of `fault` is what p2pfill raises on purpose about something else than itself."""
    return all(
        isinstance(leaf, P2PFillError) and not isinstance(leaf, (InternalError, LocalProtocolError))
        for leaf in leaves_of(fault)
    )


def as_p2pfill_error(doing: str, fault: BaseException) -> P2PFillError:
    """Return the one error that stands for `fault`, which may be a group: its first foreseen one, or `InternalError`.

    Its text is a line that fits a report.
    """
    leaves = leaves_of(fault)
    # Several tasks that fail together mostly fail of one cause; a bug goes before all else.
    first = next((leaf for leaf in leaves if not is_foreseen(leaf)), leaves[0])
    if isinstance(first, P2PFillError):
        return first
    said = clipped(str(first), REASON_CHARS_MAX // 2)
    name = type(first).__name__
    error = InternalError(
        f"could not {clipped(doing, REASON_CHARS_MAX // 4)}: unexpected {name}{': ' if said else ''}{said}; "
        "the log of the cache has the traceback, please report it"
    )
    error.__cause__ = first
    return error
