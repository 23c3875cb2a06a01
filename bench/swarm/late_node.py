"""A `p2pfill node` that is held back: it imports everything, says so, and starts when a line comes on standard input.

    python -m bench.swarm.late_node ARGUMENTS OF `p2pfill node`

So a cache that joins half-way comes at its moment, and not when a busy machine has got Python going.
"""

from __future__ import annotations

import json
import os
import sys

import p2pfill.cli
import p2pfill.cli.app
import p2pfill.cli.services
import p2pfill.node.daemon


def main() -> int:
    """Wait, then be the node."""
    print(json.dumps({"waits": os.getpid()}), flush=True)
    # A byte at a time: what follows the line is the node's own input.
    while (byte := os.read(0, 1)) != b"\n":
        if not byte:
            return 0
    return p2pfill.cli.main(["node", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
