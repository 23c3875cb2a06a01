"""docs/protocol.md says what the code does: the state diagram, the table of messages, the example bytes."""

from __future__ import annotations

from pathlib import Path

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
