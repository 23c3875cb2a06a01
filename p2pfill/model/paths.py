"""Which file paths a title may name.

A manifest comes from elsewhere and its paths are created on our disk, so they are held to rules under which no
path can leave the title's directory, mean two things, or collide with another on any usual file system:
relative, '/'-separated, no empty, '.' or '..' component, no control character, valid UTF-8, bounded lengths.
Names that differ only in letter case or in Unicode composition are refused together, because a cache on a
case-insensitive file system would silently write one over the other. Directories may differ in case only:
merged, they still hold every file. Rewriting bad paths was rejected: a title must read the same everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
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
        raise ManifestError(f"path {show(whole)} is not valid UTF-8") from error
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


def check_collisions(paths: Sequence[str]) -> None:
    """Check that no two of `paths` (each already safe) collide and that none is a directory of another.

    Raises `ManifestError` naming both.
    """
    keys = {collision_key(path) for path in paths}
    if len(keys) < len(paths) or not keys.isdisjoint(_directories(keys)):
        _name_collision(paths)


def _directories(keys: Iterable[str]) -> set[str]:
    """Return all that files with these keys lie in, at any depth."""
    found: set[str] = set()
    for key in keys:
        directory = key.rpartition("/")[0]
        # Whoever is in has brought those above along.
        while directory and directory not in found:
            found.add(directory)
            directory = directory.rpartition("/")[0]
    return found


def _name_collision(paths: Sequence[str]) -> None:
    """Raise `ManifestError` for the first two paths that collide.

    '/' is sorted as the lowest character, which no safe path contains otherwise: everything below a path
    then follows it directly, so looking at neighbours is enough.
    """
    keyed = sorted((collision_key(path).replace("/", "\x00"), path) for path in paths)
    for (key, path), (key_next, path_next) in pairwise(keyed):
        if path == path_next:
            raise ManifestError(f"path {show(path)} is listed twice")
        if key == key_next:
            raise ManifestError(
                f"paths {show(path)} and {show(path_next)} differ only in case or Unicode composition; rename one"
            )
        if key_next.startswith(key + "\x00"):
            raise ManifestError(f"path {show(path)} is a file and also a directory of {show(path_next)}")
