"""What each recorded call changes on a disk, and what each sync promises.

The model of a disk, which is weaker than any file system that we know of (ALICE's, with fewer promises):

- A file has *data* (its bytes and its length) and *attributes* (mode and time), a directory has *entries*. Each is a
  domain of its own. Each change to one of them may be on the disk after a crash or not, whatever became of the others,
  until a sync covers it.
- fsync of a file covers its data and attributes, fdatasync its data, fsync of a directory its entries; none of them
  covers the entry under which the file is found. syncfs and sync cover everything. What had not returned when the sync
  was asked for is not covered. sync_file_range covers nothing.
- A rename changes two directories in one step, and is covered with either.
- A write may be torn at any multiple of 512 bytes of the file, and have made the file longer without its bytes, which
  read as zeros then. Changes to one domain that are on the disk came in their order.

Not in the model: sectors that hold something else than was ever written, and syncs that lie.
"""

from __future__ import annotations

import errno
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from bench.crashes.strace import REFUSED, Began, Call, RecordingFailed

ROOT: Final = 0
"""The inode of the directory that is recorded, which lies on the disk from the beginning."""

Domain = tuple[Literal["data", "attributes", "entries"], int]
"""And the inode."""

_UNSEEN: Final = frozenset({"writev", "pwritev", "pwritev2", "sendfile", "splice", "dup2"})
"""Calls that no part of the store makes on its files: refused, should one come."""
_TIME: Final = re.compile(r"tv_sec=(\d+), tv_nsec=(\d+)")


@dataclass(frozen=True, slots=True)
class Op:
    """One change of the disk, sync, or mark of the process. Which fields count depends on `kind`."""

    kind: Literal["link", "unlink", "rename", "write", "resize", "extend", "attributes", "sync", "mark"]
    begin: int
    end: int
    domains: tuple[Domain, ...] = ()
    """What it changes; of a sync what it covers, none for everything."""
    inode: int = -1
    directory: int = -1
    name: str = ""
    to_directory: int = -1
    to_name: str = ""
    offset: int = 0
    """Of a write; of `resize` and `extend` the length."""
    data: bytes = b""
    mode: int | None = None
    mtime_s: int | None = None
    told: Any = None
    """What a mark says."""


class Inode(NamedTuple):
    """What an inode is, which never changes."""

    kind: Literal["file", "directory", "link"]
    name: str
    """Under which it was made."""
    target: str = ""


@dataclass(slots=True)
class _Handle:
    inode: int
    position: int = 0
    appends: bool = False


@dataclass(slots=True)
class Recording:
    """All changes to one directory, in the order in which the calls returned."""

    ops: list[Op] = field(default_factory=list)
    inodes: list[Inode] = field(default_factory=lambda: [Inode("directory", "")])
    bytes_written: int = 0


