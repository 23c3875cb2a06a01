"""Some files of a title over real caches: each holds what is ordered for it, whole, and nothing else is fetched."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from process.fleet import Fleet, HeldOrigin, Title, cli, wait_until

from p2pfill.model.selection import chunks_of_selection, select
from p2pfill.store.publish import publish

pytestmark = pytest.mark.process

CHUNK = 64 * 1024


class Episode(Title):
    """An episode in some renditions, with small files beside them."""

    def __init__(self, directory: Path, name: str = "episode") -> None:
        self.name = name
        self.root = directory / name
        rng = random.Random(3)
        for rendition in range(8):
            (self.root / f"r{rendition}").mkdir(parents=True)
            for part in range(6):
                size = rng.choice((CHUNK // 3, CHUNK, 3 * CHUNK + 100, 6 * CHUNK))
                (self.root / f"r{rendition}" / f"part{part}").write_bytes(os.urandom(size))
        for number in range(12):
            (self.root / f"subtitle{number:02}").write_bytes(os.urandom(rng.randrange(1, CHUNK // 4)))
        self.manifest = publish(self.root, name=name, chunk_size=CHUNK).manifest
        self.fill = directory / f"{name}.fill"
        self.fill.write_bytes(self.manifest.encode())
        self.id = self.manifest.title_id.hex()
        self.size = self.manifest.size


def shown(fleet: Fleet, name: str, title: Title) -> dict[str, bytes]:
    live = fleet.data(name) / "live" / title.name
    return {str(path.relative_to(live)): path.read_bytes() for path in live.rglob("*") if path.is_file()}


def of_tree(title: Title, patterns: list[str]) -> dict[str, bytes]:
    chosen = select(title.manifest.files, patterns)
    indexes = range(len(title.manifest.files)) if chosen is None else chosen.indexes()
    names = [title.manifest.files.path(index) for index in indexes]
    return {name: (title.root / name).read_bytes() for name in names}


def chunk_bytes(title: Title, patterns: list[str]) -> int:
    chunks = chunks_of_selection(title.manifest, select(title.manifest.files, patterns))
    return sum(title.manifest.chunk_length(chunk) for chunk in chunks.indexes())


def order(fleet: Fleet, title: Title, origin: str, to: str, patterns: list[str], *more: str) -> None:
    flags = [flag for pattern in patterns for flag in ("--files", pattern)]
    done = cli("fill", str(title.fill), "--tracker", fleet.url, "--origin", origin, "--to", to, *flags, *more)
    assert done.code == 0, done


def wait_live(fleet: Fleet, name: str, title: Title, count: int) -> dict[str, object]:
    """Wait until a cache is live with so many files, and return its report."""

    def report() -> dict[str, object] | None:
        found = fleet.report(name, title)
        assert found.get("state") != "failed", found
        return found if found.get("state") == "live" and found.get("files", 0) == count else None

    found = wait_until(f"{name} is live with {count} files", report)
    assert isinstance(found, dict)
    return found


def test_each_of_twelve_caches_wants_other_files(tmp_path: Path) -> None:
    title = Episode(tmp_path)
    origin = HeldOrigin(title.root)
    fleet = Fleet(tmp_path)
    rng = random.Random(5)
    names = [f"{isp}{number}" for isp in "abc" for number in range(4)]
    wants = {
        name: [
            f"r{rng.randrange(8)}/",
            *(f"r{rng.randrange(8)}/part{rng.randrange(6)}" for _ in range(4)),
            *(f"subtitle{rng.randrange(12):02}" for _ in range(3)),
        ]
        for name in names
    }
    try:
        fleet.start(*((name, f"isp-{name[0]}") for name in names))
        for name in names:
            fleet.order(title, [origin.url], f"id={name}", wants[name])
        for name in names:
            expected = of_tree(title, wants[name])
            report = wait_live(fleet, name, title, len(expected))
            assert shown(fleet, name, title) == expected
            assert report["have_bytes"] == report["title_bytes"] == chunk_bytes(title, wants[name])
            received = sum(int(str(report[key])) for key in ("bytes_peer", "bytes_regional", "bytes_origin"))
            assert received == report["title_bytes"], "nothing is fetched but what is wanted"
        anywhere = chunk_bytes(title, sorted({pattern for patterns in wants.values() for pattern in patterns}))
        assert origin.sent_bytes <= 1.02 * anywhere, origin.sent_bytes / anywhere
    finally:
        origin.kill()
        fleet.close()


def test_files_are_ordered_beside_those_that_are_here(tmp_path: Path) -> None:
    title = Episode(tmp_path)
    origin = HeldOrigin(title.root)
    fleet = Fleet(tmp_path)
    try:
        fleet.start(("a1", "isp-a"), ("a2", "isp-a"))
        order(fleet, title, origin.url, "all", ["r0/", "subtitle03"], "--wait", "--timeout", "60")
        first = of_tree(title, ["r0/", "subtitle03"])
        assert shown(fleet, "a1", title) == shown(fleet, "a2", title) == first
        sent = origin.sent_bytes
        assert sent == chunk_bytes(title, ["r0/", "subtitle03"])
        # More, at one of them; what is there stays as it is, and is not fetched again.
        order(fleet, title, origin.url, "id=a1", ["r1/", "subtitle04"])
        both = of_tree(title, ["r0/", "r1/", "subtitle03", "subtitle04"])
        wait_live(fleet, "a1", title, len(both))
        assert shown(fleet, "a1", title) == both
        assert shown(fleet, "a2", title) == first
        assert origin.sent_bytes == chunk_bytes(title, ["r0/", "r1/", "subtitle03", "subtitle04"])
        # A restart knows them, from the disk alone.
        fleet.nodes["a1"].end()
        fleet.restart("a1")
        wait_live(fleet, "a1", title, len(both))
        # The whole title to the other: what its neighbour holds comes from there.
        before = origin.sent_bytes
        order(fleet, title, origin.url, "id=a2", [], "--wait", "--timeout", "60")
        assert shown(fleet, "a2", title) == of_tree(title, ["*"])
        report = fleet.report("a2", title)
        assert report["files"] == 0
        assert report["have_bytes"] == title.size
        fresh = chunk_bytes(title, ["*"]) - chunk_bytes(title, ["r0/", "r1/", "subtitle03", "subtitle04"])
        assert origin.sent_bytes - before == fresh
        # Lost and rotten files of a part are found and made good; the others are nobody's loss.
        live = fleet.data("a1") / "live" / title.name
        (live / "r1" / "part0").unlink()
        with (live / "r0" / "part1").open("r+b") as file:
            file.write(b"rot")
        done = cli("scrub", title.name, "--tracker", fleet.url, "--node", "a1", "--wait", "--timeout", "60")
        assert done.code == 0, done
        assert shown(fleet, "a1", title) == both
        assert "2 files lost" not in fleet.nodes["a1"].text()
        assert "1 files lost" in fleet.nodes["a1"].text()
    finally:
        origin.kill()
        fleet.close()


def test_a_mistyped_file_orders_nothing(tmp_path: Path) -> None:
    title = Episode(tmp_path)
    fleet = Fleet(tmp_path)
    try:
        fleet.start(("a1", "isp-a"))
        flags = ("--tracker", fleet.url, "--origin", str(title.root), "--to", "all")
        done = cli("fill", str(title.fill), *flags, "--files", "r9/", "--files", "r1/")
        assert done.code == 2, done
        assert "no file of the title is meant by 'r9/'" in done.err
        assert not fleet.get("/v1/fills")["fills"]
        listed = tmp_path / "files.txt"
        listed.write_text("r1/part0\n\nsubtitle05\n")
        done = cli("fill", str(title.fill), *flags, "--files-from", str(listed), "--wait", "--timeout", "60")
        assert done.code == 0, done
        assert "2 of 60 files" in done.out
        assert shown(fleet, "a1", title) == of_tree(title, ["r1/part0", "subtitle05"])
        fills = fleet.get("/v1/fills")["fills"]
        assert [fill["file_count"] for fill in fills] == [2]
    finally:
        fleet.close()


def test_an_origin_without_range_and_caches_that_want_other_files(tmp_path: Path) -> None:
    title = Episode(tmp_path)
    origin = HeldOrigin(title.root, ranges=False)
    fleet = Fleet(tmp_path)
    wants = {"a1": ["r0/", "r1/part1", "subtitle01"], "a2": ["r1/", "subtitle02"], "b1": ["r0/part2", "r2/"]}
    try:
        fleet.start(*((name, f"isp-{name[0]}") for name in wants))
        for name, patterns in wants.items():
            fleet.order(title, [origin.url], f"id={name}", patterns)
        for name, patterns in wants.items():
            expected = of_tree(title, patterns)
            wait_live(fleet, name, title, len(expected))
            assert shown(fleet, name, title) == expected
            wanted = chunks_of_selection(title.manifest, select(title.manifest.files, patterns))
            kept = fleet.data(name) / "titles" / title.id / "rest"
            for path in kept.iterdir() if kept.exists() else ():
                first, last = title.manifest.files.span(int(path.name))
                assert any(wanted[chunk] for chunk in title.manifest.cut.chunks(first, last)), path
        # Each set of files that the same caches want has a reader of its own.
        anywhere = chunk_bytes(title, sorted({pattern for patterns in wants.values() for pattern in patterns}))
        assert origin.sent_bytes <= 3 * anywhere, origin.sent_bytes / anywhere
    finally:
        origin.kill()
        fleet.close()
