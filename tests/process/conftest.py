"""One fleet for all tests of a module: starting processes is what costs time here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from process.fleet import Fleet, HeldOrigin, Title

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two ISPs of two caches and a regional one, with their tracker. Tests leave all of them running."""
    one = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        one.start(("a1", "isp-a"), ("a2", "isp-a"), ("b1", "isp-b"), ("b2", "isp-b"), ("hub", "hub"))
        yield one
    finally:
        one.close()


@pytest.fixture
def make_title(tmp_path: Path) -> Callable[..., Title]:
    """Return `make(name, mib=8) -> Title`."""

    def make(name: str, mib: int = 8) -> Title:
        return Title(tmp_path, name, mib * MIB)

    return make


@pytest.fixture
def make_origin() -> Iterator[Callable[..., HeldOrigin]]:
    """Return `make(root, **settings) -> HeldOrigin`; all are ended with the test."""
    made: list[HeldOrigin] = []

    def make(root: Path, **settings: int | None) -> HeldOrigin:
        made.append(HeldOrigin(root, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for origin in made:
        origin.kill()
