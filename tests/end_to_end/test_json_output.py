"""Every `--json`: one object of the documented form."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
import typer

from command_line import Cli
from finished import copy_run
from mentorkd.cli import outputs
from mentorkd.cli.app import app
from mentorkd.cli.outputs import OUTPUTS
from mentorkd.paper.download import FetchReport
from mentorkd.teachers.cache import RequestCache
from places import ROOT


@pytest.fixture(scope="module")
def folder(small_run: Path) -> Path:
    return small_run


def commands_with_json(group: Any, name: str = "") -> Iterator[str]:
    for part, command in group.commands.items():
        whole = f"{name} {part}".strip()
        if hasattr(command, "commands"):
            yield from commands_with_json(command, whole)
        if any("--json" in parameter.opts for parameter in command.params):
            yield whole


def test_every_command_with_json_has_a_form_and_a_test() -> None:
    assert set(commands_with_json(typer.main.get_command(app))) == set(OUTPUTS)
    tested = {command for command, *_ in CALLS.values()} | {"data paper", "reproduce"}
    assert tested == set(OUTPUTS)


def test_the_document_has_every_command_and_every_field() -> None:
    document = (ROOT / "docs" / "json-output.md").read_text(encoding="utf-8")
    assert all(f"`{command}" in document for command in OUTPUTS)
    nodes = ast.parse(Path(outputs.__file__).read_text(encoding="utf-8")).body
    kinds = [node for node in nodes if isinstance(node, ast.ClassDef)]
    assert len(kinds) > 15
    for kind in kinds:
        section = document.split(f"## {kind.name}\n", 1)[1].split("\n## ", 1)[0]
        assert " ".join((ast.get_docstring(kind) or "").split()) in section
        for field, text in zip(kind.body, kind.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign):
                annotation = ast.unparse(field.annotation).replace(" | ", " or ")
                meaning = " ".join(text.value.value.split())  # type: ignore[attr-defined]
                row = f"| `{field.target.id}` | `{annotation}` | {meaning} |"  # type: ignore[union-attr]
                assert row in section, f"{kind.name}: update docs/json-output.md"


def matches(value: Any, kind: Any) -> bool:
    """Whether a JSON value has a type, all the way down: no key is missing, and none is extra."""
    origin, parts = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        required = {key for key, hint in hints.items() if get_origin(hint) is not NotRequired}
        known = isinstance(value, dict) and required <= value.keys() <= hints.keys()
        return known and all(matches(inner, hints[key]) for key, inner in value.items())
    if origin is NotRequired:
        return matches(value, parts[0])
    if origin is list:
        return isinstance(value, list) and all(matches(inner, parts[0]) for inner in value)
    if origin in (dict, Mapping):
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(matches(key, parts[0]) and matches(inner, parts[1]) for key, inner in pairs)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(matches(value, part) for part in parts)
    if kind in (Any, None, NoneType):
        return kind is Any or value is None
    return isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def test_a_form_is_checked_all_the_way_down() -> None:
    right = {"learner": "a", "seed": 1, "rationale": "", "answer": None, "finished": True}
    assert matches(right, outputs.AskOutput)
    for wrong in ({"seed": "1"}, {"seed": True}, {"answer": 5}, {"more": 1}, {"finished": 1}):
        assert not matches(right | wrong, outputs.AskOutput)
    assert not matches({"learner": "a"}, outputs.AskOutput)
    assert matches({"questions": 1, "faults": {}, "rationales": 3}, outputs.ImportOutput)
    assert not matches({"questions": 1, "faults": {}, "rationales": "3"}, outputs.ImportOutput)
    seed = {"seed": 1, "correct": 1, "wrong": 0, "no_answer": 0, "accuracy": 1, "interval": [0.5, 1]}
    learner = {"learner": "a", "accuracy": 1.0, "interval": [0.5, 1.0], "no_answer": 0.0, "seeds": [seed]}
    assert matches({"questions": 1, "faults": {}, "learners": [learner]}, outputs.EvaluateOutput)
    assert not matches({"questions": 1, "faults": {}, "learners": [learner | {"seeds": [{}]}]}, outputs.EvaluateOutput)


def check(printed: str, command: str, form: int = 0) -> Any:
    """The one object that a command printed, in the form that is documented for it."""
    value = json.loads(printed)
    assert printed.count("\n") == 1
    assert matches(value, OUTPUTS[command][form])
    return value


RECIPE, RUN = "{folder}/recipe.yaml", "{folder}/run"
ASKED = "teacher={kind: openai, model: m, base_url: 'http://localhost:1/v1', api_key_env: null}"
CALLS: dict[str, tuple[str, int, list[str]]] = {
    "run": ("run", 0, ["run", RECIPE, "--run", RUN]),
    "report": ("report", 0, ["report", RUN]),
    "plan": ("plan", 0, ["plan", RECIPE, "--run", RUN]),
    "recipes": ("recipes", 0, ["recipes"]),
    "verify": ("verify", 0, ["verify", RUN]),
    "annotate": ("annotate", 0, ["annotate", RECIPE, "--run", RUN]),
    "annotate --dry-run": ("annotate", 1, ["annotate", RECIPE, ASKED, "--run", "{folder}/new", "--dry-run"]),
    "evaluate": ("evaluate", 0, ["evaluate", RUN, "--questions", "{folder}/data/test.jsonl"]),
    "evaluate --samples": ("evaluate", 1, ["evaluate", RUN, "--learner=student", "--samples=2", "--vote"]),
    "ask": ("ask", 0, ["ask", RUN, "Tom has 3 apples. How many?"]),
    "export": ("export", 0, ["export", RUN, "--to", "{folder}/exported", "--check"]),
    "inspect": ("inspect", 0, ["inspect", "{store}"]),
    "import": ("import", 0, ["import", "{folder}/data/teacher.jsonl", "--answer", "number", "--output", "{folder}/in"]),
    "import questions": ("import", 0, ["import", "{folder}/data/test.jsonl", "--answer=number", "--output={folder}/i"]),
    "compare": ("compare", 0, ["compare", RUN, "{folder}/second", "--out", "{folder}/compared"]),
    "cache merge": ("cache merge", 0, ["cache", "merge", "{folder}/all.sqlite", "{folder}/one.sqlite"]),
    "cache export": ("cache export", 0, ["cache", "export", "{folder}/one.sqlite", "{folder}/replies.jsonl"]),
    "quickstart": ("quickstart", 0, ["quickstart", "--run", "{folder}/quick"]),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_command_prints_one_object_of_its_form(
    cli: Cli, folder: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, form, arguments = CALLS[case]
    store = next((folder / "run/learners/mentor/seed-1/soft_labels").iterdir())
    if command.startswith("cache"):
        RequestCache(folder / "one.sqlite").close()
    if command == "compare" and not (folder / "second").exists():
        copy_run(folder / "run", folder / "second")
    if command == "quickstart":  # its own run takes minutes
        monkeypatch.setattr("mentorkd.pipeline.run.Pipeline.run", lambda self, **_: None)
        copy_run(folder / "run", folder / "quick")
    places = [argument.replace("{folder}", str(folder)).replace("{store}", str(store)) for argument in arguments]
    told = cli(*places, "--json")
    assert told.code == 0, told.err
    check(told.out, command, form)
    assert all(json.loads(line)["event"] for line in told.err.splitlines())


def test_the_paper_s_data(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = FetchReport(tmp_path, ("a",), (), ("b",), 5)
    monkeypatch.setattr("mentorkd.paper.download.fetch_paper_data", lambda *_, **__: fetched)
    assert check(cli("data", "paper", tmp_path, "--json").out, "data paper")["present"] == ["b"]


def test_reproduce_lists_tables_and_gives_a_reason_once(cli: Cli, tmp_path: Path) -> None:
    assert "table2" in check(cli("reproduce", "--json").out, "reproduce", 1)
    arguments = ["reproduce", "table2", "--task", "asdiv", "--data", tmp_path]
    told = cli(*arguments, "--json")
    notes = check(told.out, "reproduce")["notes"]
    assert told.code == 2
    assert sum("downloads the paper's data" in note for note in notes) == 1
    shown = cli(*arguments)
    assert (shown.out + shown.err).count("downloads the paper's data") == 1
