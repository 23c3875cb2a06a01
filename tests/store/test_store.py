"""Store: a fill from allocation to go-live, and every way in which a disk or a crash can get between."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import xxhash

from p2pfill.errors import StoreError
from p2pfill.model import limits
from p2pfill.model.manifest import Manifest, layout
from p2pfill.store import Store, StoredTitle, publish, verify_tree
from p2pfill.store import store as store_module
from p2pfill.store import title as title_module
from p2pfill.store.names import LiveNames

CHUNK = limits.CHUNK_SIZE_MIN
NAME = "Some title"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    rng = random.Random(5)
    (root / "deep" / "er").mkdir(parents=True)
    (root / "large.bin").write_bytes(rng.randbytes(5 * CHUNK + 77))
    (root / "deep" / "with space ä.txt").write_bytes(rng.randbytes(CHUNK // 2))
    (root / "deep" / "empty").write_bytes(b"")
    for k in range(150):
        (root / "deep" / "er" / f"small{k}").write_bytes(rng.randbytes(k * 7))
    return root


@pytest.fixture(scope="module")
def manifest(tree: Path) -> Manifest:
    return publish(tree, name=NAME, chunk_size=CHUNK).manifest


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "data") as opened:
        yield opened


def chunk_bytes(tree: Path, manifest: Manifest, chunk: int) -> bytes:
    parts = []
    for index, offset, length in manifest.segments(chunk):
        parts.append((tree / manifest.files[index].path).read_bytes()[offset : offset + length])
    data = b"".join(parts)
    assert xxhash.xxh3_128(data).digest() == manifest.chunk_xxh3(chunk)
    return data


def write_chunk(title: StoredTitle, tree: Path, chunk: int) -> None:
    data = chunk_bytes(tree, title.manifest, chunk)
    for fd, offset, length in title.ranges(chunk, write=True):
        assert os.pwrite(fd, data[:length], offset) == length
        data = data[length:]
    assert not data


def fill(title: StoredTitle, tree: Path) -> None:
    for chunk in range(title.manifest.chunk_count):
        if not title.is_sealed(chunk):
            write_chunk(title, tree, chunk)
        assert title.check_blake3(chunk)
    title.commit(range(title.manifest.chunk_count))


def test_fill_and_go_live(store: Store, tree: Path, manifest: Manifest) -> None:
    title = store.begin_fill(manifest)
    assert store.begin_fill(manifest) is title
    assert not title.live
    assert not title.have.any()
    assert not title.check_blake3(0)
    with pytest.raises(StoreError, match="chunks are missing"):
        title.go_live()
    assert not list((store.root / "titles").iterdir())
    fill(title, tree)
    reader = title.ranges(0)
    fd, offset, length = next(reader)
    title.go_live()
    title.go_live()
    assert os.pread(fd, length, offset)
    reader.close()
    assert title.live
    assert not list((store.root / "filling").iterdir())
    assert sorted(p.name for p in (store.root / "titles" / manifest.title_id.hex()).iterdir()) == [
        "files", "manifest", "order"
    ]
    report = verify_tree(store.root / "live" / NAME, manifest)
    assert report.ok
    assert not report.extra
    with pytest.raises(StoreError, match="live"):
        title.ranges(0, write=True)
    with pytest.raises(StoreError, match="not being filled"):
        title.commit([0])
    assert store.titles()[manifest.title_id].live
    assert store.begin_fill(manifest) is title
    title.close()
    title.close()
    assert store.open_title(manifest.title_id).have.all()
    store.remove(manifest.title_id)
    assert not store.titles()
    assert not list((store.root / "live").iterdir())
    with pytest.raises(StoreError, match="not in"):
        store.open_title(manifest.title_id)


def test_resume_keeps_what_was_committed(tmp_path: Path, tree: Path, manifest: Manifest) -> None:
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        for chunk in (0, 3, 4):
            write_chunk(title, tree, chunk)
        title.commit([0, 3])
        title.commit([3, 3])
    with Store.open(tmp_path) as store:
        status = store.titles()[manifest.title_id]
        assert (status.name, status.have_chunks, status.live) == (NAME, 2, False)
        title = store.begin_fill(manifest)
        assert list(title.have.indexes()) == [0, 3]
        assert title.check_blake3(0)


@pytest.mark.parametrize("damage", ["cut", "flip", "junk", "foreign"])
def test_torn_journal_loses_only_its_tail(tmp_path: Path, tree: Path, manifest: Manifest, damage: str) -> None:
    journal = tmp_path / "filling" / manifest.title_id.hex() / "journal"
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        write_chunk(title, tree, 1)
        title.commit([1])
        whole = journal.stat().st_size
        write_chunk(title, tree, 2)
        title.commit([2])
    data = journal.read_bytes()
    if damage == "cut":
        data = data[:-3]
    elif damage == "flip":
        data = data[:-1] + bytes([data[-1] ^ 1])
    elif damage == "junk":
        data = data[:whole] + b"\xff" * 50
    else:
        # A record that is whole, but was written for another position.
        data = data[:whole] + data[40:whole]
    journal.write_bytes(data)
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        assert list(title.have.indexes()) == [1]
        assert journal.stat().st_size == whole
        title.commit([2])
    with Store.open(tmp_path) as store:
        assert list(store.open_title(manifest.title_id).have.indexes()) == [1, 2]


def test_every_cut_of_the_journal_is_survived(tmp_path: Path, tree: Path, manifest: Manifest) -> None:
    journal = tmp_path / "filling" / manifest.title_id.hex() / "journal"
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        for chunk in range(3):
            write_chunk(title, tree, chunk)
        title.commit([0])
        title.commit([1, 2])
    data = journal.read_bytes()
    for cut in range(40, len(data) + 1):
        journal.write_bytes(data[:cut])
        with Store.open(tmp_path) as store:
            have = list(store.open_title(manifest.title_id).have.indexes())
        assert have == ([] if cut < 53 else [0] if cut < len(data) else [0, 1, 2])


def test_files_changed_behind_our_back_are_filled_again(tmp_path: Path, tree: Path, manifest: Manifest) -> None:
    with Store.open(tmp_path) as store:
        fill(store.begin_fill(manifest), tree)
    large = tmp_path / "filling" / manifest.title_id.hex() / "files" / "large.bin"
    os.truncate(large, 10)
    for _ in range(2):
        with Store.open(tmp_path) as store:
            title = store.begin_fill(manifest)
            assert large.stat().st_size == 5 * CHUNK + 77
            lost = len(title.have) - title.have.count()
            assert 6 <= lost <= 7
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        fill(title, tree)
        title.go_live()
        assert verify_tree(tmp_path / "live" / NAME, manifest).ok


def test_a_sealed_chunk_takes_no_more_writes(tmp_path: Path, tree: Path, manifest: Manifest) -> None:
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        for chunk in (0, 1):
            write_chunk(title, tree, chunk)
        with title.write_lock(0):
            title.seal(0)
        with pytest.raises(StoreError, match=r"chunk 0 .* is verified"):
            title.write_chunk(0, bytes(CHUNK))
        title.write_chunk(1, chunk_bytes(tree, manifest, 1))
        assert title.check_blake3(0)
        title.commit([1])
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        assert [title.is_sealed(chunk) for chunk in (0, 1, 2)] == [False, True, False]


def test_a_planted_link_is_not_followed(tmp_path: Path, tree: Path, manifest: Manifest) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with Store.open(tmp_path / "data") as store:
        title = store.begin_fill(manifest)
        write_chunk(title, tree, 0)
    with Store.open(tmp_path / "data") as store:
        title = store.begin_fill(manifest)
        deep = store.root / "filling" / manifest.title_id.hex() / "files" / "deep"
        deep.rename(deep.with_name("moved"))
        deep.symlink_to(outside)
        with pytest.raises(StoreError):
            list(title.ranges(0, write=True))
    assert not list(outside.iterdir())


def test_go_live_cut_short_is_finished_at_open(
    tmp_path: Path, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tmp_path / "live" / NAME
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        fill(title, tree)
        with monkeypatch.context() as patch:
            patch.setattr(LiveNames, "swap", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
            with pytest.raises(StoreError, match="input/output"):
                title.go_live()
        assert not live.exists()
    with Store.open(tmp_path) as store:
        assert verify_tree(live, manifest).ok
        assert store.open_title(manifest.title_id).live


def test_a_new_version_replaces_the_link(store: Store, tree: Path, manifest: Manifest, tmp_path: Path) -> None:
    first = store.begin_fill(manifest)
    fill(first, tree)
    first.go_live()
    other = tmp_path / "other"
    other.mkdir()
    (other / "only").write_bytes(b"new")
    newer = publish(other, name=NAME).manifest
    second = store.begin_fill(newer)
    fill(second, other)
    second.go_live()
    assert (store.root / "live" / NAME / "only").read_bytes() == b"new"
    assert len(store.titles()) == 2
    store.remove(manifest.title_id)
    assert (store.root / "live" / NAME / "only").exists()


def test_nothing_is_deleted_before_its_title_is_out_of_sight_for_good(
    store: Store, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power loss must not bring back the directory without the files, which would count as live."""
    fill(title := store.begin_fill(manifest), tree)
    title.go_live()
    synced: dict[str, list[str]] = {}
    sync_directory = store_module.sync_directory

    def sync(path: Path) -> None:
        sync_directory(path)
        synced[path.name] = os.listdir(path)

    monkeypatch.setattr(store_module, "sync_directory", sync)
    delete = store.begin_removal(manifest.title_id)
    gone = f"{manifest.title_id.hex()}.gone"
    assert (synced["titles"], synced["filling"]) == ([], [gone])
    assert (store.root / "filling" / gone / "files" / "large.bin").exists()
    while delete(10):
        pass
    assert not os.listdir(store.root / "filling")


