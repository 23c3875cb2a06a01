"""What a title is said to be: manifests, what is signed of them, names, and which of its files are wanted."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.fuzz.target import Run, Target, check
from p2pfill.errors import ConfigError, ManifestError, SignatureError
from p2pfill.model import limits
from p2pfill.model.cut import Cut
from p2pfill.model.files import MTIME_MAX, Files
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.paths import check_path, check_path_by_parts, find_collision
from p2pfill.model.selection import chunks_of_selection, decode_selection, encode_selection, select
from p2pfill.model.statement import EXPIRES_MAX, NUMBER_MAX, SIGNATURES_MAX, Signatures, Statement
from p2pfill.trust.publishers import Publishers, Rule, open_title
from p2pfill.trust.signing import public_word, sign

SMALL: Final = limits.CHUNK_SIZE_MIN
LOOKED_AT: Final = 64
"""Chunks, or files, of a title that are looked at."""


def manifest_of(files: Files, name: str = "film", chunk_size: int = SMALL) -> Manifest:
    """Return a title of some files, whose digests are zeros."""
    count = Cut(files, chunk_size).count
    return Manifest(name, chunk_size, files, bytes(16 * count), bytes(32 * count))


def make_manifests() -> Iterator[Manifest]:
    """Yield titles of several kinds."""
    yield manifest_of(layout([("a.bin", 4 * SMALL)]))
    yield manifest_of(layout([("empty", 0)]))
    yield manifest_of(layout([(f"dir/{number:03}.ts", 1000 * number) for number in range(40)]), name="é" * 100)
    yield manifest_of(Files([("a", 1, 0, False), ("b/c", SMALL + 1, MTIME_MAX, True)], ["empty", "z/y/x"]))
    yield manifest_of(layout([("a", 1), ("é/ß/\u0130", 2), ("e\u0301", 3)]), chunk_size=limits.CHUNK_SIZE_MAX)


def _manifest_seeds() -> Iterator[bytes]:
    return (manifest.encode() for manifest in make_manifests())


def open_manifests(_: Path) -> Run:
    """Bytes are a manifest, or `ManifestError`. A manifest is written as the bytes that it was read from, its title's
    id is their hash and no other is taken for it; its files are in order, within limits and what its chunks are cut of.
    """

    def run(data: bytes) -> bool:
        try:
            manifest = Manifest.decode(data)
        except ManifestError:
            return False
        check(manifest.encode() == data, "written it is something else")
        check(open_title(data, manifest.title_id) == manifest, "another title by its id")
        files, count = manifest.files, manifest.chunk_count
        check(1 <= len(files) <= limits.FILE_COUNT_MAX and count <= limits.CHUNK_COUNT_MAX, "beyond limits")
        check(manifest.size <= limits.TITLE_BYTES_MAX, "a title too large", manifest.size)
        _check_chunks(manifest)
        for index in range(min(len(files), LOOKED_AT)):
            check_path_by_parts(files.path(index))
            check(files[index].size <= manifest.size, "a file larger than its title")
        find_collision([entry.path for entry in files[:LOOKED_AT]], files.directories[:LOOKED_AT])
        return True

    return run


def _check_chunks(manifest: Manifest) -> None:
    count = manifest.chunk_count
    for chunk in {*range(min(count, LOOKED_AT)), *range(max(0, count - 2), count)}:
        length = sum(segment.length for segment in manifest.segments(chunk))
        check(length == manifest.chunk_length(chunk), "segments are not all of a chunk", chunk, length)
        check(0 < length <= manifest.chunk_size, "a chunk of a wrong length", chunk, length)


KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TITLE: Final = TitleId(bytes(range(32)))
NOW_S: Final = 1e9


STATEMENTS: Final = (
    Statement(TITLE, "film-1", 1),
    Statement(TITLE, "other", NUMBER_MAX, EXPIRES_MAX),
    Statement(TITLE, "film-é", 7, int(NOW_S) + 1),
)


def _signature_seeds() -> Iterator[bytes]:
    for statement in STATEMENTS:
        one = sign(KEY, statement)
        yield one.encode()
        yield sign(OTHER_KEY, statement, one).encode()


def open_signatures(_: Path) -> Run:
    """Bytes are signatures, or `SignatureError`. They are written as the bytes that they were read from; what they say
    counts only where a publisher's key holds, or `SignatureError`.
    """
    publishers = Publishers([("studio", public_word(KEY))], [Rule("film-*", ("studio",))])

    def run(data: bytes) -> bool:
        try:
            found = Signatures.decode(data)
        except SignatureError:
            return False
        check(found.encode() == data, "written they are something else")
        check(1 <= len(found.by) <= SIGNATURES_MAX, "beyond limits", len(found.by))
        merged = found.merged({bytes([number]) * 32: bytes(64) for number in range(20)})
        check(len(merged.by) <= SIGNATURES_MAX and Signatures.decode(merged.encode()) == merged, "merged wrongly")
        try:
            statement = publishers.check(data, TITLE, None, NOW_S)
        except SignatureError:
            return True
        check(
            statement.name.startswith("film-") and statement.title_id == TITLE, "no rule lets this through", statement
        )
        check(statement in STATEMENTS, "nobody has signed this", statement)
        return True

    return run


def _path_seeds() -> Iterator[bytes]:
    for text in (
        "a",
        "a/b",
        "a/" * 63 + "a",
        "é/ß",
        "a" * 255,
        "..",
        "a/../b",
        "/a",
        "a//b",
        "a\x00b",
        "a\x7fb",
        " ",
        "a\nb/c",
        "...",
        "a/.",
        "\U0001f600" * 64,
        "e\u0301",
        "." * 255,
        "a/b/c" * 800,
    ):
        yield text.encode()


def open_paths(_: Path) -> Run:
    """A text is a path, or `ManifestError`; the fast check and the one by parts agree. A path stays below where it is
    put, whatever that is, and a title of one file has it back.
    """

    def run(data: bytes) -> bool:
        path = data.decode("utf-8", "surrogateescape")
        complaint = _complaint_of(path)
        try:
            check_path(path)
        except ManifestError as error:
            check(complaint == str(error), "the checks differ", path)
            return False
        check(not complaint, "the checks differ", path, complaint)
        check(posixpath.normpath(f"/root/{path}") == f"/root/{path}", "it leads elsewhere", path)
        check(not any(ord(letter) < 32 for letter in path), "a control character", path)
        check(all(len(part.encode()) <= limits.PATH_COMPONENT_BYTES_MAX for part in path.split("/")), "a long part")
        manifest = manifest_of(layout([(path, 1)]))
        check(Manifest.decode(manifest.encode()).files.path(0) == path, "another path", path)
        return True

    return run


def _complaint_of(path: str) -> str:
    try:
        check_path_by_parts(path)
    except ManifestError as error:
        return str(error)
    return ""


def _selection_seeds() -> Iterator[bytes]:
    yield bytes(5)
    yield b"\xff" * 5
    yield b"\x01\0\0\0\x80"
    yield b"dir/"
    yield b"dir/00?.ts\ndir/01[0-4].ts\n*.ts"
    yield b"dir/000.ts"
    yield b""


def open_selections(_: Path) -> Run:
    """Bytes are the selection of a title's files, or `ManifestError`; they are written as they were read, and its
    chunks are those of its files. Lines are patterns of files, or `ConfigError`.
    """
    manifest = next(one for one in make_manifests() if len(one.files) == 40)

    def run(data: bytes) -> bool:
        taken = False
        try:
            chosen = decode_selection(data, len(manifest.files))
            check(encode_selection(chosen) == (b"" if chosen is None else data), "written it is something else")
            chunks = chunks_of_selection(manifest, chosen)
            check(len(chunks) == manifest.chunk_count, "chunks of another title")
            taken = True
        except ManifestError:
            pass
        try:
            found = select(manifest.files, data.decode("utf-8", "replace").split("\n")[:100])
            check(found is None or found.any(), "no file is meant, and nobody is told")
            taken = True
        except ConfigError:
            pass
        return taken

    return run


TARGETS: Final = (
    Target("manifests", open_manifests, _manifest_seeds, runs=1_000_000, size_max=16 * limits.KIB, form="msgpack"),
    Target("signatures", open_signatures, _signature_seeds, form="msgpack"),
    Target("paths", open_paths, _path_seeds),
    Target("selections", open_selections, _selection_seeds, size_max=512),
)
