"""How fast a fill may be that yields to the traffic of viewers on the same link. Pure.

Each direction by itself, a few times a second: the fill gets what others leave of `USABLE` of the link. The rest stays
free, so that viewers who come find no queue and are seen before the link is full. Where the link is full all the same,
what others would use is not known, since the fill has its part of it: it is halved until there is room again. Where
there is room it grows again by `GROWTH` of the link each time.

LEDBAT++ and rLEDBAT (RFC 9840) go by the delay of the sender's or receiver's own packets, since they know nothing else
of the path. A cache knows its own link, which is what its fill and its viewers share, and what moves on it: that says
more, and sooner. Another bottleneck on the way is shared as TCP shares it.

Of rLEDBAT it takes the means: the receiver's window. A reader that is held to a rate leaves the kernel's buffer full,
and the kernel lets the remote go on only once a sixteenth of the buffer is free. Of a buffer that it has widened to
megabytes that is a burst of hundreds of kilobytes, which stands in the queue before the cache's link, where the cache's
own priorities count for nothing, and requests and acknowledgements of viewers stand behind it. So a stream has room for
what its rate needs, and no more (`window`).
"""

from __future__ import annotations

from typing import Final

USABLE: Final = 0.9
"""The part of the link that the fill and viewers may use together before the fill gives way."""

FULL: Final = 0.96
"""From here on the link counts as full: what shapes it, and counts it, differ by a few per cent."""

GROWTH: Final = 0.02
"""Of the link, at each look: with four a second, a fill has the whole of an idle link after a dozen seconds."""

LEAST: Final = 0.01
"""Of the link: a fill that stood still would lose its sources."""

ROUND_TRIPS: Final = 2.0
"""So many of them at its rate a source may be ahead: one is on its way, and one makes up for a thread that was late."""

WINDOW_MIN_BYTES: Final = 64 * 1024
"""One segment as large as segmentation offload makes them. With less a source waits for each read."""

WINDOW_MAX_BYTES: Final = 1 << 30
"""TCP has none that are larger (RFC 7323)."""


def window(rate: float, round_trip_s: float) -> int:
    """Return how many bytes a source may send unread that is read at `rate`, bytes a second.

    A power of two, so that a rate that creeps up does not change it at each look.
    """
    wanted = int(min(max(ROUND_TRIPS * rate * round_trip_s, WINDOW_MIN_BYTES), WINDOW_MAX_BYTES))
    return 1 << (wanted - 1).bit_length()


class Scavenger:
    """One direction of one link."""

    def __init__(self, link: float) -> None:
        """`link` is what it carries, bytes a second."""
        self._link = link
        self.rate = LEAST * link
        """What the fill may have now, bytes a second."""

    def look(self, others: float, own: float) -> float:
        """Take in what others and the fill have moved since the look before, bytes a second; return the rate."""
        link = self._link
        room = USABLE * link - others
        if others + own >= FULL * link:
            self.rate = min(self.rate, own, room) / 2 if room > 0 else LEAST * link
        else:
            self.rate = min(self.rate + GROWTH * link, room)
        self.rate = max(self.rate, LEAST * link)
        return self.rate
