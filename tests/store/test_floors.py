"""Which version of a signed name is shown: never an older one than was, unless that is allowed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publishing import Studio

from p2pfill.errors import StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.statement import Signatures
from p2pfill.store.floors import Floors
from p2pfill.store.names import LiveNames

STUDIO = Studio("studio")
COUNT = 4


class Versions:
    """A store's directories with versions 0 to 3 of one name, the numbers of which are given; 0: it is not signed."""

    def __init__(self, root: Path, numbers: list[int]) -> None:
        self.root = root
        self.allowed: set[TitleId] = set()
        self.ids = [TitleId(bytes([index]) * 32) for index in range(COUNT)]
        self.numbers = dict(zip(self.ids, numbers, strict=True))
        for name in ("titles", "filling", "live"):
            (root / name).mkdir()
        self.names = self.open()

    def open(self) -> LiveNames:
        """Start again: what is live is found, and nothing is known of orders."""
        names = LiveNames(self.root)
        names.allows_older = lambda title_id, _: title_id in self.allowed
        for entry in (self.root / "titles").iterdir():
            names.add(TitleId(bytes.fromhex(entry.name)), "film")
        return names

    def is_live(self, index: int) -> bool:
        return (self.root / "titles" / self.ids[index].hex()).exists()

    def go_live(self, index: int) -> None:
        title_id = self.ids[index]
        filling = self.root / "filling" / title_id.hex()
        filling.mkdir(exist_ok=True)
        if self.numbers[title_id]:
            signed = STUDIO.sign(title_id, number=self.numbers[title_id]).encode()
            self.names.keep_signatures(title_id, signed)
        self.names.go_live(title_id, "film", lambda: filling.rename(self.root / "titles" / title_id.hex()) and None)

    def refusal(self, index: int) -> str | None:
        try:
            self.go_live(index)
        except StoreError as error:
            return str(error)
        return None

    def remove(self, index: int) -> None:
        self.names.drop(self.ids[index])
        (self.root / "titles" / self.ids[index].hex()).rename(self.root / "gone")
        for file in (self.root / "gone").iterdir():
            file.unlink()
        (self.root / "gone").rmdir()

    def shown(self) -> int | None:
        shown = self.names.shown("film")
        return None if shown is None else self.ids.index(shown)


def test_a_number_outlives_a_power_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory is made with the first one, and must be found below the data directory."""
    versions = Versions(tmp_path, [1, 2, 0, 0])
    synced: list[tuple[str, list[str]]] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        fsync(fd)
        place = os.readlink(f"/proc/self/fd/{fd}")
        synced.append((place, os.listdir(place) if os.path.isdir(place) else []))

    monkeypatch.setattr(os, "fsync", note)
    versions.go_live(0)
    assert any(place == str(tmp_path) and "numbers" in names for place, names in synced)
    assert any(place == str(tmp_path / "numbers") and names for place, names in synced)
    count = len(synced)
    versions.go_live(1)
    assert str(tmp_path) not in [place for place, _ in synced[count:]], "once is enough"


steps = st.lists(
    st.tuples(st.sampled_from(["live", "order", "remove", "look", "restart", "lose link"]), st.integers(0, COUNT - 1)),
    max_size=25,
)


@given(st.lists(st.integers(0, 3), min_size=COUNT, max_size=COUNT), steps)
def test_what_viewers_see_never_gets_older(numbers: list[int], done: list[tuple[str, int]]) -> None:
    """Whatever is ordered, completes, is removed or lost, in any order, and with restarts in between."""
    with tempfile.TemporaryDirectory() as place:
        made = Versions(Path(place), numbers)
        highest, order = 0, 0
        for what, index in done:
            if what == "live" and not made.is_live(index):
                if (why := made.refusal(index)) is not None:
                    assert "is older" in why
                    assert numbers[index] < highest
            elif what == "order":
                order += 1
                made.names.expect({made.ids[index]: order}, [], is_all=False)
                for title_id in made.names.follow():
                    assert made.numbers[title_id] < highest
            elif what == "remove" and made.is_live(index):
                made.remove(index)
            elif what == "look" and made.is_live(index):
                made.names.look_at_link(made.ids[index])
            elif what == "restart":
                made.names = made.open()
            elif what == "lose link":
                (Path(place) / "live/film").unlink(missing_ok=True)
            shown = made.shown()
            if shown is not None:
                assert numbers[shown] >= highest
                highest = numbers[shown]


def test_an_older_one_is_shown_where_that_is_allowed_and_stays(tmp_path: Path) -> None:
    made = Versions(tmp_path, [1, 2, 3, 0])
    made.go_live(1)
    made.names.begin(made.ids[0])
    with pytest.raises(StoreError, match=r"older \(number 1\) than one that was live here \(number 2\)"):
        made.go_live(0)
    assert made.shown() == 1
    assert not made.is_live(0)
    made.allowed.add(made.ids[0])
    made.go_live(0)
    assert made.shown() == 0
    made.allowed.clear()
    made.names = made.open()
    made.names.look_at_link(made.ids[0])
    assert made.shown() == 0  # it is not asked again
    made.names.show_anew(made.ids[1])
    assert made.shown() == 1
    with pytest.raises(StoreError, match="is older"):
        made.names.show_anew(made.ids[0])
    assert made.shown() == 1


def test_what_is_signed_anew_is_new(tmp_path: Path) -> None:
    made = Versions(tmp_path, [1, 2, 3, 0])
    made.go_live(0)
    made.names.expect({made.ids[0]: 1, made.ids[1]: 2}, [])
    made.go_live(1)
    made.names.expect({made.ids[0]: 3, made.ids[1]: 2}, [])
    assert set(made.names.follow()) == {made.ids[0]}
    assert made.names.is_held_back(made.ids[0])
    made.names.keep_signatures(made.ids[0], STUDIO.sign(made.ids[0], number=9).encode())
    assert not made.names.follow()
    assert made.shown() == 0
    assert made.names.highest_number("film") == 9


def test_a_crash_forgets_no_number_that_viewers_may_have_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Versions(tmp_path, [1, 2, 3, 0])

    def crash(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)  # of the link
    with pytest.raises(KeyboardInterrupt):
        made.go_live(1)
    assert made.open().highest_number("film") == 2


def test_damage_is_not_taken_for_nothing(tmp_path: Path) -> None:
    made = Versions(tmp_path, [1, 2, 3, 0])
    made.go_live(1)
    (number,) = (tmp_path / "numbers").iterdir()
    assert number.read_bytes() == b"2 film\n"
    for damage in (b"", b"film", b"-1 film", b"9" * 30 + b" film", b"\xff" * 5000):
        number.write_bytes(damage)
        made.names = made.open()
        with pytest.raises(StoreError, match=r"damaged; remove it"):
            made.names.highest_number("film")
        made.names.begin(made.ids[2])
        with pytest.raises(StoreError, match=r"damaged; remove it"):
            made.go_live(2)
        assert made.shown() == 1
    (tmp_path / "titles" / made.ids[1].hex() / "signatures").write_bytes(b"\x00" * 9000)
    assert Floors(tmp_path).number(made.ids[1]) == 0
    assert len(Floors(tmp_path).signatures(made.ids[1])) < 9000
    with pytest.raises(StoreError, match="not here"):
        made.names.keep_signatures(made.ids[3], b"x")
    assert Signatures.decode(STUDIO.sign(made.ids[1]).encode()).statement.number == 1
