"""Whether what is measured in the name of a tree of the code is that tree.

A module that a tree lacks, such as a native module that was not built in it, is looked for in all other places, and an
installation for development gives its own. The figures are those of another version then, or of a mixture.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from p2pfill.bench.measure import BenchFailed

LIMIT_S: Final = 60.0
"""To import a package of a few modules, on a machine that does other work."""

_PROBE: Final = """
import sys, p2pfill.hot
print("\\n".join(one.__file__ for name, one in sys.modules.items() if name.split(".")[0] == "p2pfill"))
"""


def check_tree(root: Path) -> None:
    """Make sure that `root` has the package, and the native module that would be used with it. Raises `BenchFailed`."""
    root = root.resolve()
    if not (root / "p2pfill" / "__init__.py").is_file():
        raise BenchFailed(f"{root} has no p2pfill/__init__.py: name the directory of a clone")
    # -P: what lies in the directory of this process is not of the tree.
    command = [sys.executable, "-P", "-c", _PROBE]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise BenchFailed(f"the code in {root} cannot be imported: {done.stderr.strip()[-2000:]}")
    for path in done.stdout.splitlines():
        if not Path(path).resolve().is_relative_to(root):
            raise BenchFailed(
                f"with {root}, {path} would be measured, which is of another tree: build the native module there with "
                f"`python setup.py build_ext --inplace`, or set P2PFILL_PURE=1 to compare both without it"
            )
