"""What one remote has asked for and was not sent yet: the most urgent first, of one urgency in order of arrival.

The engine puts and withdraws, a sender takes in a thread of its own; a lock is held for a few dictionary operations.
How urgent a title is gets looked up when something is taken, so a change takes effect with the next chunk. The cost of
a chunk grows with the titles that the remote waits for, not with its requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import NamedTuple

from p2pfill.model.ids import TitleId
from p2pfill.model.urgency import Urgency


class NextUpload(NamedTuple):
    """What would be sent next."""

    urgency: Urgency
    title: TitleId


class UploadRequest(NamedTuple):
    """A request that waits."""

    request_id: int
    title: TitleId
    chunk: int


class UploadQueue:
    """The requests of one remote; how many there are at most is the link's rule."""

    def __init__(self, urgency_of: Callable[[TitleId], Urgency], lock: AbstractContextManager[object]) -> None:
        """`urgency_of` is called by senders, in their threads."""
        self._urgency_of = urgency_of
        self._lock = lock
        self._title_of: dict[int, TitleId] = {}
        self._handle_of: dict[int, int] = {}
        self._waiting: dict[TitleId, OrderedDict[int, int]] = {}
        """Title -> request -> chunk, in order of arrival."""

    def __len__(self) -> int:
        return len(self._title_of)

    def put(self, request_id: int, title: TitleId, chunk: int, handle: int = 0) -> None:
        """Add a request, whose id is larger than all before, made under `handle`."""
        with self._lock:
            self._handle_of[request_id] = handle
            self._title_of[request_id] = title
            self._waiting.setdefault(title, OrderedDict())[request_id] = chunk

    def withdraw(self, request_id: int) -> UploadRequest | None:
        """Remove and return a request, if it still waits."""
        with self._lock:
            return self._remove(request_id)

    def withdraw_handle(self, handle: int) -> None:
        """Remove all that waits under a handle."""
        with self._lock:
            for request_id in [number for number, under in self._handle_of.items() if under == handle]:
                self._remove(request_id)

    def withdraw_chunks(self, title: TitleId, chunks: Collection[int]) -> list[int]:
        """Remove all that waits for some chunks of a title, and return the requests."""
        wanted = set(chunks)
        with self._lock:
            found = [number for number, chunk in self._waiting.get(title, {}).items() if chunk in wanted]
            for request_id in found:
                self._remove(request_id)
            return found

    def _remove(self, request_id: int) -> UploadRequest | None:
        title = self._title_of.pop(request_id, None)
        if title is None:
            return None
        del self._handle_of[request_id]
        chunk = self._waiting[title].pop(request_id)
        self._forget_if_empty(title)
        return UploadRequest(request_id, title, chunk)

    def wanted(self) -> NextUpload | None:
        """Return what would be taken now; None where nothing waits."""
        with self._lock:
            if not self._waiting:
                return None
            title = min(self._waiting, key=self._turn_of)
            return NextUpload(self._urgency_of(title), title)

    def titles(self) -> set[TitleId]:
        """Return the titles for which something waits."""
        with self._lock:
            return set(self._waiting)

    def take(self) -> UploadRequest | None:
        """Remove and return the request that is to be served next."""
        with self._lock:
            if not self._waiting:
                return None
            title = min(self._waiting, key=self._turn_of)
            request_id, chunk = self._waiting[title].popitem(last=False)
            del self._title_of[request_id], self._handle_of[request_id]
            self._forget_if_empty(title)
            return UploadRequest(request_id, title, chunk)

    def _turn_of(self, title: TitleId) -> tuple[Urgency, int]:
        return self._urgency_of(title), next(iter(self._waiting[title]))

    def _forget_if_empty(self, title: TitleId) -> None:
        if not self._waiting[title]:
            del self._waiting[title]
