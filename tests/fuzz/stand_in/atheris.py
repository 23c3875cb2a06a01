"""Stands in for atheris in a worker: the inputs of its directories, then as many changed ones as are asked for."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

_set_up: dict[str, Any] = {}


@contextlib.contextmanager
def instrument_imports(include: list[str], enable_loader_override: bool) -> Iterator[None]:
    """Instrument nothing."""
    assert include
    assert not enable_loader_override
    yield


def Setup(argv: list[str], run: Callable[[bytes], None], **options: Any) -> None:
    """Remember what is to be run."""
    flags = dict(flag[1:].split("=", 1) for flag in argv[1:] if flag.startswith("-"))
    _set_up.update(flags=flags, directories=[Path(one) for one in argv[1:] if one[0] != "-"], run=run, **options)


def Mutate(data: bytes, size_max: int) -> bytes:
    """Change one byte."""
    return (data[:-1] + b"!")[:size_max]


def Fuzz() -> None:
    """Run, and find an input that is known already."""
    inputs = [path.read_bytes() for one in _set_up["directories"] for path in sorted(one.iterdir())]
    chance, change = Random(1), _set_up.get("custom_mutator", lambda data, size_max, seed: Mutate(data, size_max))
    runs, size_max = int(_set_up["flags"]["runs"]), int(_set_up["flags"]["max_len"])
    executed = 0
    (_set_up["directories"][0] / "found").write_bytes(inputs[0])
    for number in range(runs):
        data = inputs[number] if number < len(inputs) else change(chance.choice(inputs), size_max, number)
        executed += 1
        try:
            _set_up["run"](data)
        except BaseException:  # noqa: BLE001  (as the library does)
            traceback.print_exc()
            sys.exit(77)
    print(f"#{executed}\tDONE   cov: 12 ft: 30 corp: {len(inputs)}/7b\nstat::number_of_executed_units: {executed}")
    print("stat::peak_rss_mb:              64", flush=True)
    sys.exit(0)