def test_only_empty_files(store: Store, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "nothing").touch()
    title = store.begin_fill(publish(tmp_path / "e", name="e").manifest)
    title.go_live()
    assert (store.root / "live" / "e" / "nothing").stat().st_size == 0


def test_descriptors_stay_few(store: Store, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    title = store.begin_fill(manifest)
    fill(title, tree)
    assert len(os.listdir("/proc/self/fd")) < 2 * title_module.OPEN_FILES_MAX + 100
    title.close()
    with pytest.raises(StoreError, match="closed"):
        next(title.ranges(0))


def test_commit_order_is_data_then_journal(
    store: Store, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = store.begin_fill(manifest)
    write_chunk(title, tree, 5)

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "broken")

    before = (store.root / "filling" / manifest.title_id.hex() / "journal").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        with pytest.raises(StoreError, match="input/output"):
            title.commit([5])
    assert (store.root / "filling" / manifest.title_id.hex() / "journal").read_bytes() == before
    assert not title.have.any()
    # The failed pages may be gone, so a second sync that succeeds proves nothing.
    with pytest.raises(StoreError, match="input/output"):
        title.commit([5])


def test_after_a_failed_sync_only_what_was_durable_counts(
    tmp_path: Path, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The title stayed failed for as long as the process lived."""

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "broken")

    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        write_chunk(title, tree, 4)
        title.seal(4)
        title.commit([4])
        write_chunk(title, tree, 5)
        title.seal(5)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", refuse)
            with pytest.raises(StoreError, match="input/output"):
                title.commit([5])
            patch.setattr(title_module, "sync_fs", refuse)
            with pytest.raises(StoreError, match="input/output"):
                store.begin_fill(manifest)
        assert store.begin_fill(manifest) is title
        assert list(title.have.indexes()) == [4]
        assert title.is_sealed(4)
        assert not title.is_sealed(5), "it is to be written once more"
        # From now on nothing counts that the disk does not give back: here a chunk that was not written again.
        for fd, offset, _ in title.ranges(5, write=True):
            os.pwrite(fd, b"rot", offset)
        with pytest.raises(StoreError, match="reads back wrong"):
            title.commit([5])
        with pytest.raises(StoreError, match="reads back wrong"):
            title.commit([4, 5])
        title.recover()
        write_chunk(title, tree, 5)
        title.commit([5])
    with Store.open(tmp_path) as store:
        assert list(store.open_title(manifest.title_id).have.indexes()) == [4, 5]


def test_one_node_per_directory(store: Store) -> None:
    with pytest.raises(StoreError, match="in use by another node"):
        Store.open(store.root)
    store.close()
    Store.open(store.root).close()


def test_too_large_a_title_is_refused_early(store: Store, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    count = limits.CHUNK_COUNT_MAX
    huge = Manifest(
        "huge",
        limits.CHUNK_SIZE_MAX,
        layout([(manifest.files[0].path, limits.TITLE_BYTES_MAX)]),
        bytes(16 * count),
        bytes(32 * count),
    )
    with pytest.raises(StoreError, match=r"needs 140737\d{9} bytes.*only \d+ bytes are free"):
        store.begin_fill(huge)

    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        assert manifest.files[-1].size >= title_module.PREALLOCATE_BYTES_MIN
        with pytest.raises(StoreError, match=r"the disk is full.*bytes were free"):
            store.begin_fill(manifest)
    assert not list((store.root / "filling").iterdir())
    store.begin_fill(manifest)


def test_small_files_count_by_blocks_and_by_inodes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "many").mkdir()
    for k in range(600):
        (tmp_path / "many" / f"{k}").write_bytes(b"x")
    many = publish(tmp_path / "many", name="many").manifest
    real = os.statvfs(store.root)

    def begin(free_blocks: int, free_files: int, files: int = 1000) -> None:
        small = (4096, 4096, 10**6, free_blocks, free_blocks, files, free_files, free_files, 0, 255)
        with monkeypatch.context() as patch:
            patch.setattr(os, "statvfs", lambda _: os.statvfs_result(small))
            store.begin_fill(many)

    # 600 bytes that take 600 blocks, one for their directory, and 1 MiB that a fill leaves free.
    with pytest.raises(StoreError, match=rf"needs {601 * 4096} bytes.*only {856 * 4096} bytes are free"):
        begin(856, 1000)
    with pytest.raises(StoreError, match="only 599 of its 601 files and directories"):
        begin(857, 599)
    assert not list((store.root / "filling").iterdir())
    begin(857, 0, files=0)
    assert os.statvfs(store.root).f_frsize == real.f_frsize


def test_small_files_are_made_by_their_first_write(tmp_path: Path, tree: Path, manifest: Manifest) -> None:
    files = tmp_path / "filling" / manifest.title_id.hex() / "files"
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        assert [path.name for path in files.rglob("*")] == ["large.bin"]
        assert not title.check_blake3(0)
        write_chunk(title, tree, 0)
        title.commit([0])
        first = {manifest.files[segment.file_index].path for segment in manifest.segments(0)}
        write_chunk(title, tree, 1)
    made = {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()}
    assert first < made
    # What was durable is missed, what was not may be absent, cut, or whole.
    second = {manifest.files[segment.file_index].path for segment in manifest.segments(1)}
    for path in second - first - {"large.bin"}:
        (files / path).unlink()
    with Store.open(tmp_path) as store:
        assert list(store.begin_fill(manifest).have.indexes()) == [0]
    (files / min(first)).unlink()
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        assert not title.have.any()
        fill(title, tree)
        title.go_live()
    report = verify_tree(tmp_path / "live" / NAME, manifest)
    assert report.ok
    assert not report.extra
    assert (tmp_path / "live" / NAME / "deep" / "empty").stat().st_size == 0


def test_empty_files_are_durable_before_the_title_is_live(
    store: Store, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = store.begin_fill(manifest)
    fill(title, tree)
    empty = store.root / "filling" / manifest.title_id.hex() / "files" / "deep" / "empty"
    assert not empty.exists()
    synced: list[bool] = []
    monkeypatch.setattr(title_module, "sync_fs", lambda _: synced.append(empty.exists()))
    title.go_live()
    assert synced == [True]


def test_a_commit_with_new_files_syncs_their_directories_too(
    store: Store, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = store.begin_fill(manifest)
    synced: list[str] = []
    monkeypatch.setattr(title_module, "sync_fs", lambda _: synced.append("file system"))
    monkeypatch.setattr(os, "fdatasync", lambda _: synced.append("file"))
    for chunk, what in ((0, "file system"), (5, "file")):
        assert len({segment.file_index for segment in manifest.segments(chunk)}) <= 1 or chunk == 0
        write_chunk(title, tree, chunk)
        synced.clear()
        title.commit([chunk])
        assert synced[0] == what


def test_the_disk_begins_with_large_files_before_the_commit(
    store: Store, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = store.begin_fill(manifest)
    fill(title, tree)
    begun: list[tuple[int, int, int]] = []

    def begin(fd: int, offset: int, length: int) -> None:
        begun.append((os.fstat(fd).st_size, offset, length))

    monkeypatch.setattr(title_module, "begin_write_out", begin)
    title.begin_write_out(range(manifest.chunk_count))
    assert {size for size, _, _ in begun} == {5 * CHUNK + 77}
    assert sum(length for _, _, length in begun) == 5 * CHUNK + 77
    assert len({offset for _, offset, _ in begun}) == len(begun)


def test_what_a_disk_refuses_early_is_left_for_the_commit_to_say(
    store: Store, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    title = store.begin_fill(manifest)
    write_chunk(title, tree, 5)
    monkeypatch.setattr(title_module, "begin_write_out", fail)
    title.begin_write_out([5])
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StoreError, match="input/output error"):
        title.commit([5])
    title.close()
    title.begin_write_out([5])


def test_deep_and_many_directories(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "wide"
    for k in range(100):
        (root / f"d{k}" / "e").mkdir(parents=True)
        (root / f"d{k}" / "e" / "f").write_bytes(bytes([k]))
    deep = "/".join("x" * 60)
    wide = publish(root, name="wide").manifest
    files = layout([*((entry.path, entry.size) for entry in wide.files), (deep, 0)])
    both = Manifest("wide", wide.chunk_size, files, wide.xxh3, wide.blake3)
    before = len(os.listdir("/proc/self/fd"))
    title = store.begin_fill(both)
    title.write_chunk(0, b"".join((root / e.path).read_bytes() for e in wide.files))
    assert title.check_blake3(0)
    assert len(os.listdir("/proc/self/fd")) - before < 50
    title.commit([0])
    title.go_live()
    title.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("number", "match"), [(errno.ENOSPC, "full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")]
)
def test_unusable_directory_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, match: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync" if number == errno.ENOSPC else "open", refuse)
        with pytest.raises(StoreError, match=match) as caught:
            Store.open(tmp_path / "data")
    assert "\n" not in str(caught.value)
    Store.open(tmp_path / "data").close()


def test_directory_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(StoreError, match="data directory"):
        Store.open(tmp_path / "data")


MOUNTED = """
import ctypes, os, subprocess, sys
from pathlib import Path
from p2pfill.errors import StoreError
from p2pfill.store import Store, publish
root, tree = Path(sys.argv[1]), Path(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, 0x44000, None):
    sys.exit(77)
if libc.mount(b"tmpfs", bytes(root), b"tmpfs", 0, b"size=2m"):
    sys.exit(77)
manifest = publish(tree, name="t").manifest
with Store.open(root) as store:
    (root / "ballast").write_bytes(bytes(1 << 20))
    try:
        store.begin_fill(manifest)
        sys.exit("a full disk was not noticed")
    except StoreError as error:
        print(error)
with open(root / "rest", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
for again in (False, True):
    if again and libc.mount(b"none", bytes(root), None, 0x21, None):
        sys.exit(77)
    try:
        Store.open(root)
        sys.exit("an unusable disk was not noticed")
    except StoreError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_real_full_and_read_only_disk(tmp_path: Path, tree: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MOUNTED, str(tmp_path), str(tree)], capture_output=True, text=True, timeout=60
    )
    if done.returncode == 77:
        pytest.skip("this machine does not let a process mount a tmpfs of its own")
    assert done.returncode == 0, done.stderr
    small, full, read_only = done.stdout.splitlines()
    assert "bytes are free" in small
    assert "the disk is full" in full
    assert "read-only" in read_only


def test_damaged_manifest_is_named(tmp_path: Path, manifest: Manifest) -> None:
    with Store.open(tmp_path) as store:
        store.begin_fill(manifest)
    path = tmp_path / "filling" / manifest.title_id.hex() / "manifest"
    path.write_bytes(path.read_bytes()[:-1])
    with Store.open(tmp_path) as store:
        assert "damaged" in store.titles()[manifest.title_id].error
        with pytest.raises(StoreError, match="damaged"):
            store.open_title(manifest.title_id)


def test_a_manifest_at_hand_is_not_decoded_again(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(tmp_path) as store, monkeypatch.context() as patch:
        patch.setattr(Manifest, "decode", lambda _: pytest.fail("decoded"))
        assert store.begin_fill(manifest).manifest is manifest
    with Store.open(tmp_path) as store:
        assert store.open_title(manifest.title_id).manifest == manifest


def test_half_begun_fill_is_begun_anew(tmp_path: Path, manifest: Manifest) -> None:
    assert store_module.JOURNAL == "journal"
    with Store.open(tmp_path) as store:
        store.begin_fill(manifest)
    (tmp_path / "filling" / manifest.title_id.hex() / "journal").unlink()
    with Store.open(tmp_path) as store:
        assert not store.titles()
        assert not store.begin_fill(manifest).have.any()


def test_closing_under_readers_neither_hangs_nor_misreads(store: Store, tree: Path, manifest: Manifest) -> None:
    fill(store.begin_fill(manifest), tree)
    for _ in range(20):
        title = store.open_title(manifest.title_id)

        def read(title: StoredTitle = title) -> bool:
            try:
                while title.check_blake3(0) and title.check_blake3(manifest.chunk_count - 1):
                    pass
            except StoreError as error:
                return "closed" in str(error)
            return False

        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read) for _ in range(4)]
            title.close()
            assert all(reader.result(timeout=10) for reader in readers)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_store import CHUNK, NAME, write_chunk
from p2pfill.store import Store, publish
root, tree = Path(sys.argv[1]), Path(sys.argv[2])
title = Store.open(root).begin_fill(publish(tree, name=NAME, chunk_size=CHUNK).manifest)
for chunk in range(title.manifest.chunk_count):
    write_chunk(title, tree, chunk)
    title.commit([chunk])
    print(chunk, flush=True)
"""


@pytest.mark.process
def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, tree: Path, manifest: Manifest) -> None:
    here = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), str(tree), here], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(3)]
        process.kill()
        acknowledged += [int(line) for line in process.stdout]
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        assert set(acknowledged) <= set(title.have.indexes())
        assert all(title.check_blake3(chunk) for chunk in title.have.indexes())
        fill(title, tree)
        title.go_live()
        assert verify_tree(store.root / "live" / NAME, manifest).ok
