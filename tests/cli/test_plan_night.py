"""`p2pfill plan make`, `check`, `show`, `why`, `apply` and `night`: on a made service, against a real tracker."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ibis")

import trio

from p2pfill.cli import main
from p2pfill.cli.demo_world import DemoCache, made_smaller, write_caches, write_catalogue, write_log
from p2pfill.cli.exits import ExitCode
from p2pfill.cli.plan_desk import Desk
from p2pfill.cli.text import show_bytes
from p2pfill.plan.making import GIVEN_UP
from p2pfill.plan.synthetic import WorldSettings, make_world
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest

AT = "2026-01-08T00:00"
"""The history ends with 2026-01-07."""

PLANNER = 'catalogue = "catalogue.csv"\ncaches = "caches.csv"\nlogs = ["logs/*.csv"]\nwindows = "02:00,max 06:00,off"\n'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a service, with a week of logs taken in."""
    home = tmp_path_factory.mktemp("service")
    world = made_smaller(make_world(WorldSettings(titles=8, regions=2, days=8, views_a_day=400), 3), 100_000)
    capacity = int(world.catalogue.size.sum() * 0.3)
    caches = [
        DemoCache(f"{region[-1]}{number}", region, f"isp-{region}", region, capacity, "400Mbit", "UTC")
        for region in world.views.regions
        for number in (1, 2)
    ]
    (home / "logs").mkdir()
    write_catalogue(home / "catalogue.csv", world)
    write_caches(home / "caches.csv", caches)
    for day in list(world.days)[:7]:
        assert write_log(home / "logs" / f"{day}.csv", world, caches, day) > 100
    (home / "planner.toml").write_text(PLANNER)
    (home / "origins.csv").write_text("name,rate,price\nhttps://cloud.example/{title}/,10Gbit,0.02\n")
    assert main([
        "plan", "ingest", *map(str, sorted((home / "logs").iterdir())), "--history", str(home / "history"),
        "--catalogue", str(home / "catalogue.csv"), "--caches", str(home / "caches.csv"),
    ]) == 0  # fmt: skip
    return home


