"""The few ways in which the store touches the disk.

Paths out of a manifest are only ever opened one component at a time below a directory descriptor and without
following links, so that even a link that somebody planted inside a title cannot lead a write elsewhere.
Resolving a joined path first and comparing prefixes was rejected: it races with whoever plants the link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final

from p2pfill.errors import DiskFullError, StoreError
from p2pfill.store.descriptors import BUDGET, DescriptorBudget, is_short

DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK does nothing on a plain file, and keeps open() from hanging on a planted fifo."""

FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o755
"""Also of programs. A web server runs as another user, and has to read what is live."""

_SECOND_NS: Final = 1_000_000_000

PROBES_OF_NAMES: Final = ("probe-case", "probe-\u00e9")
"""Files that come and go when it is looked at how a disk takes names."""

AWAY_MAX: Final = 1000
"""Things of one name that are moved away: more would only fill a disk on which something goes wrong again and again."""

_ADVICE: Final = {
    errno.ENOSPC: "the disk is full; free some space or use another directory",
    errno.EDQUOT: "the disk quota is used up; free some space or use another directory",
    errno.EROFS: "the file system is read-only; mount it writable or use another directory",
    errno.EACCES: "permission denied; make it writable for this user or use another directory",
    errno.EPERM: "permission denied; make it writable for this user or use another directory",
    errno.EFBIG: "the file is larger than the file system or the process limit allows",
    errno.EMFILE: "this process has too many open files; raise its limit (ulimit -n)",
    errno.ENFILE: "this machine has too many open files; raise its limit (sysctl fs.file-max)",
    errno.ELOOP: "a symbolic link is in the way; remove it",
    errno.EIO: "the disk reports an input/output error; check it before trusting it again",
}


