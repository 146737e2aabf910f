"""The house: which room may use which, drawn from the imports in the sources. Nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "weightkit"

FLOORS = (
    {"core"},
    {"families"},
    {"blobs", "streams", "manifests"},
    {"catalog", "containers", "ops"},
    {"run"},
    {"checkpoints"},
    {"methods"},
    {"proof"},
    {"doors"},
    {"cli"},
)
"""Lowest first. A room uses rooms below it, never one beside it."""

DOORS = {
    "virtual",
    "recover",
    "merge",
    "convert",
    "diff",
    "xor",
    "verify",
    "manifest",
    "identify",
    "inspect",
    "explain",
    "fetch",
    "publish",
    "trying",
}
"""The modules at the root: front doors, one for each job."""

ONLY_PLANS = {"checkpoints", "methods"}
"""Rooms that know plans, and nothing of how they are carried out."""

TORCH = {"ops", "core.compute"}
"""Where torch is imported: a room, and a module."""

TRANSFORMERS = {"trying"}
"""Where transformers is imported, and not before it is asked for: one door, which lets a model answer."""

GGUF = {"checkpoints.gguf_vocabulary"}
"""Where llama.cpp's package is imported, once it is asked for."""


def modules() -> dict[str, ast.Module]:
    """Every module's tree, by its name within the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = ast.parse(path.read_text())
    return found


TREES = modules()


def imports(tree: ast.Module) -> Iterator[str]:
    """What a module imports, functions' imports included; what only types need is left out."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{one.name}" for one in node.names)


def arrows() -> dict[str, set[str]]:
    """Module -> the modules of the house that it imports."""
    found: dict[str, set[str]] = {}
    for name, tree in TREES.items():
        found[name] = set()
        for target in imports(tree):
            inside = target.removeprefix("weightkit.") if target.startswith("weightkit.") else None
            while inside and inside not in TREES:
                inside = inside.rpartition(".")[0]
            if inside and inside != name:
                found[name].add(inside)
    return found


ARROWS = arrows()


def room(name: str) -> str:
    """The room that a module is in."""
    first = name.partition(".")[0]
    return "doors" if first in DOORS else first


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(name) in rooms)


def inside() -> list[str]:
    return [name for name in TREES if name not in ("", "__main__")]


def test_a_root_module_is_a_front_door() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__"} == DOORS
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == {one for rooms in FLOORS for one in rooms} - {"doors"}


def test_imports_point_down() -> None:
    wrong = [
        f"{name} -> {other}"
        for name in inside()
        for other in sorted(ARROWS[name])
        if other and room(other) != room(name) and floor(other) >= floor(name)
    ]
    assert wrong == []


def test_a_door_imports_no_door() -> None:
    assert [f"{a} -> {b}" for a in sorted(DOORS) for b in sorted(ARROWS[a]) if b in DOORS] == []


def test_no_circle() -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(ARROWS[name]):
                if not name.startswith(f"{other}."):  # a module may use the room it is in
                    visit(other, (*way, name))
            done.add(name)

    for name in inside():
        visit(name, ())


def test_who_makes_plans_does_not_carry_them_out() -> None:
    wrong = [
        f"{name} -> {other}"
        for name in inside()
        if room(name) in ONLY_PLANS
        for other in sorted(ARROWS[name])
        if room(other) == "run" and other not in ("run", "run.plan")
    ]
    assert wrong == []


def test_torch_is_imported_where_it_is_computed() -> None:
    wrong = [
        name
        for name, tree in TREES.items()
        if room(name) not in TORCH and name not in TORCH and any(one.partition(".")[0] == "torch" for one in imports(tree))
    ]
    assert wrong == []


def test_transformers_is_imported_where_a_model_is_asked() -> None:
    named = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("import_module")
        and any(isinstance(one, ast.Constant) and str(one.value).partition(".")[0] == "transformers" for one in node.args)
    }
    assert named == TRANSFORMERS
    assert [name for name, tree in TREES.items() if any(one.partition(".")[0] == "transformers" for one in imports(tree))] == []


def test_llama_cpps_package_is_imported_in_one_place() -> None:
    assert {name for name, tree in TREES.items() if any(one.partition(".")[0] == "gguf" for one in imports(tree))} == GGUF


@pytest.mark.parametrize("name", ["xor-enc", "xor-block"])
def test_a_method_is_named_in_its_own_room(name: str) -> None:
    """And in the catalog's list of the words that recipes use."""
    named = [
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == name and room(module) not in ("methods", "catalog")
    ]
    assert named == []


def test_a_format_is_named_in_its_own_room() -> None:
    named = {
        f"{module}:{node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in ("bin", "safetensors") and room(module) not in ("containers", "cli")
    }
    assert named == set()
