"""Builds the native module `p2pfill._native`; everything else about the package is in pyproject.toml.

The module is one abi3 extension, so one wheel serves CPython 3.11 and later. It is optional: where there is no
compiler or no xxhash.h the build says so loudly and the package runs on its pure twins (`p2pfill.hot`).
P2PFILL_NATIVE=require turns that into an error, which is what release builds and CI want.
Rejected: -march=native (a wheel must run on any x86-64; cext/xxh3_dispatch.h picks the width when it runs), and a
copy of xxhash.h in this repository.
"""

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

NATIVE_REQUIRED = os.environ.get("P2PFILL_NATIVE") == "require"
# The stable ABI does not exist on free-threaded builds.
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")
ABI3_VERSION_HEX = "0x030B0000"  # 3.11: the first stable ABI with the buffer protocol
SYSTEM_INCLUDE_DIRS = ("/usr/include", "/usr/local/include")


def complain(reason: object) -> None:
    """Say that the native module is left out; raise SystemExit if it was required."""
    bar = "!" * 78
    print(
        f"\n{bar}\n!! p2pfill: the native module was NOT built: {reason}\n"
        f"!! The pure Python twins are used instead: correct, but several times slower.\n"
        f"!! Needed: a C compiler, Cython >= 3.1, and xxhash.h (libxxhash-dev or pyarrow).\n{bar}\n",
        file=sys.stderr,
        flush=True,
    )
    if NATIVE_REQUIRED:
        raise SystemExit("p2pfill: P2PFILL_NATIVE=require is set and the native module cannot be built")


class OptionalBuildExt(build_ext):
    """build_ext that goes on without the extension, loudly, when it cannot be compiled."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError, OSError) as error:
            complain(error)


def xxhash_include_dir() -> str | None:
    """Directory of xxhash.h: the system's, else the one that pyarrow carries; None if there is neither."""
    candidates = [Path(directory) for directory in SYSTEM_INCLUDE_DIRS]
    try:
        import pyarrow
    except ImportError:
        pass
    else:
        candidates.append(Path(pyarrow.get_include()) / "arrow" / "vendored" / "xxhash")
    return next((str(directory) for directory in candidates if (directory / "xxhash.h").is_file()), None)


def extensions() -> list[Extension]:
    """The extension modules to build; empty (after a complaint) if something that they need is missing."""
    include_dir = xxhash_include_dir()
    if include_dir is None:
        complain("xxhash.h was not found")
        return []
    try:
        from Cython.Build import cythonize
    except ImportError as error:
        complain(error)
        return []
    native = Extension(
        "p2pfill._native",
        ["cext/p2pfill/_native.pyx", "cext/xxh3_avx2.c"],
        depends=["cext/xxh3_dispatch.h", "cext/p2pfill/bitmaps.pxi", "cext/p2pfill/lanes.pxi"],
        # A system directory on the -I list could reorder the compiler's own headers, so it is left to the default.
        include_dirs=["cext"] if include_dir in SYSTEM_INCLUDE_DIRS else ["cext", include_dir],
        define_macros=[("Py_LIMITED_API", ABI3_VERSION_HEX)] if ABI3 else [],
        # No fused multiply-add: scores must be the same bits on every processor and in the pure twin.
        extra_compile_args=["-O3", "-g0", "-ffp-contract=off"],
        py_limited_api=ABI3,
    )
    modules: list[Extension] = cythonize([native], include_path=["cext"], language_level=3)
    for module in modules:
        module.optional = True  # cythonize does not carry this over
    return modules


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": OptionalBuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
