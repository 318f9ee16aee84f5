"""Rooms and floors: imports run downwards only; light modules never bring torch in; exports are exact."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from places import SOURCE

FLOORS = [
    ["errors", "precision", "quickstart"],
    ["records", "statistics", "files"],
    ["paper", "grading"],
    ["recipe"],
    ["models", "reporting"],
    ["data"],
    ["distillation", "generation"],
    ["training", "teachers"],
    ["pipeline"],
    ["__init__", "cli"],
    ["__main__"],
]
"""The rooms of the package, lowest first: a room imports only from floors below its own."""
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

MOST_AT_THE_TOP = 24
"""Files and folders of the package's top: a newcomer reads them at one glance."""

LIGHT = [
    "errors",
    "records",
    "files",
    "recipe.schema",
    "recipe.load",
    "grading.grade",
    "data.prompts",
    "data.selection",
    "statistics",
    "pipeline.run_folder",
    "paper.tasks",
    "data.readers",
    "data.audit",
    "paper.download",
    "pipeline.executors",
    "pipeline.run",
    "pipeline.graph",
    "pipeline.records",
    "pipeline.stages",
    "cli.main",
    "pipeline.plan",
    "cli.console",
    "reporting",
    "pipeline.compare",
]
HEAVY = {"torch", "transformers", "openai", "vllm", "datasets", "ctranslate2", "matplotlib", "peft", "scipy"}

FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
"""Every module by its name within the package."""


def imported(path: Path) -> set[str]:
    """Modules that a file imports, at any depth of its code (a lazy import must not hide a circle)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "mentorkd":
            module = node.module.removeprefix("mentorkd").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}" if module else alias.name
                found.add(inner if inner in FILES else module)
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("mentorkd.")}
    return found - {""}


IMPORTS = {module: imported(path) - {module} for module, path in FILES.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def test_every_import_names_a_module_of_the_package() -> None:
    assert not {module: wrong for module, others in IMPORTS.items() if (wrong := others - FILES.keys())}


def test_every_room_has_a_floor() -> None:
    assert set(FLOOR) == {room(module) for module in FILES}


def test_the_top_is_read_at_one_glance() -> None:
    assert len([path for path in SOURCE.iterdir() if path.name != "__pycache__"]) <= MOST_AT_THE_TOP


@pytest.mark.parametrize("name", FLOOR)
def test_a_room_imports_only_from_lower_floors(name: str) -> None:
    upwards = {
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if room(module) == name != room(other) and FLOOR[room(other)] >= FLOOR[name]
    }
    assert not upwards


@pytest.mark.parametrize("package", sorted({room(module) for module in FILES if "." in module}))
def test_no_circle_between_the_files_of_a_room(package: str) -> None:
    graph = {m: {o for o in others if room(o) == package} for m, others in IMPORTS.items() if room(m) == package}
    assert circle(graph) is None


def test_light_modules_bring_in_nothing_heavy() -> None:
    code = f"import sys; import {', '.join('mentorkd.' + name for name in LIGHT)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("module", [name for name in FILES if name and name != "__main__"])
def test_exports_are_sorted_and_exist(module: str) -> None:
    loaded = importlib.import_module("mentorkd" if module == "__init__" else f"mentorkd.{module}")
    exported = getattr(loaded, "__all__", None)
    if exported is None:
        public = [name for name in vars(loaded) if not name.startswith("_")]
        assert not [name for name in public if getattr(vars(loaded)[name], "__module__", "") == loaded.__name__]
        return
    assert exported == sorted(
        exported, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    ) or exported == sorted(exported)
    for name in exported:
        assert hasattr(loaded, name), f"{module}.__all__ names {name}, which is not there"
