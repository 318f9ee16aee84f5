from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import typer
import yaml
from pydantic import BaseModel, ValidationError

from mentorkd.cli.app import app
from mentorkd.pipeline.estimates.lengths import Lengths
from mentorkd.pipeline.estimates.memory import training_memory
from mentorkd.recipe.learner import ModelConfig, TrainingConfig
from mentorkd.recipe.load import parse_recipe, recipe_schema
from mentorkd.recipe.sizes import size_of
from places import ROOT, SOURCE

PLANTED = {
    "page.md": ("Clean.\n\nOf the rows, so\nmany are told twice.\n", ["3: so many", "4: are told"]),
    "recipe.yaml": ("name: anew  # likewise\n# some 40 rows\nkey: 'some 40'\n", ["1: likewise", "2: some 40"]),
    "page.html.jinja": ("<p>This design could have seen {{ points }}.</p>", ["1: could have seen"]),
    "code.py": (
        'def told(rows):\n    """Rows of whose text\n    a filter goes\n    on with."""\n    # anew\n    return f"{rows} anew"\n',
        ["1: told", "2: of whose", "3: goes on with", "6: anew"],
    ),
    "filters.md": (
        "`steps_check`, `learnable`\n\n`perplexity` was `learnable`; `learnable` are called so\n",
        ["1: steps_check", "1: learnable"],
    ),
    "clean.md": ("so many rows failed that it stopped; which the student has not seen; they can be told apart\n", []),
}


