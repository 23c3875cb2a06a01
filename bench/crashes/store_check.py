"""What must hold of a cache's data directory after a crash, checked with the real store, and the real node, on it.

Before anything of ours has run, as a web server sees it:

- what is below `live` is right, byte for byte, and whole; times and modes are the title's;
- a title that was live when its go-live had returned is shown, or a newer version of it;
- a title whose removal had returned is not shown.

Then the store opens, and

- each chunk of which a commit had returned is there, unless its title was withdrawn;
- each chunk that the store says is durable has the right digest;
- all that was ordered and not withdrawn is filled, of which only what was not durable is written again, and is live.

The node, on some of the states, does the last two from its origins and says itself what it has fetched.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import trio

from bench.crashes.disk import Op
from bench.crashes.store_work import Work, bytes_of_chunk, configure
from p2pfill.errors import P2PFillError
from p2pfill.model.ids import TitleId
from p2pfill.node.node import Node, open_node
from p2pfill.store.scrub import missing_files
from p2pfill.store.store import Store
from p2pfill.store.title import StoredTitle

DATA: Final = "data"
"""The data directory, below what is recorded."""
NODE_S: Final = 30.0
"""For a node to start and fill what it lacks."""
LOOK_S: Final = 0.02
"""Between two looks whether it has."""


class Promised(NamedTuple):
    """What a cache had said when it crashed."""

    ordered: tuple[str, ...]
    """Titles that it had begun to fill, in that order; their names as sources."""
    durable: dict[str, frozenset[int]]
    live: frozenset[str]
    withdrawn: frozenset[str]
    """Their removal had begun."""
    removed: frozenset[str]
    """Their removal had returned."""
    damaged: frozenset[str]
    """Somebody had deleted files of them, which were not all restored."""
    unnoticed: frozenset[str]
    """Of those, where the store had not been told."""

    def stands(self) -> list[str]:
        """Return what is ordered and was not withdrawn."""
        return [title for title in self.ordered if title not in self.withdrawn]


class Recovery(NamedTuple):
    """What became of one state."""

    faults: list[str]
    open_s: float
    """Until the store was open, with all of its titles."""
    done_s: float = 0.0
    """Of a node, until all that is ordered was live."""


def promises(ops: Iterable[Op], work: Work) -> list[Promised]:
    """Return for each prefix what was promised by then; the first is that of nothing."""
    ordered: list[str] = []
    durable: dict[str, frozenset[int]] = {}
    live: set[str] = set()
    withdrawn: set[str] = set()
    removed: set[str] = set()
    damaged: set[str] = set()
    unnoticed: set[str] = set()
    found = [Promised((), {}, *[frozenset[str]()] * 5)]
    for op in ops:
        if op.kind != "mark":
            found.append(found[-1])
            continue
        title = work.of(op.told["title"])
        match op.told["event"]:
            case "ordered":
                ordered.append(title)
            case "durable":
                durable = {**durable, title: durable.get(title, frozenset()) | set(op.told["chunks"])}
            case "live":
                live.add(title)
                damaged.discard(title)
            case "damaged":
                durable = {**durable, title: durable[title] - set(op.told["chunks"])}
                damaged.add(title)
                unnoticed.add(title)
            case "noticed":
                unnoticed.discard(title)
            case "withdrawn":
                withdrawn.add(title)
            case "removed":
                removed.add(title)
        sets = (live, withdrawn, removed, damaged, unnoticed)
        found.append(Promised(tuple(ordered), durable, *map(frozenset, sets)))
    return found


class StoreCheck:
    """Checks states of one recorded cache."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._files = {title: dict(_files(work.source(title))) for title in work.titles}
        self._ids = {title: manifest.title_id for title, manifest in work.titles.items()}
        self._sources = {
            title: [bytes_of_chunk(work, title, chunk) for chunk in range(manifest.chunk_count)]
            for title, manifest in work.titles.items()
        }

    def check(self, root: Path, promised: Promised) -> Recovery:
        """Start the store on the disk `root`, and finish what is ordered. What it changes there stays."""
        data = root / DATA
        faults = list(self._wrong_live(data, promised, "before the start"))
        began = time.perf_counter()
        try:
            store = Store.open(data)
        except P2PFillError as error:
            return Recovery([*faults, f"the store does not open: {error}"], 0.0)
        with store:
            held: dict[TitleId, StoredTitle] = {}
            for title_id, status in store.titles().items():
                if not status.error:
                    held[title_id] = store.open_title(title_id)
            open_s = time.perf_counter() - began
            self._look_for_files(store, held, promised, faults)
            faults += self._not_durable(held, promised)
            faults += self._wrong_live(data, promised, "after the start")
            try:
                self._go_on(store, promised, faults)
            except P2PFillError as error:
                return Recovery([*faults, f"it does not go on: {error}"], open_s)
            faults += self._not_shown(data, promised)
        return Recovery(faults, open_s)

    async def check_node(self, root: Path, promised: Promised) -> Recovery:
        """Start a node on the disk `root`, and have it finish what is ordered, from its origins."""
        data = root / DATA
        faults: list[str] = []
        config = configure("cache", data)
        began = time.perf_counter()
        open_s = 0.0
        try:
            with trio.fail_after(NODE_S):
                async with open_node(config) as node:
                    open_s = time.perf_counter() - began
                    for title in promised.stands():
                        await self._fill(node, title, faults)
                    # What is missing of live titles is looked for beside all else, so it may not be noticed yet.
                    while any(self._not_shown(data, promised)):
                        await trio.sleep(LOOK_S)
                    done_s = time.perf_counter() - began
                    return Recovery(faults, open_s, done_s)
        except (P2PFillError, trio.TooSlowError) as error:
            shown = self._not_shown(data, promised)
            return Recovery([*faults, *shown, f"the node does not start, or go on: {error!r}"], open_s)

    async def _fill(self, node: Node, title: str, faults: list[str]) -> None:
        """Have a node hold a title, and compare what it has fetched for that with what it had."""
        manifest = self._work.titles[title]
        fill = await node.order(manifest, [str(self._work.source(title))])
        stored = fill.stored
        missing = sum(manifest.chunk_length(chunk) for chunk in stored.wanted.and_not(stored.have).indexes())
        before = fill.report().bytes_origin
        await fill.wait()
        report = fill.report()
        if (fetched := report.bytes_origin - before) > missing:
            faults.append(f"the node has fetched {fetched} bytes of {title}, and lacked {missing}")

    # ---- what is looked at

    def _wrong_live(self, data: Path, promised: Promised, when: str) -> Iterator[str]:
        """Yield what a web server would serve that is wrong, and what it would not that was live."""
        shown: dict[str, str] = {}
        names = os.listdir(data / "live") if (data / "live").is_dir() else []
        for name in names:
            link = data / "live" / name
            title_id = os.readlink(link).removeprefix("../titles/").removesuffix("/files")
            title = next((one for one, its_id in self._ids.items() if its_id.hex() == title_id), "")
            if not link.is_dir():
                yield f"{when}: live/{name} leads to nothing ({title or title_id})"
                continue
            shown[name] = title
            is_whole = title not in promised.damaged
            yield from (f"{when}: {fault}" for fault in self._wrong_files(link, title, is_whole=is_whole))
        for title in promised.live - promised.withdrawn:
            name = self._work.titles[title].name
            newer = [one for one in promised.ordered if self._work.titles[one].name == name]
            newer = newer[newer.index(title) :]
            if shown.get(name) not in newer:
                yield f"{when}: {title} was live, and live/{name} shows {shown.get(name, 'nothing')}"
        for title in promised.removed:
            if title in shown.values():
                yield f"{when}: {title} was withdrawn, and is shown"

    def _wrong_files(self, root: Path, title: str, *, is_whole: bool) -> Iterator[str]:
        expected = dict(self._files[title])
        for path, (data, mode, mtime_s) in _files(root):
            right = expected.pop(path, None)
            if right is None:
                yield f"{title} has a file {path!r} that is none of its own"
            elif data != right[0]:
                yield f"{title}: {path!r} is wrong"
            elif (mode, mtime_s) != (right[1], right[2]):
                yield f"{title}: {path!r} has mode {mode:o} and time {mtime_s}"
        if is_whole and expected:
            yield f"{title} lacks {', '.join(expected)}"

    def _look_for_files(
        self, store: Store, held: dict[TitleId, StoredTitle], promised: Promised, faults: list[str]
    ) -> None:
        """Have files be made again that are missing, as a node does when it has started."""
        for stored in held.values():
            if not stored.live or not (lost := missing_files(stored)):
                continue
            title = next(one for one, title_id in self._ids.items() if title_id == stored.manifest.title_id)
            if title not in promised.unnoticed:
                faults.append(f"{title}: the store does not know that files are missing")
            store.lose(stored, [], lost)

    def _not_durable(self, held: dict[TitleId, StoredTitle], promised: Promised) -> Iterator[str]:
        """Yield what was promised and is gone, and what is claimed and is wrong."""
        for title, chunks in promised.durable.items():
            if title in promised.withdrawn:
                continue
            stored = held.get(self._ids[title])
            here = frozenset() if stored is None else frozenset(stored.have.indexes())
            if lost := chunks - here:
                yield f"{title}: chunks {sorted(lost)} were durable, and are gone"
        for title, title_id in self._ids.items():
            if (stored := held.get(title_id)) is not None:
                for chunk in stored.have.indexes():
                    if not stored.check_blake3(chunk):
                        yield f"{title}: chunk {chunk} counts as durable, and is wrong"

    def _go_on(self, store: Store, promised: Promised, faults: list[str]) -> None:
        """Finish what is ordered."""
        stands = promised.stands()
        for failed in store.set_orders({self._ids[t]: n for n, t in enumerate(promised.ordered, 1) if t in stands}):
            faults.append(f"{failed.hex()} cannot be shown")
        for title in stands:
            stored = store.begin_fill(self._work.titles[title])
            missing = list(stored.wanted.and_not(stored.have).indexes())
            if again := promised.durable.get(title, frozenset()).intersection(missing):
                faults.append(f"{title}: chunks {sorted(again)} were durable, and are fetched again")
            if stored.takes_writes:
                stored.begin_again()
                for chunk in missing:
                    stored.write_chunk(chunk, self._sources[title][chunk])
                stored.commit(missing)
                stored.go_live()

    def _not_shown(self, data: Path, promised: Promised) -> Iterator[str]:
        """Yield what is not as it should be once all is filled."""
        last = {self._work.titles[title].name: title for title in promised.stands()}
        for name, title in last.items():
            link = data / "live" / name
            if not link.is_dir() or self._ids[title].hex() not in os.readlink(link):
                yield f"in the end: live/{name} does not show {title}"
            else:
                yield from (f"in the end: {fault}" for fault in self._wrong_files(link, title, is_whole=True))


def _files(root: Path) -> Iterator[tuple[str, tuple[bytes, int, int]]]:
    """Yield path, bytes, mode and time in seconds of all files below a directory."""
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            fd = os.open(path, os.O_RDONLY)
            try:
                status = os.fstat(fd)
                data = os.read(fd, status.st_size + 1)
            finally:
                os.close(fd)
            yield os.path.relpath(path, root), (data, stat.S_IMODE(status.st_mode), int(status.st_mtime))
