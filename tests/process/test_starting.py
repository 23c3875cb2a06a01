"""What a node imports before it listens, and what that costs: a library that creeps in is paid at each start."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from measure import check_at_most

from bench.starting import start_node

pytestmark = pytest.mark.process

NOT_NEEDED = {
    "anyio", "asyncio", "boto3", "cryptography", "h11", "httpcore2", "httpx2", "hypercorn", "obstore", "pydantic",
    "rich", "sqlite3", "starlette", "typer",
}  # fmt: skip
"""By a node without an identity, an origin and, yet, a call to its tracker."""

NOT_NEEDED_OF_OURS = {
    "p2pfill.bench", "p2pfill.cli.app", "p2pfill.origin.reader", "p2pfill.plan", "p2pfill.sim",
    "p2pfill.tracker.catalogue", "p2pfill.tracker.service", "p2pfill.trust.credentials",
}  # fmt: skip

LIBRARY = """
import sys, trio, p2pfill

async def main():
    config = p2pfill.NodeConfig(
        id="a1", isp="isp-a", data=sys.argv[1], listen="127.0.0.1:0", tracker="http://127.0.0.1:9"
    )
    async with p2pfill.open_node(config):
        print(*sys.modules)

trio.run(main)
"""

TIMES_PYTHON = 16.0
"""A node takes so many times the processor time that Python takes alone, at most; it is 9 to 10, and was 25 when it
imported all that it might need. Both slow down together, on a slow machine and on a busy one."""


def superfluous(modules: set[str]) -> set[str]:
    """Return which of those modules a node that starts does not need."""
    assert "p2pfill.node.node" in modules
    return (modules & NOT_NEEDED_OF_OURS) | ({name.partition(".")[0] for name in modules} & NOT_NEEDED)


def test_a_program_that_opens_a_node_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    run = [sys.executable, "-c", LIBRARY, str(tmp_path / "data")]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert superfluous(set(said.split())) == set()


def test_the_command_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    run = [sys.executable, "-X", "importtime", "-m", "p2pfill.cli", "node", "--id", "a1", "--isp", "isp-a",
           "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--until-eof"]  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(run, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as node:
        assert node.stdout is not None
        assert node.stdout.readline().startswith("p2pfill node a1 at 127.0.0.1:")
        _, log = node.communicate()  # its standard input ends
    assert node.returncode == 0
    assert superfluous(set(re.findall(r"^import time:.*\| +(\S+)$", log, re.MULTILINE))) == set()


def test_a_node_is_ready_in_a_few_times_what_python_takes(tmp_path: Path) -> None:
    def ratio(attempt: int) -> float:
        python = min(start_node("python", tmp_path / f"python-{attempt}-{turn}").cpu_s for turn in range(3))
        return min(start_node("p2pfill node", tmp_path / f"{attempt}-{turn}").cpu_s for turn in range(3)) / python

    check_at_most(TIMES_PYTHON, ratio)
