"""Origins with prices, in real processes: caches ask the cheapest that works, and the tracker sums up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from process.fleet import Fleet, HeldOrigin, Title, cli, wait_until

pytestmark = pytest.mark.process


def test_the_cheapest_origin_is_read_and_what_it_costs_is_shown(
    tmp_path: Path, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    first, second = make_title("first"), make_title("second")
    cheap, dear = make_origin(tmp_path), make_origin(tmp_path)
    prices = tmp_path / "prices.toml"
    prices.write_text(
        f'currency = "EUR"\n[[price]]\nprefix = "{cheap.url}"\nper_gb = 10\n'
        f'[[price]]\nprefix = "{dear.url}"\nper_gb = 80\n'
    )
    fleet = Fleet(tmp_path, ("--prices", str(prices)))
    try:
        fleet.start(("a1", "isp"), ("a2", "isp"))
        wait_until("both are known", lambda: fleet.alive() == {"a1", "a2"})
        fleet.order(first, [f"{dear.url}/first", f"{cheap.url}/first"])
        fleet.live(["a1", "a2"], first)
        assert dear.sent_bytes == 0
        cheap.kill()
        fleet.order(second, [f"{dear.url}/second", f"{cheap.url}/second"])
        fleet.live(["a1", "a2"], second)
        wait_until("it is known", lambda: kept(fleet).get(f"{dear.url}/second", 0) >= second.size)
        counted = kept(fleet)
        assert counted[f"{cheap.url}/first"] == first.size
        assert f"{dear.url}/first" not in counted
        done = cli("status", "--tracker", fleet.url, "--json")
        used = json.loads(done.out)["used"]
        assert used["currency"] == "EUR"
        for one in used["origins"]:
            counts, per_gb = one["counts"], 10 if one["counts"]["id"].startswith(cheap.url) else 80
            sent = counts.get("bytes_kept", 0) + counts.get("bytes_wasted", 0)
            assert one["money"] == pytest.approx(per_gb * sent / 1e9)
        assert "cost EUR" in cli("status", "--tracker", fleet.url).out
    finally:
        fleet.close()


def kept(fleet: Fleet) -> dict[str, int]:
    """Return the bytes that were kept of each origin, by its URL."""
    return {
        one["counts"]["id"]: one["counts"].get("bytes_kept", 0) for one in fleet.get("/v1/origins")["origins"]
    }
