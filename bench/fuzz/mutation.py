"""Changes to inputs by their parts: a value of a nested document is replaced, doubled, moved or left out.

Bytes changed by chance are hardly ever msgpack of the right lengths, or JSON. So a document is read, changed and
written again; where it cannot be read the caller changes its bytes instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgpack

from bench.fuzz.target import Form

DEPTH: Final = 400
"""Levels that are put around a value: more than a reader that calls itself for each of them may take."""

CHANGES: Final = (1, 1, 1, 2, 3)
"""How many places of an input are changed."""

STAYS: Final = 0.2
"""How often a list or a map is changed as a whole, and not something in it."""

_NUMBERS: Final = (
    0,
    1,
    -1,
    7,
    127,
    128,
    255,
    256,
    65535,
    65536,
    1 << 21,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 53) + 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    -(1 << 63),
    0.5,
    1e308,
    float("inf"),
    float("nan"),
    -0.0,
)
_TEXTS: Final = (
    "",
    "a",
    "..",
    "/",
    "a/b",
    "\0",
    "\n",
    "é",
    "\u202e",
    "\ud800",
    "😀",
    "1",
    "*",
    "a" * 65,
    "a" * 254,
    "a" * 5000,
    "[" * DEPTH,
    "%00",
    "9" * 5000,
)


def changed(data: bytes, form: Form, random: Random, words: tuple[str, ...] = ()) -> bytes | None:
    """Return an input of a form with some of its parts changed; None where it cannot be read as one."""
    try:
        return _CHANGES[form](data, random, words)
    except (ValueError, TypeError, OverflowError, RecursionError, KeyError, msgpack.UnpackException):
        return None


def _change_msgpack(data: bytes, random: Random, words: tuple[str, ...]) -> bytes:
    unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogatepass", strict_map_key=False)
    unpacker.feed(data)
    parts: list[Any] = list(unpacker)
    if unpacker.tell() != len(data) or not parts:
        raise ValueError("not msgpack to its end")
    found = _changed(parts, random, words)
    return b"".join(msgpack.packb(part, unicode_errors="surrogatepass") for part in found)


def _change_json(data: bytes, random: Random, words: tuple[str, ...]) -> bytes:
    found = _changed([json.loads(data)], random, words)
    return "".join(json.dumps(one, ensure_ascii=random.random() < 0.5) for one in found).encode(errors="surrogatepass")


def _change_call(data: bytes, random: Random, words: tuple[str, ...]) -> bytes:
    line, end, body = data.partition(b"\n")
    if not end or random.random() < 0.2:
        raise ValueError("the line is changed by its bytes")
    return line + end + _change_json(body, random, words)


def _change_lines(data: bytes, random: Random, words: tuple[str, ...]) -> bytes:
    """Change a text of settings: a line of it, or what stands behind an equals sign there."""
    lines = data.decode(errors="surrogateescape").split("\n")
    at = random.randrange(len(lines))
    key, equals, value = lines[at].partition(" = ")
    match random.randrange(8):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, random.choice(lines))
        case 2:
            lines[at], lines[0] = lines[0], lines[at]
        case 3 if not equals:
            lines[at] = random.choice(words or _TEXTS)
        case _:
            other = random.choice(lines).partition(" = ")[2]
            start = random.randint(0, len(value))
            cut = f"{value[:start]}{random.choice((*words, *_TEXTS))}{value[start + random.randrange(3) :]}"
            number = str(random.choice(_NUMBERS))
            lines[at] = f"{key} = {random.choice((other, cut, cut, number, f'[{value}]', f'{{a = {value}}}'))}"
    return "\n".join(lines).encode(errors="surrogateescape")


_CHANGES: Final[dict[Form, Callable[[bytes, Random, tuple[str, ...]], bytes]]] = {
    "msgpack": _change_msgpack,
    "json": _change_json,
    "call": _change_call,
    "lines": _change_lines,
}


def _changed(parts: list[Any], random: Random, words: tuple[str, ...]) -> list[Any]:
    for _ in range(random.choice(CHANGES)):
        if parts:
            _change(*_place(parts, random), random, words)
    return parts


def _place(parts: list[Any], random: Random) -> tuple[Any, Any]:
    """Return a place in lists and maps: what holds it, and its index or key."""
    holder: Any = parts
    while True:
        key = random.choice(list(holder)) if isinstance(holder, dict) else random.randrange(len(holder))
        value = holder[key]
        if not isinstance(value, (list, dict)) or not value or random.random() < STAYS:
            return holder, key
        holder = value


def _change(holder: Any, key: Any, random: Random, words: tuple[str, ...]) -> None:
    value = holder[key]
    match random.randrange(16):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder[key : key + 1] = [value] * random.choice((2, 3, 40))
        case 1:
            holder[random.choice(words or _TEXTS)] = value
        case 2 if isinstance(holder, list):
            holder.append(holder.pop(key))
        case 3:
            holder[key] = random.choice(words or _TEXTS)
        case 4 if isinstance(value, (list, dict)):
            for _ in range(random.choice((1, 2, DEPTH))):
                holder[key] = [holder[key]]
        case _:
            holder[key] = _other(value, random)


def _other(value: Any, random: Random) -> Any:
    """Return something in the place of a value, mostly of its type."""
    if random.random() < 0.1:
        return random.choice((None, True, False, 0, "", b"", [], {}, 1.5))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice((*_NUMBERS, value + 1, value - 1, value + random.randrange(16), random.randrange(32)))
    if isinstance(value, float):
        return random.choice((*_NUMBERS, -value, value / 2))
    if isinstance(value, str):
        at = random.randint(0, len(value))
        return random.choice(
            (*_TEXTS, value[:at], value[at:], value + value, value[:at] + random.choice(_TEXTS) + value[at:])
        )
    if isinstance(value, bytes):
        at = random.randint(0, len(value))
        return random.choice(
            (value[:at], value[at:], value + value, value[:at] + random.randbytes(1) + value[at + 1 :])
        )
    return random.choice((None, 0, "", []))
