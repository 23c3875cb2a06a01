"""What fell before there were identities and shares, each fault under the words in which it was found.

`ELSEWHERE` names the tests of those that lie with the part that withstands them now; the others are here, with
certificates and without.
"""

from __future__ import annotations

import ast
from contextlib import AsyncExitStack, nullcontext, suppress
from functools import cache as cache_calls
from pathlib import Path

import msgspec
import pytest
import trio
import trio.lowlevel
from certificates import cache

from p2pfill.model.ids import NodeId
from p2pfill.model.limits import WEIGHT_MAX
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import NodeReport
from p2pfill.node import Node
from p2pfill.protocol import messages as m
from p2pfill.protocol.framing import OUR_VERSIONS, encode_preamble
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRequest
from tests.hostile.fleets import FAR, attacked, introduced, read_slowly
from tests.hostile.peer import PeerGone, frame

TESTS = Path(__file__).parent.parent
ORIGINS, FLEET, FLOODS = "origin/test_origin_access.py", "trust/test_fleet.py", "tracker/test_floods.py"
GRANTED, START = "test_a_caller_may_what_is_granted_and_nothing_else", "store/test_start.py"
ELSEWHERE = [
    # (what fell, file, test)
    ("a stranger publishes and orders another title under a live name", FLEET, GRANTED),
    ("a stranger publishes and orders another title under a live name", "hostile/test_auditors.py",
     "test_auditors_01_no_call_is_served_to_who_was_granted_nothing"),
    ("a stranger publishes and orders another title under a live name", "hostile/test_signed_titles.py",
     "test_a_tracker_that_lies_gets_nothing_filled"),
    ("withdraws the fills of others", FLEET, GRANTED),
    ("reports in any node's name", FLEET, GRANTED),
    ("an order of highest priority whose origin drips", "swarm/test_scheduler.py",
     "test_a_fill_of_highest_priority_that_drips_leaves_others_the_time_that_it_does_not_pay_for"),
    ("an order as large as the disk: who may order how many bytes", FLEET, GRANTED),
    ("an order as large as the disk: what lacked room is tried again", "node/test_bad_disk.py",
     "test_an_order_without_room_is_filled_when_there_is_some"),
    ("an order with waits of a week and no escalation", "tracker/test_orders_of_strangers.py",
     "test_an_order_of_highest_priority_does_not_lengthen_the_waits_of_others"),
    ("an order with waits of a week and no escalation", "tracker/test_orders_of_strangers.py",
     "test_waits_of_an_order_are_within_reason"),
    ("made-up caches of weight 1e6", "tracker/test_forgetting.py", "test_a_weight_is_within_reason"),
    ("made-up caches of weight 1e6", "swarm/test_masters.py",
     "test_caches_that_were_never_linked_cost_one_short_wait_together"),
    ("100,000 made-up caches, none of which can be removed", "tracker/test_forgetting.py",
     "test_newcomers_that_never_come_back_are_forgotten_and_others_much_later"),
    ("100,000 made-up caches, none of which can be removed", "tracker/test_forgetting.py",
     "test_a_full_table_loses_newcomers_that_are_silent_and_no_others"),
    ("origins at any address of a cache's network", ORIGINS, "test_what_is_open_where_nothing_is_listed"),
    ("redirects are followed anywhere", ORIGINS, "test_ssrf_through_redirects"),
    ("file:///etc reads a cache's files", ORIGINS, "test_a_directory_that_nobody_has_named_is_not_looked_at"),
    ("sizes are told to everybody", "node/test_origin_access.py",
     "test_the_size_of_what_an_order_names_is_in_nothing_that_leaves_the_node"),
    ("a guess of a file is confirmed and served", "node/test_origin_access.py",
     "test_a_node_that_others_reach_reads_no_directory_that_is_not_named"),
    ("a FIFO in a file's place stops other titles", "node/test_origin_access.py",
     "test_pipes_in_the_place_of_files_stop_no_other_title"),
    ("a Hello has a node connect to another machine", FLEET, "test_a_certificate_wins_over_a_hello"),
    ("a forged heartbeat has a node connect to another machine", FLEET, GRANTED),
    ("the tracker's database is lost", "process/test_database_lost.py",
     "test_a_fill_goes_on_without_the_database"),
    ("the tracker's database is lost", "tracker/test_database_lost.py",
     "test_what_a_new_database_does_not_know_goes_on"),
    ("a damaged log of writes loses titles in silence", "tracker/test_losses.py",
     "test_a_damaged_log_of_writes_is_told"),
    ("a damaged log of writes loses titles in silence", "tracker/test_losses.py",
     "test_a_loss_is_told_by_health_and_status"),
    ("EIO of fdatasync, and a read-only remount", "process/test_bad_disk.py",
     "test_a_disk_that_makes_nothing_durable_and_one_that_is_read_only"),
    ("EIO of fdatasync, syncfs and ENOSPC", "node/test_bad_disk.py",
     "test_a_title_goes_on_by_itself_when_the_disk_is_well_again"),
    ("ulimit -n 40..100 and a title of 300 files", "process/test_bad_disk.py",
     "test_a_title_of_300_files_under_few_descriptors"),
    ("a second title writes through a handle of one that is live", "node/test_handles.py",
     "test_a_second_title_never_writes_through_a_descriptor_of_one_that_is_live"),
    ("1,100 idle connections", "process/test_floods.py",
     "test_more_idle_connections_than_descriptors_shut_out_nobody"),
    ("1,100 idle connections, for 23 s beyond their end", FLOODS,
     "test_a_connection_that_its_caller_has_closed_holds_nothing"),
    ("ten open bodies of 15 MB", FLOODS, "test_bytes_of_bodies_have_a_share_for_each_address"),
    ("two bodies that drip", FLOODS, "test_two_bodies_that_drip_keep_nobody_from_publishing"),
    ("a heartbeat of 13 MiB stays", "tracker/test_hostile_reports.py",
     "test_a_heartbeat_of_many_megabytes_is_refused"),
    ("a rate of 1.7e308 breaks the status", "tracker/test_hostile_reports.py",
     "test_no_number_or_text_of_a_heartbeat_breaks_the_status"),
    ("4,096 tokens of one stranger", "engine/test_engine.py", "test_each_remote_has_its_own_share_of_tokens"),
    ("4,096 tokens of one stranger", "hostile/control_attacks.py", "token_flood"),
    ("a name in the Hello decides everything", FLEET, "test_a_certificate_wins_over_a_hello"),
    ("530 links of made-up nodes", "hostile/crowd_attacks.py", "half_open_links"),
    ("a forged heartbeat locks the honest node out", "tracker/test_names.py",
     "test_a_forged_heartbeat_does_not_lock_a_node_out"),
    ("DATA of another user, or with mode 0777", START, "test_a_data_directory_of_another_user_is_refused"),
    ("DATA of another user, or with mode 0777", START, "test_a_title_of_another_user_is_refused_alone"),
    ("an origin with user:pass@ is shown to everybody", "tracker/test_origin_credentials.py",
     "test_credentials_in_an_origin_are_refused_and_told_nobody"),
    ("a damaged manifest beside a leftover journal", START,
     "test_a_damaged_manifest_of_a_fill_keeps_what_its_journal_says"),
    ("one stray file, and the node does not start", START,
     "test_a_stray_entry_stops_neither_the_start_nor_its_title"),
    ("a live file that is missing is reported live", "node/test_bad_disk.py",
     "test_a_live_file_that_is_missing_is_found_at_the_start"),
]  # fmt: skip
EACH = pytest.mark.parametrize("certificates", [False, True], ids=["insecure", "certificates"])
WITHIN_S = 12.0
"""What an attack may cost an honest fill of a second, in all; it went on for ever."""


