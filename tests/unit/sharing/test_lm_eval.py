"""Tests for mentorkd.sharing.forms.lm_eval: the task folder. tests/end_to_end/test_rechecking.py runs it with the real lm-eval."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mentorkd.data.encoding import encode_prompt
from mentorkd.data.prompts import CAUSAL_SEPARATOR
from mentorkd.errors import RunError
from mentorkd.grading.grade import grade
from mentorkd.models import LoadedModel, save_model
from mentorkd.sharing.export import export
from mentorkd.sharing.source import Source, open_source
from tiny_models import tiny_gpt2, tiny_t5, tiny_tokenizer

NAME = "mentorkd_totals_student"
CHAT = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"

GRADE = f"""
import importlib.util, json, sys
assert importlib.util.find_spec("mentorkd") is None
spec = importlib.util.spec_from_file_location("utils", "utils.py")
utils = importlib.util.module_from_spec(spec)
spec.loader.exec_module(utils)
from {NAME}_grading.grade import grade
asked = json.load(sys.stdin)
metrics = [utils.process_results(doc, [text]) for doc, text in asked["texts"]]
grades = [(graded.predicted, graded.verdict) for graded in (grade(*case) for case in asked["cases"])]
json.dump([metrics, grades], sys.stdout)
"""
"""Run in the folder by a Python that sees the standard library alone."""

CASES = [
    ("So B is wrong. --> (C)", "C", "choice", ["A", "B", "C"]),
    ("Not yes, so the answer is no.", "yes", "yes_no", None),
    ("It spells 'neha'. --> neha", "neha", "text", None),
    ("I cannot tell.", "4", "number", None),
]


@dataclass(frozen=True)
class Replaced(Source):
    """A source whose model is another one."""

    folder: Path = Path()

    def model(self) -> Path:
        return self.folder


@pytest.fixture(scope="module")
def source(small_run: Path) -> Source:
    return open_source(small_run / "run", "student", None)


@pytest.fixture(scope="module")
def task(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(source, "lm-eval", tmp_path_factory.mktemp("task") / "task").folder


def read(task: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The task's settings and questions."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: f"!{node.value}")
    settings = yaml.load((task / f"{NAME}.yaml").read_text(), Loader)
    return settings, [json.loads(line) for line in (task / "questions.jsonl").read_text().splitlines()]


def test_the_folder_grades_as_the_run_does_without_mentorkd(source: Source, task: Path) -> None:
    _, rows = read(task)
    predictions = source.predictions()
    assert [row["id"] for row in rows] == [prediction.question_id for prediction in predictions]
    texts = [(row, prediction.text) for row, prediction in zip(rows, predictions, strict=True)]
    texts += [(rows[0], f"So it is {rows[0]['answer']}."), (rows[0], "--> 123456"), (rows[0], "Nobody knows.")]
    asked = json.dumps({"texts": texts, "cases": CASES})
    command = [sys.executable, "-I", "-S", "-c", GRADE]
    done = subprocess.run(command, cwd=task, input=asked, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    metrics, grades = json.loads(done.stdout)
    verdicts = [prediction.verdict for prediction in predictions] + ["correct", "wrong", "no_answer"]
    assert metrics == [{"acc": float(v == "correct"), "no_answer": float(v == "no_answer")} for v in verdicts]
    assert grades == [[graded.predicted, graded.verdict] for graded in (grade(*case) for case in CASES)]


def test_the_task_asks_as_evaluation_does(source: Source, task: Path) -> None:
    settings, rows = read(task)
    questions = source.test_questions()
    assert [row["prompt"] for row in rows] == [question.text for question in questions]
    assert [row["answer"] for row in rows] == [question.answer for question in questions]
    assert (settings["task"], settings["doc_to_text"], settings["num_fewshot"]) == (NAME, "prompt", 0)
    # A decoder's length counts its start token; lm-eval's own limit would count the prompt, which this decoder does not read.
    expected = {"until": [], "do_sample": False, "max_gen_toks": 24, "max_length": 25}
    assert settings["generation_kwargs"] == expected
    readme = (task / "README.md").read_text()
    correct = sum(prediction.verdict == "correct" for prediction in source.predictions())
    assert f"{correct} of {len(questions)}" in readme
    assert "--apply_chat_template" not in readme


def causal(source: Source, folder: Path, *, chat: bool = False, **tokenizer: bool) -> Replaced:
    made = tiny_tokenizer(**tokenizer)
    made.chat_template = CHAT if chat else None
    model = tiny_gpt2(made)
    model.generation_config.repetition_penalty = 1.2
    model.generation_config.max_new_tokens = 99
    save_model(LoadedModel(model, made, "causal"), folder, card="")
    return Replaced(source.pipeline, source.name, source.seed, folder)


@pytest.mark.parametrize(("appends", "argument"), [(False, ""), (True, ",add_bos_token=False")])
def test_a_causal_model_reads_the_separator_and_no_end_token(
    source: Source, tmp_path: Path, appends: bool, argument: str
) -> None:
    other = causal(source, tmp_path / "model", append_eos=appends)
    task = export(other, "lm-eval", tmp_path / "task").folder
    settings, rows = read(task)
    assert all(row["prompt"] == row["question"] + CAUSAL_SEPARATOR for row in rows)
    assert settings["generation_kwargs"] == {
        "until": [],
        "do_sample": False,
        "max_gen_toks": 24,
        "repetition_penalty": 1.0,
    }
    made = tiny_tokenizer(append_eos=appends)
    longest = max(len(encode_prompt(made, "causal", row["question"])) for row in rows)
    readme = (task / "README.md").read_text()
    assert f"--model_args pretrained=MODEL,max_length={longest + 24}{argument} --log_samples" in readme
    assert "`max_new_tokens: 99`" in readme


def test_a_chat_model_is_asked_by_its_template(source: Source, tmp_path: Path) -> None:
    other = causal(source, tmp_path / "model", chat=True, append_eos=False, prepend_bos=True)
    task = export(other, "lm-eval", tmp_path / "task").folder
    assert all(row["prompt"] == row["question"] for row in read(task)[1])
    # The template's text is all that the model reads; the tokenizer would add a token before it.
    assert ",add_bos_token=False --apply_chat_template" in (task / "README.md").read_text()


def test_a_tokenizer_with_half_of_its_tokens_wanted_is_refused(source: Source, tmp_path: Path) -> None:
    other = causal(source, tmp_path / "model", append_eos=True, prepend_bos=True)
    with pytest.raises(RunError, match="lm-eval adds all or none"):
        export(other, "lm-eval", tmp_path / "task")
    assert not (tmp_path / "task").exists()


def test_choices_and_kind_reach_the_grader(source: Source, tmp_path: Path) -> None:
    made = tiny_tokenizer()
    save_model(LoadedModel(tiny_t5(made), made, "seq2seq"), tmp_path / "model", card="")
    recipe = source.pipeline.recipe
    asked = recipe.task.model_copy(update={"answer": "choice", "choices": ["A", "B"]})
    pipeline = type(source.pipeline)(recipe.model_copy(update={"task": asked}), source.pipeline.folder.root)
    other = Replaced(pipeline, source.name, source.seed, tmp_path / "model")
    task = export(other, "lm-eval", tmp_path / "task").folder
    assert "Grader('choice', ['A', 'B'])" in (task / "utils.py").read_text()
