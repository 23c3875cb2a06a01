"""Commands as processes of their own: starting, announcing themselves, stopping, and leaving nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pfill.cli import main

pytestmark = pytest.mark.process

WAIT_S = 60.0
"""For a process to end or to answer, on a machine that is busy with other things."""


@contextmanager
def running(module: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start a process and yield it with the object that it announces itself with."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def test_tracker_stops_by_signal_and_keeps_its_port_meanwhile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = f"sqlite:///{tmp_path}/t.db"
    with running("p2pfill.cli", "tracker", "--listen", "127.0.0.1:0", "--db", db, "--json") as (process, ready):
        with urllib.request.urlopen(ready["url"] + "/v1/health", timeout=10) as answer:
            assert json.load(answer)["status"] == "ok"
        address = urllib.parse.urlsplit(ready["url"]).netloc
        assert main(["tracker", "--listen", address, "--db", f"sqlite:///{tmp_path}/other.db"]) == 2
        assert "choose another port" in capsys.readouterr().err
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=WAIT_S) == 0


def test_tracker_ends_with_its_parent(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path}/t.db"
    with running("p2pfill.cli", "tracker", "--listen", "127.0.0.1:0", "--db", db, "--until-eof", "--json") as (
        process,
        _,
    ):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=WAIT_S) == 0


def test_static_server_serves_the_title_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "ä b").mkdir(parents=True)
    (root / "ä b" / "100%.bin").write_bytes(bytes(range(200)))
    fill = tmp_path / "t.fill"
    assert main(["publish", str(root), "--name", "t", "--out", str(fill)]) == 0
    (root / "secret").write_bytes(b"not of the title")
    with running("p2pfill.cli.static_server", str(root), str(fill)) as (process, ready):
        url = f"{ready['url']}/{urllib.parse.quote('ä b/100%.bin')}"
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
            assert answer.read() == bytes(range(200))
        request = urllib.request.Request(url, headers={"Range": "bytes=10-19"})
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            assert answer.status == 206
            assert answer.read() == bytes(range(10, 20))
        for path in ("secret", "../t.fill", "%2e%2e/t.fill", ""):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{ready['url']}/{path}", timeout=WAIT_S)
            caught.value.close()
            assert caught.value.code == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=WAIT_S) == 0


DEMO = [sys.executable, "-u", "-m", "p2pfill.cli", "demo"]


def test_demo_fills_verifies_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--size", "4", "--work", str(tmp_path), "--json"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert (record["caches"], record["completed"], record["verified"]) == (7, 7, 7)
    assert record["title_bytes"] == 4 * 1024 * 1024
    assert record["origin_copies"] >= 1
    assert sum(record["bytes_by_tier"].values()) == 7 * record["title_bytes"]
    assert set(record["isp_copies"]) == {"isp-a", "isp-b", "hub"}
    assert "All bytes are right." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_demo_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*DEMO, "--size", "64", "--work", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    with process.stdout as said:
        line = next((line for line in said if line.startswith("Started")), "")
        assert line
        process.send_signal(signal.SIGINT)
        rest = said.read()
    assert process.wait(timeout=30) == 130
    assert rest.splitlines()[-1] == "p2pfill: interrupted"
    assert list(tmp_path.iterdir()) == []
    assert_gone(line)


def test_demo_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen([*DEMO, "--size", "64", "--work", str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        line = next((line for line in said if line.startswith("Started")), "")
        process.kill()
        process.wait()
    assert_gone(line)


def assert_gone(started: str) -> None:
    pids = [int(text) for text in re.findall(r"\b\d{2,}\b", started)]
    assert len(pids) == 9, started
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if Path(f"/proc/{pid}/cmdline").is_file() and is_ours(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def is_ours(pid: int) -> bool:
    try:
        return b"p2pfill" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_demo_of_a_path_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    assert main(["demo", str(empty), "--work", str(work)]) == 1
    assert "there is no file in it" in capsys.readouterr().err
    assert os.listdir(work) == []


def test_a_node_reads_its_rates_again(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    text = f'id = "a1"\nisp = "a"\ndata = "{tmp_path}/data"\n'
    file.write_text(text + 'rates = "2MB"\n')
    with running("p2pfill.cli", "node", "--config", str(file), "--json") as (process, _):
        assert process.stderr is not None

        def said_after(rates: str) -> str:
            file.write_text(text + rates)
            process.send_signal(signal.SIGHUP)
            assert process.stderr is not None
            return next(line for line in process.stderr if "limits" in line or "rates" in line)

        assert "limits were in: total 2 MB/s; out: no limit, and are now in: origin 1 MB/s; out:" in said_after(
            '[rates.inbound]\norigin = "1MB"\n'
        )
        assert "rates.inbound.peer: 'fast' is no rate" in said_after('[rates.inbound]\npeer = "fast"\n')
        assert "the limits in force are as before: in: origin 1 MB/s" in said_after('[rates.inbound]\norigin = "1MB"\n')
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=WAIT_S) == 0
