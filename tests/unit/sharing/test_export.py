"""Exports of whole runs: what is written opens elsewhere, is asked again, and is written whole or not at all."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from causal_run import finish_causal_run
from command_line import Cli
from mentorkd.errors import MissingExtraError, ModelError, RunError, install_command
from mentorkd.models import load_tokenizer
from mentorkd.recipe.learner import ModelConfig
from mentorkd.sharing.export import export
from mentorkd.sharing.forms import gguf as gguf_form
from mentorkd.sharing.lineage import trace
from mentorkd.sharing.source import Source, open_source


@pytest.fixture
def student(small_run: Path) -> Source:
    return open_source(small_run / "run", "student", None)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(finish_causal_run(tmp_path_factory.mktemp("causal")), None, None)


def snippet(folder: Path, question: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the Python in the card prints for a question."""
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    code = code.replace('question = "..."', f"question = {question!r}")
    printed: list[str] = []
    monkeypatch.chdir(folder)
    exec(code, {"print": printed.append})
    return "".join(printed)


def nothing_left(target: Path) -> bool:
    return not [path for path in target.parent.iterdir() if path.name == target.name or path.suffix == ".tmp"]


def test_the_plain_folder_is_asked_by_an_engine_and_by_an_openai_client(
    cli: Cli, small_run: Path, tmp_path: Path
) -> None:
    pytest.importorskip("starlette", reason="the extra `serve` is not installed")
    target = tmp_path / "hf"
    shown = cli("export", small_run / "run", "--learner", "student", "--to", target, "--check", "--json")
    assert shown.code == 0, shown.err
    told = json.loads(shown.out)
    assert (told["form"], told["dtype"], told["learner"], told["seed"]) == ("hf", None, "student", 1)
    assert [check["way"] for check in told["checks"]] == ["transformers", "endpoint"]
    for check in told["checks"]:
        assert check["questions"] == check["agreeing"] == check["equal_texts"] == 10
        assert check["difference"] == 0
    model = small_run / "run/learners/student/seed-1/model"
    assert {path.name for path in target.iterdir()} == {"recipe.yaml", *(path.name for path in model.iterdir())}
    settings = json.loads((target / "generation_config.json").read_text())
    assert settings["max_new_tokens"] == 24  # `sampling.max_new_tokens` of the recipe
    card = (target / "README.md").read_text()
    assert "## Checked after export\n\nWhat was exported was asked the 10 test questions of the run again." in card
    assert re.search(r"^\| endpoint \| [\d.]+ \| [\d.]+ \| 0.0 \[", card, re.MULTILINE)


