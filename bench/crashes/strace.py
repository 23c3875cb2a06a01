"""Runs a process under strace and reads what it asked of the kernel that changes files.

strace sees each call with all of its bytes, whoever makes it: Python, our native module, SQLite. It does not see what
is written through a mapping of a file, or by io_uring. A process that asks for either, or that starts another process
once it has a file open that is recorded, is refused (`RecordingFailed`) instead of recorded in part.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from p2pfill.errors import P2PFillError

CHANGING: Final = (
    "openat", "open", "creat", "write", "pwrite64", "writev", "pwritev", "pwritev2", "truncate", "ftruncate",
    "fallocate", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat",
    "rmdir", "mkdir", "mkdirat", "chmod", "fchmod", "fchmodat", "utimensat", "copy_file_range", "sendfile", "splice",
    "lseek", "fsync", "fdatasync", "syncfs", "sync", "sync_file_range", "close", "dup", "dup2", "dup3", "fcntl",
)  # fmt: skip
REFUSED: Final = ("mmap", "io_uring_setup", "fork", "vfork", "clone", "clone3", "openat2")
"""What would hide writes from us, if it is asked for in certain ways."""

STRING_BYTES_MAX: Final = 1 << 22
"""Of one call: far more than a chunk of what is recorded; what is cut shorter is refused."""

RUN_S_MAX: Final = 300.0

HERE: Final = Path(__file__).parents[2]
"""The root of the repository, in which a recorded process finds this package; it works on absolute paths."""

_TEXT: Final = re.compile(r'"([^"]*)"(\.\.\.)?')
_LINE: Final = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)", re.DOTALL)
_FORK: Final = re.compile(r"(\d+) +(?:<\.\.\. (?=v?fork|clone)(\w+) resumed>|v?fork\(|clone3?\()(.*)", re.DOTALL)
_UNFINISHED: Final = " <unfinished ...>"
_END: Final = re.compile(r"\) += (-?\d+|\?|0x[0-9a-f]+)(?: .*)?$", re.DOTALL)


class RecordingFailed(P2PFillError):
    """A process cannot be recorded, or what was recorded cannot be understood."""


class Call(NamedTuple):
    """One call that succeeded. `begin` and `end` are lines of the log: when it was asked, and when it returned."""

    name: str
    arguments: tuple[str | bytes, ...]
    result: int
    begin: int
    end: int


class Began(NamedTuple):
    """A call is asked. From here on the number of a descriptor that is closed may be given away again."""

    name: str
    arguments: tuple[str | bytes, ...]


def find_strace() -> str | None:
    """Return its path; None where it is not installed."""
    return shutil.which("strace")


def record(command: Sequence[str], log: Path) -> None:
    """Run a command to its end under strace. Raises `RecordingFailed` where it fails, or strace may not."""
    traced = ",".join((*CHANGING, *REFUSED))
    options = ["-f", "-qq", "--seccomp-bpf", "-xx", "-s", str(STRING_BYTES_MAX), "-e", "signal=none"]
    done = subprocess.run(
        ["strace", *options, "-e", f"trace={traced}", "-o", str(log), *command],
        capture_output=True, text=True, timeout=RUN_S_MAX, check=False, cwd=HERE,
    )  # fmt: skip
    if done.returncode:
        raise RecordingFailed(f"{' '.join(command[:4])} ended with {done.returncode}: {done.stderr[-2000:]}")


def read(log: Path) -> Iterator[Call | Began]:
    """Yield the calls of a log: each `Began` where it was asked, and its `Call` where it returned, if it succeeded.

    Raises `RecordingFailed`.
    """
    asked: dict[str, tuple[str, str, int]] = {}
    children = _children(log)
    with log.open(encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines):
            found = _LINE.match(line.rstrip("\n"))
            if found is None:
                continue  # how a thread ended
            thread, resumed, name, rest = found.groups()
            if thread in children:
                continue
            if resumed:
                name, before, begin = asked.pop(thread)
                rest = before + rest
            else:
                begin = number
            if rest.endswith(_UNFINISHED):
                asked[thread] = name, rest.removesuffix(_UNFINISHED), number
                yield Began(name, _arguments(rest.removesuffix(_UNFINISHED)))
                continue
            end = _END.search(rest)
            if end is None:
                raise RecordingFailed(f"line {number + 1} of the log cannot be read: {line[:200]}")
            arguments = _arguments(rest[: end.start()])
            if not resumed:
                yield Began(name, arguments)
            if end[1] != "?" and not end[1].startswith("-"):
                yield Call(name, arguments, int(end[1], 0), begin, number)


def _children(log: Path) -> set[str]:
    """Return the processes that were started by the recorded one, which share no descriptors with it."""
    found: set[str] = set()
    forks: set[str] = set()
    """Threads that are about to be told the number of a child."""
    with log.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            if (call := _FORK.match(line)) is None:
                continue
            thread, resumed, rest = call.groups()
            if "CLONE_THREAD" in rest:
                continue
            if rest.rstrip("\n").endswith(_UNFINISHED):
                forks.add(thread)
            elif not resumed or thread in forks:
                forks.discard(thread)
                if (end := _END.search(rest.rstrip("\n"))) is not None:
                    found.add(end[1])
    return found


def _arguments(text: str) -> tuple[str | bytes, ...]:
    """Split the arguments of a call; texts become bytes, structures stay as they are written."""
    texts: list[bytes] = []

    def keep(found: re.Match[str]) -> str:
        if found[2]:
            raise RecordingFailed("a call has more bytes than are recorded")
        texts.append(bytes.fromhex(found[1].replace("\\x", "")))
        return f'"{len(texts) - 1}"'

    parts: list[str] = []
    depth = 0
    for piece in re.split(r"(, |[\[\]{}()])", _TEXT.sub(keep, text)):
        depth += (piece in "[{(") - (piece in "]})") if piece and len(piece) == 1 else 0
        if piece == ", " and not depth:
            parts.append("")
        elif parts:
            parts[-1] += piece
        elif piece:
            parts.append(piece)
    found = (_TEXT.fullmatch(part) for part in parts)
    return tuple(part if one is None else texts[int(one[1])] for part, one in zip(parts, found, strict=True))
