"""Makes docs/img/demo.svg and docs/reports/demo.json from one real run of the demo.

    .venv/bin/python docs/img/record_demo.py [SIZE_MIB]

The picture shows the live board as it was when half of the bytes had come, and the summary at the end; both are drawn
from the records of that run by the code that draws them in a terminal. docs/img/demo.png is rendered from the SVG with
any converter, for instance CairoSVG.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from p2pfill.cli import board, demo
from p2pfill.cli.summary import demo_record, demo_view
from p2pfill.cli.text import show_bytes
from p2pfill.tracker.records import FillStatus

DOCS: Final = Path(__file__).parent.parent
WIDTH: Final = 92
FONTS: Final = "'DejaVu Sans Mono', Menlo, Consolas, monospace"


def svg_template() -> str:
    """Return rich's template without the fonts that it fetches from elsewhere."""
    start, end = CONSOLE_SVG_FORMAT.index("@font-face"), CONSOLE_SVG_FORMAT.index(".{unique_id}-matrix")
    return (CONSOLE_SVG_FORMAT[:start] + CONSOLE_SVG_FORMAT[end:]).replace("Fira Code, monospace", FONTS)


def main(size_mib: int) -> None:
    """Run the demo and write both files."""
    half: list[FillStatus] = []

    @contextmanager
    def recorded_board(console: Console, title: str) -> Iterator[Callable[[FillStatus], None]]:
        with board.fill_board(console, title) as show:

            def record(status: FillStatus) -> None:
                if not half and status.totals.have_bytes * 2 >= status.title_bytes * len(status.nodes):
                    half.append(msgspec.convert(msgspec.to_builtins(status), FillStatus))
                show(status)

            yield record

    demo.fill_board = recorded_board  # type: ignore[assignment]
    running = demo._Demo(Console(highlight=False), None, size_mib * 1024 * 1024, None, False)
    outcome = trio.run(running.run)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text("$ make demo", style="bold"))
    for status in half:
        console.print(Text(f"\nFilling 7 caches with 'demo'  {show_bytes(status.title_bytes)}", style="bold"))
        console.print(board.fill_table(status, width=WIDTH))
    console.print(demo_view(outcome))
    svg = console.export_svg(title="p2pfill", code_format=svg_template(), unique_id="demo")
    (DOCS / "img" / "demo.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
    (DOCS / "reports" / "demo.json").write_text(json.dumps(demo_record(outcome), indent=2) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 512)
