"""Sets of chunks, compiled where possible: the class of `_pure_bitmaps`, or its compiled twin.

A class and not functions over buffers, as in `bits`: most operations take less time than one call in Python, so a front
of Python around them would be most of what they cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfill.hot import NATIVE

if TYPE_CHECKING or not NATIVE:
    from p2pfill.hot._pure_bitmaps import Bitmap
else:
    from p2pfill._native import Bitmap

__all__ = ["Bitmap"]
