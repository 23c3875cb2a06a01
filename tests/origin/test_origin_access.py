"""Requests on a stranger's behalf: where an order can make a cache send something, and where it cannot."""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from origin.servers import RawServer, head, serve

from p2pfill.errors import ConfigError
from p2pfill.origin import (
    OriginError,
    OriginObjectChanged,
    OriginObjectMissing,
    OriginRefused,
    OriginSettings,
    OriginUnavailable,
    open_origin,
    verify_chunk,
)
from p2pfill.origin.access import _LOOPBACK, _NEVER, OriginAccess, read_access
from p2pfill.origin.urls import check_origin, shown

Start = Callable[..., RawServer]
ROOT = Path(__file__).parents[2] / "p2pfill"


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("AWS_", "SSL_CERT")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")


def settings(*allow: str, directories: tuple[str, ...] = (), is_local: bool = False) -> OriginSettings:
    """Settings of a node that others reach, with a list."""
    access = read_access(allow, directories, is_local=is_local)
    return OriginSettings(
        backoff_base_s=0.01, backoff_max_s=0.02, idle_max_s=5, stall_max_s=1, attempts_max=2, access=access
    )


def refusal(url: str, title: Any, how: OriginSettings, kind: type[OriginError] = OriginRefused) -> OriginError:
    with pytest.raises(kind) as raised:
        open_origin(url, settings=how).read_chunk(title.manifest, 0)
    return raised.value


def in_time(limit_s: float, work: Callable[[], None]) -> None:
    """Do something in a thread of its own, which may hang for ever where the test is to fail for that."""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
            outcome.append(None)
        except BaseException as error:  # noqa: BLE001 (raised again by who waits)
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    assert outcome, f"it hangs, or took longer than {limit_s:g} s"
    if outcome[0] is not None:
        raise outcome[0]


# ---- lists


@pytest.mark.parametrize(
    "entry",
    [
        "", "*.", "ftp://cdn.example", "http://cdn.example/films", "user@cdn.example", "cdn.*.example", "cdn*.example",
        "10.0.0.1/8", "10.0.0.0/33", "[fd00::/8", "cdn.example:0", "cdn.example:99999", "cdn.example:", "s3://",
        "s3://films:80", "s3://films/prefix", "http://", "0x7f.1", "127.1", "a b", "cdn.example?x", "//cdn.example",
        "http://[::1%25lo]",
    ],
)  # fmt: skip
def test_an_entry_that_is_no_place_is_refused_when_the_node_starts(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"origins_allow: .* is no place: write a host"):
        read_access([entry], (), is_local=False)


@pytest.mark.parametrize("directory", ["", "titles", "/srv/../etc", "../x", "/srv/\0"])
def test_a_directory_that_is_not_absolute_is_refused_when_the_node_starts(directory: str) -> None:
    with pytest.raises(ConfigError, match=r"origin_dir .* is no absolute directory"):
        read_access((), [directory], is_local=False)


def fits(access: OriginAccess, url: str, address: str) -> bool:
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    try:
        access.check_place(scheme, host, int(port))
    except OriginRefused:
        return False
    return access.permits(scheme, host, int(port), address)


