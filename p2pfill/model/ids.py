"""Names of titles and nodes, and the checks that a foreign one must pass."""

from __future__ import annotations

import re
from typing import NewType

from p2pfill.errors import ConfigError
from p2pfill.model import limits

TitleId = NewType("TitleId", bytes)
"""32 bytes: the BLAKE3 digest of a manifest's canonical encoding."""

NodeId = NewType("NodeId", str)
"""1 to 64 characters of `[A-Za-z0-9._-]`, unique in a fleet."""

_NODE_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{limits.NODE_ID_CHARS_MAX - 1}}}")


def title_id_from_hex(text: str) -> TitleId:
    """Return the id that 64 hexadecimal digits spell. Raises `ConfigError`."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != limits.TITLE_ID_BYTES:
        raise ConfigError(f"{text[:80]!r} is not a title id: expected 64 hexadecimal digits")
    return TitleId(raw)


def node_id_from_text(text: str) -> NodeId:
    """Return `text` as a node id. Raises `ConfigError` where it is not one."""
    if not _NODE_ID.fullmatch(text):
        raise ConfigError(
            f"{text[:80]!r} is not a node id: use 1 to {limits.NODE_ID_CHARS_MAX} letters, digits, '.', '_' or '-'"
        )
    return NodeId(text)
