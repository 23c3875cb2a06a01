"""What the pages say about the code: links, names, commands, settings, columns, reasons, limits, diagrams."""

from __future__ import annotations

import ast
import io
import json
import re
import tomllib
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from certificates import Signer
from docs.diagrams import ledger_diagram, request_diagram, title_diagram
from docs.pages import PAGES, ROOT, Block, anchors, blocks, links, read, references
from rich.console import Console

from p2pfill.cli import ca, keys, main, manage, night, plan, policy
from p2pfill.cli.bench import app as bench
from p2pfill.cli.fleet import explanation_view, status_view
from p2pfill.cli.plan_report_view import CLASS_TEXTS
from p2pfill.model import limits
from p2pfill.model.fleet_policy import HOPS, BudgetRule, CacheRule, FillRule, ResidencyRule, parse_policy
from p2pfill.model.identity import Identity, Role
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import default_chunk_size
from p2pfill.model.node import NodeInfo
from p2pfill.model.origins import OriginReport
from p2pfill.model.policy import FillPolicy
from p2pfill.model.reports import Election, SourceReport, TitleReport
from p2pfill.model.timing import ORIGIN_READS_MAX
from p2pfill.node.config import NodeConfig
from p2pfill.node.links import LINKS_MAX, NEWCOMERS_MAX
from p2pfill.node.renewal import load_credentials
from p2pfill.plan.report.day import BAND
from p2pfill.plan.report.night import RATE_SPENT, WHYS
from p2pfill.protocol import messages
from p2pfill.protocol.rules import REQUESTS_MAX, SUBSCRIPTIONS_MAX
from p2pfill.sim.faults import KINDS
from p2pfill.sim.scenario import Chaos, FaultSpec, Fleet, LabEvent, Scenario
from p2pfill.swarm.borders import CHILDREN, FAR_MAX
from p2pfill.swarm.election import STRIPES_MAX
from p2pfill.swarm.masters import STANDSTILL
from p2pfill.swarm.neighbourhood import ELECTORS_MAX, EVERYBODY_MAX, NEIGHBOURS
from p2pfill.swarm.sources import CATCH_UP_CHUNKS, ORIGIN_REQUESTS, WINDOW_MAX, WINDOW_MIN
from p2pfill.swarm.waits import HELD_FOR
from p2pfill.tracker.night_report import Cause
from p2pfill.tracker.night_rows import FAR_MAX as FAR_KEPT
from p2pfill.tracker.nights import NIGHTS_KEPT, ROWS_MAX
from p2pfill.tracker.openapi import OPERATIONS
from p2pfill.tracker.records import Explanation, NodeStatus, OriginsUsed, OriginTotals, RankedSource, Status
from p2pfill.tracker.rights import GRANTABLE, Grant, Grants
from p2pfill.transport.control import OUTPUT_BYTES_MAX
from p2pfill.trust.fleet_list import read_fleet_list

PACKAGE = ROOT / "p2pfill"
RUNNING = read(ROOT / "docs" / "running.md")
ARCHITECTURE = read(ROOT / "ARCHITECTURE.md")
FILL_LOGIC = read(ROOT / "docs" / "fill-logic.md")


def table_rows(text: str, header: str) -> list[list[str]]:
    """Return the cells of the table that begins with `header`."""
    rows = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


# ---- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for link in links(page):
        path, _, fragment = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.is_file(), f"{page.name} links to {link}"
        if fragment:
            assert fragment in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_by_name_have_one_target_each_and_all_targets_are_used(page: Path) -> None:
    used, defined = references(page)
    assert sorted(used) == sorted(defined)


# ---- names of the code


