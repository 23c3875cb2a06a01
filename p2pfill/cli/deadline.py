"""Deadlines as people write and read them: an instant of RFC 3339, or `+` and how long from now."""

from __future__ import annotations

from datetime import UTC, datetime

from p2pfill.errors import ConfigError
from p2pfill.model.quantities import parse_span


def parse_deadline(text: str, now: float) -> float:
    """Return the seconds since the epoch that `text` means at `now`. Raises `ConfigError`.

    An instant needs its offset from UTC: which midnight is meant must not depend on the machine that is asked.
    """
    if text.startswith("+") and (span_s := parse_span(text[1:])) is not None:
        return now + span_s
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise ConfigError(
            f"deadline {text[:80]!r} cannot be used: write an instant with its offset, as in 2030-01-31T06:00:00Z, "
            "or how long from now, as in +90m or +1d12h"
        )
    return instant.timestamp()


def show_deadline(deadline: float) -> str:
    """Return a deadline as people read it: `2030-01-31 06:00:00 UTC`."""
    return datetime.fromtimestamp(deadline, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
