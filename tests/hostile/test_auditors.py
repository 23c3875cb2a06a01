"""What auditors found in systems of this kind, each tried on ours under a number of its own.

The findings are those of Dragonfly's audit of 2023 (1 to 19), of the later ones of 2025 and 2026 and of its reviewers'
questions (20 to 23), of libtorrent's audit (24 to 26), and of our own first one (27). Where another file has the test,
it is named here, and must be there.
"""

from __future__ import annotations

import ast
import os
import re
import stat
from collections.abc import AsyncIterator
from functools import cache as cache_calls
from pathlib import Path

import httpx2
import msgspec
import pytest
import trio
from certificates import cache, user
from hypothesis import given
from hypothesis import strategies as st
from trusted import Fleet

from p2pfill.errors import ConfigError, ManifestError, P2PFillError, RemoteProtocolError
from p2pfill.model.identity import identity_from_uri
from p2pfill.model.manifest import Manifest, layout
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import HEADER_BYTES, PREFACE_BYTES, decode_header, decode_preface
from p2pfill.protocol.framing import FRAME_BYTES_MAX
from p2pfill.protocol.tokens import TokenRegistry
from p2pfill.store import disk
from p2pfill.tracker.openapi import OPERATIONS
from p2pfill.tracker.rights import CACHE_READS

TESTS = Path(__file__).parent.parent
PACKAGE = TESTS.parent / "p2pfill"

ORIGINS = "origin/test_origin_access.py"
ELSEWHERE = [
    # (finding, file, test)
    ("02 requests to any address on behalf of a caller", ORIGINS, "test_ssrf_"),
    ("03 the same through the path of tiny files", ORIGINS, "test_ssrf_through_the_path_of_tiny"),
    ("04 the same through redirects", ORIGINS, "test_ssrf_through_redirects"),
    ("05 TLS verification switched off", ORIGINS, "test_tls_verification_is_switched_off_nowhere"),
    ("06 accounting of quotas", "tracker/test_budgets.py", "test_no_more_is_fetched_than_the_budget_whatever_is_lost"),
    ("06 accounting of quotas", "tracker/test_floods.py", "test_shares_hold_and_come_back"),
    ("06 accounting of quotas", "transport/test_uploads.py", "test_slots_are_neither_lost_nor_made"),
    ("07 permissions of directories", "store/test_start.py", "test_a_data_directory_of_another_user_is_refused"),
    ("13 races among peers", "transport/test_schedules.py", "test_"),
    ("13 races among peers", "engine/test_engine.py", "test_a_stranger_does_not_take_the_name_of_a_link_that_lives"),
    ("15 a CA that signs for any address", "trust/test_authority.py", "test_only_who_is_listed_gets_one"),
    ("15 a CA that signs for any address", "trust/test_authority.py", "test_of_a_request_the_key_alone_is_taken"),
    ("18 http hard-coded", ORIGINS, "test_http_is_hard_coded_nowhere"),
    ("21 who verifies integrity, and when: each source's each chunk", "hostile/data_attacks.py", "last_byte_wrong"),
    ("21 who verifies integrity, and when: what was written", "hostile/data_attacks.py", "second_answer_later"),
    ("21 who verifies integrity, and when: again at rest", "node/test_scrubber.py", "test_scrub_finds_and_repairs"),
    ("22 how is the root rotated", "trust/test_rotation.py", "test_"),
    ("23 hashes that the transport alone protects", "hostile/test_signed_titles.py",
     "test_a_tracker_that_lies_gets_nothing_filled"),
    ("23 hashes that the transport alone protects", "trust/test_signed_fleet.py",
     "test_only_what_is_signed_is_filled_and_nobody_is_asked_for_the_rest"),
    ("27 one request answered twice", "hostile/data_attacks.py", "twice"),
]


@pytest.mark.parametrize(("finding", "file", "test"), ELSEWHERE, ids=[f"{one[0]}-{one[2]}" for one in ELSEWHERE])
def test_auditors_findings_that_are_tried_elsewhere(finding: str, file: str, test: str) -> None:
    assert test in (TESTS / file).read_text(), finding


def test_no_finding_of_the_auditors_is_left_out() -> None:
    tried = {int(finding[:2]) for finding, _, _ in ELSEWHERE}
    tried |= {int(name[14:16]) for name in globals() if name.startswith("test_auditors_") and name[14:16].isdecimal()}
    assert tried == set(range(1, 28))


BESIDE_A_VALUE = {
    "store/names.py: _choose": "the errors say why others were not chosen, and are no failure of its own",
    "tracker/catalogue.py: _run_call": "a pair of None and the error, which whoever waits for the value has raised",
}


def test_auditors_11_no_value_can_be_used_after_its_error() -> None:
    """Errors are raised: no function returns one beside a value, where the value could be used all the same."""
    wrong = re.compile(r"tuple\[(?![^]]*None, \w*(Error|Exception) \| None\])[^]]*(Error|Exception)\b")
    found = [
        f"{path.relative_to(PACKAGE).as_posix()}: {node.name}"
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.returns is not None
        and wrong.search(ast.unparse(node.returns))
    ]
    assert set(found) == BESIDE_A_VALUE.keys()


