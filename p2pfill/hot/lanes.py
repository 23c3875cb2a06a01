"""The threads of a data plane: they wait for sockets and move payload, without the GIL in the native twin.

A `Lane` is one stream as the threads see it. Something is posted on it, once: so many bytes of a socket into a file
(`post_receive`), a head and so many bytes of a file into a socket (`post_send`), or a head out of one (`post_head`;
`post_receive` takes it along where it is there). From then on a thread moves it as the socket allows, and waits for
that with all other lanes on one epoll, until all of it is moved, or nothing more can be: then it calls the lane's
`turn`, which takes what came of it (`take_head`, `take`) and may post what is next. So a thread comes to Python once
for a chunk and not once for each time that a socket has something.

    idle --post--> moving --all moved, broken off, refused, or interrupted--> turn --take--> idle

`post`, `take` and the methods that move at once are for `turn` alone, in whose thread nobody else has the lane. The
rest may be called from any thread.

The right to write is looked at before each slice, under the lock of the chunk (`WriteLock`): a flag that whoever gives
the request up clears, and the byte of the chunk among those of the title that are sealed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from p2pfill.hot import NATIVE
from p2pfill.hot.io import LOW_WATER_BYTES

if TYPE_CHECKING or not NATIVE:
    from p2pfill.hot import _pure_lanes as _twin
else:
    from p2pfill import _native as _twin

__all__ = ["LOW_WATER_BYTES", "NATIVE", "RELIEF_S", "RUN_CHUNKS", "WARM_BYTES", "Lane", "Lanes", "WriteLock"]

RUN_CHUNKS: Final = 16
"""Chunks after which a stream gives its thread to others."""

RELIEF_S: Final = 0.02
"""One thread waits for sockets and serves them; the native twin has another one join in where for so long it has not
come to wait again: a disk holds it up, or there is more than it can do. A thread that finds nothing to do goes back
to rest. With all of them waiting each event wakes another one, which finds the processor's cache cold; see
docs/experiments.md, "The data path"."""

WARM_BYTES: Final = 64 * 1024
"""Pieces that are given to a second digest while they are in the processor's cache are as large, but for the last of a
chunk: each takes the interpreter, which costs as much as to read so much back."""

Lane = _twin.Lane
Lanes = _twin.Lanes
WriteLock = _twin.WriteLock
