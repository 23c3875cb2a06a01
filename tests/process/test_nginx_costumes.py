"""Origins as operators run them: nginx in a dozen costumes, and a fleet of two caches in real processes.

Each title is complete, and what has left nginx is little more than one copy; or the true reason is said within seconds
by `explain`, in the node's log and by `fill --wait`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest
import trustme
from measure import check_at_most
from origin.nginx import NginxServers, find_nginx
from origin.servers import RawServer, Request, head, part_of
from ports import free_port
from process.fleet import Fleet, Title, cli, wait_until

pytestmark = [pytest.mark.process, pytest.mark.nginx, pytest.mark.alone]

NAMES = ["a1", "a2"]
SECRET = "of-the-signed-link"

NAMED_S = 5.0
"""So soon the reason must be known."""


class Costume(NamedTuple):
    """`servers` is of nginx: with `{port}`, which caches ask, `{inner}` and `{other}`, which are behind it."""

    servers: str
    query: str = ""
    copies_max: float = 1.05
    reason: str = ""
    scheme: str = "http"


INNER = "server {{ listen 127.0.0.1:{inner}; root '{root}'; %s }}"
BEHIND = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:%s; %s }} }}"
PLAIN = "server {{ listen 127.0.0.1:{port}; root '{root}'; %s }}"
EXPIRES = 4_102_444_800
SIGNATURE = base64.urlsafe_b64encode(hashlib.md5(f"{EXPIRES} {SECRET}".encode()).digest()).decode().rstrip("=")

COSTUMES = {
    "plain": Costume(PLAIN % ""),
    "encoded": Costume(
        INNER % "gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any; gzip_http_version 1.0;"
        + BEHIND % ("{inner}", "proxy_set_header Accept-Encoding gzip;"),
        reason="Content-Encoding: gzip",
    ),
    "chunked": Costume(BEHIND % ("{stream}", "proxy_buffering off;")),
    "ended by the close": Costume(BEHIND % ("{stream}", "proxy_buffering off; chunked_transfer_encoding off;")),
    "no range": Costume(PLAIN % "max_ranges 0;", copies_max=2.0),
    "entity tags that differ": Costume(
        INNER % "etag off; add_header ETag '\"inner\"';"
        + "server {{ listen 127.0.0.1:{other}; root '{root}'; add_header Last-Modified ''; }}"
        "upstream both {{ server 127.0.0.1:{inner}; server 127.0.0.1:{other}; }}"
        "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://both; }} }}"
    ),
    "slow": Costume(PLAIN % "limit_rate 300k;"),
    "redirect": Costume(INNER % "" + PLAIN % "return 302 http://127.0.0.1:{inner}$request_uri;"),
    "tls": Costume(
        "server {{ listen 127.0.0.1:{port} ssl; root '{root}';"
        "ssl_certificate {chain}; ssl_certificate_key {chain}; }}",
        scheme="https",
    ),
    "every fifth fails": Costume(
        'split_clients "$request_id" $is_bad {{ 20% 1; * 0; }}' + PLAIN % "if ($is_bad) {{ return 503; }}"
    ),
    "closes": Costume(PLAIN % "keepalive_requests 1;"),
    "password": Costume(
        PLAIN % "auth_basic films; auth_basic_user_file '{root}/../nobody';", reason="check its access rules"
    ),
    "signed": Costume(
        PLAIN % f"secure_link $arg_md5,$arg_expires; secure_link_md5 '$secure_link_expires {SECRET}';"
        'if ($secure_link != "1") {{ return 403; }}',
        query=f"/{{path}}?md5={SIGNATURE}&expires={EXPIRES}",
    ),
    "signature of the past": Costume(
        PLAIN % f"secure_link $arg_md5,$arg_expires; secure_link_md5 '$secure_link_expires {SECRET}';"
        'if ($secure_link != "1") {{ return 403; }}',
        query=f"/{{path}}?md5={SIGNATURE}&expires=1000000000",
        reason="check its access rules",
    ),
}


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A CA of one's own, and a certificate of it for the loopback address, with its key."""
    place = tmp_path_factory.mktemp("ca")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(place / "chain.pem"))
    return place / "ca.pem", place / "chain.pem"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, ca: tuple[Path, Path]) -> Iterator[Fleet]:
    """Two caches of one ISP, which trust that CA."""
    find_nginx()
    fleet = Fleet(tmp_path_factory.mktemp("pair"))
    try:
        fleet.start(*((name, "isp") for name in NAMES), environment={"SSL_CERT_FILE": str(ca[0])})
        wait_until("both are known", lambda: fleet.alive() == set(NAMES))
        yield fleet
    finally:
        fleet.close()


