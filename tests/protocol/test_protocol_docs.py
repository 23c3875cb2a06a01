"""docs/protocol.md says what the code does: the state diagram, the table of messages, the example bytes."""

from __future__ import annotations

import re
from pathlib import Path

import xxhash
from blake3 import blake3

from p2pfill.model.manifest import Manifest, layout
from p2pfill.protocol import messages as m
from p2pfill.protocol.framing import OUR_VERSIONS, encode_frame, encode_preamble
from p2pfill.protocol.link import state_diagram

DOCS = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_diagram_in_the_docs_is_current() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert f"```mermaid\n{state_diagram()}\n```" in text


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
    block = text[text.index("```\n97\n") :].removeprefix("```\n").split("```")[0]
    lines = [line.split("   ")[0] for line in block.replace("     8a30", "8a30").splitlines()]
    stream = b"hello" + bytes(70_000)
    chunks = [stream[:65536], stream[65536:]]
    xxh3, b3 = (b"".join(map(digest, chunks)) for digest in (_xxh3, _blake3))
    manifest = Manifest("demo", 65536, layout([("b/c.bin", 70_000), ("a.txt", 5)]), xxh3, b3)
    assert bytes.fromhex("".join(lines[:-1])) == manifest.encode()
    assert lines[-1] == f"title id {manifest.title_id.hex()}"


def _xxh3(data: bytes) -> bytes:
    return xxhash.xxh3_128(data).digest()


def _blake3(data: bytes) -> bytes:
    return blake3(data).digest()
