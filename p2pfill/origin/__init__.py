"""Cloud origins: where a title's files lie as plain files, over HTTP(S) or in a directory.

`open_origin` is the only way in. An origin serves the published tree as it is: base URL + the file's path.
All calls block and are meant for worker threads.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from p2pfill.origin.errors import (
    OriginCancelled,
    OriginError,
    OriginFault,
    OriginObjectChanged,
    OriginObjectMissing,
    OriginRefused,
    OriginUnavailable,
)
from p2pfill.origin.reader import OriginChunk, open_store_origin
from p2pfill.origin.settings import OriginSettings
from p2pfill.origin.verify import verify_chunk

if TYPE_CHECKING:
    from p2pfill.model.manifest import Manifest

__all__ = [
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
        """The normalised base URL or directory, for messages."""

    def read_chunk(
        self,
        manifest: Manifest,
        k: int,
        cancelled: Callable[[], bool] = ...,
        arrived: Callable[[], object] = ...,
        failing: Callable[[str], object] = ...,
    ) -> OriginChunk:
        """Return chunk `k`, of the right length, unverified. Raises a subclass of `OriginError`."""

    def close(self) -> None:
        """Stop reads under way and refuse later ones."""


def open_origin(url: str, *, settings: OriginSettings | None = None, rng: random.Random | None = None) -> Origin:
    """Open an origin: `http(s)://HOST[:PORT]/PATH`, `file:///DIR` or a directory's path.

    No request is made yet. `rng` draws the jitter of retries. Raises `ConfigError` where `url` cannot be an origin.
    """
    return open_store_origin(url, settings or OriginSettings(), rng or random.Random())  # noqa: S311 (jitter only)
