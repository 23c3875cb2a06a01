"""What a caller asks for is shown in errors and kept in the audit, whatever bytes it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tracker.services import service_on

from p2pfill.model.rates import RateLimits, Rates
from p2pfill.tracker.admission import Admission
from p2pfill.tracker.api import build_app
from p2pfill.tracker.records import ErrorReply, LimitRecord
from p2pfill.tracker.service import Service

ODD = [
    pytest.param(b"a=\xb1&b=%ff", b"t.example", id="a query that is no UTF-8"),  # as HTTP/2 can carry it
    pytest.param(b"", b"[", id="a host that is none"),
    pytest.param(b"x=\n", b"a@b:c/d\xff", id="a host with a path"),
]


async def call(
    service: Service, method: str, path: str, query: bytes, host: bytes, body: bytes = b""
) -> tuple[int, bytes]:
    """Call the application as the HTTP server does; return the status and the answer."""
    sent: list[Any] = []
    scope = {
        "type": "http", "method": method, "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": query, "headers": [(b"host", host)], "client": ("127.0.0.1", 4711), "server": ("127.0.0.1", 80),
        "http_version": "1.1", "state": {},
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    await build_app(service, Admission(service.refused))(scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(("query", "host"), ODD)
async def test_what_is_not_there_is_refused_in_words(tmp_path: Path, query: bytes, host: bytes) -> None:
    async with service_on(tmp_path / "db") as service:
        for method, path, status in (
            ("GET", "/v1/nothing", 404),
            ("GET", "/v1/status/", 404),
            ("PUT", "/v1/status", 405),
        ):
            found, answer = await call(service, method, path, query, host)
            assert found == status
            assert path in msgspec.json.decode(answer, type=ErrorReply).error


@pytest.mark.parametrize(("query", "host"), ODD)
async def test_a_change_is_in_the_audit(tmp_path: Path, query: bytes, host: bytes) -> None:
    limit = msgspec.json.encode(LimitRecord("all", RateLimits(Rates(1000))))
    async with service_on(tmp_path / "db") as service:
        found, _ = await call(service, "POST", "/v1/limits", query, host, limit)
        assert found == 200
        (change,) = (await service.audit_page(0, 10)).records
        assert change.what == "post_limit"
        assert change.detail.startswith("/v1/limits")
        msgspec.json.encode(change)
