"""Reading the pages: fenced blocks, what each is for, and links.

What a block is for follows from the text, as a reader would see it:

- a block in a programming or configuration language whose line before ends in a path in backticks and a colon is the
  contents of that file: "... in `/etc/p2pfill/node.toml`:"
- `sh` is typed into a shell; `python` without a path is a program of its own
- the machine is the last one named in bold, as in **machine 2**, **machines 2 and 3** or **every machine**
- `text`, `json` and `mermaid` are shown, not run
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = tuple(
    ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
) + tuple(sorted((ROOT / "docs").glob("*.md")))

LANGUAGES: Final = frozenset({"sh", "python", "toml", "ini", "nginx", "nft", "text", "json", "mermaid", ""})
SHOWN: Final = frozenset({"text", "json", "mermaid", ""})
MACHINES: Final = ("1", "2", "3")

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([^`\s]*[./][^`\s]*)`[^`\n]*:\n\n?\Z")
_MACHINE = re.compile(r"\*\*(every machine|machines? (\d)(?: and (\d))?)\*\*", re.IGNORECASE)
_LINK = re.compile(r"(?<!\!)\[[^\]]+\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_REFERENCE = re.compile(r"\[[^\]]+\]\[([^\]]+)\]")
_DEFINITION = re.compile(r"^\[([^\]]+)\]: +(\S+)$", re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


class Block(NamedTuple):
    """One fenced block of a page; `file` is the path that it is the contents of, or empty."""

    page: str
    line: int
    language: str
    text: str
    file: str
    machines: tuple[str, ...]

    @property
    def where(self) -> str:
        """Page and line, for messages."""
        return f"{self.page}:{self.line}"


def read(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = read(page)
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        named = _FILE.search(before) if match[1] not in SHOWN | {"sh"} else None
        line = before.count("\n") + 1
        name = page.relative_to(ROOT).as_posix()
        found.append(Block(name, line, match[1], match[2], named[1] if named else "", _machines(before)))
    return found


def _machines(before: str) -> tuple[str, ...]:
    found = list(_MACHINE.finditer(before))
    if not found:
        return ("1",)
    last = found[-1]
    return tuple(number for number in last.groups()[1:] if number) or MACHINES


def links(page: Path) -> list[str]:
    """Return the targets of all links and pictures of a page."""
    text = _FENCE.sub("", read(page))
    return [match[1] or match[2] for match in _LINK.finditer(text)] + [match[2] for match in _DEFINITION.finditer(text)]


def references(page: Path) -> tuple[set[str], list[str]]:
    """Return the names that links of a page go by, and those for which the page has a target."""
    text = _CODE.sub("", _FENCE.sub("", read(page)))
    return set(_REFERENCE.findall(text)), [match[1] for match in _DEFINITION.finditer(text)]


def anchors(page: Path) -> set[str]:
    """Return the fragments that headings of a page can be linked by, as GitHub makes them."""
    text = _FENCE.sub("", read(page))
    plain = (re.sub(r"[`*]", "", heading).lower() for heading in _HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}
