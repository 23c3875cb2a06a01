"""What is measured in the name of a tree is that tree."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench import loop, starting
from bench.loop import ROOT
from bench.trees import check_tree
from p2pfill import hot
from p2pfill.bench.measure import BenchFailed


def test_a_tree_that_is_whole_is_taken() -> None:
    check_tree(ROOT)


@pytest.mark.parametrize("main", [loop.main, starting.main])
def test_a_directory_without_the_code_is_not_measured_in_its_name(
    main: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(main)
    assert main(["--runs", "1", "--root", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{tmp_path} has no p2pfill/__init__.py" in said.err


def test_a_tree_that_lacks_a_module_is_not_made_whole_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "p2pfill").mkdir()
    (tmp_path / "p2pfill" / "__init__.py").touch()
    with pytest.raises(BenchFailed, match=r"cannot be imported|is of another tree"):
        check_tree(tmp_path)


def test_a_tree_without_its_native_module_has_not_that_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hot.NATIVE:
        pytest.skip("there is no native module")
    # As an installation for development finds what a tree lacks, in another one.
    tree = tmp_path
    shutil.copytree(ROOT / "p2pfill", tree / "p2pfill", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tree / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'p2pfill._native':\n"
        f"            return importlib.util.spec_from_file_location(name, {str(_native_path())!r})\n"
        "sys.meta_path.append(Finder())\n"
    )
    with pytest.raises(BenchFailed, match="build the native module there"):
        check_tree(tree)
    monkeypatch.setenv("P2PFILL_PURE", "1")
    check_tree(tree)


def _native_path() -> Path:
    from p2pfill import _native

    return Path(str(_native.__file__))
