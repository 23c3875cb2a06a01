"""Some files of a title: named by people in patterns, and from then on a bit for each of the title's files.

None stands for all files, so that whoever wants whole titles keeps nothing. The chunks of a selection are those that
hold a byte of one of its files; a chunk may hold bytes of other files too, since small files share chunks
(`model.cut`), and is fetched whole, because only whole chunks can be verified.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from itertools import repeat
from operator import mul
from typing import Final

from p2pfill.errors import ConfigError, ManifestError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.files import Files
from p2pfill.model.manifest import Manifest
from p2pfill.model.paths import show

PATTERNS_MAX: Final = 10_000
"""Several times the files of an episode in all its renditions."""

PATTERN_CHARS_MAX: Final = 4096
"""As long as a path may be."""

WILDCARDS_MAX: Final = 64
"""Patterns that are more than a path or a directory: each is tried on every file, of which there may be a million."""

_FLAG: Final = (b"\0", b"\1")

_WILD: Final = re.compile(r"[*?[]")


def check_patterns(patterns: Sequence[str]) -> None:
    """Raise `ConfigError` where there are too many patterns, or one is no pattern."""
    if len(patterns) > PATTERNS_MAX:
        raise ConfigError(f"{len(patterns)} files are named: at most {PATTERNS_MAX} are allowed; use patterns")
    wild = sum(_WILD.search(pattern) is not None for pattern in patterns)
    if wild > WILDCARDS_MAX:
        raise ConfigError(f"{wild} patterns have wildcards: at most {WILDCARDS_MAX} are allowed")
    for pattern in patterns:
        if not 0 < len(pattern) <= PATTERN_CHARS_MAX:
            raise ConfigError(f"a file is named by 1 to {PATTERN_CHARS_MAX} characters, not {len(pattern)}")


def select(files: Files, patterns: Sequence[str]) -> Bitmap | None:
    """Return the files that some pattern means, a bit for each file; None: all.

    A pattern is the path of a file, a directory with a slash at its end, or has the wildcards of a shell, where `*`
    stands for any characters, slashes too; a path that has wildcards in it means itself besides. Raises `ConfigError`
    for one that means no file of the title.
    """
    check_patterns(patterns)
    found = Bitmap(len(files))
    # Also those with the signs of wildcards in them, which a path may have.
    plain = {pattern for pattern in patterns if not pattern.endswith("/")}
    directories = {pattern for pattern in patterns if pattern.endswith("/")}
    wild = [(pattern, re.compile(translate(pattern)).match) for pattern in patterns if _WILD.search(pattern)]
    unused = set(patterns)
    for index, (path, *_) in enumerate(files.records()):
        meant = [path] if path in plain else []
        meant += [above for above in _above(path) if above in directories] if directories else []
        meant += [pattern for pattern, matches in wild if matches(path)]
        if meant:
            found.add(index)
            unused.difference_update(meant)
    if unused:
        named = show(min(unused))
        more = f", nor {len(unused) - 1} more" if len(unused) > 1 else ""
        near = _near(files, min(unused))
        hint = f"did you mean {show(near)}?" if near else "p2pfill files lists them"
        raise ConfigError(f"no file of the title is meant by {named}{more}; {hint}")
    return as_selection(found)


def _near(files: Files, pattern: str) -> str:
    """Return the file or directory that a pattern spells but for case, and slashes around it; empty where none does."""
    wanted = pattern.removeprefix("./").strip("/").casefold()
    for path, *_ in files.records():
        if path.casefold().startswith(wanted):
            for one in (path, *_above(path)):
                if one.rstrip("/").casefold() == wanted:
                    return one
    return ""


def _above(path: str) -> Iterable[str]:
    at = path.find("/")
    while at >= 0:
        yield path[: at + 1]
        at = path.find("/", at + 1)


def as_selection(chosen: Bitmap) -> Bitmap | None:
    """Return a bit for each file as a selection: None where all are chosen."""
    return None if chosen.all() else chosen


def union(one: Bitmap | None, other: Bitmap | None) -> Bitmap | None:
    """Return the files of two selections of one title together."""
    return None if one is None or other is None else as_selection(one | other)


def is_selected(selection: Bitmap | None, index: int) -> bool:
    """Tell whether a file is in a selection."""
    return selection is None or selection[index]


def chunks_of_file(manifest: Manifest, index: int) -> range:
    """Return the chunks that hold bytes of a file."""
    return manifest.cut.chunks(*manifest.files.span(index))


def chunks_of_selection(manifest: Manifest, selection: Bitmap | None) -> Bitmap:
    """Return the chunks that hold bytes of the files of a selection."""
    return chunks_of_selections(manifest, [selection])[0]


def chunks_of_selections(manifest: Manifest, selections: Sequence[Bitmap | None]) -> list[Bitmap]:
    """Return the chunks of each selection, as `chunks_of_selection` does.

    An order may have hundreds of them, of a hundred thousand files: together they take a second, one by one minutes.
    """
    files = manifest.files
    if sum(one.count() for one in selections if one is not None) < len(files):
        return [_chunks_of_runs(manifest, selection) for selection in selections]
    # Which files have bytes in which chunks, once for all; from there on there is no loop in Python.
    starts, stops, counts = zip(*manifest.cut.shared(files), strict=True) if manifest.chunk_count else ((), (), ())
    filled = files.filled()
    found = []
    for selection in selections:
        if selection is None:
            found.append(Bitmap.full(manifest.chunk_count))
            continue
        flags = (selection & filled).to_flags()
        is_there = map((-1).__lt__, map(flags.find, repeat(1), starts, stops))
        found.append(Bitmap.from_flags(b"".join(map(mul, map(_FLAG.__getitem__, is_there), counts))))
    return found


def _chunks_of_runs(manifest: Manifest, selection: Bitmap | None) -> Bitmap:
    """Return the chunks of a selection, a run of files after the other."""
    if selection is None:
        return Bitmap.full(manifest.chunk_count)
    chosen, flags = bytearray(manifest.chunk_count), selection.to_flags()
    start = flags.find(1)
    while start >= 0:
        stop = flags.find(0, start)
        stop = len(flags) if stop < 0 else stop
        chunks = manifest.cut.chunks(manifest.files.span(start)[0], manifest.files.span(stop - 1)[1])
        chosen[chunks.start : chunks.stop] = b"\1" * len(chunks)
        start = flags.find(1, stop)
    return Bitmap.from_flags(chosen)


def bytes_of_selection(manifest: Manifest, selection: Bitmap | None) -> int:
    """Return how long the files of a selection are together."""
    if selection is None:
        return manifest.size
    return sum(manifest.files.size(index) for index in selection.indexes())


def encode_selection(selection: Bitmap | None) -> bytes:
    """Return a selection as orders carry it: empty for all files, else a bit a file."""
    return b"" if selection is None else selection.to_bytes()


def decode_selection(data: bytes, file_count: int) -> Bitmap | None:
    """Return the selection in an order. Raises `ManifestError` where it is not one of a title of `file_count` files."""
    if not data:
        return None
    try:
        return as_selection(Bitmap.from_bytes(data, file_count))
    except ValueError as error:
        raise ManifestError(f"a selection is of another title than this one of {file_count} files: {error}") from error
