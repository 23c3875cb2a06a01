"""A `p2pfill node` that counts what its event loop does (see `counts`); with `--held` one that waits (`late_node`).

    python -m bench.swarm.counted_node [--held] ARGUMENTS OF `p2pfill node`
"""

from __future__ import annotations

import sys

import p2pfill.cli
from bench.swarm import counts, late_node


def main() -> int:
    """Be the node."""
    counts.install()
    if sys.argv[1:2] == ["--held"]:
        del sys.argv[1]
        return late_node.main()
    return p2pfill.cli.main(["node", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
