"""A directory of titles, owned by one process.

    root/lock                               held while a Store is open
    root/filling/<id>/{manifest,journal,files/…}     a fill; the journal is made last, so without one it never began
    root/filling/<id>/tally                 what has come from where (`store.tally`)
    root/filling/<id>/{selection,rest/…}             where only some files are wanted (`store.rest`)
    root/titles/<id>/…                      the same directory, renamed when whole
    root/live/<name> -> ../titles/<id>/files         what a web server serves; swapped by rename (`store.names`)
    root/numbers/…                          which versions of names were shown that are signed (`store.floors`)
    root/aside/…                                     what was in the way of all these and is nothing of ours

Go-live renames the directory, then swaps the link where no newer order holds the name, then removes the journal. A
journal in `titles/` so marks a go-live that was cut short, and opening the store finishes it. Removing renames to
`filling/<id>.gone` first, so that no half of a title is ever seen. Copying finished files into place was rejected: it
is neither atomic nor free.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Lock, RLock
from typing import Final, NamedTuple
from urllib.parse import unquote

from blake3 import blake3

from p2pfill.errors import ConfigError, DiskFullError, ManifestError, StoreError, TitleInDoubtError
from p2pfill.hot.io import sync_fs
from p2pfill.model import limits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId, title_id_from_hex
from p2pfill.model.manifest import Manifest
from p2pfill.model.paths import directories_of, find_collision, show
from p2pfill.model.selection import chunks_of_file, is_selected
from p2pfill.store.descriptors import BUDGET, descriptors_max
from p2pfill.store.disk import (
    DIRECTORY_FLAGS,
    FILE_FLAGS,
    Tree,
    clear_place,
    folds_names,
    make_directory,
    replace_file,
    store_error,
    sync_directory,
    translated,
)
from p2pfill.store.journal import DAMAGED, JOURNAL, Journal
from p2pfill.store.layout import allocate_files, lost_files
from p2pfill.store.mending import Mend
from p2pfill.store.names import LiveNames
from p2pfill.store.owner import check_owner, why_untrusted
from p2pfill.store.places import Places
from p2pfill.store.rest import Rest
from p2pfill.store.reuse import Reuse
from p2pfill.store.salvage import Salvage, has_salvage, note_salvage
from p2pfill.store.title import MANIFEST, StoredTitle, preallocated
from p2pfill.store.uses import TitleUse, is_open, use_of
from p2pfill.store.wanted import SELECTION, Wanted, found_selection, keep_selection, read_selection, wanted_of
from p2pfill.trust.publishers import open_title

AWAKE_TITLES_MAX: Final = 64
"""Live titles that hold descriptors at a time, some directories and up to 128 files each: as many as are sent side by
side. All others are opened by their path when they are read."""
_DELETE_FILES: Final = 1000
_SPARE_BYTES: Final = limits.MIB
"""What a fill must leave free for its own directories and journal."""


class TitleStatus(NamedTuple):
    """What the store holds of a title; `error` says why it cannot be used, if so."""

    name: str
    size: int
    chunk_count: int
    have_chunks: int
    live: bool
    error: str = ""


class Store:
    """The titles below one directory. Thread-safe; all calls block and raise `StoreError` when the disk refuses."""

    def __init__(self, root: Path, lock_fd: int, places: Places) -> None:
        """Use `Store.open`."""
        self.root = root
        self._places = places
        self._lock_fd = lock_fd
        self._lock = RLock()
        self._open_titles: dict[TitleId, StoredTitle] = {}
        self._awake: OrderedDict[StoredTitle, None] = OrderedDict()
        """Live titles that hold descriptors, those first that were opened longest ago."""
        self._awake_lock = Lock()
        self._live_status: dict[TitleId, TitleStatus] = {}
        self.names = LiveNames(root)
        """Change it through the methods below."""
        self._folds_names: bool | None = None  # not looked at yet

    @classmethod
    def open(cls, root: Path) -> Store:
        """Open the store in `root`, made where missing, and finish what a crash cut short.

        What is in the way there and is nothing of ours is moved to `aside`, and `take_remarks` tells of it. Raises
        `StoreError` where the directory cannot be written to, is full and holds nothing that is whole, or belongs to a
        running node, and `ConfigError` where others than the node's user can change what is in it (`store.owner`).
        """
        root = root.absolute()
        BUDGET.fit(descriptors_max())
        with translated(f"use {str(root)!r} as data directory"):
            places = Places(root)
            places.remarks += check_owner(root)
            make_directory(root)
            lock_fd = places.open_lock()
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock_fd)
            raise StoreError(
                f"data directory {str(root)!r} is in use by another node; stop it or use another"
            ) from error
        store = cls(root, lock_fd, places)
        try:
            with translated(f"use {str(root)!r} as data directory"):
                places.make()
                store._try_disk()
                store._recover()
        except BaseException:
            os.close(lock_fd)
            raise
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def titles(self) -> dict[TitleId, TitleStatus]:
        """Return everything on disk, live or filling, by id."""
        with self._lock:
            found = {}
            for place in ("titles", "filling"):
                for title_id in self._ids(place):
                    if place == "filling" and not _has_journal(self.root / place / title_id.hex()):
                        continue
                    found[title_id] = self._status(title_id, live=place == "titles")
            return found

    def live_ids(self) -> list[TitleId]:
        """Return the titles that are live on disk, those that are opened fastest (few files, few chunks) first."""
        with self._lock, translated(f"read {str(self.root)!r}"):
            sizes = {}
            for title_id in self._ids("titles"):
                directory = self.root / "titles" / title_id.hex()
                try:
                    sizes[title_id] = (directory / MANIFEST).stat().st_size
                except OSError:
                    if directory.is_dir():  # else it has just been removed
                        sizes[title_id] = 0  # opening it says what is wrong, and of it alone
            return sorted(sizes, key=sizes.__getitem__)

    def open_title(self, title_id: TitleId) -> StoredTitle:
        """Return a title, live or filling; the same object for all until it is closed. `StoreError` if absent."""
        with self._lock:
            return self._open_title(title_id, None)

    def begin_fill(self, manifest: Manifest, selection: Bitmap | None = None) -> StoredTitle:
        """Return the title, resumed where it was begun before, else with all but small files allocated at full size.

        Only the files in `selection` are wanted, all where it is None. A live title keeps what it shows, and takes
        writes where it lacks some of them. Where nobody has ordered it (`set_orders`), this is an order, the newest of
        all. Raises `StoreError` naming needed and free bytes where the disk cannot hold it.
        """
        title_id, wanted = manifest.title_id, wanted_of(manifest, selection)  # not while others wait for the lock
        with self._lock:
            self.names.begin(title_id)
            directory = self.root / "filling" / title_id.hex()
            if self._cached(title_id) is None:
                with translated(f"clear the way for title {manifest.name!r}"):
                    for place in ("titles", "filling"):
                        self._places.clear(self.root / place / title_id.hex())
            if self._cached(title_id) is None and not (self.root / "titles" / title_id.hex()).is_dir():
                if directory.exists() and not _has_journal(directory):
                    with translated(f"clear {str(directory)!r}"):
                        shutil.rmtree(directory)
                if not directory.exists():
                    self._allocate(directory, manifest, selection)
            title = self._open_title(title_id, manifest, wanted)
            if title.doubt:
                raise TitleInDoubtError(
                    f"cannot fill title {manifest.name!r} yet: {title.doubt}; what is here is being checked"
                )
            title.recover()
            if title.selection is not None and title.would_select(selection):
                gained = _others(manifest, selection, title.selection)
                if gained.any():
                    self._check_room(manifest, gained)
            title.select(selection, wanted)
            self._live_status.pop(title_id, None)
            return title

    def set_orders(self, orders: Mapping[TitleId, int]) -> dict[TitleId, StoreError]:
        """Show of each name the newest of these orders that is live; they are all that stand, with their numbers.

        Returns the live titles that the disk refused to show, and why.
        """
        self.names.expect_only(orders)
        return self.names.follow()

    def show_anew(self, title_id: TitleId) -> None:
        """Take this for an order of a title that is here already, the newest of all; for nodes without a tracker."""
        self.names.show_anew(title_id)

    def lose(self, title: StoredTitle, chunks: Iterable[int], files: Iterable[int]) -> set[int]:
        """`StoredTitle.lose`, also where the whole directory of a live title was removed: it is made again."""
        manifest = title.manifest
        directory = self.root / "titles" / manifest.title_id.hex()
        with self._lock, translated(f"repair title {manifest.name!r}"):
            if title.closed:
                raise StoreError(f"title {manifest.name!r} is closed")  # it was removed meanwhile
            if title.live and not directory.exists():
                make_directory(directory)
                directory_fd = os.open(directory, DIRECTORY_FLAGS)
                replace_file(directory_fd, MANIFEST, manifest.encode())
                sync_directory(directory.parent)
                title.adopt(directory_fd)
            self._live_status.pop(manifest.title_id, None)
        return title.lose(chunks, files)

    def reusable(self, title: StoredTitle) -> Reuse | Salvage | None:
        """Return what of a title that is being filled need not be fetched, as far as that may be; None: nothing.

        It is here though the journal does not say so, or in the version that the title's name shows now.
        """
        if title.salvages:
            return Salvage(title)
        # One that is not there, or cannot be read, is no reason not to fill: all is fetched.
        with suppress(StoreError), self._lock:
            shown = self.names.shown(title.manifest.name)
            if shown is not None and shown != title.manifest.title_id:
                return Reuse(title, self._open_title(shown, None))
        return None

    def remove(self, title_id: TitleId) -> None:
        """Forget a title and delete its files, the link first. Does nothing where it is absent."""
        delete = self.begin_removal(title_id)
        while delete(_DELETE_FILES):
            pass

    def begin_removal(self, title_id: TitleId) -> Callable[[int], bool]:
        """Forget a title: its link goes, and its directory is out of sight; opening the store deletes that.

        Returns what deletes so many of its files, and tells whether more are left; that raises `StoreError` too.
        """
        with self._lock, translated(f"remove title {title_id.hex()}"):
            title = self._open_titles.pop(title_id, None)
            if title is not None:
                title.close()
                with self._awake_lock:
                    self._awake.pop(title, None)
            self._live_status.pop(title_id, None)
            self.names.drop(title_id)
            gone = self.root / "filling" / f"{title_id.hex()}.gone"
            if gone.exists():
                shutil.rmtree(gone)
            for place in ("titles", "filling"):
                directory = self.root / place / title_id.hex()
                if directory.exists():
                    directory.rename(gone)
                    # Durably, before a file goes: a power loss would bring back a live title without some.
                    sync_directory(gone.parent)
                    sync_directory(directory.parent)
                    return lambda count: _delete_some(gone, count)
            return lambda count: False

    # ---- room

    def free_bytes(self) -> int:
        """Return how much is free for titles."""
        return self.room()[1]

    def room(self) -> tuple[int, int]:
        """Return the size of the disk, and how much of it is free for titles."""
        with translated(f"look how much is free in {str(self.root)!r}"):
            status = os.statvfs(self.root)
        return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize

    def needed_bytes(self, title: StoredTitle) -> int:
        """Return what must be free for the rest of a title: its journal, and files that have no space of their own yet.

        Too much rather than too little: a file of which a part is missing counts as a whole.
        """
        files, have, lost = title.manifest.files, title.have, title.lost_files
        with translated(f"look how much is free in {str(self.root)!r}"):
            block_bytes = os.statvfs(self.root).f_frsize
        blocks = sum(
            -(-files.size(index) // block_bytes)
            for index in range(len(files))
            if is_selected(title.selection, index)
            and (index in lost or not (title.live or preallocated(files.size(index))))
            and not all(have[chunk] for chunk in chunks_of_file(title.manifest, index))
        )
        return blocks * block_bytes + _SPARE_BYTES

    def note_use(self, title_id: TitleId) -> None:
        """Keep that a title is in use now."""
        for place in ("titles", "filling"):
            with translated(f"note the use of title {title_id.hex()}"), suppress(FileNotFoundError):
                os.utime(self.root / place / title_id.hex())

    def ids(self) -> list[TitleId]:
        """Return all titles of which something is on disk."""
        with translated(f"read {str(self.root)!r}"):
            return list(dict.fromkeys(chain(self._ids("titles"), self._ids("filling"))))

    def uses(self, ids: Iterable[TitleId]) -> list[TitleUse]:
        """Return what the disk knows of the use of these titles, those left out that are gone."""
        found = []
        for title_id in ids:
            for place in ("titles", "filling"):
                directory = self.root / place / title_id.hex()
                with translated(f"look at {str(directory)!r}"), suppress(FileNotFoundError):
                    found.append(use_of(title_id, directory, live=place == "titles"))
                    break
        return found

    def title_meant(self, text: str) -> TitleId | None:
        """Return the title that is meant by its id, its name, or a path of a file of it; None where none is.

        The path is one below this directory, or begins with the name below live/, as in a URL.
        """
        place, rest = "live", text.removeprefix("/")
        for root in (str(self.root), os.path.realpath(self.root)):
            if text.startswith(f"{root}/"):
                place, _, rest = text.removeprefix(f"{root}/").partition("/")
        name = rest.partition("/")[0]
        if not name or "\0" in name or place not in ("live", "titles"):
            return None
        with suppress(ConfigError):
            return title_id_from_hex(name)
        return self.names.shown(name) or self.names.shown(unquote(name))

    def is_open_elsewhere(self, title_id: TitleId) -> bool:
        """Tell whether another process has a file of a live title open, as far as the file system can say."""
        files = self.root / "titles" / title_id.hex() / "files"
        if (title := self._open_titles.get(title_id)) is not None:
            title.let_go()
        return any(is_open(os.path.join(directory, name)) for directory, _, names in os.walk(files) for name in names)

    def close(self) -> None:
        """Close every title and let another process have the directory. May be called twice."""
        with self._lock:
            for title in self._open_titles.values():
                title.close()
            self._open_titles.clear()
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
                self._lock_fd = -1

    def probe(self) -> None:
        """Have the disk make a block durable, and forget it. Raises `StoreError` where it does not."""
        self._places.probe()

    def _try_disk(self) -> None:
        try:
            self.probe()
            self._look_at_names()
        except DiskFullError as error:
            # What is whole is served all the same, and only a node that runs makes room by what may go.
            if not self._ids("titles"):
                raise
            self._places.remarks.append(f"{error}; until then nothing is filled, and what is live here is served")

    def _look_at_names(self) -> bool:
        if self._folds_names is None:
            with translated(f"use {str(self.root)!r} as data directory"):
                self._folds_names = folds_names(self.root / "filling")
        return self._folds_names

    def take_remarks(self) -> list[str]:
        """Return what people should know that was found in the directory since the last call."""
        said, self._places.remarks = self._places.remarks, []
        return said

    def _recover(self) -> None:
        whole = self._ids("titles")
        self.names.forget_intentions(whole)
        for title_id in whole:
            # A title that cannot be shown keeps no other from being served: opening it tries again, and says why.
            with suppress(OSError, StoreError):
                self._finish(title_id, self._read_manifest)

    def _finish(self, title_id: TitleId, read: Callable[[Path, TitleId], Manifest]) -> None:
        """Finish a go-live that was cut short, if it was. Raises `OSError` and what `read`, the manifest's, raises."""
        directory = self.root / "titles" / title_id.hex()
        was_filling, is_intended = _has_journal(directory), self.names.is_intended(title_id)
        if was_filling or is_intended:
            name = read(directory, title_id).name
            # What somebody else has put there makes it fail, and is said.
            if is_intended or self.names.shown(name) is None:
                self.names.swap(title_id, name)
            (directory / JOURNAL).unlink(missing_ok=True)

    def _ids(self, place: str) -> list[TitleId]:
        found = []
        for name in os.listdir(self.root / place):
            with suppress(ConfigError):
                found.append(title_id_from_hex(name))
        return found

    def _cached(self, title_id: TitleId) -> StoredTitle | None:
        title = self._open_titles.get(title_id)
        if title is not None and title.closed:
            del self._open_titles[title_id]
            return None
        return title

    def _open_title(self, title_id: TitleId, known: Manifest | None, wanted: Wanted | None = None) -> StoredTitle:
        title = self._cached(title_id)
        if title is not None:
            return title
        for place in ("titles", "filling"):
            directory = self.root / place / title_id.hex()
            if directory.is_dir() and (place == "titles" or _has_journal(directory)):
                return self._open(directory, title_id, known, wanted, live=place == "titles")
        raise StoreError(f"title {title_id.hex()} is not in {str(self.root)!r}")

    def _status(self, title_id: TitleId, *, live: bool) -> TitleStatus:
        known = self._live_status.get(title_id)
        if known is not None:
            return known
        was_open = self._cached(title_id) is not None
        try:
            title = self.open_title(title_id)
        except StoreError as error:
            return TitleStatus("", 0, 0, 0, live, str(error))
        manifest = title.manifest
        status = TitleStatus(manifest.name, manifest.size, manifest.chunk_count, title.have.count(), title.live)
        if not was_open:
            title.close()
        if not title.takes_writes:
            self._live_status[title_id] = status
        return status

    def _read_manifest(self, directory: Path, title_id: TitleId) -> Manifest:
        """Return the manifest on disk. Raises `StoreError` where it is not what it was."""
        advice = "it is fetched anew when the title is ordered"
        try:
            data = _read_plain(directory / MANIFEST)
        except OSError as error:
            if error.errno != errno.ENOENT and error.errno not in DAMAGED:
                raise store_error(f"read the manifest in {str(directory)!r}", error) from error
            raise StoreError(f"the manifest in {str(directory)!r} is missing, or cannot be read; {advice}") from None
        try:
            # Nobody is asked who has signed it: that was done before it was filled, and what is live stays so.
            return open_title(data, title_id)
        except ManifestError as error:
            raise StoreError(f"the manifest in {str(directory)!r} is damaged; {advice}: {error}") from error

    def _check_manifest(self, directory: Path, known: Manifest) -> str:
        """Return what is wrong with the manifest on disk of a title that is known, if anything. Raises `StoreError`."""
        path = directory / MANIFEST
        try:
            data = _read_plain(path)
        except FileNotFoundError:
            return f"{str(path)!r} is missing"
        except OSError as error:
            if error.errno in DAMAGED:
                return f"{str(path)!r} cannot be read"
            raise store_error(f"read {str(path)!r}", error) from error
        # Not decoded, which takes seconds for a million files.
        return "" if blake3(data).digest() == known.title_id else f"{str(path)!r} is damaged"

    def _open(
        self, directory: Path, title_id: TitleId, known: Manifest | None, wanted: Wanted | None, *, live: bool
    ) -> StoredTitle:
        """Open a title; `wanted` follows from the selection that it may have.

        With a manifest that is `known`, that on disk may be damaged: it is then written anew, of a live title once its
        files are checked.
        """
        if known is None:
            manifest, doubt = self._read_manifest(directory, title_id), ""
        else:
            manifest, doubt = known, self._check_manifest(directory, known)
        with translated(f"open {str(directory)!r}"), ExitStack() as undo:
            directory_fd = os.open(directory, DIRECTORY_FLAGS)
            undo.callback(os.close, directory_fd)
            if wrong := why_untrusted(str(directory), os.fstat(directory_fd)):
                raise StoreError(f"cannot open title {manifest.name!r}: {wrong}")
            if live:
                self._finish(title_id, lambda *_: manifest)
            elif doubt:
                replace_file(directory_fd, MANIFEST, manifest.encode())
            selection, wrong = read_selection(directory_fd, manifest)
            if wrong:
                selection = found_selection(directory_fd, manifest, live=live)
                doubt = doubt or f"{str(directory / SELECTION)!r} {wrong}"
            if wanted is None or wanted.selection != selection:
                wanted = wanted_of(manifest, selection)
            clear_place(directory_fd, "files", stat.S_ISDIR)
            with suppress(FileExistsError):
                os.mkdir("files", 0o755, dir_fd=directory_fd)  # somebody has removed it; its files are lost
            journal, mend, have = None, None, None
            if not live:
                journal, have = self._resume(directory_fd, manifest, selection)
                undo.callback(journal.close)
            else:
                try:
                    left = Mend.open(directory_fd, manifest)
                except StoreError as error:
                    doubt, left = doubt or f"{error} in {str(directory)!r}", None
                if left is not None:
                    mend, have = left
                    undo.callback(mend.close)
            if have is None:
                have = Bitmap.full(manifest.chunk_count) if wanted.chunks is None else wanted.chunks.copy()
            title = StoredTitle(
                manifest, directory_fd, journal, have, self._publish_live, mend, wanted,
                partial(self._open_directory, title_id), self._note_open, doubt if live else "",
            )  # fmt: skip
            title.salvages = not live and has_salvage(directory_fd)
            undo.pop_all()
        self._open_titles[title_id] = title
        if live:
            self.names.add(title_id, manifest.name)
        return title

    def _open_directory(self, title_id: TitleId) -> int:
        """Return a descriptor of the directory of a live title. Raises `OSError`."""
        return os.open(f"{self.root}/titles/{title_id.hex()}", DIRECTORY_FLAGS)

    def _note_open(self, title: StoredTitle) -> None:
        """Note that a live title holds descriptors, and let the one rest that was not opened for longest."""
        with self._awake_lock:
            self._awake[title] = None
            self._awake.move_to_end(title)
            oldest = self._awake.popitem(last=False)[0] if len(self._awake) > AWAKE_TITLES_MAX else None
        if oldest is not None:
            oldest.rest()

    def _resume(self, directory_fd: int, manifest: Manifest, selection: Bitmap | None) -> tuple[Journal, Bitmap]:
        note = partial(note_salvage, directory_fd)
        try:
            journal, have = Journal.open(directory_fd, manifest.title_id, manifest.chunk_count, note)
        except (StoreError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in DAMAGED:
                raise
            self._places.remarks.append(
                f"the journal of title {manifest.name!r} is damaged; what its files hold is checked, and kept where it "
                "is right"
            )
            note()
            journal, have = Journal.create(directory_fd, manifest.title_id), Bitmap(manifest.chunk_count)
        with Tree(os.open("files", DIRECTORY_FLAGS, dir_fd=directory_fd)) as tree:
            lost = lost_files(tree, Rest(lambda: os.dup(directory_fd)), manifest, have, selection)
            if lost:
                # Somebody cut or deleted files below us. The journal must stop vouching for them before they get
                # their size back, since a crash between the two would otherwise leave zeros that look verified.
                for index in lost:
                    for chunk in chunks_of_file(manifest, index):
                        have.discard(chunk)
                journal.close()
                journal = Journal.create(directory_fd, manifest.title_id, list(have.indexes()))
                allocate_files(tree, (manifest.files[index] for index in lost if is_selected(selection, index)))
            for index in range(len(manifest.files)):
                # What was written last the disk may have refused, to a process that is no more.
                if is_selected(selection, index) and not all(map(have.__getitem__, chunks_of_file(manifest, index))):
                    with suppress(OSError):
                        tree.forget_pages(manifest.files.path(index))
        return journal, have

    def _check_room(self, manifest: Manifest, selection: Bitmap | None) -> int:
        """Return how many bytes are free. Raises `StoreError` where these files of a title do not fit."""
        status = os.statvfs(self.root)
        needed = _space_needed(manifest, selection, status.f_frsize)
        free = status.f_bavail * status.f_frsize
        doing = self._doing(manifest, needed)
        if needed + _SPARE_BYTES > free:
            message = f"cannot {doing}: only {free} bytes are free; free some space or use another disk"
            raise DiskFullError(message, needed + _SPARE_BYTES)
        # Some file systems have no fixed number of files and say 0 of 0.
        count = len(manifest.files) if selection is None else selection.count()
        count += _directory_count(manifest)
        if status.f_files and count > status.f_favail:
            raise StoreError(
                f"cannot {doing}: only {status.f_favail} of its {count} files and directories can still be made there; "
                "delete some files or use another disk"
            )
        return free

    def _doing(self, manifest: Manifest, needed: int) -> str:
        return f"hold title {manifest.name!r}, which needs {needed} bytes, in {str(self.root)!r}"

    def _allocate(self, directory: Path, manifest: Manifest, selection: Bitmap | None) -> None:
        if self._look_at_names() and (pair := _find_collision(manifest)) is not None:
            raise StoreError(
                f"cannot hold title {manifest.name!r} in {str(self.root)!r}: the disk there takes {show(pair[0])} and "
                f"{show(pair[1])} for the same name; use a disk that tells upper and lower case apart, or rename one "
                "and publish again"
            )
        free = self._check_room(manifest, selection)
        try:
            make_directory(directory)
            directory_fd = os.open(directory, DIRECTORY_FLAGS)
            try:
                replace_file(directory_fd, MANIFEST, manifest.encode())
                if selection is not None:
                    keep_selection(directory_fd, manifest, selection)
                os.mkdir("files", 0o755, dir_fd=directory_fd)
                with Tree(os.open("files", DIRECTORY_FLAGS, dir_fd=directory_fd)) as tree:
                    chosen = (e for i, e in enumerate(manifest.files) if is_selected(selection, i))
                    allocate_files(tree, (entry for entry in chosen if preallocated(entry.size)))
                    # Sizes and directory entries must be durable before the journal claims that the fill began.
                    sync_fs(tree.fd)
                Journal.create(directory_fd, manifest.title_id).close()
            finally:
                os.close(directory_fd)
            sync_directory(directory.parent)
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            block_bytes = os.statvfs(self.root).f_frsize
            failure = store_error(self._doing(manifest, _space_needed(manifest, selection, block_bytes)), error)
            kind = type(failure)  # a full disk stays one: files may take more than their bytes
            raise kind(f"{failure} ({free} bytes were free)") from error

    def _publish_live(self, title: StoredTitle) -> None:
        title_id = title.manifest.title_id
        filling, whole = (self.root / place / title_id.hex() for place in ("filling", "titles"))
        with translated(f"show title {title.manifest.name!r} in {str(self.root / 'live')!r}"):

            def rename() -> None:
                # A retry after a failure to swap the link finds it done.
                if filling.exists():
                    filling.rename(whole)
                sync_directory(whole.parent)
                sync_directory(filling.parent)

            self.names.go_live(title_id, title.manifest.name, rename)
            (whole / JOURNAL).unlink(missing_ok=True)


def _has_journal(directory: Path) -> bool:
    """Tell whether there is a journal in a title's directory, or something in its place."""
    return os.path.lexists(directory / JOURNAL)


def _read_plain(path: Path) -> bytes:
    """Return what is in a plain file; what else lies there reads as nothing. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | FILE_FLAGS)
    with os.fdopen(fd, "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(fd).st_mode) else b""


def _delete_some(directory: Path, count: int) -> bool:
    """Delete up to `count` files and directories of a tree, from below; tell whether there is more. `StoreError`."""
    with translated(f"delete {str(directory)!r}"):
        for parent, directories, names in os.walk(directory, topdown=False):
            for name in names:
                os.unlink(os.path.join(parent, name))
                count -= 1
                if not count:
                    return True
            for name in directories:
                path = os.path.join(parent, name)
                if os.path.islink(path):
                    os.unlink(path)
            os.rmdir(parent)
    return False


def _find_collision(manifest: Manifest) -> tuple[str, str] | None:
    return find_collision([record[0] for record in manifest.files.records()], manifest.files.directories)


def _space_needed(manifest: Manifest, selection: Bitmap | None, block_bytes: int) -> int:
    """Return the bytes on disk that these files of a title take, which come in whole blocks."""
    sizes = (record[1] for index, record in enumerate(manifest.files.records()) if is_selected(selection, index))
    blocks = sum(-(-size // block_bytes) for size in sizes)
    return (blocks + _directory_count(manifest)) * block_bytes


def _directory_count(manifest: Manifest) -> int:
    files = manifest.files
    paths = chain((record[0] for record in files.records()), files.directories)
    return 1 + len(directories_of(paths)) + len(files.directories)


def _others(manifest: Manifest, selection: Bitmap | None, held: Bitmap) -> Bitmap:
    """Return the files that are in a selection, and not among those that are here."""
    return (Bitmap.full(len(manifest.files)) if selection is None else selection).and_not(held)
