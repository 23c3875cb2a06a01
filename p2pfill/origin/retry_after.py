"""Reads the value of a `Retry-After` header."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRY_AFTER_MAX_S = 24 * 3600.0
"""What a remote may ask for is cut to a day: the fill window has passed by then."""


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return seconds (0 to a day) from a `Retry-After` value, a number or an HTTP date; None if it is neither."""
    text = (value or "").strip()[:64]
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_MAX_S)
    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return min(max((when - now).total_seconds(), 0.0), RETRY_AFTER_MAX_S)
    except (ValueError, OverflowError):  # a year or a zone beyond any integer
        return None
