"""Which twin is in use: the native one where nothing is said, the pure one where the environment asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from p2pfill import NodeConfig, _native, hot, open_node
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


@pytest.mark.parametrize(("pure", "said"), [("", "(native)"), ("1", "(pure Python)")])
def test_the_version_says_which_is_in_use(pure: str, said: str) -> None:
    command = [sys.executable, "-m", "p2pfill.cli", "--version"]
    done = subprocess.run(
        command, env=os.environ | {"P2PFILL_PURE": pure}, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout.strip().endswith(said)


@pytest.mark.parametrize("native", [True, False])
def test_a_node_without_the_native_module_says_so(
    native: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start() -> None:
        async with open_node(NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"))):
            pass

    monkeypatch.setattr("p2pfill.node.node.NATIVE", native)
    trio.run(start)
    assert ("the native module is not in use" in caplog.text) is not native
