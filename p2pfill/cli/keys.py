"""`p2pfill key`: publishers' keys. What the commands do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2pfill.cli.exits import EXIT_CODES_HELP
from p2pfill.cli.options import AsJson

app = typer.Typer(help="Publishers' keys, with which titles are signed.", epilog=EXIT_CODES_HELP, no_args_is_help=True)


@app.command("new", epilog=EXIT_CODES_HELP)
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that is not there yet.")], as_json: AsJson = False
) -> None:
    """Draw a key (Ed25519) into a file that you alone can read, and print its public half.

    That belongs into the publishers.toml of those who are to take your titles. Keep a copy of FILE where nobody else
    reaches it: who has it publishes in your name.
    """
    from p2pfill.cli.signing import draw_key

    draw_key(file, as_json=as_json)


@app.command("show", epilog=EXIT_CODES_HELP)
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A key, as `key new` makes it.")], as_json: AsJson = False
) -> None:
    """Print the public half of a key."""
    from p2pfill.cli.signing import show_key

    show_key(file, as_json=as_json)
