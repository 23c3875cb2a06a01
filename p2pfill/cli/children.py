"""Processes that the demo starts, watches and ends: its own children and no others.

Each is in a process group of its own, so Ctrl-C reaches the demo only, which then ends them in order. Each reads its
standard input from a pipe that the demo holds: should the demo be killed outright, that pipe ends and so do they.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trio

from p2pfill.cli.exits import CommandFailed
from p2pfill.errors import InternalError

READY_S: Final = 60.0
"""For a process to say that it is ready, on a machine that is busy with eight others."""
STOP_S: Final = 5.0
"""From SIGTERM to SIGKILL."""
LINE_BYTES_MAX: Final = 65536
LOG_TAIL_BYTES: Final = 4096


class Child:
    """One process and its log."""

    def __init__(self, name: str, process: trio.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def last_words(self) -> str:
        """Return the last line of its log that says something; a traceback of a group is drawn with a frame."""
        try:
            with self._log.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        said = [line for line in (line.strip(" |+-") for line in lines) if line]
        return said[-1].removeprefix("p2pfill: error: ") if said else "it said nothing"

    def check(self) -> None:
        """Raise `CommandFailed` where it has ended."""
        code = self.process.poll()
        if code is not None:
            raise CommandFailed(f"the {self.name} process ended with code {code}: {self.last_words()}")

    async def read_ready(self) -> dict[str, Any]:
        """Return the JSON object that is the first line it prints. Raises `CommandFailed` where none comes."""
        stdout = self.process.stdout
        if stdout is None:
            raise InternalError(f"the {self.name} process was started without a pipe")
        line = bytearray()
        with trio.move_on_after(READY_S):
            while not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX:
                piece = await stdout.receive_some(LINE_BYTES_MAX)
                if not piece:
                    await self.process.wait()
                    self.check()
                line += piece
        if not line.endswith(b"\n"):
            raise CommandFailed(f"the {self.name} process is not ready after {READY_S:.0f} s: {self.last_words()}")
        ready = json.loads(line)
        if not isinstance(ready, dict):
            raise InternalError(f"the {self.name} process printed {ready!r} where it should say that it is ready")
        return ready


class Children:
    """All processes of one demo. Use as an async context manager: at its end none of them is left."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[Child] = []

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):
            await self.stop()

    def __len__(self) -> int:
        return len(self._children)

    async def start(self, name: str, module: str, arguments: Sequence[str]) -> Child:
        """Start `python -m MODULE ARGUMENTS…`; what it writes to stderr goes to a log of its own."""
        log = self._directory / f"{name}.log"
        with log.open("wb") as out:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out.fileno(),
                cwd=self._directory,
                process_group=0,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Raise `CommandFailed` where one has ended."""
        for child in self._children:
            child.check()

    async def stop(self) -> None:
        """End all of them: by SIGTERM, and by SIGKILL where that takes too long."""
        with trio.move_on_after(STOP_S):
            for child in self._children:
                child.process.terminate()
            for child in self._children:
                await child.process.wait()
        for child in self._children:
            if child.process.poll() is None:
                child.process.kill()
            await child.process.wait()
            for stream in (child.process.stdin, child.process.stdout):
                if stream is not None:
                    await stream.aclose()
        self._children.clear()
