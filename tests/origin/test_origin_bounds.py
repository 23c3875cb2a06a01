"""Whatever opening or reading an origin raises leaves as an error of ours that names the origin and the cause."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore import exceptions as obstore_errors

from p2pfill.errors import ConfigError
from p2pfill.origin import OriginError, OriginFault, OriginSettings, OriginUnavailable, open_origin, reader
from p2pfill.origin.buffers import BUFFERS
from p2pfill.origin.directory import DirectoryBackend
from p2pfill.origin.retry_after import parse_retry_after
from p2pfill.origin.urls import check_origin

QUICK = OriginSettings(attempts_max=2, backoff_base_s=0.0, idle_max_s=5.0)

PANIC = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
"""What PyO3 raises where a library in Rust panics; its own class can be imported from nowhere."""

WRONG = [
    ("http://127.0.0.300/", "no IPv4 address"),
    ("http://127.0.0.300:8080/film", "no IPv4 address"),
    ("http://1.2.3/", "no IPv4 address"),
    ("http://1.2.3.4.5/", "no IPv4 address"),
    ("http://0x7f.1/", "no IPv4 address"),
    ("http://2130706433/", "no IPv4 address"),
    ("http://cache.09/", "no IPv4 address"),
    ("http://a..b/", "no host name"),
    ("http://-a.example/", "no host name"),
    ("http://a-/", "no host name"),
    ("http://%/", "no host name"),
    ("http://a<b/", "no host name"),
    ("http://h\\x/", "no host name"),
    (f"http://{'a' * 64}.example/", "no host name"),
    (f"http://{'a.' * 127}example/", "no host name"),
    ("http://./", "no host name"),
    ("http://xn--/", "no host name"),
    (f"http://{'ä' * 100}.example/", "no international domain name"),
    ("http://exa mple/", "blank"),
    ("http://[::1/", "cannot be read"),
    ("http://[::g]/", "::g"),
    ("http://[fe80::1%25eth0]/", "zone"),
    ("http://h:99999/", "Port out of range"),
    ("http://h:0/", "port 0"),
    ("http://h:x/", "Port could not"),
    ("http:///film", "no host"),
    ("https://:80/", "no host"),
    ("http://user:secret@h/", "credentials"),
    ("http://user@h/", "credentials"),
    ("http://h/?key=secret", "has a query"),
    ("http://h/a?file={path}&key=secret", "has a query"),
    ("http://h/#top", "fragment"),
    ("http://h/{path}?key=1#secret", "fragment"),
    ("http://user:secret@h/{path}?key=secret", "credentials"),
    ("http://h:99999/{path}?key=secret", "Port out of range"),
    ("ftp://h/{path}?key=secret", "scheme"),
    ("http://h\n/", "line end"),
    ("http://h/\ud800", "UTF-8"),
    ("http:/h/", "write http://HOST"),
    ("http:h", "write http://HOST"),
    ("ftp://h/", "scheme"),
    (" http://h/", "scheme"),
    ("file://elsewhere/film", "file:///ABSOLUTE"),
    ("file:///film%00", "does not name a directory"),
    ("", "does not name a directory"),
    ("film", "no absolute directory"),
]

RIGHT = [
    ("http://127.0.0.1/", "http://127.0.0.1"),
    ("HTTPS://Origin.example:8443/a film/", "https://Origin.example:8443/a%20film"),
    ("http://[2001:db8::1]:80/x", "http://[2001:db8::1]:80/x"),
    ("http://origin/", "http://origin"),
    ("http://origin_1.example./", "http://origin_1.example."),
    ("http://1e3/", "http://1e3"),
    ("http://münchen.example/ü", "http://münchen.example/%C3%BC"),
    ("https://h/a b/{path}?sig=a/b+c%2F&x=ü", "https://h/a%20b/{path}?sig=a/b+c%2F&x=%C3%BC"),
    ("https://h/{path}", "https://h/{path}"),
    ("file:///srv/a%20film", "/srv/a film"),
    ("/srv/film", "/srv/film"),
    ("file:/srv/a%3A//b", "/srv/a://b"),
    ("/srv/a://b", "/srv/a://b"),
]


@pytest.mark.parametrize(("url", "cause"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_origin_is_refused_by_its_text_alone(url: str, cause: str) -> None:
    with pytest.raises(ConfigError, match=cause.replace("[", "\\[")) as refused:
        check_origin(url)
    assert "secret" not in str(refused.value)
    if url != "film":  # a relative directory is the business of the machine that it lies on
        with pytest.raises(ConfigError):
            open_origin(url)


@pytest.mark.parametrize(("url", "normalised"), RIGHT, ids=range(len(RIGHT)))
def test_a_right_origin_comes_back_normalised(url: str, normalised: str) -> None:
    assert check_origin(url) == normalised
    assert check_origin(normalised) == normalised  # as a cache does with what the tracker has taken


def test_what_is_let_through_can_be_opened() -> None:
    for url, _ in RIGHT:
        if url.lower().startswith("http"):
            open_origin(url).close()


def test_a_password_in_a_url_that_cannot_be_read_is_not_told() -> None:
    with pytest.raises(ConfigError) as refused:
        check_origin("http://user:secret@h:99999/")
    assert "secret" not in str(refused.value)
    assert "99999" in str(refused.value)


def test_a_directory_that_the_system_refuses_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="File name too long"):
        open_origin("/" + "a" * 300)

    def refuse(*_: object, **__: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(ConfigError, match="Permission denied; give the directory"):
        open_origin("/srv/film")


FAULTS: list[BaseException] = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EIO, "Input/output error"),
    ValueError("invalid IPv4 address"),
    KeyError("size"),
    RuntimeError("can't start new thread"),
    MemoryError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    obstore_errors.GenericError("generic"),
    obstore_errors.JoinError("join"),
    obstore_errors.UnknownConfigurationKeyError("key"),
    obstore_errors.InvalidPathError("path"),
    obstore_errors.NotFoundError("not found"),
    obstore_errors.UnauthenticatedError("who"),
    ExceptionGroup("several", [OSError(errno.EPIPE, "Broken pipe"), KeyError("x")]),
    PANIC("a panic"),
]


def raiser(fault: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise fault

    return fail


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_whatever_opening_raises_is_a_wrong_url(fault: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "WebBackend", raiser(fault))
    with pytest.raises(ConfigError, match=r"origin 'http://origin/film' cannot be opened: .*; check that") as refused:
        open_origin("http://origin/film")
    assert refused.value.__cause__ is fault


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("where", ["file", "sign", "map", "plan", "wait"])
def test_whatever_reading_raises_is_an_error_of_the_origin(
    fault: BaseException, where: str, make_title: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several files in a chunk, so that threads of the origin read too.
    title = make_title({f"{number}.bin": bytes([number]) * 5000 for number in range(6)})
    target, name = {
        "file": (DirectoryBackend, "_open"),
        "sign": (obstore, "sign"),
        "map": (mmap, "mmap"),
        "plan": (reader.OriginReader, "_jobs"),
        "wait": (reader.OriginReader, "_wait_held"),
    }[where]
    monkeypatch.setattr(target, name, raiser(fault))
    url = "s3://films/x?endpoint=http://127.0.0.1:1" if where == "sign" else str(title.root)
    origin = open_origin(url, settings=QUICK)
    with pytest.raises(OriginError) as failed:
        origin.read_chunk(title.manifest, 0)
    assert url.partition("?")[0] in str(failed.value)
    assert ";" in str(failed.value), "what to do next"
    origin.close()


def test_what_nobody_foresaw_names_its_type(make_title: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    title = make_title({"a.bin": bytes(70_000)})
    origin = open_origin(str(title.root), settings=QUICK)
    BUFFERS.clear()  # else what another test has left is taken
    with monkeypatch.context() as patched:
        patched.setattr(mmap, "mmap", raiser(KeyError("odd")))
        with pytest.raises(OriginFault, match="unexpected KeyError: 'odd'") as failed:
            origin.read_chunk(title.manifest, 0)
        assert isinstance(failed.value.__cause__, KeyError)
    with monkeypatch.context() as patched:
        patched.setattr(mmap, "mmap", raiser(OSError(errno.ENOMEM, "Cannot allocate memory")))
        with pytest.raises(OriginUnavailable, match="Cannot allocate memory"):
            origin.read_chunk(title.manifest, 0)
    assert bytes(origin.read_chunk(title.manifest, 0).data) == title.chunk(0)
    origin.close()


@pytest.mark.parametrize(
    "value",
    ["Sun, 06 Nov 99999999999999999999 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 +999999999999999", "²", "-1", "nan"],
)
def test_a_retry_after_that_is_beyond_all_calendars_is_none(value: str) -> None:
    assert parse_retry_after(value, datetime.now(UTC)) is None
