"""The planner's commands where files, the tracker or the night are not as they should be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ibis")

import trio

from p2pfill.cli import main
from p2pfill.cli.exits import ExitCode
from p2pfill.model.manifest import Manifest, layout
from p2pfill.plan.document import LINE_BYTES_MAX, Plan, PlanHead, PlannedFile, read_plan, write_plan
from p2pfill.tracker.client import TrackerClient, TrackerRefused, TrackerUnreachable
from p2pfill.tracker.records import FillCreated, FillRecord, FillRequest

CACHES = "name,cluster,isp,region,capacity,serving\na1,c,i,eu,10 GB,1Gbit\na2,c,i,eu,10 GB,1Gbit\n"
TITLES = ("film", "show", "song")
SIZE = 4 * 65536
HEAD = PlanHead(
    1, "2026-12-01", 1.0, ("2026-11-01", "2026-11-30"), 2, 3, 10.0, 9.0, 9.5, 5, 4, 0.9,
    dict.fromkeys(("a1", "a2"), 10**10),
)  # fmt: skip


class Service:
    """A service of two caches and three titles, of one file each, at a tracker, and its planner's commands."""

    def __init__(self, home: Path, fleet: Any, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.fleet, self.capsys = home, fleet, capsys
        (home / "catalogue.csv").write_text("title,file,size\n" + "".join(f"{one},{one},{SIZE}\n" for one in TITLES))
        (home / "caches.csv").write_text(CACHES)
        (home / "planner.toml").write_text(
            f'catalogue = "catalogue.csv"\ncaches = "caches.csv"\ntracker = "{fleet.url}"\n'
        )
        (home / "plans").mkdir()

    def keep(self, *files: PlannedFile, day: str = "2026-12-01") -> Path:
        path = self.home / "plans" / f"{day}.plan"
        write_plan(path, Plan(HEAD, tuple(sorted(files, key=lambda one: one.file))))
        return path

    def run(self, command: str, *arguments: str, code: int = 0) -> str:
        found = main(["plan", command, *arguments, "--planner", str(self.home / "planner.toml")])
        captured = self.capsys.readouterr()
        self.err = captured.err
        assert found == code, captured.err
        return captured.out

    def apply(self, *arguments: str, code: int = 0) -> Any:
        out = self.run("apply", "--at", "2026-11-30T20:00", "--yes", "--json", *arguments, code=code)
        return json.loads(out) if out else None

    def ask(self, work: Callable[[TrackerClient], Any]) -> Any:
        async def call() -> Any:
            async with TrackerClient(self.fleet.url) as client:
                return await work(client)

        return trio.run(call)

    def publish(self, name: str, content: int = 0) -> str:
        made = Manifest(name, 65536, layout([("a.bin", SIZE)]), bytes([content] * 64), bytes(128))

        async def put(client: TrackerClient) -> str:
            await client.put_title(made.title_id.hex(), made.encode())
            return made.title_id.hex()

        return str(self.ask(put))

    def orders(self) -> list[tuple[str, str]]:
        fills = self.ask(lambda client: client.fills())
        return sorted((one.request.title, one.request.selector) for one in fills)


@pytest.fixture
def service(
    tmp_path: Path, fleet: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Service:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "300")
    return Service(tmp_path, fleet, capsys)


def planned(title: str, comes: tuple[str, ...] = (), stays: tuple[str, ...] = ()) -> PlannedFile:
    return PlannedFile(title, title, SIZE, 1.0, comes, stays)


def test_what_was_withdrawn_stays_withdrawn(service: Service) -> None:
    ids = {name: service.publish(name) for name in TITLES}
    service.keep(planned("film", ("a1",)), planned("show", ("a1",)))
    service.apply()
    service.ask(lambda client: client.withdraw(ids["film"], urgent=True))
    done = service.apply()
    assert done["withdrawn"] == {"film": 1}
    assert service.orders() == [(ids["show"], "id=a1")]
    assert service.ask(lambda client: client.catalogue()).withdrawn == [ids["film"]]
    assert "1 title of the plan was withdrawn" in service.run("apply", "--at", "2026-11-30T20:00")


def test_a_refused_version_does_not_end_the_one_before(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    old, show = service.publish("film"), service.publish("show")
    service.keep(planned("film", ("a1",)))
    service.apply()
    new = service.publish("film", 1)
    post = TrackerClient.post_fill

    async def refusing(client: TrackerClient, request: FillRequest, *, nodes_min: int = 0) -> FillCreated:
        if request.title == new:
            raise TrackerRefused("no", 409)
        return await post(client, request, nodes_min=nodes_min)

    monkeypatch.setattr(TrackerClient, "post_fill", refusing)
    service.keep(planned("film", ("a1",)), planned("show", ("a1",)))
    done = service.apply(code=ExitCode.FAILED)
    assert (done["ordered"], done["ended"], done["refused"]) == (1, 0, {"film": "no"})
    assert "1 title could not be ordered as planned; 'film': no" in service.err
    assert service.orders() == sorted([(old, "id=a1"), (show, "id=a1")])
    monkeypatch.undo()
    assert service.apply()["ended"] == 1
    assert service.orders() == sorted([(new, "id=a1"), (show, "id=a1")])


@pytest.mark.parametrize("status", [400, 404, 409, 500])
def test_an_end_that_is_refused_keeps_no_other_from_ending(
    service: Service, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    ids = {name: service.publish(name) for name in TITLES}
    service.keep(*(planned(name, ("a1",)) for name in TITLES))
    service.apply()
    delete = TrackerClient.delete_fill
    refused: list[str] = []

    async def refusing(client: TrackerClient, fill_id: str, of: FillRecord | None = None) -> None:
        if not refused:
            refused.append(fill_id)
            raise TrackerRefused("no", status)
        await delete(client, fill_id, of)

    monkeypatch.setattr(TrackerClient, "delete_fill", refusing)
    service.keep(planned("song", (), ("a1",)))
    done = service.apply("--rewrite-max", "1", code=0 if status == 404 else ExitCode.FAILED)
    assert done["ended"] == 1
    assert len(done["refused"]) == (status != 404)
    monkeypatch.undo()
    service.apply("--rewrite-max", "1")
    assert service.orders() == [(ids["song"], "id=a1")]


@pytest.mark.parametrize("lost_at", [0, 1, 2, 3, 4])
def test_a_tracker_that_dies_on_the_way_costs_another_try(
    service: Service, monkeypatch: pytest.MonkeyPatch, lost_at: int
) -> None:
    ids = {name: service.publish(name) for name in TITLES}
    service.keep(planned("film", ("a1",)), planned("show", ("a1", "a2")))
    service.apply()
    left = [lost_at]

    def dying(name: str) -> Callable[..., Any]:
        call = getattr(TrackerClient, name)

        async def run(client: TrackerClient, *arguments: Any) -> Any:
            if not left[0]:
                raise TrackerUnreachable("the tracker is gone")
            left[0] -= 1
            return await call(client, *arguments)

        return run

    for name in ("post_fill", "delete_fill"):
        monkeypatch.setattr(TrackerClient, name, dying(name))
    service.keep(planned("film", ("a2",)), planned("song", ("a1", "a2")), day="2026-12-02")
    if lost_at == 4:
        service.apply()
    else:
        service.apply(code=ExitCode.UNREACHABLE)
        assert f"{min(lost_at, 2)} of 2 orders made, {max(lost_at - 2, 0)} ended by then" in service.err
    begun = read_plan(service.home / "plans" / f"{HEAD.day}.applied")
    assert {one.file for one in begun.files if one.comes} == {"film", "song"}, "what was begun counts for the next plan"
    monkeypatch.undo()
    service.apply()
    assert service.orders() == sorted([(ids["film"], "id=a2"), (ids["song"], "id=a1,id=a2")])


def test_a_plan_made_as_if_nothing_lay_there_is_not_applied_to_caches_that_are_full(
    service: Service, make: Any
) -> None:
    (service.home / "caches.csv").write_text(CACHES.replace("10 GB", str(SIZE * 5)))
    ids = {name: service.publish(name) for name in TITLES}
    service.keep(planned("film", ("a1", "a2")), planned("song", ("a1",)))
    chunks = SIZE * 4 // 65536 + 1
    service.fleet.beat("a2", make.report(make.manifest("show", chunks), "live", chunks))
    service.apply(code=ExitCode.USAGE)
    assert "writes over more than 0.1 of 1 of 2 caches, up to 0.2 of 'a2'" in service.err
    assert service.orders() == []
    assert service.apply("--rewrite-max", "0.2")["ordered"] == 2
    assert {title for title, _ in service.orders()} == {ids["film"], ids["song"]}


def test_origins_have_titles_in_them_and_a_deadline_lies_ahead(service: Service) -> None:
    service.publish("film")
    service.keep(planned("film", ("a1",)))
    service.apply("--origin", "https://cloud.example/all/{title}/", "--origin", "./films/{title}")
    fills = service.ask(lambda client: client.fills())
    assert fills[0].request.origins == ["https://cloud.example/all/film/", str(Path("films/film").absolute())]
    service.apply("--origin", "https://cloud.example/a b#{title}", code=ExitCode.USAGE)
    service.apply("--deadline", "2026-11-30T19:00:00Z", code=ExitCode.USAGE)
    assert "is not within a month after" in service.err


def test_of_two_plans_that_are_applied_at_once_the_second_is_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {name: service.publish(name) for name in TITLES}
    service.keep(planned("film", ("a1",)))
    other = service.home / "other.plan"
    write_plan(other, Plan(HEAD, (planned("song", ("a1",)),)))
    post, said = TrackerClient.post_fill, []

    async def slow(client: TrackerClient, request: FillRequest, *, nodes_min: int = 0) -> FillCreated:
        if not said:
            said.append("")  # once: the second must not come as far as this
            named = ["--planner", str(service.home / "planner.toml"), "--at", "2026-11-30T20:00"]
            for more, code in (("--yes", ExitCode.USAGE), ("--json", ExitCode.OK)):
                assert await trio.to_thread.run_sync(main, ["plan", "apply", str(other), *named, more]) == code
            said.append(service.capsys.readouterr().err)
        return await post(client, request, nodes_min=nodes_min)

    monkeypatch.setattr(TrackerClient, "post_fill", slow)
    service.apply()
    assert "is being applied: wait for it to end" in said[1]
    assert service.orders() == [(ids["film"], "id=a1")]
    service.run("apply", str(other), "--at", "2026-11-30T20:00", "--yes")
    assert service.orders() == [(ids["song"], "id=a1")]


@pytest.mark.parametrize("word", ["cloud", "cloud/{title}", "cdn.example.com/{title}", "http:cdn/{title}", "{title}x"])
def test_a_word_as_origin_is_no_directory_that_only_caches_have(service: Service, word: str) -> None:
    service.publish("film")
    service.keep(planned("film", ("a1",)))
    service.apply("--origin", word, code=ExitCode.USAGE)
    (service.home / "origins.csv").write_text(f"name\nhttps://cloud.example/{{title}}\n{word}\n")
    with (service.home / "planner.toml").open("a") as file:
        file.write('origins = "origins.csv"\n')
    for command in (("apply", "--yes"), ("check", "--no-simulate")):
        service.run(*command, "--at", "2026-11-30T20:00", code=ExitCode.USAGE)
        assert f"origin {word!r} is no URL, and no directory that is there: write http://HOST" in service.err
        assert ("for a web server write" in service.err) == ("." in word)
    assert service.orders() == []
    (service.home / word.partition("/{title}")[0]).mkdir()
    service.apply()
    fills = service.ask(lambda client: client.fills())
    assert fills[0].request.origins[1] == str(service.home / word.replace("{title}", "film"))


@pytest.mark.parametrize("at", ["9999-12-31T23:59", "0001-01-01T00:00", "1969-01-01", "soon", "\x1b[2J"])
def test_a_time_that_none_can_mean_is_refused(service: Service, at: str) -> None:
    service.keep(planned("film", ("a1",)))
    for command in (("make",), ("check", "--no-simulate"), ("apply",), ("night",)):
        service.run(*command, "--at", at, code=ExitCode.USAGE)
        assert service.err.count("\n") == 1


@pytest.mark.parametrize(
    "deadline",
    ["2020-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", "+0s", "+999d", "+999999999d", "x"],
)
def test_a_deadline_that_does_not_lie_ahead_is_refused(service: Service, deadline: str) -> None:
    service.keep(planned("film", ("a1",)))
    for command in (("check", "--no-simulate"), ("apply", "--yes")):
        service.run(*command, "--at", "2026-11-30T20:00", "--deadline", deadline, code=ExitCode.USAGE)
        assert "deadline" in service.err


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"size":262144', '"size":0', "line 2"), ('"size":262144', '"size":-1', "line 2"),
        ('"size":262144', f'"size":{2**70}', "line 2"), ('"comes":["a1"]', '"comes":["a1","a1"]', "cache 'a1' twice"),
        ('"comes":["a1"]', '"comes":["a1"],"stays":["a1"]', "cache 'a1' twice"),
        ('"comes":["a1"]', '"comes":["a1"],"goes":["a2","a1"]', "cache 'a1' twice"),
        ('"comes":["a1"]', '"comes":["moon"]', "cache 'moon', which the table"),
        ('"comes":["a1"]', '"comes":["a*"]', "'a*'"), ('"comes":["a1"]', '"comes":["a1,all"]', "'a1,all'"),
        ('"comes":["a1"]', '"comes":["a1"],"priority":11', "line 2"), ('"streams":1.0', '"streams":-1', "line 2"),
        ('"file":"film"', '"file":"film/"', "'film/'"), ('"file":"film"', '"file":"film/a/"', "'film/a/'"),
        ('"file":"film"', '"file":"../film"', "none of title"), ('"streams":1.0', '"streams":NaN', "line 2"),
        ('"day":"2026-12-01"', '"day":"../../x"', "no day"), ('"day":"2026-12-01"', '"day":"2026-W49-2"', "no day"),
        ('"made_at":1.0', '"made_at":1e300', "line 1"), ('"made_at":1.0', '"made_at":-5e9', "line 1"),
        ('"a1":10000000000', '"a1":-1', "line 1"), ('"plan":1', '"plan":null', "line 1"),
    ],
)  # fmt: skip
def test_a_plan_that_was_edited_into_nonsense_is_refused_by_all(
    service: Service, old: str, new: str, says: str
) -> None:
    service.publish("film")
    path = service.keep(planned("film", ("a1",)))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    for command in (("apply", "--yes"), ("check", "--no-simulate")):
        service.run(*command, code=ExitCode.USAGE)
        assert says in service.err
        assert service.err.count("\n") == 1
    assert service.orders() == []


def test_what_is_no_file_of_a_sensible_length_is_no_plan(service: Service) -> None:
    path = service.keep(planned("film", ("a1",)))
    pipe, link, long = (service.home / name for name in ("pipe", "link", "long"))
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    long.write_bytes(path.read_bytes() + b'"' + bytes(LINE_BYTES_MAX + 1))
    for name in (pipe, link, service.home):
        service.run("show", str(name), code=ExitCode.FAILED)
        assert "cannot read the plan" in service.err
    service.run("show", str(long), code=ExitCode.USAGE)
    assert "more than any plan" in service.err
    link.unlink()
    link.symlink_to(path)
    assert "film" in service.run("show", str(link))


def test_names_that_move_a_terminal_are_shown_without_what_moves_it(service: Service) -> None:
    name = "fi\x1b[31mlm\r\n\x00\u202e[bold]{title}"
    path = service.keep(planned(name, ("a\x1b]0;x\x07",)))
    for command in (("show",), ("show", "--title", name), ("show", "--title", "\x1b[2J"), ("show", "\x1b[2J")):
        said = main(["plan", *command, "--planner", str(service.home / "planner.toml")])
        captured = service.capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        assert "\r" not in captured.out
        assert (said == 0) == ("\x1b[2J" not in command)
    for command in (("apply",), ("check", "--no-simulate")):
        service.run(*command, code=ExitCode.USAGE)
        assert "\x1b" not in service.err
    assert "\x1b" not in service.run("show", "2026-12-01", "--since", str(path))
