"""Whatever number or text a heartbeat carries: it is refused, or the status of the fleet stays readable and short."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from tracker.services import publish, service_on

from p2pfill.errors import StoreError
from p2pfill.model.limits import REASON_CHARS_MAX
from p2pfill.model.reports import NodeReport, SourceReport, TitleReport
from p2pfill.tracker import catalogue as catalogue_module
from p2pfill.tracker import records, views
from p2pfill.tracker import service as service_module
from p2pfill.tracker import texts as texts_module
from p2pfill.tracker.api import JSON_BODY_BYTES_MAX
from p2pfill.tracker.checks import ORDER_CHARS_MAX, RequestRefused
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRequest

TITLE = "0" * 64
TEXT_MAX = 4096
"""No text that a node may say is longer."""

FULL: dict[str, Any] = {
    "info": {"id": "n1", "isp": "isp-a", "region": "eu", "cluster": "c", "host": "h", "port": 1, "weight": 1.0,
             "latitude": 1.0, "longitude": 1.0, "serves": "isp"},
    "boot": "b", "sequence": 1, "upload_active": 1, "upload_queued": 1, "upload_bytes": 1, "since": 0,
    "gone": ["1" * 64], "unreached": "u", "more": False,
    "titles": [{
        "title": TITLE, "state": "filling", "chunk_count": 4, "have_chunks": 2, "have_bytes": 1, "title_bytes": 1,
        "files": 1, "bytes_peer": 1, "bytes_regional": 1, "bytes_origin": 1, "duplicate_bytes": 1, "reused_bytes": 1,
        "rate_bytes_s": 1.0, "escalations": {"a": 1}, "waits": {"b": 1}, "started_at": 1.0, "finished_at": 1.0,
        "error": "e", "number": 1,
        "sources": [{"id": "s", "tier": "peer", "bytes": 1, "rate_bytes_s": 1.0, "in_flight": 1, "state": "ok",
                     "reason": "r"}],
    }],
    "loop_lag": {"last_us": 1, "p99_us": 1, "max_us": 1}, "usage": {"processor_s": 1.0, "memory_peak_bytes": 1},
    "disk": {"size_bytes": 1, "free_bytes": 1, "free_bytes_min": 1},
    "scrubs": [{"number": 1, "title": TITLE, "state": "whole", "chunk_count": 1, "checked_chunks": 1, "bad_chunks": 1,
                "lost_files": 1, "altered_files": 1, "error": "e"}],
    "scrubber": {"rate_bytes_s": 1, "began_at": 1.0, "ended_at": 1.0, "checked_bytes": 1, "bad_chunks": 1},
    "evictions": [{"number": 1, "state": "done", "free_bytes": 1, "more": 1, "gone": 1, "gone_bytes": 1,
                   "most_bytes": 1, "error": "e",
                   "titles": [{"title": TITLE, "name": "n", "size": 1, "used_at": 1.0, "files": 1}]}],
    "origins": [{"id": "o", "requests": 1, "failed": 1, "bytes_kept": 1, "bytes_wasted": 1, "given_up": 1}],
    "allowances": [{"budget": "b", "terms": "t", "amount": 1}],
    "rates": {"inbound": {"total": 1, "peer": 1, "regional": 1, "origin": 1}, "outbound": {"total": 1}},
    "moves": {"in_bytes_s": 1, "out_bytes_s": 1}, "serving": {"busy": 0.5, "why": "w", "weight": 0.5},
    "hours": {"phase": "open", "until": 1.0, "night": "2026-11-29", "used_bytes": 1, "budget_bytes": 1,
              "budget_used": True, "exempt_bytes": 1},
}  # fmt: skip
NUMBERS = ["1e999", "1.7e308", "-1.7e308", "-1", "5e-324", str(1 << 63), str(1 << 70), "9" * 4000]
"""As JSON has them."""
TEXTS = ['"' + "x" * 100_000 + '"', '"\\u0000"']


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from leaves(part, (*path, number))
    elif not isinstance(value, bool):
        yield path, value


def with_one(path: tuple[Any, ...], json_text: str, body: Any = FULL) -> bytes:
    record = part = copy.deepcopy(body)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = "@@@"
    return json.dumps(record).replace('"@@@"', json_text).encode()


async def test_no_number_or_text_of_a_heartbeat_breaks_the_status() -> None:
    for path, value in leaves(FULL):
        async with service_on(Path(":memory:")) as service:
            service.handle_heartbeat("n1", msgspec.json.decode(json.dumps(FULL), type=NodeReport))
            extremes = ['"' + "x" * (TEXT_MAX + 1) + '"'] if isinstance(value, str) else NUMBERS
            for sequence, extreme in enumerate(extremes, 2):
                try:
                    report = msgspec.json.decode(with_one(path, extreme), type=NodeReport)
                    if path[-1] != "sequence":
                        report.sequence = sequence
                    service.handle_heartbeat(report.info.id if path[-1] == "id" else "n1", report)
                except (RequestRefused, msgspec.MsgspecError):
                    continue
                assert not isinstance(value, str), f"{path}: a text of {TEXT_MAX + 1} characters is taken"
                await service.flush()
                shown = msgspec.json.encode(views.status(service, 0.0))
                assert len(shown) < 4096
                msgspec.json.decode(shown, type=records.Status)


def long(number: int) -> TitleReport:
    sources = [SourceReport(f"{number}-{one}" + "s" * 1000, "peer", reason="r" * 1000) for one in range(50)]
    return TitleReport(f"{number:064x}", "filling", 4, 2, sources=sources, error="e" * REASON_CHARS_MAX)


async def test_what_one_node_says_in_many_heartbeats_does_not_fill_the_status(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        for sequence in range(1, 31):
            report = make.report(make.info("n1"), sequence, long(sequence))
            report.since = sequence - 1
            service.handle_heartbeat("n1", report)
        assert len(service.nodes["n1"].titles) == 30, "nothing of it is refused"
        assert len(msgspec.json.encode(views.status(service, 0.0))) < 1.1 * texts_module.NODE_BYTES_MAX
        assert sum(service.refused.values()) > 10
        await service.flush()
    async with service_on(tmp_path / "db") as service:
        assert len(service.nodes["n1"].titles) == 30
        gone = make.report(make.info("n1"), 1, boot="new")
        service.handle_heartbeat("n1", gone)
        assert service._texts.total == 0


async def test_what_many_nodes_say_leaves_room_for_figures_of_others(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts_module, "FLEET_BYTES_MAX", 300_000)
    async with service_on(tmp_path / "db") as service:
        for number in range(20):
            service.handle_heartbeat(f"x{number}", make.report(make.info(f"x{number}"), 1, long(1)))
        mine = TitleReport(TITLE, "filling", 4, 2, waits={"origin-slow": 3}, error="why it is so")
        mine.sources = [SourceReport("a", "peer", 7)]
        service.handle_heartbeat("n1", make.report(make.info("n1"), 1, mine))
        kept = service.nodes["n1"].titles[TITLE]
        assert (kept.have_chunks, kept.waits, kept.error) == (2, {"origin-slow": 3}, "why it is so")
        assert service._texts.total < 310_000
        for number in range(20):
            service.nodes[f"x{number}"].alive = False
            await service.delete_node(f"x{number}")
        assert service._texts.total == texts_module.bytes_of(kept)


async def test_a_heartbeat_of_many_megabytes_is_refused(client: TrackerClient, make: Any) -> None:
    report = make.report(make.info("n1"), 1)
    report.gone = [f"{number:064x}" for number in range(JSON_BODY_BYTES_MAX // 60)]
    with pytest.raises(TrackerRefused, match="larger than") as refused:
        await client.heartbeat(report)
    assert refused.value.status == 413
    assert (await client.status()).nodes == []


async def test_the_texts_of_an_order_are_bounded(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 3)
        files = tuple(f"{number:05}" + "x" * 400 for number in range(ORDER_CHARS_MAX // 400))
        with pytest.raises(RequestRefused, match="characters"):
            await service.add_fill(FillRequest(title, "all", ["http://o/"], files=files))


async def test_orders_together_are_bounded_and_withdrawing_makes_room(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "ORDERS_CHARS_MAX", 10_000)
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 3)

        def request(number: int) -> FillRequest:
            return FillRequest(title, f"id={number}", [f"http://o/{number}" + "x" * 2000])

        made = [await service.add_fill(request(number)) for number in range(4)]
        with pytest.raises(RequestRefused, match="delete old fills") as refused:
            await service.add_fill(request(4))
        assert refused.value.status == 507
        await service.add_fill(request(3))  # again is no other one
        await service.delete_fill(made[0].fill_id)
        await service.add_fill(request(4))


async def test_manifests_leave_room_for_orders(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 3)
        monkeypatch.setattr(catalogue_module, "DISK_RESERVE_BYTES", 1 << 60)
        monkeypatch.setattr(catalogue_module, "DISK_RESERVE_PART", 1)
        with pytest.raises(StoreError, match="does not fit"):
            await publish(service, make, 4)
        await service.add_fill(FillRequest(title, "all", ["http://o/"]))
        await service.withdraw(title, urgent=True)


async def test_no_number_or_text_of_any_call_is_more_than_refused(client: TrackerClient, make: Any) -> None:
    await client.heartbeat(make.report(make.info("n1")))
    manifest = make.manifest()
    title = manifest.title_id.hex()
    await client.put_title(title, manifest.encode())
    order = {
        "title": title,
        "selector": "all",
        "origins": ["http://o/"],
        "priority": 1,
        "deadline": 1.0,
        "call_id": "c",
        "files": ["a.bin"],
        "policy": {"stall_wait_s": 1.0, "request_timeout_s": 1.0, "quarantine_s": 1.0},
    }
    one = {"title": title, "origins": ["http://o/"], "priority": 1, "policy": order["policy"], "number": 1, "files": ""}
    bodies: dict[str, Any] = {
        "/v1/fills": order, "/v1/nodes/n1/brought": {"orders": [one]}, f"/v1/titles/{title}/pin": {"selector": "all"},
        f"/v1/titles/{title}/scrubs": {"selector": "all"}, f"/v1/titles/{title}/unpin": {"selector": "all"},
        "/v1/evictions": {"selector": "all", "free_bytes": 1},
        "/v1/limits": {"selector": "all", "rates": {"inbound": {"total": 1}, "outbound": {"peer": 1}}},
        "/v1/policy": {"text": "# nothing", "comment": "c", "by": "b", "base": 0}, "/v1/nodes/n1/heartbeat": FULL,
    }  # fmt: skip
    async with httpx2.AsyncClient() as http:
        for path, body in bodies.items():
            for leaf, value in leaves(body):
                for extreme in TEXTS if isinstance(value, str) else [*NUMBERS, "9" * 5000]:
                    answer = await http.post(client.url + path, content=with_one(leaf, extreme, body))
                    assert answer.status_code < 500, f"{path} {leaf} {extreme[:20]}: {answer.text[:200]}"
        for query in ("after=-1&wait_s=-1", "after=1e999", "after=" + "9" * 5000, "since=x&wait_s=1e999", "after=nan"):
            answer = await http.get(f"{client.url}/v1/nodes/n1/orders?{query}")
            assert answer.status_code < 500, query[:40]
        for path in ("scrubs", "evictions", "policy/versions"):
            assert (await http.get(f"{client.url}/v1/{path}/{'9' * 5000}")).status_code < 500
        assert (await http.post(f"{client.url}/v1/fills?nodes_min={'9' * 5000}", content=b"{}")).status_code < 500
    await client.status()
