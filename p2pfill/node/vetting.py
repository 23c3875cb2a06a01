"""What a node asks of a title before it fetches anything of it: that those have signed it whom its operator trusts.

Who that is, `publishers.toml` of its identity says; without that all titles are taken. What is asked:

- that the signatures suffice (`trust.publishers`), and have not expired by this node's clock;
- that the title is no older version of its name than one that was shown here, unless its order says so, as a user has
  signed it, and its rule allows that. This is asked once more when it is shown (`store.names`), as by an order of a
  title that is live already.

A title that was let in once is not asked again: what is live stays live, is repaired and served, whatever expires. It
is asked anew when it is to be filled again, or further files of it are, and fills under way when `publishers.toml`
changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from p2pfill.errors import SignatureError, StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.store.names import older_than_shown
from p2pfill.store.store import Store
from p2pfill.trust.publishers import Publishers, open_title

if TYPE_CHECKING:
    from p2pfill.trust.credentials import Credentials


class Vetting:
    """Looks whether titles may be filled. What is no coroutine blocks, and may be called from any thread."""

    def __init__(
        self,
        store: Store,
        credentials: Credentials | None,
        log: logging.Logger,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`wall` is the clock by which signatures expire, in seconds since the epoch."""
        self._store = store
        self._credentials = credentials
        self._log = log
        self._wall = wall
        self._rollbacks: set[TitleId] = set()
        """Titles whose orders say that they may be older than what was shown."""
        store.names.allows_older = self._allows_older

    @property
    def publishers(self) -> Publishers | None:
        """Who may publish; None: everybody."""
        return None if self._credentials is None else self._credentials.publishers

    def tell(self) -> None:
        """Say in the log where everybody's titles are taken, though this node asks who others are."""
        if self._credentials is not None and self.publishers is None:
            from p2pfill.trust.credentials import PUBLISHERS_FILE

            self._log.info("takes titles that nobody has signed: its identity has no %s", PUBLISHERS_FILE)

    def set_orders(
        self, orders: Iterable[TitleId], gone: Iterable[TitleId], rollbacks: Iterable[TitleId]
    ) -> None:
        """Take note of orders that are new or have changed, and of those that are gone.

        `rollbacks` are those that may be older than what was shown (`node.signed_orders`).
        """
        self._rollbacks.difference_update(gone, orders)
        self._rollbacks.update(rollbacks)

    def allow_rollback(self, title_id: TitleId) -> None:
        """Let an older version be shown, as far as its rule allows that."""
        self._rollbacks.add(title_id)

    async def check(self, title_id: TitleId, name: str | None, signatures: bytes) -> bytes:
        """Return the signatures with which a title may be filled: these, or those that are kept; b'': none are needed.

        `name` is that of its manifest, None before that is known. Raises `SignatureError` that says why it may not be
        filled, and `StoreError`.
        """
        if (publishers := self.publishers) is None:
            return b""
        now_s = self._wall()  # not in a thread: it may be the event loop's
        return await trio.to_thread.run_sync(self._check_any, publishers, title_id, name, signatures, now_s)

    def _check_any(
        self, publishers: Publishers, title_id: TitleId, name: str | None, signatures: bytes, now_s: float
    ) -> bytes:
        try:
            self._check(publishers, title_id, name, signatures, now_s)
            return signatures
        except SignatureError:
            # Those of a fill that was begun before, when the tracker has them no more, or gives others.
            kept = self._store.names.signatures(title_id)
            if not kept or kept == signatures:
                raise
            with suppress(SignatureError):
                self._check(publishers, title_id, name, kept, now_s)
                return kept
            raise

    def _check(
        self, publishers: Publishers, title_id: TitleId, name: str | None, signatures: bytes, now_s: float
    ) -> None:
        statement = publishers.check(signatures, title_id, name, now_s)
        highest = self._store.names.highest_number(statement.name)
        if statement.number < highest and not self._allows_older(title_id, statement.name):
            raise SignatureError(older_than_shown(statement.name, statement.number, highest))

    async def open(self, encoded: bytes, title_id: TitleId, signatures: bytes) -> Manifest:
        """Return the title with this id, if it is signed. Raises `ManifestError`."""
        publishers, now_s = self.publishers, 0.0 if self.publishers is None else self._wall()
        # That of a million files takes seconds, for which links would stay without an answer.
        return await trio.to_thread.run_sync(open_title, encoded, title_id, publishers, signatures, now_s)

    def check_again(self, title_id: TitleId, name: str) -> None:
        """Look whether a title that is being filled still may be. Raises `SignatureError`, `StoreError`."""
        if (publishers := self.publishers) is not None:
            publishers.check(self._store.names.signatures(title_id), title_id, name, 0.0)

    def held_back(self, titles: Iterable[TitleId]) -> list[TitleId]:
        """Return which of some titles are live, and would not be shown, since they are older than what was."""
        return [title_id for title_id in titles if self._is_held_back(title_id)]

    def _is_held_back(self, title_id: TitleId) -> bool:
        with suppress(StoreError):
            return self._store.names.is_held_back(title_id)
        return False

    def keep(self, title_id: TitleId, signatures: bytes) -> None:
        """Keep what is signed of a title that is here. Raises `StoreError`."""
        self._store.names.keep_signatures(title_id, signatures)

    def _allows_older(self, title_id: TitleId, name: str) -> bool:
        publishers = self.publishers
        return publishers is None or (title_id in self._rollbacks and publishers.allows_rollback(name))
