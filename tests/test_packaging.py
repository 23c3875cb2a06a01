"""An sdist and a wheel build from a clean tree with no step by hand, and carry what they must."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent


def test_sdist_and_wheel_build(tmp_path: Path) -> None:
    """The sdist is made from the tree and the wheel from the sdist, each in an environment of its own."""
    tree = tmp_path / "tree"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    for name in filter(None, tracked.decode().split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copyfile(ROOT / name, tree / name)
    out = tmp_path / "dist"
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(out), str(tree)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        env={**os.environ, "P2PFILL_NATIVE": "require"},
    )
    if done.returncode and "Temporary failure in name resolution" in done.stdout and not os.environ.get("CI"):
        pytest.skip("needs the package registry")
    assert not done.returncode, done.stdout[-3000:]
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    assert "-abi3-" in wheel.name
    inside = zipfile.ZipFile(wheel).namelist()
    assert {"p2pfill/_native.abi3.so", "p2pfill/cli/__main__.py"} <= set(inside)
    assert {"p2pfill/py.typed", "p2pfill/bench/floor.c"} <= set(inside)
    assert not [name for name in inside if name.startswith(("tests/", "bench/", "cext/"))]
    with tarfile.open(sdist) as archive:
        sources = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"cext/p2pfill/_native.pyx", "cext/p2pfill/_native.pxd", "setup.py", "README.md"} <= sources
    assert "p2pfill/bench/floor.c" in sources