@pytest.mark.parametrize(
    ("allow", "url", "address", "expected"),
    [
        (["cdn.example"], "http://cdn.example:80", "198.51.100.1", True),
        (["CDN.example."], "http://cdn.example.:80", "198.51.100.1", True),
        (["cdn.example"], "http://x.cdn.example:80", "198.51.100.1", False),
        (["*.cdn.example"], "http://a.b.cdn.example:80", "198.51.100.1", True),
        (["*.cdn.example"], "http://cdn.example:80", "198.51.100.1", False),
        (["*.cdn.example"], "http://evilcdn.example:80", "198.51.100.1", False),
        (["https://cdn.example"], "http://cdn.example:80", "198.51.100.1", False),
        (["https://*"], "https://any.example:443", "198.51.100.1", True),
        (["cdn.example:8080"], "http://cdn.example:80", "198.51.100.1", False),
        (["10.1.0.0/16"], "http://web.corp:80", "10.1.2.3", True),
        (["10.1.0.0/16"], "http://web.corp:80", "10.2.2.3", False),
        (["http://10.1.0.0/16:8080"], "http://web.corp:80", "10.1.2.3", False),
        (["2001:db8::/32"], "http://web.corp:80", "2001:db8::7", True),
        (["[2001:db8::/32]:8080"], "http://web.corp:8080", "2001:db8::7", True),
        (["10.1.0.0/16"], "http://web.corp:80", "::ffff:10.1.2.3", True),
        # A list of names and ranges: one is enough.
        (["cdn.example", "10.1.0.0/16"], "http://web.corp:80", "10.1.2.3", True),
        # What is never meant is opened by an entry for it alone.
        (["*"], "http://web.corp:80", "169.254.169.254", False),
        (["web.corp"], "http://web.corp:80", "169.254.169.254", False),
        (["0.0.0.0/0"], "http://web.corp:80", "169.254.169.254", False),
        (["169.254.169.254"], "http://web.corp:80", "169.254.169.254", True),
        (["169.254.0.0/16"], "http://web.corp:80", "169.254.7.7", True),
        (["*"], "http://web.corp:80", "127.0.0.1", False),
        (["0.0.0.0/0"], "http://web.corp:80", "127.0.0.1", False),
        (["127.0.0.0/8"], "http://web.corp:80", "127.0.0.1", True),
        (["localhost"], "http://localhost:80", "127.0.0.1", True),
        (["localhost"], "http://web.corp:80", "127.0.0.1", False),
        (["s3://films"], "http://web.corp:80", "198.51.100.1", False),
    ],
)
def test_what_a_list_lets_through(allow: list[str], url: str, address: str, expected: bool) -> None:
    assert fits(read_access(allow, (), is_local=False), url, address) is expected


NEVER = [
    "169.254.169.254", "169.254.0.1", "fe80::1%eth0", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "0.0.0.0",
    "0.1.2.3", "::", "224.0.0.1", "239.255.255.250", "ff02::1", "255.255.255.255", "240.0.0.1",
    "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::a9fe:a9fe",
]  # fmt: skip
LOOPBACK = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "::7f00:1", "2002:7f00:1::1"]
OPEN = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "198.51.100.7", "2001:db8::7"]


@pytest.mark.parametrize("is_local", [True, False])
def test_what_is_open_where_nothing_is_listed(is_local: bool) -> None:
    access = read_access((), (), is_local=is_local)

    def open_ones(addresses: list[str]) -> list[str]:
        return [one for one in addresses if fits(access, "http://web.corp:80", one)]

    assert open_ones(NEVER) == []
    assert open_ones(LOOPBACK) == (LOOPBACK if is_local else [])
    assert open_ones(OPEN) == OPEN, "origins stand in private networks as a rule"


ENTRIES = st.one_of(
    st.text(max_size=30),
    st.from_regex(r"((https?|s3)://)?(\*\.)?[a-z0-9.\[\]:/*@%-]{1,20}(:\d{1,5})?", fullmatch=True),
)


@given(entry=ENTRIES)
def test_whatever_an_entry_is_it_is_read_or_refused_and_opens_nothing_that_is_never_meant(entry: str) -> None:
    try:
        access = read_access([entry], (), is_local=False)
    except ConfigError:
        return
    if access.entries[0].network is not None:
        return  # those that are meant are opened
    for host in ("cdn.example", "web.corp", "a.b"):
        for address in ("169.254.169.254", "fd00:ec2::254", "127.0.0.1", "::ffff:169.254.169.254"):
            assert not access.permits("http", host, 80, address)


@given(data=st.data(), network=st.sampled_from([str(one) for one in _NEVER + _LOOPBACK]))
def test_no_wide_entry_opens_an_address_that_is_never_meant(data: st.DataObject, network: str) -> None:
    version = ip_network(network).version
    address = data.draw(st.ip_addresses(network=network))
    wide = read_access(["*", "0.0.0.0/0", "::/0", "http://*:80", "cdn.example"], (), is_local=False)
    spelled = [str(address)] if version == 6 else [str(address), f"::ffff:{address}", f"64:ff9b::{address}"]
    for one in spelled:
        assert not wide.permits("http", "cdn.example", 80, one)
    assert read_access([str(address)], (), is_local=False).permits("http", "cdn.example", 80, str(address))


# ---- what is connected to


@pytest.fixture
def other_place() -> Iterator[Callable[[int], socket.socket]]:
    """Return `listen(port)`: a listener on another address of this machine, at which nobody must knock."""
    opened: list[socket.socket] = []

    def listen(port: int) -> socket.socket:
        opened.append(socket.create_server(("127.0.0.2", port)))
        opened[-1].setblocking(False)
        return opened[-1]

    yield listen
    for one in opened:
        one.close()


