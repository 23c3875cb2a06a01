"""What this process has used, for reports: an embedding program's own work is in it."""

from __future__ import annotations

import resource

from p2pfill.model.reports import Usage


def process_usage() -> Usage:
    """Return processor time and peak memory of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(processor_s=used.ru_utime + used.ru_stime, memory_peak_bytes=used.ru_maxrss * 1024)
