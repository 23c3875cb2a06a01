"""What a cache does in a night, as a process that is recorded: fills, an upgrade, a withdrawal, a repair.

    python -m bench.crashes.store_work DIRECTORY

DIRECTORY holds what `prepare` has put there. The node's data is DIRECTORY/disk/data; into DIRECTORY/marks go lines that
say what was promised, each written by the thread that has just got that promise from the store.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import trio

from p2pfill.engine import task
from p2pfill.model.ids import TitleId
from p2pfill.model.limits import KIB
from p2pfill.model.manifest import Manifest
from p2pfill.model.selection import chunks_of_file
from p2pfill.node.config import NodeConfig
from p2pfill.node.health import HealthConfig
from p2pfill.node.node import open_node
from p2pfill.store.publish import publish
from p2pfill.store.store import Store
from p2pfill.store.title import StoredTitle

CHUNK_BYTES: Final = 64 * KIB
COMMIT_S: Final = 0.02
"""Between two commits, so that eight chunks are not one commit."""
INBOUND_BYTES_S: Final = 2048 * KIB
"""What the recorded cache may take, so that its chunks come one after the other."""

DELETED: Final = ("movie.bin", "sub/one.srt", "sub/three.srt", "sub/two.srt")
"""Files of `film-2` that somebody deletes in the end."""

MTIME_S: Final = 1_700_000_000


class Work(NamedTuple):
    """The titles of a night, and where they lie."""

    directory: Path
    titles: dict[str, Manifest]
    """By the names of their sources: `alpha` is withdrawn, `film-2` is the same name's next version."""

    @property
    def disk(self) -> Path:
        """What is recorded."""
        return self.directory / "disk"

    @property
    def marks(self) -> Path:
        """The file of promises."""
        return self.directory / "marks"

    def source(self, title: str) -> Path:
        """Return where the files of a title lie."""
        return self.directory / "sources" / title

    def of(self, title_id: str) -> str:
        """Return which of the titles an id means."""
        return next(name for name, one in self.titles.items() if one.title_id.hex() == title_id)


def prepare(directory: Path, seed: int) -> Work:
    """Make sources and manifests. `film-1` has eight chunks, in files with and without space of their own."""
    chance = random.Random(seed)
    film = {
        "a.srt": chance.randbytes(40_000),
        "empty": b"",
        "movie.bin": chance.randbytes(5 * CHUNK_BYTES - 100),
        "sub/one.srt": chance.randbytes(60_000),
        "sub/two.srt": chance.randbytes(50_000),
    }
    upgrade = {**film, "sub/one.srt": chance.randbytes(61_000), "sub/three.srt": chance.randbytes(3_000)}
    upgrade["movie.bin"] = film["movie.bin"][: 3 * CHUNK_BYTES] + chance.randbytes(2 * CHUNK_BYTES)
    titles = {"alpha": {"alpha.bin": chance.randbytes(100_000)}, "film-1": film, "film-2": upgrade}
    (directory / "disk").mkdir()
    for title, files in titles.items():
        for path, data in files.items():
            place = directory / "sources" / title / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            os.utime(place, (MTIME_S, MTIME_S))
        name = title.partition("-")[0]
        manifest = publish(directory / "sources" / title, name=name, chunk_size=CHUNK_BYTES).manifest
        (directory / f"{title}.fill").write_bytes(manifest.encode())
    return load(directory)


def load(directory: Path) -> Work:
    """Return what `prepare` has made."""
    files = sorted(directory.glob("*.fill"))
    return Work(directory, {path.stem: Manifest.decode(path.read_bytes()) for path in files})


