"""Rooms and floors: imports run downwards only; light modules never bring torch in; private names stay at home."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from places import ROOT, SOURCE

FLOORS = [
    ["errors", "precision", "printable", "quickstart", "worker_processes"],
    ["records", "files"],
    ["hub"],
    ["paper", "grading"],
    ["recipe"],
    ["models", "reporting"],
    ["data"],
    ["distillation", "generation"],
    ["training", "teachers"],
    ["pipeline"],
    ["web"],
    ["sharing"],
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
    "files.seals",
    "hub.chat",
    "hub",
    "recipe.schema",
    "recipe.load",
    "grading.grade",
    "data.prompts",
    "data.selection",
    "data.splitting",
    "reporting.statistics",
    "pipeline.run_folder",
    "paper.tasks",
    "data.readers",
    "data.audit",
    "paper.download",
    "pipeline.executors.processes",
    "pipeline.executors.inline",
    "pipeline.run",
    "pipeline.graph",
    "pipeline.records",
    "pipeline.stages",
    "cli.app",
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


MODULES = [name for name in FILES if name not in ("__init__", "__main__")]
OUTSIDE = [path for part in ("tests", "benchmarks", "scripts") for path in sorted((ROOT / part).rglob("*.py"))]


def imported_names(path: Path) -> set[tuple[str, str]]:
    """(module, name) of every name that a file imports from the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        (node.module.removeprefix("mentorkd").removeprefix("."), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "mentorkd"
        for alias in node.names
    }


NAMES = {module: imported_names(path) for module, path in FILES.items()}
OUTSIDE_NAMES = {each for path in OUTSIDE for each in imported_names(path)}


@pytest.mark.parametrize("module", MODULES)
def test_private_names_stay_in_their_file(module: str) -> None:
    """A file imports nothing whose name begins with an underscore: such names are the other file's own affair."""
    assert not [(other, name) for other, name in NAMES[module] if name.startswith("_") and not name.startswith("__")]
    importlib.import_module(f"mentorkd.{module}")


@pytest.mark.parametrize("module", MODULES)
def test_a_file_passes_on_no_names_of_others(module: str) -> None:
    """A name is imported from the file that defines it."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    foreign = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    users = [OUTSIDE_NAMES, *(names for other, names in NAMES.items() if other != module)]
    assert not {name for names in users for other, name in names if other == module and name in foreign}
