"""Every limit of the project, with its unit and its reason. Limits of one algorithm stay beside it."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

TITLE_ID_BYTES: Final = 32
NODE_ID_CHARS_MAX: Final = 64

WEIGHT_MAX: Final = 1000.0
"""Upload capacity of a cache relative to the usual one: 100 Gbit/s beside 100 Mbit/s. Above that a unit is mixed up, or
somebody wants all of a fleet's elections for himself."""

CHUNK_SIZE_MIN: Final = 64 * KIB
"""Below this a chunk costs more in control messages and thread hand-overs than in payload."""

CHUNK_SIZE_MAX: Final = 64 * MIB
"""Above this one lost chunk is too much to fetch again, and pipelining over peers gets too coarse."""

CHUNK_COUNT_MAX: Final = 1 << 21
"""A bitmap of this many chunks is 256 KiB, which one control frame carries (see `FRAME_BYTES_MAX`)."""

TITLE_BYTES_MAX: Final = CHUNK_SIZE_MAX * CHUNK_COUNT_MAX
"""128 TiB: more than any cache's disk."""

FILE_COUNT_MAX: Final = 1 << 20
DIRECTORY_COUNT_MAX: Final = 1 << 20
"""All that files and empty directories lie in, at any depth: each is made on every cache."""
DIRECTORY_BYTES_MAX: Final = 256 * MIB
"""Their paths together, since they are looked at side by side: a short manifest can name a tree of many long ones."""
EMPTY_DIRECTORY_COUNT_MAX: Final = 1 << 16
"""Far more than a tree has; unlike files they are kept as texts."""
PATH_BYTES_MAX: Final = 4096
"""PATH_MAX of Linux."""

PATH_COMPONENT_BYTES_MAX: Final = 255
"""NAME_MAX of the usual Linux file systems."""

MANIFEST_BYTES_MAX: Final = 512 * MIB
"""Bounds what a tracker or a node reads for one manifest before it looks inside."""

TITLE_NAME_CHARS_MAX: Final = 200

REASON_CHARS_MAX: Final = 2000
"""One reason in a report, for people. It holds the longest URL that can be ordered only in part, which is still enough
to know it by; a tracker refuses a heartbeat with a longer one, so nodes cut theirs."""

REPORT_SOURCES_MAX: Final = 1024
"""Sources in the report of one title: twice what a node has links."""

FRAME_BYTES_MAX: Final = 1 * MIB
"""One control frame. Holds the largest bitmap and the longest batch of chunk indexes with room to spare."""

EVICT_TITLES_MAX: Final = 100
"""Titles that a report on an eviction names: some ten kilobytes of a heartbeat, and more than a person reads."""

EVICTIONS_MAX: Final = 16
"""Requests to make room that a node is given, and reports on, at a time."""

ORIGINS_COUNTED_MAX: Final = 64
"""Origins of which a node counts what it has had: a fleet has a few. The rest is counted together."""
