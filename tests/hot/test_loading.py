"""Which twin is in use: the native one where nothing is said, the pure one where the environment asks for it."""

import os
import subprocess
import sys

from p2pfill import _native, hot
from p2pfill.hot import bits, io

PROBE = "from p2pfill.hot import NATIVE, bits, io; print(NATIVE, bits._twin.__name__, io._twin.__name__)"


def probe(**environment: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "P2PFILL_PURE"}
    return subprocess.run(
        [sys.executable, "-c", PROBE], env=clean | environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_native_module_loaded() -> None:
    if os.environ.get("P2PFILL_PURE", "") in ("", "0"):
        assert hot.NATIVE
        assert bits._twin is _native  # type: ignore[attr-defined]
        assert io._twin is _native  # type: ignore[attr-defined]
    assert _native.__file__.endswith(".so")
    assert "abi3" in _native.__file__


def test_default_is_native() -> None:
    assert probe() == "True p2pfill._native p2pfill._native"


def test_environment_forces_pure() -> None:
    assert probe(P2PFILL_PURE="1") == "False p2pfill.hot._pure_bits p2pfill.hot._pure_io"
