"""What a tracker has known of revocations, kept in a file beside its database.

Its identity's `revoked.pem` is carried there by people and programs, and now and then an older one is. While the
tracker runs, that changes nothing. This file has it change nothing also when the tracker starts again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from p2pfill.errors import ConfigError
from p2pfill.trust.credentials import REVOKED_FILE, Credentials, read_kept_lists
from p2pfill.trust.files import replace_file

SUFFIX: Final = "-revoked.pem"
"""Of the file beside a database."""

_log = logging.getLogger("p2pfill.tracker")


class KnownRevocations:
    """The file beside the database at `path`; none beside one in memory. Blocks."""

    def __init__(self, path: str, credentials: Credentials) -> None:
        self._path = None if path == ":memory:" else Path(path + SUFFIX)
        self._credentials = credentials

    def load(self) -> None:
        """Take in what was known before the tracker stopped. Where it cannot be used the log says so."""
        if self._path is None:
            return
        try:
            if self._credentials.revoke(read_kept_lists(self._path)):
                _log.warning(
                    "%s is older than what this tracker went by before it stopped, and that counts on: put the "
                    "authority's newest there",
                    self._credentials.directory / REVOKED_FILE,
                )
        except (OSError, ConfigError) as error:
            _log.warning("what was known of revoked certificates, in %s, cannot be used: %s", self._path, error)

    def keep(self) -> None:
        """Keep what is known now. What the disk refuses is logged."""
        pem = self._credentials.revocations.pem()
        if self._path is None or not pem:
            return
        try:
            replace_file(self._path, pem)
        except OSError as error:
            _log.warning("what is known of revoked certificates cannot be kept: %s", error)
