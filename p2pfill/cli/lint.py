"""`p2pfill fleet lint`: what costs bytes in the fleet, or will."""

from __future__ import annotations

import msgspec
import trio
from rich.console import Console
from rich.text import Text

from p2pfill.cli.calling import call_tracker
from p2pfill.cli.exits import ExitCode
from p2pfill.cli.text import plural, printable, show_bytes
from p2pfill.tracker.records import Lint


def lint_fleet(tracker: str, *, as_json: bool) -> ExitCode:
    """Print what is found; return `FOUND` where that is something."""
    found = trio.run(_lint, tracker)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        Console().print(lint_text(found))
    return ExitCode.FOUND if found.findings else ExitCode.OK


async def _lint(tracker: str) -> Lint:
    async with call_tracker(tracker) as client:
        return await client.lint()


def lint_text(found: Lint) -> Text:
    """Return findings as text, what costs most first."""
    if not found.findings:
        return Text("Nothing found.")
    text = Text()
    for one in found.findings:
        cost = "" if one.bytes is None else f" {show_bytes(one.bytes)}"
        text.append(f"{one.kind}", style="bold yellow").append(f"{cost}: {printable(one.what)}.\n")
        text.append(f"  next: {printable(one.next_step)}\n", style="dim")
    text.append(plural(len(found.findings) + found.more, "finding"), style="bold")
    return text.append(f", {found.more} of them not shown") if found.more else text
