"""The quick check of paths refuses exactly what the thorough one refuses."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pfill.errors import ManifestError
from p2pfill.model import limits
from p2pfill.model.paths import PATH_DEPTH_MAX, check_path, check_path_by_parts

PIECES = st.sampled_from(["/", ".", "..", "a", " ", "\n", "\x00", "\x7f", "ä", "...", "a.", ".b", "x" * 255, "\ud800"])


@settings(deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join))
@example("/".join("a" * PATH_DEPTH_MAX))
@example("/".join("a" * (PATH_DEPTH_MAX + 1)))
@example("x" * (limits.PATH_COMPONENT_BYTES_MAX + 1))
@example("/".join(["x" * 255] * 16))
@example("/".join(["x" * 255] * 17))
@example("a\n")
@example("a/..\n")
@example("")
def test_quick_and_thorough_agree(path: str) -> None:
    try:
        check_path_by_parts(path)
    except ManifestError:
        with pytest.raises(ManifestError):
            check_path(path)
    else:
        check_path(path)
