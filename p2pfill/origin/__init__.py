"""Cloud origins: where a title's files lie as plain files, over HTTP(S) or in a directory.

`open_origin` is the only way in. An origin serves the published tree as it is: base URL + the file's path, or a
template with the file's path in it.
All calls block and are meant for worker threads.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol

from p2pfill.origin.chunk import OriginChunk
from p2pfill.origin.errors import (
    OriginCancelled,
    OriginError,
    OriginFault,
    OriginObjectChanged,
    OriginObjectMissing,
    OriginRefused,
    OriginUnavailable,
)
from p2pfill.origin.settings import OriginSettings
from p2pfill.origin.verify import verify_chunk
from p2pfill.origin.watch import Listener

if TYPE_CHECKING:
    from p2pfill.model.manifest import Manifest

__all__ = [
    "Listener",
    "Origin",
    "OriginCancelled",
    "OriginChunk",
    "OriginError",
    "OriginFault",
    "OriginObjectChanged",
    "OriginObjectMissing",
    "OriginRefused",
    "OriginSettings",
    "OriginUnavailable",
    "open_origin",
    "verify_chunk",
]


class Origin(Protocol):
    """What a node needs of an origin. Thread-safe and blocking."""

    @property
    def url(self) -> str:
        """The normalised base URL without its query, or the directory, for messages."""

    def read_chunk(
        self, manifest: Manifest, k: int, listener: Listener | None = None, *, whole: bool = False
    ) -> OriginChunk:
        """Return chunk `k`, of the right length, unverified; with `whole` no part of it comes of several answers.

        Raises a subclass of `OriginError`.
        """

    def close(self) -> None:
        """Stop reads under way and refuse later ones."""


def open_origin(url: str, *, settings: OriginSettings | None = None, rng: random.Random | None = None) -> Origin:
    """Open an origin: `http(s)://HOST[:PORT]/PATH`, a template (see `urls`), `file:///DIR` or a path.

    No request is made yet. `rng` draws the jitter of retries. Raises `ConfigError` where `url` cannot be an origin.
    """
    # Not above: many nodes fill from other caches alone, and it brings clients of all kinds of origins.
    from p2pfill.origin.reader import open_reader

    return open_reader(url, settings or OriginSettings(), rng or random.Random())  # noqa: S311 (jitter only)
