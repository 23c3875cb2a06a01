"""Who moves the file: p2pfill, the floor that a C program sets, and what people use today.

Each contender is a class behind one small interface, `Contender`: whether it can run here, a sender that stays up for
the whole benchmark, a receiver that is made ready outside of the timed part, and a fetch. Programs that are started for
each fetch (curl, aria2, rsync, the floor) are timed from their start to their end, as their users would; programs that
stay up (a node, a torrent client) from the order to the moment at which they have the file.

A contender that is not installed is left out and named with the reason. One that fails is no result at all.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Final, Literal, NamedTuple

from p2pfill._version import __version__
from p2pfill.bench.measure import BenchFailed, Tree
from p2pfill.bench.nginx import nginx_command, nginx_config
from p2pfill.bench.processes import RUN_S_MAX, Child, find_program, free_port, run_program, wait_listening
from p2pfill.bench.source import FILE, Source
from p2pfill.store.publish import publish

SYSTEM_INCLUDE_DIRS: Final = ("/usr/include", "/usr/local/include")


class Fetched(NamedTuple):
    """One fetch, as its receiver saw it."""

    seconds: float
    cpu_s: float
    peak_bytes: int


class Contender(ABC):
    """One way to move the file. Made once for a benchmark; the calls come in the order in which they stand here."""

    name: ClassVar[str]
    title: ClassVar[str]
    """What it is, in a few words, for people."""
    checks: ClassVar[str]
    """What the receiver has verified when it is done."""
    durable: ClassVar[bool]
    """Whether all is on the disk then, and not only with the kernel."""

    def __init__(self, source: Source, work: Path) -> None:
        """`work` is an empty directory of its own, on the file system to measure."""
        self.source = source
        self.work = work

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """Return why it cannot run here and what to do, or nothing."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return what was measured, for reports."""

    @abstractmethod
    def start(self) -> Tree:
        """Start the sender, and return its processes once it can send."""

    def prepare(self) -> None:  # noqa: B027 (a program that is started for each fetch has nothing to prepare)
        """Make a receiver ready that stays up; not timed."""

    @abstractmethod
    def fetch(self) -> Fetched:
        """Fetch the file. Raises `BenchFailed`."""

    @property
    @abstractmethod
    def copy(self) -> Path:
        """Where the fetched file is."""

    def clear(self) -> None:
        """End the receiver and remove what it has fetched."""
        self.copy.unlink()

    @abstractmethod
    def stop(self) -> None:
        """End all processes, also after an error."""


