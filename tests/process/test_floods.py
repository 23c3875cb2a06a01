"""A tracker with few descriptors under more idle connections than those: the honest caller goes on."""

from __future__ import annotations

import resource
import socket
import time
from pathlib import Path

import pytest
from process.fleet import Proc, cli

pytestmark = [pytest.mark.process]

DESCRIPTORS = 128
ANSWER_S = 5.0


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


def test_more_idle_connections_than_descriptors_shut_out_nobody(tmp_path: Path) -> None:
    arguments = ("tracker", "--listen", "127.0.0.1:0", "--db", f"sqlite:///{tmp_path}/t.db", "--json")
    tracker = Proc("tracker", "p2pfill.cli", arguments, tmp_path / "log", preexec_fn=limit)
    idle: list[socket.socket] = []
    try:
        url = str(tracker.ready["url"])
        host, port = url.removeprefix("http://").split(":")
        idle += [socket.create_connection((host, int(port)), ANSWER_S) for _ in range(2 * DESCRIPTORS)]
        began = time.monotonic()
        done = cli("status", "--tracker", url)
        assert (done.code, "refused by the tracker" in done.out) == (0, True), done
        assert time.monotonic() - began < ANSWER_S
        assert tracker.text().count("closed to make room") == 1, "one line, however many"
    finally:
        for one in idle:
            one.close()
        tracker.end()
    assert "Too many open files" not in tracker.text()
