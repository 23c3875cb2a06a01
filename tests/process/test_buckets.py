"""A bucket as origin: moto, which checks signatures, real processes, and a store that fails one request in five."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from process.bucket_store import BUCKET, BucketStore, Front, at
from process.fleet import Fleet, Title, cli, wait_until

from p2pfill.errors import ConfigError
from p2pfill.origin import (
    OriginObjectMissing,
    OriginRefused,
    OriginSettings,
    OriginUnavailable,
    open_origin,
    verify_chunk,
)
from p2pfill.origin.urls import check_origin

pytestmark = pytest.mark.process

QUICK = OriginSettings(backoff_base_s=0.01, backoff_max_s=0.05, idle_max_s=10, attempts_max=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketStore]:
    """One store for all tests."""
    one = BucketStore(tmp_path_factory.mktemp("store") / "moto.log")
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def signed(store: BucketStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BucketStore:
    """The store, with its credentials in the environment, and nobody's profile."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store


def upload(title: Title, to: str) -> dict[str, object]:
    """Publish a title into a bucket, and return what the command says."""
    arguments = [str(title.root), "--name", title.name, "--chunk-size", str(title.manifest.chunk_size), "--json"]
    done = cli("publish", *arguments, "--out", str(title.fill), "--to", to)
    assert done.code == 0, done
    said: dict[str, object] = json.loads(done.out)
    return said


def test_a_title_is_uploaded_once_and_read_back(signed: BucketStore, make_title: Callable[..., Title]) -> None:
    title = make_title("there and back", 2)
    (title.root / "q#1 ü&+?%41.bin").write_bytes(b"what URLs do not like")
    for path in title.root.rglob("*"):
        os.utime(path, (1.6e9, 1.6e9))  # a store tells whole seconds, so a file of this second might be younger
    said = upload(title, f"s3://{BUCKET}/dir/x y/")
    manifest = type(title.manifest).decode(title.fill.read_bytes())
    assert (said["sent_files"], said["kept_files"]) == (len(manifest.files), 0)
    assert said["origin"] == f"s3://{BUCKET}/dir/x y"
    again = upload(title, f"s3://{BUCKET}/dir/x y")
    assert (again["sent_files"], again["kept_files"]) == (0, len(manifest.files))
    (title.root / "big.bin").write_bytes(os.urandom(1000))
    os.utime(title.root / "big.bin", (4e9, 4e9))
    assert upload(title, f"s3://{BUCKET}/dir/x y")["sent_files"] == 1

    manifest = type(title.manifest).decode(title.fill.read_bytes())
    origin = open_origin(f"s3://{BUCKET}/dir/x y", settings=QUICK)
    for chunk in range(manifest.chunk_count):
        got = origin.read_chunk(manifest, chunk)
        verify_chunk(origin.url, manifest, chunk, got.data)
        assert got.bytes_received == len(got.data)
    origin.close()


