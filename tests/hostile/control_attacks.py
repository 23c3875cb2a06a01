"""Attacks over a control link: floods within the rules, flapping, claims, slander, and messages that break a rule."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

import trio
import trio.lowlevel

from p2pfill.model.bitmap import Bitmap
from p2pfill.protocol import messages as m
from tests.hostile.attack import MIB, Scene, attack
from tests.hostile.data_attacks import END_S, wait_end
from tests.hostile.peer import Peer, PeerGone, answer, frame

BATCH = 100

AHEAD = 4
"""Segments of a flood that the node may be behind: it never waits for the attacker, and has soon done with it."""

PAIRS = 1200
"""So many short messages and their opposites fill what a node reads at a time (64 KiB)."""

TOKENS = 4500
"""More than a node has for everybody (4096)."""

NEVER_READS_S = 2.5
"""Long enough for several times as much as may wait for a remote."""

CLAIMS_S = 4.0
"""A chunk of 64 KiB may be on its way for a second (`swarm.claims`), and for twice that with whoever claims it next;
the rest is the policy's wait."""

SERVE_S = 0.02
"""Between two chunks of a source that takes its time, so that a fill goes on while it is attacked."""


async def flood(scene: Scene, peer: Peer, *messages: m.Message) -> None:
    """Send the same messages again and again, as fast as the node takes them, until all is over."""
    data = b"".join(map(frame, messages))
    scene.strike()
    while scene.on:
        await peer.send_and_wait(data, AHEAD)


async def serve_slowly(scene: Scene, peer: Peer) -> None:
    """Answer rightly, and with time between the chunks; ends with the link."""
    stream = await peer.next_stream()
    while True:
        request = await peer.next_request()
        await trio.sleep(SERVE_S)
        await stream.send(answer(request, scene.title.chunk(request.chunk)))


# ---- what ends together


@attack(needs="fill")
async def interest_and_unwant(scene: Scene) -> None:
    """Shows Interest in a title that is being filled and unsubscribes from it in one segment, link after link."""
    count = scene.title.manifest.chunk_count
    everything = Bitmap.full(count).to_bytes()

    async def strike(number: int) -> None:
        while scene.on:
            async with Peer(f"{scene.name}-{number}").linked(scene.address) as peer:
                for _ in range(20):
                    handle = await peer.want(scene.title.id)
                    await peer.send(m.Interest(handle, count, everything), m.Unsubscribe(handle))
                    scene.strike()

    async def strike_on(number: int) -> None:
        while scene.on:
            try:
                await strike(number)
            except* (PeerGone, OSError):
                await trio.sleep(0.005)

    async with scene.source() as peer, trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(strike_on, number)
        await serve_slowly(scene, peer)


@attack(needs="fill")
async def want_flaps(scene: Scene) -> None:
    """Subscribes to a title that is being filled, unsubscribes and subscribes again, without end."""
    async with scene.source() as peer, trio.open_nursery() as nursery:
        nursery.start_soon(serve_slowly, scene, peer)
        scene.strike()
        while scene.on:
            handles = [next(peer.next_handle) for _ in range(PAIRS)]
            pairs = (frame(m.Subscribe(handle, scene.title.id)) + frame(m.Unsubscribe(handle)) for handle in handles)
            await peer.send_and_wait(b"".join(pairs))
        nursery.cancel_scope.cancel()


@attack(growth_max_bytes=16 * MIB)
async def unwant_with_uploads(scene: Scene) -> None:
    """Asks for a title as often as is allowed, reads nothing, unsubscribes and asks anew."""
    async with scene.link() as peer:
        await peer.open_stream()
        rounds = 0
        while scene.on or rounds < 30:
            handle = await peer.want(scene.live.id)
            requests = [m.Request(handle, next(peer.next_request_id), number % 24) for number in range(1000)]
            await peer.send(*requests, m.Unsubscribe(handle))
            rounds += 1
            if rounds > 5:
                scene.strike()


