"""The servers of the lab: an origin, and before it in each ISP a cache that is planned, or one that pulls through.

All are nginx. The one on the planned side serves what lies live in the nodes' directories, passes the rest on, and
stores nothing. The other stores what it passes on (`proxy_cache`) and evicts what was used longest ago.

nginx keeps to `max_size` late: its cache manager looks every ten seconds while the cache is not full, and a lab moves
more than a cache holds in that time. `PullThrough.settle` therefore has the master start the manager anew after each
miss (a manager looks as soon as it has started) and waits until what is stored is within the room, so that the cache is
the LRU of that size which it would be with days for days. The loader is ended at the start: there is nothing to load,
and a minute later it would put the files in another order. Neither counts as processor time of the cache.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from bench.planner.viewing import HOUR_S, HOURS, LOG_FORMAT, Requests
from p2pfill.bench.measure import BenchFailed, used_s
from p2pfill.bench.nginx import nginx_command, nginx_config
from p2pfill.bench.processes import Child, find_program, free_port, wait_listening
from p2pfill.plan.tables import Longs

COMMON: Final = f"log_format border '{LOG_FORMAT}'; default_type application/octet-stream; keepalive_requests 1000000;"
PASS: Final = (
    "proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ''; "
    "proxy_set_header X-Border {border};"
)

BLOCK_BYTES: Final = 4096
"""In which nginx counts what is stored, on the usual file systems."""

SETTLE_S: Final = 20.0
"""For a cache manager to start and to delete some files, on a machine that is busy."""
LOOK_S: Final = 0.001
START_S: Final = 0.05
"""After which a manager is started anew once more, where that changed nothing."""

PIECE_BYTES: Final = 1 << 20


class Server:
    """A running nginx: a master and one worker. Use as a context manager; its log is whole once it has ended."""

    def __init__(self, name: str, run: Path, http: Callable[[int], str]) -> None:
        """`http` returns what is in its `http` block, for a server that listens on a port. It makes `run`."""
        program = find_program("nginx")
        if program is None:
            raise BenchFailed("nginx is not installed; on Debian: apt-get install nginx-light")
        run.mkdir()
        self.name = name
        self.run = run
        self.port = free_port()
        config = run / "nginx.conf"
        config.write_text(nginx_config(run, f"{COMMON} {http(self.port)}"))
        self._child = Child(name, nginx_command(program, run, config), run)
        try:
            wait_listening(self._child, self.port)
            self._worker = self._wait_process("worker process")
        except BaseException:
            self._child.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it."""
        self._child.stop()

    def used_s(self) -> tuple[float, float]:
        """Return the user and system seconds of its worker so far."""
        return used_s(self._worker)

    def _wait_process(self, role: str) -> int:
        """Return its process that calls itself so, once there is one. Raises `BenchFailed`."""
        until = time.monotonic() + SETTLE_S
        while not (found := self.processes(role)):
            if time.monotonic() > until:
                raise BenchFailed(f"{self.name} has no {role} after {SETTLE_S:.0f} s")
            time.sleep(LOOK_S)
        return found[0]

    def processes(self, role: str) -> list[int]:
        """Return those of its processes that call themselves so."""
        master = self._child.tree.pid
        found = []
        for child in Path(f"/proc/{master}/task/{master}/children").read_text().split():
            with suppress(OSError):  # it has just ended
                if Path(f"/proc/{child}/cmdline").read_bytes().startswith(f"nginx: {role}".encode()):
                    found.append(int(child))
        return found


def start_origin(run: Path, root: Path) -> Server:
    """Start the origin of all files below `root`; nodes find them below `/fill/`. Its log is `run/access.log`."""
    return Server("origin", run, lambda port: (
        f"access_log {run}/access.log border; server {{ listen 127.0.0.1:{port}; root {root}; "
        f"location /fill/ {{ alias {root}/; }} }}"
    ))  # fmt: skip


def start_planned(name: str, run: Path, origin: Server, nodes: Sequence[Path]) -> Server:
    """Start what serves viewers out of the directories of nodes, and passes on what is not there."""

    def http(port: int) -> str:
        names = ["@origin", *(f"@node{number}" for number in range(1, len(nodes)))]
        places = ["/", *names[1:]]
        after = [*names[1:], "@origin"]
        tries = " ".join(
            f"location {place} {{ root {node}/live; try_files $uri {then}; }}"
            for place, node, then in zip(places, nodes, after, strict=True)
        )
        passed = PASS.format(border=name)
        return (
            f"access_log off; {_upstream(origin)} server {{ listen 127.0.0.1:{port}; {tries} "
            f"location @origin {{ {passed} proxy_max_temp_file_size 0; }} }}"
        )

    return Server(name, run, http)