@cache_calls
def sources() -> list[tuple[Path, ast.AST]]:
    return [(path, ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            made = Fleet(tmp_path, nursery)
            await made.start()
            yield made
            nursery.cancel_scope.cancel()


async def test_auditors_01_no_call_is_served_to_who_was_granted_nothing(fleet: Fleet) -> None:
    async with fleet.client(user("eve")) as eve, fleet.client(cache("a9")) as a9:
        for one in OPERATIONS:
            path = re.sub(r"{\w+}", "a1", one.path)
            clients = (eve,) if one.name in CACHE_READS and "{node}" not in one.path else (eve, a9)
            for client in clients:
                answer = await client.exchange(one.method, path, b"{}")
                assert answer.status == 403, f"{client}: {one.method} {path}"


async def test_auditors_01_nor_to_who_shows_no_certificate(fleet: Fleet) -> None:
    authority = str(fleet.root / "tracker" / "ca.pem")
    import ssl

    async with httpx2.AsyncClient(verify=ssl.create_default_context(cafile=authority), trust_env=False) as http:
        with pytest.raises(httpx2.HTTPError):
            await http.get(fleet.url + "/v1/health")
    async with httpx2.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx2.HTTPError):
            await http.get(fleet.url.replace("https://", "http://") + "/v1/health")


async def test_auditors_20_nothing_is_served_beside_the_calls_that_ask_who_calls(fleet: Fleet) -> None:
    """The later findings were calls that were added beside the others: jobs, metrics, a debugger's."""
    beside = ["/", "/v1", "/v1/jobs", "/oapi/v1/jobs", "/metrics", "/debug/pprof/", "/docs", "/redoc", "/v1/../metrics"]
    async with fleet.client(user("eve")) as eve:
        for path in beside:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
                await eve.aclose()
                answer = await eve.exchange(method, path)
                assert answer.status in (403, 404, 405), f"{method} {path}"


LAX = ("CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context")


def test_auditors_05_no_connection_is_made_without_looking_at_who_answers() -> None:
    """But for one context, which is for handshakes in memory that look at a directory's own files."""
    found = [
        path.relative_to(PACKAGE).as_posix()
        for path, tree in sources()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in LAX)
        or (isinstance(node, ast.keyword) and node.arg == "verify" and getattr(node.value, "value", True) is False)
    ]
    assert found == ["trust/check.py"]


@given(st.binary(max_size=64))
def test_auditors_08_pieces_of_any_length_are_looked_at_first(data: bytes) -> None:
    for decode, length in ((decode_header, HEADER_BYTES), (decode_preface, PREFACE_BYTES), (m.decode_payload, None)):
        try:
            decode(data)
        except RemoteProtocolError:
            continue
        assert length is None or len(data) == length
    with pytest.raises(ManifestError):
        Manifest.decode(data)


def test_auditors_09_errors_of_close_are_not_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that replaces another is durable before it is closed, and so its close can lose nothing."""
    synced: list[str] = []
    monkeypatch.setattr(disk.os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        disk.replace_file(directory, "kept", b"new")
    finally:
        os.close(directory)
    assert (tmp_path / "kept").read_bytes() == b"new"
    assert len(synced) >= 2, "the file, and the directory that names it"


def test_auditors_10_tokens_are_compared_by_digests_that_nobody_can_know() -> None:
    tokens = TokenRegistry[str](os.urandom)
    given_out = [tokens.issue("link", 0.0) for _ in range(10)]
    kept = repr(vars(tokens))
    assert not any(repr(token)[2:-1] in kept for token in given_out)
    with pytest.raises(RemoteProtocolError) as raised:
        tokens.spend(bytes(m.TOKEN_BYTES), 0.0)
    assert bytes(m.TOKEN_BYTES).hex() not in str(raised.value)
    assert [tokens.spend(token, 1.0).owner for token in given_out] == ["link"] * 10


TRIMMED = {
    # What is trimmed of several characters is meant character by character here.
    "node/config.py", "model/hosts.py", "origin/access.py", "origin/bodies.py", "plan/history/logs.py", "plan/rows.py",
    "tracker/route_tables.py", "cli/children.py",
}  # fmt: skip


def test_auditors_12_names_are_not_trimmed_with_the_wrong_function() -> None:
    """`strip` takes a set of characters, and `removesuffix` a word: who means a word must not call `strip`."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("strip", "lstrip", "rstrip")
        and node.args
        and len(getattr(node.args[0], "value", "")) > 1
    }
    assert found <= TRIMMED
    letters = re.compile(r"\.[lr]?strip\(\"[^\"]*[A-Za-z]{2}")
    assert not [path for path, _ in sources() if letters.search(path.read_text())]


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "a//b", ".", "..", "a/./b", "a\0b", "", "a/", "\\..\\x/../.."]
)
def test_auditors_14_no_file_is_named_outside_of_a_title(path: str) -> None:
    with pytest.raises(P2PFillError):
        Manifest(
            name="film", chunk_size=65536, files=layout([(path, 1)]), xxh3=bytes(16), blake3=bytes(32),
            integrity="blake3",
        )  # fmt: skip


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)


