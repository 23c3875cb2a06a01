"""Which nodes a fill is for: a small language that a person types on a command line.

    selector = clause ("," clause)*          any clause may match
    clause   = "all" | term ("+" term)*      every term must match
    term     = ("id" | "isp" | "cluster" | "region") "=" pattern

A pattern is compared with the whole value; `*` in it stands for any run of characters. `isp=isp-a+region=eu,id=hub1`
means: the caches of isp-a in eu, and hub1. Regular expressions were turned down: a pattern comes from a remote, and
this matcher takes time linear in value times pieces whatever it is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final, NamedTuple

from p2pfill.errors import ConfigError
from p2pfill.model.ids import node_id_from_text
from p2pfill.model.node import NodeInfo

SELECTOR_CHARS_MAX: Final = 16 * 1024
"""Room for some hundred nodes by name; beyond that a label is the right tool."""

SELECTOR_KEYS: Final = ("id", "isp", "cluster", "region")


class Term(NamedTuple):
    """One comparison."""

    key: str
    pattern: str

    def matches(self, info: NodeInfo) -> bool:
        """Tell whether the node's label fits the pattern."""
        return matches_glob(self.pattern, str(getattr(info, self.key)))


class Selector(NamedTuple):
    """A parsed selector: a node matches where all terms of any clause match. A clause without terms is `all`."""

    text: str
    clauses: tuple[tuple[Term, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Return the selector that `text` spells. Raises `ConfigError` that says which part is wrong."""
        if len(text) > SELECTOR_CHARS_MAX:
            raise ConfigError(f"selector of {len(text)} characters: at most {SELECTOR_CHARS_MAX} are allowed")
        return cls(text.strip(), tuple(_parse_clause(clause.strip(), text) for clause in text.split(",")))

    def unmatched(self, infos: Iterable[NodeInfo]) -> list[str]:
        """Return the clauses that mean none of these nodes, as they were written, each once."""
        left = dict(zip((clause.strip() for clause in self.text.split(",")), self.clauses, strict=True))
        for info in infos:
            if not left:
                break
            left = {text: clause for text, clause in left.items() if not all(term.matches(info) for term in clause)}
        return list(left)

    def matches(self, info: NodeInfo) -> bool:
        """Tell whether the selector means this node."""
        return any(all(term.matches(info) for term in clause) for clause in self.clauses)


def _parse_clause(clause: str, text: str) -> tuple[Term, ...]:
    if clause == "all":
        return ()
    terms = []
    for part in clause.split("+"):
        key, equals, pattern = part.strip().partition("=")
        key, pattern = key.strip(), pattern.strip()
        if not equals or key not in SELECTOR_KEYS or not pattern:
            raise ConfigError(
                f"selector {text[:80]!r}: cannot read {part.strip()[:80]!r}{_hint(key, equals)}; "
                f"write `all` or KEY=PATTERN, KEY one of {', '.join(SELECTOR_KEYS)}, `+` for and, `,` for or"
            )
        terms.append(Term(key, pattern))
    return tuple(terms)


def _hint(key: str, equals: str) -> str:
    """Return what was meant, as the end of a clause, where that can be told."""
    near = get_close_matches(key, SELECTOR_KEYS, 1)
    if equals:
        return f": did you mean {near[0]}=?" if near and key not in SELECTOR_KEYS else ""
    try:
        return f": for the cache of that id write id={node_id_from_text(key)}"
    except ConfigError:
        return ""


def matches_glob(pattern: str, value: str) -> bool:
    """Tell whether `pattern`, in which `*` stands for any run of characters, fits the whole of `value`."""
    pieces = pattern.split("*")
    if len(pieces) == 1:
        return pattern == value
    head, *middle, tail = pieces
    if len(value) < len(head) + len(tail) or not value.startswith(head) or not value.endswith(tail):
        return False
    at, end = len(head), len(value) - len(tail)
    for piece in middle:  # the leftmost place is always the best one: it leaves most for the rest
        found = value.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True
