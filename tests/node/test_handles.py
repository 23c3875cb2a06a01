"""No descriptor of one title is ever used for another's, whatever goes live, rests, or is closed beside it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import trio

from p2pfill.model.manifest import Manifest, Segment
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node.titles import TitlePhase
from p2pfill.store import StoredTitle, publish, verify_tree
from p2pfill.store.descriptors import BUDGET

VERSIONS = 2
FILES = 12
CHUNK = 64 * 1024


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Have files be closed, and their numbers given to others, all the time."""
    before = BUDGET.most
    BUDGET.fit(24)
    yield
    BUDGET.fit(4 * before)


def versions_of(place: Path) -> list[tuple[Path, Manifest]]:
    """Return versions of a title, each a byte and a file off the one before."""
    chance = random.Random(18)
    blobs = [chance.randbytes(chance.choice((3000, 70_000, 300_000))) for _ in range(FILES)]
    made = []
    for number in range(VERSIONS):
        changed = bytearray(blobs[number])
        changed[chance.randrange(len(changed))] ^= 1
        blobs[number] = bytes(changed)
        blobs[-1 - number] = chance.randbytes(100_000)
        tree = place / f"v{number}"
        tree.mkdir()
        for index, blob in enumerate(blobs):
            (tree / f"f{index}").write_bytes(blob)
        made.append((tree, publish(tree, name="film", chunk_size=CHUNK).manifest))
    return made


async def test_a_second_title_never_writes_through_a_descriptor_of_one_that_is_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_descriptors: None
) -> None:
    """Each version is begun in the moment in which the one before goes live, on both nodes."""
    real, wrong = StoredTitle._ranges, list[str]()
    looks = 0

    def checked(title: StoredTitle, segments: Iterable[Segment], write: bool) -> Iterator[tuple[int, int, int]]:
        nonlocal looks
        parts = list(segments)
        for part, (fd, offset, length) in zip(parts, real(title, parts, write), strict=True):
            for when in ("before", "after"):
                place = os.readlink(f"/proc/self/fd/{fd}")
                is_its_own = f"/{title.manifest.title_id.hex()}/" in place
                if not (is_its_own and place.endswith(f"/{title.manifest.files.path(part.file_index)}")):
                    wrong.append(f"{when}: {place} for {title.manifest.name}")
                if write and title.live and not title.takes_writes:
                    wrong.append(f"{when}: a write to {place}, which is live")
                looks += 1
                if when == "before":
                    yield fd, offset, length

    monkeypatch.setattr(StoredTitle, "_ranges", checked)
    versions = versions_of(tmp_path)

    def config(name: str) -> NodeConfig:
        return NodeConfig(id=name, isp="isp-a", data=str(tmp_path / name))

    with trio.fail_after(60):
        async with open_node(config("a1")) as first, open_node(config("a2")) as second:
            BUDGET.fit(24)
            members = [first.info, second.info]
            for tree, manifest in versions:
                await first.start_fill(manifest, [str(tree)], members=members)
                driver = await second.start_fill(manifest, [str(tree)], members=members)
                await driver.done.wait()
            for node in (first, second):
                await be_live(node, [manifest for _, manifest in versions])
    assert not wrong
    assert looks > 2 * VERSIONS * FILES
    for name in ("a1", "a2"):
        for _, manifest in versions:
            files = tmp_path / name / "titles" / manifest.title_id.hex() / "files"
            assert verify_tree(files, manifest).ok


async def be_live(node: Node, manifests: list[Manifest]) -> None:
    while any(node.titles.phase_of(manifest.title_id) is not TitlePhase.LIVE for manifest in manifests):
        await trio.sleep(0.02)