@cache_calls
def names_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("what", "file", "test"), ELSEWHERE, ids=[f"{one[0]}-{one[2]}" for one in ELSEWHERE])
def test_what_fell_is_tried(what: str, file: str, test: str) -> None:
    assert test in names_in(file), what


async def fill_from(node: Node, source: Node, title: Manifest) -> None:
    """Have a node fill a title that another one has; its name comes first, since it dials."""
    filling = await node.start_fill(title, members=[node.info], holders=[source.info])
    node.want_links([source.info])
    source.want_links([node.info])
    await filling.wait()


@EACH
async def test_twenty_caches_that_were_made_up_and_never_answer_delay_no_fill(
    tmp_path: Path, certificates: bool
) -> None:
    """As heavy as a cache may be, reporting all the time, of the same ISP and of another one: they would be elected."""
    with trio.fail_after(60):
        async with attacked(tmp_path, certificates=certificates) as fleet, trio.open_nursery() as nursery:
            title = fleet.title(3)
            names = [f"{letter}{number}" for letter in "ax" for number in range(10)]

            async def report(client: TrackerClient) -> None:
                for sequence in range(1, 1000):
                    for name in names:
                        isp = "isp-a" if name < "b" else "isp-x"
                        info = NodeInfo(NodeId(name), isp, "default", "", "127.0.0.1", 9, WEIGHT_MAX)
                        refused = pytest.raises(TrackerRefused, match="may not report as")
                        with refused if certificates else nullcontext():
                            await client.heartbeat(NodeReport(info, "boot", sequence))
                    await trio.sleep(0.2)

            stranger = fleet.client() if fleet.trusted is None else fleet.trusted.client(cache("zz-bad", "isp-z", FAR))
            async with stranger, fleet.client() as client, fleet.node("m1", tracker=True) as m1:
                nursery.start_soon(report, stranger)
                while len(await client.nodes()) < (1 if certificates else 21):
                    await trio.sleep(0.05)
                began = trio.current_time()
                await client.put_title(title.title_id.hex(), title.encode())
                await client.post_fill(FillRequest(title.title_id.hex(), "all", [str(fleet.source)]))
                while not (Path(m1.config.data) / "live" / "film").exists():
                    await trio.sleep(0.02)
                # One time of discovery without certificates, and none with them.
                assert trio.current_time() - began < (2.0 if certificates else 3.0)
                nursery.cancel_scope.cancel()


