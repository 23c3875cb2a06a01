"""Heartbeats of a large fleet to a tracker: the reports, and a real tracker process under load.

`measure` runs `p2pfill tracker` over an SQLite file and plays the nodes: each has a connection of its own that it
keeps, as real ones do, and sends the request that `TrackerClient.heartbeat` would. Those who play need a processor too,
so what counts is the tracker's own processor time for each heartbeat, writing to the database included.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from bench.micro.course import CHUNK_BYTES, CHUNK_COUNT, make_manifest
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import NodeReport, SourceReport, TitleReport
from p2pfill.tracker.records import FillRequest

NODE_COUNT: Final = 10_000
ISP_NODES: Final = 50
REGION_ISPS: Final = 10
SOURCE_COUNT: Final = 10
"""Sources that a node names in its report."""

IN_FLIGHT: Final = 64
"""Heartbeats that are on their way at a time: a tracker that is as busy as can be is never idle."""


def make_report(number: int, sequence: int, title: str) -> NodeReport:
    """Return a heartbeat of node `number` of the fleet, which is filling `title`."""
    isp = number // ISP_NODES
    info = NodeInfo(NodeId(f"c{number:05}"), f"isp{isp}", f"region{isp // REGION_ISPS}", host="10.0.0.1", port=4000)
    sources = [
        SourceReport(f"c{(number + other + 1) % NODE_COUNT:05}", "peer", sequence << 20, 1e7 + other, 2)
        for other in range(SOURCE_COUNT)
    ]
    have = min(sequence, CHUNK_COUNT)
    report = TitleReport(
        title,
        "filling",
        chunk_count=CHUNK_COUNT,
        have_chunks=have,
        have_bytes=have * CHUNK_BYTES,
        title_bytes=CHUNK_COUNT * CHUNK_BYTES,
        bytes_peer=have * CHUNK_BYTES,
        rate_bytes_s=1e8,
        waits={"room at a peer": CHUNK_COUNT - have},
        sources=sources,
        started_at=1.0,
    )
    return NodeReport(info, "boot", sequence, [report], upload_active=1, upload_bytes=have * CHUNK_BYTES)


def make_request(host: str, report: NodeReport) -> bytes:
    """Return the bytes of the HTTP request that carries a heartbeat, with the headers that our client sends."""
    body = msgspec.json.encode(report)
    head = (
        f"POST /v1/nodes/{report.info.id}/heartbeat HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n"
        f"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nUser-Agent: p2pfill\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Nodes:
    """`count` nodes of the tracker at `url`, all played by one thread.

    Each connects when it has something to say: a tracker closes connections on which no request has come for some
    seconds, and on a slow machine a round of all nodes takes longer than that. Where it closes one just as a request is
    sent, the node asks once more over another, as clients do.
    """

    def __init__(self, url: str, count: int) -> None:
        parsed = urllib.parse.urlsplit(url)
        assert parsed.hostname is not None
        assert parsed.port is not None
        self._host = parsed.netloc
        self._address = parsed.hostname, parsed.port
        self._count = count
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        """Number of the node -> its connection, if it has one."""
        self._number: dict[int, int] = {}
        self._asked_last: set[int] = set()
        """Nodes whose request went over a new connection: if that is closed, too, it is for another reason."""

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._poll.close()

    def requests(self, sequence: int, title: str) -> list[bytes]:
        """Return one heartbeat of each node, ready to be sent."""
        return [make_request(self._host, make_report(number, sequence, title)) for number in range(self._count)]

    def beat(self, requests: list[bytes]) -> None:
        """Send one heartbeat of each node and take all answers. Raises `RuntimeError` where one is not a 200."""
        waiting: set[int] = set()
        begun = 0
        while waiting or begun < len(requests):
            while begun < len(requests) and len(waiting) < IN_FLIGHT:
                self._ask(begun, requests[begun], is_last=begun not in self._sockets)
                waiting.add(begun)
                begun += 1
            for fd, _ in self._poll.poll():
                number = self._number[fd]
                if number not in waiting:  # nothing comes unasked but the end
                    self._close(number)
                elif self._take_answer(self._sockets[number], is_last=number in self._asked_last):
                    waiting.remove(number)
                else:
                    self._close(number)
                    self._ask(number, requests[number], is_last=True)

    def _ask(self, number: int, request: bytes, *, is_last: bool) -> None:
        (self._asked_last.add if is_last else self._asked_last.discard)(number)
        with suppress(ConnectionError):  # which is seen where the answer is taken
            self._connection(number).sendall(request)

    def _connection(self, number: int) -> socket.socket:
        sock = self._sockets.get(number)
        if sock is None:
            sock = self._sockets[number] = socket.create_connection(self._address)
            self._number[sock.fileno()] = number
            self._poll.register(sock, select.EPOLLIN)
        return sock

    def _close(self, number: int) -> None:
        sock = self._sockets.pop(number)
        del self._number[sock.fileno()]
        sock.close()

    def _take_answer(self, sock: socket.socket, *, is_last: bool) -> bool:
        """Return False where the connection was closed instead of an answer. Raises `RuntimeError`."""
        answer = b""
        while not is_whole(answer):
            try:
                more = sock.recv(65536)
            except ConnectionError:
                more = b""
            if not more and not answer and not is_last:
                return False
            if not more:
                raise RuntimeError(f"the tracker has closed a connection after {answer[:500]!r}")
            answer += more
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the tracker refused a heartbeat: {answer[:500]!r}")
        return True


def is_whole(answer: bytes) -> bool:
    """Tell whether an HTTP answer with a content-length is all there."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    lengths = [line.split(b":")[1] for line in head.lower().splitlines() if line.startswith(b"content-length:")]
    return len(body) >= int(lengths[0])


