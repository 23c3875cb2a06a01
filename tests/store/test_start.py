"""A data directory in which something went wrong: the store opens, says so, and keeps what is right there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from p2pfill.errors import ConfigError, StoreError, TitleInDoubtError
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.signed_order import Document, OrderStatement
from p2pfill.store import Store, StoredTitle, publish, verify_tree
from p2pfill.store.kept_orders import KeptOrders
from p2pfill.store.places import ASIDE
from p2pfill.store.salvage import Salvage
from p2pfill.store.scrub import missing_files

CHUNK = 64 * 1024
SPOIL: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_bytes(b"x"),
    "directory": lambda path: (path.mkdir(), (path / "y").touch()),
    "link": lambda path: path.symlink_to("nowhere"),
    "fifo": os.mkfifo,
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One large file and two small ones that share chunks."""
    root = tmp_path / "tree"
    root.mkdir()
    (root / "large").write_bytes(os.urandom(5 * CHUNK + 77))
    for name in "ab":
        (root / name).write_bytes(os.urandom(3000))
    return root


@pytest.fixture
def manifest(tree: Path) -> Manifest:
    """The title of it."""
    return publish(tree, name="film", chunk_size=CHUNK).manifest


def write(title: StoredTitle, tree: Path, chunks: range | list[int] | None = None) -> None:
    """Write chunks, all by default, and commit them."""
    manifest = title.manifest
    data = b"".join((tree / entry.path).read_bytes() for entry in manifest.files)
    for chunk in chunks if chunks is not None else range(manifest.chunk_count):
        begin, end = manifest.cut.span(chunk)
        title.write_chunk(chunk, data[begin:end])
        title.seal(chunk)
    title.commit(list(chunks) if chunks is not None else list(range(manifest.chunk_count)))


def be_live(root: Path, manifest: Manifest, tree: Path) -> Path:
    """Have a title be live, and return its directory."""
    with Store.open(root) as store:
        title = store.begin_fill(manifest)
        write(title, tree)
        title.go_live()
    return root / "titles" / manifest.title_id.hex()


@pytest.mark.parametrize("kind", SPOIL)
@pytest.mark.parametrize("place", ["filling", "titles"])
def test_a_stray_entry_stops_neither_the_start_nor_its_title(
    tmp_path: Path, tree: Path, manifest: Manifest, place: str, kind: str
) -> None:
    """A fifo in the place of a directory that was to be deleted hung for ever."""
    name = manifest.title_id.hex()
    for number, stray in enumerate((name, f"{name}.gone", f"{name}.link", "probe")):
        root = tmp_path / f"data{number}"
        for other in ("live", "filling", "titles"):
            (root / other).mkdir(parents=True)
        for where, entry in ((place, stray), ("live", "strange"), (".", "lock"), ("filling", "probe-case")):
            SPOIL[kind](root / where / entry)
        if (place, kind, stray) == ("titles", "directory", name):
            with Store.open(root) as store, pytest.raises(TitleInDoubtError):
                store.begin_fill(manifest)  # it may be the title: what is in it is checked
            continue
        be_live(root, manifest, tree)
        assert verify_tree(root / "live" / "film", manifest).ok
        with Store.open(root) as store:
            assert [status.live for status in store.titles().values()] == [True]


