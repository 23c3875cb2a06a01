"""A fill's life on record, and played again: the same events at the same times must give the same actions.

A recording is lines of JSON. The first says how the fill was made; every other is one call, in order:

    {"format": "p2pfill-fill-2", "manifest": ..., "node": ..., "policy": ..., "seed": ..., "now": ..., ...}
    ["+", now, "ChunksGained", {"source": "a2", "chunks": [1, 2]}]          handle(now, event)
    ["?", now, [["RequestChunk", {"request": 1, "source": "a2", "chunk": 1}]]]      poll_actions(now)

JSON writes a float so that it reads back as the same, and a line can be read by people. The digests of the manifest are
left out: no decision looks at them, and they are most of its bytes; its id, by which masters are elected, is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.cut import Cut
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.swarm import actions, events
from p2pfill.swarm.fill import Fill

if TYPE_CHECKING:
    from random import Random

FORMAT: Final = "p2pfill-fill-2"

LINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Room for a roster of a hundred thousand caches; a longer line is not one of ours."""

Write = Callable[[bytes], object]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a fill was made."""

    format: str
    title_id: bytes
    chunk_size: int
    pieces: list[int]
    """How the stream is cut (`model.cut`)."""
    node: NodeInfo
    policy: FillPolicy
    seed: str
    now: float
    durable: bytes
    heard: bool
    wanted: bytes | None = None
    """Chunks; None: all."""


class Difference(NamedTuple):
    """The first call of a recording that went otherwise when it was played."""

    line: int
    """Counted from 1."""
    now: float
    recorded: list[actions.Action]
    played: list[actions.Action]


class RecordingFill(Fill):
    """A fill that writes down its life while it lives it."""

    def __init__(
        self,
        write: Write,
        seed: str,
        manifest: Manifest,
        me: NodeInfo,
        policy: FillPolicy,
        random: Random,
        now: float,
        durable: Bitmap,
        *,
        heard: bool = True,
        wanted: Bitmap | None = None,
    ) -> None:
        """As `Fill`; `seed` is what `random` was made of, and `write` takes one line at a time."""
        super().__init__(manifest, me, policy, random, now, durable, heard=heard, wanted=wanted)
        self._write = write
        header = Header(
            FORMAT,
            manifest.title_id,
            manifest.chunk_size,
            list(manifest.cut.pieces()),
            me,
            policy,
            seed,
            now,
            durable.to_bytes(),
            heard,
            None if wanted is None else wanted.to_bytes(),
        )
        write(_encode(header))

    def handle(self, now: float, event: events.Event) -> None:
        """Take in one event."""
        self._write(_encode(["+", now, type(event).__name__, event]))
        super().handle(now, event)

    def poll_actions(self, now: float) -> list[actions.Action]:
        """Decide and return what to do now, in order."""
        made = super().poll_actions(now)
        self._write(_encode(["?", now, [[type(action).__name__, action] for action in made]]))
        return made


def play(lines: Iterable[bytes], make_random: Callable[[str], Random]) -> tuple[Fill, int, Difference | None]:
    """Play a recording; return the fill, how many calls were played, and the first that went otherwise, if any.

    `make_random` makes a random source of a seed, as the recorded node has. Raises `ConfigError` where the lines are no
    recording.
    """
    numbered = enumerate(lines, 1)
    _, first = next(numbered, (0, b""))
    fill = _fill_of(first, make_random)
    played = 0
    for number, line in numbered:
        call = _call_of(number, line)
        played += 1
        if isinstance(call, _Handled):
            fill.handle(call.now, call.event)
            continue
        made = fill.poll_actions(call.now)
        if made != call.made:
            return fill, played, Difference(number, call.now, call.made, made)
    return fill, played, None


class _Handled(NamedTuple):
    now: float
    event: events.Event


class _Polled(NamedTuple):
    now: float
    made: list[actions.Action]


def _fill_of(line: bytes, make_random: Callable[[str], Random]) -> Fill:
    _check_length(1, line)
    try:
        header = msgspec.json.decode(line, type=Header)
        if header.format != FORMAT:
            raise ConfigError(f"line 1 is of format {header.format[:40]!r}, not {FORMAT!r}")
        # A file for each piece is cut as the pieces are.
        files = layout((f"{number:08}", length) for number, length in enumerate(header.pieces or [0]))
        count = Cut(files, header.chunk_size).count
        manifest = Manifest("recorded", header.chunk_size, files, bytes(16 * count), bytes(32 * count))
        # A cached property: what is there already is not worked out from the digests.
        manifest.__dict__["title_id"] = TitleId(header.title_id)
        durable = Bitmap.from_bytes(header.durable, count)
        wanted = None if header.wanted is None else Bitmap.from_bytes(header.wanted, count)
    except (msgspec.MsgspecError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"line 1 is not the beginning of a recording: {error}") from error
    chance = make_random(header.seed)
    return Fill(manifest, header.node, header.policy, chance, header.now, durable, heard=header.heard, wanted=wanted)


def _call_of(number: int, line: bytes) -> _Handled | _Polled:
    _check_length(number, line)
    try:
        call = msgspec.json.decode(line)
        match call:
            case ["+", float(now), str(name), dict(fields)]:
                return _Handled(now, _convert(fields, _EVENTS[name]))
            case ["?", float(now), list(made)]:
                return _Polled(now, [_convert(fields, _ACTIONS[name]) for name, fields in made])
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"line {number} is not a call of a recording: {error}") from error
    raise ConfigError(f"line {number} is not a call of a recording")


def _check_length(number: int, line: bytes) -> None:
    if len(line) > LINE_BYTES_MAX:
        raise ConfigError(f"line {number} has {len(line)} bytes; a recording's have at most {LINE_BYTES_MAX}")


def _classes(module: Any) -> dict[str, type]:
    """Return the classes that a module defines, by name."""
    found = inspect.getmembers(module, inspect.isclass)
    return {name: kind for name, kind in found if kind.__module__ == module.__name__}


_EVENTS: Final = _classes(events)
_ACTIONS: Final = _classes(actions)


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=_bitmap_out) + b"\n"


def _bitmap_out(value: Any) -> Any:
    if isinstance(value, Bitmap):
        return [len(value), value.to_bytes()]
    if isinstance(value, range):
        return list(value)
    raise NotImplementedError(f"a recording cannot hold a {type(value).__name__}")


def _convert(fields: Any, kind: type) -> Any:
    return msgspec.convert(fields, kind, dec_hook=_bitmap_in, builtin_types=())


def _bitmap_in(kind: type, value: Any) -> Any:
    if kind is not Bitmap:
        raise NotImplementedError(f"a recording cannot hold a {kind.__name__}")
    count, bits = value
    return Bitmap.from_bytes(msgspec.convert(bits, bytes, builtin_types=()), count)


def read_lines(data: bytes) -> Iterator[bytes]:
    """Yield the lines of a recording; a last one that was cut short, as a crash leaves it, is left out."""
    yield from data.split(b"\n")[:-1]
