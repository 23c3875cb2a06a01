"""Compiles a function when it is first called, and keeps what came of it on disk, where there is a place for it.

Compiling takes some seconds, more than most plans do. numba can keep machine code on disk, but knows only whether the
file of a function has changed, and not those that it calls; beside an installed package it can often not be written,
and where no place can be found it raises. So what is kept lies in the user's cache directory, under a name that stands
for all sources of this package, and is looked through first: numba ends at a file that a crash of the machine has cut
short, each time anew. Where no place can be had, each process compiles, and where there is one that later refuses, as
when the disk is full, what was compiled is used all the same.
"""

from __future__ import annotations

import hashlib
import os
import pickletools
import shutil
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

OPTIONS: Final = {"nogil": True, "error_model": "numpy", "_nrt": False}
"""`_nrt`: no counting of references, which takes a third of the compile time and half of the running time where
records of many arrays are handed around."""


def compiled(function: Function) -> Function:
    """Return `function` in machine code that numba makes of it for the types of the first call.

    It may not make arrays or other objects: it gets the room that it needs as an argument.
    """
    directory = _cache_directory()
    if directory:
        config = cast(Any, numba).config
        before = config.CACHE_DIR
        config.CACHE_DIR = directory
        try:
            made = cast(Any, njit)(**OPTIONS, cache=True)(function)
            made._cache = _Kept(made._cache)
            return cast(Function, made)
        except (RuntimeError, OSError):
            pass  # no place that numba takes
        finally:
            config.CACHE_DIR = before
    return cast(Function, cast(Any, njit)(**OPTIONS)(function))


class _Kept:
    """What numba keeps of a function on disk. The planner works without, but numba lets what a disk refuses end the
    call that compiled.
    """

    def __init__(self, kept: Any) -> None:
        self._kept = kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kept, name)

    def load_overload(self, *what: Any) -> Any:
        """Return what was kept for some types; None: nothing that can be read."""
        with suppress(OSError):
            return self._kept.load_overload(*what)
        return None

    def save_overload(self, *what: Any) -> None:
        """Keep machine code, if the disk takes it."""
        with suppress(OSError):
            self._kept.save_overload(*what)


@lru_cache(maxsize=1)
def _cache_directory() -> str:
    """Return where machine code of just these sources is kept; empty: nowhere."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(home):
        return ""
    digest = hashlib.sha256(numba.__version__.encode())
    try:
        for source in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(source.read_bytes())
        directory = Path(home) / "p2pfill" / f"placement-{digest.hexdigest()[:16]}"
        if not is_whole(directory):
            shutil.rmtree(directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return ""
    return str(directory)


def is_whole(directory: Path) -> bool:
    """Tell whether each file of numba's below a directory is what it was written as: one pickle or more, none of which
    is run here.
    """
    for path in directory.rglob("*.nb?"):
        with path.open("rb") as opened:
            found = 0
            try:
                while opened.peek(1):
                    deque(pickletools.genops(opened), maxlen=0)
                    found += 1
            except (ValueError, EOFError, IndexError, UnicodeDecodeError):
                return False
        if not found:
            return False
    return True
