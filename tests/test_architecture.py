"""Rooms and floors: a module imports only from lower floors; light modules never bring torch in; exports are exact."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "mentorkd"

FLOORS = {
    "errors": 0,
    "records": 1,
    "teacher_recipe": 1,
    "learner_recipe": 1,
    "recipe": 2,
    "student_t": 2,
    "answers": 2,
    "math_answers": 2,
    "grading": 3,
    "prompts": 3,
    "selection": 3,
    "steps": 3,
    "statistics": 3,
    "store": 3,
    "tasks": 3,
    "losses": 3,
    "hardware": 3,
    "provenance": 4,
    "sources": 3,
    "paper_data": 3,
    "paper_results": 3,
    "quickstart": 3,
    "recipe_yaml": 3,
    "recipe_graph": 3,
    "fused_loss": 4,
    "audit": 4,
    "readers": 4,
    "recipe_checks": 4,
    "encoding": 4,
    "batching": 5,
    "models": 4,
    "head_tap": 4,
    "recipe_defaults": 5,
    "recipe_search": 5,
    "recipe_sweep": 6,
    "recipe_file": 7,
    "soft_labels": 5,
    "schedule": 6,
    "mcc": 5,
    "mentors": 5,
    "objectives": 6,
    "hidden_matching": 7,
    "trainer": 7,
    "trackers": 7,
    "cards": 5,
    "run_files": 5,
    "stage_graph": 8,
    "training": 8,
    "generation": 6,
    "teachers": 7,
    "reporting": 6,
    "stages": 8,
    "estimate": 9,
    "preflight": 9,
    "workbench": 9,
    "work": 10,
    "workers": 11,
    "console": 9,
    "pipeline": 12,
    "cli_options": 12,
    "__init__": 13,
    "teacher_cli": 13,
    "data_cli": 13,
    "init_cli": 13,
    "reproduce": 13,
    "compare": 13,
    "reproduce_cli": 14,
    "compare_cli": 14,
    "cli": 15,
    "__main__": 16,
}

LIGHT = [
    "errors",
    "records",
    "recipe",
    "recipe_file",
    "answers",
    "prompts",
    "selection",
    "statistics",
    "store",
    "tasks",
]
LIGHT += ["readers", "audit", "paper_data", "workers", "pipeline", "cli", "estimate", "console", "reporting", "compare"]
HEAVY = {"torch", "transformers", "openai", "vllm", "datasets", "ctranslate2", "matplotlib", "peft"}


def room(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[0]


def imported(path: Path) -> set[str]:
    """Rooms that a file imports, at any depth of its code (a lazy import must not hide a cycle)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mentorkd"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mentorkd.")}
    return found


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_from_lower_floors(path: Path) -> None:
    mine = room(path)
    assert mine in FLOORS, f"{mine} has no floor; give it one here and in docs/decisions.md"
    for other in imported(path) - {mine, "__version__"}:
        assert other in FLOORS, f"{mine} imports {other}, which is no room of the package"
        assert FLOORS[other] < FLOORS[mine], f"{mine} (floor {FLOORS[mine]}) imports {other} (floor {FLOORS[other]})"


def test_every_floor_names_a_room() -> None:
    assert set(FLOORS) == {room(path) for path in FILES}


def test_light_modules_bring_in_nothing_heavy() -> None:
    code = f"import sys; import {', '.join('mentorkd.' + name for name in LIGHT)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize(
    "module", [".".join(p.relative_to(SOURCE.parent).with_suffix("").parts) for p in FILES if p.stem != "__main__"]
)
def test_exports_are_sorted_and_exist(module: str) -> None:
    loaded = importlib.import_module(module.removesuffix(".__init__"))
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


def test_files_keep_to_one_responsibility() -> None:
    long = {str(path.relative_to(SOURCE)): n for path in FILES if (n := len(path.read_text().splitlines())) > 420}
    assert not long
