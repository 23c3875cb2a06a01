"""The history of the planner: what goes in comes out, once, and what is wrong is told of."""

from __future__ import annotations

import collections
import fcntl
import gzip
import io
import os
import random
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ibis")

import pyarrow as pa
import pyarrow.parquet as pq

from p2pfill.cli.plan_history import faults_text
from p2pfill.errors import ConfigError, StoreError
from p2pfill.plan.history import state as history_state
from p2pfill.plan.history import tables as history_tables
from p2pfill.plan.history.engine import open_engine
from p2pfill.plan.history.faults import NEXT_STEPS, ROW_KINDS, Example
from p2pfill.plan.history.history import History, Ingest, Resources
from p2pfill.plan.history.ingest import AHEAD_S
from p2pfill.plan.history.logs import look_at, open_rows
from p2pfill.plan.tables import Caches, Catalogue

DAY = 20786
"""2026-11-29."""
DAY_S = 86_400
NOW_S = (DAY + 1) * DAY_S
SMALL = Resources(memory_bytes=256 << 20, threads=1)
HEADER = "time,region,cache,title,file,bytes\n"

CATALOGUE = Catalogue(
    ("Film", "Série"), ("",), ("",), np.zeros(2, np.int32), np.zeros(2, np.int32), np.full(2, np.nan),
    ("film.mp4", "film-phone.mp4", "e1.mp4"), np.array([0, 0, 1], np.int32), np.zeros(3, np.int32),
    np.array([1000, 100, 500], np.int64),
)  # fmt: skip
CACHES = Caches(
    ("a1", "a2", "b1"), ("a", "b"), ("isp-a", "isp-b"), ("eu", "us"), np.array([0, 0, 1], np.int32),
    np.array([0, 1], np.int32), np.array([0, 1], np.int32), np.full(3, 10**12), np.full(3, 1e9), np.full(3, 1e9),
)  # fmt: skip


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history", SMALL)