def store_error(doing: str, error: OSError) -> StoreError:
    """Return the one clear line for an operating system's refusal."""
    advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
    return kind(f"cannot {doing}: {advice}")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn any `OSError` inside into a `StoreError` that says what could not be done."""
    try:
        yield
    except OSError as error:
        raise store_error(doing, error) from error


def on_disk(name: str) -> str:
    """Return the path, for calls of `os`, whose bytes are `name` in UTF-8, whatever the locale says."""
    return os.fsdecode(name.encode(errors="surrogateescape"))


def from_disk(name: str) -> str:
    """Return what a name that `os` gives is in UTF-8, whatever the locale says; what is no UTF-8 stays as it is."""
    return os.fsencode(name).decode(errors="surrogateescape")


def make_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, which everybody may read whatever the umask is.

    One that is there stays as it is. Raises `OSError`.
    """
    if not path.is_dir():
        if path.parent != path:
            make_directory(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(DIRECTORY_MODE)


def open_directory(directory_fd: int, path: str, *, make: bool) -> int:
    """Open the '/'-separated directory `path` below another, never through a link; the caller closes the result.

    With `make`, missing directories are made. Raises `OSError`.
    """
    parent_fd = os.dup(directory_fd)
    for component in on_disk(path).split("/") if path else ():
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(component, DIRECTORY_MODE, dir_fd=parent_fd)
            child_fd = os.open(component, DIRECTORY_FLAGS, dir_fd=parent_fd)
        finally:
            os.close(parent_fd)
        parent_fd = child_fd
    return parent_fd


def show_file(fd: int, mtime: int, executable: bool) -> None:
    """Give a file the time and the mode with which it is served, whatever the umask is. Raises `OSError`."""
    os.fchmod(fd, DIRECTORY_MODE if executable else FILE_MODE)
    os.utime(fd, (mtime, mtime))


class Tree:
    """The files below one directory, opened by path. Thread-safe; raises `OSError`, and `StoreError` once closed.

    The directories used last are kept open: a title of a hundred thousand files lists them directory by directory,
    and walking down anew for each file cost more than all else that was done with a small one.
    """

    def __init__(self, directory_fd: int, open_anew: Callable[[], int] | None = None) -> None:
        """Take over `directory_fd`; with `open_anew`, which opens the directory anew, it may `rest`."""
        self.fd = directory_fd
        self._open_anew = open_anew
        self._lock = Lock()
        self._directories: dict[str, int] = {}
        """Those first that were used longest ago."""
        self._closed = False

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, path: str, flags: int) -> int:
        """Open a file; with `os.O_CREAT` also the directories above it are made where missing.

        To read it leaves the time of its last read alone, which is for viewers.
        """
        parent, _, name = path.rpartition("/")
        # Under the lock, since another thread may close the directory's descriptor else; it is metadata time only.
        with self._lock:
            try:
                return self._open(parent, name, flags)
            except OSError as error:
                if not is_short(error):
                    raise
                self._let_go()
                return self._open(parent, name, flags)

    def _open(self, parent: str, name: str, flags: int) -> int:
        directory_fd = self._directory(parent, make=bool(flags & os.O_CREAT))
        if flags & os.O_ACCMODE == os.O_RDONLY:
            with suppress(PermissionError):  # of a file of another user, or one that cannot be read at all
                return os.open(on_disk(name), flags | FILE_FLAGS | os.O_NOATIME, dir_fd=directory_fd)
        return os.open(on_disk(name), flags | FILE_FLAGS, FILE_MODE, dir_fd=directory_fd)

    def show_file(self, path: str, mtime: int, executable: bool, *, make: bool, sync: bool) -> None:
        """Give a file the time and the mode with which it is served, whatever the umask is; with `make`, make it empty.

        With `sync` that is durable, else it is left to a sync of the file system.
        """
        fd = self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if make else os.O_RDONLY)
        try:
            show_file(fd, mtime, executable)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    def forget_pages(self, path: str, *, sync: bool = False) -> None:
        """Have what is read of a file come from the disk; pages that are yet to be written stay.

        So it is for what is written too. ext4 takes a page whose write has failed for one that has its place on the
        disk: what is written to it once more is there after every sync, and gone when the file system is mounted next.
        With `sync`, what the kernel has yet to tell of writes that failed is told before, and passed over.
        """
        fd = self.open(path, os.O_RDONLY)
        try:
            if sync:
                with suppress(OSError):
                    os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def show_directory(self, path: str, *, make: bool, sync: bool) -> None:
        """Let everybody read a directory, '' for the topmost; with `make`, make it and those above it."""
        with self._lock:
            directory_fd = self._directory(path, make=make)
            os.fchmod(directory_fd, DIRECTORY_MODE)
            if sync:
                os.fsync(directory_fd)

    def show_again(self, path: str, mtime: int, executable: bool) -> bool:
        """Give a file back the time and mode of `show_file` where it has lost them; tell whether it had.

        The file need not be readable. The time of its last read stays. What is no plain file is left alone.
        """
        parent, _, name = path.rpartition("/")
        with self._lock:
            fd = os.open(on_disk(name), os.O_PATH | FILE_FLAGS, dir_fd=self._directory(parent, make=False))
        try:
            status = os.fstat(fd)
            mode = DIRECTORY_MODE if executable else FILE_MODE
            is_right = stat.S_IMODE(status.st_mode) == mode and status.st_mtime_ns // _SECOND_NS == mtime
            if is_right or not stat.S_ISREG(status.st_mode):
                return False
            # Nobody has read it since, where both are the same; see `store.uses`.
            was_read = status.st_atime_ns != status.st_mtime_ns
            place = f"/proc/self/fd/{fd}"  # descriptors of this kind are changed by their path alone
            os.chmod(place, mode)
            os.utime(place, ns=(status.st_atime_ns if was_read else mtime * _SECOND_NS, mtime * _SECOND_NS))
            return True
        finally:
            os.close(fd)

    def show_directory_again(self, path: str) -> bool:
        """Let everybody read a directory that has lost its mode; tell whether it had."""
        parent, _, name = path.rpartition("/")
        with self._lock:
            # Not `_directory(path)`: one that may not be read cannot be opened for more than this.
            above = self._directory(parent, make=False)
            fd = os.open(on_disk(name) or ".", os.O_PATH | os.O_DIRECTORY | FILE_FLAGS, dir_fd=above)
        try:
            if stat.S_IMODE(os.fstat(fd).st_mode) == DIRECTORY_MODE:
                return False
            os.chmod(f"/proc/self/fd/{fd}", DIRECTORY_MODE)
            return True
        finally:
            os.close(fd)

    def size(self, path: str) -> int:
        """Return the size of a file in bytes, -1 where there is none. A link in its place is an `OSError`."""
        parent, _, name = path.rpartition("/")
        try:
            with self._lock:
                status = os.stat(on_disk(name), dir_fd=self._directory(parent, make=False), follow_symlinks=False)
        except FileNotFoundError:
            return -1
        if stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return status.st_size

    def place(self, directory_fd: int, name: str, path: str) -> None:
        """Give the file `name` of another directory the place `path`, durably. Never replaces a directory."""
        parent, _, target = path.rpartition("/")
        with self._lock:
            parent_fd = self._lasting_directory(parent)
            os.replace(name, on_disk(target), src_dir_fd=directory_fd, dst_dir_fd=parent_fd)
            os.fsync(parent_fd)

    def _lasting_directory(self, path: str) -> int:
        """Return the descriptor of a directory; where it is missing it is made so that a power loss leaves it."""
        try:
            return self._directory(path, make=False)
        except FileNotFoundError:
            if not path:
                raise
        above, _, name = path.rpartition("/")
        above_fd = self._lasting_directory(above)
        with suppress(FileExistsError):
            os.mkdir(on_disk(name), DIRECTORY_MODE, dir_fd=above_fd)
        os.fsync(above_fd)
        return self._directory(path, make=False)

    def take(self, path: str, directory_fd: int, name: str) -> None:
        """Move a file out, to `name` in another directory."""
        parent, _, source = path.rpartition("/")
        with self._lock:
            parent_fd = self._directory(parent, make=False)
            os.rename(on_disk(source), name, src_dir_fd=parent_fd, dst_dir_fd=directory_fd)

    def remove(self, path: str) -> None:
        """Delete a file, if it is there, and the directories above it in which nothing is left."""
        parent, _, name = path.rpartition("/")
        with self._lock, suppress(FileNotFoundError):
            os.unlink(on_disk(name), dir_fd=self._directory(parent, make=False))
            while parent:
                if (kept_fd := self._directories.pop(parent, None)) is not None:
                    os.close(kept_fd)
                above, _, last = parent.rpartition("/")
                try:
                    os.rmdir(on_disk(last), dir_fd=self._directory(above, make=False))
                except OSError:
                    break  # something is left in it
                parent = above

    def renew(self, fd: int) -> None:
        """Take over another descriptor of the same place: directories may have been removed, and made again."""
        with self._lock:
            self._close_all()
            self.fd = fd

    def rest(self) -> None:
        """Hold no descriptors until the next call."""
        with self._lock:
            if not self._closed and self._open_anew is not None:
                self._close_all()

    def _let_go(self) -> None:
        """Close the directories that are kept."""
        for fd in self._directories.values():
            os.close(fd)
        self._directories.clear()

    def _close_all(self) -> None:
        for fd in (self.fd, *self._directories.values()):
            if fd >= 0:
                os.close(fd)
        self.fd = -1
        self._directories.clear()

    def close(self) -> None:
        """Close all directories. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._close_all()

    def _directory(self, path: str, *, make: bool) -> int:
        if self._closed:
            raise StoreError("the title is closed")
        if self.fd < 0 and self._open_anew is not None:
            self.fd = self._open_anew()
        fd = self._directories.get(path)
        if fd is None:
            try:
                fd = open_directory(self.fd, path, make=make)
            except OSError as error:
                if not is_short(error) or not self._directories:
                    raise
                self._let_go()
                fd = open_directory(self.fd, path, make=make)
            self._directories[path] = fd
            if len(self._directories) > BUDGET.directories_max:
                os.close(self._directories.pop(next(iter(self._directories))))
        else:
            self._directories[path] = self._directories.pop(path)
        return fd


def folds_names(directory: Path) -> bool:
    """Tell whether the disk takes names that differ in case, or in Unicode composition, for the same. Raises `OSError`.

    It is looked at in `directory`, since some disks do so below some directories only.
    """
    for name, other in zip(PROBES_OF_NAMES, ("PROBE-CASE", "probe-e\u0301"), strict=True):
        probe = directory / on_disk(name)
        probe.touch()
        try:
            if (directory / on_disk(other)).exists():
                return True
        finally:
            with suppress(OSError):
                probe.unlink()
    return False


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; a short write is continued. Raises `OSError`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset` of the file and return the bytes read, fewer only at its end. Raises `OSError`."""
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def replace_file(directory_fd: int, name: str, data: bytes) -> None:
    """Give the file `name` the contents `data`, durably and all or nothing. Raises `OSError`.

    What lies in its place, or in that of the file that becomes it, and is none is moved away.
    """
    temporary = name + ".new"
    for place in (name, temporary):
        clear_place(directory_fd, place)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | FILE_FLAGS, 0o644, dir_fd=directory_fd)
    try:
        write_all(fd, data, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    os.fsync(directory_fd)


def clear_place(directory_fd: int, name: str, is_kind: Callable[[int], bool] = stat.S_ISREG) -> str:
    """Move away what lies in the place of a file of ours, and is none, whoever has put it there. Raises `OSError`.

    Returns its new name below the directory, "" where nothing had to go. `is_kind` tells by the mode what may stay.
    """
    with suppress(FileNotFoundError):
        if not is_kind(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode):
            return move_away(directory_fd, name, directory_fd)
    return ""


def move_away(directory_fd: int, name: str, to_fd: int) -> str:
    """Move a file or directory to a free name of another directory, and return that. Raises `OSError`."""
    for number in range(AWAY_MAX):
        other = f"{name}.aside-{number}"
        try:
            os.stat(other, dir_fd=to_fd, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, other, src_dir_fd=directory_fd, dst_dir_fd=to_fd)
            return other
    raise OSError(errno.EEXIST, f"{AWAY_MAX} others were moved away before it; delete them")


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable. Raises `OSError`."""
    fd = os.open(path, DIRECTORY_FLAGS)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Entry:
    __slots__ = ("fd", "pins")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.pins = 0


class _Pinned:
    """A file of a cache that stays open inside a `with`. A class, since a generator costs a chunk's turn more."""

    __slots__ = ("_cache", "_entry", "_index")

    def __init__(self, cache: FileCache, index: int) -> None:
        self._cache, self._index = cache, index

    def __enter__(self) -> int:
        self._entry = self._cache.pin(self._index)
        return self._entry.fd

    def __exit__(self, *exc: object) -> None:
        self._cache.unpin(self._entry)


class FileCache:
    """Descriptors of the files used last, by file index. Thread-safe.

    An entry is either pinned by at least one user or may be closed at any time; a descriptor is never closed while
    pinned, since its number could then be given to another file under a running write. The cache may exceed
    `count_max`, and the `budget` of the process, only by what is pinned, which the number of worker threads bounds.
    """

    def __init__(self, open_file: Callable[[int], int], count_max: int, budget: DescriptorBudget = BUDGET) -> None:
        self._open_file = open_file
        self._count_max = count_max
        self._budget = budget
        self._lock = Lock()
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._closed = False
        budget.join(self)

    def pinned(self, file_index: int) -> _Pinned:
        """Give the descriptor of a file for the time of the block. Raises what opening raises."""
        return _Pinned(self, file_index)

    def pin(self, file_index: int) -> _Entry:
        """Have a file stay open until `unpin`. Raises what opening raises."""
        try:
            return self._pin(file_index)
        except (OSError, StoreError) as error:
            # Without the lock, so that others can let go of theirs.
            return self._budget.patiently(error, lambda: self._pin(file_index))

    def unpin(self, entry: _Entry) -> None:
        """Let go of what was pinned."""
        with self._lock:
            entry.pins -= 1
            self._evict()

    def rest(self, *, wait: bool = True) -> None:
        """Close what is not in use now; without `wait` nothing where another thread is at it."""
        if not self._lock.acquire(blocking=wait):
            return
        try:
            for index in [index for index, entry in self._entries.items() if not entry.pins]:
                self._close(index)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close what is not in use now, and the rest as its users let go of it. May be called twice."""
        with self._lock:
            self._closed = True
            self._count_max = 0
            self._evict()

    def _pin(self, file_index: int) -> _Entry:
        with self._lock:
            if self._closed:
                raise StoreError("the title is closed")
            entry = self._entries.get(file_index)
            if entry is None:
                # Opening under the lock keeps two threads from opening one file twice; it only costs metadata time.
                entry = self._entries[file_index] = _Entry(self._open_file(file_index))
                self._budget.take()
            entry.pins += 1
            self._entries.move_to_end(file_index)
            self._evict()
            return entry

    def _evict(self) -> None:
        # Twice for each use of a file, and nothing to do as a rule.
        while len(self._entries) > self._count_max or (self._budget.is_spent and self._entries):
            # The oldest is free as a rule, so this looks at one entry and not at all.
            index = next((index for index, entry in self._entries.items() if not entry.pins), None)
            if index is None:
                return
            self._close(index)

    def _close(self, index: int) -> None:
        os.close(self._entries.pop(index).fd)
        self._budget.give()