def names_in(path: Path) -> set[str]:
    """Return the names of functions, classes and constants of a module, and of methods and attributes of classes."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}.{name}" for name in members_of(node)}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def members_of(node: ast.ClassDef) -> set[str]:
    """Return the names of what a class defines, and of what its methods assign to `self`."""
    found = {part.name for part in node.body if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))}
    for part in ast.walk(node):
        if isinstance(part, (ast.Assign, ast.AnnAssign)):
            targets = part.targets if isinstance(part, ast.Assign) else [part.target]
            found |= {t.attr for t in targets if isinstance(t, ast.Attribute) and ast.unparse(t.value) == "self"}
            found |= {t.id for t in targets if isinstance(t, ast.Name) and part in node.body}
    return found


HOUSE = ("ARCHITECTURE.md", "CONTRIBUTING.md", "docs/experiments.md", "docs/fill-logic.md")
"""The pages that say what in the code does what."""

ALL_NAMES = {name for path in PACKAGE.rglob("*.py") for name in names_in(path)}
SPANS = [
    (page, span)
    for page in HOUSE
    for span in re.findall(r"`([^`]+)`", re.sub(r"(?s)```.*?```", "", read(ROOT / page)))
]
REFERENCES = [
    (page, found[1], found[2] or "")
    for page, span in SPANS
    if (found := re.fullmatch(r"([\w/]+\.(?:pyx?|pyi|toml))(?:: ([\w., ]+))?", span))
]
METHODS = [(page, span) for page, span in SPANS if re.fullmatch(r"[A-Z]\w+\.\w+(?:, [A-Z]\w+\.\w+)*", span)]
CONSTANTS = [(page, span) for page, span in SPANS if re.fullmatch(r"[A-Z]+(?:_[A-Z]+)+", span)]

OF_THE_SYSTEM = {"SO_MAX_PACING_RATE", "POSIX_FADV_WILLNEED"}


def test_references_are_found() -> None:
    """Guards the patterns above: a span that none of them fits would be compared with nothing."""
    assert len(REFERENCES) > 100
    assert len(METHODS) > 30
    assert len(CONSTANTS) > 10
    assert not [span for _, span in SPANS if "\n" in span]
    # A path with names behind it must fit the first pattern.
    assert {span for _, span in SPANS if re.match(r"[\w/]+\.py: ", span)} == {
        f"{file}: {names}" for _, file, names in REFERENCES if names and file.endswith(".py")
    }


@pytest.mark.parametrize(("page", "file", "names"), REFERENCES)
def test_files_and_names_of_the_pages_exist(page: str, file: str, names: str) -> None:
    path = PACKAGE / file if (PACKAGE / file).exists() else ROOT / file
    assert path.is_file(), f"{page} names {file}"
    for name in filter(None, names.split(", ")):
        assert name in names_in(path), f"{page}: {file} has no {name}"


@pytest.mark.parametrize(("page", "names"), METHODS)
def test_methods_of_the_pages_exist(page: str, names: str) -> None:
    for name in names.split(", "):
        assert name in ALL_NAMES, f"{page} names {name}"


@pytest.mark.parametrize(("page", "name"), CONSTANTS)
def test_constants_of_the_pages_exist(page: str, name: str) -> None:
    assert name in ALL_NAMES or name in OF_THE_SYSTEM, f"{page} names {name}"


def test_names_that_the_library_gives_exist() -> None:
    rows = table_rows(read(ROOT / "docs" / "embedding.md"), "| name | what it is |")
    members = next(row[1] for row in rows if row[0] == "`p2pfill.Node`")
    for name in re.findall(r"`(\w+)`", members):
        assert f"Node.{name}" in names_in(PACKAGE / "node" / "node.py"), name


def test_sections_of_the_experiments_that_the_code_names_exist() -> None:
    headings = re.findall(r"^## (.+)$", read(ROOT / "docs" / "experiments.md"), re.MULTILINE)
    named = {
        section
        for path in PACKAGE.rglob("*.py")
        for section in re.findall(r'docs/experiments\.md, "([^"]+)"', re.sub(r"\s+", " ", path.read_text()))
    }
    assert named
    assert named <= set(headings)


SEAMS = (
    "fill windows", "TLS and mutual TLS", "caps of rate per tier", "signed manifests", "S3", "PostgreSQL",
    "a scrubber", "asyncio", "metrics", "eviction",
)  # fmt: skip


@pytest.mark.parametrize("change", SEAMS)
def test_changes_that_people_ask_for_have_a_seam(change: str) -> None:
    rows = [row for row in table_rows(ARCHITECTURE, "| to change | look at |") if change in row[0]]
    assert len(rows) == 1
    assert re.search(r"`[\w/]+\.py: \w+", rows[0][1]), f"{change} names no file and symbol"


WORDS_MAX = 2200
"""Ten minutes' reading."""


