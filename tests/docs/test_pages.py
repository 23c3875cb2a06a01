"""Every command and every block of the pages, run; see sandbox.py for what is substituted."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
import tomllib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from certificates import Signer, cache, tracker, user
from docs.pages import LANGUAGES, PAGES, ROOT, SHOWN, Block, blocks
from docs.sandbox import Sandbox

from p2pfill.model.statement import Signatures
from p2pfill.model.windows import read_windows
from p2pfill.plan.document import Plan, PlanHead, PlannedCluster, PlannedFile, write_plan
from p2pfill.plan.history.history import History
from p2pfill.plan.inputs import read_caches, read_catalogue
from p2pfill.trust.credentials import Credentials

pytestmark = [pytest.mark.process, pytest.mark.nginx]

PROGRAMS = ("bash", "curl", "nginx")

WITHDRAWN_S = 20.0
"""Within which a title that is withdrawn at once is gone from all caches; five seconds where nothing else runs."""


RENEWED_S = 20.0
"""Within which a node that runs has taken in a certificate; it looks every five seconds."""


def logs_of(root: Path, name: str) -> str:
    """Return what the processes of one kind have said on a machine of a sandbox."""
    return "".join(path.read_text() for path in root.glob(f"{name}-*.log"))


def make_title(root: Path) -> None:
    """A small title: one file of several chunks, small ones, an empty one."""
    (root / "extras").mkdir(parents=True)
    (root / "film.mp4").write_bytes(random.Random(1).randbytes(3 * 1024 * 1024))
    (root / "extras" / "ä b.srt").write_bytes(random.Random(2).randbytes(10_000))
    (root / "extras" / "empty").touch()


@pytest.fixture(autouse=True)
def _needed_programs() -> None:
    for name in PROGRAMS:
        if shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/usr/local/sbin") is None:
            pytest.skip(f"{name} is not installed")


def run_page(page: Path, box: Sandbox) -> str:
    return "".join(box.run(block) for block in blocks(page))


def start_origin(box: Sandbox) -> None:
    """What README takes for granted: a web server over the titles, as docs/running.md sets one up."""
    config = next(block for block in blocks(ROOT / "docs" / "running.md") if block.file.endswith("origin.conf"))
    box.run(config)
    box.shell("systemctl reload nginx", "1", "origin")


def test_readme(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        make_title(box.machine("1") / "srv" / "titles" / "film")
        start_origin(box)
        for number in ("1", "2", "3"):
            (box.machine(number) / "home" / "pyproject.toml").touch()  # the clone that pip installs
        said = run_page(ROOT / "README.md", box)
    assert "All bytes are right." in said
    assert "3 of 3 caches alive" in said
    assert all(f"{name}: whole, " in said for name in ("hub1", "a1", "b1")), "each cache has looked at all bytes"
    assert "live: " in said


def test_running(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        make_title(box.machine("1") / "srv" / "titles" / "film")
        for number in ("1", "2", "3"):
            (box.machine(number) / "home" / "pyproject.toml").touch()
        said = run_page(ROOT / "docs" / "running.md", box)
        until = time.monotonic() + RENEWED_S
        while "has read its certificates again" not in logs_of(box.machine("2"), "node"):
            assert time.monotonic() < until, "the page renews the certificate of a1"
            time.sleep(0.1)
        stores = [box.machine(number) / "srv" / "p2pfill" for number in ("2", "3")]
        until = time.monotonic() + WITHDRAWN_S
        while any(list((store / place).iterdir()) for store in stores for place in ("live", "titles")):
            assert time.monotonic() < until, "the page withdraws the title from all caches"
            time.sleep(0.1)
    assert said.count("are right (") == 2
    assert "3 of 3 live" in said
    assert said.count("others who trust the same ca.pem let it in") == 3
    assert "user/anna from 127." in said, "the audit names who has changed what"
    assert "Sources now, best first" in said


def test_embedding(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        make_title(box.machine("1") / "home" / "film")
        said = run_page(ROOT / "docs" / "embedding.md", box)
        home = box.machine("1") / "home"
        assert all((home / name / "live/film/film.mp4").is_file() for name in ("cache-a1", "cache-b1", "cache-lone"))
    assert "film is at cache-a1/live/film" in said
    assert "film is at cache-b1/live/film" in said
    assert "['extras', 'film.mp4']" in said


def test_tracker_api(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        make_title(box.machine("1") / "home" / "film")
        said = run_page(ROOT / "docs" / "tracker-api.md", box)
    assert '"priority":10' in said


def test_policy(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        said = run_page(ROOT / "docs" / "policy.md", box)
    assert "policy.toml can be used: 1 rule for caches, 2 rules for fills, 1 rule for residency" in said
    assert "~ fills 'films': waits was region 30s, origin 5m, is region 30s, origin 1h" in said
    assert "back to version 1" not in said, "the log was shown before"
    assert "version 3 of the policy stands" in said
    assert "both say the same" in said


def test_simulator(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        shutil.copytree(ROOT / "scenarios", box.machine("1") / "home" / "scenarios")
        said = run_page(ROOT / "docs" / "simulator.md", box)
        assert (box.machine("1") / "home" / "two-isps.trace").stat().st_size
    assert "two ISPs behind narrow uplinks, seed 1" in said
    assert "16 seeds passed" in said
    assert "the same actions" in said


def test_windows(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        shutil.copytree(ROOT / "scenarios", box.machine("1") / "home" / "scenarios")
        said = run_page(ROOT / "docs" / "windows.md", box)
    assert "by the clock of Europe/Berlin" in said
    table = next(block for block in blocks(ROOT / "docs" / "windows.md") if block.text.startswith("[windows]"))
    assert len(read_windows(tomllib.loads(table.text)["windows"]).windows) == 2
    assert "1.00" in said


def test_night(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        make_title(box.machine("1") / "home" / "film")
        said = run_page(ROOT / "docs" / "night.md", box)
        report = json.loads((box.machine("1") / "home" / "night.json").read_text())
    plain = " ".join(said.split())
    assert "1 title for 1 cache, 1 of 1 live." in plain
    assert "Out of origins came 1.00 times the least possible" in plain
    assert (report["totals"]["live"], report["is_over"]) == (1, False)


def test_benchmark(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        said = run_page(ROOT / "docs" / "benchmark.md", box)
    assert "XXH3-128 and BLAKE3 of each chunk" in said
    assert "one receiver fetches from 2" in said


def test_routes(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        said = run_page(ROOT / "docs" / "routes.md", box)
    shown = next(block.text for block in blocks(ROOT / "docs" / "routes.md") if block.language == "text")
    assert shown.splitlines()[0] in said
    assert "1 2.5 pair 1: to isp=isp-a from isp=isp-b" in " ".join(said.split())
    assert '"prefixes":3' in said
    assert "Nothing found." in said


def test_certificates(tmp_path: Path) -> None:
    if shutil.which("openssl") is None and not os.environ.get("CI"):
        pytest.skip("openssl is not installed")
    carried = {"main": ("1", "tracker"), "hub1": ("1", "identity"), "a1": ("2", "identity"), "b1": ("3", "identity")}
    said = ""
    with Sandbox(tmp_path) as box:
        home = box.machine("1") / "home"
        for block in blocks(ROOT / "docs" / "certificates.md"):
            if block.text.startswith("scp "):
                for name, (number, place) in carried.items():
                    assert f"scp -rp identities/{name} root@" in block.text
                    shutil.copytree(home / "identities" / name, box.machine(number) / "etc" / "p2pfill" / place)
            said += box.run(block)
        issued = {name: Credentials(home / "identities" / name).identity.who for name in ("hub1", "b1", "main", "anna")}
    assert issued == {"hub1": "cache/hub1", "b1": "cache/b1", "main": "tracker/main", "anna": "user/anna"}
    assert said.count("others who trust the same ca.pem let it in") == 5
    assert "3 of 3 caches alive" in said
    assert "spiffe://fleet.example/cache/a1/region/default/isp/isp-a, at a1.fleet.example, 127." in said
    assert "would revoke 1 certificate of cache/a1" in said
    assert "done: drop the old root" in said


def test_publishers(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        machine, signer = box.machine("1"), Signer()
        here = (box.substitute("192.0.2.10", "1"),)
        (machine / "etc/p2pfill").mkdir(parents=True, exist_ok=True)
        signer.give(machine / "etc/p2pfill/tracker", tracker(), here)
        signer.give(machine / "etc/p2pfill/identity", cache("hub1"), here)
        (machine / "home/identities").mkdir()
        signer.give(machine / "home/identities/anna", user("anna"))
        (machine / "etc/p2pfill/grants.toml").write_text(
            '[[grants]]\nwho = "user/anna"\nmay = ["read", "publish", "order", "withdraw", "manage"]\n'
        )
        make_title(machine / "home/film")
        said = run_page(ROOT / "docs" / "publishers.md", box)
        signatures = Signatures.decode((machine / "home/film.fill.sig").read_bytes())
    assert said.count("titles that it takes: what publishers.toml says") == 2
    assert "is not signed as rule 2 (titles = 'film*') of publishers.toml demands, by 2 of its publishers" in said
    assert "signed by studio-1; not by studio-2" in said
    assert "exit code 1" in said
    assert said.count("2 signatures, number 1") == 4
    assert len(signatures.by) == 2


def test_rights(tmp_path: Path) -> None:
    page = ROOT / "docs" / "rights.md"
    with Sandbox(tmp_path) as box:
        home = box.machine("1") / "home"
        for name in ("film", "films-1"):
            make_title(home / name)
        box.run(next(block for block in blocks(page) if block.file.endswith("/grants.toml")))
        tried = box.shell(box.substitute(GRANTED, "1"), "1", "what the page grants")
        said = run_page(page, box)
        kept = json.loads((home / "audit.json").read_text())["records"]
    assert "user/films-tom may not do this with titles named 'film'" in tried
    assert "user/films-tom may not order this: it is not for region=eu alone" in tried
    assert "user/films-tom may not order this: its priority is above 5" in tried
    assert "user/films-tom may not manage" in tried
    assert "user/eve may not publish" in tried
    ordered = [(one["who"], one["detail"].partition(",")[0]) for one in kept if one["what"] == "post_fill"]
    assert ordered == [("user/films-tom", "films-1 to isp=isp-a+region=eu")]
    published = {(one["who"], one["detail"].partition(" ")[0]) for one in kept if one["what"] == "put_title"}
    assert published == {("user/films-tom", "films-1"), ("user/anna", "film")}
    assert "user/films-tom from 127." in said


GRANTED = """
p2pfill ca init ca --domain fleet.example
cat > ca/fleet.toml <<END
trackers = [{ name = "main", hosts = ["192.0.2.10"] }]
users = [{ name = "anna" }, { name = "films-tom" }, { name = "eve" }]
END
p2pfill ca issue --all --out identities
p2pfill tracker --identity identities/main --grants /etc/p2pfill/grants.toml --listen 192.0.2.10:7070 --db sqlite:///t.db
for name in film films-1; do p2pfill publish $name --name $name --out $name.fill; done
export P2PFILL_TRACKER=https://192.0.2.10:7070
refused() { code=0; p2pfill "$@" || code=$?; test $code = 1; }
export P2PFILL_IDENTITY=identities/films-tom
fill="fill films-1.fill --later --origin http://192.0.2.10:8080/film"
refused title add film.fill
refused $fill --to isp=isp-a
refused $fill --to region=eu --priority 6
p2pfill $fill --to isp=isp-a+region=eu
refused audit
export P2PFILL_IDENTITY=identities/eve
p2pfill status
refused title add film.fill
export P2PFILL_IDENTITY=identities/anna
p2pfill title add film.fill
"""


def test_planner(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        said = run_page(ROOT / "docs" / "planner.md", box)
        (home,) = (box.machine("1") / "srv").iterdir()
        assert (box.machine("1") / "home" / "plan.png").read_bytes().startswith(b"\x89PNG")
        assert (home / "plans" / "2026-01-08.plan").exists()
    for region in ("europe", "america", "japan"):
        line = next(line.split() for line in said.splitlines() if line.startswith(region))
        planned, lru, best = (float(part.rstrip("%")) for part in line[1:])
        assert 0.8 * best < planned <= best
        assert lru < best
    assert "7 logs taken in before, not counted again" in said
    assert "Nothing says that it does not fit" in said
    assert "streams expected" in said
    plain = " ".join(said.split())
    assert "orders would be made for 2026-01-08" in plain
    assert "orders made for 2026-01-08, due 2026-01-08 20:00" in plain


def test_planner_report(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    with Sandbox(tmp_path) as box:
        home = box.machine("1") / "home"
        make_title(home / "titles" / "film")
        plan_a_film(home, today, box.substitute("http://192.0.2.10:7070", "1"))
        box.shell(box.substitute(FILLED, "1"), "1", "a fleet that fills by the plan")
        said = run_page(ROOT / "docs" / "planner-report.md", box)
        told = json.loads((home / "report.json").read_text())
        assert {path.name for path in (home / "plots").iterdir()} == {
            "windows.png", "placement.png", "demand.png", "forecast.png",
        }  # fmt: skip
    plain = " ".join(said.split())
    assert "1 of 1 copies that were to come are there" in plain
    assert f"nothing of {today}, the day of the plan: `p2pfill plan ingest` takes its logs in" in plain
    assert "there, as planned 6 MiB 66 % 1" in plain
    assert "not planned: forecast too low 3 MiB 33 % 1" in plain
    assert told["night"]["came"] == {"peer": 0, "region": 0, "other": 0, "origin": told["night"]["planned_bytes"]}
    assert sum(part["bytes"] for part in told["viewing"]["parts"]) == told["viewing"]["demand_bytes"] == 9 << 20


FILLED = """
p2pfill tracker --listen 192.0.2.10:7070 --db sqlite:///tracker.db
p2pfill node --id a1 --isp isp-a --data /srv/p2pfill --listen 192.0.2.10:7400 --tracker http://192.0.2.10:7070
p2pfill publish titles/film --name film --out film.fill
p2pfill fill film.fill --origin "$PWD/titles/film" --files film.mp4 --to id=a1 --wait --tracker http://192.0.2.10:7070
"""


def plan_a_film(home: Path, day: date, tracker: str) -> None:
    """Write what a planner leaves: its file, tables, a history, a log of the day, and a plan with one file."""
    size = 3 << 20
    (home / "planner.toml").write_text(
        f'catalogue = "catalogue.csv"\ncaches = "caches.csv"\ntracker = "{tracker}"\n'
    )  # fmt: skip
    (home / "catalogue.csv").write_text(
        f"title,file,size,released\nfilm,film/film.mp4,{size},2020-01-01\nfilm,film/extra,{size},2020-01-01\n"
    )
    (home / "caches.csv").write_text("name,cluster,isp,region,capacity,serving\na1,ka,isp-a,eu,1GB,1Gbit\n")
    (home / "logs").mkdir()
    before = day - timedelta(days=1)
    for at, files in ((before, ("film.mp4", "extra")), (day, ("film.mp4", "film.mp4", "extra"))):
        rows = "".join(f"{at}T00:00:00Z,eu,ka,film,film/{name},{size}\n" for name in files)
        (home / "logs" / f"{at}.csv").write_text("time,region,cluster,title,file,bytes\n" + rows)
    read, _ = read_catalogue(home / "catalogue.csv")
    caches, _ = read_caches(home / "caches.csv")
    History(home / "history").ingest([home / "logs" / f"{before}.csv"], read, caches, now_s=time.time())
    head = PlanHead(
        1, str(day), time.time(), (str(before), str(before)), 1, 2, 9.0, 6.0, 6.0, size, 0, 1.0,
        clusters={"ka": PlannedCluster(1.0, 0.5)},
    )  # fmt: skip
    expected = {"eu": (1.0, 1.0)}
    films = (
        PlannedFile("film/extra", "film", size, 0.4, expected={"eu": (0.4, 1.0)}),
        PlannedFile("film/film.mp4", "film", size, 1.0, ("a1",), expected=expected),
    )
    (home / "plans").mkdir()
    write_plan(home / "plans" / f"{day}.plan", Plan(head, films))


TESTED = {
    "README.md", "docs/running.md", "docs/embedding.md", "docs/tracker-api.md", "docs/simulator.md",
    "docs/benchmark.md", "docs/windows.md", "docs/policy.md", "docs/routes.md",
    "docs/night.md", "docs/planner.md", "docs/planner-report.md", "docs/certificates.md",
    "docs/publishers.md",
    "docs/rights.md",
}  # fmt: skip
ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", ALL_BLOCKS, ids=lambda block: block.where)
def test_no_block_is_left_out(block: Block) -> None:
    assert block.language in LANGUAGES
    if block.language not in SHOWN and block.page not in TESTED:
        # Pages for contributors: commands of this repository's own make and tools.
        assert block.language == "sh", f"{block.where} is not run by any test"
        done = subprocess.run(["/bin/bash", "-n", "-c", block.text], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
