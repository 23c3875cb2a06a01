"""Certificates for a lab: an authority, and an identity for the tracker, each cache, and who orders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.swarm.topology import Host
from p2pfill.tracker.client import TrackerClient
from p2pfill.trust.authority import Authority
from p2pfill.trust.credentials import Credentials

TRACKER_NAME: Final = "lab-tracker"
ORDERER: Final = "lab-operator"

GRANTS: Final = f'[[grants]]\nwho = "user/{ORDERER}"\nmay = ["read", "publish", "order", "withdraw", "manage"]\n'


class Identities:
    """What everybody in a lab shows, in directories below one."""

    def __init__(self, directory: Path, tracker_at: str, caches: Iterable[Host]) -> None:
        """Make them. Raises `ConfigError` and `OSError`."""
        self._directory = directory
        self.grants = directory / "grants.toml"
        authority = directory / "ca"
        now = datetime.now(UTC)
        authority.mkdir(mode=0o700, parents=True)
        listed = [f"[[trackers]]\nname = {json.dumps(TRACKER_NAME)}\nhosts = [{json.dumps(tracker_at)}]\n"]
        for cache in caches:
            where = f"isp = {json.dumps(cache.isp)}\nregion = {json.dumps(cache.region)}"
            who = f"id = {json.dumps(cache.name)}\nhosts = [{json.dumps(cache.address)}]"
            listed.append(f"[[caches]]\n{who}\n{where}\n")
        listed.append(f"[[users]]\nname = {json.dumps(ORDERER)}\n")
        (authority / "fleet.toml").write_text("\n".join(listed))
        Authority.create(authority, "lab.example", now)
        with Authority(authority) as opened:
            opened.issue([], directory, now)
        self.grants.write_text(GRANTS)

    def of(self, name: str) -> str:
        """Return the directory of one of them."""
        return str(self._directory / name)

    def client(self, url: str) -> TrackerClient:
        """Return a client of the tracker that may do everything."""
        return TrackerClient(url, credentials=Credentials(self._directory / ORDERER))