def test_what_is_wrong_is_named(
    signed: BucketStore, make_title: Callable[..., Title], monkeypatch: pytest.MonkeyPatch
) -> None:
    title = make_title("wrong", 1)
    upload(title, f"s3://{BUCKET}/wrong")
    manifest, base = title.manifest, f"s3://{BUCKET}/wrong"
    (title.root / "empty").unlink()

    def said(url: str, kind: type[Exception]) -> str:
        origin = open_origin(url, settings=QUICK)
        with pytest.raises(kind) as raised:
            origin.read_chunk(manifest, 0)
        origin.close()
        return str(raised.value)

    assert "not found at the origin" in said(f"s3://{BUCKET}/nowhere", OriginObjectMissing)
    assert "no such bucket" in said("s3://no-such-bucket/x", OriginRefused)
    assert "refused" in said(f"{base}?endpoint=http://127.0.0.1:1", OriginUnavailable)
    secret = signed.environment["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x" + secret)
    text = said(base, OriginRefused)
    assert "SignatureDoesNotMatch" in text
    assert secret not in text
    assert signed.environment["AWS_ACCESS_KEY_ID"] not in text
    # A profile, as other tools of the store keep it.
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    home = Path(os.environ["HOME"])
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "credentials").write_text(
        f"[night]\naws_access_key_id={signed.environment['AWS_ACCESS_KEY_ID']}\naws_secret_access_key={secret}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "night")
    origin = open_origin(base, settings=QUICK)
    verify_chunk(origin.url, manifest, 0, origin.read_chunk(manifest, 0).data)
    origin.close()
    monkeypatch.setenv("AWS_PROFILE", "day")
    with pytest.raises(ConfigError, match="profile"):
        open_origin(base, settings=QUICK)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://", "names no bucket"),
        ("s3://UPPER/x", "names no bucket"),
        ("s3://key:secret@films/x", "credentials"),
        ("s3://films/../x", "relative part"),
        ("s3://films/x?access_key_id=AKIA", "only region and endpoint"),
        ("s3://films/x?region=not a region", "is no region"),
        ("s3://films/x?endpoint=ftp://h", "http or https"),
    ],
)
def test_what_names_no_bucket_is_refused_when_ordered(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        check_origin(url)
    assert "secret" not in str(raised.value)
    assert "AKIA" not in str(raised.value)


def test_a_bucket_is_normalised() -> None:
    assert check_origin("S3://films/a/b/") == "s3://films/a/b"
    url = "s3://films?region=eu-west-1&endpoint=https://store.example:9000/"
    assert check_origin(check_origin(url)) == check_origin(url)


def test_each_byte_leaves_a_store_once_that_fails_one_request_in_five(
    signed: BucketStore, make_title: Callable[..., Title], tmp_path: Path
) -> None:
    title = make_title("busy", 6)
    upload(title, f"s3://{BUCKET}/busy")
    front, fleet = Front(signed.url, fails=0.2, seed=14), Fleet(tmp_path)
    names = ("a1", "a2", "b1")
    try:
        environment = at(front.url, signed.environment)
        fleet.start(("a1", "isp-a"), ("a2", "isp-a"), ("b1", "isp-b"), environment=environment)
        fleet.order(title, [f"s3://{BUCKET}/busy"])
        reports = fleet.live(names, title)
    finally:
        front.close()
        fleet.close()
    assert sum(front.failed[how] for how in ("500", "503", "silence", "cut")) > front.requests / 10
    # A chunk for which a request is silent for too long is asked for by another cache, or anew: few, so here of one
    # in fifty each.
    size, hedges = title.manifest.size, 3 * title.manifest.chunk_size
    kept = sum(report["bytes_origin"] for report in reports.values())
    assert size <= kept <= size + hedges, reports
    # Nothing leaves twice but for those, and what was cut, of that only what had not arrived.
    assert front.sent <= size + hedges
    twice = sum(report["duplicate_bytes"] for report in reports.values())
    assert twice <= hedges + front.cut, (twice, front.cut)


def test_no_credential_gets_to_the_tracker(
    signed: BucketStore, make_title: Callable[..., Title], tmp_path: Path
) -> None:
    title = make_title("secret", 1)
    upload(title, f"s3://{BUCKET}/secret")
    fleet = Fleet(tmp_path)
    secrets = [signed.environment["AWS_ACCESS_KEY_ID"], "x" + signed.environment["AWS_SECRET_ACCESS_KEY"]]
    try:
        fleet.start(("a1", "isp-a"), environment={**signed.environment, "AWS_SECRET_ACCESS_KEY": secrets[1]})
        fleet.order(title, [f"s3://{BUCKET}/secret"])

        def reason() -> str:
            sources = fleet.report("a1", title).get("sources", [])
            return next((source["reason"] for source in sources if source["reason"]), "")

        assert "SignatureDoesNotMatch" in wait_until("it says why", reason)
        texts = [json.dumps(fleet.get("/v1/status")), *(log.read_text() for log in tmp_path.glob("*.log"))]
        texts += [path.read_bytes().decode(errors="replace") for path in tmp_path.glob("tracker.db*")]
        assert not [secret for secret in secrets for text in texts if secret in text]
    finally:
        fleet.close()