class Program(Contender):
    """A program that is started for each fetch, and a sender that stays up."""

    binaries: ClassVar[dict[str, str]]
    """Which programs it needs, each with the Debian package that has it."""

    def __init__(self, source: Source, work: Path) -> None:
        super().__init__(source, work)
        self.sender: Child | None = None

    @classmethod
    def missing(cls) -> str:
        lacking = {name: package for name, package in cls.binaries.items() if find_program(name) is None}
        if not lacking:
            return ""
        names, are = " and ".join(lacking), "is" if len(lacking) == 1 else "are"
        return f"{names} {are} not installed; apt-get install {' '.join(lacking.values())}"

    @classmethod
    def version(cls) -> str:
        return ", ".join(_version_of(name) for name in cls.binaries)

    def fetch(self) -> Fetched:
        assert self.sender is not None  # noqa: S101
        self.sender.check()
        return Fetched(*run_program(f"{self.name}-fetch", self.command(), self.work, [self.sender.tree]))

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the command that fetches the file to `copy`."""

    @property
    def copy(self) -> Path:
        return self.work / "copy"

    def stop(self) -> None:
        if self.sender is not None:
            self.sender.stop()


class Floor(Program):
    """The C program of this package, compiled for this processor."""

    name = "floor"
    title = "C program: sendfile, recv, XXH3, pwrite"
    checks = "XXH3-128 computed"
    durable = False
    binaries: ClassVar = {"cc": "gcc"}
    _options: ClassVar[Sequence[str]] = ()

    @classmethod
    def missing(cls) -> str:
        lacking = "there is no xxhash.h; apt-get install libxxhash-dev, or pip install pyarrow"
        return super().missing() or ("" if _xxhash_include_dir() else lacking)

    @classmethod
    def version(cls) -> str:
        done = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=False)
        return done.stdout.splitlines()[0] if done.stdout else "cc"

    def start(self) -> Tree:
        self._binary = build_floor(Path(__file__).with_name("floor.c"), self.work / "floor")
        self.sender = Child(f"{self.name} sender", [str(self._binary), "serve", str(self.source.file)], self.work)
        self._port = self.sender.read()["port"]
        return self.sender.tree

    def command(self) -> Sequence[str]:
        size = str(self.source.size)
        return [str(self._binary), "fetch", str(self._port), size, str(self.copy), *self._options]


def build_floor(source: Path, binary: Path) -> Path:
    """Compile a C program with XXH3 to `binary`, and return that. Raises `BenchFailed`."""
    # For this very processor: with the widest hashing that it can do, the floor is as low as it gets.
    native = ["-mcpu=native"] if platform.machine() == "aarch64" else ["-march=native"]
    options = ["-O3", *native, f"-I{_xxhash_include_dir()}", "-pthread"]
    done = subprocess.run(
        ["cc", *options, "-o", str(binary), str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchFailed(f"cannot compile the floor: {done.stderr.strip()[-400:]}")
    return binary


class SyncedFloor(Floor):
    """The same, which ends only when the file is on the disk: what a durable copy costs at least."""

    name = "floor-synced"
    title = "the same, and fdatasync at the end"
    durable = True
    _options = ("synced",)


class Nginx(Program):
    """nginx as Debian sets it up (sendfile, a worker a processor), and a client."""

    def start(self) -> Tree:
        port = free_port()
        config = self.work / "nginx.conf"
        server = f"access_log off; tcp_nopush on; server {{ listen 127.0.0.1:{port}; root {self.source.directory}; }}"
        config.write_text(nginx_config(self.work, server, workers="auto"))
        self._url = f"http://127.0.0.1:{port}/{FILE}"
        command = nginx_command(find_program("nginx") or "nginx", self.work, config)
        self.sender = Child(f"{self.name} sender", command, self.work)
        wait_listening(self.sender, port)
        return self.sender.tree


class Curl(Nginx):
    """One connection, to a file."""

    name = "curl"
    title = "nginx, curl to a file"
    checks = "nothing"
    durable = False
    binaries: ClassVar = {"nginx": "nginx-light", "curl": "curl"}

    def command(self) -> Sequence[str]:
        return ["curl", "--disable", "--silent", "--show-error", "--fail", "--output", str(self.copy), self._url]


class Aria2(Nginx):
    """Four connections, room reserved first."""

    name = "aria2"
    title = "nginx, aria2 with 4 connections"
    checks = "nothing"
    durable = True
    binaries: ClassVar = {"nginx": "nginx-light", "aria2c": "aria2"}

    def command(self) -> Sequence[str]:
        options = ["--no-conf", "--quiet", "--split=4", "--max-connection-per-server=4", "--min-split-size=1M"]
        # Its default writes the file twice.
        options += ["--file-allocation=falloc", f"--dir={self.work}", f"--out={self.copy.name}"]
        return ["aria2c", *options, self._url]


class Rsync(Program):
    """A daemon and a client, whole files, not compressed."""

    name = "rsync"
    title = "rsync daemon, rsync of the whole file"
    checks = "rsync's own checksum of the file"
    durable = False
    binaries: ClassVar = {"rsync": "rsync"}

    def start(self) -> Tree:
        port = free_port()
        config = self.work / "rsyncd.conf"
        # A daemon that is root would read as nobody, who cannot read here.
        user = "uid = 0\ngid = 0\n" if os.geteuid() == 0 else ""
        config.write_text(
            f"use chroot = no\n{user}log file = /dev/stderr\n[title]\npath = {self.source.directory}\nread only = yes\n"
        )
        self._url = f"rsync://127.0.0.1:{port}/title/{FILE}"
        command = ["rsync", "--daemon", "--no-detach", f"--config={config}", "--address=127.0.0.1", f"--port={port}"]
        self.sender = Child(f"{self.name} sender", command, self.work)
        wait_listening(self.sender, port)
        return self.sender.tree

    def command(self) -> Sequence[str]:
        return ["rsync", "--whole-file", "--no-compress", self._url, str(self.copy)]

    def fetch(self) -> Fetched:
        fetched = super().fetch()
        assert self.sender is not None  # noqa: S101
        self.sender.tree.wait_alone()
        return fetched


class P2PFill(Contender):
    """Two nodes with default settings; the title is live, and so on the disk, at the end."""

    durable = True
    integrity: ClassVar[Literal["blake3", "xxh3"]]

    def __init__(self, source: Source, work: Path) -> None:
        super().__init__(source, work)
        self._nodes: list[Child] = []

    @classmethod
    def missing(cls) -> str:
        return ""

    @classmethod
    def version(cls) -> str:
        return f"p2pfill {__version__}"

    def start(self) -> Tree:
        self._fill = self.work / "title.fill"
        self._fill.write_bytes(publish(self.source.directory, name="title", integrity=self.integrity).manifest.encode())
        self._sender = start_node(self.work, "serve", "seed", self.source.directory, self._fill)
        self._nodes.append(self._sender)
        self._address = self._sender.read()
        return self._sender.tree

    def prepare(self) -> None:
        # Of two nodes the one with the lower id dials, and only the receiver knows of the other one.
        self._receiver = start_node(self.work, "fetch", "fetch", self._fill)
        self._nodes.append(self._receiver)
        self._receiver.read()

    def fetch(self) -> Fetched:
        tree = self._receiver.tree
        tree.start()
        self._receiver.tell({"sources": [self._address]})
        done = self._receiver.read(RUN_S_MAX)
        cpu_s = tree.cpu_s()
        self._sender.check()
        return Fetched(done["live"] - done["began"], cpu_s, tree.peak_bytes())

    @property
    def copy(self) -> Path:
        return live_file(self.work, "fetch")

    def clear(self) -> None:
        self._receiver.finish()
        self._receiver.stop()
        self._nodes.remove(self._receiver)
        shutil.rmtree(self.work / "fetch")

    def stop(self) -> None:
        for node in self._nodes:
            node.stop()


class P2PFillDefault(P2PFill):
    """XXH3 and BLAKE3 of every chunk."""

    name = "default"
    title = "p2pfill, default integrity"
    checks = "XXH3-128 and BLAKE3 of each chunk"
    integrity = "blake3"


class P2PFillXxh3(P2PFill):
    """XXH3 alone, for fleets that trust all of their caches."""

    name = "xxh3"
    title = "p2pfill, XXH3 only"
    checks = "XXH3-128 of each chunk"
    integrity = "xxh3"


class LibTorrent(Contender):
    """A seed and a leech, told of each other; tuned as in the swarm benchmark."""

    name = "libtorrent"
    title = "libtorrent, seed to leech"
    checks = "SHA-1 of each piece"
    durable = False

    def __init__(self, source: Source, work: Path) -> None:
        super().__init__(source, work)
        self._peers: list[Child] = []

    @classmethod
    def missing(cls) -> str:
        return "" if find_spec("libtorrent") else "libtorrent is not installed; pip install 'p2pfill[bench]'"

    @classmethod
    def version(cls) -> str:
        return f"libtorrent {metadata.version('libtorrent')}"

    def start(self) -> Tree:
        from p2pfill.bench.torrent_peer import make_torrent

        self._torrent = self.work / "title.torrent"
        make_torrent(self.source.directory, self._torrent)
        self._seed, self._port = self._start_peer("seed", self.source.directory.parent, has_all=True)
        return self._seed.tree

    def _start_peer(self, name: str, save_dir: Path, *, has_all: bool) -> tuple[Child, int]:
        arguments = ["127.0.0.1:0", str(self._torrent), str(save_dir)]
        command = [sys.executable, "-m", "p2pfill.bench.torrent_peer", *arguments]
        peer = Child(f"{self.name} {name}", command, self.work)
        self._peers.append(peer)
        ready = peer.read()
        if ready["seed"] != has_all:
            raise BenchFailed(f"{peer.name} began with the wrong files")
        return peer, ready["port"]

    def prepare(self) -> None:
        (self.work / "leech").mkdir()
        self._leech, _ = self._start_peer("leech", self.work / "leech", has_all=False)

    def fetch(self) -> Fetched:
        tree = self._leech.tree
        tree.start()
        began = time.monotonic()
        self._leech.tell({"connect": [["127.0.0.1", self._port]]})
        while "written" not in (record := self._leech.read(RUN_S_MAX)):
            pass
        cpu_s = tree.cpu_s()
        self._seed.check()
        return Fetched(record["written"] - began, cpu_s, tree.peak_bytes())

    @property
    def copy(self) -> Path:
        return self.work / "leech" / self.source.directory.name / FILE

    def clear(self) -> None:
        self._leech.finish()
        self._leech.stop()
        self._peers.remove(self._leech)
        shutil.rmtree(self.work / "leech")

    def stop(self) -> None:
        for peer in self._peers:
            peer.stop()


CONTENDERS: Final[dict[str, type[Contender]]] = {
    kind.name: kind
    for kind in (Floor, SyncedFloor, P2PFillXxh3, P2PFillDefault, Curl, Aria2, LibTorrent, Rsync)
}


def start_node(work: Path, role: str, name: str, *arguments: Path) -> Child:
    """Start `node_process` in a role; its data is in `work/NAME`, and `read` waits until it is ready."""
    module = [sys.executable, "-m", "p2pfill.bench.node_process", role, name, str(work / name)]
    return Child(name, [*module, *map(str, arguments)], work)


def live_file(work: Path, name: str, title: str = "title") -> Path:
    """Return where a node's copy of the file is once its title is live."""
    return work / name / "live" / title / FILE


def _version_of(name: str) -> str:
    program = find_program(name) or name
    done = subprocess.run(
        [program, "-v" if name == "nginx" else "--version"], capture_output=True, text=True, check=False
    )
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return f"{name} {found[0] if found else '?'}"


def _xxhash_include_dir() -> str:
    """Return the directory of xxhash.h, the system's or the one that pyarrow carries; empty if there is neither."""
    candidates = [Path(directory) for directory in SYSTEM_INCLUDE_DIRS]
    arrow = find_spec("pyarrow")
    for directory in (arrow.submodule_search_locations or ()) if arrow else ():
        candidates.append(Path(directory) / "include" / "arrow" / "vendored" / "xxhash")
    return next((str(directory) for directory in candidates if (directory / "xxhash.h").is_file()), "")
