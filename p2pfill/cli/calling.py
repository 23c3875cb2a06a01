"""How commands call a tracker: as whom, is said once, before the command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pfill.tracker.client import TrackerClient

_directories: list[Path] = []
"""At most one: of `p2pfill --identity DIR`."""


def set_identity(directory: Path | None) -> None:
    """Call trackers as whom the credentials in a directory name; None: as nobody."""
    _directories[:] = [] if directory is None else [directory]


def call_tracker(url: str) -> TrackerClient:
    """Return a client of the tracker at `url`. Raises `ConfigError` where it, or the identity, cannot be used.

    To a tracker that is not encrypted nobody shows who he is.
    """
    from p2pfill.tracker.client import TrackerClient
    from p2pfill.trust.credentials import Credentials

    credentials = Credentials(_directories[0]) if _directories and url.lower().startswith("https://") else None
    return TrackerClient(url, credentials=credentials)
