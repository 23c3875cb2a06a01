"""What one caller sends, however odd, ends its own connection at most."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from tracker.services import service_on

from p2pfill.model.reports import Allowance, NodeReport, Orders, SourceReport, TitleReport
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.client import ReadableOrders, TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRequest

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
ODD = [
    os.urandom(200),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(200),
    HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n",
    HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n" + os.urandom(50),
    HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: !!!!\r\n\r\n" + os.urandom(50),
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    b"GET \xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: [\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/fills HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
]


async def test_odd_bytes_end_their_connection_only(client: TrackerClient) -> None:
    address = urlsplit(client.url)
    for data in ODD:
        for ends in (True, False):
            stream = await trio.open_tcp_stream(address.hostname or "", address.port or 0)
            try:
                await stream.send_all(data)
                if ends:
                    await stream.send_eof()
                with trio.move_on_after(0.1):
                    while await stream.receive_some(65536):
                        pass
            except trio.BrokenResourceError:
                continue  # it was told off before it had said all
            finally:
                await trio.aclose_forcefully(stream)
        assert (await client.health()).status == "ok"


@pytest.mark.parametrize(
    "origin",
    ["http://127.0.0.300/", "http://a..b/", "http://h:0/", "http://u:p@h/", "http://h/?x", "film", "ftp://h/", "file://h/x"],
)
async def test_an_order_with_an_origin_that_none_can_use_is_refused(client: TrackerClient, origin: str) -> None:
    with pytest.raises(TrackerRefused, match="origin") as refused:
        await client.post_fill(FillRequest("0" * 64, "all", ["http://good.example/", origin]))
    assert refused.value.status == 400


async def test_orders_are_read_one_by_one_where_one_cannot_be(
    client: TrackerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = b'{"fill_id":"f","title":"t","origins":[],"priority":0,"policy":{},"roster":[]}'

    async def fetch(*_: object, **__: object) -> bytes:
        return b'{"version":3,"orders":[{"fill_id":1},' + good + b',7]}'

    monkeypatch.setattr(TrackerClient, "_fetch", fetch)
    orders = await client.orders("n1")
    assert isinstance(orders, Orders)
    assert isinstance(orders, ReadableOrders)
    assert [order.title for order in orders.orders] == ["t"]
    assert len(orders.unreadable) == 2
    assert "order 0 of 3" in orders.unreadable[0]


async def test_settings_that_cannot_be_read_keep_nobody_from_its_orders(
    client: TrackerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = b'{"fill_id":"f","title":"t","origins":[],"priority":0,"policy":{},"roster":[]}'
    for wrong in (b'{"windows":{"timezone":"Moon/Tycho"}}', b'{"rule":7}', b'{"windows":{"budget":-1}}', b"[]"):

        async def fetch(*_: object, wrong: bytes = wrong, **__: object) -> bytes:
            return b'{"version":3,"orders":[' + good + b'],"settings":' + wrong + b',"settings_digest":"d"}'

        monkeypatch.setattr(TrackerClient, "_fetch", fetch)
        orders = await client.orders("n1")
        assert isinstance(orders, ReadableOrders)
        assert [order.title for order in orders.orders] == ["t"]
        assert (orders.settings, orders.unreadable) == (None, [])
        assert "cannot be read" in orders.wrong_settings


def said(**figures: Any) -> TitleReport:
    return TitleReport("0" * 64, "filling", 4, started_at=1.0, **figures)


async def test_figures_beyond_reason_keep_nobody_from_being_saved(tmp_path: Path, make: Any) -> None:
    # JSON has integers of any length, and what two of them sum up to may be longer than Python writes.
    huge = 10**4299 * 9
    async with service_on(tmp_path / "db") as service:
        for sequence, boot in enumerate(("x", "y"), 1):
            source = SourceReport("http://o/", "origin", huge)
            report = make.report(make.info("n1"), sequence, said(sources=[source]), boot=boot)
            with pytest.raises(RequestRefused, match="out of range"):
                service.handle_heartbeat("n1", report)
        service.handle_heartbeat("n2", make.report(make.info("n2")))
        await service.flush()


@pytest.mark.parametrize(
    "wrong",
    [
        said(sources=[SourceReport("a", "regional", -1)]),
        said(sources=[SourceReport("a", "regional", 1, rate_bytes_s=1e300)]),
        said(sources=[SourceReport("a", "regional", 1, in_flight=1 << 70)]),
        said(finished_at=1e300),
        said(rate_bytes_s=-1e300),
        said(files=1 << 70),
    ],
)
async def test_a_heartbeat_with_a_figure_that_cannot_be_is_refused(
    tmp_path: Path, make: Any, wrong: TitleReport
) -> None:
    async with service_on(tmp_path / "db") as service:
        with pytest.raises(RequestRefused):
            service.handle_heartbeat("n1", make.report(make.info("n1"), 1, wrong))


async def test_the_texts_of_allowances_are_bounded(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        for wrong in (Allowance("b" * 65, "*", 1), Allowance("b", "*" * 1089, 1)):
            report: NodeReport = make.report(make.info("n1"))
            report.allowances = [wrong]
            with pytest.raises(RequestRefused, match="too long"):
                service.handle_heartbeat("n1", report)
