"""What a disk may hold after a crash, for each prefix of what was recorded; see `disk` for the model.

A crash comes after the return of some call: that is a prefix. Of the changes in it that no sync covers, each is on the
disk or not. Where at most `PENDING_ALL` are pending, every subset is made, and each write that may tear is torn in
several ways besides; where more are, `SAMPLED` subsets. Of writes over the same bytes of a file the last one that is
there counts, so that as many are pending as have made no more than so many subsets.

Equal states are looked at once, by the digest of all that can be found from the root: names, kinds, bytes, modes and
times.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple

from blake3 import blake3

from bench.crashes.disk import ROOT, Op, Recording
from bench.crashes.strace import RecordingFailed

PENDING_ALL: Final = 10
"""Up to so many changes that are not synced all subsets are made, which are 1,024."""
SAMPLED: Final = 1000
SECTOR_BYTES: Final = 512
PAGE_BYTES: Final = 4096

FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o755

TORN: Final = ("head", "head of pages", "tail", "length only")
"""How a write may tear: its bytes up to some sector, or page, are there; or those from there on; or none of them, and
the file is as long as if they were."""

Piece = tuple[int, str, int]
"""The number of an op, how it is torn ("": not at all), and at which byte of the write. Number `BASE`: all bytes of a
file as they are known to be durable."""

BASE: Final = -1

KEPT_MAX: Final = 50_000
"""Digests that are kept between two prefixes."""


class Held(NamedTuple):
    """What is found on a disk: all paths in order, each directory before what is in it."""

    key: bytes
    """Equal for equal disks."""
    entries: list[tuple[str, int, tuple[Piece, ...], int, int | None]]
    """Path, inode, which writes it holds, its mode, and its time, if that was set."""


class Tree:
    """A disk in the making: entries, bytes and attributes by inode. `fork` gives a copy that costs little."""

    def __init__(self, recording: Recording, contents: Contents) -> None:
        self._recording = recording
        self._contents = contents
        self.entries: dict[int, dict[str, int]] = {ROOT: {}}
        self.pieces: dict[int, tuple[Piece, ...]] = {}
        self.attributes: dict[int, tuple[int | None, int | None]] = {}
        self._own: set[int] = {ROOT}
        """Directories whose entries are not shared with another tree."""

    def fork(self) -> Tree:
        """Return a copy."""
        copy = Tree(self._recording, self._contents)
        copy.entries, copy.pieces, copy.attributes = dict(self.entries), dict(self.pieces), dict(self.attributes)
        copy._own = set()
        self._own.clear()
        return copy

    def _change(self, directory: int) -> dict[str, int]:
        if directory not in self._own:
            self.entries[directory] = dict(self.entries.get(directory, {}))
            self._own.add(directory)
        return self.entries[directory]

    def apply(self, number: int, op: Op, torn: str = "", at: int = 0) -> None:
        """Make one change. What it needs and is not there, since that change is not on the disk, is no obstacle."""
        match op.kind:
            case "link":
                self._change(op.directory)[op.name] = op.inode
            case "unlink":
                if self.entries.get(op.directory, {}).get(op.name) == op.inode:
                    del self._change(op.directory)[op.name]
            case "rename":
                if self.entries.get(op.directory, {}).get(op.name) == op.inode:
                    del self._change(op.directory)[op.name]
                self._change(op.to_directory)[op.to_name] = op.inode
            case "write" | "resize" | "extend":
                self.pieces[op.inode] = (*self.pieces.get(op.inode, ()), (number, torn, at))
            case "attributes":
                mode, mtime_s = self.attributes.get(op.inode, (None, None))
                self.attributes[op.inode] = (
                    mode if op.mode is None else op.mode, mtime_s if op.mtime_s is None else op.mtime_s
                )  # fmt: skip

    def held(self) -> Held:
        """Return what can be found from the root."""
        found: list[tuple[str, int, tuple[Piece, ...], int, int | None]] = []
        said: list[tuple[str, str, bytes, int, int | None]] = []
        seen: set[int] = set()
        waiting = [("", ROOT)]
        while waiting:
            above, directory = waiting.pop()
            for name, inode in sorted(self.entries.get(directory, {}).items()):
                path, what = f"{above}{name}", self._recording.inodes[inode]
                if what.kind == "directory":
                    if inode in seen:
                        continue  # no file system shows a directory twice
                    seen.add(inode)
                    waiting.append((f"{path}/", inode))
                pieces = self.pieces.get(inode, ())
                digest = self._contents.digest(inode, pieces) if what.kind == "file" else what.target.encode()
                mode, mtime_s = self.attributes.get(inode, (None, None))
                mode = mode if mode is not None else FILE_MODE if what.kind == "file" else DIRECTORY_MODE
                found.append((path, inode, pieces, mode, mtime_s))
                said.append((path, what.kind, digest, mode, mtime_s))
        return Held(blake3(repr(said).encode(errors="surrogatepass")).digest(), found)


class Whole(NamedTuple):
    """What files hold at a prefix if nothing is lost, by the names under which they were made."""

    files: dict[str, bytes]
    pending: frozenset[str]
    """Those whose bytes are not all covered by syncs."""


Same = Callable[[str, bytes, Whole], bytes]
"""Returns what of a file counts, by its name and its bytes."""


class Contents:
    """The bytes of files, by which writes are on the disk; digests are kept, since most states share most files."""

    def __init__(self, recording: Recording, same: Same | None = None) -> None:
        self._ops = recording.ops
        self.inodes = recording.inodes
        self._same = same
        self._digests: dict[tuple[int, tuple[Piece, ...]], bytes] = {}
        self._bases: dict[int, tuple[int, bytes]] = {}
        """Inode -> its durable bytes, and the number of the op that came last."""
        self._whole = Whole({}, frozenset())

    def begin(self, whole: dict[int, tuple[Piece, ...]], pending: Iterable[int]) -> None:
        """Take in what files hold if nothing is lost, after one more op, and which ops no sync covers."""
        if self._same is not None or len(self._digests) > KEPT_MAX:
            self._digests.clear()
        if self._same is not None:
            # In order of their inodes: of files of one name the last one that was made counts.
            files = {self.inodes[inode].name: self.bytes_of(whole[inode], inode) for inode in sorted(whole)}
            unsure = (self._ops[number] for number in pending)
            names = (self.inodes[op.inode].name for op in unsure if op.kind in ("write", "resize", "extend"))
            self._whole = Whole(files, frozenset(names))

    def settle(self, inode: int, pieces: tuple[Piece, ...], number: int) -> tuple[Piece, ...]:
        """Take note that these writes are durable, up to op `number`; return what stands for them."""
        self._bases[inode] = (number, self.bytes_of(pieces, inode))
        return ((BASE, "", number),)

    def digest(self, inode: int, pieces: tuple[Piece, ...]) -> bytes:
        """Return the digest of what of a file counts after these writes."""
        if (found := self._digests.get((inode, pieces))) is None:
            data = self.bytes_of(pieces, inode)
            if self._same is not None:
                data = self._same(self.inodes[inode].name, data, self._whole)
            found = self._digests[inode, pieces] = blake3(data).digest()
        return found

    def bytes_of(self, pieces: tuple[Piece, ...], inode: int) -> bytes:
        """Return what a file holds after these writes."""
        held = bytearray()
        if pieces and pieces[0][0] == BASE:
            number, base = self._bases[inode]
            if number != pieces[0][2]:
                raise ValueError("asked for what was durable before")
            if len(pieces) == 1:
                return base
            held, pieces = bytearray(base), pieces[1:]
        for number, torn, at in pieces:
            op = self._ops[number]
            if op.kind == "resize":
                del held[op.offset :]
            end = op.offset + len(op.data)  # of those that are no write the new length
            if end > len(held) and not torn.startswith("head"):
                held.extend(bytes(end - len(held)))
            match torn:
                case "":
                    held[op.offset : end] = op.data
                case "head" | "head of pages":
                    if op.offset + at > len(held):
                        held.extend(bytes(op.offset + at - len(held)))
                    held[op.offset : op.offset + at] = op.data[:at]
                case "tail":
                    held[op.offset + at : end] = op.data[at:]
        return bytes(held)


Choice = tuple[set[int], dict[int, tuple[str, int]]]
"""Which ops are not on the disk, and which are there in part, and how."""


class State(NamedTuple):
    """What a disk may hold after a crash."""

    prefix: int
    """How many ops had returned."""
    held: Held


class Counts:
    """How much was made."""

    def __init__(self) -> None:
        self.prefixes = 0
        self.made = 0
        """States, equal ones each time."""
        self.exhaustive = 0
        """Prefixes of which all subsets were made."""
        self.pending_max = 0


class States:
    """The states of one recording, in order of their prefixes."""

    def __init__(self, recording: Recording, seed: int = 1, same: Same | None = None) -> None:
        """`same` says what of a file counts when states are compared; without it all of its bytes do."""
        self._ops = recording.ops
        self._seed = seed
        self.contents = Contents(recording, same)
        self.counts = Counts()
        self._covered_at = _covered(recording.ops)
        self._base = Tree(recording, self.contents)
        self._base_end = 0
        """All ops before this one are durable, and in the base."""

    def prefixes(self) -> list[int]:
        """Return the prefixes after which a disk may hold something new, or something new was promised."""
        return [number + 1 for number, op in enumerate(self._ops)]

    def of(self, prefix: int) -> Iterator[State]:
        """Yield the states of a crash after so many ops, first that in which nothing is lost; prefixes in order."""
        while self._base_end < prefix and self._covered_at[self._base_end] < prefix:
            self._settle(self._base_end, self._ops[self._base_end])
            self._base_end += 1
        window = [n for n in range(self._base_end, prefix) if self._ops[n].kind not in ("sync", "mark")]
        pending = [n for n in window if self._covered_at[n] >= prefix]
        self.counts.prefixes += 1
        self.counts.pending_max = max(self.counts.pending_max, len(pending))
        durable = set(window).difference(pending)
        whole = self._base.fork()
        for number in window:
            whole.apply(number, self._ops[number])
        self.contents.begin(whole.pieces, pending)
        chance = random.Random(f"{self._seed} {prefix}")
        for absent, torn in self._choices(pending, chance):
            tree = self._base.fork()
            for number in window:
                if number in durable or number not in absent:
                    tree.apply(number, self._ops[number], *torn.get(number, ("", 0)))
            self.counts.made += 1
            yield State(prefix, tree.held())

    def _settle(self, number: int, op: Op) -> None:
        self._base.apply(number, op)
        if (pieces := self._base.pieces.get(op.inode)) and pieces[-1][0] == number:
            self._base.pieces[op.inode] = self.contents.settle(op.inode, pieces, number)

    def _choices(self, pending: Sequence[int], chance: random.Random) -> Iterator[Choice]:
        """Yield which pending ops are not on the disk, and which are there in part."""
        tearing = [number for number in pending if self._ops[number].kind == "write"]
        options = self._options(pending)
        if prod(map(len, options)) > 1 << PENDING_ALL:
            yield from self._sample(pending, tearing, chance)
            return
        self.counts.exhaustive += 1
        for absent in product(*options):
            yield set().union(*absent), {}
        for number in tearing:
            others = [other for other in pending if other != number]
            some = {other for other in others if chance.random() < 0.5}
            for how in TORN:
                for left_out in (set(), set(others), some):
                    yield left_out, {number: self._tear(number, how, chance)}

    def _options(self, pending: Sequence[int]) -> list[list[set[int]]]:
        """Return independent parts of a subset, each as what may be absent of it.

        Where all pending changes of a file are writes of the same bytes of it, only the last one that is there counts.
        """
        by_inode: dict[int, list[int]] = {}
        for number in pending:
            if self._ops[number].kind in ("write", "resize", "extend"):
                by_inode.setdefault(self._ops[number].inode, []).append(number)
        found: list[list[set[int]]] = []
        grouped: set[int] = set()
        for numbers in by_inode.values():
            places = {(self._ops[n].kind, self._ops[n].offset, len(self._ops[n].data)) for n in numbers}
            if len(numbers) > 1 and len(places) == 1:
                grouped.update(numbers)
                found.append([*(set(numbers) - {number} for number in reversed(numbers)), set(numbers)])
        return found + [[set(), {number}] for number in pending if number not in grouped]

    def _sample(self, pending: Sequence[int], tearing: Sequence[int], chance: random.Random) -> Iterator[Choice]:
        yield set(), {}
        yield set(pending), {}
        regular = [set(pending) - {number} for number in pending] + [{number} for number in pending]
        regular += [set(pending[:at]) for at in range(1, len(pending))]
        regular += [set(pending[at:]) for at in range(1, len(pending))]
        chance.shuffle(regular)
        regular = regular[: SAMPLED // 2]
        yield from ((absent, {}) for absent in regular)
        for _ in range(SAMPLED - 2 - len(regular)):
            share = chance.random()
            absent = {number for number in pending if chance.random() < share}
            torn = {n: self._tear(n, chance.choice(TORN), chance) for n in tearing if chance.random() < 0.2}
            yield absent, torn

    def _tear(self, number: int, how: str, chance: random.Random) -> tuple[str, int]:
        op = self._ops[number]
        unit = PAGE_BYTES if how == "head of pages" else SECTOR_BYTES
        first = unit - op.offset % unit  # sectors and pages are those of the file, not of the write
        places = range(first, len(op.data), unit)
        return (how, chance.choice(places)) if places and how != "length only" else ("length only", 0)


def _covered(ops: Sequence[Op]) -> list[int]:
    """Return for each op the number of the sync that first covers it; of syncs and marks their own; else too large."""
    never = len(ops)
    found = [never] * len(ops)
    open_ops: dict[Any, list[int]] = {}
    """Domain -> ops that nothing covers yet."""
    for number, op in enumerate(ops):
        if op.kind == "mark":
            found[number] = number
        elif op.kind == "sync":
            found[number] = number
            for domain in op.domains or list(open_ops):
                rest = []
                for other in open_ops.get(domain, ()):
                    if found[other] < never:
                        continue  # a rename, covered with its other directory
                    if ops[other].end < op.begin:
                        found[other] = number
                    else:
                        rest.append(other)
                open_ops[domain] = rest
        else:
            for domain in op.domains:
                open_ops.setdefault(domain, []).append(number)
    return found


def build(held: Held, contents: Contents, root: Path) -> None:
    """Make a disk in the empty directory `root`. Raises `OSError`."""
    base = f"{root}/"
    for path, inode, pieces, mode, mtime_s in held.entries:
        place, what = base + path, contents.inodes[inode]
        match what.kind:
            case "directory":
                os.mkdir(place)
            case "link":
                os.symlink(what.target, place)
            case "file":
                fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
                try:
                    os.write(fd, contents.bytes_of(pieces, inode))
                    os.fchmod(fd, mode)
                    if mtime_s is not None:
                        os.utime(fd, (mtime_s, mtime_s))
                finally:
                    os.close(fd)
    # Last: making what is in a directory changes its time, and a mode may keep us out.
    for path, inode, _, mode, mtime_s in reversed(held.entries):
        if contents.inodes[inode].kind == "directory":
            os.chmod(base + path, mode)
            if mtime_s is not None:
                os.utime(base + path, (mtime_s, mtime_s))


def check_whole(recording: Recording, root: Path) -> None:
    """Raise `RecordingFailed` where a disk is not what the recording makes of it if nothing is lost."""
    states = States(recording)
    held = next(iter(states.of(len(recording.ops)))).held
    made = {path: (inode, pieces) for path, inode, pieces, *_ in held.entries}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            place = Path(directory) / name
            path = str(place.relative_to(root))
            inode, pieces = made.pop(path, (-1, ()))
            if inode < 0:
                raise RecordingFailed(f"{path} is on the disk, and was not recorded")
            is_file = place.is_file() and not place.is_symlink()
            if is_file and place.read_bytes() != states.contents.bytes_of(pieces, inode):
                raise RecordingFailed(f"{path} holds other bytes than were recorded")
    if made:
        raise RecordingFailed(f"{', '.join(made)}: recorded, and not on the disk")