def check_words(*roots: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/check_words.py", *map(str, roots)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the documentation is built by pip install 'mentorkd[docs]'")
    pytest.importorskip("material", reason="the documentation is built by pip install 'mentorkd[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {page.relative_to(tmp_path / "site").parts[0] for page in (tmp_path / "site").rglob("index.html")}
    assert {"quickstart", "own-data", "api-teacher", "flan-t5", "many-gpus", "method", "api"} <= pages
    assert {"recipe-reference", "commands", "memory"} <= pages
    assert {"tutorial", "concepts", "troubleshooting", "choosing", "from-trl", "share"} <= pages


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The script that generates the references."""
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "scripts" / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faults_at(key: str, model: type[BaseModel], values: dict[str, object]) -> list[object]:
    """What the model finds wrong at a key; other keys may be missing."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        return [fault for fault in error.errors() if fault["loc"][:1] == (key,)]
    return []


def test_every_key_of_a_recipe_has_an_example_that_the_recipe_takes(reference: ModuleType) -> None:
    schema, examples = recipe_schema(), reference.read_examples()
    sections = {"Recipe": schema, **schema["$defs"]}
    models = reference.models()
    assert set(models) == set(sections)
    for name, section in sections.items():
        assert set(examples.get(name, {})) <= set(section["properties"]), name
        for key, field in section["properties"].items():
            assert field.get("description") or "$ref" in field or key in ("kind", "data", "task"), f"{name}.{key}"
            value = reference.example_of(examples, name, key, field)
            assert faults_at(key, models[name], {key: value}) == [], f"{name}.{key}"


def test_the_references_have_every_key_and_every_option(reference: ModuleType) -> None:
    recipe, commands = reference.recipe_page(), reference.commands_page()
    assert "| `epochs` | whole number at least 1 | `20` |" in recipe
    assert "| `seeds` | list of whole number" in recipe
    assert "`[42]`" in recipe
    for command in ("run", "plan", "annotate", "data paper", "cache merge", "recipes", "recipes show"):
        assert f"## mentorkd {command}\n" in commands
    assert "| `--jobs` |" in commands


def test_the_table_of_memory_is_what_plan_estimates(reference: ModuleType) -> None:
    config, lengths = ModelConfig(name="google/flan-t5-large"), Lengths(512, 256, 512, 256, 512, 256, None, 1)
    size = size_of(config)
    assert size is not None
    whole = training_memory("student", size, config, TrainingConfig(batch_size=8), lengths, "gpu").total / 1e9
    rows = [line.split(" | ") for line in reference.memory_page().splitlines() if line.startswith("| `")]
    [row] = [row for row in rows if row[0] == "| `google/flan-t5-large`"]
    assert row[1] == "0.78 B"
    assert row[2].startswith(f"{whole:.0f} (")
    gigabytes = [[float(cell.split()[0]) for cell in row[2:]] for row in rows]
    assert all(cells[0] > cells[1] > cells[3] > cells[4] for cells in gigabytes)  # checkpointing, adapters, 4 bits


def test_the_documents_use_plain_words() -> None:
    checked = check_words()
    assert (checked.stdout, checked.stderr, checked.returncode) == ("", "", 0)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_wording_is_listed_with_its_line(name: str, tmp_path: Path) -> None:
    text, expected = PLANTED[name]
    (tmp_path / name).write_text(text)
    checked = check_words(tmp_path)
    found = [line.removeprefix(f"{tmp_path / name}:") for line in checked.stdout.splitlines()]
    assert [line.split(": ")[0] + ": " + line.split(": ")[1] for line in found] == expected
    assert checked.returncode == bool(expected)


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks_of(document: Path, *languages: str) -> Iterator[str]:
    """The fenced blocks of a document in one of the languages."""
    for language, text in re.findall(r"^```(.*?)\n(.*?)^```$", document.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        if language in languages:
            yield text


COMMANDS = [
    pytest.param(line.removeprefix("$ "), id=f"{document.stem}-{line}")
    for document in DOCUMENTS
    for text in blocks_of(document, "", "console")
    for line in text.splitlines()
    if line.removeprefix("$ ").startswith("mentorkd ")
]


def test_the_documents_have_commands() -> None:
    assert len(COMMANDS) > 60


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_a_document_has_arguments_that_exist(line: str) -> None:
    command: Any = typer.main.get_command(app)
    arguments = shlex.split(re.sub(r" \[.*?\]", "", line), comments=True)[1:]
    while hasattr(command, "commands") and arguments:
        command = command.commands[arguments.pop(0)]
    command.make_parser(click.Context(command)).parse_args(arguments)


RECIPES = [
    pytest.param(document, text, id=f"{document.stem}-{yaml.safe_load(text)['name']}")
    for document in DOCUMENTS
    for text in blocks_of(document, "yaml")
    if re.match(r"(# .*\n)?name: ", text)
]


def test_the_documents_have_recipes() -> None:
    assert {"README", "concepts", "own-data", "from-trl", "from-paper-code", "tutorial"} <= {
        document.stem for document, _ in (each.values for each in RECIPES)
    }


@pytest.mark.parametrize(("document", "text"), RECIPES)
def test_a_whole_recipe_of_a_document_is_valid(document: Path, text: str) -> None:
    parse_recipe(text, source=document.name, base=ROOT)


MESSAGES = [text.strip() for text in blocks_of(ROOT / "docs" / "troubleshooting.md", "text")]


@pytest.fixture(scope="module")
def strings() -> str:
    """All strings of the program but docstrings, one a line, with a gap in the place of each value."""
    lines = []
    for file in sorted(SOURCE.rglob("*.py")):
        docstrings = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):  # breadth first
            if isinstance(node, ast.Expr):
                docstrings.add(id(node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                lines.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                lines.append(node.value)
    return "\n".join(lines)


def test_the_page_of_messages_has_some(strings: str) -> None:
    assert len(MESSAGES) >= 20
    assert "so hidden states can stand for them" not in strings  # the check below can fail


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_page_is_one_of_the_program(message: str, strings: str) -> None:
    parts = [part.strip(" ;:,(") for part in message.split("…")]
    missing = [part for part in parts if len(part) > 3 and part not in strings]
    assert not missing, f"{missing} is in no message of src/mentorkd: update docs/troubleshooting.md"
