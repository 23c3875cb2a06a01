"""`p2pfill publish` and `p2pfill verify`: a tree of files and the manifest that describes it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from p2pfill.cli.exits import CommandFailed
from p2pfill.cli.progress import byte_progress
from p2pfill.cli.signing import drop_others, expiry, said_of, sign_manifest, spelled
from p2pfill.cli.text import plural, printable, read_manifest, read_patterns, show_bytes, show_rate, show_seconds
from p2pfill.errors import ConfigError
from p2pfill.model.selection import bytes_of_selection, chunks_of_selection, select

if TYPE_CHECKING:
    from p2pfill.model.manifest import Manifest
    from p2pfill.origin.upload import Uploaded

FAULTS_SHOWN: Final = 20
"""Of each kind; a person acts on the first few, a script reads --json."""


def publish_title(
    path: Path,
    name: str,
    out: Path,
    *,
    chunk_size: int | None,
    integrity: Literal["blake3", "xxh3"],
    to: str | None = None,
    key: Path | None = None,
    expires: str = "",
    number: int | None = None,
    as_json: bool,
) -> None:
    """Hash `path` and write its manifest to `out`, whole or not at all; with `to` its files go into a bucket.

    With `key` it is signed.
    """
    from p2pfill.store.publish import publish

    if not path.exists():
        raise ConfigError(f"cannot publish {str(path)!r}: there is no such file or directory")
    _check_out(out)
    if key is not None:
        _check_key(key, expires)
    elif expires or number is not None:
        raise ConfigError("--expires and --number are of what is signed: name a --key")
    if to is not None:
        to = _bucket(to)
    begun = time.monotonic()
    with byte_progress("Publishing") as progress:
        result = publish(
            path, name=name, out=out, chunk_size=chunk_size, integrity=integrity, progress=progress
        )
    took_s = time.monotonic() - begun
    manifest = result.manifest
    _write_whole(out, manifest.encode())
    if key is None:
        drop_others(out, manifest)
        signed = None
    else:
        signed = sign_manifest(out, manifest, key, expires=expires, number=number)
    title = manifest.title_id.hex()
    uploaded = None if to is None else _upload(manifest, path, to)
    if as_json:
        record: dict[str, Any] = {
            "title": title,
            "name": manifest.name,
            "size": manifest.size,
            "files": len(manifest.files),
            "chunk_size": manifest.chunk_size,
            "chunks": manifest.chunk_count,
            "integrity": manifest.integrity,
            "out": str(out),
            "skipped": result.skipped,
            "seconds": round(took_s, 3),
        }
        if signed is not None:
            record |= {"signed": spelled(out, signed)}
        if uploaded is not None:
            record |= {"origin": to, **uploaded._asdict()}
        print(json.dumps(record))
        return
    print(
        f"{printable(manifest.name)}: {show_bytes(manifest.size)} in {plural(len(manifest.files), 'file')}, "
        f"{plural(manifest.chunk_count, 'chunk')} of {show_bytes(manifest.chunk_size)}"
    )
    print(f"title id  {title}")
    print(f"manifest  {out} (hashed in {show_seconds(took_s)}, {show_rate(manifest.size / max(took_s, 1e-6))})")
    if signed is not None:
        print(said_of(out, signed))
    for line in result.skipped[:FAULTS_SHOWN]:
        print(f"skipped   {printable(line)}")
    if len(result.skipped) > FAULTS_SHOWN:
        print(f"skipped   and {len(result.skipped) - FAULTS_SHOWN} more")
    if uploaded is not None:
        print(
            f"uploaded  {plural(uploaded.sent_files, 'file')}, {show_bytes(uploaded.sent_bytes)}"
            + (f"; {plural(uploaded.kept_files, 'file')} there already" if uploaded.kept_files else "")
        )
        print(f"origin    {to}")


def _bucket(url: str) -> str:
    from p2pfill.origin.urls import bucket_base, is_bucket

    if not is_bucket(url):
        raise ConfigError(f"--to {url[:200]!r} is no bucket: write s3://BUCKET/PREFIX")
    return bucket_base(url)


def _upload(manifest: Manifest, path: Path, url: str) -> Uploaded:
    from p2pfill.origin.upload import upload_title

    with byte_progress("Uploading") as progress:
        return upload_title(manifest, path if path.is_dir() else path.parent, url, progress)


def _check_key(key: Path, expires: str) -> None:
    from p2pfill.trust.signing import load_key

    load_key(key)
    expiry(expires, time.time())


def _check_out(out: Path) -> None:
    # Before the hashing, which may take an hour.
    if out.is_dir():
        raise ConfigError(f"cannot write manifest {str(out)!r}: it is a directory; give a file name, as in title.fill")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"cannot write manifest {str(out)!r}: its directory does not exist")


def _write_whole(out: Path, data: bytes) -> None:
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(out)
    except OSError as error:
        raise ConfigError(f"cannot write manifest {str(out)!r}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def verify_title(directory: Path, fill: Path, files: list[str], files_from: Path | None, *, as_json: bool) -> None:
    """Compare a tree with a manifest, or some files of it. Raises `CommandFailed` where a byte is missing or wrong."""
    from p2pfill.store.verify import verify_tree

    if not directory.is_dir():
        raise ConfigError(f"cannot verify {str(directory)!r}: it is not a directory")
    manifest = read_manifest(fill)
    patterns = read_patterns(files, files_from)
    selection = select(manifest.files, patterns) if patterns else None
    with byte_progress("Verifying") as progress:
        report = verify_tree(directory, manifest, progress, selection=selection)
    if as_json:
        record = {
            "ok": report.ok,
            "title": manifest.title_id.hex(),
            "name": manifest.name,
            "size": manifest.size,
            "missing": report.missing,
            "wrong_size": [fault._asdict() for fault in report.wrong_size],
            "bad": [fault._asdict() for fault in report.bad],
            "extra": report.extra,
            "altered": report.altered,
            "unchecked_chunks": report.unchecked,
        }
        print(json.dumps(record))
    else:
        faults = [f"missing: {path}" for path in report.missing[:FAULTS_SHOWN]]
        faults += [
            f"wrong size: {fault.path} has {fault.actual} bytes, the title {fault.expected}"
            for fault in report.wrong_size[:FAULTS_SHOWN]
        ]
        faults += [
            f"bad chunk {fault.chunk}: {fault.reason} (in {', '.join(fault.files[:3])}"
            f"{' …' if len(fault.files) > 3 else ''})"
            for fault in report.bad[:FAULTS_SHOWN]
        ]
        for line in faults:
            print(printable(line))
        if report.altered:
            print(f"of another time or mode, with the right bytes: {plural(len(report.altered), 'file')}")
        if report.unchecked:
            print(f"not checked, since files that are not meant lie in them too: {plural(report.unchecked, 'chunk')}")
        if report.extra:
            print(f"not of the title, left alone: {plural(len(report.extra), 'file')}")
    if not report.ok:
        counts = (
            (len(report.missing), "missing file"),
            (len(report.wrong_size), "file"),
            (len(report.bad), "bad chunk"),
        )
        said = [plural(count, noun) + (" of wrong size" if noun == "file" else "") for count, noun in counts if count]
        raise CommandFailed(
            f"{str(directory)!r} does not hold the title {printable(manifest.name)!r}: {', '.join(said)}"
        )
    if not as_json:
        size, count = bytes_of_selection(manifest, selection), len(manifest.files)
        what = plural(count, "file") if selection is None else f"{selection.count()} of {plural(count, 'file')}"
        chunks = manifest.chunk_count if selection is None else chunks_of_selection(manifest, selection).count()
        print(
            f"{printable(manifest.name)}: all {show_bytes(size)} in {what} are right "
            f"({plural(chunks - report.unchecked, 'chunk')}, XXH3-128 and BLAKE3)"
        )


def list_files(fill: Path, files: list[str], files_from: Path | None, *, as_json: bool) -> None:
    """Print the files of a title, or those that patterns mean, and what a cache fetches for them."""
    manifest = read_manifest(fill)
    patterns = read_patterns(files, files_from)
    selection = select(manifest.files, patterns) if patterns else None
    indexes = range(len(manifest.files)) if selection is None else list(selection.indexes())
    chunks = chunks_of_selection(manifest, selection)
    fetched = sum(map(manifest.chunk_length, chunks.indexes()))
    size = bytes_of_selection(manifest, selection)
    if as_json:
        found = [{"path": manifest.files.path(index), "size": manifest.files.size(index)} for index in indexes]
        print(json.dumps({"files": found, "size": size, "chunks": chunks.count(), "chunk_bytes": fetched}))
        return
    for index in indexes:
        print(f"{show_bytes(manifest.files.size(index)):>9}  {printable(manifest.files.path(index))}")
    print(
        f"{len(indexes)} of {plural(len(manifest.files), 'file')}, {show_bytes(size)}; a cache fetches "
        f"{plural(chunks.count(), 'chunk')} for them, {show_bytes(fetched)}"
    )