@attack()
async def request_and_cancel(scene: Scene) -> None:
    """Requests a chunk and cancels it, without end, with a data stream open that it does not read."""
    async with scene.link() as peer:
        await peer.open_stream()
        handle = await peer.want(scene.live.id)
        scene.strike()
        while scene.on:
            numbers = [next(peer.next_request_id) for _ in range(PAIRS)]
            pairs = (frame(m.Request(handle, n, n % 24)) + frame(m.Cancel(n)) for n in numbers)
            await peer.send_and_wait(b"".join(pairs), AHEAD)


@attack()
async def goodbye_and_more(scene: Scene) -> None:
    """Says Goodbye and goes on talking, in the same segment and after it."""
    for number in range(8):
        try:
            async with Peer(f"{scene.name}-{number}").linked(scene.address) as peer:
                await peer.want(scene.live.id)
                more = (m.Subscribe(9, scene.title.id), m.StreamOpen(9), m.Request(0, 9, 0), m.Ping(9))
                scene.strike()
                await peer.send(m.Goodbye(0), *more)
                for _ in range(20):
                    await peer.send(*more)
                    await trio.lowlevel.checkpoint()
        except* PeerGone:
            pass


# ---- floods


@attack()
async def ping_flood(scene: Scene) -> None:
    """Pings without end, as many at a time as may be unanswered."""
    async with scene.link() as peer:
        await flood(scene, peer, *(m.Ping(nonce) for nonce in range(1 << 20, (1 << 20) + 15)))


@attack()
async def pings_without_waiting(scene: Scene) -> None:
    """Sends more Pings in one segment than may be unanswered: each is answered before the next is looked at."""
    async with scene.link() as peer:
        scene.strike()
        await peer.send(*(m.Ping(nonce) for nonce in range(BATCH)))
        await trio.sleep(END_S / 4)


@attack(named="{name} .*one too many", ends_link=True)
async def want_flood(scene: Scene) -> None:
    """Subscribes to more titles than are allowed."""
    async with scene.link() as peer:
        scene.strike()
        for _ in range(1100):
            await peer.send(m.Subscribe(next(peer.next_handle), os.urandom(32)))
        await wait_end(peer, END_S)


