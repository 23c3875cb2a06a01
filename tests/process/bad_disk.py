"""A disk that fails when a test says so, for real: what it has taken it cannot make durable, or it turns read-only.

A file system of its own lies on a loop device whose backing file is sparse, on a small tmpfs. Where that has no room
left the file system takes writes into memory, and fdatasync, fsync and syncfs fail, as over a thin volume that is full
or a disk whose sectors are bad: the kernel drops the pages and says so once. Takes root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MIB = 1024 * 1024
ROOM_MIB = 48
"""Of the tmpfs: what the disk can hold in all."""
SIZE_MIB = 64


def run(*words: str) -> str:
    """Run a command and return what it prints; skip the test where it is refused."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk can be made here that fails: {done.stderr.strip()}")
    return done.stdout.strip()


class BadDisk:
    """A file system at `place`, which is well at first."""

    def __init__(self, directory: Path, place: Path) -> None:
        if os.geteuid() != 0 or not all(map(shutil.which, ("mkfs.ext4", "losetup", "mount"))):
            lacking = "a disk that fails takes root, and ext4 and loop devices with their tools (e2fsprogs, util-linux)"
            if os.environ.get("CI", "").lower() == "true":
                pytest.fail(lacking)
            pytest.skip(lacking)
        self.place, self._below, self._loop, self._mounted = place, directory / "below", "", False
        self._ballast = self._below / "ballast"
        self._below.mkdir()
        place.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", f"size={ROOM_MIB}m", "tmpfs", str(self._below))
        try:
            image = self._below / "image"
            image.touch()
            os.truncate(image, SIZE_MIB * MIB)
            # Without a journal, since one that cannot be written ends a file system for good.
            run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", str(image))
            self._loop = run("losetup", "-f", "--show", str(image))
            run("mount", "-o", "errors=continue", self._loop, str(place))
            self._mounted = True
        except BaseException:
            self.close()
            raise

    def fail(self) -> None:
        """Make nothing durable from now on but what has its place already."""
        with self._ballast.open("wb") as file:
            status = os.statvfs(self._below)
            os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize))

    def heal(self) -> None:
        """Be well again."""
        self._ballast.unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        """Make it read-only (`ro`), where nothing is open to be written, or writable again (`rw`)."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.place)], check=True)

    def forget(self) -> None:
        """Mount it anew: what is read then comes from the disk."""
        subprocess.run(["umount", str(self.place)], check=True)
        subprocess.run(["mount", self._loop, str(self.place)], check=True)

    def close(self) -> None:
        """Unmount and remove all of it."""
        self.heal()
        if self._mounted:
            subprocess.run(["umount", "--lazy", str(self.place)], check=True)
        if self._loop:
            subprocess.run(["losetup", "-d", self._loop], check=True)
        subprocess.run(["umount", "--lazy", str(self._below)], check=True)
