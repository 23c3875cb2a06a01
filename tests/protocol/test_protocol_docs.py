"""docs/protocol.md says what the code does: the state diagram, the table of messages, the example bytes."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import xxhash
from blake3 import blake3
from wire import masters

from p2pfill.engine import engine, requests
from p2pfill.engine import link as engine_link
from p2pfill.hot import _pure_bits
from p2pfill.model import timing
from p2pfill.model.files import Files
from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.node import links
from p2pfill.protocol import messages as m
from p2pfill.protocol import rules, tokens
from p2pfill.protocol.framing import OUR_VERSIONS, encode_frame, encode_preamble
from p2pfill.protocol.link import state_diagram
from p2pfill.swarm import claims, faults, interest, slow_peers, sources, ways
from p2pfill.swarm import masters as swarm_masters
from p2pfill.swarm.election import Assignment, Scope
from p2pfill.swarm.pacing import CLAIM_TIMES, STALL_CHUNKS
from p2pfill.swarm.sources import LEAST_RATE_BYTES_S
from p2pfill.transport import control

DOCS = Path(__file__).parents[2] / "docs" / "protocol.md"


PACKAGE = DOCS.parents[1] / "p2pfill"
KEEPERS = (
    timing,
    claims,
    faults,
    interest,
    swarm_masters,
    ways,
    tokens,
    rules,
    requests,
    engine_link,
    engine,
    control,
    links,
)
TEXT = DOCS.read_text(encoding="utf-8")


def table_rows(header: str) -> list[list[str]]:
    """Return the cells of all tables that begin with `header`."""
    found = []
    for part in TEXT.split(header)[1:]:
        rows = part.split("\n\n")[0].splitlines()[2:]
        found += [[cell.strip().strip("`") for cell in row.split("|")[1:-1]] for row in rows]
    return found


def constants() -> dict[str, float]:
    """Return the constants of the modules that keep clocks and limits of the wire."""
    return {name: value for module in KEEPERS for name, value in vars(module).items() if name.isupper()}


@pytest.mark.parametrize("diagram", [state_diagram(), requests.state_diagram()])
def test_diagrams_in_the_docs_are_current(diagram: str) -> None:
    assert f"```mermaid\n{diagram}\n```" in TEXT
    assert TEXT.count("```mermaid") == 2


def test_clocks_and_limits_in_the_docs_are_those_of_the_code() -> None:
    policy = {field.name: field.default for field in msgspec.structs.fields(FillPolicy)}
    known = {**constants(), **policy}
    rows = table_rows("| clock | seconds |") + table_rows("| limit | value | what follows |")
    assert len(rows) >= 36
    for name, value, *_ in rows:
        assert known[name] == float(value.replace(",", "")), name


def test_every_clock_and_limit_that_the_docs_name_has_a_row() -> None:
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)*_(?:S|MAX)|[a-z]+_(?:wait|timeout)_s|quarantine_s)`", TEXT))
    assert named == {
        row[0] for row in table_rows("| clock | seconds |") + table_rows("| limit | value | what follows |")
    } - {"REQUESTS_SLACK"}


def test_figures_in_the_text_are_those_of_the_code() -> None:
    assert f"{STALL_CHUNKS} * chunk_size / r where" in TEXT
    assert f"{CLAIM_TIMES} * chunk_size / p. r is" in TEXT
    assert sources.RATE_WEIGHT == 0.2  # "counts a fifth"
    assert (sources.SLOW, sources.SLOW_S, sources.SLOW_OTHERS_MIN) == (5.0, 2.0, 2)
    assert f"at least {1000 * sources.SAMPLE_S:.0f} ms" in TEXT
    assert (slow_peers.LAG, slow_peers.LAG_CHUNKS) == (4.0, 8)
    assert (slow_peers.LAG_PART, slow_peers.BEHIND_PART) == (1 / 16, 3 / 32)
    assert (slow_peers.SPAN_S, slow_peers.SPAN_MAX_S, slow_peers.PACE_CHUNKS, slow_peers.COMPARED_MIN) == (2, 8, 32, 3)
    assert swarm_masters.SENDS_SLOWLY == 2.0  # "less than half of what they have"
    assert timing.FAILING_ATTEMPTS == 2  # "two attempts"
    assert f"chunk_size / {LEAST_RATE_BYTES_S:,} s" in TEXT
    assert 1 << claims.DOUBLINGS_MAX == 1 << faults.DOUBLINGS_MAX == 64  # "up to 64 times"
    assert faults.REFUSALS_MAX == 3  # "three times in a row"
    codes = {code.value for code in m.GoodbyeCode}
    line = TEXT[TEXT.index("`Goodbye` codes:") :].split(". ")[0]
    assert {int(number) for number in re.findall(r"\b(\d) [a-z]", line)} == codes


def test_reject_codes_in_the_docs_are_those_of_the_code() -> None:
    source = (PACKAGE / "engine" / "link.py").read_text(encoding="utf-8")
    sent = set(re.findall(r'reject_request\([^"]*"([a-z-]+)"\)', source)) | {engine_link.BUSY}
    line = TEXT[TEXT.index("`Reject` codes:") :].split(".")[0]
    assert set(re.findall(r"`([a-z-]+)`", line)) == sent


def test_the_election_in_the_docs_is_right() -> None:
    title = TitleId(bytes.fromhex(_title_id()))
    rows = table_rows("| member | ISP | region | weight |")
    nodes = [NodeInfo(NodeId(name), isp, region, weight=float(weight)) for name, isp, region, weight, *_ in rows]
    duties = Assignment(title, 8, nodes)
    for node, (*_, share, leads, origin) in zip(nodes, rows, strict=True):
        within = duties.within(node)
        shown = [[int(chunk) for chunk in cell.split(", ") if chunk != "none"] for cell in (share, leads, origin)]
        assert shown == [list(within[scope].indexes()) for scope in (Scope.REGION, Scope.WORLD, Scope.ORIGIN)]
    assert f"`{masters.seed(title, 'a1'):016x}`" in TEXT
    assert f"`{_pure_bits._mix(0):016x}`" in TEXT
    assert repr(_pure_bits._score(_pure_bits._mix(0), masters.seed(title, "a1"), 1.0)) in TEXT
    closed = Assignment(title, 8, nodes, (), {"a1": [Scope.ORIGIN]})
    moved = {
        node.id: list(closed.within(node)[Scope.REGION].and_not(duties.within(node)[Scope.REGION]).indexes())
        for node in nodes
    }
    assert moved == {"a1": [], "a2": [6, 7], "b1": [], "c1": []}
    assert "With the way of `a1` to origins closed, its chunks 6 and 7 go to `a2`, and nothing else moves." in TEXT


def test_the_example_with_exclusions_is_right() -> None:
    """By an election that was written from the page alone, and by p2pfill's own."""
    title = TitleId(bytes.fromhex(_title_id()))
    rows = table_rows("| master of | with everybody |")
    names = [name for name, *_ in rows]
    members = [masters.Member(name, "isp-b" if name == "b1" else "isp-a", "eu") for name in names]
    nodes = [NodeInfo(NodeId(member.name), member.isp, member.region) for member in members]
    assert masters.quotas(2, [1.0] * 3) == [1, 1, 0]
    for place, excluded in enumerate([(), ("a2",), ("a2", "a3")]):
        theirs, ours = masters.Fleet(title, 8, members, excluded), Assignment(title, 8, nodes, excluded)
        for member, node, (_, *cells) in zip(members, nodes, rows, strict=True):
            shown = [int(chunk) for chunk in cells[place].split(", ") if chunk]
            assert sorted(theirs.may_go(member)[masters.REGION]) == shown
            assert list(ours.within(node)[Scope.REGION].indexes()) == shown