def test_the_architecture_is_read_in_ten_minutes() -> None:
    text = re.sub(r"(?s)```.*?```", "", ARCHITECTURE)
    assert len([word for word in text.split() if re.search(r"\w", word)]) <= WORDS_MAX


BANNED = r"(?i)\bwhoever\b|\bbe it\b|\b(?:do|does|done|doing|did) without\b|\bof the moment\b"


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "docs/experiments.md", "docs/fill-logic.md"])
def test_prose_is_plain(page: str) -> None:
    assert not re.findall(BANNED, " ".join(read(ROOT / page).split()))


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "docs/experiments.md", "docs/fill-logic.md"])
def test_prose_is_wrapped(page: str) -> None:
    text = re.sub(r"(?s)```.*?```", "", read(ROOT / page))
    wide = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert wide == []


def test_layers_are_those_that_are_enforced() -> None:
    source = ast.parse((ROOT / "tests" / "test_layers.py").read_text())
    layers = next(
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "LAYERS"
    )
    shown = [row[0].strip("` ") for row in table_rows(ARCHITECTURE, "| layer (top first)")]
    assert sorted(shown) == sorted(layers)
    assert (shown[0], shown[-1]) == (layers[-1], layers[0])


def test_ledger_diagram_is_drawn_from_the_ledger() -> None:
    assert f"```mermaid\n{ledger_diagram()}\n```" in ARCHITECTURE


def test_request_diagram_is_drawn_from_the_table() -> None:
    assert f"```mermaid\n{request_diagram()}\n```" in ARCHITECTURE


def test_title_diagram_is_drawn_from_the_table() -> None:
    assert f"```mermaid\n{title_diagram()}\n```" in ARCHITECTURE


# ---- commands and settings


COMMAND_LINE = re.compile(
    r"(?:^|`|/bin/)p2pfill ((?:(?:bench|title|fills|nodes|policy|route|fleet|night|plan|ca|key) )?[a-z]+)\b([^\n`]*)",
    re.MULTILINE,
)
SAID = [
    (command, arguments)
    for page in PAGES
    for text in [
        *(block.text for block in blocks(page) if block.language in ("sh", "ini")),
        *re.findall(r"`p2pfill [^`\n]+`", read(page)),
    ]
    for command, arguments in COMMAND_LINE.findall(text)
]
COMMANDS = sorted({command for command, _ in SAID})


def test_the_pages_name_all_commands() -> None:
    assert {command for command in COMMANDS if " " not in command and command != "bench"} == {
        "audit", "demo", "explain", "files", "fill", "limit", "node", "publish", "scrub", "sign", "sim", "status",
        "tracker",
        "verify", "windows",
    }  # fmt: skip
    groups = {
        "title": manage.title, "fills": manage.fills, "nodes": manage.nodes, "policy": policy.app,
        "route": manage.route, "fleet": manage.fleet, "night": night.app, "plan": plan.app,
        "ca": ca.app, "key": keys.app,
    }  # fmt: skip
    existing = {f"{name} {one.name}" for name, group in groups.items() for one in group.registered_commands}
    assert {command for command in COMMANDS if command.split()[0] in groups} <= existing
    names = {one.name or getattr(one.callback, "__name__", "") for one in bench.registered_commands}
    assert {command for command in COMMANDS if command.startswith("bench ")} == {f"bench {name}" for name in names}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_options_of_the_pages_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    said = capsys.readouterr().out
    for option in {option for name, text in SAID if name == command for option in re.findall(r"--[a-z-]+", text)}:
        assert option in said, f"p2pfill {command} has no {option}"


