"""A tracker's service on a database of its own, and titles for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.service import Service


@asynccontextmanager
async def service_on(path: Path) -> AsyncIterator[Service]:
    catalogue = Catalogue.open(f"sqlite:///{path}")
    try:
        yield Service(catalogue, await catalogue.load(), heartbeat_s=2.0)
    finally:
        await trio.to_thread.run_sync(catalogue.close)


async def publish(service: Service, make: Any, chunks: int) -> str:
    """Publish a version of `film`, which is another title for each number of chunks."""
    manifest = make.manifest(chunks=chunks)
    title: str = manifest.title_id.hex()
    await service.add_title(title, manifest, manifest.encode())
    return title
