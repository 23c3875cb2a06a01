"""The tables that an operator gives: what they say comes out, and what is wrong with them is told of."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ibis")

import pyarrow as pa
import pyarrow.parquet as pq

from p2pfill.errors import ConfigError
from p2pfill.plan import rows as table_rows
from p2pfill.plan.history.faults import Faults
from p2pfill.plan.inputs import read_caches, read_catalogue, read_fleet, read_load, read_origins, read_uplinks
from p2pfill.plan.tables import Catalogue

CATALOGUE = (
    "title,file,size,kind,genre,released,hint\n"
    "Film,film.mp4,4.2 GB,tv,drama,2026-11-29,5000\n"
    "Film,film-p.mp4,1000,phone,,,\n"
    "Série,e1.mp4,500,tv,news,,\n"
)
CACHES = (
    "name,cluster,isp,region,capacity,serving,filling\n"
    "a1,a,isp-a,eu,60TB,40Gbit/s,1000000\na2,a,isp-a,eu,1000,100,\nb1,b,isp-b,us,1000,100,50\n"
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def counts(faults: Faults) -> dict[str, int]:
    return {kind: fault.count for kind, fault in faults.kinds.items()}


def said(catalogue: Catalogue) -> list[Any]:
    return [np.asarray(getattr(catalogue, name)).tolist() for name in catalogue.__slots__]


def test_a_catalogue(tmp_path: Path) -> None:
    catalogue, faults = read_catalogue(write(tmp_path / "c.csv", CATALOGUE))
    assert not faults
    assert catalogue.titles == ("Film", "Série")
    assert catalogue.files == ("film.mp4", "film-p.mp4", "e1.mp4")
    assert [catalogue.genres[genre] for genre in catalogue.genre] == ["drama", "news"]
    assert [catalogue.kinds[kind] for kind in catalogue.kind] == ["tv", "phone", "tv"]
    assert catalogue.released.tolist() == [20786, 0]
    assert catalogue.hint[0] == 5000
    assert math.isnan(catalogue.hint[1])
    assert catalogue.title.tolist() == [0, 0, 1]
    assert catalogue.size.tolist() == [4_200_000_000, 1000, 500]
    assert catalogue.size.dtype == np.int64


def test_all_forms_say_the_same(tmp_path: Path) -> None:
    lines = [line.split(",") for line in CATALOGUE.splitlines()]
    columns = {name: [line[place] or None for line in lines[1:]] for place, name in enumerate(lines[0])}
    pq.write_table(pa.table({
        **columns, "size": [4_200_000_000, 1000, 500], "released": [date(2026, 11, 29), None, None],
        "hint": [5000.0, None, None], "other": [1, 2, 3],
    }), tmp_path / "c.parquet")  # fmt: skip
    toml = "".join(
        "[[file]]\n" + "".join(f'{name} = "{value}"\n' for name, value in zip(lines[0], line, strict=True) if value)
        for line in lines[1:]
    ).replace('"2026-11-29"', "2026-11-29").replace('"500"', "500")  # fmt: skip
    forms = [
        write(tmp_path / "c.csv", CATALOGUE), tmp_path / "c.parquet", write(tmp_path / "c.toml", toml),
        write(tmp_path / "tab.csv", "\ufeff" + CATALOGUE.replace(",", "\t").replace("\n", "\r\n")),
        write(tmp_path / "quoted.csv", "\n".join(",".join(f'"{field}"' for field in line) for line in lines)),
    ]  # fmt: skip
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(CATALOGUE.encode()))
    found = [said(read_catalogue(path)[0]) for path in (*forms, tmp_path / "c.csv.gz")]
    assert all(str(one) == str(found[0]) for one in found)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("Film,film.mp4,1,tv,,,", "file twice"), ("Film,x,0,,,,", "size of zero or less"),
        ("Film,x,-5,,,,", "size of zero or less"), ("Film,x,,,,,", "size missing"),
        ("Film,x,big,,,,", "size unreadable"),
        ("Film,x,1.5,,,,", "size unreadable"), ("Film,x,nan,,,,", "size unreadable"), (",x,1,,,,", "title missing"),
        ("Film,x,99999999999999999999999,,,,", "size unreadable"), ("Film,,1,,,,", "file missing"),
        ("Film,x,1,,,29.11.2026,", "released unreadable"), ("Film,x,1,,,,-1", "hint unreadable"),
        ("Film,x,1,,comedy,,", "title told in two ways"), ("Film,x,1,,,,,,", "row too long"), ("Film", "file missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_catalogue(tmp_path: Path, row: str, kind: str) -> None:
    path = write(tmp_path / "c.csv", CATALOGUE + row + "\n")
    catalogue, faults = read_catalogue(path)
    assert counts(faults) == {kind: 1}
    assert (faults.kinds[kind].examples[0].file, faults.kinds[kind].examples[0].row) == (str(path), 4)
    assert len(catalogue.files) == (4 if kind == "title told in two ways" else 3)
    assert catalogue.size[0] == 4_200_000_000


def test_moments_are_days_in_utc(tmp_path: Path) -> None:
    moments = pa.array([datetime(2026, 11, 29, 23, tzinfo=UTC)], pa.timestamp("us", "Asia/Tokyo"))
    pq.write_table(pa.table({"title": ["t"], "file": ["f"], "size": [1], "released": moments}), tmp_path / "c.parquet")
    assert read_catalogue(tmp_path / "c.parquet")[0].released.tolist() == [20786]


def test_caches(tmp_path: Path) -> None:
    caches, faults = read_caches(write(tmp_path / "c.csv", CACHES))
    assert not faults
    assert (caches.names, caches.clusters) == (("a1", "a2", "b1"), ("a", "b"))
    assert (caches.isps, caches.regions) == (("isp-a", "isp-b"), ("eu", "us"))
    assert (caches.cluster.tolist(), caches.isp.tolist(), caches.region.tolist()) == ([0, 0, 1], [0, 1], [0, 1])
    assert caches.capacity.tolist() == [60 * 10**12, 1000, 1000]
    assert caches.serving.tolist() == [5e9, 100, 100]
    assert caches.filling.tolist() == [1e6, 100, 50]
    assert caches.zones == ("UTC",) * 3


FLEET = (
    "name,cluster,isp,region,serving,timezone,need\n"
    "a1,a,isp-a,eu,40Gbit/s,Europe/Berlin,12TB\na2,a,isp-a,eu,100,,\nb1,b,isp-b,us,100,America/New_York,0\n"
)


def test_a_fleet_is_the_table_of_caches_with_what_they_need(tmp_path: Path) -> None:
    caches, need, faults = read_fleet(write(tmp_path / "c.csv", FLEET), 7)
    assert not faults
    assert caches.zones == ("Europe/Berlin", "UTC", "America/New_York")
    assert need.tolist() == [12 * 10**12, 7, 0]
    assert caches.capacity.tolist() == [0, 0, 0]
    whole = [line + end for line, end in zip(FLEET.splitlines(), (",capacity", ",1TB", ",5", ",5"), strict=True)]
    path = write(tmp_path / "whole.csv", "\n".join(whole))
    both = read_fleet(path, 7)[0], read_caches(path)[0]
    assert [one.zones for one in both] == [caches.zones] * 2
    assert [one.capacity.tolist() for one in both] == [[10**12, 5, 5]] * 2
    with pytest.raises(ConfigError, match="lacks the columns capacity"):
        read_caches(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("c1,a,isp-a,eu,1,Mars,", "timezone unknown"), ("c1,a,isp-a,eu,1,Europe,", "timezone unknown"),
        ("c1,a,isp-a,eu,1,,much", "need unreadable"), ("c1,a,isp-a,eu,1,,-1", "need negative"),
        ("c1,a,isp-a,eu,max,,", "serving out of range"), ("a1,a,isp-a,eu,1,,", "cache twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_fleet(tmp_path: Path, row: str, kind: str) -> None:
    caches, need, faults = read_fleet(write(tmp_path / "c.csv", FLEET + row + "\n"), 0)
    assert counts(faults) == {kind: 1}
    assert len(caches.names) == len(caches.zones) == len(need) == 3


def test_what_windows_need_costs_no_cache_elsewhere(tmp_path: Path) -> None:
    text = "name,cluster,isp,region,capacity,serving,need\nc,c,i,r,1,1,x\n"
    caches, faults = read_caches(write(tmp_path / "c.csv", text))
    assert (caches.names, bool(faults)) == (("c",), False)


def test_zones_are_as_many_as_caches(tmp_path: Path) -> None:
    caches, _ = read_caches(write(tmp_path / "c.csv", CACHES))
    with pytest.raises(ValueError, match="3 caches and 1 time zones"):
        replace(caches, zones=("UTC",))


LOAD = "hour,place,bytes\n2026-11-29T20,a1,100\n2026-11-29T23:59:00+02:00,b,2.5\n2026-11-29 22:00,a1,7\n"


def test_a_load(tmp_path: Path) -> None:
    caches, _ = read_caches(write(tmp_path / "c.csv", CACHES))
    load, faults = read_load(write(tmp_path / "l.csv", LOAD + "2026-11-29T22:30,a1,3\n"), caches)
    assert not faults
    assert (load.names, load.first_hour) == (("a1", "b"), 20786 * 24 + 20)
    assert str(load.served.tolist()) == "[[100.0, nan, 10.0], [nan, 2.5, nan]]"
    moments = pa.array([datetime(2026, 11, 29, hour, tzinfo=UTC) for hour in (20, 21, 22)], pa.timestamp("us", "UTC"))
    table = pa.table({"hour": moments, "place": ["a1", "b", "a1"], "bytes": [100, 2.5, 10]})
    pq.write_table(table, tmp_path / "l.parquet")
    assert str(read_load(tmp_path / "l.parquet", caches)) == str((load, faults))


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("2026-11-29T21,z9,1", "place unknown"), ("2026-11-29T21,,1", "place missing"), (",a1,1", "hour missing"),
        ("noon,a1,1", "hour unreadable"), ("1026-11-29T21,a1,1", "hour before 2000"),
        ("2026-11-29T21,a1,-1", "bytes unreadable"),
        ("2026-11-29T21,a1,nan", "bytes unreadable"), ("2026-11-29T21,a1", "bytes missing"),
        ("2026-11-29T21,a1,1,1", "row too long"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_load(tmp_path: Path, row: str, kind: str) -> None:
    caches, _ = read_caches(write(tmp_path / "c.csv", CACHES))
    clean, _ = read_load(write(tmp_path / "clean.csv", LOAD), caches)
    load, faults = read_load(write(tmp_path / "l.csv", f"{LOAD}{row}\n"), caches)
    assert counts(faults) == {kind: 1}
    assert faults.kinds[kind].examples[0].row == 4
    assert str(load) == str(clean)


def test_a_load_of_many_years_is_refused(tmp_path: Path) -> None:
    caches, _ = read_caches(write(tmp_path / "c.csv", CACHES))
    with pytest.raises(ConfigError, match="from 2006-11-29 to 2026-11-29: at most five years"):
        read_load(write(tmp_path / "l.csv", LOAD + "2006-11-29T21,a1,1\n"), caches)
    with pytest.raises(ConfigError, match=r"no usable row: 1 x place unknown \(.*'z9'\)"):
        read_load(write(tmp_path / "l.csv", "hour,place,bytes\n2026-11-29T21,z9,1\n"), caches)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("a1,a,isp-a,eu,1,1,1", "cache twice"), ("c1,a,isp-b,us,1,1,1", "cluster in two ISPs"),
        ("c1,c,isp-a,us,1,1,1", "ISP in two regions"), ("c1,c,isp-a,eu,-1,1,1", "capacity negative"),
        ("c1,c,isp-a,eu,1,0,1", "serving out of range"), ("c1,c,isp-a,eu,1,fast,1", "serving unreadable"),
        ("c1,c,isp-a,eu,1,1,max", "filling out of range"), ("c1,c,,eu,1,1,1", "isp missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_caches(tmp_path: Path, row: str, kind: str) -> None:
    caches, faults = read_caches(write(tmp_path / "c.csv", CACHES + row + "\n"))
    assert counts(faults) == {kind: 1}
    assert (len(caches.names), len(caches.clusters), len(caches.isps)) == (3, 2, 2)


def test_uplinks_and_origins(tmp_path: Path) -> None:
    caches, _ = read_caches(write(tmp_path / "c.csv", CACHES))
    rows = "of,name,rate\nISP,isp-b,80Gbit/s\nregion,eu,1000\nregion,eu,7\nisp,isp-z,1\nregion,us,max\n"
    uplinks, faults = read_uplinks(write(tmp_path / "u.csv", rows), caches)
    assert uplinks.isp.tolist() == [math.inf, 1e10]
    assert uplinks.region.tolist() == [1000, math.inf]
    assert counts(faults) == {"uplink twice": 1, "ISP unknown": 1}
    rows = "name,rate,price\nhttp://a,1000,0.02\nhttp://b,,\nhttp://c,max,1\nhttp://a,1,1\nhttp://d,1,free\n"
    origins, faults = read_origins(write(tmp_path / "o.csv", rows))
    assert origins.names == ("http://a", "http://b", "http://c")
    assert origins.rate.tolist() == [1000, math.inf, math.inf]
    assert origins.per_gb.tolist() == [0.02, 0, 1]
    assert counts(faults) == {"origin twice": 1, "price unreadable": 1}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("isp,isp-b,0", "rate out of range"), ("isp,isp-b,0bit", "rate unreadable"), ("isp,isp-b,", "rate missing"),
        ("isp,isp-b,-5", "rate out of range"), ("isp,isp-b,nan", "rate out of range"),
        ("planet,mars,1", "uplink of neither isp nor region"), ("isp,isp-b,1,000,000", "row too long"),
    ],
)  # fmt: skip
def test_an_uplink_that_cannot_be_read_does_not_pass_for_no_limit(tmp_path: Path, row: str, said: str) -> None:
    caches, _ = read_caches(write(tmp_path / "c.csv", CACHES))
    table = write(tmp_path / "u.csv", f"of,name,rate\nisp,isp-a,80Gbit/s\n{row}\n")
    with pytest.raises(ConfigError, match=rf"1 x {said} \(.*u.csv, row 2: .*leave it out or write max"):
        read_uplinks(table, caches)


BAD = [
    ("c.csv", b"", "is empty"), ("c.csv", b"a,b\n1,2\n", "lacks the columns"),
    ("c.csv", b"\xff\xfet\0", "neither Parquet"),
    ("c.csv", CATALOGUE.split("\n")[0].encode(), "no usable row: it has no rows"), ("c.csv", b"PAR1xxxx", "as Parquet"),
    ("c.csv", b"title,file,size\nt,f,0\n", "no usable row: 1 x size of zero"), ("c.csv", b"\x1f\x8bxx", "cannot read"),
    ("c.csv", b"title,title,file,size\n", "the column title twice"), ("c.toml", b"[[", "as TOML"),
    ("c.toml", b"a = 1\n", "one array of tables"), ("c.toml", b"[[f]]\nsise = 1\n", "'sise' is no setting"),
    ("c.csv", b"title,file,size\nt," + b"x" * 200_000 + b",1\n", "field larger than field limit"),
    ("c.csv", b"title,file,size\nt,f,1\n" + b"\xff" * 9, "nor text in UTF-8"),
    ("c.csv", gzip.compress(b"title,file,size\nt,f,1\n", mtime=0)[:14] + b"\xff" * 20, "cannot read"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "why"), BAD)
def test_a_table_that_cannot_be_used_says_why(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=why) as caught:
        read_catalogue(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("read", [read_catalogue, read_caches, read_origins])
def test_what_is_no_file_is_refused(tmp_path: Path, read: Callable[[Path], Any], monkeypatch: Any) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "lacking")
    monkeypatch.setattr(table_rows, "BYTES_MAX", 10)
    with pytest.raises(ConfigError, match="has more than 10 bytes"):
        read(write(tmp_path / "c.csv", CATALOGUE))


@given(data=st.binary(max_size=60), name=st.sampled_from(["c.csv", "c.toml"]), fits=st.booleans())
def test_no_input_is_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str, *, fits: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes((CATALOGUE.encode() if fits else b"") + data)
    try:
        catalogue, _ = read_catalogue(path)
    except ConfigError:
        return
    assert (catalogue.size > 0).all()
    assert len(set(catalogue.files)) == len(catalogue.files)