def test_settings_of_a_node_are_all_described() -> None:
    rows = {row[0].strip("` "): row[1].strip("` ") for row in table_rows(RUNNING, "| key | default |")}
    fields = {field.name: field.default for field in msgspec.structs.fields(NodeConfig)}
    assert set(rows) == set(fields)
    for name, default in fields.items():
        assert rows[name] == ("" if default is msgspec.NODEFAULT else json.dumps(msgspec.to_builtins(default)))


SIMULATOR = ROOT / "docs" / "simulator.md"
POLICY = ROOT / "docs" / "policy.md"
ROUTES = ROOT / "docs" / "routes.md"
TABLES = [
    block
    for page in PAGES
    if page not in (SIMULATOR, POLICY, ROUTES)
    for block in blocks(page)
    if block.language == "toml"
]
FLEETS = {block.page: block for block in TABLES if block.file.endswith("/fleet.toml")}
GRANTS = [block for block in TABLES if block.file.endswith("/grants.toml")]
CONFIGURATIONS = [block for block in TABLES if block not in FLEETS.values() and block not in GRANTS]


def listed(page: str, directory: Path) -> list[Identity]:
    """Return who the page's list of the fleet names."""
    path = directory / "fleet.toml"
    path.write_text(FLEETS[page].text)
    return list(read_fleet_list(path, "fleet.example").values())


@pytest.mark.parametrize("page", FLEETS)
def test_lists_of_the_fleet_are_good(page: str, tmp_path: Path) -> None:
    assert {identity.role for identity in listed(page, tmp_path)} == set(Role)


@pytest.mark.parametrize("block", GRANTS, ids=lambda block: block.where)
def test_grants_of_the_pages_are_good(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "grants.toml"
    path.write_text(block.text)
    grants = Grants(path)
    assert all(grants.of("user/anna", right) for right in GRANTABLE)


def test_rights_are_all_described() -> None:
    rows = table_rows(read(ROOT / "docs" / "rights.md"), "| right | what it is for |")
    assert {row[0].strip("`") for row in rows} == set(GRANTABLE)
    (example,) = (block.text for block in GRANTS if block.page == "docs/rights.md")
    for field in msgspec.structs.fields(Grant):
        assert f"{field.name} = " in example


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=lambda block: block.where)
def test_configuration_files_are_good(block: Block, tmp_path: Path) -> None:
    host = tomllib.loads(block.text)["listen"].rpartition(":")[0]
    (me,) = (one for one in listed(block.page, tmp_path) if one.role is Role.CACHE and host in one.hosts)
    identity = Signer().give(tmp_path / "identity", me, me.hosts)
    path = tmp_path / "node.toml"
    path.write_text(block.text.replace("/etc/p2pfill/identity", str(identity)))
    config = NodeConfig.load(path)
    assert config.tracker.startswith("https://")
    assert load_credentials(config) is not None


STARTS = [
    (block.where, line)
    for page in PAGES
    for block in blocks(page)
    if block.language in ("sh", "ini")
    for line in block.text.replace("\\\n", " ").splitlines()
    if re.search(r"\bp2pfill (?:tracker|node) .*--listen ", line)
]


def test_what_listens_to_others_on_the_pages_says_whom_it_believes() -> None:
    """The sandbox has loopback addresses alone, so there all of it would start."""
    assert len(STARTS) > 10
    for where, line in STARTS:
        is_encrypted, is_insecure = ("--identity" in line, "--insecure" in line)
        assert is_encrypted != is_insecure, f"{where}: {line}"
        for url in re.findall(r"--tracker (https?)://", line):
            assert (url == "https") == is_encrypted, f"{where}: {line}"


SCENARIOS = [block.text for block in blocks(SIMULATOR) if block.language == "toml"] + [
    path.read_text() for path in sorted((ROOT / "scenarios").glob("*.toml"))
]