class PullThrough(Server):
    """A cache that stores what it passes on, within `room` bytes."""

    def __init__(self, name: str, run: Path, origin: Server, room: int) -> None:
        self._stored = run / "stored"
        self._room = room
        # Deletes all that is too much at one go.
        manager = "use_temp_path=off manager_files=10000 manager_threshold=10s manager_sleep=1ms"
        passed = PASS.format(border=name)
        super().__init__(name, run, lambda port: (
            f"access_log off; {_upstream(origin)} "
            f"proxy_cache_path {self._stored} keys_zone=files:1m max_size={room} inactive=365d {manager}; "
            f"server {{ listen 127.0.0.1:{port}; location / {{ {passed} proxy_cache files; proxy_cache_key $uri; "
            "proxy_cache_valid 200 365d; proxy_cache_lock on; add_header X-Cache $upstream_cache_status; } }"
        ))  # fmt: skip
        try:
            os.kill(self._wait_process("cache loader"), signal.SIGTERM)
        except BaseException:
            self.stop()
            raise

    def settle(self) -> None:
        """Wait until what is stored is within the room, and nothing is being deleted. Raises `BenchFailed`.

        A file that is asked for between its deletion and the manager's note of it counts as nothing from then on in
        nginx 1.22, which would let the cache grow. So the manager must sleep again, too.
        """
        if self._stored_bytes() < self._room:
            return
        until, wait_s = time.monotonic() + SETTLE_S, START_S
        while not self._is_settled():
            if time.monotonic() > until:
                raise BenchFailed(f"the cache {self.name} is not within its room after {SETTLE_S:.0f} s")
            for manager in self.processes("cache manager"):
                with suppress(ProcessLookupError):
                    os.kill(manager, signal.SIGTERM)
            next_at, wait_s = time.monotonic() + wait_s, 2 * wait_s
            while not self._is_settled() and time.monotonic() < next_at:
                time.sleep(LOOK_S)

    def _is_settled(self) -> bool:
        if self._stored_bytes() >= self._room:
            return False
        states = []
        for manager in self.processes("cache manager"):
            with suppress(OSError):  # it has just ended
                states.append(Path(f"/proc/{manager}/stat").read_text().rpartition(")")[2].split()[0])
        return states == ["S"]

    def _stored_bytes(self) -> int:
        """Return what is stored as nginx counts it, in whole blocks."""
        found = 0
        with os.scandir(self._stored) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found += -(-entry.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES
        return found


def _upstream(origin: Server) -> str:
    return f"upstream origin {{ server 127.0.0.1:{origin.port}; keepalive 2; keepalive_requests 1000000; }}"


def room_for(capacity: int, size: Longs) -> int:
    """Return what a pull-through cache is to have for files of so many bytes.

    That is a block more for each of them, so that neither whole blocks nor the heads that it stores cost it anything.
    """
    return capacity + BLOCK_BYTES * (capacity // int(size.mean()) + 1)


def watch(server: Server, requests: Requests, files: Sequence[str], size: Longs) -> None:
    """Ask for files one after the other, and check that each comes whole. Raises `BenchFailed`."""
    link = HTTPConnection("127.0.0.1", server.port, timeout=SETTLE_S)
    paths = [f"/{quote(name)}" for name in files]
    piece = bytearray(PIECE_BYTES)
    try:
        for hour, file in zip(requests.hour.tolist(), requests.file.tolist(), strict=True):
            link.request("GET", f"{paths[file]}?day={hour * HOUR_S // 86_400}&hour={hour % HOURS}")
            answer = link.getresponse()
            came = 0
            while count := answer.readinto(piece):
                came += count
            if answer.status != 200 or came != size[file]:
                raise BenchFailed(f"{server.name} answered {answer.status} and {came} bytes for {files[file]}")
            if isinstance(server, PullThrough) and answer.headers["X-Cache"] == "MISS":
                server.settle()
    finally:
        link.close()
