"""How the benchmarks that make one report give it: to a file, and as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

R = TypeVar("R", bound=msgspec.Struct)


def tell(report: R, show: Callable[[R], None], out: Path | None, *, as_json: bool) -> None:
    """Write a report to `out`, if given, and print it: by `show`, or as JSON and nothing else. Raises `OSError`."""
    text = msgspec.json.format(msgspec.json.encode(report), indent=1)
    if out is not None:
        out.write_bytes(text + b"\n")
    if as_json:
        print(text.decode())
    else:
        show(report)