async def test_auditors_16_whatever_is_sent_is_answered_and_never_breaks_the_tracker(fleet: Fleet) -> None:
    bodies: list[bytes] = [b"", b"{}", b"[]", b"null", b'"', b"\xff\xfe", b"[" * 100_000, b'{"title":1e999}']

    @given(JUNK)
    def draw(value: object) -> None:
        bodies.append(msgspec.json.encode(value))

    draw()
    async with fleet.client(user("anna")) as anna:
        for one in OPERATIONS:
            if one.name == "get_orders":
                continue  # it waits
            for number, body in enumerate(bodies[:8] if one.request is None else bodies[:40]):
                path = re.sub(r"{\w+}", ["a1", "0", "%00", "x" * 300][number % 4], one.path)
                # A body that nobody has asked for ends its connection, so each call has one of its own.
                await anna.aclose()
                answer = await anna.exchange(one.method, path, body)
                assert answer.status < 500 or answer.status == 507, f"{one.method} {path} {body[:80]!r}"
        assert (await anna.health()).status == "ok"


def test_auditors_17_a_title_is_named_by_the_hash_of_all_that_names_its_bytes() -> None:
    """No hash over weak ones of pieces: each chunk's BLAKE3 is in what the title's own BLAKE3 is over."""
    parts = {"name": "film", "chunk_size": 65536, "files": layout([("a", 2 * 65536)]), "integrity": "blake3"}
    ids = set()
    for place in range(64):
        digests = bytearray(64)
        digests[place] = 1
        ids.add(Manifest(**parts, xxh3=bytes(32), blake3=bytes(digests)).title_id)  # type: ignore[arg-type]
    assert len(ids) == 64


@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33 + 1, 2**40])
def test_auditors_19_sizes_are_whole_beyond_32_bits(size: int) -> None:
    count = -(-size // 2**26)
    manifest = Manifest(
        name="film", chunk_size=2**26, files=layout([("a", size)]), xxh3=bytes(16 * count), blake3=bytes(32 * count),
        integrity="blake3",
    )  # fmt: skip
    again = Manifest.decode(manifest.encode())
    assert again.size == size
    assert sum(again.chunk_length(chunk) for chunk in range(again.chunk_count)) == size


@pytest.mark.parametrize("number", [-1, 2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize("field", [0, 1, 2])
def test_auditors_19_numbers_beyond_a_field_are_refused(field: int, number: int) -> None:
    fields = [0, 0, 0]
    assert m.decode_payload(msgspec.msgpack.encode([m.Request.__struct_config__.tag, *fields]))
    fields[field] = number
    with pytest.raises(RemoteProtocolError):
        m.decode_payload(msgspec.msgpack.encode([m.Request.__struct_config__.tag, *fields]))


def test_auditors_24_nothing_is_checked_by_an_assert_that_an_option_switches_off() -> None:
    """`python -O` leaves asserts out. The simulator and the benchmarks may tell types with them."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    }
    assert not [path for path in found if not path.startswith(("bench/", "sim/"))]
    assert m.BITMAP_BYTES_MAX + 64 <= FRAME_BYTES_MAX, "the largest Holdings must fit a frame"


def test_auditors_25_secrets_are_in_no_log() -> None:
    """What is said of a token, an origin or a tracker's URL has neither the token nor a password in it."""
    from p2pfill.origin.urls import check_origin
    from p2pfill.tracker.urls import tracker_url

    said = []
    for read in (check_origin, tracker_url):
        for url in ("http://user:hunter2@h/", "//user:hunter2@h/", "ftp://user:hunter2@h/x", "http://user:hunter2@h:x/"):
            try:
                read(url)
            except ConfigError as error:
                said.append(str(error))
    assert len(said) >= 5
    assert not any("hunter2" in text for text in said)
    with pytest.raises(ConfigError) as raised:
        identity_from_uri("spiffe://fleet.example/root/x")
    assert "names nobody" in str(raised.value)


SERVING = ("node", "tracker", "transport", "store", "engine", "trust", "protocol")


def test_auditors_26_what_nobody_may_guess_comes_from_the_system() -> None:
    """`random` spreads retries and breaks ties; each place says so. Tokens and names that matter are of `secrets`."""
    bare = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path, _ in sources()
        if path.relative_to(PACKAGE).parts[0] in SERVING
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\brandom\.(Random|random|choice|randint|randbytes)\(", line) and "# noqa: S311 (" not in line
    ]
    assert bare == []
    assert "secrets.token_bytes" in (PACKAGE / "node" / "node.py").read_text()


async def test_auditors_07_what_keys_lie_in_is_readable_by_nobody_else(fleet: Fleet) -> None:
    key = fleet.root / "tracker" / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    from p2pfill.trust.credentials import Credentials

    with pytest.raises(ConfigError, match="everybody may read"):
        Credentials(fleet.root / "tracker")
