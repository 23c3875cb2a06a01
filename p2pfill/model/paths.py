"""Which file paths a title may name.

A manifest comes from elsewhere and its paths are created on our disk, so they are held to rules under which no
path can leave the title's directory or mean two things: relative, '/'-separated, no empty, '.' or '..' component,
no control character, valid UTF-8, bounded lengths, and no file is a directory of another.
Names that differ only in letter case or in Unicode composition are two names, as in the tree of a Linux kernel. A cache
whose disk takes them for one would silently write one over the other, so it looks for such pairs (`find_collision`)
before it begins a fill. Rewriting bad paths was rejected: a title must read the same everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from p2pfill.errors import ManifestError
from p2pfill.model import limits

PATH_DEPTH_MAX: Final = 64
"""Components of a path. Deeper than any real tree; keeps a directory per component affordable."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SHOWN_CHARS_MAX: Final = 120

_COMPONENT: Final = rf"(?!\.\.?(?:/|\Z))[ -.0-~]{{1,{limits.PATH_COMPONENT_BYTES_MAX}}}"
_PLAIN: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT}){{0,{PATH_DEPTH_MAX - 1}}}")
"""Paths of printable ASCII that break no rule: nearly all, and a title may have a million."""


def show(text: str) -> str:
    """Return `text` quoted, escaped and shortened for an error message."""
    quoted = ascii(text[: _SHOWN_CHARS_MAX + 1]) if not text.isprintable() else repr(text[: _SHOWN_CHARS_MAX + 1])
    return quoted if len(text) <= _SHOWN_CHARS_MAX else quoted[:_SHOWN_CHARS_MAX] + "…"


def check_component(text: str, whole: str) -> None:
    """Check one component of the path (or the title name) `whole`. Raises `ManifestError` naming `whole`."""
    if text in ("", ".", ".."):
        raise ManifestError(f"path {show(whole)} is unsafe: it has the component {text!r}")
    if "/" in text:
        raise ManifestError(f"{show(whole)} must not contain '/'")
    if _CONTROL.search(text):
        raise ManifestError(f"path {show(whole)} is unsafe: it has a control character")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ManifestError(f"path {show(whole)} is not valid UTF-8; rename it") from error
    if size > limits.PATH_COMPONENT_BYTES_MAX:
        raise ManifestError(
            f"path {show(whole)} has a component of {size} bytes; at most {limits.PATH_COMPONENT_BYTES_MAX} are allowed"
        )


def check_path(path: str) -> None:
    """Check that `path` is safe to create below a title's directory. Raises `ManifestError` naming it."""
    if len(path) <= limits.PATH_BYTES_MAX and _PLAIN.fullmatch(path):
        return
    check_path_by_parts(path)


def check_path_by_parts(path: str) -> None:
    """Do what `check_path` does, for any path: a fifth as fast, and it knows what to complain of."""
    if path.startswith("/"):
        raise ManifestError(f"path {show(path)} is absolute")
    if len(path) > limits.PATH_BYTES_MAX:
        raise ManifestError(f"path {show(path)} is longer than {limits.PATH_BYTES_MAX} bytes")
    components = path.split("/")
    if len(components) > PATH_DEPTH_MAX:
        raise ManifestError(f"path {show(path)} has {len(components)} components; at most {PATH_DEPTH_MAX} are allowed")
    for component in components:
        check_component(component, path)
    if len(path.encode()) > limits.PATH_BYTES_MAX:
        raise ManifestError(f"path {show(path)} is longer than {limits.PATH_BYTES_MAX} bytes")


def collision_key(path: str) -> str:
    """Return a text that is equal for paths which some file system could take for the same.

    Canonical caseless matching of the Unicode standard (section 3.13, D145), composed at the end.
    """
    if path.isascii():
        # Itself where it can be: of a million paths the copies would be the larger part.
        return path if path.islower() else path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def check_tree(files: Sequence[str], directories: Sequence[str]) -> None:
    """Check that no file is a directory of another entry, and that nothing lies in `directories`, the empty ones.

    All paths are safe already, and none is listed twice among its kind. Raises `ManifestError` naming both.
    """
    parents, empty = directories_of(chain(files, directories)), set(directories)
    if not (parents.isdisjoint(files) and parents.isdisjoint(empty) and empty.isdisjoint(files)):
        raise _conflict(files, directories)


def find_collision(files: Sequence[str], directories: Sequence[str]) -> tuple[str, str] | None:
    """Return two paths of a title that are one to a disk which does not tell case or composition apart; None: no such.

    Directories may differ so: merged, they still hold every file.
    """
    found: dict[str, str] = {}
    for path in files:
        if (other := found.setdefault(collision_key(path), path)) != path:
            return other, path
    for directory in sorted(directories_of(chain(files, directories)).union(directories)):
        if (other := found.get(collision_key(directory), "")):
            return other, directory
    return None


def directories_of(paths: Iterable[str]) -> set[str]:
    """Return all that these lie in, at any depth. Raises `ManifestError` where that is too much."""
    found: set[str] = set()
    size = 0
    for path in paths:
        directory = path.rpartition("/")[0]
        # One that is in has brought those above along.
        while directory and directory not in found:
            found.add(directory)
            size += len(directory)
            if size > limits.DIRECTORY_BYTES_MAX or len(found) > limits.DIRECTORY_COUNT_MAX:
                raise ManifestError(
                    f"there are too many directories: at most {limits.DIRECTORY_COUNT_MAX} are allowed, with paths of "
                    f"{limits.DIRECTORY_BYTES_MAX} bytes in all"
                )
            directory = directory.rpartition("/")[0]
    return found


def _conflict(files: Sequence[str], directories: Sequence[str]) -> ManifestError:
    """Return what is wrong with the first two entries that exclude each other."""
    names, empty = set(files), set(directories)
    for path in chain(files, directories):
        for above in sorted(directories_of([path])):
            if above in empty:
                return ManifestError(f"directory {show(above)} is listed as empty, but {show(path)} lies in it")
            if above in names:
                return ManifestError(f"path {show(above)} is a file and also a directory of {show(path)}")
    return ManifestError(f"path {show(min(names & empty))} is a file and also a directory")
