"""The hot operations: compiled where possible, pure Python everywhere, the same results either way.

`bits` works on memory only, `io` on file descriptors. Each operation exists in `p2pfill._native` (Cython) and in a
pure twin, `_pure_bits` or `_pure_io`; one test set runs over both and a property test holds them equal.
`P2PFILL_PURE=1` in the environment at import time forces the twins. `NATIVE` tells which are in use.
"""

import os
import warnings

__all__ = ["NATIVE"]


def _native_wanted_and_loadable() -> bool:
    if os.environ.get("P2PFILL_PURE", "") not in ("", "0"):
        return False
    try:
        import p2pfill._native  # noqa: F401
    except ModuleNotFoundError:
        return False  # it was not built, which the build has said
    except ImportError as error:
        # Built but unloadable is a broken installation: it must not look like a mere lack of speed.
        warnings.warn(f"p2pfill._native does not load, using pure Python: {error}", RuntimeWarning, stacklevel=2)
        return False
    return True


NATIVE: bool = _native_wanted_and_loadable()
