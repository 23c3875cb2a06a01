"""Files that people write, with whatever editor they have, and disks that take no more of ours."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from p2pfill.node import NodeConfig
from p2pfill.tracker.prices import load_prices
from p2pfill.tracker.rights import Grants
from p2pfill.trust.files import replace_file
from p2pfill.trust.fleet_list import read_fleet_list
from p2pfill.trust.publishers import Publishers
from p2pfill.trust.signing import make_key

BOM = b"\xef\xbb\xbf"
"""Which editors on Windows write before a text in UTF-8."""


def test_a_mark_before_a_text_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(BOM + b'users = [{ name = "anna" }]')
    assert list(read_fleet_list(path, "fleet.example")) == ["anna"]
    path.write_bytes(BOM + b'[[grants]]\nwho = "user/anna"\nmay = ["read"]\n')
    Grants(path)
    path.write_bytes(BOM + b'id = "a1"\nisp = "isp-a"\ndata = "d"\n')
    assert NodeConfig.load(path).id == "a1"
    path.write_bytes(BOM + b'currency = "EUR"\n')
    assert load_prices(path).currency == "EUR"
    key = make_key(tmp_path / "key.pem")
    rule = 'rules = [{ titles = "*", publishers = ["s"] }]'
    path.write_bytes(BOM + f'publishers = [{{ name = "s", key = "{key}" }}]\n{rule}'.encode())
    Publishers.load(path)


def test_a_disk_that_is_full_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"before")

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("p2pfill.trust.files.os.write", refuse)
    with pytest.raises(OSError, match=r"No space left on device: .*/state\.json'"):
        replace_file(path, b"after")
    assert path.read_bytes() == b"before"
