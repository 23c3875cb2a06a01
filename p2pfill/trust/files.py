"""Writing files of which a crash leaves the old contents or the new, and keys that nobody else can ever read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PRIVATE_MODE: Final = 0o600
PRIVATE_DIRECTORY_MODE: Final = 0o700
PUBLIC_MODE: Final = 0o644

STAGED: Final = ".new"
"""Ends the name of a file that is not shown yet."""


def stage_file(path: Path, data: bytes, *, mode: int = PUBLIC_MODE) -> Path:
    """Write `data` durably beside `path`, with `mode` from the first byte; return where. Raises `OSError`."""
    staged = path.with_name(path.name + STAGED)
    # One that a crash has left may have another mode, or be a link to elsewhere.
    staged.unlink(missing_ok=True)
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    except OSError as error:
        # Which says what, as of a disk that is full, but not where.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(fd)
    return staged


def show_file(staged: Path) -> None:
    """Give a staged file its name, durably. Raises `OSError`."""
    os.replace(staged, staged.with_name(staged.name.removesuffix(STAGED)))
    sync_directory(staged.parent)


def replace_file(path: Path, data: bytes, *, mode: int = PUBLIC_MODE) -> None:
    """Give a file new contents, durably and all or nothing; one that has them is left alone. Raises `OSError`."""
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    show_file(stage_file(path, data, mode=mode))


def make_private_directory(path: Path) -> None:
    """Make a directory that is its owner's alone, durably, unless there is one. Raises `OSError`."""
    try:
        os.mkdir(path, PRIVATE_DIRECTORY_MODE)
    except FileExistsError:
        return
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
