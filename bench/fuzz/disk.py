"""What a cache finds on its disk when it starts: journals, selections, numbers, and whole data directories."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgpack
import msgspec

from bench.fuzz.target import NESTED, Run, Target, check
from bench.fuzz.titles import KEY, manifest_of
from p2pfill.errors import ConfigError, StoreError
from p2pfill.model.files import Files
from p2pfill.model.limits import KIB
from p2pfill.model.manifest import layout
from p2pfill.model.statement import NUMBER_MAX, Statement
from p2pfill.node.hours import _read_use
from p2pfill.node.scrubber import _read_place
from p2pfill.node.settings import _read as _read_settings
from p2pfill.store.disk import DIRECTORY_FLAGS
from p2pfill.store.floors import NUMBERS, Floors
from p2pfill.store.journal import JOURNAL, MAGIC_FIRST, Journal, _check, _record
from p2pfill.store.store import Store
from p2pfill.store.tally import TALLY, Tally, read_tally
from p2pfill.store.wanted import SELECTION, read_selection
from p2pfill.trust.signing import sign

CHUNKS: Final = 20
CHUNK: Final = 65536
MANIFEST: Final = manifest_of(layout([(f"d/{number}", CHUNK * 2) for number in range(CHUNKS // 2)]))


def _journal_seeds() -> Iterator[bytes]:
    title_id = MANIFEST.title_id
    head = b"p2pfjrn2" + title_id
    first = _record(title_id, len(head), [0, 5, 19])
    yield head
    yield head + first
    yield head + first + _record(title_id, len(head + first), list(range(CHUNKS)))
    yield head + first + first
    yield MAGIC_FIRST + title_id
    yield head + first[:-1]
    for chunks in ([0, 5, 19], [], [CHUNKS], [3, 3], [-1], [1 << 40], list(range(CHUNKS + 1)), "abc", [[1]]):
        yield b"*" + msgpack.packb(chunks)


def _with_check(body: bytes) -> bytes:
    """Return a journal of one record, whose checksum is right whatever it is of."""
    head = b"p2pfjrn2" + MANIFEST.title_id
    return head + b"\x92" + body + msgpack.packb(_check(MANIFEST.title_id, len(head), body))


def open_journals(directory: Path) -> Run:
    """A file is a title's journal, or `StoreError`. What is read of it is chunks of the title; opened again it says the
    same, also after more was appended; and what is not a record is cut off.

    An input is such a file, or after a `*` what stands in a record whose checksum is right.
    """
    fd = os.open(directory, DIRECTORY_FLAGS)

    def run(data: bytes) -> bool:
        data = _with_check(data[1:]) if data[:1] == b"*" else data
        (directory / JOURNAL).write_bytes(data)
        try:
            journal, have = Journal.open(fd, MANIFEST.title_id, CHUNKS)
        except StoreError:
            return False
        check(len(have) == CHUNKS, "chunks of another title", len(have))
        journal.append([3])
        journal.close()
        have.add(3)
        size = (directory / JOURNAL).stat().st_size
        check(size <= len(data) + 100, "it has grown", size)
        again, same = Journal.open(fd, MANIFEST.title_id, CHUNKS, on_cut=lambda: check(False, "cut again"))
        again.close()
        check(same == have, "read again it says something else", list(have.indexes()), list(same.indexes()))
        return True

    return run


KINDS: Final = ("selection", "number", "signatures", "tally", "settings", "place", "use")
"""Small files, by the first byte of an input."""


def _small_seeds() -> Iterator[bytes]:
    signed = sign(KEY, Statement(MANIFEST.title_id, "film-1", 7)).encode()
    for number, text in (
        (0, b"\xff\x01"),
        (0, b"\xff\xff"),
        (1, b"7 film\n"),
        (1, b"%d x\n" % NUMBER_MAX),
        (2, signed),
        (3, msgspec.json.encode(Tally(bytes_peer=5, escalations={"slow": 2}, started_at=1.5))),
        (4, b'{"digest":"d","settings":{"rule":"r","windows":{"windows":[{"opens":"02:00","closes":"08:00"}]}}}'),
        (4, b'{"digest":"","settings":{},"limits":{"inbound":1000}}'),
        (5, b'{"round":3,"title":"' + b"0" * 64 + b'","chunk":7}'),
        (6, b'{"2026-01-01":{"02:00":[5,7]}}'),
        (6, b'{"2026-01-01":{"used":1}}'),
    ):
        yield bytes([number]) + text
    for number in range(len(KINDS)):
        yield bytes([number]) + NESTED


def open_small_files(directory: Path) -> Run:
    """A small file of a title or a node is read, or is as if it were not there, or is refused in words: `ConfigError`,
    `StoreError`, or what the node catches around it (msgspec's errors, and text that is no UTF-8).
    """
    root = directory / "data"
    title = root / "titles" / MANIFEST.title_id.hex()
    title.mkdir(parents=True)
    (root / NUMBERS).mkdir()
    fd = os.open(title, DIRECTORY_FLAGS)

    def run(data: bytes) -> bool:
        kind, rest = KINDS[(data[0] if data else 0) % len(KINDS)], data[1:]
        floors = Floors(root)
        if kind == "selection":
            (title / SELECTION).write_bytes(rest)
            selection, fault = read_selection(fd, MANIFEST)
            check(
                selection is None or (not fault and len(selection) == len(MANIFEST.files)), "a wrong selection", fault
            )
            return not fault
        if kind == "tally":
            (title / TALLY).write_bytes(rest)
            return read_tally(fd) != Tally()
        if kind == "number":
            floors._path("film").write_bytes(rest)
            with suppress(StoreError):
                return check(0 <= floors.highest("film") <= NUMBER_MAX, "a number beyond limits") is None
            return False
        if kind == "signatures":
            (title / "signatures").write_bytes(rest)
            return floors.number(MANIFEST.title_id) > 0
        return _read_of_node(kind, rest, directory / kind)

    return run


def _read_of_node(kind: str, data: bytes, path: Path) -> bool:
    path.write_bytes(data)
    try:
        if kind == "settings":
            _read_settings(path)
        elif kind == "place":
            _read_place(path)
        else:
            _read_use(path)
    except (msgspec.MsgspecError, UnicodeDecodeError, ConfigError):
        return False
    return True


LITTLE: Final = manifest_of(Files([("a", 3, 0, False), ("d/b", 5, 0, True)], ["e"]))
FILES: Final = ("manifest", JOURNAL, SELECTION, "signatures", TALLY, "files/a", "files/d", "rest")
PLACES: Final = ("titles", "filling", "live", "aside", "")


def _start_seeds() -> Iterator[bytes]:
    pack = msgpack.packb
    journal = b"p2pfjrn2" + LITTLE.title_id
    yield pack([0, 0, LITTLE.encode()]) + pack([0, 5, b"abc"]) + pack([0, 1, journal])
    yield pack([1, 0, LITTLE.encode()]) + pack([1, 1, journal + _record(LITTLE.title_id, len(journal), [0])])
    yield pack([1, 0, LITTLE.encode()[:-1]]) + pack([1, 1, journal])
    yield pack([0, 0, LITTLE.encode()]) + pack([0, 2, b"\x01"]) + pack([0, 7, None])
    yield pack([2, "film", LITTLE.title_id]) + pack([2, "x", None]) + pack([4, "journal", b""])
    yield pack([0, 0, manifest_of(layout([("é", 1)]), "b").encode()]) + pack([0, "junk", b""]) + pack([3, "x", None])
    yield pack([4, "titles", b""]) + pack([4, "lock", None])


def open_starts(directory: Path) -> Run:
    """A store starts on whatever lies in its directory, or says why not (`StoreError`, `ConfigError`). Each title that
    it has is told with what is wrong with it, and is filled anew where it is ordered; the second start is as the first.

    An input is a row of what lies where: a place, a file there by number or name, and its bytes (none: a directory).
    """

    def run(data: bytes) -> bool:
        root = directory / "data"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, use_list=False)
        unpacker.feed(data)
        with suppress(ValueError, TypeError, msgpack.UnpackException):
            for _, (place, name, content) in zip(range(40), unpacker, strict=False):
                _put(root, place, name, content)
        try:
            first = _start(root)
            check(_start(root) == first, "the second start finds something else", first)
        except (StoreError, ConfigError):
            return False
        return True

    return run


def _put(root: Path, place: object, name: object, content: object) -> None:
    if not isinstance(place, int):
        return
    where = root / PLACES[place % len(PLACES)]
    if isinstance(name, int):
        path = where / LITTLE.title_id.hex() / FILES[name % len(FILES)]
    else:
        last = os.fsdecode(name if isinstance(name, bytes) else b"x").replace("/", "").replace("\0", "")[:100]
        if last in ("", ".", ".."):
            return
        path = where / last
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            path.mkdir()
        elif place % len(PLACES) == 2:
            path.symlink_to(f"../titles/{content.hex() or 'x'}")
        else:
            path.write_bytes(content)


def _start(root: Path) -> dict[str, object]:
    """Open and close a store; return what it has. Its titles are fillable, whatever was found of them."""
    with Store.open(root) as store:
        found: dict[str, object] = {title_id.hex(): status for title_id, status in store.titles().items()}
        store.uses(store.ids())
        for title_id in store.live_ids():
            with suppress(StoreError):
                store.open_title(title_id).close()
        store.names.follow()
    return found


CODE: Final = ("p2pfill.store", "p2pfill.model")

TARGETS: Final = (
    Target("journals", open_journals, _journal_seeds, size_max=1 * KIB, code=CODE),
    Target("small-files", open_small_files, _small_seeds, code=CODE),
    Target("starts", open_starts, _start_seeds, form="msgpack", code=CODE),
)
