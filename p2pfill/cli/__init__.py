"""The command line: parsing of arguments and presentation only; every deed is done in the layers below.

`p2pfill --help` must be quick, so trio, hashing and HTTP are imported by the commands that use them, not here. And a
cache must start quickly, so typer is imported only where `plain` leaves it the arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` by default) and return the exit code; see `p2pfill.cli.exits`."""
    from p2pfill.cli.exits import run_app
    from p2pfill.cli.plain import read_plain

    plain = read_plain(sys.argv[1:] if arguments is None else arguments)
    if plain is not None:
        from p2pfill.cli.services import run_node

        def run(**_: object) -> None:
            run_node(plain.config, plain.settings, until_eof=plain.until_eof, as_json=plain.as_json)

        return run_app(run, arguments)
    from p2pfill.cli.app import app

    return run_app(app, arguments)
