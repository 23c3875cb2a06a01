"""A tracker in bad hands, before a node that takes only what its publishers have signed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from certificates import Signer, cache, tracker, user
from publishing import Film, Studio, write_publishers

from p2pfill.model.reports import Order
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker
from p2pfill.tracker.service import Service
from p2pfill.trust.credentials import Credentials

GRANTS = '[[grants]]\nwho = "user/anna"\nmay = ["read", "publish", "order", "withdraw", "manage"]\n'
NOW = 1_000_000.0
ONE, STRANGER = Studio("studio-1"), Studio("stranger")


class Lies:
    """What the tracker says in the place of what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.signatures = b""
        self.manifest = b""
        self.rolls_back = False
        self.asked: list[str] = []
        """Titles whose manifests it was asked for."""
        ordered = Service.order

        async def signatures(service: Service, title: str) -> bytes:
            return self.signatures

        async def manifest(service: Service, title: str) -> bytes:
            self.asked.append(title)
            return self.manifest

        def order(service: Service, node_id: str, title: str, *, sought: bool = False) -> Order:
            made = ordered(service, node_id, title, sought=sought)
            made.rollback = made.rollback or self.rolls_back
            return made

        monkeypatch.setattr("p2pfill.node.agent.POLL_S", 0.1)  # what is refused is tried with each
        monkeypatch.setattr(Service, "signatures", signatures)
        monkeypatch.setattr(Service, "manifest", manifest)
        monkeypatch.setattr(Service, "order", order)


class Place:
    """Where it happens."""

    def __init__(self, root: Path, url: str, client: TrackerClient, config: NodeConfig) -> None:
        self.root, self.url, self.client, self.config = root, url, client, config

    async def order(self, film: Film) -> None:
        await self.client.put_title(film.title, film.encoded)
        await self.client.post_fill(FillRequest(film.title, "all", [str(film.origin)]))


async def in_place(root: Path, scene: Callable[[Place], object], more: str = "") -> None:
    """Play a scene with a tracker; `more` stands in the rule for titles."""
    signer = Signer()
    (root / "grants.toml").write_text(GRANTS)
    write_publishers(signer.give(root / "node", cache("a1")), ONE, more=more)
    credentials = Credentials(signer.give(root / "tracker", tracker()))
    serve = partial(
        serve_tracker, "127.0.0.1:0", f"sqlite:///{root}/t.db", heartbeat_s=0.2, credentials=credentials,
        grants=root / "grants.toml",
    )  # fmt: skip
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve)
            config = NodeConfig.load(None, identity=str(root / "node"), data=str(root / "data"), tracker=url)
            anna = Credentials(signer.give(root / "anna", user("anna")))
            async with TrackerClient(url, credentials=anna) as client:
                await scene(Place(root, url, client, config))  # type: ignore[misc]
            nursery.cancel_scope.cancel()


def nothing_was_fetched(node: Node, film: Film) -> bool:
    data = Path(node.config.data)
    there = [data / place / film.title for place in ("titles", "filling")]
    return not any(path.exists() for path in there) and not node.titles.origin_counts.totals()


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await trio.sleep(0.02)


async def test_a_tracker_that_lies_gets_nothing_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lies = Lies(monkeypatch)
    film, other = Film(tmp_path, "v1"), Film(tmp_path, "v2", "other")
    good = film.signed(ONE)
    said = [
        (b"", "not signed at all"),
        (other.signed(ONE), "the signatures are of title"),
        (film.signed(STRANGER), "signed by none of them; not by studio-1"),
        (ONE.sign(film.title_id, "other").encode(), "named 'other'"),
        (film.signed(ONE, expires=int(NOW)), "has expired"),
        (good[:-1] + bytes([good[-1] ^ 1]), "the signature of studio-1 does not hold"),
        (good[:-1], "no signatures"),
        (good + b"\x00", "no signatures"),
        (b"\x96" * 4096, "no signatures"),
    ]

    async def scene(place: Place) -> None:
        async with open_node(place.config, wall=lambda: NOW) as a1:
            await place.order(film)
            for signatures, why in said:
                lies.signatures, lies.manifest = signatures, film.encoded
                await until(lambda why=why: why in str(a1.titles.refusal(film.title_id)))
                assert nothing_was_fetched(a1, film)
            # Without a word of its publishers its manifest is not even asked for; of these the name alone was wrong.
            assert len(lies.asked) <= 1
            lies.signatures = good
            for manifest in (other.encoded, b"", film.encoded[:-1]):
                lies.manifest = manifest
                before = len(lies.asked)
                await until(lambda before=before: len(lies.asked) > before)
                assert nothing_was_fetched(a1, film)
            lies.manifest = film.encoded
            await until(lambda: film.title_id in a1.titles.live_ids())

    await in_place(tmp_path, scene)


@pytest.mark.parametrize("rule_allows", [True, False])
async def test_an_old_version_shown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, rule_allows: bool
) -> None:
    """All that it sends is good, and was so once. That it may be old a user must have signed, and a rule allow."""
    lies = Lies(monkeypatch)
    old, new = Film(tmp_path, "v1"), Film(tmp_path, "v2")
    link = tmp_path / "data/live/film"

    async def scene(place: Place) -> None:
        async with open_node(place.config, wall=lambda: NOW) as a1:
            lies.signatures, lies.manifest = new.signed(ONE, number=2), new.encoded
            await place.order(new)
            await until(lambda: new.title_id in a1.titles.live_ids())
            lies.signatures, lies.manifest = old.signed(ONE, number=1), old.encoded
            await place.order(old)
            await until(lambda: "is older" in str(a1.titles.refusal(old.title_id)))
            assert nothing_was_fetched(a1, old) or a1.titles.origin_counts.totals()  # those of the new one
            assert not (tmp_path / "data/filling" / old.title).exists()
            lies.rolls_back = True
            await place.client.post_fill(FillRequest(old.title, "id=a1", [str(old.origin)]))
            await trio.sleep(0.5)
            assert "is older" in str(a1.titles.refusal(old.title_id)), "the tracker's word alone"
            await place.client.post_fill(FillRequest(old.title, "id=a1", [str(old.origin)], rollback=True))
            if rule_allows:
                await until(lambda: old.title_id in a1.titles.live_ids())
            else:
                await trio.sleep(0.5)
                assert "is older" in str(a1.titles.refusal(old.title_id))
            assert (link / "a.bin").read_bytes()[:2] == (b"v1" if rule_allows else b"v2")

    await in_place(tmp_path, scene, "" if rule_allows else "rollback = false")


async def test_a_fill_goes_on_by_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracker has lost the signatures, or holds them back, and the node was restarted in mid-fill."""
    lies = Lies(monkeypatch)
    film = Film(tmp_path, "v1")

    async def scene(place: Place) -> None:
        async with open_node(place.config, wall=lambda: NOW) as a1:
            lies.signatures, lies.manifest = film.signed(ONE), film.encoded
            await place.client.put_title(film.title, film.encoded)
            await place.client.post_fill(FillRequest(film.title, "all", []))
            await until(lambda: (tmp_path / "data/filling" / film.title / "signatures").exists())
        for signatures in (b"", film.signed(STRANGER)):
            lies.signatures = signatures
            async with open_node(place.config, wall=lambda: NOW) as a1:
                await until(lambda: a1.titles.fill_of(film.title_id) is not None)
        async with open_node(place.config, wall=lambda: NOW) as a1:
            await place.client.post_fill(FillRequest(film.title, "id=a1", [str(film.origin)]))
            await until(lambda: film.title_id in a1.titles.live_ids())

    await in_place(tmp_path, scene)
