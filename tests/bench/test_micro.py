"""Each micro benchmark runs, on both twins, and what it does is what it says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest
from docs.pages import ROOT

from bench.micro import heartbeats
from bench.micro.course import Course
from bench.micro.works import WORKS, open_work
from p2pfill.swarm.election import Scope


def test_each_runs_once() -> None:
    command = [sys.executable, "-m", "pytest", "bench/micro", "--benchmark-disable", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("filling", [False, True])
def test_a_course_is_a_whole_fill_in_which_each_chunk_comes_once(filling: bool) -> None:
    course = Course(7, filling=filling, chunk_count=900)
    assert course.run(10_000) == 900
    assert course.complete
    course.fill.ledger.check()
    kept = course.fill.bytes_by_scope
    assert sum(kept.values()) == course.fill.manifest.size
    assert kept[Scope.ISP] > 0.8 * sum(kept.values())
    assert course.fill.duplicate_bytes == 0
    assert sum(course.fill.escalations.values()) == 0
    # Each source of which something could be had gave its part.
    assert min(source.bytes_kept for source in course.fill.sources.values() if source.scope == Scope.ISP) > 0


def test_a_work_goes_on_when_its_course_is_over() -> None:
    with open_work(WORKS["schedule-1-filling"], "native", small=True) as run:
        run(4000)


def test_heartbeats_reach_a_real_tracker() -> None:
    found = heartbeats.measure(node_count=20, rounds=1)
    assert {name: len(values) for name, values in found.items()} == {"per_cpu_s": 1, "per_s": 1}
    assert all(value > 0 for values in found.values() for value in values)


def test_a_node_connects_when_it_has_something_to_say() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with heartbeats.Nodes(f"http://127.0.0.1:{listener.getsockname()[1]}", 2) as nodes:
            assert len(nodes.requests(1, "00" * 32)) == 2
            # A tracker would close what says nothing while the requests of 10,000 are made.
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_a_node_whose_idle_connection_was_closed_makes_another() -> None:
    closed = threading.Event()

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            for connection in [listener.accept()[0] for _ in range(2)]:
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,), daemon=True)
        server.start()
        with heartbeats.Nodes(f"http://127.0.0.1:{listener.getsockname()[1]}", 2) as nodes:
            nodes.beat([b"first", b"first"])
            closed.wait(10)
            nodes.beat([b"second", b"second"])
        server.join(10)
        assert not server.is_alive()


def test_a_node_whose_connection_is_closed_instead_of_an_answer_asks_once_more() -> None:
    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            connection.recv(65536)
        for answer in (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""):
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        with heartbeats.Nodes(f"http://127.0.0.1:{listener.getsockname()[1]}", 1) as nodes:
            nodes.beat([b"first"])
            nodes.beat([b"second"])
            with pytest.raises(RuntimeError, match="closed a connection"):
                nodes.beat([b"third"])
