"""One libtorrent peer as a process, tuned for a fleet of one owner.

    python -m p2pfill.bench.torrent_peer HOST[:PORT] TORRENT SAVE_DIR [SETTING=NUMBER ...]

Prints one line of JSON with its port when it is up (a seed has checked its files by then), and takes commands as lines
of JSON:

    {"connect": [["10.1.0.2", 6881], ...]}     connect to these peers: begin
    {"report": true}                           print a line with its counters

While it downloads it prints {"part": 0.25} a few times a second where it has more, {"live_at": TIME} at once when the
last piece is checked, and {"written": TIME} (monotonic clock) when all is in the files, since pieces are checked before
they are written. It ends with its standard input.

Nothing here knows of ISPs: libtorrent has no notion of locality, and choosing its peers by hand would be a scheduler of
our own.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Final

# By name: there are wheels for some machines only, and types must be checked on the others too.
lt: Any = import_module("libtorrent")

PORT: Final = 6881
PIECE_BYTES_MIN: Final = 256 << 10
PIECE_BYTES_MAX: Final = 1 << 20
PIECES: Final = 1024
"""Aimed at: enough for every peer to have something that others lack, few enough to cost little."""

PROGRESS_S: Final = 0.2
IDLE_MS: Final = 20

SETTINGS: Final[dict[str, Any]] = {
    # One network of one owner, all of it told at the start: no discovery, no encryption, plain TCP.
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "out_enc_policy": int(lt.enc_policy.disabled),
    "in_enc_policy": int(lt.enc_policy.disabled),
    # No limit but the links: everybody may upload to everybody, and nobody is dropped to try another.
    "download_rate_limit": 0,
    "upload_rate_limit": 0,
    "connections_limit": 2000,
    "connection_speed": 1000,
    "unchoke_slots_limit": -1,
    "peer_turnover": 0,
    "smooth_connects": False,
    "mixed_mode_algorithm": int(lt.bandwidth_mixed_algo_t.prefer_tcp),
    # Short queues of 16 KiB requests keep links of some hundred Mbit/s busy, and leave the choice of pieces open for
    # longer: on the 3x4 topology 64 requests took 1.6 times the bound, 200 and 500 took 1.7, and 1500 took 2.0.
    "request_queue_time": 1,
    "max_out_request_queue": 64,
    # Enough read ahead to send without waiting for the disk.
    "max_allowed_in_request_queue": 4000,
    "send_buffer_watermark": 3 << 20,
    "send_buffer_low_watermark": 512 << 10,
    "send_buffer_watermark_factor": 150,
    "max_queued_disk_bytes": 256 << 20,
    "file_pool_size": 100,
    "aio_threads": 4,
    "hashing_threads": 1,
}
"""What differs from libtorrent's defaults."""


def say(record: dict[str, Any]) -> None:
    """Print one line."""
    print(json.dumps(record), flush=True)


def read_commands(commands: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Pass on the lines of standard input; end the process with it."""
    for line in sys.stdin:
        commands.put(json.loads(line))
    os._exit(0)


def make_torrent(source: Path, made: Path) -> None:
    """Write the torrent of directory `source` to `made`: version 1, whose hashes cost the least."""
    total = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    piece = PIECE_BYTES_MIN
    while piece < PIECE_BYTES_MAX and total / piece > PIECES:
        piece *= 2
    torrent = lt.create_torrent(lt.list_files(str(source)), piece, lt.create_torrent.v1_only)
    lt.set_piece_hashes(torrent, str(source.parent))
    made.write_bytes(lt.bencode(torrent.generate()))


def open_torrent(address: str, torrent: str, save_dir: str, settings: dict[str, int]) -> tuple[Any, Any]:
    """Start a session on `address` with the torrent, and wait until the files that are there have been checked.

    Returns session and torrent. `settings` go before `SETTINGS`.
    """
    host, _, port = address.partition(":")
    category = lt.alert.category_t
    alerts = category.status_notification | category.error_notification | category.storage_notification
    session = lt.session(
        {
            **SETTINGS,
            **settings,
            "listen_interfaces": f"{host}:{port or PORT}",
            "alert_mask": int(alerts),
        }
    )
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(torrent)
    parameters.save_path = save_dir
    unwanted = lt.torrent_flags.auto_managed | lt.torrent_flags.paused
    parameters.flags = (parameters.flags | lt.torrent_flags.disable_pex) & ~unwanted
    handle = session.add_torrent(parameters)
    states = lt.torrent_status.states
    while handle.status().state in (states.checking_files, states.checking_resume_data):
        time.sleep(0.05)
    return session, handle


def counters(handle: Any) -> dict[str, int]:
    """Return what the torrent has moved, in bytes of payload."""
    status = handle.status()
    return {
        "sent": status.total_payload_upload,
        "received": status.total_payload_download,
        "wasted": status.total_redundant_bytes + status.total_failed_bytes,
    }


def main() -> None:
    """Run as a process; see the top of this file."""
    address, torrent, save_dir, *pairs = sys.argv[1:]
    settings = {name: int(value) for name, _, value in (pair.partition("=") for pair in pairs)}
    session, handle = open_torrent(address, torrent, save_dir, settings)
    live = handle.status().is_seeding
    session.pop_alerts()
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=read_commands, args=(commands,), daemon=True).start()
    say({"ready": address, "port": session.listen_port(), "seed": live})
    part, told_at, begun = 0.0, 0.0, False
    while True:
        # A command waits for this to end; the first one, to begin, must not wait for long.
        session.wait_for_alert(int(PROGRESS_S * 1000) if begun else IDLE_MS)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.torrent_finished_alert) and not live:
                live = True
                say({"live_at": time.time()})
                handle.flush_cache()
            elif isinstance(alert, lt.cache_flushed_alert) and live:
                say({"written": time.monotonic()})
            elif isinstance(alert, (lt.torrent_error_alert, lt.file_error_alert)):
                print(alert.message(), file=sys.stderr, flush=True)
        while not commands.empty():
            command = commands.get()
            begun = True
            for peer in command.get("connect", ()):
                handle.connect_peer(tuple(peer))
            if "report" in command:
                say({"counters": counters(handle)})
        if not live and time.monotonic() - told_at >= PROGRESS_S:
            told_at = time.monotonic()
            now = handle.status().progress
            if now > part:
                part = now
                say({"part": part})


if __name__ == "__main__":
    main()
