"""Paths that have the signs of wildcards in them."""

from __future__ import annotations

import pytest

from p2pfill.errors import ConfigError
from p2pfill.model.files import Files
from p2pfill.model.manifest import layout
from p2pfill.model.selection import select

FILES = Files(sorted((path, 1, 1, False) for path in ("a1.ts", "a[1].ts", "d*/x", "dd/x")))


@pytest.mark.parametrize(
    ("pattern", "meant"), [("a[1].ts", {"a1.ts", "a[1].ts"}), ("d*/", {"d*/x"}), ("d*/x", {"d*/x", "dd/x"})]
)
def test_a_path_with_wildcards_in_it_means_itself_besides(pattern: str, meant: set[str]) -> None:
    found = select(FILES, [pattern])
    assert found is not None
    assert {FILES.path(index) for index in found.indexes()} == meant


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("video", "'video/'"), ("/video/hi", "'video/hi/'"), ("./a.txt", "'a.txt'"), ("a.txt/", "'a.txt'"),
        ("Video/", "'video/'"), ("video/hi/SEG-1.TS", "'video/hi/seg-1.ts'"), ("vid", ""), ("", ""),
    ],
)  # fmt: skip
def test_what_is_nearly_a_name_is_answered_with_it(pattern: str, near: str) -> None:
    files = layout([("a.txt", 1), ("video/hi/seg-1.ts", 1), ("video/lo/seg-1.ts", 1)])
    with pytest.raises(ConfigError) as refused:
        select(files, [pattern])
    assert (f"did you mean {near}?" in str(refused.value)) if near else "did you mean" not in str(refused.value)
