"""Paths that have the signs of wildcards in them."""

from __future__ import annotations

import pytest

from p2pfill.model.files import Files
from p2pfill.model.selection import select

FILES = Files(sorted((path, 1, 1, False) for path in ("a1.ts", "a[1].ts", "d*/x", "dd/x")))


@pytest.mark.parametrize(
    ("pattern", "meant"), [("a[1].ts", {"a1.ts", "a[1].ts"}), ("d*/", {"d*/x"}), ("d*/x", {"d*/x", "dd/x"})]
)
def test_a_path_with_wildcards_in_it_means_itself_besides(pattern: str, meant: set[str]) -> None:
    found = select(FILES, [pattern])
    assert found is not None
    assert {FILES.path(index) for index in found.indexes()} == meant