@pytest.mark.parametrize("place", ["filling", "titles", "live"])
def test_a_file_in_the_place_of_a_directory_is_moved_away_and_said(tmp_path: Path, place: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / place).write_bytes(b"mine")
    with Store.open(root) as store:
        (said,) = store.take_remarks()
        assert str(root / place) in said
        assert not store.take_remarks()
    assert (root / ASIDE / f"{place}.aside-0").read_bytes() == b"mine"
    # A disk that is not mounted is no stray file.
    (root / place).rmdir()
    (root / place).symlink_to("nowhere")
    with pytest.raises(StoreError, match="data directory"):
        Store.open(root)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("numbers", "file"), ("numbers", "fifo"), ("orders", "file"), ("orders", "fifo"), ("revoked.pem", "directory")],
)
def test_neither_does_what_lies_where_something_is_to_be_kept_later(
    tmp_path: Path, tree: Path, manifest: Manifest, name: str, kind: str
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    SPOIL[kind](root / name)
    with Store.open(root) as store:
        (said,) = store.take_remarks()
        assert str(root / name) in said
    assert not os.path.lexists(root / name)
    be_live(root, manifest, tree)  # which asks for numbers


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing", "directory", "fifo"])
@pytest.mark.parametrize("leftover", [False, True])
def test_a_damaged_manifest_comes_with_the_order_and_files_are_checked(
    tmp_path: Path, tree: Path, manifest: Manifest, damage: str, leftover: bool
) -> None:
    root = tmp_path / "data"
    place = be_live(root, manifest, tree)
    path, data = place / "manifest", manifest.encode()
    path.unlink()
    if damage in ("flip", "cut", "empty"):
        flipped = data[:50] + bytes([data[50] ^ 1]) + data[51:]
        path.write_bytes({"flip": flipped, "cut": data[:-9], "empty": b""}[damage])
    elif damage != "missing":
        SPOIL[damage](path)
    if leftover:
        (place / "journal").write_bytes(b"rubbish")
    with Store.open(root) as store:
        assert store.live_ids() == [manifest.title_id]
        with pytest.raises(StoreError, match="manifest"):
            store.open_title(manifest.title_id)
        with pytest.raises(TitleInDoubtError, match="being checked"):
            store.begin_fill(manifest)
        # What is here is kept: it is for whoever checks it to say that it is right.
        title = store.open_title(manifest.title_id)
        assert title.doubt
        assert title.have.all()
        assert not title.takes_writes
        title.settle_doubt()
    with Store.open(root) as store:
        assert not store.open_title(manifest.title_id).doubt
    assert path.read_bytes() == data
    assert not (place / "selection").exists()
    assert verify_tree(root / "live" / "film", manifest).ok


def test_a_damaged_manifest_of_a_fill_keeps_what_its_journal_says(
    tmp_path: Path, tree: Path, manifest: Manifest
) -> None:
    root = tmp_path / "data"
    with Store.open(root) as store:
        write(store.begin_fill(manifest), tree, [0, 2])
    (root / "filling" / manifest.title_id.hex() / "manifest").write_bytes(b"rubbish")
    with Store.open(root) as store:
        assert list(store.begin_fill(manifest).have.indexes()) == [0, 2]
    with Store.open(root) as store:
        assert list(store.open_title(manifest.title_id).have.indexes()) == [0, 2]


@pytest.mark.parametrize("damage", ["header", "middle", "empty", "directory", "fifo", "link"])
def test_what_a_damaged_journal_does_not_say_is_found_by_its_digests(
    tmp_path: Path, tree: Path, manifest: Manifest, damage: str
) -> None:
    root = tmp_path / "data"
    with Store.open(root) as store:
        title = store.begin_fill(manifest)
        for chunks in ([0], [1, 4], [2]):
            write(title, tree, chunks)
    journal = root / "filling" / manifest.title_id.hex() / "journal"
    data = bytearray(journal.read_bytes())
    journal.unlink()
    if damage in SPOIL:
        SPOIL[damage](journal)
    else:
        data[{"header": 3, "middle": 55, "empty": 0}[damage]] ^= 1
        journal.write_bytes(b"" if damage == "empty" else data)
    rotten = next(iter(manifest.segments(2)))
    files = root / "filling" / manifest.title_id.hex() / "files"
    with (files / manifest.files.path(rotten.file_index)).open("r+b") as file:
        file.seek(rotten.offset)
        file.write(b"rot")
    with Store.open(root) as store:
        title = store.begin_fill(manifest)
        assert set(title.have.indexes()) <= {0}
    with Store.open(root) as store:  # a crash in the midst of it, and the journal is in order now
        title = store.begin_fill(manifest)
        found = store.reusable(title)
        assert isinstance(found, Salvage)
        assert len(found.chunks) < manifest.chunk_count, "what was never written is no file to be read"
        right = [chunk for chunk in found.chunks if found.copy(chunk)]
        here = sorted({*right, *title.have.indexes()})
        assert here == [0, 1, 4], "and not chunk 2, which is rotten"
        assert all(title.check_blake3(chunk) for chunk in here)
        assert all(title.is_sealed(chunk) for chunk in here)
        title.commit(right)
        rest = [chunk for chunk in range(manifest.chunk_count) if chunk not in here]
        write(title, tree, rest)
        title.go_live()
    assert not (root / "titles" / manifest.title_id.hex() / "salvage").exists()
    assert verify_tree(root / "live" / "film", manifest).ok


@pytest.mark.parametrize("damage", ["header", "file", "fifo"])
def test_a_damaged_journal_of_a_repair_puts_the_title_in_doubt(
    tmp_path: Path, tree: Path, manifest: Manifest, damage: str
) -> None:
    root = tmp_path / "data"
    place = be_live(root, manifest, tree)
    with Store.open(root) as store:
        store.lose(store.open_title(manifest.title_id), [1], [])
    if damage == "header":
        (place / "mend" / "journal").write_bytes(b"rubbish")
    else:
        shutil.rmtree(place / "mend")
        SPOIL[damage](place / "mend")
    with Store.open(root) as store:
        title = store.open_title(manifest.title_id)
        assert bool(title.doubt) == (damage == "header")


def test_files_that_are_missing_are_found_by_a_stat(tmp_path: Path, tree: Path, manifest: Manifest) -> None:
    root = tmp_path / "data"
    place = be_live(root, manifest, tree)
    with Store.open(root) as store:
        title = store.open_title(manifest.title_id)
        assert missing_files(title) == []
        (place / "files" / "a").unlink()
        os.truncate(place / "files" / "large", 5)
        lost = {manifest.files.path(index) for index in missing_files(title)}
        assert lost == {"a", "large"}
        shutil.rmtree(place / "files")
        assert len(missing_files(title)) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize("place", [".", "titles", "filling", "live"])
def test_a_data_directory_of_another_user_is_refused(tmp_path: Path, place: str) -> None:
    root = tmp_path / "data"
    Store.open(root).close()
    os.chown(root / place, 4321, 4321)
    (root / place).chmod(0o777)
    with pytest.raises(ConfigError, match=r"4321.*0777.*runs as.*chown -R 0"):
        Store.open(root)
    os.chown(root / place, 0, 0)
    with pytest.raises(ConfigError, match=r"everybody can change.*chmod -R o-w"):
        Store.open(root)
    (root / place).chmod(0o1777)
    with Store.open(root) as store:
        assert any("everybody can put files there" in said for said in store.take_remarks())
    (root / place).chmod(0o2775)
    with Store.open(root) as store:
        (said,) = store.take_remarks()
        assert "group 0" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_link_to_data_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "data"
    link.symlink_to("real")
    Store.open(link).close()
    os.lchown(link, 4321, 4321)
    with pytest.raises(ConfigError, match="can lead it elsewhere"):
        Store.open(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_title_of_another_user_is_refused_alone(tmp_path: Path, tree: Path, manifest: Manifest) -> None:
    root = tmp_path / "data"
    place = be_live(root, manifest, tree)
    os.chown(place, 4321, 4321)
    with Store.open(root) as store:
        with pytest.raises(StoreError, match=r"4321.*chown -R 0"):
            store.open_title(manifest.title_id)
        assert "4321" in store.titles()[manifest.title_id].error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_is_told_to_be_the_nodes_user_before_it_takes_its_files_away(tmp_path: Path) -> None:
    """As where `p2pfill scrub --data` is run by hand."""
    root = tmp_path / "data"
    Store.open(root).close()
    os.chown(root, 4321, 4321)
    with pytest.raises(ConfigError, match=r"run this as that user \(sudo -u '#4321'\), or, .*chown -R 0"):
        Store.open(root)


def test_a_full_disk_keeps_nothing_from_being_served_that_is_whole(
    tmp_path: Path, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a node that runs makes room by what may go: one that does not start would stay full."""
    root, other = tmp_path / "data", tmp_path / "other"
    be_live(root, manifest, tree)
    Store.open(other).close()

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("p2pfill.store.places.os.fsync", refuse)
        with Store.open(root) as store:
            (said,) = store.take_remarks()
            assert "the disk is full" in said
            assert "what is live here is served" in said
            assert store.open_title(manifest.title_id).live
        with pytest.raises(StoreError, match="the disk is full"):
            Store.open(other)


@pytest.mark.parametrize("name", ["numbers", "orders", "orders/names"])
def test_what_refuses_older_versions_is_in_no_directory_that_others_may_change(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    (root / name).mkdir(parents=True)
    (root / name).chmod(0o777)
    with pytest.raises(ConfigError, match=f"{name}.*everybody can change"):
        Store.open(root)


@pytest.mark.parametrize("kind", SPOIL)
def test_what_lies_where_signed_orders_are_kept_is_none(tmp_path: Path, kind: str) -> None:
    kept, title_id = KeptOrders(tmp_path), TitleId(b"t" * 32)
    (tmp_path / "orders" / "names").mkdir(parents=True)
    SPOIL[kind](tmp_path / "orders" / title_id.hex())
    SPOIL[kind](tmp_path / "orders" / "names" / blake3(b"film").hexdigest())
    assert kept.titles() == {title_id}
    assert kept.documents(title_id) == []
    assert kept.number("film") == 0
    said = OrderStatement(
        "fleet.example", title_id, "film", 7, 8, "all", (), 0, 1.0, 1.0, 1.0, True, None, (), False, False
    )  # fmt: skip
    kept.note_numbers([said])
    kept.keep(title_id, [Document(said.encode(), b"s", (b"c",)).encode()])
    again = KeptOrders(tmp_path)
    assert (again.number("film"), [one for one, _ in again.documents(title_id)]) == (7, [said])
