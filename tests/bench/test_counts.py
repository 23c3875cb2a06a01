"""What a node's event loop does is counted: of a pair of nodes in one process, which answer to a signal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from docs.pages import ROOT

from bench.swarm import counts

PAIR = """
import os, sys
from pathlib import Path
from bench.swarm import counts

counts.install()
import trio
from p2pfill.node.config import NodeConfig
from p2pfill.node.node import open_node
from p2pfill.store.publish import publish

work = Path(sys.argv[1])
manifest = publish(work / "source", name="title", chunk_size=1 << 16).manifest

async def main():
    config = lambda name: NodeConfig(id=name, isp="isp", data=str(work / name))
    async with open_node(config("a")) as to, open_node(config("b")) as of:
        await of.fill(manifest, [str(work / "source")])
        os.kill(os.getpid(), counts.ASK_SIGNAL)
        filling = await to.start_fill(manifest, members=[to.info], holders=[of.info])
        to.want_links([of.info])
        await filling.wait()
        assert filling.report().bytes_peer == manifest.size
        os.kill(os.getpid(), counts.ASK_SIGNAL)
        await trio.sleep(0)

trio.run(main)
"""

CHUNKS = 64


@pytest.mark.process
def test_a_fill_of_64_chunks_between_two_nodes(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(os.urandom(CHUNKS << 16))
    command = [sys.executable, "-c", textwrap.dedent(PAIR), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    before, after = (json.loads(line)["counts"] for line in done.stdout.splitlines())
    came = {name: after[name] - before[name] for name in counts.COUNTS}
    assert before[counts.SENT] == before[counts.WRITES] == 0
    # A request for each chunk at least, what was put in has come out, and writes carry several.
    assert CHUNKS <= came[counts.SENT] <= 6 * CHUNKS
    assert CHUNKS <= came[counts.RECEIVED] <= came[counts.SENT]
    assert 0 < came[counts.WRITES] <= came[counts.SENT]
    assert 0 < came[counts.WAKES] <= came[counts.TURNS] <= came[counts.STEPS]


def test_each_function_that_is_wrapped_is_there() -> None:
    for name, module, path in counts.SEAMS:
        assert name in counts.COUNTS
        owner = __import__(module, fromlist=["_"])
        for part in path.split("."):
            owner = getattr(owner, part)
        assert callable(owner)
