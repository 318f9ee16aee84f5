"""Results that other tools check again: lm-eval asks and grades again, and Inspect reads the log. Each tool is in an environment of
its own, whose programs MENTORKD_LM_EVAL (`lm-eval`) and MENTORKD_INSPECT (`inspect`) name, or PATH has."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mentorkd.pipeline.run import Pipeline
from mentorkd.quickstart.task import write_task
from mentorkd.recipe.load import load_recipe
from mentorkd.sharing.export import export
from mentorkd.sharing.source import Source, open_source
from small_recipe import write_small_recipe
from tiny_models import ONE_LAYER, tiny_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHAT = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"

READ = """
import json, sys
from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries, recompute_metrics, write_eval_log
log = read_eval_log(sys.argv[1])
write_eval_log(log, sys.argv[2])
same = read_eval_log(sys.argv[2]).model_dump(exclude={"location", "etag"}) == log.model_dump(exclude={"location", "etag"})
def metrics():
    (score,) = log.results.scores
    return {name: metric.value for name, metric in score.metrics.items()}
ours = metrics()
recompute_metrics(log)
samples = {
    sample.id: [sample.input, sample.target, sample.output.completion, sample.scores["mentorkd/grade"].value]
    for sample in log.samples
}
summaries = [summary.id for summary in read_eval_log_sample_summaries(sys.argv[1])]
json.dump([log.status, same, ours, metrics(), samples, summaries], sys.stdout)
"""


def program(variable: str, name: str) -> Path:
    """The program of another tool."""
    path = os.environ.get(variable) or shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} found; set {variable} to the program in an environment that has it")
    return Path(path)


def run(*command: object, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a nano T5 of which some texts are correct and some are cut, a causal model, and one with a chat template."""
    folder = tmp_path_factory.mktemp("rechecked")
    models: dict[str, Any] = {"nano": "nano-t5-small"}
    for name, template in (("plain", None), ("chat", CHAT)):
        tokenizer = tiny_tokenizer(append_eos=False, prepend_bos=True)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder / name)
        config = {"model_type": "llama", **ONE_LAYER}
        models[name] = {"tokenizer": str(folder / name), "from_config": config}
    learners = {name: {"model": model} for name, model in models.items()}
    recipe = write_small_recipe(folder, learners=learners)
    write_task(folder / "data", seed=7, train=120, validation=10, test=40, annotated=120, samples=2)
    nano = {"sampling.max_new_tokens": 26, "training.updates": 200, "training.batch_size": 12}
    overrides = ["training.learning_rate=0.001", "training.schedule=linear", "training.warmup_ratio=0.1"]
    overrides += [f"learners.nano.{key}={value}" for key, value in nano.items()]
    Pipeline(load_recipe(recipe, overrides), folder / "run").run()
    return folder / "run"


def expected(source: Source) -> dict[str, tuple[str, str]]:
    """The run's text and verdict for each question."""
    return {each.question_id: (each.text, each.verdict) for each in source.predictions()}


@pytest.mark.parametrize("learner", ["nano", "plain", "chat"])
def test_lm_eval_gives_the_accuracy_of_the_run_to_the_question(finished: Path, tmp_path: Path, learner: str) -> None:
    lm_eval = program("MENTORKD_LM_EVAL", "lm-eval")
    source = open_source(finished, learner, None)
    task = export(source, "lm-eval", tmp_path / "task").folder
    model = export(source, "hf", tmp_path / "model").folder
    readme = (task / "README.md").read_text()
    if learner == "nano":  # the limit of the nano models, 128 tokens, is not that of the learner
        assert "sets `max_new_tokens: 128`" in readme
        config = json.loads((model / "generation_config.json").read_text())
        del config["max_new_tokens"]
        (model / "generation_config.json").write_text(json.dumps(config))
    command = readme.split("```")[1].replace("\\\n", "").strip().splitlines()[-1]
    run(lm_eval, *shlex.split(command.replace("MODEL", str(model)))[1:], cwd=task)
    (log,) = task.glob("results/*/samples_*.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    verdicts = {(1.0, 0.0): "correct", (0.0, 0.0): "wrong", (0.0, 1.0): "no_answer"}
    graded = {row["doc"]["id"]: (row["filtered_resps"][0], verdicts[row["acc"], row["no_answer"]]) for row in rows}
    assert graded == expected(source)
    (results,) = task.glob("results/*/results_*.json")
    (metrics,) = json.loads(results.read_text())["results"].values()
    correct = sum(verdict == "correct" for _, verdict in expected(source).values())
    assert metrics["acc,none"] == correct / len(rows)
    assert learner != "nano" or 0 < correct < len(rows), "else the accuracy would tell nothing"
    assert len({text for text, _ in graded.values()}) > 1, "else the prompts would not matter"


def test_the_copied_grader_reads_formulas_in_a_worker_of_its_own(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    task = export(open_source(finished, "nano", None), "lm-eval", tmp_path / "task").folder
    (package,) = task.glob("*_grading")
    code = f"import sys; sys.path.append('.'); from {package.name}.grade import grade; "
    code += "print(*(grade(text, '0.5', 'math').verdict for text in ('So $\\\\frac{1}{2}$', '--> 3', 'I give up.')))"
    # -I: the worker does not look into the folder by itself, and has to be told where the package is.
    assert run(sys.executable, "-I", "-c", code, cwd=task).split() == ["correct", "wrong", "no_answer"]


def test_inspect_reads_the_log_and_computes_its_metrics(finished: Path, tmp_path: Path) -> None:
    inspect = program("MENTORKD_INSPECT", "inspect")
    source = open_source(finished, "nano", None)
    folder = export(source, "inspect", tmp_path / "logs").folder
    (log,) = folder.iterdir()
    python = inspect.with_name("python")
    status, same, ours, theirs, samples, summaries = json.loads(
        run(python, "-c", READ, log, tmp_path / "again.eval", cwd=tmp_path)
    )
    assert (status, same) == ("success", True)
    assert ours == pytest.approx(theirs)
    values = {"correct": "C", "wrong": "I", "no_answer": "N"}
    questions = source.test_questions()
    texts = expected(source)
    assert samples == {
        question.id: [question.text, question.answer, texts[question.id][0], values[texts[question.id][1]]]
        for question in questions
    }
    assert summaries == [question.id for question in questions]
    assert json.loads(run(inspect, "log", "dump", log, cwd=tmp_path))["eval"]["model"] == "mentorkd/nano"
    run(inspect, "view", "bundle", "--log-dir", folder, "--output-dir", tmp_path / "bundle", cwd=tmp_path)
    assert (tmp_path / "bundle" / "index.html").is_file()
    assert (tmp_path / "bundle" / "logs" / log.name).read_bytes() == log.read_bytes()
