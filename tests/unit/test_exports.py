"""The public surface is small and guarded: what a user may import is listed here, exactly."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mentorkd
from made_up_run import make_inputs
from mentorkd.data.selection import Filter, keep_correct
from mentorkd.distillation.soft_labels import SoftLabelWriter, StoreMeta
from mentorkd.generation.engine import SamplingParams
from mentorkd.models import LoadedModel
from mentorkd.reporting.build import build_results
from mentorkd.reporting.write import write_report
from places import FIXTURES
from tiny_models import tiny_t5, tiny_tokenizer

PUBLIC = [
    "Completion",
    "Engine",
    "Graded",
    "Learner",
    "MentorkdError",
    "Pipeline",
    "Prediction",
    "Question",
    "Rationale",
    "Recipe",
    "SoftLabelStore",
    "__version__",
    "distillation_loss",
    "fused_distillation_loss",
    "grade",
    "load_recipe",
    "open_engine",
    "open_run",
    "read_jsonl",
    "read_questions",
    "read_rationales",
    "read_results",
    "select",
    "write_jsonl",
]


def test_the_public_names_are_exactly_these() -> None:
    assert mentorkd.__all__ == PUBLIC
    assert dir(mentorkd) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(mentorkd, name) is not None


QUESTION = mentorkd.Question.create("What is 1 + 1?", "2", "train")
RATIONALE = mentorkd.Rationale.create(QUESTION.id, "1 + 1 = 2", "2", "correct", "teacher", 0)
PREDICTION = mentorkd.Prediction(QUESTION.id, "student", 0, "so --> 2", "2", "correct", tokens=4, finished=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its recipe and data."""
    folder = tmp_path_factory.mktemp("finished")
    with tarfile.open(FIXTURES / "finished_run.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "finished_run"


def call_records(kind: Callable[..., Any]) -> Callable[[Path], None]:
    """Instances of a record class survive a file."""

    def call(folder: Path) -> None:
        record = {mentorkd.Question: QUESTION, mentorkd.Rationale: RATIONALE, mentorkd.Prediction: PREDICTION}[kind]
        assert mentorkd.write_jsonl(folder / "records.jsonl", [record]) == 1
        assert mentorkd.read_jsonl(folder / "records.jsonl", kind) == [record]

    return call


def call_grade(folder: Path) -> None:
    assert mentorkd.grade("1 + 1 = 2 --> 2", "2.0", "number") == mentorkd.Graded("2", "correct")


def call_grade_of_math(folder: Path) -> None:
    pytest.importorskip("math_verify", reason="the extra `math` is not installed; `make setup` installs it")
    assert mentorkd.grade("so --> 1/2", "0.5", "math") == mentorkd.Graded("1/2", "correct")


def call_select(folder: Path) -> None:
    kept, counts = mentorkd.select([RATIONALE], [Filter("correct", keep_correct)])
    assert (kept, counts[0].after) == ([RATIONALE], 1)


def call_readers(folder: Path) -> None:
    row = {"question": QUESTION.text, "answer": "2", "rationale": RATIONALE.text}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert mentorkd.read_questions(folder / "rows.jsonl", split="train", kind="number") == [QUESTION]
    [rationale] = mentorkd.read_rationales(folder / "rows.jsonl", [QUESTION], kind="number")
    assert (rationale.text, rationale.verdict) == (RATIONALE.text, "correct")


def call_recipes(folder: Path) -> None:
    recipe = mentorkd.load_recipe(folder / "recipe.yaml")
    assert mentorkd.Recipe.model_validate(recipe.model_dump()) == recipe
    assert mentorkd.Learner.model_validate({"model": "nano-t5-small"}).model.name == "nano-t5-small"


def call_losses(folder: Path) -> None:
    hidden, weight, labels = torch.eye(3), torch.eye(3, requires_grad=True), torch.tensor([0, 1, 2])
    plain = mentorkd.distillation_loss(hidden @ weight.T, labels)
    fused = mentorkd.fused_distillation_loss(hidden, weight, labels)
    assert torch.allclose(plain.loss, fused.loss)
    assert plain.loss > 0


def call_engine(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    loaded = LoadedModel(tiny_t5(tokenizer), tokenizer, "seq2seq")
    engine: mentorkd.Engine = mentorkd.open_engine("transformers", loaded=loaded, device=torch.device("cpu"))
    [[completion]] = engine.sample(["What is 1 + 1?"], SamplingParams(max_new_tokens=3), seed=0)
    assert completion == mentorkd.Completion(completion.text, completion.tokens, completion.finish_reason)


def call_runs(folder: Path) -> None:
    recipe = mentorkd.open_run(folder / "run").recipe
    assert "student" in recipe.learners
    pipeline = mentorkd.Pipeline(mentorkd.load_recipe(folder / "recipe.yaml"), folder / "run")
    assert [planned.state for planned in pipeline.plan()].count("done") == 23


def call_results(folder: Path) -> None:
    write_report(build_results(make_inputs()), folder / "report")
    assert mentorkd.read_results(folder / "report")["filters"]


def call_store(folder: Path) -> None:
    head = {"weight": torch.eye(3, 2)}
    rows = {"labels": np.array([0, 2]), "hidden": np.arange(4, dtype=np.uint16).reshape(2, 2)}
    writer = SoftLabelWriter(folder / "store", StoreMeta("hidden", "mentor", "tokenizer", "arrow", 3, 2), head)
    writer.append([(RATIONALE.id, rows)])
    writer.finish()
    store = mentorkd.SoftLabelStore(folder / "store")
    assert (store.ids, store.rows, store.tokens) == ([RATIONALE.id], 1, 2)
    for name, values in store.row(RATIONALE.id).items():
        np.testing.assert_array_equal(values, rows[name])
    assert torch.equal(store.head()[0], head["weight"])


def call_error(folder: Path) -> None:
    assert str(mentorkd.MentorkdError("one line")) == "one line"


CALLS: dict[str, Callable[[Path], None]] = {
    "Completion": call_engine,
    "Engine": call_engine,
    "Graded": call_grade,
    "Learner": call_recipes,
    "MentorkdError": call_error,
    "Pipeline": call_runs,
    "Prediction": call_records(mentorkd.Prediction),
    "Question": call_records(mentorkd.Question),
    "Rationale": call_records(mentorkd.Rationale),
    "Recipe": call_recipes,
    "SoftLabelStore": call_store,
    "distillation_loss": call_losses,
    "fused_distillation_loss": call_losses,
    "grade": call_grade,
    "load_recipe": call_recipes,
    "open_engine": call_engine,
    "open_run": call_runs,
    "read_jsonl": call_records(mentorkd.Question),
    "read_questions": call_readers,
    "read_rationales": call_readers,
    "read_results": call_results,
    "select": call_select,
    "write_jsonl": call_records(mentorkd.Rationale),
}
"""A call with real values for each exported callable."""


def test_every_exported_callable_is_called() -> None:
    assert {name for name in PUBLIC if callable(getattr(mentorkd, name))} == set(CALLS)


@pytest.mark.parametrize("call", [*dict.fromkeys(CALLS.values()), call_grade_of_math], ids=lambda call: call.__name__)
def test_exported_callables_work_with_real_values(call: Callable[[Path], None], finished: Path) -> None:
    call(finished)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mentorkd.nothing


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, mentorkd; assert not {'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
