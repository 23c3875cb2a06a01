"""What origin tests share: small titles on disk, and the end of all origins that were opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import xxhash
from blake3 import blake3

from p2pfill.model.cut import Cut
from p2pfill.model.limits import CHUNK_SIZE_MIN
from p2pfill.model.manifest import Manifest, layout
from p2pfill.origin.reader import OriginReader


@pytest.fixture(autouse=True)
def all_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close all origins that a test has opened, at its end."""
    opened: list[OriginReader] = []
    really_init = OriginReader.__init__

    def init(self: OriginReader, *arguments: Any) -> None:
        really_init(self, *arguments)
        opened.append(self)

    monkeypatch.setattr(OriginReader, "__init__", init)
    yield
    for origin in opened:
        origin.close()


@dataclass
class Title:
    """A published tree: its directory, its manifest and the expected bytes of every chunk."""

    root: Path
    manifest: Manifest
    stream: bytes

    def chunk(self, k: int) -> bytes:
        return self.stream[slice(*self.manifest.cut.span(k))]


@pytest.fixture
def make_title(tmp_path: Path) -> Callable[[dict[str, bytes]], Title]:
    """Return `make({path: content}, chunk_size=...) -> Title`, written below tmp_path/tree, in chunks of 64 KiB."""

    def make(files: dict[str, bytes], chunk_size: int = CHUNK_SIZE_MIN) -> Title:
        root = tmp_path / "tree"
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        entries = layout((path, len(content)) for path, content in files.items())
        stream = b"".join(files[entry.path] for entry in entries)
        cut = Cut(entries, chunk_size)
        chunks = [stream[slice(*cut.span(chunk))] for chunk in range(cut.count)]
        xxh3 = b"".join(xxhash.xxh3_128_digest(chunk) for chunk in chunks)
        strong = b"".join(blake3(chunk).digest() for chunk in chunks)
        return Title(root, Manifest("a title", chunk_size, entries, xxh3, strong), stream)

    return make
