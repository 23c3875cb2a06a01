"""Whose a data directory is: what others can change there, they can have served.

A node trusts what it finds in DATA, and makes and renames files there. So DATA and the directories in it must be the
node's user's, or root's, who can change them anyway, and not writable by everybody. The sticky bit of a directory keeps
others from renaming what is in it, so with it they can only fill the disk: that is said, and no more. A group that may
write was given that right on purpose, as volumes of containers are to the group of their processes: it is said too.

DATA itself may be a link, of the node's user or root; where it leads is looked at like any directory.
"""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from p2pfill.errors import ConfigError

PLACES: Final = ("filling", "titles", "live")
"""The directories of DATA."""

KEEPS: Final = ("numbers", "orders", "orders/names")
"""Those that are made when there is something to keep in them: by what is there older versions are refused."""


def check_owner(root: Path) -> list[str]:
    """Return what a person should know of who may write to a data directory. Raises `ConfigError`, `OSError`.

    What is not there yet is passed over.
    """
    remarks: list[str] = []
    with suppress(FileNotFoundError):
        link = os.lstat(root)
        if stat.S_ISLNK(link.st_mode) and not is_trusted(link.st_uid):
            raise ConfigError(
                f"data directory {str(root)!r} is a link of {user_name(link.st_uid)}, who can lead it elsewhere; "
                f"make the link as {user_name(os.geteuid())}, or name the directory itself"
            )
    for path in (root, *(root / name for name in (*PLACES, *KEEPS))):
        with suppress(FileNotFoundError, NotADirectoryError):
            status = os.stat(path)
            # As root an administrator looks after a node that runs as a user of its own.
            first = f"run this as that user (sudo -u {_for_sudo(status.st_uid)}), or, " if os.geteuid() == 0 else ""
            if wrong := why_untrusted(str(path), status, first if path == root else ""):
                raise ConfigError(f"cannot use {str(root)!r} as data directory: {wrong}")
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISDIR(status.st_mode) and mode & (stat.S_IWGRP | stat.S_IWOTH):
                who = "everybody" if mode & stat.S_IWOTH else f"group {status.st_gid}"
                remarks.append(
                    f"{str(path)!r} has mode {mode:04o}: {who} can put files there; unless that is meant: "
                    f"chmod go-w {path}"
                )
    return remarks


def why_untrusted(path: str, status: os.stat_result, first: str = "") -> str:
    """Return why what is found there cannot be relied on, and what to do, `first` at first; empty where it can."""
    mode = stat.S_IMODE(status.st_mode)
    said = f"{path!r} belongs to {user_name(status.st_uid)} and has mode {mode:04o}"
    if not is_trusted(status.st_uid):
        return (
            f"{said}, but the node runs as {user_name(os.geteuid())}; {first}if all in it is to be "
            f"trusted: chown -R {os.geteuid()} {path}"
        )
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return f"{said}, so everybody can change what is in it; if all in it is to be trusted: chmod -R o-w {path}"
    return ""


def is_trusted(uid: int) -> bool:
    """Tell whether what belongs to a user is this process's own, or root's."""
    return uid in (os.geteuid(), 0)


def _for_sudo(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"'#{uid}'"


def user_name(uid: int) -> str:
    """Return how a user is called for people."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return f"user {uid}"
