"""Titles for attacks, and the check that matters most: what a node holds of one, against the manifest's digests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Integrity, Manifest, layout
from p2pfill.store.publish import publish

KIB = 1024
CHUNK = 64 * KIB


@dataclass(frozen=True)
class Title:
    """A title, its bytes (none where they are made up), and the directory that is its origin."""

    manifest: Manifest
    stream: bytes
    root: Path

    @property
    def id(self) -> bytes:
        """The title id."""
        return bytes(self.manifest.title_id)

    def chunk(self, index: int) -> bytes:
        """Return the right bytes of a chunk."""
        return self.stream[slice(*self.manifest.cut.span(index))]

    def view(self, index: int) -> memoryview:
        """Return the right bytes of a chunk without copying them."""
        return memoryview(self.stream)[slice(*self.manifest.cut.span(index))]

    def all_of_it(self) -> tuple[int, bytes]:
        """Return chunk count and bitmap of somebody who holds everything."""
        count = self.manifest.chunk_count
        return count, Bitmap.full(count).to_bytes()


class Content:
    """Random files on disk, of which any number of titles are made: they differ in name only, so one hashing serves."""

    def __init__(self, root: Path, chunks: int, chunk_size: int = CHUNK) -> None:
        root.mkdir(parents=True)
        size = chunks * chunk_size - 5
        for name, length in (("a.bin", size // 3), ("b/c.bin", size - size // 3)):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(os.urandom(length))
        self.root = root
        self._manifest = publish(root, name="content", chunk_size=chunk_size).manifest
        self._stream = b"".join((root / entry.path).read_bytes() for entry in self._manifest.files)

    def title(self, name: str, integrity: Integrity = "blake3") -> Title:
        """Return these files as a title of that name."""
        return Title(replace(self._manifest, name=name, integrity=integrity), self._stream, self.root)


def made_up(name: str, chunks: int, root: Path) -> Title:
    """Return a title of many chunks of which nobody has a byte: its digests are zeros."""
    root.mkdir(parents=True, exist_ok=True)
    # Files so small that a store makes them when they come: a gigabyte of space need not be there.
    files = layout((f"{number:06}", 2 * CHUNK) for number in range(chunks // 2))
    manifest = Manifest(name, CHUNK, files, bytes(16 * chunks), bytes(32 * chunks))
    return Title(manifest, b"", root)


def files_of(data: Path, manifest: Manifest) -> Path | None:
    """Return where a node keeps the files of a title; None where it has none."""
    places = (data / "live" / manifest.name, data / "filling" / manifest.title_id.hex() / "files")
    return next((place for place in places if place.exists()), None)


def wrong_chunks(data: Path, manifest: Manifest, held: Iterable[int]) -> list[int]:
    """Return those of the chunks `held` whose bytes on disk are not what the manifest says."""
    place = files_of(data, manifest)
    if place is None:
        return list(held)
    open_files: dict[int, Any] = {}
    try:
        wrong = []
        for chunk in held:
            digest = blake3()
            for index, offset, length in manifest.segments(chunk):
                if index not in open_files:
                    open_files[index] = (place / manifest.files.path(index)).open("rb")
                open_files[index].seek(offset)
                digest.update(open_files[index].read(length))
            if digest.digest() != manifest.chunk_blake3(chunk):
                wrong.append(chunk)
        return wrong
    finally:
        for file in open_files.values():
            file.close()
