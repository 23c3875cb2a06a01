"""What `live/NAME` shows: after orders, completions, failures, crashes and restarts in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.errors import StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.versions import version_to_show
from p2pfill.store import Store, publish

A, B, C = (TitleId(bytes([one]) * 32) for one in (1, 2, 3))


def test_the_newest_order_that_is_live_is_shown() -> None:
    assert version_to_show(None, {A: 1, B: 2}, [A]) == A
    assert version_to_show(A, {A: 1, B: 2}, [A, B]) == B
    assert version_to_show(B, {A: 3, B: 2}, [A, B]) == A
    assert version_to_show(B, {A: 1, B: 2, C: 9}, [A, B]) == B


def test_without_an_order_what_was_shown_stays() -> None:
    assert version_to_show(A, {}, [A, B]) == A
    assert version_to_show(A, {B: 1}, [A]) == A
    assert version_to_show(A, {A: 1}, []) is None
    assert version_to_show(B, {A: 1}, [A, B]) == A


class Crash(BaseException):
    """The process ends here."""


@contextmanager
def crash_after(steps: int) -> Iterator[None]:
    """End the process, as it were, at the so-many-th change of a directory."""
    left = steps
    real = {name: getattr(os, name) for name in ("rename", "replace", "symlink", "unlink")}

    def counted(name: str) -> object:
        def step(*given: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return real[name](*given, **named)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(os, name, counted(name))
        yield


class Cache:
    """A store, what a tracker would say to it, and what must be shown."""

    def __init__(self, root: Path, manifests: list[Manifest], sources: list[Path]) -> None:
        self.root, self.manifests, self.sources = root, manifests, sources
        self.store = Store.open(root)
        self.numbers: dict[TitleId, int] = {}
        self.last = 0
        self.backup: tuple[dict[TitleId, int], int] = {}, 0
        self.is_told = False

    def restart(self) -> None:
        self.store.close()
        self.store = Store.open(self.root)
        self.is_told = False
        for title_id in self.store.live_ids():
            self.store.open_title(title_id)

    def order(self, version: int) -> None:
        self.last += 1
        self.numbers[self.manifests[version].title_id] = self.last

    def hear(self) -> None:
        assert not self.store.set_orders(self.numbers)
        self.is_told = True

    def complete(self, version: int) -> None:
        manifest = self.manifests[version]
        stored = self.store.begin_fill(manifest)
        if stored.live:
            return
        data = (self.sources[version] / "v").read_bytes()
        if not stored.is_sealed(0):
            stored.write_chunk(0, data)
        stored.commit([0])
        stored.go_live()

    def shown(self) -> bytes | None:
        file = self.root / "live" / "name" / "v"
        return file.read_bytes() if file.exists() else None

    def check(self) -> None:
        live = [manifest.title_id for manifest in self.manifests if manifest.title_id in self.store.live_ids()]
        ordered = [title_id for title_id in live if title_id in self.numbers]
        if self.is_told and ordered:
            newest = max(ordered, key=self.numbers.__getitem__)
            index = [manifest.title_id for manifest in self.manifests].index(newest)
            assert self.shown() == b"%d" % index
        links = [entry for entry in os.listdir(self.root / "filling") if entry.endswith(".link")]
        assert links == []


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Manifest], list[Path]]:
    sources = []
    for index in range(3):
        source = tmp_path_factory.mktemp(f"v{index}")
        (source / "v").write_bytes(b"%d" % index)
        sources.append(source)
    return [publish(source, name="name").manifest for source in sources], sources


VERSION = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("order"), VERSION),
        st.tuples(st.just("hear")),
        st.tuples(st.just("complete"), VERSION),
        st.tuples(st.just("withdraw"), VERSION),
        st.tuples(st.just("remove"), VERSION),
        st.tuples(st.just("restart")),
        st.tuples(st.just("back up")),
        st.tuples(st.just("restore")),
        st.tuples(st.just("crash"), st.sampled_from(["hear", "complete"]), VERSION, st.integers(0, 8)),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_the_link_is_that_of_the_newest_order_whatever_comes(
    versions: tuple[list[Manifest], list[Path]], steps: list[tuple[object, ...]]
) -> None:
    root = Path(tempfile.mkdtemp(prefix="versions-"))
    cache = Cache(root, *versions)
    try:
        for step in steps:
            match step:
                case ("order", int(version)):
                    cache.order(version)
                case ("withdraw", int(version)):
                    cache.numbers.pop(cache.manifests[version].title_id, None)
                case ("complete", int(version)) if cache.manifests[version].title_id in cache.numbers:
                    cache.hear()
                    cache.complete(version)
                case ("remove", int(version)):
                    cache.store.remove(cache.manifests[version].title_id)
                case ("crash", str(what), int(version), int(after)):
                    before = cache.shown()
                    try:
                        with crash_after(after):
                            if what == "hear":
                                cache.hear()
                            elif cache.manifests[version].title_id in cache.numbers:
                                cache.hear()
                                cache.complete(version)
                    except Crash:
                        assert cache.shown() is not None or before is None, "there was nothing to see meanwhile"
                        cache.restart()
                case ("back up",):
                    cache.backup = dict(cache.numbers), cache.last
                case ("restore",):
                    cache.numbers, cache.last = dict(cache.backup[0]), cache.backup[1]
                    cache.hear()
                case ("restart",):
                    shown = cache.shown()
                    cache.restart()
                    assert cache.shown() == shown
                case _:
                    cache.hear()
            if step[0] in ("hear", "complete", "remove"):
                cache.hear()
                cache.check()
        cache.hear()
        cache.check()
        cache.restart()
        cache.hear()
        cache.check()
    finally:
        cache.store.close()
        shutil.rmtree(root)


@pytest.mark.parametrize("restarts", [False, True])
def test_an_order_that_is_made_again_may_have_the_number_that_it_had(
    tmp_path: Path, versions: tuple[list[Manifest], list[Path]], restarts: bool
) -> None:
    """As where the tracker's database was put back to what it was before the order."""
    cache = Cache(tmp_path, *versions)
    newest = versions[0][1].title_id
    cache.order(0)
    cache.order(1)
    for version in (0, 1):
        cache.hear()
        cache.complete(version)
    number = cache.numbers.pop(newest)
    cache.hear()
    assert cache.shown() == b"0"
    assert cache.store.names.taken(newest) == 0, "it is shown for no order"
    if restarts:
        cache.restart()
    cache.numbers[newest] = number
    cache.hear()
    assert cache.shown() == b"1"
    assert cache.store.names.taken(newest) == number
    cache.store.close()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_title_that_is_opened_late_is_shown_for_its_new_order(
    tmp_path: Path, versions: tuple[list[Manifest], list[Path]], is_known: bool
) -> None:
    cache = Cache(tmp_path, *versions)
    older, newest = (manifest.title_id for manifest in versions[0][:2])
    cache.order(0)
    cache.order(1)
    for version in (0, 1):
        cache.hear()
        cache.complete(version)
    number = cache.numbers.pop(newest)
    cache.store.close()
    cache.store = Store.open(tmp_path)
    cache.store.open_title(older)
    cache.hear()
    if is_known:
        cache.store.open_title(newest)
        cache.hear()
        assert cache.shown() == b"0"
    cache.numbers[newest] = number
    cache.hear()
    cache.store.open_title(newest)
    cache.hear()
    assert cache.shown() == b"1"
    cache.store.close()


