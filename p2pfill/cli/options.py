"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

TrackerUrl = Annotated[
    str,
    typer.Option("--tracker", metavar="URL", envvar="P2PFILL_TRACKER", help="The tracker, as in http://10.0.0.1:7070."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text for people.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before something is deleted.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
