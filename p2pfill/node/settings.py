"""What the tracker says of this cache, by the fleet's policy and as limits. On disk too, since it holds without one.

DATA/settings has it, with the digest by which the tracker knows whether there is news. One that cannot be read, or
written, is told in the log, and the tracker is asked again: until then the cache does as far as it knows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import trio

from p2pfill.errors import ConfigError, StoreError
from p2pfill.model.fleet_policy import NO_SETTINGS, CacheSettings
from p2pfill.model.packing import JSON_ERRORS
from p2pfill.model.rates import NO_LIMITS, RateLimits
from p2pfill.store.disk import DIRECTORY_FLAGS, replace_file

SETTINGS: Final = "settings"

FILE_BYTES_MAX: Final = 1024 * 1024
"""A timetable of all its windows has some kilobytes."""


class _File(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    digest: str
    settings: CacheSettings
    limits: RateLimits = NO_LIMITS


class PolicySettings:
    """The settings of a node. `apply` is called with them, in the event loop, when it is set and when they change."""

    def __init__(self, data: Path, log: logging.Logger) -> None:
        self.settings = NO_SETTINGS
        self.digest = ""
        """Of those that are on disk; empty: to be told anew."""
        self.limits = NO_LIMITS
        """What `p2pfill limit` has set for this cache."""
        self._data = data
        self._log = log
        self._apply: Callable[[CacheSettings], object] = lambda _: None

    def on_change(self, apply: Callable[[CacheSettings], object]) -> None:
        """Have `apply` called with the settings, now and whenever they change."""
        self._apply = apply
        apply(self.settings)

    async def load(self) -> None:
        """Take over what was stored."""
        try:
            stored = await trio.to_thread.run_sync(_read, self._data / SETTINGS)
        except FileNotFoundError:
            return
        except (OSError, *JSON_ERRORS, ConfigError) as error:
            self._log.error("the settings in %s cannot be read, the tracker is asked: %s", self._data / SETTINGS, error)
            return
        self.settings, self.digest, self.limits = stored.settings, stored.digest, stored.limits
        self._apply(self.settings)

    async def take(self, settings: CacheSettings, digest: str) -> None:
        """Hold to other settings from now on. Raises `StoreError` where they cannot be stored; they hold all the same.
        """
        if settings != self.settings:
            self.settings = settings
            self._apply(settings)
        await self._keep(digest)

    async def take_limits(self, limits: RateLimits) -> None:
        """Remember what the tracker's limits are. Raises `StoreError` where they cannot be stored."""
        if limits != self.limits:
            self.limits = limits
            await self._keep(self.digest)

    async def _keep(self, digest: str) -> None:
        self.digest = ""  # until they are on disk
        encoded = msgspec.json.encode(_File(digest, self.settings, self.limits))
        await trio.to_thread.run_sync(_write, self._data, encoded)
        self.digest = digest


def _read(path: Path) -> _File:
    with path.open("rb") as file:
        return msgspec.json.decode(file.read(FILE_BYTES_MAX), type=_File)


def _write(data: Path, encoded: bytes) -> None:
    try:
        fd = os.open(data, DIRECTORY_FLAGS)
        try:
            replace_file(fd, SETTINGS, encoded)
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreError(f"cannot write {str(data / SETTINGS)!r}: {error.strerror}") from error
