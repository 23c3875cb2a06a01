"""Attacks of many connections, or in somebody else's name."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from contextlib import suppress

import trio
import trio.lowlevel

from p2pfill.protocol import messages as m
from p2pfill.protocol.data import encode_preface
from tests.hostile.attack import MIB, Scene, attack
from tests.hostile.peer import GONE, Peer, PeerGone, answer, frame

CROWD = 2000
CONNECT_S = 5.0
LINKS = 600
"""More than a node keeps (512)."""

TAKEN_CHUNKS = 64
"""What the stranger says that the titles of the one whose name it takes have."""


class Crowd:
    """Connections that are all dropped at the end of the block. Plain sockets: making them must cost little."""

    def __init__(self, scene: Scene) -> None:
        self._address = scene.address
        self.sockets: list[socket.socket] = []

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        while self.sockets:
            self.drop()

    async def connect(self, first: bytes) -> None:
        """Open a connection that begins with `first`, unless the node does not want it."""
        sock = socket.socket()
        self.sockets.append(sock)
        sock.settimeout(CONNECT_S)
        with suppress(OSError):
            sock.connect(self._address)
            sock.sendall(first)
        await trio.lowlevel.checkpoint()

    def say(self, what: bytes) -> None:
        """Send something on each of them."""
        for sock in self.sockets:
            with suppress(OSError):
                sock.sendall(what)

    def drop(self) -> None:
        """Reset the oldest connection."""
        sock = self.sockets.pop(0)
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


@attack(growth_max_bytes=64 * MIB)
async def takeover(scene: Scene) -> None:
    """Says Hello in the name of an honest source that is linked, again and again, and sends garbage as its bytes."""

    async def strike() -> None:
        while scene.on:
            peer = Peer(scene.honest)

            def claim(said: m.Message) -> m.Message | None:
                if isinstance(said, m.Subscribe):
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
    opening = Peer(scene.honest, port=1).opening()
    with Crowd(scene) as crowd:
        while scene.on:
            if len(crowd.sockets) < 300:
                await crowd.connect(opening)
            if len(crowd.sockets) == 5:
                scene.strike()
            await trio.sleep(0.005)


@attack(named="connection was refused: .*token")
async def tokens_guessed(scene: Scene) -> None:
    """Opens data streams with tokens that nobody has issued."""
    with Crowd(scene) as crowd:
        scene.strike()
        while scene.on:
            await crowd.connect(encode_preface(os.urandom(m.TOKEN_BYTES)))
            await trio.sleep(0.001)


@attack(named="connection was refused: .*token")
async def token_used_twice(scene: Scene) -> None:
    """Opens a second data stream with a token that was used."""
    async with scene.link() as peer:
        await peer.send(m.StreamOpen(next(peer.next_stream_id)))
        token = await peer.tokens.receive()
        await peer.connect(encode_preface(token))
        second = await peer.connect(encode_preface(token))
        scene.strike()
        ended = False
        with trio.move_on_after(2), suppress(*GONE):
            ended = not await second.receive_some(1)
        if not ended:
            scene.complaints.append("the second stream stays open")


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
    begun = [b"", b"P", b"P2FC", b"P2FC\x02\x02", b"P2FC\x02\x02\0\0\0\x40", b"P2FD", b"P2FD\x02\0\0\0", b"GET / HTTP"]
    with Crowd(scene) as strangers:
        for number in range(CROWD):
            await strangers.connect(begun[number % len(begun)])
            if number == 500:
                scene.strike()
        await scene.over.wait()


@attack()
async def connections_that_come_and_go(scene: Scene) -> None:
    """Connects and resets the connection, before, in and after its Hello, without end."""
    opening = Peer(scene.name, port=1).opening()
    with Crowd(scene) as strangers:
        scene.strike()
        for number in itertools.count():
            if not scene.on:
                return
            await strangers.connect(opening[: (0, 3, 20, len(opening))[number % 4]])
            strangers.drop()
            await trio.sleep(0.002)


@attack()
async def slow_loris(scene: Scene) -> None:
    """Sends preamble and Hello one byte at a time, on two hundred connections."""
    opening = Peer(scene.name, port=1).opening()
    with Crowd(scene) as strangers:
        for _ in range(200):
            await strangers.connect(b"")
        scene.strike()
        for place in range(len(opening) - 1):
            strangers.say(opening[place : place + 1])
            if not scene.on:
                return
            await trio.sleep(0.05)
        await scene.over.wait()


@attack(growth_max_bytes=64 * MIB, late_max_s=1.0)
async def half_open_links(scene: Scene) -> None:
    """Links under hundreds of names, more than a node keeps, and neither says nor reads anything more."""
    with Crowd(scene) as strangers:
        for number in range(LINKS):
            await strangers.connect(Peer(f"{scene.name}-{number}", port=1).opening())
            if number == 100:
                scene.strike()
        await scene.over.wait()


@attack()
async def links_that_replace_each_other(scene: Scene) -> None:
    """Links again and again under one name, its own, each time with the last link still open."""
    hello = Peer(scene.name, port=1)
    with Crowd(scene) as strangers:
        scene.strike()
        while scene.on:
            await strangers.connect(hello.opening() + frame(m.Subscribe(0, scene.live.id)))
            if len(strangers.sockets) > 100:
                strangers.drop()
            await trio.sleep(0.01)
