"""Clocks of a real process with threads of which some end, what is lost of these, and the sums of readings."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs.pages import ROOT

from bench.swarm import clocks
from bench.swarm.clocks import Cpu, GroupUse, ProcessClock, ThreadClock, groups_between, read_process

TICK_S = 1 / clocks.TICKS_S

CHILD = """
import sys, threading, time
from p2pfill.threads import name_thread

def burn(seconds):
    name_thread()
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    print(threading.current_thread().name, flush=True)
    if threading.current_thread().name != "ends":
        threading.Event().wait()

def switch():
    name_thread()
    for _ in range(100):
        time.sleep(0.001)
    print("slept", flush=True)
    threading.Event().wait()

for line in sys.stdin:
    name, seconds = line.split()
    target, arguments = (switch, ()) if name == "odd)(1" else (burn, (float(seconds),))
    threading.Thread(target=target, name=name, args=arguments, daemon=True).start()
"""


class Child:
    """A process that starts threads, each when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def run(self, name: str, seconds: float) -> None:
        """Have a thread of that name take so much processor time; a thread called "ends" is then over."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{name} {seconds}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()
        until = time.monotonic() + 10
        while name == "ends" and time.monotonic() < until:
            if len(list(Path(f"/proc/{self.pid}/task").iterdir())) == 1 + self.living:
                return
            time.sleep(0.005)

    living = 0
    """Threads beside the first one that go on."""


@pytest.fixture
def child() -> Iterator[Child]:
    command = [sys.executable, "-c", textwrap.dedent(CHILD)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


def took(use: GroupUse) -> float:
    return use.user_s + use.system_s


@pytest.mark.process
def test_threads_are_known_by_their_groups_and_an_ended_one_by_its_sum(child: Child) -> None:
    child.run("data-7", 0.0)
    child.living = 1
    before = read_process(child.pid)
    child.run("data-3", 0.2)
    child.living = 2
    child.run("ends", 0.1)
    after = read_process(child.pid)
    found = groups_between(before, after)
    assert found["data plane"].threads == 2
    assert 0.19 <= took(found["data plane"]) < 0.26
    assert 0.1 - 2 * TICK_S <= took(found[clocks.ENDED]) < 0.16
    assert found[clocks.ENDED].threads == 0
    assert found[clocks.MAIN].threads == 1
    whole = sum(after.cpu) - sum(before.cpu)
    assert sum(map(took, found.values())) == pytest.approx(whole, abs=3 * TICK_S)


@pytest.mark.process
def test_what_ended_after_a_look_counts_for_its_group(child: Child) -> None:
    before = read_process(child.pid)
    child.run("data-3", 0.1)
    look = read_process(child.pid)
    gone = {key: clock for key, clock in look.threads.items() if clock.group == "data plane"}
    assert len(gone) == 1
    after = ProcessClock(look.cpu, {key: clock for key, clock in look.threads.items() if key not in gone})
    assert 0.1 - 2 * TICK_S <= took(groups_between(before, after)[clocks.ENDED]) < 0.16
    found = groups_between(before, look.merge(after))
    assert clocks.ENDED not in found
    assert 0.09 <= took(found["data plane"]) < 0.16


@pytest.mark.process
def test_context_switches_are_counted_whatever_a_thread_is_called(child: Child) -> None:
    before = read_process(child.pid)
    child.run("odd)(1", 0.0)
    found = groups_between(before, read_process(child.pid))
    assert 100 <= found[clocks.WORKERS].voluntary < 400
    assert clocks.switches_of(found)[0] >= 100


def thread(total_s: float, *, group: str = "data plane", ticks: Cpu | None = None, voluntary: int = 0) -> ThreadClock:
    return ThreadClock(group, Cpu(0.0, 0.0) if ticks is None else ticks, total_s, voluntary, 0)


def test_a_thread_whose_id_is_given_again_is_another() -> None:
    before = ProcessClock(Cpu(1.0, 0.0), {(7, 100): thread(1.0, voluntary=50)})
    after = ProcessClock(Cpu(1.3, 0.0), {(7, 200): thread(0.3, voluntary=3)})
    found = groups_between(before, after)
    assert found == {"data plane": GroupUse(1, pytest.approx(0.3), 0.0, 3, 0)}


def test_many_threads_of_less_than_a_tick_divide_as_their_process_and_lose_nothing() -> None:
    after = ProcessClock(Cpu(0.06, 0.02), {(number, 0): thread(0.008) for number in range(10)})
    found = groups_between(ProcessClock(Cpu(0.0, 0.0), {}), after)
    assert found == {"data plane": GroupUse(10, pytest.approx(0.06), pytest.approx(0.02), 0, 0)}


def test_what_rounding_leaves_is_no_group() -> None:
    before = ProcessClock(Cpu(0.0, 0.0), {(1, 0): thread(0.0, group="main")})
    after = ProcessClock(Cpu(0.52, 0.0), {(1, 0): thread(0.5, group="main", ticks=Cpu(0.5, 0.0))})
    assert clocks.ENDED not in groups_between(before, after)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("data-0", "data plane"), ("data-pace", "pacer"), ("origin_3", "origin pool"), ("Trio thread 1", "workers"),
        ("read from p2pfi", "workers"), ("p2pfill-catalog", "catalogue"), ("python", "unnamed"),
    ],
)  # fmt: skip
def test_groups_are_told_by_names(name: str, group: str) -> None:
    assert clocks.group_of(name, "python") == group


@pytest.mark.process
def test_a_process_that_is_gone_says_so() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with pytest.raises(FileNotFoundError):
        read_process(gone.pid)