class Planner:
    """Runs commands of the planner on files of their own."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.capsys = capsys

    def __call__(self, command: str, *arguments: str, code: int = 0) -> str:
        assert main(["plan", command, *arguments, "--planner", str(self.home / "planner.toml")]) == code
        captured = self.capsys.readouterr()
        self.err = captured.err
        return captured.out

    def json(self, command: str, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(command, *arguments, "--json", code=code))

    def configure(self, text: str) -> None:
        (self.home / "planner.toml").write_text(text + PLANNER)


@pytest.fixture
def planner(
    service: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Planner:
    monkeypatch.setenv("COLUMNS", "300")
    shutil.copytree(service, tmp_path / "home")
    capsys.readouterr()
    return Planner(tmp_path / "home", capsys)


def test_a_plan_is_made_kept_checked_and_shown(planner: Planner) -> None:
    made = planner.json("make", "--at", AT)
    assert made["head"]["day"] == "2026-01-08"
    assert made["head"]["history"] == ["2026-01-01", "2026-01-07"]
    assert made["plan"] == str(planner.home / "plans" / "2026-01-08.plan")
    assert made["fits"]
    assert made["given_up"]["copies"] == 0
    assert made["held_by"].startswith("nothing")
    text = planner("make", "--at", AT)
    assert "10" in text
    path, options = made["plan"], f"--planner {planner.home / 'planner.toml'}"
    assert f"next:\n  p2pfill plan show {path} {options}\n  p2pfill plan apply {path} {options} --at {AT}\n" in text
    checked = planner.json("check", "--at", AT)
    assert checked["fits"]
    assert checked["predicted"]["complete"] == checked["predicted"]["caches"] == 4
    assert checked["start"] < checked["finish_bound"] <= checked["predicted"]["finish"] <= checked["deadline"]
    shown = planner.json("show", "2026-01-08", "--cache", "01")
    assert sum(one["size"] for one in shown["files"]) <= shown["head"]["capacities"]["01"]
    title = shown["files"][0]["title"]
    assert f"{title}/" in planner("show", "--title", title)
    planner("show", "--cache", "moon", code=2)
    assert "says nothing of cache 'moon'" in planner.err


def test_text_keeps_to_the_terminal_and_commands_to_one_line(
    planner: Planner, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (planner.home / "up.csv").write_text("of,name,rate\nisp,isp-region-0,30\n")
    planner.configure(f'tracker = "{fleet.url}"\nuplinks = "up.csv"\n')
    publish_all(fleet.url, planner.home, leave_out="title-00002")
    for command, code in (
        (("night", "--at", AT, "--no-simulate"), 0), (("apply", "--at", AT), 0), (("show",), 0),
        (("why", "title-00001", "region-1"), 0),
        (("tune", "--days", "2"), 0), (("make", "--at", AT, "--no-fit"), ExitCode.FOUND),
        (("check", "--at", AT, "--no-simulate"), ExitCode.FOUND),
    ):  # fmt: skip
        lines = planner(*command, code=code).splitlines()
        wide = [line for line in lines if len(line) > 80]
        assert all(line.startswith(("  p2pfill plan", "written: ")) for line in wide), (command, wide)
        assert any(line.startswith("  p2pfill plan") for line in lines) or command[0] not in ("night", "apply", "make")


def test_the_night_after_goes_on_from_the_plan_before(planner: Planner) -> None:
    first = planner.json("make", "--at", AT)
    excluded = planner.json("show")["files"][0]["title"]
    (planner.home / "planner.toml").write_text(f'{PLANNER}[[exclude]]\ntitle = "{excluded}"\n')
    second = planner.json("make", "--at", "2026-01-09T00:00")
    assert second["held_by"] == f"all of {first['plan']}"
    capacity = next(iter(second["head"]["capacities"].values()))
    assert second["head"]["comes_bytes"] <= 4 * 0.1 * capacity
    assert 0 < second["head"]["kept_share"] < 1
    assert not any(one.get("comes") or one.get("stays") for one in planner.json("show", "--title", excluded)["files"])
    changes = planner.json("show", "2026-01-09", "--since", "2026-01-08")
    assert {one["file"] for one in changes if one["removed"]} >= {
        one["file"] for one in planner.json("show", "2026-01-08", "--title", excluded)["files"]
    }
    assert f"{len(changes)} file" in planner("show", "2026-01-09", "--since", "2026-01-08")


def test_what_does_not_fit_is_given_up_or_said(planner: Planner) -> None:
    first = planner.json("make", "--at", AT)["head"]
    whole = first["comes_bytes"]
    (planner.home / "up.csv").write_text("of,name,rate\nisp,isp-region-0,30\n")
    planner.configure('uplinks = "up.csv"\n')
    assert not planner.json("make", "--at", AT, "--no-fit", code=ExitCode.FOUND)["fits"]
    text = planner("check", "--at", AT, "--no-simulate", code=ExitCode.FOUND)
    assert re.search(r"ISP isp-region-0: .* need .* [KM]iB, the uplink carries .*B between 02:00 and 06:00 UTC", text)
    assert not re.search(r"\d [kMGT]B\b", text), "tables and proofs have one system of units"
    assert "does not fit into the night" in planner.err
    fits = planner.json("make", "--at", AT)
    assert fits["fits"]
    assert fits["given_up"]["copies"] > 0
    assert 0 < fits["head"]["comes_bytes"] == whole - fits["given_up"]["size"]
    less = fits["head"]["left_out"][GIVEN_UP]
    assert fits["head"]["served_bytes"] == pytest.approx(first["served_bytes"] - less)
    assert 0 < less == pytest.approx(fits["given_up"]["worth"], rel=0.01)
    assert f"({GIVEN_UP})" in planner("show")


def test_why(planner: Planner) -> None:
    found = planner.json("why", "title-00001", "region-1")
    factors = [found[name] for name in ("level", "audience", "genre_lift", "own_lift", "phase", "open")]
    product = 1.0
    for one in factors:
        product *= one
    assert product == pytest.approx(found["streams"], rel=1e-3)
    assert found["day"] == "2026-01-08"
    assert "streams expected" in planner("why", "title-00001", "region-1")
    planner("make", "--at", "2026-01-09T00:00", "--held", "nothing")
    assert planner.json("why", "title-00001", "region-1")["day"] == "2026-01-09", "that of the newest plan"
    planner("why", "title-1", "region-1", code=2)
    assert "there is no 'title-1': there are 'title-00000'" in planner.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keep = 0\n", "keep is a number of plans"),
        ("moon = 1\n", "moon"),
        ('windows = "25:00,max"\n', "windows"),
        ("[placement]\nrewriten_share = 0.5\n", "'rewriten_share' is no setting"),
        ("[placement]\nrewritten_share = 2\n", "rewritten_share is a share"),
        ("[placement]\nwrite_price = nan\n", "write_price is a number, not nan"),
        ("[placement]\npasses = inf\n", "passes is a number, not inf"),
        ('[[pin]]\ntitle = "moon"\n', "no title 'moon'"),
        ('[[exclude]]\ntitle = "title-00001"\nregions = ["moon"]\n', "no cache stands in region 'moon'"),
        ('uplinks = "moon.csv"\n', "moon.csv"),
        ("x = [\n", "is no TOML"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(planner: Planner, text: str, said: str) -> None:
    is_table = text.startswith("[")
    base = PLANNER if "windows" not in text else PLANNER.replace('windows = "02:00,max 06:00,off"\n', "")
    (planner.home / "planner.toml").write_text(base + text if is_table else text + base)
    planner("make", "--at", AT, code=2)
    assert said in planner.err
    assert "Traceback" not in planner.err


def test_what_is_missing_is_said_with_the_next_step(planner: Planner) -> None:
    planner("show", code=2)
    assert "`p2pfill plan make` first" in planner.err
    planner("check", "2026-05-05", code=2)
    assert "`p2pfill plan make` makes one" in planner.err
    planner("make", "--day", "soon", code=2)
    assert "'soon' is no date" in planner.err
    planner("make", "--day", "2025-01-01", code=2)
    assert "the history begins with 2026-01-01" in planner.err
    planner("make", "--at", AT, "--held", "tracker", code=2)
    assert "no tracker is named" in planner.err
    planner("make", "--at", AT)
    planner("apply", code=2)
    assert "no tracker is named" in planner.err
    (planner.home / "planner.toml").unlink()
    planner("make", code=2)
    assert "docs/planner.md" in planner.err


def test_a_path_may_have_the_signs_of_patterns_in_it(planner: Planner) -> None:
    home, history = planner.home.rename(planner.home.parent / "eu [1]"), planner.home.parent / "history"
    (home / "history").rename(history)
    (home / "logs" / "20457.csv").rename(home / "logs" / "[day] 4.csv")
    planner.home = home
    for logs in ('["logs/2*.csv"]', '["logs/[day] 4.csv", "logs/2*.csv"]', f'["{home}/logs/[day] 4.csv"]'):
        text = PLANNER.replace('["logs/*.csv"]', logs)
        (home / "planner.toml").write_text(f'history = "{history}"\n{text}')
        again = planner.json("night", "--at", AT, "--no-simulate")["ingest"]["again"]
        assert again == logs.count("2*.csv") * 6 + logs.count("[day]"), logs


def test_a_history_that_ended_days_ago_is_told_of(planner: Planner) -> None:
    assert planner.json("make", "--at", AT)["notes"] == []
    notes = planner.json("make", "--at", "2026-01-12T00:00")["notes"]
    assert notes == ["what was watched is known up to 2026-01-07, 5 days before 2026-01-12: take newer logs in"]


def test_days_that_the_logs_lack_are_told_of(planner: Planner) -> None:
    home = planner.home
    shutil.rmtree(home / "history")
    logs = sorted((home / "logs").iterdir())
    logs.pop(4).unlink()
    header, *rows = logs[-1].read_text().splitlines(keepends=True)
    logs[-1].write_text(header + "".join(row for row in rows if row.startswith(("2026-01-07T19", "2026-01-07T20"))))
    notes = planner.json("night", "--at", AT, "--no-simulate")["notes"]
    assert notes[0] == "nothing is known of 2026-01-05: take the logs in, if there are any"
    assert notes[1].startswith("of 2026-01-07 the logs have 2 hours, of the days before it mostly 2")
    assert len(notes) == 2
    for early in ("2026-01-05T00:00", "2026-01-06T00:00"):
        assert not planner.json("make", "--at", early)["notes"], "what comes later is not missed"


def test_plans_beyond_those_that_are_kept_go(planner: Planner) -> None:
    planner.configure("keep = 2\n")
    (planner.home / "plans").mkdir()
    (planner.home / "plans" / "mine.plan").write_text("not one of them\n")
    for day in ("08", "09", "10"):
        planner.json("make", "--at", f"2026-01-{day}T00:00")
    names = sorted(path.name for path in (planner.home / "plans").iterdir())
    assert names == ["2026-01-09.plan", "2026-01-10.plan", "mine.plan"]


def test_the_reactive_share_is_chosen_from_the_last_days(planner: Planner) -> None:
    found = planner.json("tune", "--days", "3")
    assert [one["share"] for one in found["shares"]] == [0.0, 0.05, 0.1, 0.2, 0.3]
    served = {one["share"]: one["planned"] + one["reactive"] for one in found["shares"]}
    assert served[found["best"]] == max(served.values())
    assert found["shares"][0]["reactive"] == 0 < found["shares"][-1]["reactive"]
    assert len({one["asked"] for one in found["shares"]}) == 1
    text = planner("tune", "--days", "3")
    assert "as it is, serves as much as any" in text or f"reactive_share = {found['best']:g} under" in text
    other = 0.3 if found["best"] < 0.3 else 0.0
    with (planner.home / "planner.toml").open("a") as file:
        file.write(f"[placement]\nreactive_share = {other}\n")
    text = planner("tune", "--days", "3")
    assert f"write reactive_share = {found['best']:g} under [placement] into {planner.home}" in text
    planner("tune", "--days", "7", code=2)
    assert "name fewer with --days" in planner.err


# ---- at a tracker


def publish_all(url: str, home: Path, leave_out: str = "") -> dict[str, str]:
    """Publish all titles but one, and return their ids."""
    for line in (home / "catalogue.csv").read_text().splitlines()[1:]:
        _, file, size = line.split(",")[:3]
        (home / "trees" / file).parent.mkdir(parents=True, exist_ok=True)
        (home / "trees" / file).write_bytes(bytes(int(size)))
    ids: dict[str, str] = {}

    async def put() -> None:
        async with TrackerClient(url) as client:
            for tree in sorted((home / "trees").iterdir()):
                if tree.name != leave_out:
                    manifest = publish(tree, name=tree.name).manifest
                    ids[tree.name] = manifest.title_id.hex()
                    await client.put_title(ids[tree.name], manifest.encode())

    trio.run(put)
    return ids


def fills_of(url: str) -> list[Any]:
    async def get() -> list[Any]:
        async with TrackerClient(url) as client:
            return list(await client.fills())

    return trio.run(get)


def test_applying_orders_what_is_planned_and_no_more(planner: Planner, fleet: Any, make: Callable[..., Any]) -> None:
    planner.configure(f'tracker = "{fleet.url}"\norigins = "origins.csv"\n')
    planner.json("make", "--at", AT)
    planner("apply", "--at", AT, code=2)
    assert "the tracker knows no title of the plan" in planner.err
    names = {one["title"] for one in planner.json("show")["files"]}
    text = planner("apply", "--at", AT, code=2)
    assert f"and {len(names) - 5} more; publish them" in text
    assert "p2pfill title add" in planner.err
    all_of_it = show_bytes(planner.json("show")["head"]["comes_bytes"])
    assert f"{all_of_it} come to 4 caches, but for {all_of_it} of titles that it does not know" in text
    ids = publish_all(fleet.url, planner.home)
    dry = planner.json("apply", "--at", AT)
    assert dry["dry_run"]
    assert dry["ordered"] > 0
    assert fills_of(fleet.url) == []
    text = planner("apply", "--at", AT)
    path, options = planner.home / "plans" / "2026-01-08.plan", f"--planner {planner.home / 'planner.toml'}"
    assert f"nothing was done; this does it:\n  p2pfill plan apply {path} {options} --at {AT} --yes\n" in text
    assert f"files:\n  p2pfill plan show {path} {options} --most 1000\n" in text
    assert "due in the past" in text

    async def order_by_hand() -> None:
        async with TrackerClient(fleet.url) as client:
            await client.post_fill(FillRequest(ids["title-00001"], "all", []))

    trio.run(order_by_hand)
    done = planner.json("apply", "--at", AT, "--yes")
    assert (done["ordered"], done["ended"], done["refused"]) == (dry["ordered"], 0, {})
    fills = [one for one in fills_of(fleet.url) if one.call_id]
    assert len(fills) == done["ordered"]
    shown = planner.json("show")
    wanted = {(one["title"], cache) for one in shown["files"] for cache in one["comes"]}
    titles = {number: name for name, number in ids.items()}
    ordered = {
        (titles[one.request.title], clause.removeprefix("id="))
        for one in fills
        for clause in one.request.selector.split(",")
    }
    assert ordered == wanted
    assert {origin for one in fills for origin in one.request.origins} == {
        f"https://cloud.example/{title}/" for title, _ in wanted
    }
    again = planner.json("apply", "--at", AT, "--yes")
    assert (again["ordered"], again["kept"], again["ended"]) == (0, done["ordered"], 0)
    # The next night's plan ends what it does not want, and leaves alone what others ordered.
    planner.json("make", "--at", "2026-01-09T00:00", "--held", "plan")
    next_night = planner.json("apply", "--at", "2026-01-09T00:00", "--yes")
    assert next_night["kept"] + next_night["ended"] == done["ordered"]
    assert sum(1 for one in fills_of(fleet.url) if not one.call_id) == 1


def test_what_the_tracker_refuses_is_named_and_does_not_count_as_ordered(planner: Planner, fleet: Any) -> None:
    publish_all(fleet.url, planner.home)
    planner.json("make", "--at", AT)
    file, title = next((one["file"], one["title"]) for one in planner.json("show")["files"] if one.get("comes"))
    tree = planner.home / "trees" / title
    (tree / file.removeprefix(f"{title}/")).rename(tree / "other")
    manifest = publish(tree, name=title).manifest

    async def publish_anew() -> None:
        async with TrackerClient(fleet.url) as client:
            await client.put_title(manifest.title_id.hex(), manifest.encode())

    trio.run(publish_anew)
    done = planner.json("apply", "--at", AT, "--tracker", fleet.url, "--yes", code=1)
    assert list(done["refused"]) == [title]
    assert done["ordered"] == len(fills_of(fleet.url)) > 0
    assert "no file of the title is meant by" in planner.err


def test_a_plan_is_due_when_its_proof_says_and_a_day_that_is_over_is_not_ordered(planner: Planner, fleet: Any) -> None:
    publish_all(fleet.url, planner.home)
    due = planner.json("make", "--at", AT)["deadline"]
    for late in (AT, "2026-01-08T04:30"):
        assert planner.json("apply", "--at", late, "--tracker", fleet.url)["deadline"] == due
    after = planner.json("apply", "--at", "2026-01-08T12:00", "--tracker", fleet.url)["deadline"]
    assert after == due + 86_400, "of the night after, where its own is over"
    for at in ((), ("--at", "2026-01-09T00:00")):
        planner("apply", *at, "--tracker", fleet.url, "--yes", code=2)
        assert "is for 2026-01-08, which is over" in planner.err
    assert fills_of(fleet.url) == []


def test_a_plan_that_writes_too_much_is_not_applied(planner: Planner, fleet: Any, make: Any) -> None:
    publish_all(fleet.url, planner.home)
    for cache in ("01", "02", "11", "12"):
        fleet.beat(cache, make.report(make.manifest(), "live", 4))
    planner.json("make", "--at", AT)
    most = max(planner.json("show")["files"], key=lambda one: one["size"] * len(one["comes"]))
    more = f'[placement]\nrewritten_share = 1\n[[exclude]]\ntitle = "{most["title"]}"\n'
    (planner.home / "planner.toml").write_text(PLANNER + more)
    assert planner.json("make", "--at", "2026-01-09T00:00")["head"]["comes_bytes"] > 0
    planner("apply", "--at", AT, "--tracker", fleet.url, "--rewrite-max", "0.0001", code=2)
    assert "writes over more than 0.0001 of" in planner.err


def test_a_plan_with_a_cache_that_there_is_not_is_not_applied(planner: Planner, fleet: Any) -> None:
    planner.configure(f'tracker = "{fleet.url}"\norigins = "origins.csv"\n')
    publish_all(fleet.url, planner.home)
    plan = Path(planner.json("make", "--at", AT)["plan"])
    edited = planner.home / "edited.plan"
    head, *files = plan.read_text().splitlines()
    edited.write_text("\n".join([head, *(one.replace('"01"', '"moon"') for one in files)]) + "\n")
    planner("apply", str(edited), "--at", AT, "--yes", code=2)
    assert "in cache 'moon', which the table of caches does not have" in planner.err
    assert fills_of(fleet.url) == []


def test_a_title_of_another_size_is_told_of(planner: Planner, fleet: Any) -> None:
    planner.configure(f'tracker = "{fleet.url}"\norigins = "origins.csv"\n')
    publish_all(fleet.url, planner.home)
    planner.json("make", "--at", AT, "--held", "nothing")
    plenty = [one for one in planner.json("apply", "--at", AT)["notes"] if "catalogue" in one]
    assert plenty == []
    title = next(one["title"] for one in planner.json("show")["files"])
    catalogue = planner.home / "catalogue.csv"
    lines = catalogue.read_text().splitlines()
    mine = [line for line in lines if line.startswith(f"{title},")]
    size = mine[0].split(",")[2]
    catalogue.write_text("\n".join(lines).replace(mine[0], mine[0].replace(f",{size},", f",{int(size) + 7},")))
    note = planner.json("apply", "--at", AT)["notes"][-1]
    assert note.startswith(f"{title} has ")
    assert "in the catalogue: renew the catalogue" in note
    assert f"note: {note}" in planner("apply", "--at", AT)


def test_the_night_tells_of_what_is_wrong_in_new_logs(planner: Planner) -> None:
    (planner.home / "logs" / "late.csv").write_text(
        "time,region,cluster,title,file,bytes\n2026-01-07T20:00:00Z,moon,x,title-00001,title-00001/hd,-5\n"
    )
    (planner.home / "logs" / "short.csv").write_text("time,region\n2026-01-07T20:00:00Z,moon\n")
    (planner.home / "logs" / "more.csv").write_text(
        "time,region,cluster,title,file,bytes\n2026-01-07T20:00:00Z,region-0,region-0,title-00001,title-00001/hd,500\n"
        "2026-01-07T21:00:00Z,region-0,region-0,title-00001,title-00001/hd,-5\n"
    )
    text = planner("night", "--at", AT, "--no-simulate")
    assert "1 log taken in: 1 of 2 rows count as views" in text
    assert "bytes negative" in text
    assert "short.csv' lacks the columns title" in text
    assert "taken in before" not in text
    text = planner("night", "--at", AT, "--no-simulate")
    assert "0 logs taken in" in text, "those that cannot be used do not stop the next evening"
    assert "short.csv' lacks the columns title" in text
    for name in ("short.csv", "late.csv"):
        (planner.home / "logs" / name).unlink()
    assert "taken in" not in planner("night", "--at", AT, "--no-simulate"), "nothing is new"


def test_a_night_takes_logs_in_plans_and_applies(planner: Planner, fleet: Any) -> None:
    shutil.rmtree(planner.home / "history")
    planner.configure(f'tracker = "{fleet.url}"\norigins = "origins.csv"\n')
    publish_all(fleet.url, planner.home, leave_out="title-00002")
    done = planner.json("night", "--at", AT, "--no-simulate", "--yes")
    assert done["ingest"]["taken"] == 7
    assert done["fits"]
    assert done["applied"]["ordered"] > 0
    assert list(done["applied"]["unknown"]) in (["title-00002"], [])
    assert done["report"] is None, "there is no plan before"
    given = ("--at", "2026-01-09T00:00", "--origin", "https://a.example/{title}", "--origin", "https://b.example/{title}",
             "--rewrite-max", "0.5", "--tracker", fleet.url)  # fmt: skip
    said = planner("night", *given, "--no-simulate")
    (command,) = re.findall(r"this does it:\n  p2pfill plan apply (.*)\n", said)
    words = shlex.split(command)
    assert words[1:3] == ["--planner", str(planner.home / "planner.toml")]
    pairs = sorted(zip(words[3:-1:2], words[4:-1:2], strict=True))
    assert pairs == sorted(zip(given[::2], given[1::2], strict=True))
    assert words[-1] == "--yes"
    assert "orders would be made" in said
    assert "what came of" in said, "the tracker has no night that lasted until that plan's deadline"
    fleet.beat("01")
    origin = str(planner.home / "trees" / "{title}")
    again = planner.json("apply", "2026-01-09", "--at", "2026-01-08T20:00", "--origin", origin, "--yes")
    assert again["ordered"] > 0
    assert {one.partition("/trees/")[0] for fill in fills_of(fleet.url) for one in fill.request.origins} >= {
        str(planner.home)
    }


def test_a_night_that_is_not_applied_is_told_of_all_the_same(planner: Planner, fleet: Any, make: Any) -> None:
    planner.configure(f'tracker = "{fleet.url}"\n')
    publish_all(fleet.url, planner.home)
    planner("make", "--at", AT)
    for cache in ("01", "02", "11", "12"):
        fleet.beat(cache, make.report(make.manifest("film", 15), "live", 15))
    told = planner.json("night", "--at", AT, "--no-simulate", "--yes", "--rewrite-max", "0.001", code=ExitCode.USAGE)
    assert "writes over more than 0.001 of 4 of 4 caches" in told["not_applied"]
    assert told["head"]["comes_bytes"] > 0
    assert fills_of(fleet.url) == []
    allowed = planner.json("night", "--at", AT, "--no-simulate", "--yes")
    assert allowed["notes"][0].startswith("in 4 caches lie 3.75 MiB that are no files of the catalogue")
    capacity = allowed["head"]["capacities"]["01"]
    assert 0 < allowed["head"]["comes_bytes"] <= 4 * 0.1 * capacity, "full of what it does not know"
    assert allowed["applied"]["ordered"] == len(fills_of(fleet.url)) > 0


def test_plans_of_one_night_share_what_may_be_rewritten(planner: Planner, fleet: Any, make: Any) -> None:
    planner.configure(f'tracker = "{fleet.url}"\n')
    publish_all(fleet.url, planner.home)
    planner("make", "--at", AT, "--held", "nothing")
    for cache in ("01", "02", "11", "12"):
        fleet.beat(cache, make.report(make.manifest(), "live", 4))
    planner("apply", "--at", AT, "--yes", "--rewrite-max", "1")
    (planner.home / "planner.toml").write_text(PLANNER + '[[exclude]]\ntitle = "title-00001"\n')
    planner("make", "--at", AT, "--held", "nothing")
    planner("apply", "--at", AT, "--yes", "--rewrite-max", "1", "--tracker", fleet.url, code=2)
    assert "writes over more than 1 of" in planner.err, "both together write more than all of a cache"


def test_a_night_without_windows_that_is_planned_once_more_ends_as_before(planner: Planner, fleet: Any) -> None:
    publish_all(fleet.url, planner.home)
    without = PLANNER.replace('windows = "02:00,max 06:00,off"\n', "")
    (planner.home / "planner.toml").write_text(f'tracker = "{fleet.url}"\n{without}')
    first = planner.json("night", "--at", "2026-01-07T21:30:00", "--no-simulate", "--yes")
    assert first["deadline"] == first["start"] + 86_400
    for at in ("21:30:07", "23:50:00"):
        again = planner.json("night", "--at", f"2026-01-07T{at}", "--yes")
        assert again["deadline"] == again["head"]["deadline"] == first["deadline"]
        assert (again["applied"]["ordered"], again["applied"]["kept"]) == (0, first["applied"]["ordered"])
    assert planner.json("check")["deadline"] == first["deadline"]
    next_night = planner.json("make", "--at", "2026-01-08T21:30:00")
    assert next_night["deadline"] == next_night["start"] + 86_400


def test_what_was_applied_is_kept_beside_what_is_planned_anew(planner: Planner, fleet: Any) -> None:
    planner.configure(f'tracker = "{fleet.url}"\nkeep = 1\n')
    publish_all(fleet.url, planner.home)
    planner("make", "--at", AT)
    planner("apply", "--at", AT, "--yes")
    plans = planner.home / "plans"
    applied = (plans / "2026-01-08.applied").read_bytes()
    assert applied == (plans / "2026-01-08.plan").read_bytes()
    (planner.home / "planner.toml").write_text(
        f'tracker = "{fleet.url}"\nkeep = 1\n{PLANNER}[[exclude]]\ntitle = "title-00001"\n'
    )
    planner("night", "--at", AT, "--no-simulate")
    assert (plans / "2026-01-08.plan").read_bytes() != applied
    desk = Desk(planner.home / "planner.toml")
    for name in ("", "2026-01-08"):
        plan, path = desk.read_applied(name)
        assert (path.name, path.read_bytes()) == ("2026-01-08.applied", applied)
        assert plan.head.day == "2026-01-08"
    assert desk.read_applied(str(plans / "2026-01-08.plan"))[1].suffix == ".plan"
    planner("make", "--at", "2026-01-09T00:00")
    assert sorted(path.name for path in plans.iterdir()) == ["2026-01-09.plan", "lock"]
