"""The house's promise that dependencies point down only, read from the imports themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "p2pfill"

LAYERS = [
    "errors", "hot", "model", "protocol", "swarm", "engine", "sim", "trust", "store", "origin", "transport", "tracker",
    "node", "plan", "bench", "cli",
]  # fmt: skip
"""From the ground up. A module may import from its own layer and from those before it."""

PURE = ["model", "protocol", "swarm", "engine"]
FORBIDDEN_IN_PURE = {"trio", "anyio", "socket", "os", "threading", "time", "random", "subprocess", "select"}

FORBIDDEN_IN_SIM = FORBIDDEN_IN_PURE - {"random"} | {"datetime", "secrets", "uuid"}
"""The simulator draws chance, but only from generators that it seeds itself (`test_the_simulator_seeds_all_chance`)."""


def imports_of(path: Path, *, for_types_too: bool = False) -> set[str]:
    """Return the dotted names of what the file at `path` imports when it runs, or when its types are checked too."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not for_types_too:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    layer = layer_of(path)
    if layer not in LAYERS:
        pytest.fail(f"{layer} has no place in the house") if path.parent != PACKAGE else None
        return
    for name in imports_of(path, for_types_too=True):
        parts = name.split(".")
        if parts[0] == "p2pfill" and len(parts) > 1 and parts[1] in LAYERS:
            assert LAYERS.index(parts[1]) <= LAYERS.index(layer), f"{path.name} imports {name}, which lies above it"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circle_in(imports: dict[str, set[str]]) -> list[str]:
    """Return the modules of one circle, in order; none where there is none."""
    done: set[str] = set()

    def search(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for other in sorted(imports[name]):
            if found := search(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(imports) if (found := search(name, []))), [])


def test_no_imports_go_in_a_circle() -> None:
    """Not even those that are made for types alone: two modules that name each other are one."""
    names = {module_name(path) for path in modules()}
    imports = {
        module_name(path): {
            module
            for name in imports_of(path, for_types_too=True)
            for module in (name, name.rpartition(".")[0])
            if module in names and module != module_name(path)
        }
        for path in modules()
    }
    for name, others in imports.items():
        # `from p2pfill.node import links` names the package too, but means the module.
        imports[name] = {one for one in others if not any(other.startswith(f"{one}.") for other in others)}
    assert circle_in(imports) == []


def test_a_circle_is_found() -> None:
    assert circle_in({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d"]


@pytest.mark.parametrize(
    "path", [p for p in modules() if layer_of(p) in PURE], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_core_is_pure(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports_of(path)}
    assert not tops & FORBIDDEN_IN_PURE


@pytest.mark.parametrize("path", [p for p in modules() if layer_of(p) == "sim"], ids=lambda path: path.name)
def test_the_simulator_has_a_time_of_its_own(path: Path) -> None:
    names = imports_of(path)
    assert not {name.split(".")[0] for name in names} & FORBIDDEN_IN_SIM
    assert {name for name in names if name.split(".")[0] == "random"} <= {"random.Random"}


def test_the_simulator_seeds_all_chance() -> None:
    for path in (PACKAGE / "sim").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Random":
                assert node.args, f"{path.name} draws from the system's chance"


def test_nothing_but_the_commands_stands_on_the_simulator() -> None:
    for path in modules():
        if layer_of(path) not in ("sim", "cli"):
            assert not [name for name in imports_of(path) if name.startswith("p2pfill.sim")], path
