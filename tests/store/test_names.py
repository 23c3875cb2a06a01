"""Names on disks and under locales of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfill.errors import StoreError
from p2pfill.model.paths import show
from p2pfill.store import Store, publish, verify_tree
from p2pfill.store import disk as disk_module
from p2pfill.store import store as store_module

CASES = [("net/xt_TCPMSS.h", "net/xt_tcpmss.h"), ("e\u0301", "\u00e9"), ("Read/me", "read")]


def make_tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode() * 100)
    return root


@pytest.mark.parametrize("paths", CASES)
def test_names_that_differ_in_case_only_are_filled_where_the_disk_tells_them_apart(
    tmp_path: Path, paths: tuple[str, str]
) -> None:
    tree = make_tree(tmp_path / "tree", "other", *paths)
    manifest = publish(tree, name="t").manifest
    with Store.open(tmp_path / "data") as store:
        title = store.begin_fill(manifest)
        title.write_chunk(0, b"".join((tree / entry.path).read_bytes() for entry in manifest.files))
        title.commit([0])
        title.go_live()
        report = verify_tree(tmp_path / "data" / "live" / "t", manifest)
        assert report.ok
        assert not report.extra


@pytest.mark.parametrize("paths", CASES)
def test_they_are_refused_and_named_where_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: tuple[str, str]
) -> None:
    """Such a disk cannot be had here; the look that a store has at its own is answered for it."""
    monkeypatch.setattr(store_module, "folds_names", lambda directory: True)
    manifest = publish(make_tree(tmp_path / "tree", "other", *paths), name="t").manifest
    plain = publish(make_tree(tmp_path / "plain", "a", "b/c", "B/d"), name="plain").manifest
    with Store.open(tmp_path / "data") as store:
        with pytest.raises(StoreError, match="for the same name; use a disk that") as caught:
            store.begin_fill(manifest)
        named = ("Read", "read") if "read" in paths else paths
        assert all(show(path) in str(caught.value) for path in named)
        assert not store.titles()
        assert not list((tmp_path / "data" / "filling").iterdir())
        store.begin_fill(plain)


@pytest.mark.parametrize("kind", ["case", "composition"])
def test_a_disk_that_folds_names_is_known_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    assert not disk_module.folds_names(tmp_path)
    exists = Path.exists

    def folded(path: Path) -> bool:
        other = path.name.lower() if kind == "case" else path.name.replace("e\u0301", "\u00e9")
        return exists(path.with_name(other))

    monkeypatch.setattr(Path, "exists", folded)
    assert disk_module.folds_names(tmp_path)
    assert not list(tmp_path.iterdir())
