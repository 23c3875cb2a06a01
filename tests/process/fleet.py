"""A small fleet of real processes, and an origin that can be held, broken and counted.

Nothing here sleeps for a guessed time: the origin stops at a gate after so many bytes, so a fill is half-way for as
long as a test needs, and every wait has a condition and a generous limit.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from ports import free_port

from p2pfill.cli import main
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest
from p2pfill.store.journal import Journal
from p2pfill.store.publish import publish

WAIT_S: Final = 60.0
"""Far above what anything here takes, for machines that are busy with other things."""

PIECE_BYTES: Final = 32 * 1024


def wait_until(what: str, condition: Callable[[], Any], limit_s: float = WAIT_S) -> Any:
    """Return the first true value of `condition`; fails the test where none comes."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.03)
    return value


class Proc:
    """One process of p2pfill: what it announced, and its log."""

    def __init__(self, name: str, module: str, arguments: Iterable[str], log: Path, **options: Any) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                text=True,
                **options,
            )
        self._ready: dict[str, Any] | None = None
        self._told = False

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ready(self) -> dict[str, Any]:
        """What it says once it is ready; waits for it."""
        if self._ready is None:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, f"{self.name} did not start: {self.text()}"
            self._ready = json.loads(line)
        return self._ready

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def running(self) -> bool:
        return self.process.poll() is None

    def tell(self, number: int = signal.SIGTERM) -> None:
        """Send the signal that ends it, once: a second SIGTERM would not wait for a clean end."""
        if self.running() and not self._told:
            self._told = True
            self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM, limit_s: float = WAIT_S) -> int:
        """Send a signal, wait for the end and return the exit code (negative: ended by that signal)."""
        self.tell(number)
        try:
            return self.process.wait(limit_s)
        finally:
            if self.running():
                self.process.kill()
                self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()


class HeldOrigin:
    """A web server over a directory that sends `allow(n)` bytes of payload and then waits for more leave.

    `ranges=False` ignores Range; `break_every` cuts each such response (counted) half-way; `one_copy` makes it die when
    every byte has gone out at least once.
    """

    def __init__(
        self,
        root: Path,
        *,
        allowed: int | None = None,
        ranges: bool = True,
        break_every: int = 0,
        one_copy: bool = False,
    ) -> None:
        self.root = root
        self.ranges = ranges
        self.break_every = break_every
        self.sent_bytes = 0
        self.responses = 0
        self.broken = 0
        self._allowed = allowed
        self._missing = {path: bytearray(b"\1" * path.stat().st_size) for path in root.rglob("*") if path.is_file()}
        self._one_copy = one_copy
        self._dead = False
        self._waiting = 0
        self._sockets: set[Any] = set()
        self._turn = threading.Condition()
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                origin._sockets.add(self.connection)

            def finish(self) -> None:
                origin._sockets.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def handle(self) -> None:
                with suppress(OSError):
                    super().handle()

            def do_GET(self) -> None:
                origin._answer(self)

            def do_HEAD(self) -> None:
                origin._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def allow(self, count: int | None) -> None:
        """Let `count` bytes out in all, counted from the start; None for any number."""
        with self._turn:
            self._allowed = count
            self._turn.notify_all()

    def held(self) -> bool:
        """Tell whether somebody waits at the gate."""
        with self._turn:
            return self._waiting > 0

    def sent_all(self) -> bool:
        """Tell whether every byte has gone out at least once."""
        with self._turn:
            return not any(1 in marks for marks in self._missing.values())

    def kill(self) -> None:
        """Go away as a killed process does: all connections break, the port is closed."""
        with self._turn:
            if self._dead:
                return
            self._dead = True
            self._turn.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(2)

    def _take(self, count: int) -> None:
        with self._turn:
            self._waiting += 1
            self._turn.wait_for(
                lambda: self._dead or self._allowed is None or self.sent_bytes + count <= self._allowed, WAIT_S
            )
            self._waiting -= 1
            if self._dead or (self._one_copy and not any(1 in marks for marks in self._missing.values())):
                raise OSError("killed")
            self.sent_bytes += count

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = self.root / urllib.parse.unquote(handler.path).lstrip("/")
        if not path.is_file():
            handler.send_error(404)
            return
        size = path.stat().st_size
        start, end, code = 0, size, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        if asked is not None and self.ranges:
            start, code = int(asked[1]), 206
            end = min(size, int(asked[2]) + 1) if asked[2] else size
        handler.send_response(code)
        if code == 206:
            handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        handler.send_header("Content-Length", str(end - start))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        with self._turn:
            self.responses += 1
            breaks = bool(self.break_every) and self.responses % self.break_every == 0
            self.broken += breaks
        until = start + (end - start) // 2 if breaks else end
        with path.open("rb") as file:
            file.seek(start)
            while start < until:
                piece = file.read(min(PIECE_BYTES, until - start))
                self._take(len(piece))
                handler.wfile.write(piece)
                with self._turn:
                    self._missing[path][start : start + len(piece)] = bytes(len(piece))
                start += len(piece)
        if breaks:
            handler.close_connection = True


