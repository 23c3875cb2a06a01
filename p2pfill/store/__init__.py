"""Titles on disk: publishing, preallocated fills with a journal, atomic go-live, verification. Blocking calls."""

from p2pfill.store.publish import PublishResult, publish
from p2pfill.store.store import Store, TitleStatus
from p2pfill.store.title import StoredTitle
from p2pfill.store.verify import BadChunk, VerifyReport, verify_tree

__all__ = [
    "BadChunk",
    "PublishResult",
    "Store",
    "StoredTitle",
    "TitleStatus",
    "VerifyReport",
    "publish",
    "verify_tree",
]
