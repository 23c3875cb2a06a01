"""What happened, as lines, and the digest of all of them: the same seed must give the same to the byte."""

from __future__ import annotations

import hashlib
from typing import Final

FLUSH_LINES: Final = 512
"""Lines that are hashed together: one call for each would cost more than the hashing."""


class Trace:
    """Lines in order. They are kept only where asked for; a fleet's are gigabytes."""

    def __init__(self, *, keep: bool = False) -> None:
        self.lines: list[str] = []
        self.count = 0
        self._keep = keep
        self._fresh: list[str] = []
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, now: float, who: str, what: str) -> None:
        """Note that something happened to `who`."""
        self.count += 1
        self._fresh.append(f"{now!r} {who} {what}")
        if len(self._fresh) >= FLUSH_LINES:
            self._flush()

    def digest(self) -> str:
        """Return the digest of all lines so far, in hexadecimal."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        if self._fresh:
            self._hash.update(("\n".join(self._fresh) + "\n").encode())
            if self._keep:
                self.lines += self._fresh
            self._fresh.clear()