@attack(needs="fill")
async def want_of_one_title_under_many_handles(scene: Scene) -> None:
    """Subscribes to one title as often as handles are allowed while it is being filled: all news comes so often."""
    async with scene.source() as peer:
        await peer.send(*(m.Subscribe(next(peer.next_handle), scene.title.id) for _ in range(1000)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_slowly, scene, peer)
            scene.strike()
            with trio.move_on_after(END_S):
                await scene.title_done.wait()
            nursery.cancel_scope.cancel()


@attack(named="{name} .*one too many", ends_link=True)
async def request_flood(scene: Scene) -> None:
    """Requests more than is allowed, without a data stream."""
    async with scene.link() as peer:
        handle = await peer.want(scene.live.id)
        scene.strike()
        for _ in range(30):
            await peer.send(*(m.Request(handle, next(peer.next_request_id), 0) for _ in range(BATCH)))
        await wait_end(peer, END_S)


@attack()
async def token_flood(scene: Scene) -> None:
    """Asks for data streams without end and opens none: more tokens than a node has for everybody."""
    async with scene.link() as peer:
        answered = 0

        def count(said: m.Message) -> None:
            nonlocal answered
            answered += isinstance(said, (m.StreamGrant, m.StreamRefuse))

        peer.hook = count
        for sent in range(32, 1_000_000, 32):
            await peer.send(*(m.StreamOpen(next(peer.next_stream_id)) for _ in range(32)))
            await peer.wait_for(lambda sent=sent: answered >= sent)  # type: ignore[misc]
            while peer.tokens.statistics().current_buffer_used:
                peer.tokens.receive_nowait()
            if sent > TOKENS:
                scene.strike()
                await trio.sleep(0.01)
            if not scene.on:
                return


@attack(needs="many", origin=False)
async def holdings_that_flap(scene: Scene) -> None:
    """Holds everything, then nothing, then everything of a title of thousands of chunks, without end, on two links."""
    count, everything = scene.title.all_of_it()

    async def flap(peer: Peer) -> None:
        await peer.wait_for(lambda: scene.title.id in peer.handles)
        handle, nothing = peer.handles[scene.title.id], bytes(len(everything))
        full, empty = m.Holdings(handle, True, count, everything), m.Holdings(handle, True, count, nothing)
        await flood(scene, peer, *[empty, full] * 8)

    other = Peer(f"{scene.name}-2")
    other.holds[scene.title.id] = count, everything
    async with other.linked(scene.address), scene.source() as peer, trio.open_nursery() as nursery:
        nursery.start_soon(flap, other)
        nursery.start_soon(flap, peer)


@attack(needs="many", origin=False)
async def have_flood(scene: Scene) -> None:
    """Says that it has the same four thousand chunks, without end, on five links."""
    count = scene.title.manifest.chunk_count
    said = tuple(range(m.CHUNKS_PER_MESSAGE_MAX))
    peers = [Peer(f"{scene.name}-{number}") for number in range(5)]

    async def tell(peer: Peer) -> None:
        await peer.wait_for(lambda: scene.title.id in peer.handles)
        await flood(scene, peer, *[m.Have(peer.handles[scene.title.id], said)] * 5)

    async with AsyncExitStack() as stack:
        for peer in peers:
            peer.holds[scene.title.id] = (count, bytes((count + 7) // 8))
            await stack.enter_async_context(peer.linked(scene.address))
        await scene.fill(*peers)
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(tell, peer)


@attack(needs="many", origin=False)
async def interest_flood(scene: Scene) -> None:
    """Shows Interest in everything and nothing by turns, on six links; each is answered with all holdings."""
    count, everything = scene.title.all_of_it()

    async def show(number: int) -> None:
        async with Peer(f"{scene.name}-{number}").linked(scene.address) as peer:
            handle = await peer.want(scene.title.id)
            nothing = bytes(len(everything))
            await flood(scene, peer, *[m.Interest(handle, count, some) for some in (everything, nothing)] * 20)

    async with scene.source(), trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(show, number)


@attack(needs="many", origin=False)
async def never_reads(scene: Scene) -> None:
    """Asks for holdings of thousands of chunks and never reads an answer: what waits for it must not pile up."""
    count, everything = scene.title.all_of_it()
    async with scene.source() as peer:
        handle = await peer.want(scene.title.id)
        peer.reads = False
        data = frame(m.Interest(handle, count, everything)) * 20
        with trio.move_on_after(NEVER_READS_S):
            while True:
                await peer.send_raw(data)
                # So slowly that nothing else is late: this is about what piles up.
                await trio.sleep(0.002)
                scene.strike()


@attack(queued_max=6 * 2048)
async def slots_hogged(scene: Scene) -> None:
    """Opens data streams on many links, asks for much and reads nothing, so that all upload slots are taken."""
    async with trio.open_nursery() as nursery:
        ready: list[int] = []

        async def hog(number: int) -> None:
            async with Peer(f"{scene.name}-{number}").linked(scene.address) as peer:
                handle = await peer.want(scene.live.id)
                for _ in range(4):
                    await peer.open_stream()
                await peer.send(*(m.Request(handle, next(peer.next_request_id), n % 24) for n in range(1000)))
                ready.append(number)
                await scene.over.wait()

        for number in range(6):
            nursery.start_soon(hog, number)
        while len(ready) < 6:
            await trio.sleep(0.01)
        scene.strike()


# ---- lies


async def claim_without_end(scene: Scene, peer: Peer) -> None:
    """Claim all chunks again and again."""
    count = scene.title.manifest.chunk_count
    peer.holds[scene.title.id] = (count, bytes((count + 7) // 8))
    async with scene.source(peer):
        await peer.wait_for(lambda: scene.title.id in peer.handles)
        claim = m.Fetching(peer.handles[scene.title.id], tuple(range(count)))
        scene.strike()
        with trio.move_on_after(CLAIMS_S):
            while not scene.title_done.is_set():
                await peer.send(claim)
                await trio.sleep(0.05)


@attack(needs="fill", named="{name} ", completes_s=CLAIMS_S)
async def claims_without_end(scene: Scene) -> None:
    """Says again and again that it is fetching all chunks, as a member of the roster, and fetches nothing."""
    await claim_without_end(scene, Peer(scene.name))


@attack(needs="fill", named="{name} ", completes_s=CLAIMS_S)
async def claims_from_another_isp(scene: Scene) -> None:
    """Says again and again that it is fetching all chunks, as a member of another ISP of the region."""
    await claim_without_end(scene, Peer(scene.name, isp="isp-b"))


@attack(needs="fill", named="{name} ", completes_s=CLAIMS_S)
async def claims_from_another_region(scene: Scene) -> None:
    """Says again and again that it is fetching all chunks, as a member of another region."""
    await claim_without_end(scene, Peer(scene.name, isp="isp-c", region="far"))


async def report_slow(scene: Scene, *bystanders: Peer) -> None:
    """Hold everything, serve rightly, and say all the time that the honest cache is slow."""
    peer = Peer(scene.name)
    peer.holds[scene.title.id] = scene.title.all_of_it()
    scene.honest_helps = True
    async with peer.linked(scene.address), trio.open_nursery() as nursery:
        await scene.fill(peer, *bystanders)
        for each in (*bystanders, peer):
            await each.wait_for(lambda each=each: scene.title.id in each.handles)  # type: ignore[misc]
            await each.send_and_wait(b"")
        said = m.ReportSlow(peer.handles[scene.title.id], scene.honest)
        nursery.start_soon(serve_slowly, scene, peer)
        scene.strike()
        for _ in range(40):
            await peer.send(said)
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def slander_among(scene: Scene, bystanders_speak: bool) -> None:
    """Report the honest cache as slow, as one of four of an ISP."""
    count = scene.title.manifest.chunk_count
    bystanders = [Peer(f"zz-bystander-{number}") for number in range(2)]
    async with AsyncExitStack() as stack:
        for peer in bystanders:
            peer.holds[scene.title.id] = (count, bytes((count + 7) // 8))
            peer.answers_wants = bystanders_speak
            await stack.enter_async_context(peer.linked(scene.address))
        await report_slow(scene, *bystanders)


@attack(needs="fill")
async def slander(scene: Scene) -> None:
    """Says all the time that the honest cache is slow, as one of four of an ISP."""
    await slander_among(scene, bystanders_speak=True)


@attack(needs="fill")
async def slander_before_others_speak(scene: Scene) -> None:
    """Says that the honest cache is slow, as one of four of an ISP of whom two have not said what they hold."""
    await slander_among(scene, bystanders_speak=False)


@attack(needs="fill", may_accuse=True)
async def slander_of_the_only_other(scene: Scene) -> None:
    """Says all the time that the honest cache is slow, as the only other one of its ISP: half of all votes."""
    await report_slow(scene)


@attack(needs="fill", named="{name} .*chunks", ends_link=True)
async def holdings_of_another_count(scene: Scene) -> None:
    """Holds a title of the same id with one chunk more."""
    peer = Peer(scene.name)
    peer.holds[scene.title.id] = (scene.title.manifest.chunk_count + 1, b"\xff\xff\xff\x01")
    async with scene.source(peer):
        scene.strike()
        await wait_end(peer, END_S)


@attack(needs="fill", named="{name} .*chunk count", ends_link=True)
async def holdings_that_change_count(scene: Scene) -> None:
    """Holds a title, and then one of the same id with fewer chunks."""
    async with scene.source() as peer:
        await peer.wait_for(lambda: scene.title.id in peer.handles)
        scene.strike()
        await peer.send(m.Holdings(peer.handles[scene.title.id], True, 8, b"\xff"))
        await wait_end(peer, END_S)
