"""Reads `Retry-After`, which obstore's exceptions do not carry.

After a 429 or 503 one HEAD request asks the same URL again and looks at that header only. The alternative, a whole
HTTP client of our own beside obstore, would double the code for the sake of one header.
"""

from __future__ import annotations

import http.client
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

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


def probe_retry_after(url: str, timeout_s: float) -> float | None:
    """Ask `url` once and return its `Retry-After` in seconds; None where it gives none or cannot be reached."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    try:
        connection.request("HEAD", parts.path or "/", headers={"User-Agent": "p2pfill"})
        response = connection.getresponse()
        if response.status not in (429, 503):
            return None
        return parse_retry_after(response.getheader("Retry-After"), datetime.now(UTC))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
