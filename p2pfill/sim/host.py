"""What a connection needs of the cache at its end, and both of their world; `cache.SimCache` is such a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from p2pfill.engine.engine import Engine
from p2pfill.engine.link import Link
from p2pfill.engine.slots import Uploader, UploadSlots
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.sim.network import Internet
from p2pfill.sim.scenario import Scenario
from p2pfill.sim.schedule import Schedule


class Surroundings(Protocol):
    """What a cache and its connections need of their world."""

    scenario: Scenario
    schedule: Schedule
    internet: Internet
    manifest: Manifest

    def jitter_s(self) -> float:
        """Return by how much the next message is late."""


class Host(Protocol):
    """The cache at one end of a connection."""

    info: NodeInfo
    boots: int
    slots: UploadSlots
    frozen: bool
    frozen_deeds: list[tuple[Callable[..., object], tuple[Any, ...]]]

    @property
    def world(self) -> Surroundings:
        """Where it is."""

    @property
    def engine(self) -> Engine:
        """What decides for it."""

    def local_time(self) -> float:
        """Return what its clock shows."""

    def tick(self) -> None:
        """Have the engine decide, and do what it wants."""

    def has_output(self, connection: Any) -> None:
        """Note that a connection has something to send at the end of the tick."""

    def can_send(self, link: Link, request_id: int, chunk: int) -> bool:
        """Tell whether it has a chunk to send; a liar does with the request what it does."""

    def sent(self, link: Link, request_id: int, length: int) -> None:
        """Take note that a chunk was sent whole."""

    def serve(self, uploader: Uploader | None) -> None:
        """Have an uploader send that was handed a slot."""

    def fault_of_next(self) -> str:
        """Return what a receiver finds wrong with the chunk that was just sent; nothing as a rule."""

    def waste(self, length: int) -> None:
        """Count payload that came and was of no use."""

    def lose(self, connection: Any) -> None:
        """Take note that a connection is gone."""