@EACH
async def test_twenty_data_streams_that_read_at_40_kb_a_second_take_turns_with_a_fresh_cache(
    tmp_path: Path, certificates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are first in line by a region far away, and each has asked for chunks that would take it minutes."""
    monkeypatch.setattr("p2pfill.transport.plane.SLOT_WATCH_S", 0.25)
    with trio.fail_after(60):
        async with attacked(tmp_path, certificates=certificates) as fleet, AsyncExitStack() as stack:
            title = fleet.title(8, 4 * 1024 * 1024)
            m1 = await stack.enter_async_context(fleet.node("m1"))
            await m1.fill(title, [str(fleet.source)])
            address = m1.info.host, m1.info.port
            nursery = await stack.enter_async_context(trio.open_nursery())
            for number in range(5):
                peer = await stack.enter_async_context(fleet.stranger(f"x{number}").linked(address))
                for _ in range(4):
                    nursery.start_soon(read_slowly, peer, address, title.title_id, 40_000.0, title.chunk_count)
            while m1.report().upload_active < 16:  # until they have all slots
                await trio.sleep(0.02)
            a0 = await stack.enter_async_context(fleet.node("a0"))
            with trio.fail_after(WITHIN_S):
                await fill_from(a0, m1, title)
            nursery.cancel_scope.cancel()


@EACH
async def test_530_links_of_made_up_nodes_leave_room_for_a_fresh_cache(tmp_path: Path, certificates: bool) -> None:
    with trio.fail_after(60):
        async with attacked(tmp_path, certificates=certificates) as fleet, AsyncExitStack() as stack:
            title = fleet.title(24)
            m1 = await stack.enter_async_context(fleet.node("m1"))
            await m1.fill(title, [str(fleet.source)])
            address = m1.info.host, m1.info.port
            for number in range(530):
                stream = await trio.open_tcp_stream(*address)
                stack.push_async_callback(trio.aclose_forcefully, stream)
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(introduced(f"made-up-{number}"))
                await trio.lowlevel.checkpoint()
            for number in range(5):  # with a certificate, and the name of somebody else
                peer = fleet.stranger("x0", says=f"somebody-{number}")
                if certificates:
                    with pytest.raises(BaseExceptionGroup) as raised:
                        async with peer.linked(address):
                            pass
                    assert raised.group_contains(PeerGone)
            assert len(m1.engine.links) <= (0 if certificates else 512)
            a0 = await stack.enter_async_context(fleet.node("a0"))
            with trio.fail_after(WITHIN_S):
                await fill_from(a0, m1, title)


@EACH
async def test_1024_subscriptions_of_each_of_six_links_do_not_stop_a_fill(tmp_path: Path, certificates: bool) -> None:
    with trio.fail_after(60):
        async with attacked(tmp_path, certificates=certificates) as fleet, AsyncExitStack() as stack:
            title = fleet.title(400)
            m1 = await stack.enter_async_context(fleet.node("m1"))
            address = m1.info.host, m1.info.port
            filling = await m1.start_fill(title)
            for number in range(6):
                peer = await stack.enter_async_context(fleet.stranger(f"x{number}").linked(address))
                await peer.want(title.title_id)
                await peer.send(*(m.Subscribe(next(peer.next_handle), title.title_id) for _ in range(1022)))
                await peer.send_and_wait(b"")
            filling.set_origins([str(fleet.source)])
            with trio.fail_after(WITHIN_S / 3):
                await filling.wait()


async def test_no_hello_and_no_roster_has_a_node_without_certificates_connect_to_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And send 16 bytes there that a stranger chooses: the token of a data stream."""
    called: list[str] = []

    async def connect(host: str, port: int) -> trio.socket.SocketType:
        called.append(host)
        raise OSError("not in a test")

    monkeypatch.setattr("p2pfill.node.links.connect", connect)
    far = "192.0.2.1"
    with trio.fail_after(30):
        async with attacked(tmp_path, certificates=False) as fleet, fleet.node("m1") as m1:
            title = fleet.title(4)
            peer = fleet.stranger("zz-far")
            said = msgspec.structs.replace(peer.hello(), host=far, port=80)
            peer.holds[title.title_id] = (4, b"\x0f")
            async with peer.linked((m1.info.host, m1.info.port), encode_preamble(OUR_VERSIONS) + frame(said)):
                roster = [
                    NodeInfo(NodeId("zz-far"), "isp-z", FAR, "", far, 80),
                    NodeInfo(NodeId("zz-x"), "i", FAR, "", far, 80),
                ]
                await m1.start_fill(title, members=roster)
                m1.want_links(roster)
                await peer.wait_for(lambda: any(isinstance(one, m.StreamOpen) for one in peer.heard))
                await trio.sleep(0.3)
    assert called == []