def test_without_a_tracker_each_beginning_is_an_order(
    tmp_path: Path, versions: tuple[list[Manifest], list[Path]]
) -> None:
    cache = Cache(tmp_path, *versions)
    cache.complete(0)
    cache.complete(1)
    assert cache.shown() == b"1"
    cache.store.show_anew(versions[0][0].title_id)
    assert cache.shown() == b"0"
    cache.restart()
    cache.complete(2)
    assert cache.shown() == b"2"
    cache.store.close()


def test_what_the_disk_refuses_is_said_and_tried_again(
    tmp_path: Path, versions: tuple[list[Manifest], list[Path]]
) -> None:
    cache = Cache(tmp_path, *versions)
    cache.order(0)
    cache.order(1)
    cache.hear()
    cache.complete(0)
    cache.complete(1)
    link = tmp_path / "live" / "name"
    link.unlink()
    link.mkdir()
    cache.order(0)
    title_id = versions[0][0].title_id
    assert isinstance(cache.store.set_orders(cache.numbers)[title_id], StoreError)
    link.rmdir()
    cache.hear()
    assert cache.shown() == b"0"
    assert cache.store.names.taken(title_id) == cache.numbers[title_id]
    cache.store.close()


def test_that_an_order_has_gone_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash brought its number back, and the link could go back to what was withdrawn until the tracker was heard."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(b"x")
    manifest = publish(tmp_path / "tree", name="film").manifest
    with Store.open(tmp_path / "data") as store:
        title = store.begin_fill(manifest)
        title.write_chunk(0, b"x")
        title.commit([0])
        title.go_live()
        directory = tmp_path / "data" / "titles" / manifest.title_id.hex()
        assert (directory / "order").exists()
        steps: list[str] = []
        real = {name: getattr(os, name) for name in ("unlink", "fsync")}
        monkeypatch.setattr(
            os, "unlink", lambda path, **at: (steps.append(f"unlink {path}"), real["unlink"](path, **at))
        )
        monkeypatch.setattr(
            os, "fsync", lambda fd: (steps.append("sync " + os.readlink(f"/proc/self/fd/{fd}")), real["fsync"](fd))
        )
        assert not store.set_orders({})
        assert steps == [f"unlink {directory}/order", f"sync {directory}"]
        steps.clear()
        assert not store.set_orders({})
        assert not steps
