"""Which orders nodes have brought back to a database that did not know them (`recall`), and until when they may."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable
from typing import Final

from p2pfill.origin.urls import shown
from p2pfill.tracker.checks import ORIGIN_CHARS_MAX, RequestRefused
from p2pfill.tracker.records import BroughtBack

REBUILT_S: Final = 7 * 86400.0
"""How long after a loss, or after it was made, a database takes orders from nodes: all of them are back by then."""

LISTED_MAX: Final = 1000
"""Titles of which is listed whether they came back."""


AGAIN_NODES_MAX: Final = 20
"""Nodes that the command names which orders a title again: it is for people to copy."""


class Recall:
    """What has come back to one service."""

    def __init__(self, made_at: float, lost_at: float) -> None:
        """The database was made then, and lost something then, seconds since the epoch; 0: never."""
        self._open_until = max(made_at, lost_at) + REBUILT_S
        self._told: dict[str, BroughtBack] = {}
        self._lacking: dict[str, dict[str, None]] = {}
        """Title -> nodes whose orders do not come back, in the order in which they have brought them."""
        self._asked: dict[str, frozenset[str]] = {}
        """Node -> the titles whose manifests it was asked for when it last brought something."""
        self._refused: dict[str, str] = {}
        """Title -> why its manifest was not taken, of those that are told."""

    def listed(self) -> list[BroughtBack]:
        """Return which titles have come back, and which could not, in the order of their ids."""
        return [self._told[title] for title in sorted(self._told)]

    def require_open(self) -> None:
        """Raise `RequestRefused` where orders cannot come back."""
        if time.time() > self._open_until:
            raise RequestRefused(
                "this tracker's database has lost nothing that is known: orders come from those who give them", 409
            )

    def ask(self, node_id: str, titles: Iterable[str]) -> None:
        """Note for which manifests a node is asked, and for no others any more."""
        self._asked[node_id] = frozenset(titles)
        if not self._asked[node_id]:
            del self._asked[node_id]

    def asks(self, node_id: str, title: str) -> bool:
        """Tell whether a node was asked for a title's manifest."""
        return title in self._asked.get(node_id, ())

    def refuse(self, title: str, reason: str) -> None:
        """Note why a manifest that a node was asked for is not taken: until it is, that is why its order is lacking."""
        told = self._told.get(title)
        if told is not None and not told.nodes:
            told.reason = self._refused[title] = reason

    def lacks(self, title: str) -> str:
        """Return why a title's manifest is lacking."""
        return self._refused.get(title, "nobody has brought its manifest yet")

    def note(self, title: str, name: str, node_id: str, reason: str, origins: Iterable[str] = ()) -> None:
        """Note what has become of an order that a node has brought; `origins` where it must be ordered again."""
        told = self._told.get(title)
        if told is None:
            if len(self._told) >= LISTED_MAX:
                unknown = next((one for one, listed in self._told.items() if not listed.name), None) if name else None
                if unknown is None:
                    return
                del self._told[unknown]  # a title that nobody has published may be made up
            told = self._told[title] = BroughtBack(title, name, 0)
        told.name = name or told.name
        if not reason:
            told.nodes, told.reason, told.again = told.nodes + 1, "", ""
            self._lacking.pop(title, None)
        elif not told.nodes:
            told.reason = reason
            lacking = self._lacking.setdefault(title, {})
            if origins and len(lacking) < AGAIN_NODES_MAX:
                lacking[node_id] = None
            if origins:
                told.again = _command(told, lacking, origins)


def _command(lost: BroughtBack, nodes: Iterable[str], origins: Iterable[str]) -> str:
    """Return the command that orders a title again for some nodes; who gives it has its manifest."""
    words = ["p2pfill", "fill", f"{lost.name or lost.title[:16]}.fill"]
    for origin in origins:
        if 0 < len(origin) <= ORIGIN_CHARS_MAX and origin.isprintable() and not origin.startswith("-"):
            words += ["--origin", shown(origin)]  # as a node has said it, who may be anybody
    return shlex.join([*words, "--to", ",".join(f"id={node_id}" for node_id in nodes)])