def knocks(listener: socket.socket) -> int:
    count = 0
    with suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


SPELLINGS = [
    "127.0.0.1", "localhost", "localhost.", "LOCALHOST", "x.localhost", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[0:0:0:0:0:FFFF:7F00:0001]", "0.0.0.0", "[::]", "①②⑦.0.0.1", "127。0。0。1", "2130706433", "0x7f000001",
    "0177.0.0.1", "127.1", "127.0.0.1.", "user:pass@127.0.0.1", "example.com@127.0.0.1", "[::1%25lo]",
    "%31%32%37.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", SPELLINGS)
def test_ssrf_however_the_address_of_the_machine_is_spelled(host: str, start: Start, make_title: Any) -> None:
    title = make_title({"f": b"content"})
    server = start(serve(title.stream))
    # Some are no hosts at all, which is said when they are ordered.
    with pytest.raises((ConfigError, OriginRefused, OriginUnavailable)) as raised:
        open_origin(f"http://{host}:{server.port}/film", settings=settings()).read_chunk(title.manifest, 0)
    assert server.seen == []
    assert "user:pass" not in str(raised.value)


@pytest.mark.parametrize("size", [1, 127, 70_000])
def test_ssrf_through_the_path_of_tiny_files(size: int, start: Start, make_title: Any) -> None:
    """A file of a few bytes is asked for as a whole, without a range: the same door."""
    title = make_title({"tiny": bytes(size), "empty": b""})
    server = start(serve(bytes(size)))
    error = refusal(server.url, title, settings())
    assert server.seen == []
    assert "this cache may not read from there" in error.told
    assert "origins_allow" in error.told
    chunk = open_origin(server.url, settings=settings("127.0.0.1")).read_chunk(title.manifest, 0)
    assert bytes(chunk.data) == title.chunk(0)


def test_ssrf_through_redirects(start: Start, make_title: Any, other_place: Any) -> None:
    title = make_title({"f": b"content"})
    inner = start(serve(title.stream))
    elsewhere = other_place(inner.port)
    for target in (
        f"{inner.url}/secret", f"//127.0.0.1:{inner.port}/secret", f"http://127.0.0.2:{inner.port}/",
        f"http://localhost:{inner.port}/", f"http://[::ffff:7f00:1]:{inner.port}/", "http://169.254.169.254/latest/",
        "http://metadata.google.internal/", "file:///etc/passwd", "gopher://127.0.0.1/", f"http://0:{inner.port}/",
        f"http://a:b@127.0.0.1:{inner.port}/",
    ):  # fmt: skip
        answer = head(302, Location=target, Content_Length=0)
        gate = start(lambda request, connection, answer=answer: connection.sendall(answer))
        error = refusal(gate.url, title, settings(f"127.0.0.1:{gate.port}"), OriginError)
        assert len(gate.seen) <= 2, "the origin itself is listed"
        assert str(inner.port) not in error.told, target
        assert "secret" not in error.told
    assert inner.seen == []
    assert knocks(elsewhere) == 0
    # Nor is told where they lead that may be asked.
    answer = head(302, Location=f"http://127.0.0.3:{inner.port}/secret", Content_Length=0)
    gate = start(lambda request, connection: connection.sendall(answer))
    error = refusal(gate.url, title, settings("127.0.0.0/8"), OriginUnavailable)
    assert "127.0.0.3" in str(error)
    assert error.told.startswith("the place to which it redirects does not answer; ")
    # Where both are listed, redirects are followed as ever.
    gate = start(lambda request, connection: connection.sendall(head(302, Location=inner.url, Content_Length=0)))
    both = settings(f"127.0.0.1:{gate.port}", f"127.0.0.1:{inner.port}")
    assert bytes(open_origin(gate.url, settings=both).read_chunk(title.manifest, 0).data) == b"content"


