"""The costs of routes that the tracker goes by now, read at its start and again while it runs.

Whatever is read anew takes the place of what was read before as a whole, and only if it can be used: a file that is
wrong, or half written, leaves the tracker with what it had. Those who fetch hear of new costs with their next rosters,
within `service.REFRESH_S`.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import trio

from p2pfill.errors import ConfigError
from p2pfill.model.routes import Routes
from p2pfill.tracker.records import RoutesState
from p2pfill.tracker.route_tables import LoadedRoutes, load_routes

_log = logging.getLogger("p2pfill.tracker")


class RouteBook:
    """The file with costs of routes, and what was read of it. Without a file all routes are alike."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._reading = trio.Lock()
        self._loaded: LoadedRoutes | None = None
        self._read_at = 0.0

    @property
    def routes(self) -> Routes | None:
        """The costs; None where none are configured."""
        return None if self._loaded is None else self._loaded.routes

    async def read(self) -> RoutesState:
        """Read file and tables (anew), in a worker thread. Raises `ConfigError`; what was read before counts then."""
        if self._path is None:
            raise ConfigError("no costs of routes are configured: start the tracker with --routes FILE")
        async with self._reading:
            self._loaded = await trio.to_thread.run_sync(load_routes, self._path)
            self._read_at = time.time()
        for table in self._loaded.tables:
            if table.wrong:
                first = "; ".join(table.wrong_first)
                _log.warning("%s: %d lines or records cannot be used: %s", table.file, table.wrong, first)
        return self.state()

    async def read_or_log(self) -> None:
        """Do the same for somebody who does not wait for an answer."""
        try:
            state = await self.read()
        except ConfigError as error:
            _log.error("%s; what was read before counts", error)
        else:
            _log.info("costs of routes read: %d prefixes", sum(table.prefixes for table in state.tables))

    def state(self) -> RoutesState:
        """Return what counts now. Raises `ConfigError` where no costs are configured."""
        if self._loaded is None:
            raise ConfigError("no costs of routes are configured: start the tracker with --routes FILE")
        routes = self._loaded.routes
        return RoutesState(self._read_at, routes.weights, routes.pair_count, self._loaded.tables)
