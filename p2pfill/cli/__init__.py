"""The command line: parsing of arguments and presentation only; every deed is done in the layers below.

`p2pfill --help` must be quick, so trio, hashing and HTTP are imported by the commands that use them, not here.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` by default) and return the exit code; see `p2pfill.cli.exits`."""
    from p2pfill.cli.app import app
    from p2pfill.cli.exits import run_app

    return run_app(app, arguments)