@contextmanager
def tracker(directory: Path) -> Iterator[tuple[str, int]]:
    """Run `p2pfill tracker` over a database in `directory`; yield its URL and process id."""
    command = [sys.executable, "-m", "p2pfill.cli", "tracker", "--listen", "127.0.0.1:0", "--json", "--until-eof"]
    # No heartbeat may be missed while 10,000 are played: that would measure how nodes are given up.
    command += ["--db", f"sqlite:///{directory}/tracker.db", "--heartbeat", "600"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"], process.pid
        finally:
            process.terminate()


def cpu_s_of(pid: int) -> float:
    """Return the processor seconds that all threads of a process have used, in user and in kernel mode."""
    # What clock_getcpuclockid(3) makes of a process id; /proc counts in hundredths of a second.
    return time.clock_gettime(~pid << 3 | 2)


def order_fill(url: str) -> str:
    """Publish a title at a tracker and order it for all nodes; return its id."""
    manifest = make_manifest(CHUNK_COUNT)
    title = manifest.title_id.hex()
    fill = FillRequest(title, "all", ["http://origin/"])
    for method, path, body in (
        ("PUT", f"/v1/titles/{title}", manifest.encode()),
        ("POST", "/v1/fills", msgspec.json.encode(fill)),
    ):
        with urllib.request.urlopen(urllib.request.Request(url + path, body, method=method)) as answer:
            answer.read()
    return title


def measure(node_count: int = NODE_COUNT, rounds: int = 5) -> dict[str, list[float]]:
    """Return, per round of one heartbeat of each node, heartbeats per second of the tracker's processor time and of the
    clock's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the tracker inherits it
    found: dict[str, list[float]] = {"per_cpu_s": [], "per_s": []}
    try:
        with tempfile.TemporaryDirectory(prefix="p2pfill-micro-") as work, tracker(Path(work)) as (url, pid):
            title = order_fill(url)
            with Nodes(url, node_count) as nodes:
                nodes.beat(nodes.requests(1, title))
                for sequence in range(2, rounds + 2):
                    requests = nodes.requests(sequence, title)
                    cpu_s, began = cpu_s_of(pid), time.perf_counter()
                    nodes.beat(requests)
                    took_s = time.perf_counter() - began
                    # What was put off is written once a second.
                    time.sleep(1.5)
                    found["per_cpu_s"].append(node_count / (cpu_s_of(pid) - cpu_s))
                    found["per_s"].append(node_count / took_s)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return found
