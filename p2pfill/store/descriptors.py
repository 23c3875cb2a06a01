"""Descriptors of files, of which a process may have so many, and what is done where they run out.

All titles of a process share a budget of descriptors that are kept open between two uses: a part of what the process
may have, since sockets need the rest. Within it each title keeps its own files, those used last. Where it is used up a
title closes one of its own for each that it opens; a title of few files never notices.

Where the kernel has none left all the same (EMFILE, ENFILE), everything that is not in use is closed, and the thread
that needs one tries again for a moment: others are about to be done with theirs. Only then that is an error, and it
says nothing of the disk.
"""

from __future__ import annotations

import errno
import resource
import time
from collections.abc import Callable
from threading import Lock
from typing import Final, Protocol, TypeVar
from weakref import WeakSet

DESCRIPTORS_MIN: Final = 64
"""The least with which a node works, if slowly: some 20 are its own, and each thread that moves bytes needs a few."""
DESCRIPTORS_ENOUGH: Final = 1024
"""From here on nothing waits for one: what a process may have by default."""
DIRECTORIES_MAX: Final = 32
"""Of one title: a few for each thread that works on it."""
KEPT_MAX: Final = 8192
"""Files that are kept open, however many may be: each costs the kernel about a kilobyte."""
SHORT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""What the kernel answers where there are none left."""

_PAUSES_S: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Between two attempts: less than a second in all, in a thread that has nothing else to do."""

Opened = TypeVar("Opened")


class Resting(Protocol):
    """What keeps files open."""

    def rest(self, *, wait: bool = True) -> None:
        """Close what is not in use now; without `wait` nothing where another thread is at it."""


def descriptors_max() -> int:
    """Return how many descriptors this process may have open."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 30 if most == resource.RLIM_INFINITY else most


def is_short(error: BaseException) -> bool:
    """Tell whether something failed for want of a descriptor, itself or what it was raised from."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in SHORT_OF_DESCRIPTORS


class DescriptorBudget:
    """Files that all titles of a process keep open. Thread-safe; asked only where one is opened or closed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept = 0
        self._most = self.directories_max = 0
        """`directories_max`: directories that one title keeps open."""
        self.is_spent = False
        """Whether more are kept open than may be."""
        self._caches: WeakSet[Resting] = WeakSet()
        self.fit(descriptors_max())

    def fit(self, most: int) -> None:
        """Keep to what a process may have that may have so many descriptors."""
        self._most = min(KEPT_MAX, most // 4)
        self.directories_max = max(2, min(DIRECTORIES_MAX, most // 32))
        self.is_spent = self._kept > self._most

    @property
    def most(self) -> int:
        """How many files are kept open at most."""
        return self._most

    def join(self, cache: Resting) -> None:
        """Have `relieve` close what a cache does not use."""
        with self._lock:
            self._caches.add(cache)

    def take(self) -> None:
        """Count a file that was opened."""
        self._count(1)

    def give(self) -> None:
        """Count a file that was closed."""
        self._count(-1)

    def _count(self, more: int) -> None:
        with self._lock:
            self._kept += more
            self.is_spent = self._kept > self._most

    def relieve(self) -> None:
        """Close all that is kept open and not in use, but for caches at which somebody is just now."""
        with self._lock:
            caches = list(self._caches)
        for cache in caches:
            cache.rest(wait=False)

    def patiently(self, error: Exception, open_it: Callable[[], Opened]) -> Opened:
        """Try again what failed with `error` for want of a descriptor. Raises that, and what `open_it` raises."""
        for pause_s in _PAUSES_S:
            if not is_short(error):
                raise error
            self.relieve()
            time.sleep(pause_s)
            try:
                return open_it()
            except Exception as again:  # noqa: BLE001  (looked at above)
                error = again
        raise error


BUDGET: Final = DescriptorBudget()
"""Of this process, whose limit is one for all that is in it."""
