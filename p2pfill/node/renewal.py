"""A node's certificate while the node runs: renewed, rotated and revoked without a restart."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from p2pfill.errors import ConfigError
from p2pfill.model.identity import Role
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.config import NodeConfig
from p2pfill.node.troubles import Troubles
from p2pfill.store.disk import DIRECTORY_FLAGS, replace_file
from p2pfill.store.places import REVOKED_FILE
from p2pfill.trust.ending import told_of_end

if TYPE_CHECKING:
    from p2pfill.trust.credentials import Credentials

LOOK_S: Final = 5.0
"""Between looks at the files: five calls of `stat`."""


def load_credentials(config: NodeConfig) -> Credentials | None:
    """Return the credentials of a node's settings, None where it has none.

    Raises `ConfigError` where they are of somebody else than the settings say.
    """
    if not config.identity:
        return None
    from p2pfill.trust.credentials import Credentials

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

        What is known of revocations is kept in the directory `data`, also what the tracker has told: it holds from the
        start on when the node starts again, whatever lies in the identity then.
        """
        self.credentials = credentials
        self._recheck = recheck
        self._data = data
        self._log = log
        self._troubles = troubles or Troubles(log)
        self._digest = ""
        """Of the lists that were told last, as the tracker names them."""

    def load(self) -> None:
        """Take in what was known before the node stopped, and keep what is known now.

        Where the one cannot be used, or the other cannot be kept, the log says so.
        """
        from p2pfill.trust.credentials import read_kept_lists

        try:
            self.credentials.revoke(read_kept_lists(self._data / REVOKED_FILE))
        except (OSError, ConfigError) as error:
            self._log.warning("what was known of revoked certificates cannot be used: %s", error)
        try:
            if known := self.credentials.revocations.pem():
                self._keep(known)
        except OSError as error:
            self._log.warning("what is known of revoked certificates cannot be kept: %s", error)

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
        self._troubles.put("certificate", told_of_end(self.credentials, datetime.now(UTC)))

    async def look(self) -> None:
        """Take over what has changed. Raises `ConfigError` where it cannot be used; then nothing changes."""
        if await trio.to_thread.run_sync(self.credentials.reload):
            self._log.info("has read its certificates again; its own holds until %s", self.credentials.expires)
            self._digest = ""  # the tracker's lists may be of an authority that is trusted only now
            self._recheck()
            if self.credentials.has_old_list:
                from p2pfill.trust.credentials import OLD_LIST

                self._log.warning("%s", OLD_LIST)
            if known := self.credentials.revocations.pem():
                await trio.to_thread.run_sync(self._keep, known)
