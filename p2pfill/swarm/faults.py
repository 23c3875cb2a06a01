"""What a source may do wrong, for how long it is left alone for it, and what its escalations are called. Pure."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from p2pfill.model.policy import FillPolicy

BACKOFF_S: Final = 0.5
"""A source that refuses is left alone this long; doubles with each fault in a row."""

DOUBLINGS_MAX: Final = 6
"""Stops the doubling at 64 times the first wait: half a minute after refusals, an hour after wrong digests."""

REST_MAX_S: Final = 60.0
"""But a source that was silent or refused is asked again each minute at least: its way, or ours, may be open again."""

REFUSALS_MAX: Final = 3
"""After this many refusals in a row a source's holdings no longer count, so that its chunks are had elsewhere."""


class Fault(Enum):
    """What a source did wrong."""

    REFUSED = "refused"
    BUSY = "busy"
    SILENT = "silent"
    CORRUPT = "corrupt"
    SLOW = "slow"


ESCALATION: Final = {
    Fault.REFUSED: "master-refusing",
    Fault.BUSY: "master-busy",
    Fault.SILENT: "master-silent",
    Fault.CORRUPT: "master-quarantined",
    Fault.SLOW: "master-slow",
}
"""Why somebody else goes further out in the place of a source that is left alone."""


def rest_s(fault: Fault, faults: int, policy: FillPolicy) -> float:
    """Return for how long a source is left alone after the last of so many `faults` in a row."""
    first = {
        Fault.REFUSED: BACKOFF_S,
        Fault.BUSY: BACKOFF_S,
        Fault.SILENT: policy.request_timeout_s,
        Fault.CORRUPT: policy.quarantine_s,
        Fault.SLOW: policy.quarantine_s,
    }[fault]
    doubled_s = first * 2.0 ** min(faults - 1, DOUBLINGS_MAX)
    return doubled_s if fault in (Fault.CORRUPT, Fault.SLOW) else min(doubled_s, max(REST_MAX_S, first))
