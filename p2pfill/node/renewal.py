"""A node's certificate while the node runs: renewed, rotated and revoked without a restart."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from p2pfill.errors import ConfigError
from p2pfill.model.identity import Role
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.config import NodeConfig
from p2pfill.node.troubles import Troubles
from p2pfill.store.disk import DIRECTORY_FLAGS, replace_file
from p2pfill.trust.credentials import REVOKED_FILE, Credentials

LOOK_S: Final = 5.0
"""Between looks at the files: five calls of `stat`."""


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

    def __init__(
        self, credentials: Credentials, recheck: Callable[[], object], data: Path, log: logging.Logger,
        troubles: Troubles | None = None,
    ) -> None:
        """`recheck` has links ended whose certificates are accepted no more.

        What the tracker tells is kept in the directory `data`: it holds from the start on when the node starts again.
        """
        self.credentials = credentials
        self._recheck = recheck
        self._data = data
        self._log = log
        self._troubles = troubles or Troubles(log)
        self._digest = ""
        """Of the lists that were told last, as the tracker names them."""

    def load(self) -> None:
        """Take in what was told before the node stopped. Where it cannot be used the log says so."""
        try:
            self.credentials.revoke((self._data / REVOKED_FILE).read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ConfigError) as error:
            self._log.warning("what the tracker had told of revoked certificates cannot be used: %s", error)

    async def follow(self, digest: str, fetch: Callable[[], Awaitable[bytes]]) -> None:
        """Take in the tracker's revocation lists where they are others than before; `fetch` returns them.

        Raises what that does, and `ConfigError` where no authority that is trusted here has signed them.
        """
        if not digest or digest == self._digest:
            return
        told = await fetch()
        self._digest = digest
        if not self.credentials.revoke(told):
            return
        self._log.info("certificates were revoked, as the tracker tells")
        self._recheck()
        await trio.to_thread.run_sync(self._keep, self.credentials.revocations.pem())

    def _keep(self, pem: bytes) -> None:
        fd = os.open(self._data, DIRECTORY_FLAGS)
        try:
            replace_file(fd, REVOKED_FILE, pem)
        finally:
            os.close(fd)

    async def run(self) -> None:
        """Look every `LOOK_S` until cancelled."""
        while True:
            async with ErrorBoundary(self._log, "read the certificates again; those before stand"):
                await self._look_and_tell()
            await trio.sleep(LOOK_S)

    async def _look_and_tell(self) -> None:
        """Look, and say once why the directory cannot be used."""
        try:
            await self.look()
        except ConfigError as error:
            self._troubles.put("identity", f"cannot read its certificates again, those before stand: {error}")
        else:
            self._troubles.put("identity", "")
        self._troubles.put("certificate", self.credentials.ending(datetime.now(UTC)))

    async def look(self) -> None:
        """Take over what has changed. Raises `ConfigError` where it cannot be used; then nothing changes."""
        if await trio.to_thread.run_sync(self.credentials.reload):
            self._log.info("has read its certificates again; its own holds until %s", self.credentials.expires)
            self._digest = ""  # the tracker's lists may be of an authority that is trusted only now
            self._recheck()
