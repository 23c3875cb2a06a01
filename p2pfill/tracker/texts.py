"""How much the tracker keeps of what nodes say of their titles, and what it leaves away beyond that.

A heartbeat is bounded (`checks.check_report`), but a node says more with each, and there may be many nodes that nobody
has ordered anything of. What is kept is shown to everybody who asks for the status, so its size is a matter for all.
Beyond a share for each node, and a total for all of them, a report loses its sources and most of its error first: what
is left are figures. Nobody is refused for that, so that those who say much cannot silence those who say little.
"""

from __future__ import annotations

from typing import Final

import msgspec

from p2pfill.model.limits import MIB
from p2pfill.model.reports import TitleReport, clipped

NODE_BYTES_MAX: Final = 1 * MIB
"""Of texts and sources of one node: some 25 titles that are filled at once from 300 sources each."""

FLEET_BYTES_MAX: Final = 64 * MIB
"""Of all nodes: with the figures beside it, a status stays below what a client reads (`client.ANSWER_BYTES_MAX`)."""

SOURCE_BYTES: Final = 100
"""What the figures of a source take beside its texts, as JSON."""

ERROR_CHARS: Final = 200
"""What is left of an error."""


def bytes_of(report: TitleReport) -> int:
    """Return about how long the sources and texts of a report are, as JSON."""
    size = len(report.error)
    for reasons in (report.escalations, report.waits):
        for reason in reasons:
            size += len(reason)
    for source in report.sources:
        size += SOURCE_BYTES + len(source.id) + len(source.state) + len(source.reason)
    return size


class Texts:
    """How long what each node has said is."""

    def __init__(self) -> None:
        self._nodes: dict[str, int] = {}
        self._titles: dict[str, dict[str, int]] = {}
        """Node -> title -> bytes."""
        self.total = 0

    def take(self, node_id: str, said: TitleReport) -> tuple[TitleReport, bool]:
        """Count what a node says of a title now; return what is kept of it, and whether that is less."""
        titles = self._titles.setdefault(node_id, {})
        before, size, kept = titles.get(said.title, 0), bytes_of(said), self._nodes.get(node_id, 0)
        gained = size - before
        is_cut = gained > 0 and (kept + gained > NODE_BYTES_MAX or self.total + gained > FLEET_BYTES_MAX)
        if is_cut:
            said = msgspec.structs.replace(said, sources=[], error=clipped(said.error, ERROR_CHARS))
            size = bytes_of(said)
        titles[said.title] = size
        self._nodes[node_id] = kept + size - before
        self.total += size - before
        return said, is_cut

    def drop(self, node_id: str, title: str) -> None:
        """Count that it says nothing of a title any more."""
        size = self._titles[node_id].pop(title, 0)
        self._nodes[node_id] -= size
        self.total -= size

    def forget(self, node_id: str) -> None:
        """Count that nothing of it is kept any more."""
        self.total -= self._nodes.pop(node_id, 0)
        self._titles.pop(node_id, None)
