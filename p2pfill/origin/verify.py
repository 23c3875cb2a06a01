"""Checks a chunk from an origin against the manifest, and names what to repair where it does not match."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash
from blake3 import blake3

from p2pfill.origin.bodies import RESTORE
from p2pfill.origin.errors import OriginObjectChanged

if TYPE_CHECKING:
    from p2pfill.model.manifest import Manifest

_FILES_SHOWN_MAX = 3
"""A chunk may span thousands of files; a message stays one line."""


def verify_chunk(url: str, manifest: Manifest, k: int, data: bytes | bytearray | memoryview) -> None:
    """Raise `OriginObjectChanged` unless `data` is chunk `k`, by the digest that the title's integrity setting asks.

    XXH3-128 is always compared, BLAKE3 where the title says so.
    """
    good = len(data) == manifest.chunk_length(k) and xxhash.xxh3_128_digest(data) == manifest.chunk_xxh3(k)
    if good and manifest.integrity == "blake3":
        good = blake3(data).digest() == manifest.chunk_blake3(k)
    if good:
        return
    paths: list[str] = []
    more = ""
    for segment in manifest.segments(k):
        if len(paths) == _FILES_SHOWN_MAX:
            more = " and others"
            break
        paths.append(repr(manifest.files[segment.file_index].path))
    raise OriginObjectChanged(
        f"{url}: chunk {k} does not match its digest: {', '.join(paths)}{more} changed at the origin since publishing; "
        "restore the files or publish the title anew",
        bytes_received=len(data),
        advice=RESTORE,
    )
