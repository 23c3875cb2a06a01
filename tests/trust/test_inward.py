"""Caches that serve their own ISP alone, as their certificates say: real nodes, and both ends keep to it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from certificates import Signer, cache, user
from publishing import Film
from signed_fleet import Fleet, shown, until

from p2pfill.errors import ConfigError
from p2pfill.model.identity import Identity, Role, check_identity, identity_from_uri
from p2pfill.model.node import SERVES_ISP
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node.renewal import load_credentials
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker
from p2pfill.trust.fleet_list import read_fleet_list

idle = partial(open_node, busy=lambda: 0.0)
"""A node that serves others however busy the machine of the tests is."""

INWARD = msgspec.structs.replace(cache("a1"), serves=SERVES_ISP)


async def order(client: TrackerClient, film: Film, selector: str) -> None:
    await client.put_title(film.title, film.encoded)
    await client.post_fill(FillRequest(film.title, selector, [str(film.origin)]))


async def others_go_to_the_origin(client: TrackerClient, film: Film, a1: Node, a2: Node, b1: Node) -> None:
    """a1 serves isp-a alone, and has all of it: a2 takes it from there, and b1 from the origin."""
    for node in (a1, a2, b1):
        await order(client, film, f"id={node.info.id}")
        await until(lambda node=node: bool(shown(node)))  # type: ignore[misc]
        while not any(one.state == "live" for one in (await client.node(node.info.id)).titles):
            await trio.sleep(0.05)  # else the next one is not told whom to ask
    size = film.manifest.size
    moved = []
    for node in (a1, a2, b1):
        report = next(one for one in node.titles.reports() if one.title == film.title)
        moved.append((report.bytes_peer, report.bytes_regional, report.bytes_origin))
    assert moved == [(0, 0, size), (size, 0, 0), (0, 0, size)]


@pytest.mark.parametrize("is_honest", [True, False])
async def test_both_ends_keep_to_what_a_certificate_says(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, is_honest: bool
) -> None:
    fleet = Fleet(tmp_path, nursery)
    await fleet.start()
    film = Film(tmp_path, "v1")
    a2, b1 = cache("a2", isp="isp-a"), cache("b1", isp="isp-b")
    async with fleet.client() as anna, idle(fleet.config(who=INWARD)) as first:
        if not is_honest:
            # It shows what it has, and would send it: b1 does not count it as a source all the same.
            first.engine.me = msgspec.structs.replace(first.engine.me, serves="")
        async with idle(fleet.config(who=a2)) as second, idle(fleet.config(who=b1)) as third:
            # a2 must not pass it on in this test.
            second.engine.me = msgspec.structs.replace(second.engine.me, serves=SERVES_ISP)
            with trio.fail_after(30):
                await others_go_to_the_origin(anna, film, first, second, third)
            nodes = {one.info.id: one.info.serves for one in await anna.nodes()}
            assert nodes == {"a1": SERVES_ISP, "a2": "", "b1": ""}


async def test_a_fleet_without_certificates_goes_by_the_settings(tmp_path: Path, nursery: trio.Nursery) -> None:
    url = await nursery.start(
        lambda task_status: serve_tracker(
            "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db", heartbeat_s=0.2, task_status=task_status
        )
    )
    film = Film(tmp_path, "v1")

    def config(name: str, serves: str | None = None) -> NodeConfig:
        return NodeConfig.load(
            None, id=name, isp=f"isp-{name[0]}", data=str(tmp_path / name), tracker=url, serves=serves
        )

    async with (
        TrackerClient(url) as client,
        idle(config("a1", "isp")) as a1,
        idle(config("a2", "isp")) as a2,
        idle(config("b1")) as b1,
    ):
        with trio.fail_after(30):
            await others_go_to_the_origin(client, film, a1, a2, b1)
            # From b1 it takes what that has got.
            other = Film(tmp_path, "v2", name="other")
            await order(client, other, "id=b1")
            await until(lambda: other.title_id in b1.titles.live_ids())
            while sum(one.state == "live" for one in (await client.node("b1")).titles) < 2:
                await trio.sleep(0.05)
            await order(client, other, "id=a1")
            await until(lambda: other.title_id in a1.titles.live_ids())
        (report,) = (one for one in a1.titles.reports() if one.title == other.title)
        assert report.bytes_regional == other.manifest.size


def test_certificates_and_lists_say_it(tmp_path: Path) -> None:
    assert INWARD.uri.endswith("/isp/isp-a/serves/isp")
    for who in (INWARD, msgspec.structs.replace(INWARD, cluster="c1")):
        assert identity_from_uri(who.uri) == who
    for uri in (INWARD.uri.replace("serves/isp", "serves/all"), INWARD.uri + "/cluster/c1", INWARD.uri[:-4]):
        with pytest.raises(ConfigError):
            identity_from_uri(uri)
    for wrong in (user("anna"), msgspec.structs.replace(INWARD, role=Role.TRACKER, region="", isp="")):
        with pytest.raises(ConfigError):
            check_identity(msgspec.structs.replace(wrong, serves=SERVES_ISP))
    listed = tmp_path / "fleet.toml"
    listed.write_text('[[caches]]\nid = "a1"\nisp = "isp-a"\nserves = "isp"\nhosts = ["10.0.0.1"]\n')
    assert read_fleet_list(listed, "fleet.example")["a1"].serves == SERVES_ISP
    listed.write_text(listed.read_text().replace('"isp"\nhosts', '"region"\nhosts'))
    with pytest.raises(ConfigError, match="serves"):
        read_fleet_list(listed, "fleet.example")


@pytest.mark.parametrize(("said", "named"), [("isp", ""), ("", "isp")])
def test_settings_do_not_lift_what_a_certificate_says(tmp_path: Path, said: str, named: str) -> None:
    who: Identity = msgspec.structs.replace(INWARD, serves=named)
    directory = Signer().give(tmp_path / "id", who)
    assert NodeConfig.load(None, identity=str(directory), data=str(tmp_path / "data")).serves == named
    config = NodeConfig.load(None, identity=str(directory), data=str(tmp_path / "data"), serves=said)
    with pytest.raises(ConfigError, match=r"serves .* as its certificate says"):
        load_credentials(config)
    with pytest.raises(ConfigError, match="serves 'region'"):
        NodeConfig.load(None, id="a1", isp="isp-a", data="d", serves="region")
