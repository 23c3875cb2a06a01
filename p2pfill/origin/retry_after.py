"""Reads the value of a `Retry-After` header."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRY_AFTER_MAX_S = 24 * 3600.0
"""What a remote may ask for is cut to a day: the fill window has passed by then."""


def parse_retry_after(value: str | None, now: datetime, said_at: str = "") -> float | None:
    """Return seconds (0 to a day) from a `Retry-After` value, a number or an HTTP date; None if it is neither.

    `said_at` is the `Date` of the answer. Where there is one it counts and not `now`, since clocks differ.
    """
    text = (value or "").strip()[:64]
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_MAX_S)
    when = _date(text)
    if when is None:
        return None
    return min(max((when - (_date(said_at) or now)).total_seconds(), 0.0), RETRY_AFTER_MAX_S)


def _date(text: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(text.strip()[:64])
    except (ValueError, OverflowError):  # a year or a zone beyond any integer
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
