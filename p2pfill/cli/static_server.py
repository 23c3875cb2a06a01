"""A small HTTP origin: serves the files of one title, with Range, and nothing else of the disk.

    python -m p2pfill.cli.static_server ROOT FILE.fill      prints {"url": …} and serves until stopped

For the demo and for trying things out: any web server over the published tree does the same, and a real fleet has one.
Files are sent by Starlette's FileResponse in pieces of 1 MiB: 700 MB/s where its 64 KiB give 200 (loopback, 2 cores).
What the manifest does not name is not found, so the rest of the directory stays private.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any, Final

import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from p2pfill.cli.exits import run_app
from p2pfill.cli.services import announce, stop_at_eof
from p2pfill.cli.text import read_manifest
from p2pfill.errors import ConfigError
from p2pfill.model import limits
from p2pfill.tracker.server import bind

GRACE_S: Final = 1.0


class _Pieces(FileResponse):
    chunk_size = limits.MIB


def build_app(root: Path, paths: frozenset[str]) -> Starlette:
    """Return an ASGI app that serves `paths` (relative, '/'-separated) below `root`."""

    async def serve_file(request: Request) -> FileResponse:
        path = request.path_params["path"]
        if path not in paths:
            raise HTTPException(404)
        return _Pieces(root / path, media_type="application/octet-stream")

    return Starlette(routes=[Route("/{path:path}", serve_file)])


def serve(root: Path, fill: Path, listen: str = "127.0.0.1:0") -> None:
    """Serve the title in `fill` from `root` until SIGTERM, SIGINT or the end of standard input."""
    if not root.is_dir():
        raise ConfigError(f"cannot serve {str(root)!r}: it is not a directory")
    paths = frozenset(entry.path for entry in read_manifest(fill).files)
    app: Any = build_app(root, paths)

    async def run() -> None:
        stop = trio.Event()
        with bind(listen) as sock, trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            stop_at_eof()
            config = Config()
            config.bind = [f"fd://{sock.fileno()}"]
            config.accesslog = config.errorlog = None
            config.graceful_timeout = GRACE_S
            config.include_server_header = False
            host, port = sock.getsockname()[:2]
            async with trio.open_nursery() as nursery:
                await nursery.start(_serve, app, config, stop)
                sock.detach()  # the server owns the descriptor now, and closes it
                announce({"url": f"http://{host}:{port}"}, "", as_json=True)
                async for _ in signals:
                    break
                stop.set()

    trio.run(run)


async def _serve(app: Any, config: Config, stop: trio.Event, *, task_status: trio.TaskStatus[list[str]]) -> None:
    await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)


def main() -> int:
    """Run as a process; see the top of this file."""
    if len(sys.argv) != 3:
        print("usage: python -m p2pfill.cli.static_server ROOT FILE.fill", file=sys.stderr)
        return 2
    return run_app(lambda **_: serve(Path(sys.argv[1]), Path(sys.argv[2])), None)


if __name__ == "__main__":
    sys.exit(main())
