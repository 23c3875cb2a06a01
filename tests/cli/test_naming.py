"""What a name or the start of an id means to commands, against a real tracker whose caches only pretend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p2pfill.cli import main
from p2pfill.cli.naming import find_fill
from p2pfill.errors import ConfigError
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.tracker.records import FillRecord, FillRequest


class Versions:
    """Titles of one name at a tracker, ordered one after the other."""

    def __init__(self, fleet: Any, make: Any, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._fleet, self._capsys = fleet, capsys
        self.manifests: list[Manifest] = [make.manifest(chunks=chunks) for chunks in (4, 5)]
        self.ids = [manifest.title_id.hex() for manifest in self.manifests]
        self.files = []
        for number, manifest in enumerate(self.manifests):
            self.files.append(directory / f"v{number}.fill")
            self.files[-1].write_bytes(manifest.encode())
        fleet.beat("a1", *(make.report(manifest, "live", manifest.chunk_count) for manifest in self.manifests))
        for number in (0, 1):
            self.order(number)

    def order(self, number: int) -> str:
        out, _ = self("fill", str(self.files[number]), "--to", "all", "--json")
        return str(json.loads(out)["fill"])

    def __call__(self, *command: str, code: int = 0) -> tuple[str, str]:
        """Run a command; return what it prints on both streams."""
        assert main([*command, "--tracker", self._fleet.url]) == code
        said = self._capsys.readouterr()
        return said.out, said.err


@pytest.fixture
def two(fleet: Any, make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Versions:
    return Versions(fleet, make, tmp_path, capsys)


LOOKING = (
    ("title", "show", "film"), ("title", "pin", "film"), ("explain", "a1", "film"), ("scrub", "film"),
)  # fmt: skip


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_who_only_looks_sees_the_newest_order_and_is_told_so(two: Versions, command: tuple[str, ...]) -> None:
    for newest in (1, 0, 1):
        two.order(newest)
        out, err = two(*command, "--json")
        assert err.startswith(f"film means {two.ids[newest][:12]} (published 20"), err
        assert f"which was ordered last; not {two.ids[1 - newest][:12]} (published 20" in err
        assert two.ids[newest] in out
        assert err.count("\n") == 1


CHANGING = (
    ("title", "withdraw", "film"), ("title", "withdraw", "film", "--urgent", "--yes"),
    ("title", "remove", "film", "--yes"), ("title", "unpin", "film"),
)  # fmt: skip


@pytest.mark.parametrize("command", CHANGING, ids=" ".join)
def test_who_withdraws_or_deletes_is_asked_for_an_id_where_two_stand(two: Versions, command: tuple[str, ...]) -> None:
    for one in two.ids:
        two("title", "pin", one)
    _, err = two(*command, code=2)
    assert "'film' means 2 titles; name one by its id: " in err
    for number, one in enumerate(two.ids):
        assert f"{one[:12]} (published 20" in err
        assert f"order {number + 1})" in err
    assert json.loads(two("title", "show", two.ids[0], "--json")[0])["fills"], "nothing was done"


@pytest.mark.parametrize("how", [(), ("--urgent", "--yes")])
def test_a_version_that_was_withdrawn_does_not_count(two: Versions, how: tuple[str, ...]) -> None:
    two("title", "withdraw", two.ids[1], *how)
    for command in LOOKING:
        out, err = two(*command, "--json")
        assert two.ids[0] in out
        assert err == ""
    two("title", "unpin", "film")
    # Whoever removes one from the catalogue means one of all that are in it.
    _, err = two("title", "remove", "film", "--yes", code=2)
    assert f"{two.ids[1][:12]} (published" in err
    out, _ = two("title", "withdraw", "film", "--urgent", "--yes")
    assert f"withdraw 1 order of film {two.ids[0][:12]}" in out
    # Where all were withdrawn, the name still means something to who looks.
    out, err = two("title", "show", "film")
    assert "withdrawn: caches that hold it delete it" in out or not how


def test_a_pin_is_taken_from_the_version_that_has_one(two: Versions) -> None:
    two("title", "pin", two.ids[0])
    out, _ = two("title", "unpin", "film")
    assert "done: unpin film" in out
    assert not json.loads(two("title", "show", two.ids[0], "--json")[0])["title"]["pins"]


def test_ids_may_be_cut_short_while_they_mean_one(two: Versions) -> None:
    out, err = two("title", "show", two.ids[0][:4].upper(), "--json")
    assert json.loads(out)["title"]["title"] == two.ids[0]
    assert err == ""
    assert "knows no title" in two("title", "show", two.ids[0][:3], code=2)[1]
    fill = two.order(0)
    for command in (("show",), ("withdraw", "--dry-run")):
        assert fill in two("fills", *command, fill[:-1], "--json")[0]
        assert fill in two("fills", *command, fill.upper(), "--json")[0]
    assert "there is no fill 'zzzz'" in two("fills", "show", "zzzz", code=2)[1]
    assert "named by 4 characters" in two("fills", "withdraw", fill[:3], code=2)[1]


async def test_the_start_of_two_fills_means_neither() -> None:
    class Client:
        async def fills(self) -> list[FillRecord]:
            return [FillRecord(name, FillRequest("0" * 64, "all", []), 0.0) for name in ("abcd1", "abcd2", "beef1")]

    assert await find_fill(Client(), "BEEF") == "beef1"  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="2 fills have ids that start with 'abcd': abcd1, abcd2"):
        await find_fill(Client(), "abcd")  # type: ignore[arg-type]


def test_the_start_of_two_ids_lists_both(two: Versions, make: Any, tmp_path: Path) -> None:
    by_start: dict[str, TitleId] = {}
    for count in range(6, 2000):
        title = make.manifest(chunks=count % 40 + 1, name=f"n{count}").title_id
        if title.hex()[:4] in by_start:
            break
        by_start[title.hex()[:4]] = title
    else:
        pytest.fail("no two ids start alike")
    pair = [by_start[title.hex()[:4]].hex(), title.hex()]
    for number in range(6, count + 1):
        manifest = make.manifest(chunks=number % 40 + 1, name=f"n{number}")
        if manifest.title_id.hex() in pair:
            (tmp_path / "x.fill").write_bytes(manifest.encode())
            two("fill", str(tmp_path / "x.fill"), "--to", "all")
    _, err = two("title", "show", pair[0][:4], code=2)
    assert f"2 titles have ids that start with {pair[0][:4]!r}" in err
    assert all(one[:12] in err for one in pair)