class Disk:
    """Follows the calls of one process on the files below `root`; `marks` is a file into which it writes what it says.

    Raises `RecordingFailed` where it meets a call that it cannot follow.
    """

    def __init__(self, root: Path, marks: Path) -> None:
        self.recording = Recording()
        self._root = str(root)
        self._marks = str(marks)
        self._entries: dict[int, dict[str, int]] = {ROOT: {}}
        self._parents: dict[int, int] = {ROOT: ROOT}
        self._bytes: dict[int, bytearray] = {}
        self._handles: dict[int, _Handle | None] = {}
        """Descriptors of what is recorded; None is that of the marks."""
        self._call = Call("", (), 0, 0, 0)

    def follow(self, calls: Iterable[Call | Began]) -> Recording:
        """Take in all calls of a process."""
        for call in calls:
            if isinstance(call, Began):
                if call.name == "close":
                    self._handles.pop(_int(call.arguments[0]), None)
                continue
            self._call = call
            if call.name in REFUSED:
                self._refuse_hidden(call)
            elif call.name in _UNSEEN:
                self._refuse_if_ours(call)
            elif (take := getattr(self, f"_{call.name}", None)) is not None:
                take(*call.arguments)
        return self.recording

    # ---- what is found where

    def _walk(self, at: int, path: str, *, follow: bool) -> tuple[int, str, int]:
        """Return directory, name and inode (-1: none) of a path below a directory; (-1, "", -1): none of ours."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts:
            return self._parents[at], "", at
        for number, part in enumerate(parts):
            child = self._parents[at] if part == ".." else self._entries[at].get(part, -1)
            last = number == len(parts) - 1
            if child >= 0 and self.recording.inodes[child].kind == "link" and (follow or not last):
                rest = "/".join([self.recording.inodes[child].target, *parts[number + 1 :]])
                return self._walk(at, rest, follow=follow)
            if last:
                return at, part, child
            if child < 0 or self.recording.inodes[child].kind != "directory":
                return -1, "", -1
            at = child
        raise AssertionError(path)

    def _at(self, where: str | bytes, path: str | bytes, *, follow: bool = False) -> tuple[int, str, int]:
        text = _text(path)
        if text.startswith("/proc/self/fd/"):
            handle = self._handles.get(int(text.rsplit("/", 1)[1]))
            return (-1, "", -1) if handle is None else (self._parents.get(handle.inode, -1), "", handle.inode)
        if text.startswith("/"):
            if text != self._root and not text.startswith(f"{self._root}/"):
                return -1, "", -1
            return self._walk(ROOT, text.removeprefix(self._root), follow=follow)
        if where == "AT_FDCWD":
            return -1, "", -1  # the process works outside
        handle = self._handles.get(_int(where))
        return (-1, "", -1) if handle is None else self._walk(handle.inode, text, follow=follow)

    def _of(self, fd: str | bytes) -> _Handle | None:
        return self._handles.get(_int(fd))

    # ---- what changes

    def _add(self, kind: Any, *domains: Domain, **fields: Any) -> None:
        self.recording.ops.append(Op(kind, self._call.begin, self._call.end, domains, **fields))

    def _make(self, directory: int, name: str, kind: Any, target: str = "") -> int:
        inode = len(self.recording.inodes)
        self.recording.inodes.append(Inode(kind, name, target))
        if kind == "directory":
            self._entries[inode] = {}
            self._parents[inode] = directory
        elif kind == "file":
            self._bytes[inode] = bytearray()
        self._entries[directory][name] = inode
        self._add("link", ("entries", directory), directory=directory, name=name, inode=inode)
        return inode

    def _openat(self, where: str | bytes, path: str | bytes, flags: str | bytes, *_: str | bytes) -> None:
        fd, how = self._call.result, str(flags)
        self._handles.pop(fd, None)
        if _text(path) == self._marks:
            self._handles[fd] = None
            return
        directory, name, inode = self._at(where, path, follow="O_NOFOLLOW" not in how)
        if directory < 0:
            return
        if any(word in how for word in ("O_TMPFILE", "SYNC")):
            raise RecordingFailed(f"{name!r} is opened with {how}, of which nothing is known here")
        if inode < 0:
            inode = self._make(directory, name, "file")
        elif "O_TRUNC" in how and self._bytes[inode]:
            self._resize(inode, 0)
        self._handles[fd] = _Handle(inode, appends="O_APPEND" in how)

    def _mkdirat(self, where: str | bytes, path: str | bytes, *_: str | bytes) -> None:
        directory, name, _inode = self._at(where, path)
        if directory >= 0:
            self._make(directory, name, "directory")

    def _symlinkat(self, target: str | bytes, where: str | bytes, path: str | bytes) -> None:
        directory, name, _ = self._at(where, path)
        if directory >= 0:
            self._make(directory, name, "link", _text(target))

    def _unlinkat(self, where: str | bytes, path: str | bytes, *_: str | bytes) -> None:
        directory, name, inode = self._at(where, path)
        if directory >= 0:
            del self._entries[directory][name]
            self._add("unlink", ("entries", directory), directory=directory, name=name, inode=inode)

    def _renameat(self, where: str | bytes, path: str | bytes, to: str | bytes, to_path: str | bytes, *_: Any) -> None:
        directory, name, inode = self._at(where, path)
        to_directory, to_name, _replaced = self._at(to, to_path)
        if directory < 0 and to_directory < 0:
            return
        if directory < 0 or to_directory < 0:
            raise RecordingFailed(f"{name or to_name!r} is renamed into what is recorded, or out of it")
        del self._entries[directory][name]
        self._entries[to_directory][to_name] = inode
        if inode in self._parents:
            self._parents[inode] = to_directory
        self._add(
            "rename", ("entries", directory), ("entries", to_directory), directory=directory, name=name, inode=inode,
            to_directory=to_directory, to_name=to_name,
        )  # fmt: skip

    def _linkat(self, *arguments: str | bytes) -> None:
        where, path, to, to_path, *_ = arguments
        if self._at(where, path)[0] >= 0 or self._at(to, to_path)[0] >= 0:
            raise RecordingFailed(f"{path!r} is linked: hard links are none of the store's")

    def _written(self, inode: int, offset: int, data: bytes) -> None:
        held = self._bytes[inode]
        if offset > len(held):
            held.extend(bytes(offset - len(held)))
        held[offset : offset + len(data)] = data
        self.recording.bytes_written += len(data)
        self._add("write", ("data", inode), inode=inode, offset=offset, data=data)

    def _resize(self, inode: int, size: int) -> None:
        held = self._bytes[inode]
        del held[size:]
        held.extend(bytes(size - len(held)))
        self._add("resize", ("data", inode), inode=inode, offset=size)

    def _pwrite64(self, fd: str | bytes, data: str | bytes, _count: Any, offset: str | bytes) -> None:
        if (handle := self._of(fd)) is not None:
            self._written(handle.inode, _int(offset), _bytes(data)[: self._call.result])

    def _write(self, fd: str | bytes, data: str | bytes, _count: Any) -> None:
        number = _int(fd)
        if number not in self._handles:
            return
        handle = self._handles[number]
        if handle is None:
            self._add("mark", told=msgspec.json.decode(_bytes(data)))
            return
        at = len(self._bytes[handle.inode]) if handle.appends else handle.position
        self._written(handle.inode, at, _bytes(data)[: self._call.result])
        handle.position = at + self._call.result

    def _lseek(self, fd: str | bytes, *_: Any) -> None:
        if (handle := self._of(fd)) is not None:
            handle.position = self._call.result

    def _ftruncate(self, fd: str | bytes, size: str | bytes) -> None:
        if (handle := self._of(fd)) is not None:
            self._resize(handle.inode, _int(size))

    def _truncate(self, path: str | bytes, size: str | bytes) -> None:
        directory, _, inode = self._at("AT_FDCWD", path, follow=True)
        if directory >= 0:
            self._resize(inode, _int(size))

    def _fallocate(self, fd: str | bytes, mode: str | bytes, offset: str | bytes, length: str | bytes) -> None:
        if (handle := self._of(fd)) is not None:
            if mode != "0":
                raise RecordingFailed(f"fallocate with mode {mode!r}, of which nothing is known here")
            held, size = self._bytes[handle.inode], _int(offset) + _int(length)
            held.extend(bytes(max(0, size - len(held))))
            self._add("extend", ("data", handle.inode), inode=handle.inode, offset=size)

    def _copy_file_range(self, *arguments: str | bytes) -> None:
        source, from_at, target, to_at, *_ = arguments
        into, out_of = self._of(target), self._of(source)
        if into is None:
            return
        if out_of is None:
            raise RecordingFailed("bytes are copied into what is recorded from outside")
        start, count = _int(_inside(from_at)), self._call.result
        self._written(into.inode, _int(_inside(to_at)), bytes(self._bytes[out_of.inode][start : start + count]))

    # ---- modes and times

    def _show(self, inode: int, mode: int | None, mtime_s: int | None) -> None:
        self._add("attributes", ("attributes", inode), inode=inode, mode=mode, mtime_s=mtime_s)

    def _fchmod(self, fd: str | bytes, mode: str | bytes) -> None:
        if (handle := self._of(fd)) is not None:
            self._show(handle.inode, stat.S_IMODE(int(str(mode), 8)), None)

    def _fchmodat(self, where: str | bytes, path: str | bytes, mode: str | bytes, *_: Any) -> None:
        directory, _name, inode = self._at(where, path, follow=True)
        if directory >= 0:
            self._show(inode, stat.S_IMODE(int(str(mode), 8)), None)

    def _chmod(self, path: str | bytes, mode: str | bytes) -> None:
        self._fchmodat("AT_FDCWD", path, mode)

    def _utimensat(self, where: str | bytes, path: str | bytes, times: str | bytes, *_: Any) -> None:
        found = _TIME.findall(str(times))
        if len(found) < 2:
            return  # now: nothing of the store relies on such a time
        if path == "NULL":
            handle = self._of(where)
            inode = -1 if handle is None else handle.inode
        else:
            inode = self._at(where, path, follow=True)[2]
        if inode >= 0:
            self._show(inode, None, int(found[1][0]))

    # ---- what is durable

    def _fsync(self, fd: str | bytes) -> None:
        if (handle := self._of(fd)) is not None:
            inode = handle.inode
            is_directory = self.recording.inodes[inode].kind == "directory"
            self._add("sync", ("entries" if is_directory else "data", inode), ("attributes", inode))

    def _fdatasync(self, fd: str | bytes) -> None:
        if (handle := self._of(fd)) is not None:
            is_directory = self.recording.inodes[handle.inode].kind == "directory"
            self._add("sync", ("entries" if is_directory else "data", handle.inode))

    def _syncfs(self, fd: str | bytes) -> None:
        if self._of(fd) is not None:
            self._add("sync")

    def _sync(self) -> None:
        self._add("sync")

    # ---- descriptors, and older names of calls

    def _dup(self, fd: str | bytes, *_: Any) -> None:
        self._handles.pop(self._call.result, None)
        if _int(fd) in self._handles:
            self._handles[self._call.result] = self._handles[_int(fd)]

    def _dup3(self, fd: str | bytes, *_: Any) -> None:
        self._dup(fd)

    def _fcntl(self, fd: str | bytes, command: str | bytes, *_: Any) -> None:
        if command in ("F_DUPFD", "F_DUPFD_CLOEXEC"):
            self._dup(fd)

    def _open(self, path: str | bytes, flags: str | bytes, *_: Any) -> None:
        self._openat("AT_FDCWD", path, flags)

    def _creat(self, path: str | bytes, *_: Any) -> None:
        self._openat("AT_FDCWD", path, "O_WRONLY|O_CREAT|O_TRUNC")

    def _mkdir(self, path: str | bytes, *_: Any) -> None:
        self._mkdirat("AT_FDCWD", path)

    def _symlink(self, target: str | bytes, path: str | bytes) -> None:
        self._symlinkat(target, "AT_FDCWD", path)

    def _unlink(self, path: str | bytes) -> None:
        self._unlinkat("AT_FDCWD", path)

    _rmdir = _unlink

    def _rename(self, path: str | bytes, to_path: str | bytes) -> None:
        self._renameat("AT_FDCWD", path, "AT_FDCWD", to_path)

    def _renameat2(self, where: Any, path: Any, to: Any, to_path: Any, flags: Any) -> None:
        if "EXCHANGE" in flags:
            raise RecordingFailed("renames that exchange are none of the store's")
        self._renameat(where, path, to, to_path)

    def _link(self, path: str | bytes, to_path: str | bytes) -> None:
        self._linkat("AT_FDCWD", path, "AT_FDCWD", to_path)

    # ---- what would be missed

    def _refuse_hidden(self, call: Call) -> None:
        text = " ".join(map(str, call.arguments))
        if call.name == "mmap":
            shared = "MAP_SHARED" in text and "PROT_WRITE" in text and "MAP_ANONYMOUS" not in text
            hidden = shared and self._of(call.arguments[4]) is not None
        else:
            shares = "CLONE_THREAD" in text or not self._handles
            hidden = call.name in ("io_uring_setup", "openat2") or not shares
        if hidden:
            raise RecordingFailed(f"the process calls {call.name}, behind which its writes cannot be seen")

    def _refuse_if_ours(self, call: Call) -> None:
        number = 2 if call.name == "splice" else 0
        if _int(call.arguments[number]) in self._handles:
            raise RecordingFailed(f"the process calls {call.name} on what is recorded, which is not followed here")


def _text(path: str | bytes) -> str:
    return path.decode(errors="surrogateescape") if isinstance(path, bytes) else path


def _bytes(data: str | bytes) -> bytes:
    if not isinstance(data, bytes):
        raise RecordingFailed(f"bytes that are written were not recorded: {data[:80]}")
    return data


def _int(word: str | bytes) -> int:
    try:
        return int(str(word), 0)
    except ValueError:
        return -errno.EBADF  # AT_FDCWD and the like


def _inside(word: str | bytes) -> str:
    """Return the number in brackets, as an offset is shown that is passed by its address."""
    return re.sub(r"[\[\]]| => .*", "", str(word))