class Marks:
    """The file of promises. Each line is one write, by whichever thread."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def say(self, event: str, title_id: TitleId, **more: Any) -> None:
        """Say what was just promised of a title, or what is about to begin."""
        os.write(self._fd, msgspec.json.encode({"event": event, "title": title_id.hex(), **more}) + b"\n")

    def listen(self, store: Path) -> None:
        """Have the store in a directory say what it promises: the calls by which a node learns of it are wrapped."""

        def ours(title: StoredTitle) -> bool:
            return os.readlink(f"/proc/self/fd/{title._directory_fd}").startswith(str(store))

        def commit(title: StoredTitle, chunks: Any, call: Callable[..., Any]) -> None:
            here = ours(title)
            call(title, chunks)
            if here:
                self.say("durable", title.manifest.title_id, chunks=list(chunks))

        def go_live(title: StoredTitle, call: Callable[..., Any]) -> None:
            here = ours(title)
            call(title)
            if here:
                self.say("live", title.manifest.title_id)

        def begin(one: Store, manifest: Manifest, *rest: Any, call: Callable[..., Any]) -> StoredTitle:
            if one.root == store:
                self.say("ordered", manifest.title_id)
            found: StoredTitle = call(one, manifest, *rest)
            return found

        def remove(one: Store, title_id: TitleId, call: Callable[..., Any]) -> Any:
            if one.root == store:
                self.say("withdrawn", title_id)
            found = call(one, title_id)
            if one.root == store:
                self.say("removed", title_id)
            return found

        for kind, name, instead in (
            (StoredTitle, "commit", commit), (StoredTitle, "go_live", go_live), (Store, "begin_fill", begin),
            (Store, "begin_removal", remove),
        ):  # fmt: skip
            call = getattr(kind, name)
            setattr(kind, name, wraps(call)(partial_method(instead, call)))


def partial_method(instead: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that calls `instead` with the method that it replaces."""

    def method(*arguments: Any) -> Any:
        return instead(*arguments, call=call)

    return method


def configure(name: str, data: Path, rate: int = 0) -> NodeConfig:
    """Return the settings of a node that does what it is told also on a busy machine, and nothing else."""
    idle = HealthConfig(load=0, disk_reads=0, link_use=0)
    rates = rate or ""
    return NodeConfig(
        id=name, isp="isp", data=str(data), scrub_bytes_s=0, free_bytes_min=0, health=idle, rates=rates
    )


async def night(work: Work) -> None:
    """Fill `alpha` from its origin, `film-1` from a cache, `film-2` from its origin and `film-1`; remove `alpha`.

    Then files of `film-2` are lost, and made again.
    """
    task.COMMIT_INTERVAL_S = COMMIT_S  # type: ignore[attr-defined]
    store = work.disk / "data"
    marks = Marks(work.marks)
    marks.listen(store)
    seed = configure("seed", work.directory / "seed")
    ours = configure("cache", store, INBOUND_BYTES_S)
    async with open_node(seed) as other:
        await other.fill(work.titles["film-1"], [str(work.source("film-1"))])
        async with open_node(ours) as node:
            await node.fill(work.titles["alpha"], [str(work.source("alpha"))])
            fill = await node.start_fill(work.titles["film-1"], members=[node.info], holders=[other.info])
            node.want_links([other.info])
            await fill.wait()
            await node.fill(work.titles["film-2"], [str(work.source("film-2"))])
            await node.evictor.evict(work.titles["alpha"].title_id)
            await trio.to_thread.run_sync(mend, node.store, work, marks)


def mend(store: Store, work: Work, marks: Marks) -> None:
    """Delete files of a live title, one with a directory, and have them made again, in two commits."""
    manifest = work.titles["film-2"]
    title = store.open_title(manifest.title_id)
    lost = [index for index in range(len(manifest.files)) if manifest.files.path(index) in DELETED]
    bad = sorted({chunk for index in lost for chunk in chunks_of_file(manifest, index)})
    marks.say("damaged", manifest.title_id, chunks=bad)
    files = store.root / "live" / manifest.name
    for path in DELETED:
        (files / path).unlink()
    (files / "sub").rmdir()
    store.lose(title, [], lost)
    marks.say("noticed", manifest.title_id)
    for some in (bad[: len(bad) // 2], bad[len(bad) // 2 :]):
        for chunk in some:
            title.write_chunk(chunk, bytes_of_chunk(work, "film-2", chunk))
        title.commit(some)
    title.go_live()


def bytes_of_chunk(work: Work, title: str, chunk: int) -> bytes:
    """Return the bytes of a chunk, from its source."""
    manifest, source = work.titles[title], work.source(title)
    found = b""
    for part in manifest.segments(chunk):
        with (source / manifest.files.path(part.file_index)).open("rb") as file:
            file.seek(part.offset)
            found += file.read(part.length)
    return found


if __name__ == "__main__":
    trio.run(night, load(Path(sys.argv[1])))
