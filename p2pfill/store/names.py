"""The links `live/NAME`, and the numbers of the orders behind them.

    titles/<id>/order                       the number of the order that the title was last shown, or passed over, for
    filling/<id>.link                       a link that is about to become `live/<name>`

A swap is: make the new link in `filling/`, rename it over the old one, write the number. So a link that a crash leaves
in `filling/` beside a title that is whole was decided on, and opening the store finishes it; one whose swap failed is
taken back. The number comes last: where it is not that of the order, the order is looked at once more. It goes with
its order, since a tracker whose database was put back to an earlier day gives the same numbers again, to other orders.

What is to be shown, `model.versions` says, out of the orders that the tracker has named (`LiveNames.expect`).
Before it has named any, and in a node without a tracker, the numbers on disk count, and beginning a fill is an order
with a number above them all.

Where titles are signed, an order does not show a version that is older, by what was signed of it, than one that was
shown before (`store.floors`), unless that is allowed (`LiveNames.allows_older`).
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import Final

from p2pfill.errors import ConfigError, StoreError
from p2pfill.model.ids import TitleId, title_id_from_hex
from p2pfill.model.versions import version_to_show
from p2pfill.store.disk import DIRECTORY_FLAGS, from_disk, on_disk, replace_file, sync_directory, translated
from p2pfill.store.floors import Floors

ORDER: Final = "order"
ORDER_BYTES_MAX: Final = 20
"""Digits of 64 bits."""


class LiveNames:
    """What `root/live` shows. Thread-safe, with a lock inside which no other is taken. All that changes it blocks."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = RLock()
        self._floors = Floors(root)
        self.allows_older: Callable[[TitleId, str], bool] = lambda *_: True
        """Tells whether a title may be shown though a newer one of its name was. Called from threads."""
        self._orders: dict[TitleId, int] = {}
        """The orders that stand. Any thread may look a title up; nobody goes through it."""
        self._highest = 0
        """The highest number that an order has had."""
        self._begun: set[TitleId] = set()
        """Those that nobody but this node has ordered; what a tracker says next overrules them."""
        self._not_followed: set[TitleId] = set()
        """Live titles whose order has changed, or went, since it was followed. Any thread adds to it."""
        self._is_told = False
        """Whether the tracker has said which they are."""
        self._taken: dict[TitleId, int] = {}
        """Of live titles, the number on disk."""
        self._news: deque[TitleId] = deque()
        """Titles whose number on disk has changed since `take_news`."""
        self._names: dict[TitleId, str] = {}
        """Of the titles that are live and were opened."""
        self._versions: dict[str, set[TitleId]] = defaultdict(set)
        """The same by name."""

    def ordered(self, title_id: TitleId) -> int:
        """Return the number of the order of a title, 0 where there is none. Callable from any thread."""
        return self._orders.get(title_id, 0)

    def taken(self, title_id: TitleId) -> int:
        """Return the number of the order that a live title was shown, or passed over, for. Callable from any thread."""
        return self._taken.get(title_id, 0)

    def begin(self, title_id: TitleId) -> None:
        """Take beginning to fill a title for an order of it, the newest of all, where nobody has ordered it."""
        with self._lock:
            if title_id not in self._orders:
                self._orders[title_id] = self._next()
                self._begun.add(title_id)

    def show_anew(self, title_id: TitleId) -> None:
        """Take this for an order of a title, the newest of all. Raises `StoreError`."""
        with self._lock:
            self._orders[title_id] = self._next()
            if (name := self._names.get(title_id)) is not None and (why := self._follow(name).get(title_id)):
                raise why

    def _next(self) -> int:
        self._highest += 1
        return self._highest

    def _put(self, title_id: TitleId, number: int) -> None:
        self._orders[title_id] = number
        self._highest = max(self._highest, number)

    def expect_only(self, orders: Mapping[TitleId, int]) -> bool:
        """Take in the orders that stand, which are these; tell whether `follow` has something to do. Takes no lock."""
        return self.expect(orders, list(self._orders.keys() - orders.keys()), is_all=True)

    def expect(self, orders: Mapping[TitleId, int], gone: Iterable[TitleId], *, is_all: bool = True) -> bool:
        """Take in orders that are new or have changed, and which stand no more; tell as `expect_only` does.

        `is_all`: with these, all are known that stand.
        """
        self._is_told |= is_all
        begun, self._begun = self._begun, set()
        for title_id, number in orders.items():
            self._put(title_id, number)
            if title_id in self._names and self._taken.get(title_id) != number:
                self._not_followed.add(title_id)
        for title_id in (*gone, *(begun - orders.keys())):
            if self._orders.pop(title_id, None) is not None and title_id in self._names:
                self._not_followed.add(title_id)
        return bool(self._not_followed)

    def others(self, orders: Container[TitleId]) -> list[TitleId]:
        """Return the titles that count as ordered though they are not among the orders that stand."""
        return [title_id for title_id in list(self._orders) if title_id not in orders]

    def follow(self) -> dict[TitleId, StoreError]:
        """Show what the orders want; return the titles that the disk refused, and why. They are tried again."""
        refused: dict[TitleId, StoreError] = {}
        with self._lock:
            changed: set[TitleId] = set()
            while self._not_followed:
                changed.add(self._not_followed.pop())
            changed &= self._names.keys()
            for name in {self._names[title_id] for title_id in changed}:
                try:
                    refused.update(self._follow(name))
                except StoreError as error:
                    refused.update(dict.fromkeys(changed & self._versions[name], error))
            self._not_followed.update(refused)
        return refused

    def look_at_link(self, title_id: TitleId) -> bool:
        """Show what is to be shown by the name of a live title, where somebody has removed the link, or changed it.

        Tells whether that was so. Raises `StoreError`, as where something else has its place.
        """
        with self._lock:
            name = self._names.get(title_id)
            if name is None:
                return False
            before = self.shown(name)
            self._follow(name)
            return self.shown(name) != before

    def _follow(self, name: str) -> dict[TitleId, StoreError]:
        """Show what is to be shown of a name; return what is not shown since it is older than what was."""
        shown, versions = self.shown(name), self._versions[name]
        wanted, older = self._choose(name, shown, versions)
        if wanted is not None and wanted != shown:
            self.swap(wanted, name)
        for title_id in versions - older.keys():
            self._note(title_id)
        return older

    def _choose(
        self, name: str, shown: TitleId | None, versions: set[TitleId]
    ) -> tuple[TitleId | None, dict[TitleId, StoreError]]:
        """Return what to show of a name, and what would be shown if it were not older than what was shown before."""
        older: dict[TitleId, StoreError] = {}
        while True:
            wanted = version_to_show(shown, self._orders, versions - older.keys())
            if wanted is None or wanted == shown or not (why := self._why_older(wanted, name)):
                return wanted, older
            older[wanted] = StoreError(why)

    def _why_older(self, title_id: TitleId, name: str) -> str:
        number, highest = self._floors.number(title_id), self._floors.highest(name)
        if number >= highest or self.allows_older(title_id, name):
            return ""
        return older_than_shown(name, number, highest)

    def _note(self, title_id: TitleId) -> None:
        """Write down for which order a live title is shown, or is not; nothing stays of one that stands no more."""
        number = self._orders.get(title_id)
        if number is None:
            if title_id in self._taken:
                with translated(f"note that title {title_id.hex()} has no order"):
                    directory = self._root / "titles" / title_id.hex()
                    with suppress(FileNotFoundError):
                        (directory / ORDER).unlink()
                        # A crash would bring it back, and the link could go back to what was withdrawn, until the
                        # tracker is heard.
                        sync_directory(directory)
                del self._taken[title_id]
                self._news.append(title_id)
        elif self._taken.get(title_id) != number:
            with translated(f"note the order of title {title_id.hex()}"):
                fd = os.open(self._root / "titles" / title_id.hex(), DIRECTORY_FLAGS)
                try:
                    replace_file(fd, ORDER, b"%d\n" % number)
                finally:
                    os.close(fd)
            self._taken[title_id] = number
            self._news.append(title_id)

    def take_news(self) -> Iterator[TitleId]:
        """Yield the titles that were shown, or passed over, for another order since the last call. Takes no lock."""
        while self._news:
            yield self._news.popleft()

    # ---- one title

    def go_live(self, title_id: TitleId, name: str, rename: Callable[[], None]) -> None:
        """Have `rename` move a whole title to `titles/`, and show it where no newer order holds its name.

        Raises `OSError`, `StoreError`; it may then be called again.
        """
        with self._lock:
            shown = self.shown(name)
            wanted, older = self._choose(name, shown, {*self._versions.get(name, ()), title_id})
            shows = wanted == title_id or (wanted is None and shown is None)
            if shows and (why := self._why_older(title_id, name)):
                older[title_id] = StoreError(why)  # nobody has ordered it, and nothing is shown
            if title_id in older:
                raise older[title_id]
            if shows:
                self._intend(title_id)
            rename()
            if shows:
                self.swap(title_id, name)
            self._names[title_id] = name
            self._versions[name].add(title_id)
            self._note(title_id)

    def add(self, title_id: TitleId, name: str) -> None:
        """Note that a title which is live was opened."""
        with self._lock:
            if title_id in self._names:
                return
            self._names[title_id] = name
            self._versions[name].add(title_id)
            if number := self._read(title_id):
                self._taken[title_id] = number
                if not self._is_told and title_id not in self._orders:
                    self._put(title_id, number)
            if self._orders.get(title_id, 0) != number:
                self._not_followed.add(title_id)

    def _read(self, title_id: TitleId) -> int:
        with suppress(OSError, ValueError), (self._root / "titles" / title_id.hex() / ORDER).open("rb") as file:
            return max(0, int(file.read(ORDER_BYTES_MAX)))
        return 0

    def drop(self, title_id: TitleId) -> None:
        """Show a title no more: the newest order among the other versions of its name, or nothing."""
        with self._lock:
            self._drop(title_id)

    def _drop(self, title_id: TitleId) -> None:
        name = self._names.pop(title_id, None)
        self._taken.pop(title_id, None)
        self._floors.forget(title_id)
        if not self._is_told:
            self._orders.pop(title_id, None)
        self._link(title_id).unlink(missing_ok=True)
        for link in self._links_to(title_id, name):
            others = self._versions.get(link, set()) - {title_id}
            wanted, _ = self._choose(link, None, others)
            if wanted is not None:
                self.swap(wanted, link)
            else:
                (self._root / "live" / on_disk(link)).unlink()
                sync_directory(self._root / "live")
        if name is not None:
            self._versions[name].discard(title_id)
            if not self._versions[name]:
                del self._versions[name]

    def _links_to(self, title_id: TitleId, name: str | None) -> list[str]:
        if name is not None:
            return [name] if self.shown(name) == title_id else []
        return [link for link in map(from_disk, os.listdir(self._root / "live")) if self.shown(link) == title_id]

    # ---- what is signed

    def signatures(self, title_id: TitleId) -> bytes:
        """Return what is kept of the signatures of a title, b'' where nothing is. Raises `StoreError`."""
        with self._lock:
            return self._floors.signatures(title_id)

    def keep_signatures(self, title_id: TitleId, signatures: bytes) -> None:
        """Keep what is signed of a title that is here, live or filling. Raises `StoreError`."""
        with self._lock:
            self._floors.keep_signatures(title_id, signatures)
            if title_id in self._names:
                self._not_followed.add(title_id)

    def highest_number(self, name: str) -> int:
        """Return the highest number of what was signed and shown under a name, 0: nothing was. Raises `StoreError`."""
        with self._lock:
            return self._floors.highest(name)

    def is_held_back(self, title_id: TitleId) -> bool:
        """Tell whether a live title would not be shown, since it is older than what was. Raises `StoreError`."""
        with self._lock:
            name = self._names.get(title_id)
            return name is not None and self.shown(name) != title_id and bool(self._why_older(title_id, name))

    # ---- links

    def shown(self, name: str) -> TitleId | None:
        """Return the title that is shown under a name, None where none is."""
        try:
            target = os.readlink(self._root / "live" / on_disk(name))
            shown = title_id_from_hex(target.removeprefix("../titles/").removesuffix("/files"))
        except (OSError, ConfigError):
            return None
        return shown if target == _link_target(shown) else None

    def is_intended(self, title_id: TitleId) -> bool:
        """Tell whether a title was about to be shown."""
        return self._link(title_id).is_symlink()

    def _intend(self, title_id: TitleId) -> None:
        """Make the link that `swap` shows; from now on opening the store finishes it. Raises `OSError`."""
        link = self._link(title_id)
        link.unlink(missing_ok=True)
        link.symlink_to(_link_target(title_id))

    def swap(self, title_id: TitleId, name: str) -> None:
        """Show a title under its name in one step. Raises `StoreError`, and then what was shown still is."""
        link = self._link(title_id)
        with translated(f"show title {name!r} in {str(self._root / 'live')!r}"):
            # First, so that a crash forgets no number of what viewers may have seen.
            self._floors.note_shown(title_id, name)
            if not self.is_intended(title_id):
                self._intend(title_id)
            try:
                link.replace(self._root / "live" / on_disk(name))
            except OSError:
                link.unlink(missing_ok=True)
                raise
            sync_directory(self._root / "live")

    def forget_intentions(self, whole: Iterable[TitleId]) -> None:
        """Remove the links that were to be shown of titles that are not `whole`. For opening the store."""
        kept = {self._link(title_id).name for title_id in whole}
        for entry in os.listdir(self._root / "filling"):
            if entry.endswith(".link") and entry not in kept:
                with suppress(OSError):
                    (self._root / "filling" / entry).unlink()

    def _link(self, title_id: TitleId) -> Path:
        return self._root / "filling" / f"{title_id.hex()}.link"


def _link_target(title_id: TitleId) -> str:
    return f"../titles/{title_id.hex()}/files"


def older_than_shown(name: str, number: int, highest: int) -> str:
    """Say that a version is not shown since a newer one was."""
    return (
        f"title {name!r} is older (number {number}) than one that was live here (number {highest}): have it signed "
        f"anew with a higher number (`p2pfill sign --anew --number {highest + 1}`), or order it with --rollback"
    )
