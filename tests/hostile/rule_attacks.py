"""Messages, frames and Hellos that break a rule, each over a link of its own, which the node must end."""

from __future__ import annotations

import os

import trio

from p2pfill.protocol import messages as m
from p2pfill.protocol.framing import OUR_VERSIONS, encode_frame, encode_preamble
from tests.hostile.attack import MIB, Scene, attack
from tests.hostile.data_attacks import END_S, wait_end
from tests.hostile.peer import Peer, PeerGone, frame


async def break_each(scene: Scene, faults: dict[str, bytes], before: bytes = b"") -> None:
    """Send each of `faults` over a link of its own; complain of each that the node takes."""
    for number, (what, data) in enumerate(faults.items()):
        ended = False
        try:
            async with Peer(f"{scene.name}-{number}").linked(scene.address) as peer:
                await peer.send_raw(before)
                await peer.send_raw(data)
                scene.strike()
                with trio.move_on_after(1.0):
                    await peer.ended.wait()
                ended = peer.ended.is_set()
        except* PeerGone:
            ended = True
        if not ended:
            scene.complaints.append(f"{what}: the link stays")


@attack(named="{name}-0 failed: .*\\bPong|{name}-0 failed: .*ping", both=False)
async def messages_out_of_place(scene: Scene) -> None:
    """Sends, each over a link of its own, messages about what was never opened, and ids that do not grow."""
    token = os.urandom(m.TOKEN_BYTES)
    faults = {
        "Pong": m.Pong(5),
        "Cancel": m.Cancel(99),
        "Reject": m.Reject(99, "busy"),
        "Holdings": m.Holdings(99, False),
        "Have": m.Have(99, (1,)),
        "Fetching": m.Fetching(99, (1,)),
        "ReportSlow": m.ReportSlow(99, scene.honest),
        "StreamGrant": m.StreamGrant(99, token),
        "StreamRefuse": m.StreamRefuse(99),
        "Unsubscribe": m.Unsubscribe(99),
        "Interest": m.Interest(99, 8, b"\xff"),
        "Request": m.Request(99, 0, 0),
        "second Hello": Peer(scene.name).hello(),
    }
    pairs = {
        "handle that shrinks": (m.Subscribe(5, token), m.Subscribe(3, token)),
        "stream id that repeats": (m.StreamOpen(5), m.StreamOpen(5)),
        "request before holdings": (m.Subscribe(5, token), m.Request(5, 0, 0)),
    }
    raw = {what: frame(said) for what, said in faults.items()}
    raw |= {what: b"".join(map(frame, said)) for what, said in pairs.items()}
    await break_each(scene, raw)


@attack(named="{name}-0 failed: .*bytes")
async def frames_that_are_none(scene: Scene) -> None:
    """Sends frames of nested arrays, too long and empty ones, maps, and messages of the wrong types."""
    await break_each(
        scene,
        {
            "nested arrays": encode_frame(b"\x92\x04" + b"\x91" * 30_000),
            "wide nested arrays": encode_frame(b"\x93\x04\x00" + b"\xdc\x0f\xff" + b"\x91" * 30_000),
            "a megabyte of arrays": encode_frame(b"\x92\x03" + b"\x91" * (MIB - 2)),
            "four gigabytes": b"\xff\xff\xff\xff" + bytes(1000),
            "one byte too long": (MIB + 1).to_bytes(4, "big") + bytes(1000),
            "no bytes": bytes(4),
            "a map": encode_frame(b"\x81\x01\x02"),
            "an extension": encode_frame(b"\xd4\x01\x02"),
            "an array of 4 G": encode_frame(b"\x92\x04\xdd\xff\xff\xff\xff"),
            "an unknown tag": encode_frame(b"\x92\x7f\x01"),
            "text for a number": encode_frame(b"\x92\x0e\xa1a"),
            "too few fields": encode_frame(b"\x91\x07"),
            "too many fields": encode_frame(b"\x93\x0e\x01\x02"),
            "two values": encode_frame(b"\x92\x0e\x01\x92\x0e\x02"),
            "a negative chunk": encode_frame(b"\x94\x07\x00\x00\xff"),
            "a bitmap without end": encode_frame(b"\x95\x03\x00\xc3\x08\xc6\xff\xff\xff\xff"),
        },
    )


@attack(named="link with {name} failed: .*Pong")
async def fault_beside_the_hello(scene: Scene) -> None:
    """Breaks a rule in the segment in which it introduces itself."""
    peer = Peer(scene.name)
    async with peer.linked(scene.address, peer.opening() + frame(m.Pong(5))):
        scene.strike()
        await wait_end(peer, END_S)


@attack(named="not a known message|not a valid|impossible|itself")
async def absurd_hellos(scene: Scene) -> None:
    """Introduces itself with absurd weights, names, hosts and versions, and as the node itself."""

    def hello(node_id: bytes = b"\xa1z", weight: bytes = b"\xcb" + bytes(8), isp: bytes = b"\xa1i") -> bytes:
        payload = b"\x98\x01" + node_id + isp + b"\xa1r\xa0\xa0\x00" + weight
        return encode_preamble(OUR_VERSIONS) + encode_frame(payload)

    one = b"\xcb\x3f\xf0" + bytes(6)
    absurd = {
        "weight 0": hello(),
        "weight -1": hello(weight=b"\xcb\xbf\xf0" + bytes(6)),
        "weight inf": hello(weight=b"\xcb\x7f\xf0" + bytes(6)),
        "weight nan": hello(weight=b"\xcb\x7f\xf8" + bytes(6)),
        "weight 1e300": hello(weight=b"\xcb\x7e\x37\xe4\x3c\x88\x00\x75\x9c"),
        "no name": hello(b"\xa0", one),
        "a path": hello(b"\xa5../..", one),
        "a name of 300": hello(b"\xda\x01\x2c" + b"a" * 300, one),
        "a line break": hello(b"\xa2a\n", one),
        "control characters": hello(isp=b"\xa2\x1b[", weight=one),
        "no UTF-8": hello(isp=b"\xa2\xff\xfe", weight=one),
        "the node's own name": hello(b"\xa2n1", one),
        "versions 0 to 0": b"P2FC\x00\x00" + hello(weight=one)[6:],
        "versions 9 to 9": b"P2FC\x09\x09" + hello(weight=one)[6:],
        "versions 2 to 1": b"P2FC\x02\x01" + hello(weight=one)[6:],
        "another message first": encode_preamble(OUR_VERSIONS) + frame(m.Ping(1)),
    }
    for what, data in absurd.items():
        scene.strike()
        stream = await trio.open_tcp_stream(*scene.address)
        async with stream:
            await stream.send_all(data)
            ended = False
            with trio.move_on_after(1.0):
                try:
                    while await stream.receive_some(4096):
                        pass
                except trio.BrokenResourceError:
                    pass
                ended = True
            if not ended:
                scene.complaints.append(f"{what}: the link stays")
