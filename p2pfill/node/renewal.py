"""A node's certificate while the node runs: renewed, rotated and revoked without a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import trio

from p2pfill.errors import ConfigError
from p2pfill.model.identity import Role
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.config import NodeConfig
from p2pfill.trust.credentials import Credentials

LOOK_S: Final = 5.0
"""Between looks at the files: five calls of `stat`."""

SOON: Final = timedelta(days=7)
"""Before the end of a certificate that it is said, each day."""


def load_credentials(config: NodeConfig) -> Credentials | None:
    """Return the credentials of a node's settings, None where it has none.

    Raises `ConfigError` where they are of somebody else than the settings say.
    """
    if not config.identity:
        return None
    credentials = Credentials(Path(config.identity))
    me = credentials.identity
    if me.role is not Role.CACHE:
        raise ConfigError(f"identity {config.identity!r} is of {me.who}, and a node needs that of a cache")
    # The port is not known yet, and is in no certificate.
    if wrong := me.disagrees_with(config.info(0)):
        raise ConfigError(f"the settings do not fit identity {config.identity!r}: {wrong}")
    return credentials


class Renewal:
    """Watches the files of credentials, and takes over what has changed."""

    def __init__(self, credentials: Credentials, recheck: Callable[[], object], log: logging.Logger) -> None:
        """`recheck` has links ended whose certificates are accepted no more."""
        self._credentials = credentials
        self._recheck = recheck
        self._log = log
        self._told_at: datetime | None = None

    async def run(self) -> None:
        """Look every `LOOK_S` until cancelled."""
        while True:
            async with ErrorBoundary(self._log, "read the certificates again; those before stand"):
                await self.look()
            await trio.sleep(LOOK_S)

    async def look(self) -> None:
        """Take over what has changed. Raises `ConfigError` where it cannot be used; then nothing changes."""
        if await trio.to_thread.run_sync(self._credentials.reload):
            self._log.info("has read its certificates again; its own holds until %s", self._credentials.expires)
            self._recheck()
        now = datetime.now(UTC)
        is_due = self._told_at is None or now - self._told_at > timedelta(days=1)
        if is_due and now > self._credentials.expires - SOON:
            self._told_at = now
            self._log.warning(
                "its certificate ends at %s: renew it with `p2pfill ca renew`, or no link can be made",
                self._credentials.expires,
            )

