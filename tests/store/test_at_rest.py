"""Live titles hold no descriptors while nobody reads them, however many there are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from p2pfill.errors import StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.store import store as store_module
from p2pfill.store.publish import publish
from p2pfill.store.scrub import examine
from p2pfill.store.store import Store

TITLES = 40
CHUNK = 65536


def made(root: Path, name: str) -> tuple[Manifest, bytes]:
    source = root / "src" / name
    (source / "sub").mkdir(parents=True)
    data = name.encode() * 9000
    (source / "sub" / "a").write_bytes(data[:7000])
    (source / "b").write_bytes(data[7000:])
    return publish(source, name=name, chunk_size=CHUNK).manifest, data


def filled(store: Store, root: Path, name: str) -> tuple[TitleId, bytes]:
    manifest, _ = made(root, name)
    data = b"".join((root / "src" / name / entry.path).read_bytes() for entry in manifest.files)
    stored = store.begin_fill(manifest)
    for chunk in range(manifest.chunk_count):
        first, stop = manifest.cut.span(chunk)
        stored.write_chunk(chunk, data[first:stop])
    stored.commit(range(manifest.chunk_count))
    stored.go_live()
    return manifest.title_id, data


def count_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_titles_at_rest_hold_no_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "AWAKE_TITLES_MAX", 3)
    with Store.open(tmp_path / "a1") as store:
        before = count_open()
        titles = dict(filled(store, tmp_path, f"film{number}") for number in range(TITLES))
        most = 3 * 6  # of three titles: two directories and the one below, and two files
        assert count_open() <= before + most
    with Store.open(tmp_path / "a1") as store:
        before = count_open()
        stored = [store.open_title(title_id) for title_id in titles]
        assert count_open() == before
        for one in stored:
            read = b"".join(
                os.pread(fd, length, offset)
                for chunk in range(one.manifest.chunk_count)
                for fd, offset, length in one.ranges(chunk)
            )
            assert read == titles[one.manifest.title_id]
            assert count_open() <= before + most
        # In the middle of a chunk: what is in use stays open, and what comes next is opened anew.
        ranges = stored[0].ranges(0)
        fd, offset, length = next(ranges)
        stored[0].rest()
        assert os.pread(fd, length, offset) == titles[stored[0].manifest.title_id][:length]
        list(ranges)


def test_a_title_at_rest_whose_directory_is_removed_is_lost_and_made_again(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a1") as store:
        title_id, data = filled(store, tmp_path, "film")
        stored = store.open_title(title_id)
        stored.rest()
        shutil.rmtree(tmp_path / "a1" / "titles" / title_id.hex())
        with pytest.raises(StoreError):
            list(stored.ranges(0))
        bad, lost = examine(stored, range(stored.manifest.chunk_count))
        assert len(lost) == 2
        store.lose(stored, bad, lost)
        stored.begin_again()
        for chunk in range(stored.manifest.chunk_count):
            first, stop = stored.manifest.cut.span(chunk)
            stored.write_chunk(chunk, data[first:stop])
        stored.commit(range(stored.manifest.chunk_count))
        stored.go_live()
        stored.rest()
        assert all(map(stored.check_blake3, range(stored.manifest.chunk_count)))
