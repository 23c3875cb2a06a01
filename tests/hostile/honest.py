"""The honest cache beside the attackers, in a process of its own, told by lines of JSON on standard input.

It serves at a fixed rate, so that a fill from it takes as long as its bytes do, whatever else keeps the processors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import trio

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest
from p2pfill.protocol.data import HEADER_BYTES
from tests.hostile.peer import DataStream, Peer, PeerGone, answer, read_exactly
from tests.hostile.titles import Title

NAME = "zz-honest"
RATE_BYTES_S = 16e6


class Honest:
    """The cache, its link with the node, and the titles that it holds."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._titles: dict[bytes, Title] = {}
        self._peer = Peer(NAME)
        self._scope: trio.CancelScope | None = None

    async def link(self, host: str, port: int) -> dict[str, Any]:
        """Link with a node, anew where there was another."""
        if self._scope is not None:
            self._scope.cancel()
        self._peer = Peer(NAME)
        for title in self._titles.values():
            self._peer.holds[title.id] = title.all_of_it()
        self._scope = await self._nursery.start(self._run, self._peer, (host, port))
        return {"info": {"id": NAME, "isp": self._peer.isp, "region": self._peer.region, "port": self._peer.port}}

    async def _run(self, peer: Peer, address: tuple[str, int], task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with peer.linked(address), trio.open_nursery() as nursery:
                task_status.started(scope)
                async for stream in peer.streams:
                    nursery.start_soon(self._serve, peer, stream)

    async def _serve(self, peer: Peer, stream: DataStream) -> None:
        free_at = trio.current_time()
        try:
            async for request in peer.requests:
                payload = self._titles[peer.titles[request.handle]].chunk(request.chunk)
                await trio.sleep_until(free_at)
                await stream.send(answer(request, payload))
                free_at = max(free_at, trio.current_time() - 0.01) + len(payload) / RATE_BYTES_S
        except PeerGone:
            pass

    async def hold(self, manifest: str, root: str) -> dict[str, Any]:
        """Hold a title from now on."""
        decoded = Manifest.decode(await trio.Path(manifest).read_bytes())
        stream = b"".join([await trio.Path(root, entry.path).read_bytes() for entry in decoded.files])
        title = Title(decoded, stream, Path(root))
        self._titles[title.id] = title
        self._peer.holds[title.id] = title.all_of_it()
        return {}

    async def fetch(self, title: str, chunk_bytes: int) -> dict[str, Any]:
        """Be served a chunk of a title that the node has live, and say how long that took."""
        began = trio.current_time()
        try:
            with trio.fail_after(10):
                handle = await self._peer.want(bytes.fromhex(title))
                async with await self._peer.open_stream() as stream:
                    await self._peer.request(handle, 0)
                    await read_exactly(stream, HEADER_BYTES + chunk_bytes)
        except (PeerGone, trio.TooSlowError) as error:
            return {"took_s": trio.current_time() - began, "fault": repr(error)}
        return {"took_s": trio.current_time() - began, "fault": ""}

    async def holdings(self, title: str) -> dict[str, Any]:
        """Ask the node what it holds of a title."""
        with trio.fail_after(10):
            handle = await self._peer.want(bytes.fromhex(title))
        told = self._peer.told[handle]
        held = Bitmap.from_bytes(told.bitmap, told.chunk_count) if told.known else Bitmap(0)
        return {"held": list(held.indexes())}

    async def state(self) -> dict[str, Any]:
        """Say whether the link stands."""
        return {"linked": not self._peer.ended.is_set(), "goodbye": repr(self._peer.goodbye)}


async def main() -> None:
    """Run until standard input ends."""
    async with trio.open_nursery() as nursery:
        honest = Honest(nursery)
        print(json.dumps({}), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            command = json.loads(line)
            do = getattr(honest, command.pop("do"))
            try:
                said = await do(**command)
            except Exception as error:  # noqa: BLE001  (told to the test)
                said = {"error": repr(error)}
            print(json.dumps(said), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
