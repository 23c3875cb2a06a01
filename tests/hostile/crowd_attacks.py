"""Attacks of many connections, or in somebody else's name."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress

import trio

from p2pfill.protocol import messages as m
from p2pfill.protocol.data import encode_preface
from tests.hostile.attack import MIB, Scene, attack
from tests.hostile.peer import GONE, Peer, PeerGone, answer, frame

CROWD = 3000
LINKS = 600
"""More than a node keeps (512)."""

TAKEN_CHUNKS = 64
"""What the stranger says that the titles of the one whose name it takes have."""


async def connect(scene: Scene, first: bytes) -> trio.SocketStream | None:
    """Open a connection that begins with `first`; None where the node does not want it."""
    try:
        stream = await trio.open_tcp_stream(*scene.address)
        await stream.send_all(first)
    except GONE:
        return None
    return stream


async def close_all(streams: list[trio.SocketStream]) -> None:
    """Drop connections."""
    for stream in streams:
        await trio.aclose_forcefully(stream)


@attack(growth_max_bytes=64 * MIB)
async def takeover(scene: Scene) -> None:
    """Says Hello in the name of an honest source that is linked, again and again, and sends garbage as its bytes."""

    async def strike() -> None:
        while scene.on:
            peer = Peer(scene.honest)

            def claim(said: m.Message) -> m.Message | None:
                if isinstance(said, m.Want):
                    return m.Holdings(said.handle, True, TAKEN_CHUNKS, b"\xff" * (TAKEN_CHUNKS // 8))
                return None

            peer.answers_wants, peer.hook = False, claim
            with suppress(OSError):
                try:
                    async with peer.linked(scene.address):
                        with trio.move_on_after(0.1):
                            stream = await peer.next_stream()
                            while scene.on:
                                request = await peer.next_request()
                                await stream.send(answer(request, os.urandom(64 * 1024)))
                except* (PeerGone, OSError):
                    await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(strike)
        await trio.sleep(0.1)
        scene.strike()


@attack()
async def takeover_in_silence(scene: Scene) -> None:
    """Says Hello in the name of an honest source that is linked, many times, and nothing more."""
    streams: list[trio.SocketStream] = []
    opening = Peer(scene.honest, port=1).opening()
    while scene.on and len(streams) < 300:
        if (stream := await connect(scene, opening)) is not None:
            streams.append(stream)
        if len(streams) == 5:
            scene.strike()
        await trio.sleep(0.005)
    await scene.over.wait()
    await close_all(streams)


@attack(named="connection was refused: .*token")
async def tokens_guessed(scene: Scene) -> None:
    """Opens data streams with tokens that nobody has issued."""
    scene.strike()
    while scene.on:
        streams = [await connect(scene, encode_preface(os.urandom(16))) for _ in range(20)]
        await close_all([stream for stream in streams if stream is not None])


@attack(named="connection was refused: .*token")
async def token_used_twice(scene: Scene) -> None:
    """Opens a second data stream with a token that was used."""
    async with scene.link() as peer:
        await peer.send(m.StreamOpen(next(peer.next_stream_id)))
        token = await peer.tokens.receive()
        first = await peer.connect(encode_preface(token))
        second = await peer.connect(encode_preface(token))
        scene.strike()
        ended = False
        with trio.move_on_after(2), suppress(*GONE):
            ended = not await second.receive_some(1)
        if not ended:
            scene.complaints.append("the second stream stays open")
        await close_all([first, second])


@attack(named="upload broke off")
async def says_more_on_a_data_stream(scene: Scene) -> None:
    """Goes on writing on the data stream on which it is to receive."""
    async with scene.link() as peer:
        stream = await peer.open_stream()
        scene.strike()
        with suppress(*GONE):
            for _ in range(200):
                await stream.send_all(b"x" * 1024)
                await trio.sleep(0.005)


# Who comes meanwhile stands behind all of them in the kernel's queue.
@attack(growth_max_bytes=64 * MIB, fetch_max_s=8.0)
async def crowd(scene: Scene) -> None:
    """Opens thousands of connections that say nothing, or the beginning of something."""
    begun = [b"", b"P", b"P2FC", b"P2FC\x01\x01", b"P2FC\x01\x01\0\0\0\x40", b"P2FD", b"P2FD\x01\0\0\0", b"GET / HTTP"]
    streams: list[trio.SocketStream] = []
    for number in range(CROWD):
        if (stream := await connect(scene, begun[number % len(begun)])) is not None:
            streams.append(stream)
        if number == 500:
            scene.strike()
    await close_all(streams)


@attack()
async def connections_that_come_and_go(scene: Scene) -> None:
    """Connects and resets the connection, before, in and after its Hello, without end."""
    opening = Peer(scene.name).opening()
    scene.strike()
    for number in itertools.count():
        if not scene.on:
            return
        if (stream := await connect(scene, opening[: (0, 3, 20, len(opening))[number % 4]])) is not None:
            await trio.aclose_forcefully(stream)


@attack()
async def slow_loris(scene: Scene) -> None:
    """Sends preamble and Hello one byte at a time, on two hundred connections."""
    opening = Peer(scene.name).opening()
    streams = [stream for _ in range(200) if (stream := await connect(scene, b"")) is not None]
    scene.strike()
    for place in range(len(opening) - 1):
        if not scene.on:
            break
        for stream in streams:
            with suppress(*GONE):
                await stream.send_all(opening[place : place + 1])
        await trio.sleep(0.02)
    await scene.over.wait()
    await close_all(streams)


@attack(growth_max_bytes=64 * MIB, late_max_s=1.0)
async def half_open_links(scene: Scene) -> None:
    """Links under hundreds of names, more than a node keeps, and neither says nor reads anything more."""
    streams: list[trio.SocketStream] = []
    for number in range(LINKS):
        if (stream := await connect(scene, Peer(f"{scene.name}-{number}", port=1).opening())) is not None:
            streams.append(stream)
        if number == 100:
            scene.strike()
    await scene.over.wait()
    await close_all(streams)


@attack()
async def links_that_replace_each_other(scene: Scene) -> None:
    """Links again and again under one name, its own, each time with the last link still open."""
    streams: list[trio.SocketStream] = []
    hello = Peer(scene.name, port=1)
    scene.strike()
    while scene.on:
        if (stream := await connect(scene, hello.opening() + frame(m.Want(0, scene.live.id)))) is not None:
            streams.append(stream)
        if len(streams) > 100:
            await trio.aclose_forcefully(streams.pop(0))
        await trio.sleep(0.01)
    await close_all(streams)
