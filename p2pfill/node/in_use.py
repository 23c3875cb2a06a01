"""Asking whoever serves viewers which titles are in use: a command of the operator's, or a function of the embedder's.

The kernel tells most of it at no cost: a file that is open has a holder, and one that was read has a time (`atime`),
which with the usual mount option `relatime` is right to within a day. Asked for is what it does not know: files that
were opened and closed again a moment ago, or a file system that keeps no times (`noatime`). Following the log of a
web server in the node was rejected: there are as many formats as servers, and `tail` and `awk` read them all.

Answered are lines: the name of a title below live/, its id, or a path of its files, below the data directory or as in a
URL, of which only the first part counts. What means no title is passed over. An answer that cannot be had keeps
everything: a title too many on the disk is better than one too few.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import IO, Final, cast

from p2pfill.errors import ConfigError, StoreError
from p2pfill.model import limits

InUse = Callable[[], Iterable[str]]
"""Called in a worker thread. What it raises keeps all titles."""

ANSWER_S: Final = 10.0
"""For an answer: to read the end of a log takes a fraction of it, and a fill may be waiting for room."""

ANSWER_BYTES_MAX: Final = 4 * limits.MIB
"""Some ten thousand paths, or the last minutes of a busy log."""


ANSWER_LINES_MAX: Final = 100_000
"""More titles are in use on no cache."""


def split_command(command: str) -> list[str]:
    """Return the words of a command, quoted as for a shell, which does not run it. Raises `ConfigError`."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"in_use_command {command[:100]!r} cannot be read: {error}") from error
    if command and not words:
        raise ConfigError("in_use_command has no word in it: leave it out, or name a program")
    return words


def asking(command: str) -> InUse:
    """Return what runs `command` and returns the lines that it prints; that raises `StoreError` where it fails."""
    words = split_command(command)

    def ask() -> list[str]:
        try:
            return _run(words)
        except OSError as error:
            raise StoreError(f"cannot run in_use_command {words[0]!r}: {error.strerror}") from error

    return ask


def _run(words: list[str]) -> list[str]:
    deadline = time.monotonic() + ANSWER_S
    process = subprocess.Popen(  # noqa: S603 (the operator's own)
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        with cast(IO[bytes], process.stdout) as out:
            answer = _read(out.fileno(), deadline)
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise StoreError(f"in_use_command {words[0]!r} took longer than {ANSWER_S:g} s") from None
    finally:
        # All of a pipeline: whoever is left of it is of no use to anybody.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code:
        raise StoreError(f"in_use_command {words[0]!r} ended with exit code {code}")
    return answer.decode(errors="surrogateescape").splitlines()


def _read(fd: int, deadline: float) -> bytes:
    """Return all that comes before the end. Raises `TimeoutError`, and `StoreError` where it is too much."""
    answer = bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        piece = os.read(fd, limits.MIB)
        if not piece:
            return bytes(answer)
        answer += piece
        if len(answer) > ANSWER_BYTES_MAX:
            raise StoreError(f"in_use_command printed more than {ANSWER_BYTES_MAX} bytes")
