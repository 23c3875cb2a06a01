"""A fixed number of bits, as holdings travel and are kept.

Its operations are most of what a decision about a chunk does, so there is a compiled one (`hot.bitmaps`).
"""

from p2pfill.hot.bitmaps import Bitmap

__all__ = ["Bitmap"]