@pytest.mark.parametrize("text", SCENARIOS)
def test_scenarios_are_good(text: str, tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    assert Scenario.load(path).name


def test_settings_of_a_scenario_are_all_described() -> None:
    rows = {row[0].strip("` "): row[1].strip("` ") for row in table_rows(read(SIMULATOR), "| key | default |")}
    fields = {field.name: field.default for field in msgspec.structs.fields(Scenario)}
    assert set(rows) == set(fields)
    for name, default in fields.items():
        if isinstance(default, (str, int, float)):
            assert rows[name] == json.dumps(default)
    for part in (Fleet, FaultSpec, LabEvent, Chaos):
        for field in msgspec.structs.fields(part):
            assert f"`{field.name}`" in read(SIMULATOR)


def test_kinds_of_faults_are_all_described() -> None:
    rows = table_rows(read(SIMULATOR), "| kind | what happens |")
    assert {kind.strip("` ") for row in rows for kind in row[0].split(",")} == set(KINDS)


def test_the_fleets_policy_is_described_with_its_hops_and_keys() -> None:
    (text,) = [block.text for block in blocks(POLICY) if block.language == "toml"]
    policy = parse_policy(text)
    assert policy.caches
    assert policy.fills
    assert policy.residency
    rows = table_rows(read(POLICY), "| hop | sources |")
    assert [row[0].strip("` ") for row in rows] == list(HOPS)
    assert policy.budgets
    for rule in (BudgetRule, CacheRule, FillRule, ResidencyRule):
        for field in msgspec.structs.fields(rule):
            assert f"{field.name} = " in text


def test_nights_are_described_with_their_causes_and_bounds() -> None:
    text = read(ROOT / "docs" / "night.md")
    causes = {name for row in table_rows(text, "| cause | |") for name in re.findall("`([^`]+)`", row[0])}
    assert causes == set(get_args(Cause)) - {""}
    assert f"for {NIGHTS_KEPT} nights" in text
    assert f"up to {ROWS_MAX:,} pairs" in text


def test_what_came_of_a_plan_is_described_with_its_classes_and_bounds() -> None:
    text = read(ROOT / "docs" / "planner-report.md")
    rows = [row[0] for row in table_rows(text, "| class | |")]
    classes = {name.partition(":")[0] if ", not there" in name else name for name in CLASS_TEXTS.values()}
    assert sorted(rows) == sorted(classes)
    whys = {name for row in table_rows(text, "| | |") for name in re.findall("`([^`]+)`", row[0])}
    assert whys == set(WHYS)
    assert f"took in {RATE_SPENT * 100:.0f} % of what its rate allows" in text
    assert f"which is {BAND} standard deviations" in text
    assert f"than {ROWS_MAX:,} pairs" in text
    assert FAR_KEPT == 8
    assert "known of the eight sources" in text


def test_policy_is_described_with_its_defaults() -> None:
    text = read(ROOT / "docs" / "tracker-api.md")
    for field in msgspec.structs.fields(FillPolicy):
        if field.name == "reach":
            assert "| `reach` |" in text
            continue
        assert f'"{field.name}": {json.dumps(field.default)}' in text
        assert f"| `{field.name}` |" in text


def test_api_table_is_that_of_the_code() -> None:
    text = read(ROOT / "docs" / "tracker-api.md")
    rows = "\n".join(f"| `{one.method} {one.path}` | {one.right} | {one.summary} |" for one in OPERATIONS)
    assert set(rows.splitlines()) == {line for line in text.splitlines() if re.match(r"\| `[A-Z]+ /", line)}


# ---- what people are shown


def test_columns_of_status_and_explain_are_described() -> None:
    info = NodeInfo(id=NodeId("a1"), isp="isp-a", region="eu")
    report = TitleReport("0" * 64, "filling", 4, 1, sources=[SourceReport("b1", "peer")])
    node = NodeStatus(info, True, 0.0, 0.0, 1, [report], 0, 0, 0)
    source = RankedSource(0, "b1", "peer", False, 4, "same ISP")
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(status_view(Status("1", 0.0, 0.0, 2.0, [], [], [node]), width=200))
    used = OriginsUsed([OriginTotals(OriginReport("http://a/", 1), 1, 0.5)], "EUR")
    console.print(status_view(Status("1", 0.0, 0.0, 2.0, [], [], [], used=used)))
    console.print(explanation_view(Explanation(node, "0" * 64, "film", [], report, [source], [])))
    lines = console.export_text().splitlines()
    headers = [line for line in lines if re.match(r"\s*(cache|source)\s+(isp|tier)", line)]
    assert len(headers) == 3
    (origins,) = [line for line in lines if re.match(r"\s*origin\s+caches", line)]
    for header in [*headers, origins]:
        for column in re.split(r"\s{2,}", header.strip()):
            assert f"`{column.removesuffix(' EUR')}`" in RUNNING, column
    for heading in ("Where its bytes came from", "Sources now, best first"):
        assert any(heading in line for line in lines)
        assert f"*{heading}*" in RUNNING


def strings_of(path: Path, pattern: str) -> set[str]:
    """Return the string constants of a module that `pattern` fits."""
    found = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    return {value for value in found if isinstance(value, str) and re.fullmatch(pattern, value)}


def test_every_reason_of_an_escalation_is_described() -> None:
    reasons = {why for path in (PACKAGE / "swarm").glob("*.py") for why in strings_of(path, r"(master|roster)-[a-z-]+")}
    assert len(reasons) >= 5
    for page in (RUNNING, FILL_LOGIC):
        assert set(re.findall(r"`((?:master|roster)-[a-z-]+)`", page)) == reasons


def test_every_state_of_a_source_is_described() -> None:
    tree = ast.parse((PACKAGE / "node" / "fill.py").read_text())
    maker = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "_source_report")
    assigned = [node.value for node in ast.walk(maker) if isinstance(node, ast.Assign)]
    states = {node.value for node in assigned if isinstance(node, ast.Constant)} | {"ok", "lost"}
    assert len(states) >= 4
    for state in states:
        assert f"`{state}`" in RUNNING


