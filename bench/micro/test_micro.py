"""How long each work takes, with its pure twin beside it.

    python -m pytest bench/micro --benchmark-only

`make bench-micro` runs them too, and writes the report.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.micro.works import TWINS, WORKS, Work, open_work

ROUNDS = 7
CASES = [(work, twin) for work in WORKS.values() for twin in TWINS if twin == "native" or work.has_twin]


@pytest.mark.parametrize(("work", "twin"), CASES, ids=lambda value: value if isinstance(value, str) else value.name)
def test_micro(benchmark: Any, work: Work, twin: str) -> None:
    times = 1 if benchmark.disabled else work.times if twin == "native" else work.times_pure
    benchmark.group = work.name
    benchmark.extra_info.update(work=work.name, unit=work.unit, twin=twin, times=times, bytes_each=work.bytes_each)
    with open_work(work, twin, small=benchmark.disabled) as run:
        benchmark.pedantic(run, args=(times,), rounds=ROUNDS, warmup_rounds=1)
