"""How often a cache does what, and how long it waits for what: one definition for the node and for the simulator.

All are seconds but where the name says otherwise. Waits that belong to fill decisions are in `policy` and `swarm`.
"""

from typing import Final

PROGRESS_S: Final = 1.0
"""How often others are told that a slow chunk is still on its way; well below `FillPolicy.stall_wait_s`."""

DISCOVERY_TIMEOUT_S: Final = 1.5
"""For linking with the caches of the roster and hearing what they hold, before anything is fetched across a border.
Takes milliseconds as a rule; a cache that is down must not hold up the fill for longer."""

ANNOUNCE_S: Final = 0.06
"""The least time between two announcements: what comes meanwhile shares a message, which costs both sides more than it
carries. The first one after a pause goes out at once, since at the head of a fill each hop between caches waits for it.
See docs/experiments.md, "Announcements"."""

COMMIT_INTERVAL_S: Final = 0.25
"""How much work a crash may undo, against one sync of the disk each time."""

WRITE_OUT_BYTES: Final = 16 * 1024 * 1024
"""A disk begins with verified chunks when so many bytes have come since the last commit. Each call is a change
of thread, and small writes cost more processor time than large ones. A cache that gets less than this between two
commits leaves all of it to them. See docs/experiments.md, "Disks and the page cache"."""

SCHEDULER_S: Final = 0.25
"""How often a cache that fills several titles looks whether one of them has got stuck, so that others may go on."""

ORIGIN_READS_MAX: Final = 8
"""Chunks read from origins at a time, by all fills of a node: each costs a thread and a chunk of memory."""

FAILING_ATTEMPTS: Final = 2
"""So many requests in a row for a part of a chunk must have failed before others are told that an origin cannot be
reached: one that breaks off is nothing."""

REDIAL_S: Final = 0.5
"""The first pause before a node is dialled again; doubles up to `REDIAL_MAX_S`."""

REDIAL_MAX_S: Final = 15.0

CONNECT_TIMEOUT_S: Final = 10.0
"""For opening a data stream."""

KEEPALIVE_S: Final = 10.0
"""A Ping is sent this often; its answer tells that the remote's event loop still runs."""

SILENCE_TIMEOUT_S: Final = 35.0
"""Three lost Pings and some slack."""

PROGRESS_TIMEOUT_S: Final = 30.0
"""A stream on which no byte moves for this long inside a chunk is dead."""

SLOT_WATCH_S: Final = 1.0
"""An upload slot whose stream has moved nothing between two looks goes to another."""

SLOT_LEAST_BYTES: Final = 64 * 1024
"""And so does one whose stream has moved less while others wait: a slot's part of 8 Mbit/s. A remote that
reads so slowly would hold the slot of a large chunk for minutes."""

SLOT_SLOW_LOOKS: Final = 30
"""For so many looks such a stream comes last of those that are as urgent: what it reads moves in bursts."""

SLOTS_A_CHUNK: Final = 2
"""Receivers of a title that are served side by side for each chunk of it that is held. A cache that holds little is
asked by all for the same: if two get it whole, they serve others sooner than if sixteen get a part of it. See
docs/experiments.md, "Upload slots"."""

UPLOAD_SLOTS: Final = 16
"""Chunks that a node sends at a time, if it is not told otherwise. Few would be held by receivers behind slow links,
while the uplink has room for others. See docs/experiments.md, "Upload slots"."""

FROZEN_S: Final = 1.5
"""A program that wakes so much later than it asked for was stopped: no event loop lags so long by itself."""


def slots_for(chunks_held: int, slots: int) -> int:
    """Return how many of `slots` upload slots a title may take of which `chunks_held` chunks can be served."""
    return min(slots, max(1, SLOTS_A_CHUNK * chunks_held))
