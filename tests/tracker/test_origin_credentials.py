"""User and password in an origin's URL: refused when it is ordered, since everybody reads what is ordered."""

from __future__ import annotations

from typing import Any

import pytest

from p2pfill.errors import TrackerError
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest


@pytest.mark.parametrize(
    "url",
    [
        "http://anna:s3cret@cdn.example/film",
        "https:/anna:s3cret@cdn.example/film",
        "//anna:s3cret@cdn.example/film",
        "s3://anna:s3cret@films/x",
        "s3://films/x?endpoint=https://anna:s3cret@store.example",
        "http://anna:s3cret@cdn.example/" + "x" * 5000,
        "http://anna:s3cret@cdn.example/\x07",
    ],
)
async def test_credentials_in_an_origin_are_refused_and_told_nobody(
    client: TrackerClient, make: Any, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = make.manifest()
    await client.put_title(manifest.title_id.hex(), manifest.encode())
    await client.heartbeat(make.report(make.info("a1")))
    with pytest.raises(TrackerError) as refused:
        await client.post_fill(FillRequest(title=manifest.title_id.hex(), selector="all", origins=[url]))
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in str(await client.status())
    assert "s3cret" not in caplog.text
