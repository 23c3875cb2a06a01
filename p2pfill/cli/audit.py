"""`p2pfill audit`: who has changed what."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import trio

from p2pfill.cli.calling import call_tracker
from p2pfill.cli.text import printable
from p2pfill.tracker.audit import AuditPage


def show_audit(tracker: str, count: int, *, as_json: bool) -> None:
    """Print the latest changes, one a line, or as one JSON object."""
    page = trio.run(_read, tracker, count)
    if as_json:
        print(msgspec.json.encode(page).decode())
        return
    for one in page.records:
        at = datetime.fromtimestamp(one.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        print(printable(f"{at}  {one.who} from {one.address}  {one.what}  {one.detail}"))
    if page.more:
        print(f"(and older ones: --count {10 * count})")
    if not page.records:
        print("nothing was changed yet")


async def _read(tracker: str, count: int) -> AuditPage:
    async with call_tracker(tracker) as client:
        return await client.audit(count=count)