def take(history: History, *logs: Path, catalogue: Catalogue = CATALOGUE, caches: Caches = CACHES) -> Ingest:
    return history.ingest(list(logs), catalogue, caches, now_s=NOW_S)


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text(header + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def good(hour: int = 20, *, region: str = "eu", cache: str = "a1", file: str = "film.mp4", count: int = 700) -> str:
    title = "Série" if file == "e1.mp4" else "Film"
    return f"2026-11-29T{hour:02}:30:00Z,{region},{cache},{title},{file},{count}"


def seen(history: History, catalogue: Catalogue = CATALOGUE) -> dict[tuple[int, str, str], tuple[int, int]]:
    views = history.views(catalogue, CACHES.regions)
    order = np.lexsort((views.file, views.region, views.day))
    assert (order == np.arange(len(views.day))).all(), "rows are ordered by day, region, file"
    return {
        (int(day), views.regions[region], catalogue.files[file]): (int(amount), int(requests))
        for day, region, file, amount, requests in zip(
            views.day, views.region, views.file, views.bytes, views.requests, strict=True
        )
    }


# ---- what goes in comes out


def synthetic(seed: int, count: int, days: int = 3) -> list[tuple[int, str, str, str, str, int]]:
    chance = random.Random(seed)
    return [
        (
            (DAY - days) * DAY_S + chance.randrange(days * DAY_S), chance.choice(CACHES.regions),
            chance.choice(CACHES.names), "Film" if (file := chance.choice(CATALOGUE.files)) != "e1.mp4" else "Série",
            file, chance.randrange(10**9),
        )
        for _ in range(count)
    ]  # fmt: skip


def as_parquet(path: Path, rows: list[tuple[int, str, str, str, str, int]], time: pa.DataType) -> Path:
    columns = dict(zip(HEADER.strip().split(","), zip(*rows, strict=True), strict=True))
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    seconds = pa.array([row[0] for row in rows], pa.timestamp("s")).cast(time) if pa.types.is_timestamp(time) else (
        pa.array([row[0] for row in rows]).cast(time)
    )  # fmt: skip
    pq.write_table(table.set_column(0, "time", seconds).append_column("device", pa.array(["tv"] * len(rows))), path)
    return path


@pytest.mark.parametrize(
    "time", [pa.timestamp("us"), pa.timestamp("ns", "Asia/Tokyo"), pa.float64(), pa.string()], ids=str
)  # fmt: skip
def test_what_goes_in_comes_out(tmp_path: Path, history: History, time: pa.DataType) -> None:
    rows = synthetic(1, 3000)
    result = take(history, as_parquet(tmp_path / "log.parquet", rows, time))
    assert not result.faults
    assert (result.taken[0].rows, result.taken[0].used) == (3000, 3000)
    views: dict[tuple[int, str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    hours: dict[tuple[str, int], int] = collections.Counter()
    for moment, region, cache, _, file, amount in rows:
        views[moment // DAY_S, region, file][0] += amount
        views[moment // DAY_S, region, file][1] += 1
        hours[cache, moment // 3600] += amount
    assert seen(history) == {key: tuple(sums) for key, sums in views.items()}
    load = history.load(CACHES, "cache")
    assert load.names == CACHES.names
    assert load.first_hour == (DAY - 3) * 24
    assert load.served.shape == (3, 72)
    for (cache, hour), amount in hours.items():
        assert load.served[CACHES.names.index(cache), hour - load.first_hour] == amount
    assert np.nansum(load.served) == sum(hours.values())
    clusters = history.load(CACHES, "cluster").served
    assert (clusters[0] == load.served[:2].sum(axis=0)).all()
    assert (clusters[1] == load.served[2]).all()


def test_csv_says_the_same_as_parquet(tmp_path: Path) -> None:
    rows = synthetic(2, 500)
    results = []
    for name in ("parquet", "gz", "tab", "quoted"):
        history = History(tmp_path / name, SMALL)
        log = tmp_path / f"log.{name}"
        if name == "parquet":
            as_parquet(log, rows, pa.timestamp("us"))
        else:
            separator = "\t" if name == "tab" else ","
            quote = '"' if name == "quoted" else ""
            text = separator.join(["device", *HEADER.strip().upper().split(",")]) + "\r\n"
            for row in rows:
                text += separator.join(f"{quote}{field}{quote}" for field in ("a\nb" if quote else "tv", *row)) + "\r\n"
            data = ("\ufeff" + text).encode()
            log.write_bytes(gzip.compress(data) if name == "gz" else data)
        assert not take(history, log).faults
        results.append((seen(history), history.load(CACHES, "cache").served.tolist()))
    assert all(str(result) == str(results[0]) for result in results)


def test_times_are_in_utc(tmp_path: Path, history: History) -> None:
    days = {
        "2026-11-29T23:59:59.9Z": DAY, "2026-11-30T00:30:00+02:00": DAY, "2026-11-28 23:30:00-0100": DAY,
        "2026-11-29": DAY, "2026-11-28T10:00": DAY - 1, str(DAY * DAY_S): DAY, f"{DAY * DAY_S - 1}.99": DAY - 1,
    }  # fmt: skip
    rows = [f"{text},eu,a1,Film,film.mp4,{1 << place}" for place, text in enumerate(days)]
    assert not take(history, write(tmp_path / "log.csv", *rows)).faults
    found = {day: sum(1 << place for place, on in enumerate(days.values()) if on == day) for day in (DAY - 1, DAY)}
    assert {day: amount for (day, _, _), (amount, _) in seen(history).items()} == found


SPELLINGS = {
    "time": {
        "2026-11-29T20:15": 20, "2026-11-29 20:15:59.999999999": 20, "2026-11-29T20:15:00+0530": 14,
        "2026-11-29T20:15Z": 20, " 2026-11-29 20:15:00 UTC ": 20, "2026-11-29T20:15+02:00": 18, "2026-11-29": 0,
        f"{DAY * DAY_S + 7200}.5": 2, "1.795932e9": 6, "12:00": None, "epoch": None, "now": None, "20261129": None,
        "2026-11-29T20": None, "2026-11-29T24:00:00": None, "2026-11-29T20:60": None, "2026-11-29T20:15:00+19:00": None,
        "2026-11-31": None, "2026-11-29T20:15:00EST": None, "1_795_932_000": None,
    },
    "bytes": {
        "700": 700, "+7": 7, " 7 ": 7, "7e2": 700, "7.0": 7, "1_000": None, "5d": None, "0x10": None, "5 GB": None,
        "nan": None, "inf": None, "1e400": None, "٥": None, "7\t": None,
    },
}  # fmt: skip
"""Column -> text -> the hour, or the bytes, that it means; None: it is unreadable, or too far from now."""


@pytest.mark.parametrize("column", SPELLINGS)
def test_text_means_the_same_to_all_who_compute(tmp_path: Path, history: History, column: str) -> None:
    """What casts alone would make of it differs between DuckDB and Spark; `bench.planner.spark` has both read more."""
    place = HEADER.strip().split(",").index(column)
    rows = [good(5).split(",") for _ in SPELLINGS[column]]
    for row, text in zip(rows, SPELLINGS[column], strict=True):
        row[place] = text
    faults = take(history, write(tmp_path / "log.csv", *map(",".join, rows))).faults
    meant = [value for value in SPELLINGS[column].values() if value is not None]
    assert sum(fault.count for fault in faults.kinds.values()) == len(rows) - len(meant)
    served = np.nan_to_num(history.load(CACHES, "cache").served[0])
    expected = np.zeros(24)
    for value in meant:
        expected[value if column == "time" else 5] += 700 if column == "time" else value
    assert served[-24:].tolist() == expected.tolist()


@settings(max_examples=2)
@given(st.integers(0, 2**32), st.integers(2, 3))
def test_a_log_in_parts_is_the_log(seed: int, parts: int) -> None:
    rows = synthetic(seed, 60)
    lines = [",".join(map(str, row)) for row in rows]
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        whole, others, together = (History(root / name, SMALL) for name in ("whole", "parts", "together"))
        take(whole, write(root / "log.csv", *lines))
        logs = [write(root / f"log{part}.csv", *lines[part::parts]) for part in range(parts)]
        take(together, *logs)
        for log in logs:
            take(others, log)
        assert seen(whole) == seen(others) == seen(together)
        loads = [str(one.load(CACHES, "cache").served.tolist()) for one in (whole, others, together)]
        assert loads[0] == loads[1] == loads[2]
        assert whole.summary().bytes == others.summary().bytes == sum(row[5] for row in rows)


# ---- a log counts once


def test_a_log_counts_once_under_any_name(tmp_path: Path, history: History) -> None:
    log = write(tmp_path / "log.csv", good())
    copy = write(tmp_path / "copy.csv", good())
    result = take(history, log, copy)
    assert (len(result.taken), result.again) == (1, [str(copy)])
    assert take(history, copy, log).again == [str(copy), str(log)]
    assert seen(history) == {(DAY, "eu", "film.mp4"): (700, 1)}
    write(log, good(21))
    assert len(take(history, log).taken) == 1, "another log under the same name"
    assert seen(history) == {(DAY, "eu", "film.mp4"): (1400, 2)}


def test_a_log_that_has_grown_is_refused(tmp_path: Path, history: History) -> None:
    log = write(tmp_path / "log.csv", good())
    take(history, log)
    write(log, good(), good(21))
    with pytest.raises(ConfigError, match="would count twice"):
        take(history, log)
    assert seen(history) == {(DAY, "eu", "film.mp4"): (700, 1)}


# ---- crashes


def files_of(history: History) -> set[str]:
    return {path.name for path in history.directory.rglob("*") if path.is_file()}


def test_a_crash_leaves_what_was_before(
    tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    take(history, write(tmp_path / "first.csv", good(20)))
    before = seen(history), history.summary()
    second = write(tmp_path / "second.csv", good(21), good(22, file="e1.mp4"))

    def crash(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for place in ("replace_file", "sync_directory"):
        with monkeypatch.context() as patched:
            patched.setattr(history_state, place, crash)
            with pytest.raises(StoreError, match="No space left"):
                take(history, second)
        assert (seen(history), history.summary()) == before
    # What a process leaves that is killed there: the new files, and its scratch directory.
    (history.directory / "scratch").mkdir()
    (history.directory / "scratch" / "scratch.duckdb").write_bytes(b"torn")
    (history.directory / "views" / "2026-11-29.7.parquet").write_bytes(b"torn")
    assert seen(history) == before[0]
    take(history, second)
    assert seen(history)[DAY, "eu", "film.mp4"] == (1400, 2)
    assert "2026-11-29.7.parquet" not in files_of(history)
    take(history, write(tmp_path / "third.csv", good(1)))
    assert files_of(history) == {"history.json", "lock", "2026-11-29.2.parquet", "2026-11-29.3.parquet"}


def test_one_ingest_at_a_time(tmp_path: Path, history: History) -> None:
    log = write(tmp_path / "log.csv", good())
    take(history, log)
    with (history.directory / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="under way"):
            take(history, write(tmp_path / "more.csv", good(1)))
        assert seen(history)
    with history_state.writing(history.directory) as scratch:
        (scratch / "work").touch()
        with pytest.raises(ConfigError, match="under way"):
            take(history, tmp_path / "more.csv")
        assert (scratch / "work").exists(), "one who is refused takes nothing away"
    assert not scratch.exists()
    assert take(history, tmp_path / "more.csv").taken


def test_a_damaged_history_says_so(tmp_path: Path, history: History) -> None:
    with pytest.raises(ConfigError, match="there is no history"):
        history.summary()
    take(history, write(tmp_path / "log.csv", good()))
    [views] = (history.directory / "views").iterdir()
    views.write_bytes(b"PAR1 not")
    with pytest.raises(StoreError, match="cannot read the history"):
        seen(history)
    (history.directory / "history.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        history.summary()
    (history.directory / "history.json").write_text('{"format": 99}')
    with pytest.raises(ConfigError, match="format 99"):
        history.summary()


def test_the_oldest_days_and_logs_are_forgotten(
    tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(history_state, "DAYS_MAX", 2)
    monkeypatch.setattr(history_state, "LOGS_MAX", 1)
    for day in (25, 26, 28):
        take(history, write(tmp_path / f"{day}.csv", f"2026-11-{day},eu,a1,Film,film.mp4,1"))
    found = history.summary()
    assert list(found.days) == ["2026-11-26", "2026-11-28"]
    assert (found.gaps, found.logs, found.forgotten_days) == (["2026-11-27"], 1, 1)
    assert history.views(CATALOGUE, CACHES.regions).unknown == (DAY - 2,)
    assert history.views(CATALOGUE, CACHES.regions, last_day=DAY).unknown == (DAY - 2, DAY)
    result = take(history, write(tmp_path / "late.csv", "2026-11-20,eu,a1,Film,film.mp4,1"))
    assert (result.days, result.too_old) == ([], 1)
    assert history.summary().days == found.days


# ---- what is wrong


WRONG = {
    "time unreadable": "noon,eu,a1,Film,film.mp4,{}",
    "time in the future": f"{NOW_S + AHEAD_S + 1},eu,a1,Film,film.mp4,{{}}",
    "time before 2000": "1999-12-31T23:59:59Z,eu,a1,Film,film.mp4,{}",
    "bytes missing": "2026-11-29,eu,a1,Film,film.mp4,",
    "bytes unreadable": "2026-11-29,eu,a1,Film,film.mp4,3.5",
    "bytes negative": "2026-11-29,eu,a1,Film,film.mp4,-{}",
    "bytes beyond reason": f"2026-11-29,eu,a1,Film,film.mp4,{history_tables.ROW_BYTES_MAX + 1}",
    "region missing": "2026-11-29,,a1,Film,film.mp4,{}",
    "region unknown": "2026-11-29,mars,a1,Film,film.mp4,{}",
    "file missing": "2026-11-29,eu,a1,Film,,{}",
    "file unknown": "2026-11-29,eu,a1,Film,other.mp4,{}",
    "file of another title": "2026-11-29,eu,a1,Série,film.mp4,{}",
    "cache missing": "2026-11-29,eu,,Film,film.mp4,{}",
    "cache unknown": "2026-11-29,eu,z9,Film,film.mp4,{}",
}
"""Kind of fault -> a row that has it, with so many bytes."""


def test_every_kind_has_a_case_and_a_next_step() -> None:
    assert set(WRONG) == {kind.name for kind in ROW_KINDS}
    assert set(WRONG) <= set(NEXT_STEPS)


def test_what_is_wrong_is_counted_and_shown(tmp_path: Path, history: History) -> None:
    rows = [WRONG[kind.name].format(1 << place) for place, kind in enumerate(ROW_KINDS)]
    log = write(tmp_path / "log.csv", *rows, good(20, count=1 << 20), *rows)
    result = take(history, log)
    assert {name: fault.count for name, fault in result.faults.kinds.items()} == dict.fromkeys(WRONG, 2)
    for place, kind in enumerate(ROW_KINDS):
        example = result.faults.kinds[kind.name].examples[0]
        value = rows[place].split(",")[("time", "region", "place", "title", "file", "bytes").index(kind.column)]
        assert example == Example(str(log), place + 1, repr(value) if value else "nothing")
        assert result.faults.kinds[kind.name].bytes == (0 if kind.column == "bytes" else 2 << place)
    assert result.taken[0].faults == dict.fromkeys(WRONG, 2)
    assert history.summary().faults == result.faults
    # Each row counts where it can: of those with a fault, where only the other aggregate loses them.
    views, load = (
        sum(2 << place for place, kind in enumerate(ROW_KINDS) if not lost(kind)) + (1 << 20)
        for lost in (lambda kind: kind.views, lambda kind: kind.load)
    )
    assert {key: amount for key, (amount, _) in seen(history).items()} == {(DAY, "eu", "film.mp4"): views}
    assert np.nansum(history.load(CACHES, "cache").served) == load


def test_a_row_counts_under_each_of_its_kinds(tmp_path: Path, history: History) -> None:
    faults = take(history, write(tmp_path / "log.csv", good(), "noon,mars,z9,Film,x,-1")).faults
    assert set(faults.kinds) == {
        "time unreadable", "region unknown", "cache unknown", "file unknown", "bytes negative"
    }  # fmt: skip


def test_what_was_unknown_counts_once_it_is_known(tmp_path: Path, history: History) -> None:
    take(
        history, write(tmp_path / "log.csv", good(), WRONG["file unknown"].format(5), WRONG["region unknown"].format(5))
    )
    assert [(one.what, one.name, one.bytes) for one in history.strays(CATALOGUE, CACHES)] == [
        ("file", "other.mp4", 5), ("region", "mars", 5)
    ]  # fmt: skip
    later = Catalogue(
        CATALOGUE.titles, CATALOGUE.genres, CATALOGUE.kinds, CATALOGUE.genre, CATALOGUE.released, CATALOGUE.hint,
        ("other.mp4", *CATALOGUE.files), np.zeros(4, np.int32), np.zeros(4, np.int32), np.full(4, 1000, np.int64),
    )  # fmt: skip
    assert seen(history, later)[DAY, "eu", "other.mp4"] == (5, 1)
    assert (DAY, "eu", "other.mp4") not in seen(history)


def test_lines_that_cannot_be_read_are_counted(tmp_path: Path, history: History) -> None:
    log = tmp_path / "log.csv"
    log.write_bytes(
        f"{HEADER}{good(1)}\n2026-11-29,eu\n{good(2)},more\n".encode() + b"2026-11-29,\xff\xfe,a1,Film,film.mp4,5\n"
        + f"{good(3)}\n".encode()
    )  # fmt: skip
    result = take(history, log)
    assert result.faults.count("line unreadable") == 3
    assert {one.row for one in result.faults.kinds["line unreadable"].examples} == {3, 4, 5}
    assert "log.csv, line 3:" in str(faults_text(result.faults)), "not a row: those are counted without the header"
    assert result.taken[0].used == 2


def test_an_open_quote_swallows_no_lines_in_silence(tmp_path: Path, history: History) -> None:
    rows = [good(hour) for hour in range(20)]
    log = write(tmp_path / "log.csv", *rows[:10], '2026-11-29,"eu,a1,Film,film.mp4,5', *rows[10:])
    result = take(history, log)
    assert result.taken[0].used + result.faults.count("line unreadable") == 21


@pytest.mark.parametrize("ends", [("\r\n", "\n"), ("\n", "\r\n"), ("\n", "\n", "\r\n"), ("\n", "\r")])
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_log_whose_lines_end_in_several_ways_counts_as_others_do(
    tmp_path: Path, history: History, ends: tuple[str, ...], is_packed: bool
) -> None:
    lines = [HEADER.strip(), *map(good, range(6)), f"{good(6)},000", good(7)]
    data = "".join(line + ends[number % len(ends)] for number, line in enumerate(lines)).encode()
    log = tmp_path / "log.csv"
    log.write_bytes(gzip.compress(data) if is_packed else data)
    result = take(history, log)
    assert (result.taken[0].rows, result.taken[0].used) == (7, 7)
    (wrong,) = result.faults.kinds["line unreadable"].examples
    assert (wrong.file, wrong.row) == (str(log), 8), "what is beyond its columns costs a line, and does not vanish"
    assert take(history, log).again == [str(log)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (HEADER.encode(), "no usable row: it has a header and nothing else"),
        (b"a,b,c\n1,2,3\n", "lacks the columns time, region, title, file, bytes, cache or cluster"),
        (HEADER.replace("cache", "cache,cache").encode(), "has the column cache twice"),
        (HEADER.replace(",", ":").encode(), "lacks the columns"),
        ((HEADER + good()).encode("utf-16"), "is UTF-16"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "neither Parquet nor CSV"),
        (b"PAR1" + b"\0" * 100, "cannot read log"),
        (b"\x1f\x8b" + b"\0" * 100, "cannot read log"),
        (gzip.compress((HEADER + f"{good()}\n" * 5000).encode(), mtime=0)[:-40], "cannot read log"),
        (b"x" * 1_000_000, "neither Parquet nor CSV"),
        ((HEADER + WRONG["bytes negative"].format(5)).encode(), "no usable row: 1 x bytes negative"),
        ((HEADER + WRONG["file unknown"].format(5)).encode(), r"no usable row: 1 x file unknown \(.*'other.mp4'\)"),
        ((HEADER + "\0" * 50).encode(), "no usable row"),
    ],
)
def test_a_log_that_cannot_be_used_says_why(tmp_path: Path, history: History, data: bytes, why: str) -> None:
    log = tmp_path / "it's [a] log*.csv"
    log.write_bytes(data)
    with pytest.raises(ConfigError, match=why) as caught:
        take(history, log)
    assert "\n" not in str(caught.value)
    assert str(log)[:20] in str(caught.value)
    with pytest.raises(ConfigError, match="there is no history"):
        history.summary()


def test_one_bad_log_keeps_the_others_from_nothing(tmp_path: Path, history: History) -> None:
    bad = write(tmp_path / "bad.csv", WRONG["file unknown"].format(5))
    result = take(history, bad, write(tmp_path / "fine.csv", good()))
    assert list(result.unusable) == [str(bad)]
    assert {name: fault.count for name, fault in result.faults.kinds.items()} == {"file unknown": 1, "no usable row": 1}
    assert seen(history) == {(DAY, "eu", "film.mp4"): (700, 1)}
    mended = Catalogue(
        ("Film",), ("",), ("",), np.zeros(1, np.int32), np.zeros(1, np.int32), np.full(1, np.nan), ("other.mp4",),
        np.zeros(1, np.int32), np.zeros(1, np.int32), np.full(1, 1000, np.int64),
    )  # fmt: skip
    assert len(take(history, bad, catalogue=mended).taken) == 1, "it was not taken in, so it is no log known again"


def test_what_is_no_file_is_refused(tmp_path: Path, history: History) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, why in (("", "is a directory"), ("pipe", "is no file"), ("lacking", "No such file"), ("loop", "cannot")):
        with pytest.raises(ConfigError, match=why):
            take(history, tmp_path / name)
    with pytest.raises(ConfigError, match="no log was named"):
        take(history)
    for place in (write(tmp_path / "file"), tmp_path / "with*star"):
        with pytest.raises(ConfigError, match="cannot hold a history"):
            take(History(place), write(tmp_path / "log.csv", good()))


def test_odd_types_of_parquet(tmp_path: Path, history: History) -> None:
    names = HEADER.strip().split(",")

    def log(**columns: pa.Array) -> Path:
        fields = {"time": pa.array([DAY * DAY_S]), "region": pa.array(["eu"]), "cache": pa.array(["a1"]),
                  "title": pa.array(["Film"]), "file": pa.array(["film.mp4"]), "bytes": pa.array([1])}  # fmt: skip
        fields |= columns
        buffer = io.BytesIO()
        pq.write_table(pa.table({name: fields[name] for name in names}), buffer)
        path = tmp_path / f"log{len(list(tmp_path.iterdir()))}.parquet"
        path.write_bytes(buffer.getvalue())
        return path

    for column in ("time", "region", "bytes"):
        with pytest.raises(ConfigError, match=f"the type of the column {column}"):
            take(history, log(**{column: pa.array([[1]])}))
    with pytest.raises(ConfigError, match="the type of the column bytes"):
        take(history, log(bytes=pa.array([1], pa.timestamp("s"))))
    with pytest.raises(ConfigError, match="bytes unreadable"):
        take(history, log(bytes=pa.array([float("nan")])))
    with pytest.raises(ConfigError, match="time unreadable"):
        take(history, log(time=pa.array([float("inf")])))
    with pytest.raises(ConfigError, match="time in the future"):
        take(history, log(time=pa.array([2**55])))
    for amount in (
        pa.array([1.0]),
        pa.array(["1"]),
        pa.array([1]).cast(pa.decimal128(38, 0)),
        pa.array([1], pa.uint8()),
    ):
        assert not take(history, log(bytes=amount)).faults
    assert seen(history) == {(DAY, "eu", "film.mp4"): (4, 4)}


# ---- out of core


def test_no_log_is_gathered_in_memory(tmp_path: Path) -> None:
    """A CSV file, whose length DuckDB does not know, is what is looked up, and never what is looked up in."""
    ibis = pytest.importorskip("ibis")
    log = write(tmp_path / "log.csv", good())
    with open_engine(tmp_path, SMALL) as engine:
        names = history_tables.Names(
            engine.load(
                "files", {"known_file": map(str, range(9999)), "fid": range(9999), "known_title": ["t"] * 9999}
            ),
            engine.load("regions", {"known_region": ["eu"], "rid": [0]}),
            engine.load("places", {"known_place": ["a1"], "pid": [0]}),
        )
        rows = open_rows(engine, look_at(engine, log, tmp_path / "link"), tmp_path / "link")
        coded = ibis.to_sql(history_tables.code_rows(rows, names, NOW_S), dialect="duckdb")
        [(_, plan)] = engine.rows_of(f"EXPLAIN {coded}")
    assert plan.count("Join Type: LEFT") == 3
    # DuckDB 1 writes its operators in capitals, with underscores.
    assert plan.lower().replace("_", " ").count("streaming window") == 1


# ---- load


def test_hours_that_nobody_knows_are_no_zeros(tmp_path: Path, history: History) -> None:
    take(history, write(tmp_path / "log.csv", good(2, cache="a1"), good(5, cache="b1"), good(6, cache="a1")))
    served = history.load(CACHES, "cache").served
    nan = float("nan")
    assert str(served[:, :8].tolist()) == str([
        [nan, nan, 700.0, nan, nan, 0.0, 700.0, nan], [nan] * 8, [nan, nan, nan, nan, nan, 700.0, 0.0, nan]
    ])  # fmt: skip


def test_logs_may_name_clusters(tmp_path: Path, history: History) -> None:
    header = HEADER.replace("cache", "cluster")
    take(history, write(tmp_path / "log.csv", good(2, cache="b"), header=header))
    assert history.load(CACHES).names == CACHES.clusters
    with pytest.raises(ConfigError, match="ask for the load of clusters"):
        history.load(CACHES, "cache")
    take(history, write(tmp_path / "caches.csv", good(2, cache="b1")))
    assert history.load(CACHES, "cluster").served[1, 2] == 1400
    assert history.load(CACHES, "cache").served[2, 2] == 700
    assert history.load(CACHES).names == CACHES.clusters, "a cache has nothing of what is told of its cluster"
    alone = History(tmp_path / "alone", SMALL)
    take(alone, tmp_path / "caches.csv")
    assert alone.load(CACHES).names == CACHES.names


def test_days_can_be_chosen(tmp_path: Path, history: History) -> None:
    take(history, write(tmp_path / "log.csv", *(f"2026-11-{day},eu,a1,Film,film.mp4,{day}" for day in (24, 25, 27))))
    views = history.views(CATALOGUE, CACHES.regions, first_day=DAY - 4, last_day=DAY - 3)
    assert (views.first_day, views.last_day, views.bytes.tolist()) == (DAY - 4, DAY - 3, [25])
    load = history.load(CACHES, "cache", first_day=DAY - 3, last_day=DAY - 1)
    assert load.served.shape == (3, 72)
    assert np.nansum(load.served) == 27
    with pytest.raises(ConfigError, match="2026-11-24 to 2026-11-27"):
        history.views(CATALOGUE, CACHES.regions, first_day=DAY)


# ---- the expressions


def test_the_expressions_compile_for_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    """They name nothing that only DuckDB has. Whether Spark computes the same, `bench.planner.spark` says."""
    ibis = pytest.importorskip("ibis")
    compilers = pytest.importorskip("ibis.backends.sql.compilers.pyspark")
    options = types.SimpleNamespace(pyspark=types.SimpleNamespace(treat_nan_as_null=False))
    monkeypatch.setattr(compilers, "options", options)
    text = dict.fromkeys(history_tables.TEXTS, "string")
    names = history_tables.Names(
        ibis.table({"known_file": "string", "fid": "int32", "known_title": "string"}, name="files"),
        ibis.table({"known_region": "string", "rid": "int32"}, name="regions"),
        ibis.table({"known_place": "string", "pid": "int32"}, name="places"),
    )
    coded = history_tables.code_rows(ibis.table({"row": "int64"} | text, name="log"), names, NOW_S)
    views = history_tables.views_of(coded)
    for table in (
        coded, views, history_tables.named_views(views, names), history_tables.load_of(coded, names),
        history_tables.masks_of(coded), history_tables.causes_of(coded, ROW_KINDS[0]),
    ):  # fmt: skip
        said = compilers.PySparkCompiler().to_sqlglot(table).sql("spark")
        assert "TRY_CAST" in said
        assert "UNIX_TIMESTAMP" in said