def test_dns_rebinding_changes_nothing_between_the_check_and_the_connection(
    start: Start, make_title: Any, other_place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = make_title({"f": b"content"})
    server = start(serve(title.stream))
    inner = other_place(server.port)
    answers = [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2", "127.0.0.1"]]
    asked: list[str] = []

    def lookup(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        addresses = answers[(len(asked) - 1) % len(answers)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    how, url = settings("127.0.0.1"), f"http://rebinds.example:{server.port}"
    assert bytes(open_origin(url, settings=how).read_chunk(title.manifest, 0).data) == b"content"
    assert len(asked) == 1, "a second look-up could have another answer"
    error = refusal(url, title, how)
    assert "127.0.0.2" in str(error), "the log says where it leads"
    assert "127.0.0.2" not in error.told, "and nobody else is told: it would be a way to look names up in there"
    # Of several addresses those that are not allowed are passed by.
    assert bytes(open_origin(url, settings=how).read_chunk(title.manifest, 0).data) == b"content"
    assert knocks(inner) == 0


def test_a_proxy_looks_names_up_itself_so_the_name_must_be_listed(
    start: Start, make_title: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = make_title({"f": b"content"})
    proxy = start(serve(title.stream))
    monkeypatch.setenv("http_proxy", proxy.url)

    def reads(host: str, *allow: str) -> bool:
        try:
            open_origin(f"http://{host}/film", settings=settings(*allow)).read_chunk(title.manifest, 0)
        except OriginRefused:
            return False
        return True

    assert reads("cdn.example")
    assert reads("cdn.example", "*.example")
    before = len(proxy.seen)
    assert not reads("cdn.example", "other.example")
    assert not reads("cdn.example", "10.0.0.0/8"), "a range says nothing of a name"
    assert not reads("10.1.2.3", "cdn.example")
    for host in ("localhost", "x.localhost", "127.0.0.1", "169.254.169.254", "metadata.google.internal"):
        assert not reads(host)
        assert not reads(host, "*")
    assert len(proxy.seen) == before
    assert reads("10.1.2.3", "10.0.0.0/8")


# ---- TLS


def test_tls_verification_is_switched_off_nowhere(
    start: Start, make_title: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches = re.compile(r"CERT_NONE|check_hostname *= *False|verify *= *False|_unverified|invalid_cert")
    for path in (ROOT / "origin").rglob("*.py"):
        assert not switches.search(path.read_text()), path
    for name in ("PYTHONHTTPSVERIFY", "SSL_VERIFY", "NODE_TLS_REJECT_UNAUTHORIZED"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("AWS_ALLOW_INVALID_CERTIFICATES", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    title = make_title({"f": b"content"})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = start(serve(title.stream), context)
    for url in (server.url, f"s3://films/x?endpoint={server.url}"):
        error = refusal(url, title, settings(is_local=True))
        assert "does not verify" in error.told
    assert server.seen == []


def test_http_is_hard_coded_nowhere(start: Start, make_title: Any) -> None:
    """What is https is asked under TLS, whatever port it has; what is listed under https is not asked without."""
    title = make_title({"f": b"content"})
    plain = start(serve(title.stream))
    url = f"https://127.0.0.1:{plain.port}"
    how = replace(settings("https://127.0.0.1"), connect_max_s=0.3)
    assert "TLS handshake" in refusal(url, title, how, OriginUnavailable).told
    refusal(plain.url, title, settings("https://127.0.0.1"))
    assert plain.seen == []


# ---- buckets


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOURS")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def test_ssrf_through_a_redirect_of_an_object_store(start: Start, make_title: Any, keys: None) -> None:
    title = make_title({"f": b"content"})
    inner = start(serve(title.stream))
    store = start(
        lambda request, connection: connection.sendall(head(307, Location=f"{inner.url}/f", Content_Length=0))
    )
    error = refusal(f"s3://films/x?endpoint={store.url}", title, settings(is_local=True))
    assert len(store.seen) == 1
    assert inner.seen == []
    assert "307" not in error.told


def test_an_order_cannot_have_us_sign_for_an_endpoint_that_nobody_has_listed(
    start: Start, make_title: Any, keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = make_title({"f": b"content"})
    store = start(serve(title.stream))
    url = f"s3://films/x?endpoint={store.url}"
    for allow in ((), ("s3://films",), ("127.0.0.1",), ("s3://other", "127.0.0.1"), ("s3://films", "127.0.0.2")):
        refusal(url, title, settings(*allow))
    assert store.seen == []
    for allow in (("s3://films", "127.0.0.1"), ("s3://*", "http://127.0.0.0/8")):
        assert bytes(open_origin(url, settings=settings(*allow)).read_chunk(title.manifest, 0).data) == b"content"
    # The environment's is the operator's own.
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    for allow in ((), ("s3://films",)):
        origin = open_origin("s3://films/x", settings=settings(*allow))
        assert bytes(origin.read_chunk(title.manifest, 0).data) == b"content"
    refusal("s3://films/x", title, settings("s3://other"))
    assert all("X-Amz-Signature" in request.target for request in store.seen)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    store.seen.clear()
    open_origin("s3://films/x", settings=settings()).read_chunk(title.manifest, 0)
    assert [request.target for request in store.seen] == ["/films/x/f"]


# ---- directories


def test_a_directory_that_nobody_has_named_is_not_looked_at(make_title: Any) -> None:
    title = make_title({"f": b"content"})
    told = set()
    for url in ("file:///etc", "/etc", "/nonexistent", str(title.root), "/etc/passwd", "/root"):
        error = refusal(url, title, settings())
        told.add(error.told)
        assert "origin_dir" in error.told
    assert len(told) == 1, "whether it is there is not told"
    told = {refusal(url, title, settings(directories=(str(title.root),))).told for url in ("/etc", "/nonexistent")}
    assert len(told) == 1


def test_a_directory_that_is_named_is_read_and_nothing_around_it(make_title: Any, tmp_path: Path) -> None:
    title = make_title({"f": b"content"})
    films = tmp_path / "films"
    title.root.rename(films)
    (tmp_path / "films-secret").mkdir()
    (tmp_path / "films-secret" / "f").write_bytes(b"content")
    how = settings(directories=(f"{tmp_path}/films/",))
    for url in (str(films), films.as_uri(), f"{films}/", f"{films}/./", f"/{films}"):
        assert bytes(open_origin(url, settings=how).read_chunk(title.manifest, 0).data) == b"content"
    # The last one would tell whether there is such a directory.
    for url in ("films-secret", "films/../films-secret", "films/..", "", "../films", "films-secret/../films"):
        assert refusal(f"{tmp_path}/{url}", title, how).told == refusal("/nonexistent", title, how).told


def test_links_out_of_a_directory_are_as_if_nothing_were_there(make_title: Any, tmp_path: Path) -> None:
    title = make_title({"sub/f": b"content"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"content")
    (title.root / "inner").mkdir()
    (title.root / "sub" / "f").rename(title.root / "inner" / "f")
    how = settings(directories=(str(title.root),))
    url = str(title.root)

    def told() -> str:
        return refusal(url, title, how, OriginObjectMissing).told

    missing = told()
    for target in (outside / "f", Path("../../outside/f"), Path("/proc/self/environ"), Path("/dev/zero"), Path("/etc")):
        (title.root / "sub" / "f").symlink_to(target)
        assert told() == missing
        (title.root / "sub" / "f").unlink()
    (title.root / "sub").rmdir()
    (title.root / "sub").symlink_to(outside)
    assert told() == missing
    (title.root / "sub").unlink()
    (title.root / "sub").symlink_to("inner")
    assert bytes(open_origin(url, settings=how).read_chunk(title.manifest, 0).data) == b"content", "inside is inside"
    # Where no directory is named, and all is on this machine, any is read as before.
    (title.root / "inner" / "f").unlink()
    (title.root / "inner" / "f").symlink_to(outside / "f")
    anywhere = settings(is_local=True)
    assert bytes(open_origin(url, settings=anywhere).read_chunk(title.manifest, 0).data) == b"content"


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "directory"])
def test_what_is_no_file_in_a_files_place_holds_no_thread(kind: str, make_title: Any) -> None:
    title = make_title({"f": b"content"})
    place = title.root / "f"
    place.unlink()
    bound = socket.socket(socket.AF_UNIX)
    with bound:
        match kind:
            case "fifo":
                os.mkfifo(place)
            case "socket":
                bound.bind(str(place))
            case "device":
                place.symlink_to("/dev/zero")
            case _:
                place.mkdir()

        def read() -> None:
            assert "no plain file" in refusal(str(title.root), title, settings(is_local=True)).told

        in_time(10, read)


def test_a_pipe_that_takes_a_files_place_between_look_and_opening_holds_no_thread(make_title: Any) -> None:
    title = make_title({"f": b"content"})
    place, file, pipe = title.root / "f", title.root / "file", title.root / "pipe"
    place.rename(file)
    os.mkfifo(pipe)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            for one in (file, pipe):
                with suppress(FileExistsError):
                    os.link(one, title.root / "next")
                (title.root / "next").rename(place)

    swapper = threading.Thread(target=swap, daemon=True)
    swapper.start()
    reader = open_origin(str(title.root), settings=settings(is_local=True))
    got = refused = 0

    def read() -> None:
        nonlocal got, refused
        while not got or not refused or got + refused < 200:
            try:
                assert bytes(reader.read_chunk(title.manifest, 0).data) == b"content"
                got += 1
            except (OriginRefused, OriginObjectMissing):
                refused += 1

    try:
        in_time(20, read)
    finally:
        over.set()
        swapper.join()


# ---- what is told


def told_of(answer: bytes, start: Start, title: Any) -> str:
    server = start(lambda request, connection: connection.sendall(answer))
    return refusal(server.url, title, settings(is_local=True), OriginError).told


def test_what_an_origin_answers_is_told_without_figures(start: Start, make_title: Any, tmp_path: Path) -> None:
    title = make_title({"f": bytes(1000)})

    def alike(*answers: bytes) -> str:
        told = {told_of(one, start, title) for one in answers}
        assert len(told) == 1, told
        (text,) = told
        assert not re.search(r"\d", text), text
        return text

    def sized(size: int) -> bytes:
        return head(200, Content_Length=size) + bytes(size)

    size = alike(sized(0), sized(17), sized(999), sized(1001), sized(54_321), head(416, Content_Length=0))
    assert "another size at the origin than when it was published" in size
    assert "restore the file" in size
    (title.root / "f").write_bytes(bytes(54_321))
    assert refusal(str(title.root), title, settings(is_local=True), OriginError).told == size
    short = alike(*(head(200, Connection="close") + b"x" * count for count in (1, 17, 999)))
    assert "does not send what was published" in short
    with pytest.raises(OriginObjectChanged) as wrong:
        verify_chunk("http://cdn.example", title.manifest, 0, b"x" * 1000)
    assert wrong.value.told == short
    assert "not found" in alike(head(404, Content_Length=0), head(410, Content_Length=0))
    assert "access rules" in alike(head(401, Content_Length=0), head(403, Content_Length=0))
    alike(head(400, Content_Length=0), head(405, Content_Length=0), head(418, Content_Length=0))
    alike(head(500, Content_Length=0), head(503, Content_Length=0), head(599, Content_Length=0))
    alike(head(503, Content_Length=0, Retry_After=3600), head(429, Content_Length=0, Retry_After=77_777))
    alike(*(head(200, Content_Encoding=one, Content_Length=3) for one in ("root:x:0:0", "aws4")))


# ---- credentials


def test_credentials_in_a_url_are_refused_when_ordered_and_shown_nowhere() -> None:
    for url in (
        "http://anna:s3cret@cdn.example/film", "HTTPS://anna:s3cret@cdn.example", "https:/anna:s3cret@cdn.example/x",
        "https:anna:s3cret@cdn.example", "//anna:s3cret@cdn.example/film", "s3://anna:s3cret@films/x",
        "s3://films/x?endpoint=https://anna:s3cret@store.example", "ftp://anna:s3cret@cdn.example/x",
        "http://anna:s3cret@cdn.example:99999/", "http://anna:s3cret@/", "http:\\\\anna:s3cret@cdn.example\\x",
        "anna:s3cret@cdn.example", "file://anna:s3cret@cdn.example/x",
        "s3://films/x?endpoint=https://store.example/{path}?sig=s3cret",
    ):  # fmt: skip
        with pytest.raises(ConfigError) as raised:
            check_origin(url)
        assert "s3cret" not in str(raised.value), url
    # Of an order from before that was refused.
    for url, name in (
        ("http://anna:s3cret@cdn.example/film", "http://cdn.example/film"),
        ("https://anna:s3cret@cdn.example/{path}?sig=s3cret", "https://cdn.example/{path}?…"),
        ("s3://anna:s3cret@films/x", "s3://films/x"),
        ("s3://films/x?endpoint=https://anna:s3cret@store.example", "s3://films/x?…"),
        ("http://cdn.example/a@b", "http://cdn.example/a@b"),
        ("/srv/a@b", "/srv/a@b"),
    ):
        assert shown(url) == name