class Streamer:
    """Says no length: the close ends each answer."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.server = RawServer(self._answer)

    def _answer(self, request: Request, connection: socket.socket) -> bool:
        data = (self._root / unquote(request.target[1:])).read_bytes()
        part, status, headers = part_of(data, request)
        connection.sendall(head(status, Connection="close", **headers) + part)
        return False


class Origin:
    """nginx in a costume, with all that is behind it."""

    def __init__(self, costume: Costume, title: Title, run: Path, chain: Path) -> None:
        self._stream = Streamer(title.root)
        self.port, inner, other = (free_port() for _ in range(3))
        self._ports = {self.port} if "return 302" not in costume.servers else {self.port, inner}
        servers = costume.servers.format(
            port=self.port, inner=inner, other=other, root=title.root, chain=chain, stream=self._stream.server.port
        )
        self.url = f"{costume.scheme}://127.0.0.1:{self.port}{costume.query}"
        self.nginx = NginxServers(run, servers, self.port)

    def sent(self) -> int:
        return sum(self.nginx.sent(port) for port in self._ports)

    def stop(self) -> None:
        self.nginx.stop()
        self._stream.server.stop()


@pytest.fixture
def dressed(tmp_path: Path, ca: tuple[Path, Path]) -> Iterator[Callable[[Costume, Title], Origin]]:
    """Return `dress(costume, title) -> Origin`; it is stopped at the end of the test."""
    origins: list[Origin] = []

    def dress(costume: Costume, title: Title) -> Origin:
        (tmp_path / "nobody").touch()
        origins.append(Origin(costume, title, tmp_path / f"nginx{len(origins)}", ca[1]))
        return origins[-1]

    yield dress
    for origin in origins:
        origin.stop()


def called(kind: str) -> str:
    return f"film {kind}"


@pytest.mark.parametrize("kind", [kind for kind, costume in COSTUMES.items() if not costume.reason])
def test_a_title_is_complete_for_about_one_copy(
    pair: Fleet, tmp_path: Path, dressed: Callable[[Costume, Title], Origin], kind: str
) -> None:
    statuses: list[int] = []

    def copies(number: int) -> float:
        title = Title(tmp_path, f"{called(kind)} {number}", 6 << 20, chunk_size=256 << 10)
        origin = dressed(COSTUMES[kind], title)
        pair.order(title, [origin.url])
        pair.live(NAMES, title)
        origin.stop()
        sent = origin.sent()
        assert title.size <= sent
        statuses.extend(origin.nginx.statuses(origin.port))
        return sent / title.size

    check_at_most(COSTUMES[kind].copies_max, copies)
    said = json.dumps(pair.get("/v1/origins")) + pair.nodes["a1"].text() + pair.nodes["a2"].text()
    assert SIGNATURE not in said
    if kind == "every fifth fails":
        assert 503 in statuses


@pytest.mark.parametrize("kind", [kind for kind, costume in COSTUMES.items() if costume.reason])
def test_what_keeps_a_title_from_being_complete_is_named_at_once(
    pair: Fleet, tmp_path: Path, dressed: Callable[[Costume, Title], Origin], kind: str
) -> None:
    title = Title(tmp_path, called(kind), 2 << 20)
    reason = COSTUMES[kind].reason
    origin = dressed(COSTUMES[kind], title)
    flags = ["--tracker", pair.url, "--origin", origin.url, "--to", "all"]
    assert cli("fill", str(title.fill), *flags).code == 0
    ordered = time.monotonic()

    def explained() -> list[str]:
        return [json.dumps(pair.get(f"/v1/nodes/{name}/explain/{title.id}")) for name in NAMES]

    wait_until("explain says why", lambda: any(reason in text for text in explained()))
    assert time.monotonic() < ordered + NAMED_S
    done = cli("fill", str(title.fill), *flags, "--wait", "--timeout", "0.5")
    assert done.code != 0, done
    assert reason in done.out + done.err, done
    logs = [pair.nodes[name].text() for name in NAMES]
    assert any(reason in line and title.name in line for text in logs for line in text.splitlines()), logs
    assert not any(SIGNATURE in text for text in (*explained(), *logs, done.out, done.err))
    for fill in pair.get("/v1/fills")["fills"]:
        if fill["request"]["title"] == title.id:
            pair.withdraw(fill["fill_id"])