def _title_id() -> str:
    found = re.search(r"^title id ([0-9a-f]{64})$", TEXT, re.MULTILINE)
    assert found is not None
    return found[1]


def test_every_message_is_in_the_docs() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for record in m.Message.__args__:
        tag = record.__struct_config__.tag
        assert f"| {tag} | `{record.__name__}` |" in text
        for field in record.__struct_fields__:
            assert f"`{field}`" in text


def test_example_bytes_in_the_docs_are_right() -> None:
    text = DOCS.read_text(encoding="utf-8")
    hello = m.Hello("n1", "isp-a", "eu")
    assert encode_preamble(OUR_VERSIONS).hex() in text
    assert encode_frame(m.encode_payload(hello)).hex() in text
    assert "00000007 94070311cd012c" in text
    assert encode_frame(m.encode_payload(m.Request(3, 17, 300))).hex() == "0000000794070311cd012c"
    short = b"\x94\x01\xa2n1\xa5isp-a\xa2eu"
    assert m.decode_payload(short) == hello


def test_a_payload_of_each_message_is_in_the_docs() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)\(.*\)` \| `([0-9a-f ]+)` \|$", text, re.MULTILINE)
    shown = {name: m.decode_payload(bytes.fromhex(payload)) for name, payload in rows}
    assert {name: type(message).__name__ for name, message in shown.items()} == {
        record.__name__: record.__name__ for record in m.Message.__args__
    }
    for name, payload in rows:
        assert m.encode_payload(shown[name]) == bytes.fromhex(payload)
    assert shown["Request"] == m.Request(3, 17, 300)
    assert shown["Holdings"] == m.Holdings(3, True, 10, b"\xff\x03")


def test_the_manifest_in_the_docs_is_right() -> None:
    text = DOCS.read_text(encoding="utf-8")
    block = text[text.index("```\n98\n") :].removeprefix("```\n").split("```")[0]
    lines = [line.strip().split("   ")[0] for line in block.splitlines()]
    stream = b"hello" + bytes(70_000)
    chunks = [stream[:5], stream[5:65541], stream[65541:]]
    xxh3, b3 = (b"".join(map(digest, chunks)) for digest in (_xxh3, _blake3))
    files = Files([("a.txt", 5, 1_700_000_000, False), ("b/c.bin", 70_000, 1_700_000_001, True)], ["d"])
    manifest = Manifest("demo", 65536, files, xxh3, b3)
    assert bytes.fromhex("".join(lines[:-1])) == manifest.encode()
    assert lines[-1] == f"title id {manifest.title_id.hex()}"


def _xxh3(data: bytes) -> bytes:
    return xxhash.xxh3_128(data).digest()


def _blake3(data: bytes) -> bytes:
    return blake3(data).digest()
