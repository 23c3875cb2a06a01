"""nginx over two caches: one ETag and one Last-Modified, so that a viewer may change the cache within a file."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from origin.nginx import Nginx

from p2pfill.store import Store, publish

pytestmark = pytest.mark.nginx


def validators(url: str) -> tuple[str | None, str | None]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.headers["ETag"], answer.headers["Last-Modified"]


def test_what_nginx_sends_counts_as_the_last_use(tmp_path: Path, nginx: Callable[[Path], Nginx]) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "m.bin").write_bytes(os.urandom(200_000))
    manifest = publish(tmp_path / "tree", name="film").manifest
    with Store.open(tmp_path / "a1") as store:
        title = store.begin_fill(manifest)
        title.write_chunk(0, (tmp_path / "tree" / "m.bin").read_bytes())
        title.commit([0])
        title.go_live()
        (before,) = store.uses([manifest.title_id])
        assert before.read_at == 0.0
        url = nginx(tmp_path / "a1" / "live").url
        with urllib.request.urlopen(f"{url}/film/m.bin", timeout=10) as answer:
            assert len(answer.read()) == 200_000
        (after,) = store.uses([manifest.title_id])
        if os.statvfs(tmp_path).f_flag & os.ST_NOATIME:
            pytest.skip("the file system keeps no times of reading")
        assert after.read_at == after.used_at > time.time() - 60


def test_two_caches_give_the_validators_of_the_origin(tmp_path: Path, nginx: Callable[[Path], Nginx]) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "m.bin").write_bytes(os.urandom(200_000))
    (tree / "sub" / "empty").touch()
    os.utime(tree / "m.bin", ns=(0, 1_500_000_000_987_654_321))
    manifest = publish(tree, name="film").manifest
    roots = [tree]
    for name, umask in (("a1", 0o022), ("a2", 0o077)):
        before = os.umask(umask)
        try:
            with Store.open(tmp_path / name) as store:
                title = store.begin_fill(manifest)
                title.write_chunk(0, (tree / "m.bin").read_bytes())
                title.commit([0])
                time.sleep(1.1)  # the clock of the disk has seconds enough to differ
                title.go_live()
        finally:
            os.umask(before)
        roots.append(tmp_path / name / "live" / "film")
    found = [[validators(f"{nginx(root).url}/{path}") for path in ("m.bin", "sub/empty")] for root in roots]
    assert found[0][0] == (f'"{1_500_000_000:x}-{200_000:x}"', "Fri, 14 Jul 2017 02:40:00 GMT")
    assert found[0] == found[1] == found[2]