def test_a_conversion_is_what_other_programs_read(
    cli: Cli, student: Source, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ctranslate2", reason="the extra `ctranslate2` is not installed")
    target = tmp_path / "converted"
    arguments = ["export", small_run / "run", "--learner", "student", "--to", target, "--as", "ctranslate2", "--check"]
    shown = cli(*arguments, "--quiet")
    assert shown.code == 0, shown.err
    assert shown.out.endswith(f"{target}\n")
    assert re.search(r"ctranslate2 .* 10 of 10 ", shown.out)
    assert {path.name for path in target.iterdir()} > {
        "model.bin",
        "config.json",
        "tokenizer.json",
        "generation_config.json",
    }
    tokens = json.loads((target / "shared_vocabulary.json").read_text())
    tokenizer = load_tokenizer(ModelConfig(name=str(student.model())))
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    question, prediction = student.test_questions()[0], student.predictions()[0]
    assert snippet(target, question.text, monkeypatch) == prediction.text


def test_a_conversion_to_int8_is_smaller_and_checked(student: Source, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason="the extra `ctranslate2` is not installed")
    whole = export(student, "ctranslate2", tmp_path / "whole")
    small = export(student, "ctranslate2", tmp_path / "small", dtype="int8", check=True)
    assert (whole.dtype, small.dtype) == ("float32", "int8")
    assert [check.way for check in small.checks] == ["ctranslate2"]
    sizes = [(one.folder / "model.bin").stat().st_size for one in (whole, small)]
    assert sizes[1] < sizes[0] / 2
    assert "library_name: ctranslate2" in (small.folder / "README.md").read_text()


def test_a_causal_model_becomes_a_gguf_file(causal: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
    written = export(causal, "gguf", tmp_path / "gguf", dtype="f32", check=True)
    [check] = written.checks
    assert (check.way, check.agreeing, check.equal_texts) == ("transformers", 10, 10)
    names = {path.name for path in written.folder.iterdir()}
    assert names == {"causal-student-F32.gguf", "Modelfile", "README.md", "recipe.yaml"}
    modelfile = (written.folder / "Modelfile").read_text()
    assert 'FROM ./causal-student-F32.gguf\nTEMPLATE """Q: {{ .Prompt }}\nAnswer:\n"""\n' in modelfile
    card = (written.folder / "README.md").read_text()
    assert "the token ids of 10 test questions are equal" in card
    assert "library_name: gguf" in card


def test_the_default_of_gguf_is_f16(causal: Source, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
    written = export(causal, "gguf", tmp_path / "gguf")
    assert (written.dtype, list(written.checks)) == ("f16", [])
    assert (written.folder / "causal-student-F16.gguf").is_file()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_causal_model_is_converted_too(
    dtype: str, causal: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ctranslate2", reason="the extra `ctranslate2` is not installed")
    written = export(causal, "ctranslate2", tmp_path / "converted", dtype=dtype, check=True)
    if dtype == "float32":
        assert written.checks[0].equal_texts == 10
        assert snippet(written.folder, causal.test_questions()[0].text, monkeypatch) == causal.predictions()[0].text


def test_t5_is_refused_as_gguf_with_the_way_that_works(student: Source, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a model of type t5; .* export it with `--as ctranslate2` or `--as hf`"):
        export(student, "gguf", tmp_path / "gguf")
    assert nothing_left(tmp_path / "gguf")


def test_a_file_that_fails_its_check_is_not_left(
    causal: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ModelError("another model")

    monkeypatch.setattr(gguf_form, "check_file", refuse)
    with pytest.raises(ModelError, match="another model"):
        export(causal, "gguf", tmp_path / "gguf")
    assert nothing_left(tmp_path / "gguf")


def test_a_missing_package_is_named_with_its_command(
    causal: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_form, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        export(causal, "gguf", tmp_path / "gguf")
    assert install_command("gguf") in str(caught.value)


def test_wrong_requests_are_refused_before_anything_is_written(student: Source, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for target, form, dtype, message in [
        ("new", "gguf", "int3", "got --dtype int3; expected one of f16, q8_0, f32"),
        ("new", "hf", "int8", "got --dtype int8; hf has no choice of types"),
        ("new", "onnx", None, "got --as onnx; expected one of hf, ctranslate2, gguf"),
        ("there", "hf", None, "which exists already"),
        ("no/new", "hf", None, "there is no folder"),
        (student.model() / "new", "hf", None, "which lies in the run folder"),
    ]:
        with pytest.raises(RunError, match=message):
            export(student, form, tmp_path / target, dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_answers_to_other_questions_are_not_those_of_the_run(
    student: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = student.test_questions()
    monkeypatch.setattr(Source, "test_questions", lambda self: questions[1:])
    for form in ("inspect", "lm-eval"):
        with pytest.raises(RunError, match="answers other test questions than the run has now"):
            export(student, form, tmp_path / form)


def test_a_learner_of_an_earlier_recipe_is_told(
    student: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace(student)
    assert not caplog.messages
    changed = [replace(stage, fingerprint="another") for stage in student.pipeline.stages]
    monkeypatch.setattr(student.pipeline, "_stages", changed)
    trace(student)
    assert "trained with a recipe or data that the run does not have any more" in caplog.text