class Title:
    """A published tree of random files."""

    def __init__(self, directory: Path, name: str, size: int, chunk_size: int = 128 * 1024) -> None:
        self.name = name
        self.root = directory / name
        self.root.mkdir()
        (self.root / "big.bin").write_bytes(os.urandom(size * 3 // 4))
        (self.root / "sub dir").mkdir()
        for number in range(8):
            (self.root / "sub dir" / f"kleine Datei ü{number}").write_bytes(os.urandom(size // 32))
        (self.root / "empty").touch()
        self.manifest: Manifest = publish(self.root, name=name, chunk_size=chunk_size).manifest
        self.fill = directory / f"{name}.fill"
        self.fill.write_bytes(self.manifest.encode())
        self.id = self.manifest.title_id.hex()
        self.size = self.manifest.size


class Fleet:
    """A tracker and caches below `directory`, each a process."""

    def __init__(self, directory: Path, tracker_options: tuple[str, ...] = ()) -> None:
        self._tracker_options = tracker_options
        self.directory = directory
        self.nodes: dict[str, Proc] = {}
        self._settings: dict[str, tuple[str, ...]] = {}
        self._environments: dict[str, dict[str, str]] = {}
        self._old: list[Proc] = []
        self.tracker = self._start_tracker(f"127.0.0.1:{free_port()}")
        self.url: str = self.tracker.ready["url"]

    # ---- processes

    def _start_tracker(self, listen: str) -> Proc:
        arguments = ["tracker", "--listen", listen, "--db", f"sqlite:///{self.directory}/tracker.db"]
        arguments += ["--heartbeat", "0.5", "--until-eof", "--json", *self._tracker_options]
        return Proc("tracker", "p2pfill.cli", arguments, self.directory / "tracker.log")

    def restart_tracker(self) -> None:
        """Start the tracker again on the same port and database."""
        self._old.append(self.tracker)
        self.tracker = self._start_tracker(urllib.parse.urlsplit(self.url).netloc)
        assert self.tracker.ready["url"] == self.url

    def start(
        self,
        *names_and_isps: tuple[str, str],
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start caches side by side, and return once all of them listen. `environment` is added to this process's."""
        for name, isp in names_and_isps:
            self._settings[name] = ("--isp", isp, *options)
            self._environments[name] = {**os.environ, **(environment or {})}
            self._start_node(name)
        for name, _ in names_and_isps:
            assert self.nodes[name].ready["id"] == name

    def _start_node(self, name: str) -> None:
        arguments = ["node", "--id", name, "--data", str(self.data(name)), "--tracker", self.url, *self._settings[name]]
        self.nodes[name] = Proc(
            name,
            "p2pfill.cli",
            [*arguments, "--until-eof", "--json"],
            self.directory / f"{name}.log",
            env=self._environments[name],
        )

    def restart(self, name: str) -> None:
        """Start a cache that has ended again, on its data directory."""
        self.begin_restart(name)
        assert self.nodes[name].ready["id"] == name

    def begin_restart(self, name: str) -> None:
        """Start a cache that has ended again, and do not wait for it."""
        assert not self.nodes[name].running()
        self._old.append(self.nodes[name])
        self._start_node(name)

    def stop(self, name: str) -> int:
        """End a cache in good order, take it out of the fleet, and return its exit code."""
        proc = self.nodes.pop(name)
        self._old.append(proc)
        return proc.end()

    def data(self, name: str) -> Path:
        return self.directory / f"data-{name}"

    def close(self) -> None:
        """End everything, and check that all ends and all logs are clean."""
        procs = [*self.nodes.values(), self.tracker]
        for proc in procs:
            proc.tell()
        codes = {proc.name: proc.end() for proc in procs}
        for proc in self._old:
            proc.end(signal.SIGKILL)
        self.check_logs()
        assert set(codes.values()) <= {0}, codes

    def check_logs(self) -> None:
        """Fail where any process has logged a traceback."""
        for log in self.directory.glob("*.log"):
            text = log.read_text(errors="replace")
            assert "Traceback" not in text, f"{log.name}: {text[-6000:]}"

    # ---- the tracker's view

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=WAIT_S) as answer:
            return json.load(answer)

    def report(self, name: str, title: Title) -> dict[str, Any]:
        """Return what a cache last said of a title, {} before it has said anything."""
        try:
            node = self.get(f"/v1/nodes/{name}")
        except (urllib.error.URLError, OSError):
            return {}
        return next((report for report in node["titles"] if report["title"] == title.id), {})

    def alive(self) -> set[str]:
        return {node["info"]["id"] for node in self.get("/v1/nodes")["nodes"] if node["alive"]}

    def order(
        self, title: Title, origins: Iterable[str], to: str = "all", files: Iterable[str] = (), **policy: float
    ) -> str:
        """Order a fill, with `p2pfill fill` where neither files nor a policy are asked for; return its id."""
        if not policy and not files:
            flags = [flag for origin in origins for flag in ("--origin", origin)]
            done = cli("fill", str(title.fill), "--tracker", self.url, *flags, "--to", to, "--later", "--json")
            assert done.code == 0, done
            return str(json.loads(done.out)["fill"])
        self._send("PUT", f"/v1/titles/{title.id}", title.manifest.encode())
        body = {"title": title.id, "selector": to, "origins": list(origins), "policy": policy, "files": list(files)}
        return str(self._send("POST", "/v1/fills", json.dumps(body).encode())["fill_id"])

    def withdraw(self, fill_id: str) -> None:
        """Take back an order."""
        request = urllib.request.Request(f"{self.url}/v1/fills/{fill_id}", method="DELETE")
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            assert answer.status == 204

    def _send(self, method: str, path: str, body: bytes) -> Any:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return json.load(answer)

    def live(self, names: Iterable[str], title: Title) -> dict[str, dict[str, Any]]:
        """Wait until these caches hold the title, verify their files, and return their reports."""
        reports: dict[str, dict[str, Any]] = {}
        for name in names:

            def done(name: str = name) -> bool:
                assert self.nodes[name].running(), f"{name} has ended: {self.nodes[name].text()[-3000:]}"
                reports[name] = self.report(name, title)
                assert reports[name].get("state") != "failed", reports[name]
                return reports[name].get("state") == "live"

            try:
                wait_until(f"{name} is live", done)
            except AssertionError as error:
                raise AssertionError(f"{error}; last report {reports.get(name)}") from error
            verified = cli("verify", str(self.data(name) / "live" / title.name), str(title.fill))
            assert verified.code == 0, verified
        return reports

    def journal(self, name: str, title: Title) -> Bitmap:
        """Return the chunks that a cache's journal vouches for. The cache must not be running."""
        fd = os.open(self.data(name) / "filling" / title.id, os.O_RDONLY | os.O_DIRECTORY)
        try:
            journal, have = Journal.open(fd, title.manifest.title_id, title.manifest.chunk_count)
            journal.close()
        finally:
            os.close(fd)
        return have


class Done:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit code {self.code}, stdout {self.out!r}, stderr {self.err!r}"


def cli(*arguments: str) -> Done:
    """Run a p2pfill command in this process (a process of its own costs half a second) and return how it ended."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return Done(code, out.getvalue(), err.getvalue())
