import os, time
from pathlib import Path
import trio, pytest
from p2pfill.model.rates import NO_LIMITS, RateLimits, Rates
from p2pfill.engine import link as link_module
from tests.node.test_rates import caches, publish_film, fill_within, MIB
from p2pfill.store.publish import publish
_fw = fill_within
async def fill_within(node, manifest, origins, others):
    for o in others: o.want_links([*[n.info for n in ALL if n is not o]])
    return await _fw(node, manifest, origins, others)
ALL=[]

async def test_tiny_outbound(tmp_path):
    """Transmission #7005 / Dragonfly #1377: limits below a piece do not hold or fail."""
    (tmp_path/"src").mkdir(); (tmp_path/"src"/"film").write_bytes(os.urandom(4*65536))
    manifest = publish(tmp_path/"src", name="film", chunk_size=65536).manifest
    async with caches(tmp_path, "a1", "a2", "a3", "a4") as (full, *rest):
        ALL[:]=[full,*rest]
        with trio.move_on_after(60) as scope:
            await (await full.start_fill(manifest, [str(tmp_path/"src")])).wait()
            full.set_rates(RateLimits(Rates(), Rates(total=8000)))
            began=trio.current_time()
            fills=[await fill_within(n, manifest, [], [full]) for n in rest]
            seen=set()
            while not all(f.done.is_set() for f in fills):
                for f in fills: seen |= {(s.id,s.barred_reason) for s in f.fill.sources.values() if s.barred_reason}
                await trio.sleep(0.2)
        took=trio.current_time()-began
        print("TINY took",took,[ (f.state,f.report().bytes_peer,f.report().duplicate_bytes) for f in fills],seen)
        sent=sum(f.report().bytes_peer for f in fills)
        print("rate",sent/took, full.moved().outbound/took)

async def test_upload_limit_slows_no_download(tmp_path):
    """qBittorrent #8613, Tribler #5290"""
    a = publish_film(tmp_path/"one", 24*MIB); b = publish_film(tmp_path/"two", 2*MIB)
    async with caches(tmp_path, "a1", "a2") as (one, two):
        ALL[:]=[one,two]
        with trio.fail_after(60):
            await (await one.start_fill(a, [str(tmp_path/"one")])).wait()
            await (await two.start_fill(b, [str(tmp_path/"two")])).wait()
            two.set_rates(RateLimits(Rates(), Rates(total=5000)))
            fb = await fill_within(one, b, [], [two])
            await trio.sleep(1)
            began=trio.current_time()
            fa = await fill_within(two, a, [], [one])
            await fa.wait()
            print("DOWN took", trio.current_time()-began, "other", fb.report().bytes_peer, fb.done.is_set())

async def test_live_change(tmp_path):
    """libtorrent/qBittorrent PR 7974: limit changes and existing connections"""
    a = publish_film(tmp_path/"one", 40*MIB)
    async with caches(tmp_path, "a1", "a2") as (one, two):
        ALL[:]=[one,two]
        with trio.fail_after(60):
            await (await one.start_fill(a, [str(tmp_path/"one")])).wait()
            two.set_rates(RateLimits(Rates(total=4*MIB)))
            f = await fill_within(two, a, [], [one])
            await trio.sleep(2)
            for r in (2*MIB, 200_000, 3*MIB):
                two.set_rates(RateLimits(Rates(total=r)))
                await trio.sleep(0.3); x=two.moved().inbound; t=trio.current_time()
                await trio.sleep(3); print("LIVE",r,(two.moved().inbound-x)/(trio.current_time()-t))
            two.set_rates(NO_LIMITS); t=trio.current_time(); await f.wait(); print("LIVE rest", trio.current_time()-t)

async def test_busy_hammered(tmp_path, monkeypatch):
    """Dragonfly-archived #1451: peers told to wait; how often is a busy one asked"""
    a = publish_film(tmp_path/"one", 64*MIB)
    refused=[]
    real = link_module.Link
    async with caches(tmp_path, "a1", "a2", "a3") as (one, *rest):
        ALL[:]=[one,*rest]
        with trio.fail_after(60):
            await (await one.start_fill(a, [str(tmp_path/"one")])).wait()
            ask = one.engine.is_busy
            monkeypatch.setattr(type(one.engine), "is_busy", lambda self, l: (refused.append(trio.current_time()) or True) if self is one.engine else False)
            fills=[await fill_within(n, a, [], [one]) for n in rest]
            began=trio.current_time()
            await trio.sleep(16)
            print("BUSY asks in 20 s of 2 nodes:", len(refused), [sum(began+k<=t<began+k+2 for t in refused) for k in range(0,20,2)])
            monkeypatch.undo()
            t=trio.current_time()
            for f in fills: await f.wait()
            print("then live after", trio.current_time()-t)
