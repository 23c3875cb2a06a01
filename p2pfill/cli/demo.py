"""`p2pfill demo`: a whole small fleet on one machine, from nothing to nothing.

An HTTP origin, a tracker and seven caches run as processes of their own, started with the commands that a person
would type. The demo itself only publishes, orders, watches and verifies, through the same API as everybody. Whatever
happens, its processes end and its directory goes; PATH is only read.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import trio
from rich.console import Console

from p2pfill.cli.board import fill_board
from p2pfill.cli.children import Child, Children
from p2pfill.cli.demo_tree import write_demo_tree
from p2pfill.cli.exits import CommandFailed
from p2pfill.cli.fill import check_outcome, wait_fill
from p2pfill.cli.progress import byte_progress
from p2pfill.cli.summary import CacheOutcome, DemoOutcome, demo_record, demo_view
from p2pfill.cli.text import plural, show_bytes, show_rate, show_seconds
from p2pfill.errors import ConfigError
from p2pfill.model import limits
from p2pfill.model.manifest import Manifest
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest, FillStatus

T = TypeVar("T")

TITLE_NAME: Final = "demo"
REGION: Final = "region-1"
HEARTBEAT_S: Final = 1.0
"""Often enough to watch; a cache that a busy machine holds up for less than 3 s still counts as alive."""
POLL_S: Final = 0.2
FLEET_S: Final = 60.0
"""For all caches to report to the tracker."""
STALL_S: Final = 120.0
"""Without a byte anywhere: something is broken, and a demo must end."""
SPARE_BYTES: Final = 256 * limits.MIB
"""Left free on the disk, for whoever else uses it."""


class Cache(NamedTuple):
    """One cache of the demo."""

    id: str
    isp: str


CACHES: Final = (
    *(Cache(f"a{number}", "isp-a") for number in (1, 2, 3)),
    *(Cache(f"b{number}", "isp-b") for number in (1, 2, 3)),
    Cache("hub1", "hub"),
)


def run_demo(path: Path | None, *, size: int, work: Path | None, keep: bool, as_json: bool) -> None:
    """Run the demo. Raises `CommandFailed` unless every cache ends with every byte."""
    # JSON is the only thing on stdout then: progress and summary go where people look.
    console = Console(stderr=as_json, highlight=False)
    outcome = trio.run(until_signal, _Demo(console, path, size, work, keep).run)
    if outcome is None:
        raise KeyboardInterrupt
    console.print(demo_view(outcome))
    if as_json:
        sys.stderr.flush()
        print(json.dumps(demo_record(outcome)), flush=True)
    check_outcome(outcome.status, None)
    wrong = [cache for cache in outcome.caches if not cache.verified]
    if wrong:
        raise CommandFailed(f"{plural(len(wrong), 'cache')} of {len(outcome.caches)} did not verify: {wrong[0].fault}")


async def until_signal(run: Callable[[], Awaitable[T]]) -> T | None:
    """Await `run`; return None where a signal ended it. Nothing is then left behind, as with any other end."""
    outcome: T | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            outcome = await run()
            nursery.cancel_scope.cancel()
    return outcome


class _Demo:
    def __init__(self, console: Console, path: Path | None, size: int, work: Path | None, keep: bool) -> None:
        self._console = console
        self._path = path
        self._size = size
        self._work_choice = work
        self._keep = keep

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    async def run(self) -> DemoOutcome:
        size = self._size if self._path is None else await _in_thread(tree_bytes, self._path)
        with self._work_directory(size) as work:
            source = await self._source(work)
            fill_file = work / "demo.fill"
            manifest = await self._publish(source, fill_file)
            async with self._fleet(work, source, fill_file) as (tracker, origin, children):
                status = await self._fill(tracker, origin, manifest, children)
                begun = time.monotonic()
                caches = [await self._verify(work, cache, manifest, status) for cache in CACHES]
                verify_s = time.monotonic() - begun
        self._say(
            f"Stopped all processes; their data and logs are in {work}"
            if self._keep
            else "Stopped all processes and removed their data"
        )
        return DemoOutcome(manifest, status, caches, verify_s)

    # ---- preparation

    @contextmanager
    def _work_directory(self, size: int) -> Iterator[Path]:
        copies = len(CACHES) + (self._path is None)
        # Rounded up by a block a file and by the digests: nothing against the rest.
        parent = choose_directory(self._work_choice, size * copies + SPARE_BYTES)
        work = Path(tempfile.mkdtemp(prefix="p2pfill-demo-", dir=parent))
        try:
            yield work
        finally:
            if not self._keep:
                shutil.rmtree(work)

    async def _source(self, work: Path) -> Path:
        if self._path is not None:
            return self._path.absolute()
        root = work / "title"
        begun = time.monotonic()
        with self._bar("Generating") as progress:
            count = await _in_thread(write_demo_tree, root, self._size, _cancellable(progress))
        took_s = time.monotonic() - begun
        self._say(f"Generated {show_bytes(self._size)} in {plural(count, 'file')} ({show_seconds(took_s)})")
        return root

    async def _publish(self, source: Path, out: Path) -> Manifest:
        from p2pfill.store.publish import publish

        begun = time.monotonic()
        with self._bar("Publishing") as progress:
            result = await _in_thread(lambda: publish(source, name=TITLE_NAME, progress=_cancellable(progress)))
        manifest = result.manifest
        await _in_thread(out.write_bytes, manifest.encode())
        took_s = time.monotonic() - begun
        self._say(
            f"Published {show_bytes(manifest.size)} in {plural(len(manifest.files), 'file')} as "
            f"{plural(manifest.chunk_count, 'chunk')} of {show_bytes(manifest.chunk_size)}, title id "
            f"{manifest.title_id.hex()[:16]}… ({show_seconds(took_s)}, {show_rate(manifest.size / max(took_s, 1e-6))})"
        )
        for line in result.skipped[:3]:
            self._say(f"  skipped {line}")
        if len(result.skipped) > 3:
            self._say(f"  skipped {len(result.skipped) - 3} more")
        return manifest

    @contextmanager
    def _bar(self, label: str) -> Iterator[Callable[[int, int], None]]:
        with byte_progress(label) as progress:
            yield progress

    # ---- the fleet

    @asynccontextmanager
    async def _fleet(self, work: Path, source: Path, fill_file: Path) -> AsyncIterator[tuple[str, str, Children]]:
        root = source.parent if await _in_thread(source.is_file) else source
        async with Children(work) as children:
            server = await children.start("origin", "p2pfill.cli.static_server", [str(root), str(fill_file)])
            db = f"sqlite:///{work / 'tracker.db'}"
            options = ["--listen", "127.0.0.1:0", "--db", db, "--heartbeat", str(HEARTBEAT_S), "--until-eof", "--json"]
            tracker = await children.start("tracker", "p2pfill.cli", ["tracker", *options])
            origin_url = (await server.read_ready())["url"]
            tracker_url = (await tracker.read_ready())["url"]
            nodes = [await self._start_cache(children, work, cache, tracker_url) for cache in CACHES]
            for node in nodes:
                await node.read_ready()
            with trio.move_on_after(FLEET_S) as scope:
                await _wait_fleet(tracker_url, children)
            if scope.cancelled_caught:
                raise CommandFailed(f"not all caches have reported to the tracker after {FLEET_S:.0f} s")
            self._say(
                f"Started an origin, a tracker and {plural(len(CACHES), 'cache')}: {_pids(server, tracker, nodes)}"
            )
            yield tracker_url, origin_url, children

    async def _start_cache(self, children: Children, work: Path, cache: Cache, tracker_url: str) -> Child:
        options = {
            "--id": cache.id,
            "--isp": cache.isp,
            "--region": REGION,
            "--data": str(work / cache.id),
            "--listen": "127.0.0.1:0",
            "--tracker": tracker_url,
        }
        flat = [text for option in options.items() for text in option]
        return await children.start(cache.id, "p2pfill.cli", ["node", *flat, "--until-eof", "--json"])

    # ---- the fill

    async def _fill(self, tracker: str, origin: str, manifest: Manifest, children: Children) -> FillStatus:
        moved_at = trio.current_time()
        moved_bytes = -1

        async def check() -> None:
            children.check()
            if trio.current_time() - moved_at > STALL_S:
                raise CommandFailed(f"no byte has moved for {STALL_S:.0f} s; try again with --keep and read the logs")

        def watch(status: FillStatus) -> None:
            nonlocal moved_at, moved_bytes
            if status.totals.have_bytes != moved_bytes:
                moved_at, moved_bytes = trio.current_time(), status.totals.have_bytes
            show(status)

        async with TrackerClient(tracker) as client:
            request = FillRequest(title=manifest.title_id.hex(), selector="all", origins=[origin])
            await client.put_title(request.title, manifest.encode())
            created = await client.post_fill(request)
            with fill_board(self._console, f"Filling {plural(len(CACHES), 'cache')} with {TITLE_NAME!r}") as show:
                return await wait_fill(client, created.fill_id, show=watch, poll_s=POLL_S, check=check)

    async def _verify(self, work: Path, cache: Cache, manifest: Manifest, status: FillStatus) -> CacheOutcome:
        from p2pfill.store.verify import verify_tree

        report = next((node.report for node in status.nodes if node.node.id == cache.id), None)
        if report is None or report.state != "live":
            return CacheOutcome(cache.id, cache.isp, report, False, "the fill did not complete")
        tree = work / cache.id / "live" / TITLE_NAME
        with self._bar(f"Verifying {cache.id}") as progress:
            found = await _in_thread(verify_tree, tree, manifest, _cancellable(progress))
        ok = found.ok and not found.extra
        fault = (
            ""
            if ok
            else (
                f"{cache.id}: {len(found.bad)} bad chunks, {len(found.missing)} missing files, "
                f"{len(found.wrong_size)} of wrong size, {len(found.extra)} that do not belong there"
            )
        )
        return CacheOutcome(cache.id, cache.isp, report, ok, fault)


async def _wait_fleet(tracker_url: str, children: Children) -> None:
    async with TrackerClient(tracker_url) as client:
        while sum(node.alive for node in await client.nodes()) < len(CACHES):
            children.check()
            await trio.sleep(POLL_S)


def _pids(server: Child, tracker: Child, nodes: list[Child]) -> str:
    pids = ", ".join(f"{node.name} {node.pid}" for node in nodes)
    return f"processes {server.pid}, {tracker.pid} and {pids}"


async def _in_thread(call: Callable[..., T], *arguments: Any) -> T:
    return await trio.to_thread.run_sync(lambda: call(*arguments))


def _cancellable(progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Return `progress`, which also ends the thread's work where the demo is cancelled."""

    def report(done: int, total: int) -> None:
        trio.from_thread.check_cancelled()
        progress(done, total)

    return report


