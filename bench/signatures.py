"""What it costs a cache to look whether a title is signed: processor time a title.

    python -m bench.signatures [--titles 2000] [--runs 5] [--out FILE.json] [--json]

Each title is looked at once, by `Publishers.check`, as a cache does before it asks for the manifest: signatures are
decoded, compared with the title and the rule, and those that count are verified. A rule asks for one, two or all of as
many as there may be. Beside it stands what decoding such a title's manifest costs without signatures, with one chunk
and with a thousand. No disk and no network: a cache reads two small files besides.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from bench.telling import tell
from p2pfill.bench.measure import Machine, describe_machine
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.statement import SIGNATURES_MAX, Signatures, Statement
from p2pfill.trust.publishers import Publishers, Rule, open_title
from p2pfill.trust.signing import public_word, sign

THRESHOLDS: Final = (1, 2, SIGNATURES_MAX)
CHUNKS: Final = (1, 1000)
CHUNK_BYTES: Final = 1 << 20


class Cost(msgspec.Struct, frozen=True):
    """What one kind of look costs."""

    what: str
    micros: list[float]
    """Of each run, processor time for a title, in microseconds."""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.micros)


class Report(msgspec.Struct, frozen=True):
    """What `--out` writes."""

    machine: Machine
    titles: int
    costs: list[Cost]


def make_titles(count: int, keys: list[Ed25519PrivateKey]) -> list[tuple[TitleId, bytes]]:
    """Return titles, and their signatures by all keys."""
    made = []
    for number in range(count):
        title_id = TitleId(number.to_bytes(32, "big"))
        signatures: Signatures | None = None
        for key in keys:
            signatures = sign(key, Statement(title_id, f"film-{number}", number), signatures)
        made.append((title_id, b"" if signatures is None else signatures.encode()))
    return made


def make_manifest(chunks: int) -> bytes:
    """Return the encoded manifest of a title of one file."""
    return Manifest(
        "film", CHUNK_BYTES, layout([("film.mp4", chunks * CHUNK_BYTES)]), bytes(16 * chunks), bytes(32 * chunks)
    ).encode()


def measure(what: str, count: int, runs: int, look: Callable[[int], object]) -> Cost:
    """Look at so many titles, so many times."""
    micros = []
    for _ in range(runs):
        began = time.thread_time()
        for number in range(count):
            look(number)
        micros.append(1e6 * (time.thread_time() - began) / count)
    return Cost(what, micros)


def measure_all(count: int, runs: int) -> list[Cost]:
    """Return what each kind of look costs."""
    costs = []
    for threshold in THRESHOLDS:
        keys = [Ed25519PrivateKey.generate() for _ in range(threshold)]
        names = tuple(f"studio-{number}" for number in range(threshold))
        publishers = Publishers(
            list(zip(names, map(public_word, keys), strict=True)), [Rule("film-*", names, threshold)]
        )
        titles = make_titles(count, keys)

        def look(
            number: int, titles: list[tuple[TitleId, bytes]] = titles, publishers: Publishers = publishers
        ) -> None:
            title_id, signatures = titles[number]
            publishers.check(signatures, title_id, f"film-{number}", 0.0)

        costs.append(measure(f"signatures, threshold {threshold}", count, runs, look))
    for chunks in CHUNKS:
        encoded = make_manifest(chunks)
        costs.append(measure(f"manifest, chunks {chunks}", count, runs, lambda _, encoded=encoded: open_title(encoded)))
    return costs


def main(arguments: list[str] | None = None) -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.signatures", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--titles", type=int, default=2000, help="looked at in each run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    costs = measure_all(options.titles, options.runs)
    report = Report(describe_machine(Path(tempfile.gettempdir())), options.titles, costs)
    tell(report, show, options.out, as_json=options.json)
    return 0


def show(report: Report) -> None:
    """Print a table."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "µs a title, median", "least", "most"):
        table.add_column(name, justify="right" if name else "left")
    for cost in report.costs:
        table.add_row(cost.what, *(f"{one:.0f}" for one in (cost.median, min(cost.micros), max(cost.micros))))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