def test_every_reason_to_wait_is_described() -> None:
    tree = ast.parse((PACKAGE / "swarm" / "waits.py").read_text())
    (table,) = (
        node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    )
    # Of one that names a cause the page has what comes before that.
    keys = [key.values[0] if isinstance(key, ast.JoinedStr) else key for key in table.keys if key is not None]
    texts = [key for key in keys if isinstance(key, ast.Constant)]
    reasons = {ast.literal_eval(key).rstrip(": ") for key in texts} | set(HELD_FOR.values())
    assert len(reasons) >= 7
    for reason in reasons:
        assert f"| `{reason}` |" in RUNNING


# ---- figures

UNITS = {"KiB": limits.KIB, "MiB": limits.MIB, "GiB": limits.GIB}


def size_of(text: str) -> int:
    number, unit = text.split()
    return int(number) * UNITS[unit]


def test_chunk_sizes_are_those_of_the_code() -> None:
    rows = table_rows(RUNNING, "| title | chunk size | chunks |")
    assert len(rows) == 4
    for title, chunk_size, chunks in rows:
        assert default_chunk_size(size_of(title)) == size_of(chunk_size)
        assert -(-size_of(title) // size_of(chunk_size)) == int(chunks.rstrip(" |"))


def test_bounds_of_neighbourhoods_are_those_of_the_code() -> None:
    text = " ".join(FILL_LOGIC.split())
    assert NEIGHBOURS + FAR_MAX < LINKS_MAX
    assert f"Up to {EVERYBODY_MAX} caches of a title" in text
    assert f"In an ISP of more than {ELECTORS_MAX} caches" in text
    assert f"at most {FAR_MAX} links across borders (`FAR_MAX`), half of the {LINKS_MAX} of a node" in text
    assert f"more than {STRIPES_MAX} chunks (`STRIPES_MAX`)" in text
    assert CHILDREN == 3  # "of three branches"
    assert "a tree of three branches" in text
    assert "its neighbours on four rings of hashes" in text
    assert NEIGHBOURS == 2 * 4
    assert STANDSTILL == 4  # "for four times the usual wait"
    api = read(ROOT / "docs" / "tracker-api.md")
    assert f"Where more than {EVERYBODY_MAX} nodes have or want a title" in api
    example = api[api.index('{"weight"') :].split("```")[0]
    election = msgspec.json.decode(example, type=Election)
    assert {field.name for field in msgspec.structs.fields(Election)} == {
        row[0].strip("`") for row in table_rows(api[api.index(example) :], "| field | meaning |")
    }
    assert [group.isp for group in election.groups] == ["isp-b", ""]
    assert f"with more than {EVERYBODY_MAX} caches each is linked" in " ".join(read(ROOT / "CHANGELOG.md").split())


def test_limits_are_those_of_the_code() -> None:
    for value in (limits.FILE_COUNT_MAX, limits.CHUNK_COUNT_MAX):
        assert f"{value:,}" in RUNNING
    for value in (limits.CHUNK_SIZE_MIN, limits.CHUNK_SIZE_MAX, limits.MANIFEST_BYTES_MAX):
        assert f"{value // limits.KIB} KiB" in RUNNING or f"{value // limits.MIB} MiB" in RUNNING
    assert limits.TITLE_BYTES_MAX == 128 * 1024 * limits.GIB
    assert "128 TiB" in RUNNING
    assert f"one chunk; at most {ORIGIN_READS_MAX} are read at a time" in RUNNING
    assert f"{ORIGIN_READS_MAX} more read origins" in " ".join(read(ROOT / "docs" / "embedding.md").split())


def test_limits_of_the_architecture_are_those_of_the_code() -> None:
    text = " ".join(ARCHITECTURE.split())
    assert f"A node has {LINKS_MAX} links, and {NEWCOMERS_MAX} connections" in text
    assert SUBSCRIPTIONS_MAX == REQUESTS_MAX
    queue = OUTPUT_BYTES_MAX // limits.MIB
    assert f"{SUBSCRIPTIONS_MAX} titles and {REQUESTS_MAX} requests each way and {queue} MiB of queued output" in text


def test_windows_of_the_fill_logic_are_those_of_the_code() -> None:
    text = " ".join(FILL_LOGIC.split())
    assert f"keeps {WINDOW_MIN} to {WINDOW_MAX} requests outstanding at a cache" in text
    assert f"keep about {ORIGIN_REQUESTS} outstanding at an origin" in text
    assert CATCH_UP_CHUNKS == 2  # "that is two chunks behind"
    assert "that is two chunks behind the others" in text


def test_figures_of_the_readme_are_those_of_its_report() -> None:
    readme = read(ROOT / "README.md")
    record = json.loads((ROOT / "docs" / "reports" / "demo.json").read_text())
    assert (record["completed"], record["verified"]) == (record["caches"], record["caches"])
    assert f"{record['origin_copies']:.2f} copies left the origin" in readme
    assert {f"{copies:.2f}" for copies in record["isp_copies"].values()} == {"1.00"}
    assert "1.00 crossed the border of each ISP" in readme
    tiers = record["bytes_by_tier"]
    assert sum(tiers.values()) == 7 * record["title_bytes"]
    assert tiers["peer"] == 4 * record["title_bytes"]
    picture = (ROOT / "docs" / "img" / "demo.svg").read_text()
    assert "All&#160;bytes&#160;are&#160;right." in picture
    assert f"{record['makespan_s']:.2f}&#160;s" in picture


def test_units_of_the_pages_have_directives_that_systemd_knows() -> None:
    units = re.findall(r"(?s)```ini\n(.*?)```", read(ROOT / "docs" / "running.md"))
    known = {
        "After", "Description", "ExecReload", "ExecStart", "NoNewPrivileges", "PrivateTmp", "ProtectSystem", "Restart",
        "RestartPreventExitStatus", "StateDirectory", "TimeoutStopSec", "User", "WantedBy", "Wants", "LimitNOFILE",
        "ReadWritePaths", "RestartSec",
    }  # fmt: skip
    assert units
    assert {key for unit in units for key in re.findall(r"(?m)^(\w+)=", unit)} <= known


def test_the_tags_of_the_protocol_page_are_all_of_them() -> None:
    tags = [
        config.tag
        for one in vars(messages).values()
        if isinstance(one, type) and (config := getattr(one, "__struct_config__", None)) and config.tag is not None
    ]
    assert f"the tag itself ({min(tags)} to {max(tags)})" in read(ROOT / "docs" / "protocol.md")
