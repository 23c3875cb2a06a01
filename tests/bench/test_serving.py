"""The bench of viewers beside fill: its sums, its report, and the viewers themselves over a real server."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from bench.serving import MODES, Report, Round, is_met, rows_of, write
from bench.viewers import view
from p2pfill.bench.measure import describe_machine


def rounds(p99_s: float, rate: float) -> list[Round]:
    """Return two rounds in which viewers beside background mode get that, and alone 100 MB/s within 10 ms."""
    of_mode = {"alone": (0.01, 1e8), "fill": (0.1, 8e7), "background": (p99_s, rate)}
    return [
        Round(mode, of_mode[mode][1], 0.001, of_mode[mode][0], 0, 1e7, 2e7, 1.0, 0.1, 0.1)
        for _ in range(2)
        for mode in MODES
    ]


def test_what_viewers_are_to_get_is_judged_by_medians() -> None:
    assert is_met(rounds(0.012, 0.96e8))
    assert not is_met(rounds(0.0121, 1e8))
    assert not is_met(rounds(0.01, 0.94e8))
    rows = {row[0]: row for row in rows_of(rounds(0.02, 1e8))}
    assert rows["beside fill"][2] == "0.800"
    assert rows["beside fill in background mode"][5] == "2.00"


def test_the_report_is_a_page_and_data(tmp_path: Path) -> None:
    report = Report(describe_machine(tmp_path), 200.0, 0.6, 8.0, 1.5, 2.5, rounds(0.02, 1e8))
    write(report, tmp_path)
    assert msgspec.json.decode((tmp_path / "serving.json").read_bytes(), type=Report) == report
    page = (tmp_path / "README.md").read_text()
    assert "2 rounds of 8 s" in page
    assert "| beside fill in background mode |" in page


def test_viewers_ask_at_their_rate_and_count_what_comes(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).write_bytes(bytes(1000))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        said = view(f"http://127.0.0.1:{server.server_address[1]}", 4, 50.0, 1.0)
        server.shutdown()
        thread.join()
    assert said["answered"] == said["due"]
    assert 20 < len(said["took_s"]) < 90  # type: ignore[arg-type]
    assert said["bytes"] <= 1000 * len(said["took_s"])  # type: ignore[operator, arg-type]