def tree_bytes(path: Path) -> int:
    """Return the size of a file or of all regular files of a tree, in bytes. Raises `ConfigError`."""
    if path.is_file():
        return path.stat().st_size
    if not path.is_dir():
        raise ConfigError(f"{str(path)!r} is neither a file nor a directory")
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            file = Path(directory, name)
            if file.is_file():
                total += file.stat().st_size
    return total


def choose_directory(choice: Path | None, needed_bytes: int) -> Path:
    """Return a directory with room for `needed_bytes`: `choice`, else a usual place. Raises `ConfigError`.

    /var/tmp comes before /tmp, which is often memory.
    """
    usual = [os.environ.get("TMPDIR", ""), "/var/tmp", tempfile.gettempdir(), os.getcwd()]  # noqa: S108 (mkdtemp below)
    candidates = [choice] if choice is not None else [Path(name) for name in usual if name]
    most = 0
    for candidate in candidates:
        if not (candidate.is_dir() and os.access(candidate, os.W_OK)):
            continue
        free = shutil.disk_usage(candidate).free
        if free >= needed_bytes:
            return candidate.absolute()
        most = max(most, free)
    where = f"{str(choice)!r}" if choice is not None else "any of " + ", ".join(dict.fromkeys(map(str, candidates)))
    if not most:
        raise ConfigError(f"cannot write to {where}; name a directory with --work DIR")
    raise ConfigError(
        f"the demo needs {show_bytes(needed_bytes)} of disk and there are {show_bytes(most)} free in {where}; "
        "name another place with --work DIR or less data with --size MIB"
    )
