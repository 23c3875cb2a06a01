"""msgpack's codec and msgspec's side by side, for control messages and for manifests.

    python -m bench.micro.codecs

Prints what docs/experiments.md shows under "Codecs". The two take turns, round by round, and each figure is the median
of all rounds in processor time, so that a busy machine slows both.
"""

from __future__ import annotations

import gc
import hashlib
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgpack  # type: ignore[import-untyped]
import msgspec

from p2pfill.model.files import FileRecord, Files
from p2pfill.model.limits import CHUNK_COUNT_MAX, MIB
from p2pfill.model.manifest import FORMAT, Manifest
from p2pfill.protocol import messages as m

ROUNDS: Final = 9
ROUND_S: Final = 0.05
MANIFEST_ROUNDS: Final = 3

MESSAGES: Final[dict[str, m.Message]] = {
    "Request": m.Request(3, 17, 300),
    "Have of 1": m.Have(3, (1000,)),
    "Have of 20": m.Have(3, tuple(range(1000, 1020))),
    "Have of 4096": m.Have(3, tuple(range(20_000, 24_096))),
    "Holdings of 1,024": m.Holdings(3, True, 1024, b"\xaa" * 128),
    "Holdings of 2,097,152": m.Holdings(3, True, CHUNK_COUNT_MAX, b"\xaa" * m.BITMAP_BYTES_MAX),
}
TITLES: Final = {"200,000 files, 781 chunks": (200_000, 781), "1,000,000 files, 25,600 chunks": (1_000_000, 25_600)}
CHUNK_SIZE: Final = 64 * 1024

_KINDS: Final = {kind.__struct_config__.tag: kind for kind in m.Message.__args__}


def make_unpacker_decoder() -> Callable[[bytes], object]:
    """Return how a link would decode payloads with an unpacker that it keeps."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=MIB, raw=False, use_list=False, max_str_len=m.TEXT_BYTES_MAX, max_bin_len=m.BITMAP_BYTES_MAX,
        max_array_len=m.CHUNKS_PER_MESSAGE_MAX, max_map_len=0, max_ext_len=0,
    )  # fmt: skip

    def decode(payload: bytes) -> object:
        unpacker.feed(payload)
        value = unpacker.unpack()
        # By its tag: with the union of all messages it takes 20 times as long.
        return msgspec.convert(value, _KINDS[value[0]], builtin_types=(bytes,))

    return decode


def rates(calls: Iterable[Callable[[], object]]) -> list[float]:
    """Return how often a second each call can be made."""
    todo = [(call, _times_a_round(call)) for call in calls]
    found: list[list[float]] = [[] for _ in todo]
    for _ in range(ROUNDS):
        for (call, times), seen in zip(todo, found, strict=True):
            start = time.process_time()
            for _ in range(times):
                call()
            seen.append(times / (time.process_time() - start))
    return [statistics.median(seen) for seen in found]


def _times_a_round(call: Callable[[], object]) -> int:
    times = 1
    while True:
        start = time.process_time()
        for _ in range(times):
            call()
        if time.process_time() - start > ROUND_S:
            return times
        times *= 2


class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A manifest as msgspec's own codec would read and write it."""

    format: str
    name: str
    chunk_size: int
    integrity: str
    files: list[FileRecord]
    directories: list[str]
    xxh3: bytes
    blake3: bytes


def decode_by_msgspec(data: bytes) -> Manifest:
    """Decode a manifest as a whole, with the same checks as `Manifest.decode`."""
    wire = msgspec.msgpack.decode(data, type=Wire)
    manifest = Manifest(wire.name, wire.chunk_size, Files(wire.files, wire.directories), wire.xxh3, wire.blake3)
    if msgspec.msgpack.encode(wire) != data:
        raise ValueError("not canonical")
    return manifest


def make_title(file_count: int, chunk_count: int) -> bytes:
    """Return a manifest of that many files and chunks."""

    def records() -> Iterator[FileRecord]:
        each = CHUNK_SIZE * chunk_count // file_count
        for k in range(file_count - 1):
            yield f"content/d{k // 1000:04}/segment-{k:07}.ts", each, 1_700_000_000, False
        yield "z", CHUNK_SIZE * chunk_count - each * (file_count - 1), 1_700_000_000, False

    xxh3, blake3 = (hashlib.shake_256(b"").digest(chunk_count * size) for size in (16, 32))
    data = Manifest("big", CHUNK_SIZE, Files(records()), xxh3, blake3).encode()
    assert FORMAT.encode() in data
    return data


def measure(decode: Callable[[bytes], object], data: bytes) -> float:
    """Return the seconds that one decoding takes."""
    gc.collect()
    start = time.process_time()
    decode(data)
    return time.process_time() - start


def peak_mib(decode: Callable[[bytes], object], data: bytes) -> float:
    """Return how much memory one decoding has in use at once, as Python's allocator counts it."""
    tracemalloc.start()
    decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / MIB


def main() -> None:
    """Print both tables."""
    print("| message | bytes | msgspec, thousands/s | msgpack + convert, thousands/s | more a message, us |")
    for name, message in MESSAGES.items():
        payload = m.encode_payload(message)
        by_unpacker = make_unpacker_decoder()
        assert by_unpacker(payload) == m.decode_payload(payload) == message
        decoder = msgspec.msgpack.Decoder(m.Message)
        ours, theirs = rates((lambda: decoder.decode(payload), lambda: by_unpacker(payload)))  # noqa: B023
        more_us = (1 / theirs - 1 / ours) * 1e6
        print(f"| {name} | {len(payload):,} | {ours / 1000:,.0f} | {theirs / 1000:,.0f} | {more_us:.2f} |")
    print("| manifest | MiB | msgspec, s | MiB | msgpack, s | MiB |")
    ways = (decode_by_msgspec, Manifest.decode)
    for name, (files, chunks) in TITLES.items():
        data = make_title(files, chunks)
        took = [[measure(way, data) for way in ways] for _ in range(MANIFEST_ROUNDS)]
        seconds = [statistics.median(column) for column in zip(*took, strict=True)]
        peaks = [peak_mib(way, data) for way in ways]
        cells = " | ".join(f"{s:.2f} | {peak:.0f}" for s, peak in zip(seconds, peaks, strict=True))
        print(f"| {name} | {len(data) / MIB:.0f} | {cells} |")


if __name__ == "__main__":
    main()
