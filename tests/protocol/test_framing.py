"""Preamble and frames: versions, lengths, and pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.errors import LocalProtocolError, RemoteProtocolError
from p2pfill.model.limits import FRAME_BYTES_MAX
from p2pfill.protocol.framing import Deframer, VersionRange, encode_frame, encode_preamble, negotiate


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.data())
def test_any_pieces_give_the_same_frames(payloads: list[bytes], data: st.DataObject) -> None:
    stream = encode_preamble(VersionRange(2, 7)) + b"".join(map(encode_frame, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    deframer = Deframer()
    frames: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        deframer.feed(stream[start:end])
        if deframer.poll_preamble() is not None:
            frames += deframer.poll_frames()
    assert deframer.versions == (2, 7)
    assert frames == payloads
    assert deframer.pending_bytes == 0


def test_lengths() -> None:
    for length in (0, FRAME_BYTES_MAX + 1):
        with pytest.raises(LocalProtocolError):
            encode_frame(bytes(length))
        deframer = Deframer()
        deframer.feed(encode_preamble(VersionRange()) + length.to_bytes(4, "big"))
        deframer.poll_preamble()
        with pytest.raises(RemoteProtocolError, match="are allowed"):
            deframer.poll_frames()


@pytest.mark.parametrize("junk", [b"G", b"P2FD\x01\x01", b"P2FC\x00\x01", b"P2FC\x03\x02", b"\x16\x03\x01"])
def test_bad_preamble(junk: bytes) -> None:
    deframer = Deframer()
    deframer.feed(junk)
    with pytest.raises(RemoteProtocolError):
        deframer.poll_preamble()


def test_negotiation() -> None:
    assert negotiate(VersionRange(1, 3), VersionRange(2, 9)) == 3
    assert negotiate(VersionRange(1, 3), VersionRange(1, 1)) == 1
    with pytest.raises(RemoteProtocolError, match=r"local speaks 1 to 3, remote 4 to 9; upgrade the local node"):
        negotiate(VersionRange(1, 3), VersionRange(4, 9))
    with pytest.raises(RemoteProtocolError, match="upgrade the remote node"):
        negotiate(VersionRange(4, 9), VersionRange(1, 3))
    for wrong in (VersionRange(0, 1), VersionRange(3, 2), VersionRange(1, 256)):
        with pytest.raises(LocalProtocolError):
            encode_preamble(wrong)
