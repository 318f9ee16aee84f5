"""Teachers that are asked, from the recipe to the report: nothing is paid twice, and no key is given away."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import Cli
from hostile_server import Running, running
from mentorkd.errors import install_command
from mentorkd.recipe.load import parse_recipe
from mentorkd.records import Question, Rationale, read_jsonl
from mentorkd.teachers.cache import RequestCache, export
from places import ROOT
from small_recipe import small_recipe
from tiny_models import memorise, tiny_llama, tiny_tokenizer

KEY = "sk-never-to-be-seen-0123456789"
VARIABLE = "MENTORKD_TEST_KEY"
# Of these the server refuses two, leaves one empty, cuts one and errs in one.
QUESTIONS, SAMPLES = 16, 2
RIGHT = (QUESTIONS - 5) * SAMPLES
ALL = QUESTIONS * SAMPLES


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


@pytest.fixture
def server() -> Iterator[Running]:
    with running("friendly") as started:
        yield started


def write_recipe(folder: Path, teacher: dict[str, Any], **changes: Any) -> Path:
    """A small recipe about sums, with one learner, and `teacher`."""
    recipe = small_recipe(folder)
    learner = {"model": recipe["learners"]["vanilla"]["model"]}
    for split, numbers in (("train", range(QUESTIONS)), ("validation", range(20, 24)), ("test", range(24, 29))):
        rows = [{"question": f"What is {a} + {3 * a}?", "answer": str(4 * a)} for a in numbers]
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {**recipe["training"], "epochs": 1}
    asked = {"samples": SAMPLES, "max_tokens": 64, **teacher}
    recipe |= {"teacher": asked, "learners": {"student": learner}, "training": training, **changes}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def endpoint(server: Running, **settings: Any) -> dict[str, Any]:
    url = {"base_url": server.url, "api_key_env": VARIABLE, "concurrency": 4}
    return {"kind": "openai", "model": "m", "price": {"input": 1.0, "output": 2.0}, **url, **settings}


def requests_to(server: Running) -> int:
    return len(server.statistics()["arrivals"])


def test_endpoint_run_from_questions_to_report(
    cli: Cli,
    server: Running,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe, run = write_recipe(tmp_path, endpoint(server)), tmp_path / "run"
    result = cli("run", recipe, "--run", run)
    assert result.code == 0, result.err
    statistics = server.statistics()
    assert len(statistics["arrivals"]) == ALL
    # Questions that are held out are not paid for.
    assert {prompt.split(" is ")[1].split(" +")[0] for prompt in statistics["attempts"]} == {
        *map(str, range(QUESTIONS))
    }
    facts = json.loads((run / "report" / "run.json").read_text())
    spent = (statistics["input_tokens"] * 1.0 + statistics["output_tokens"] * 2.0) / 1e6
    expected = {
        "questions": QUESTIONS,
        "solved": QUESTIONS - 5,
        "samples": ALL,
        "replies": ALL,
        "correct": RIGHT,
        "refused": 4,
        "empty": 2,
        "cut": 2,
        "lost": 0,
        "requests": ALL,
        "cached": 0,
        "input_tokens": statistics["input_tokens"],
        "output_tokens": statistics["output_tokens"],
    }
    teacher = facts["teacher"]
    assert {name: teacher[name] for name in expected} == expected
    assert teacher["dollars"] == pytest.approx(spent)
    assert teacher["accuracy"] == RIGHT / ALL
    # The server's replies differ in their "Way n", so that none is a duplicate.
    assert teacher["kept"] == RIGHT
    assert teacher["dollars_per_kept"] == pytest.approx(spent / RIGHT)
    results = json.loads((run / "report" / "results.json").read_text())
    assert results["protocol"][0] == (
        f"The teacher: m at {server.url}; 2 samples a question, temperature 0.7, prompt zero_shot_cot."
    )
    assert [(row["filter"], row["before"], row["after"]) for row in results["filters"]] == [
        ("replies", ALL, ALL),
        ("training_questions", ALL, ALL),
        ("whole_replies", ALL, ALL - 8),
        ("correct", ALL - 8, RIGHT),
        ("deduplicate", RIGHT, RIGHT),
    ]
    assert json.loads((run / "manifest.json").read_text())["stages"]["annotate"]["asked"]["requests"] == ALL
    assert f"{ALL} requests, 0 from the cache" in result.err
    assert f"{RIGHT} of {ALL} replies" in (run / "report" / "report.md").read_text()

    changed = cli("run", recipe, "teacher.select={max_per_question: 1, arithmetic: true, min_tokens: 2}", "--run", run)
    assert changed.code == 0, changed.err
    for page in ("report.md", "index.html"):
        text = (run / "report" / page).read_text(encoding="utf-8")
        assert "% of 22 equations could not be checked and were ignored" in text
        assert "length counts tokens of the learner" in text
    assert cli("run", recipe, "--force", "annotate", "--run", run).code == 0
    assert requests_to(server) == ALL

    for file in [file for file in tmp_path.rglob("*") if file.is_file()]:
        assert KEY.encode() not in file.read_bytes(), file
    assert KEY not in result.out + result.err + changed.out + changed.err + caplog.text


def test_more_samples_ask_for_missing_ones_only_and_runs_can_share_a_cache(
    cli: Cli,
    server: Running,
    tmp_path: Path,
) -> None:
    recipe, run = write_recipe(tmp_path, endpoint(server)), tmp_path / "run"
    first = cli("annotate", recipe, "--run", run, "--json")
    assert first.code == 0, first.err
    assert json.loads(first.out)["requests"] == ALL
    assert not (run / "learners").exists()
    more = json.loads(cli("annotate", recipe, "teacher.samples=3", "--run", run, "--json").out)
    assert (more["samples"], more["requests"], more["cached"]) == (QUESTIONS * 3, QUESTIONS * 3, ALL)
    assert requests_to(server) == QUESTIONS * 3
    # How it asks is no reason to ask again, and not even to read the cache.
    gentle = cli("annotate", recipe, "teacher.samples=3", "teacher.concurrency=1", "teacher.retries=9", "--run", run)
    assert "Finished" not in gentle.err
    assert "2 finished stages kept" in gentle.err
    shared = f"teacher.cache={run / 'teacher' / 'requests.sqlite'}"
    other = json.loads(cli("annotate", recipe, shared, "name=other", "--run", tmp_path / "other", "--json").out)
    assert (other["samples"], other["requests"], other["cached"], other["dollars"]) == (ALL, 0, ALL, 0.0)
    assert not (tmp_path / "other" / "teacher" / "requests.sqlite").exists()
    assert requests_to(server) == QUESTIONS * 3


def test_killed_annotation_resumes(cli: Cli, server: Running, tmp_path: Path) -> None:
    recipe, run = write_recipe(tmp_path, endpoint(server, concurrency=1)), tmp_path / "run"
    command = [sys.executable, "-m", "mentorkd", "annotate", str(recipe), "--run", str(run), "--quiet"]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        while requests_to(server) < 8 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = requests_to(server)
    assert 8 <= before < ALL
    assert not (run / "teacher" / "rationales.jsonl").exists()
    result = cli("annotate", recipe, "--run", run, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["cached"] >= before - 1
    # The one in flight at the kill is the only one that may be asked for twice.
    assert requests_to(server) <= ALL + 1
    assert len(read_jsonl(run / "teacher" / "rationales.jsonl", Rationale)) == ALL


def test_interrupted_annotation_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,
    server: Running,
    tmp_path: Path,
) -> None:
    recipe, run = write_recipe(tmp_path, endpoint(server)), tmp_path / "run"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mentorkd.cli.console.JsonReporter.progress", interrupt)
        result = cli("annotate", recipe, "--run", run, "--json")
    assert result.code == 130
    assert result.err.splitlines()[-1] == "mentorkd: interrupted; the same command resumes"
    again = cli("annotate", recipe, "--run", run, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["samples"] == ALL
    assert requests_to(server) <= ALL + 4


def test_budget_stops_before_it_is_crossed_and_a_larger_one_resumes(
    cli: Cli,
    server: Running,
    tmp_path: Path,
) -> None:
    recipe, run = write_recipe(tmp_path, endpoint(server, budget={"requests": 10})), tmp_path / "run"
    for _ in range(2):
        stopped = cli("run", recipe, "--run", run)
        assert stopped.code == 2
        assert "mentorkd: stopped before the budget of 10 requests could be crossed: 10 requests spent" in stopped.err
        assert f"kept in {run / 'teacher' / 'requests.sqlite'}; raise `teacher.budget` and run again" in stopped.err
        assert "10 rationales so far" in stopped.err
        assert requests_to(server) == 10
    assert [p["state"] for p in json.loads(cli("plan", recipe, "--run", run, "--json").out)["stages"]][:2] == [
        "done",
        "resumes",
    ]
    done = cli("annotate", recipe, "teacher.budget={dollars: 1}", "--run", run, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["cached"] == 10
    assert requests_to(server) == ALL


def test_dry_run_and_plan_ask_for_nothing(cli: Cli, server: Running, tmp_path: Path) -> None:
    recipe, run = write_recipe(tmp_path, endpoint(server)), tmp_path / "run"
    result = cli("annotate", recipe, "--dry-run", "--run", run)
    assert result.code == 0, result.err
    for number in range(3):
        assert f"Q: What is {number} + {3 * number}?" in result.out
    assert "What is 3 + 9?" not in result.out
    assert f"requests: {ALL}, and 0 answered from the cache" in result.out
    assert "(estimated by characters, 4 a token)" in result.out
    assert "dollars: at most $0.00" in result.out
    plan = json.loads(cli("plan", recipe, "--run", run, "--json").out)
    rows = {stage["stage"]: stage for stage in plan["stages"]}
    assert rows["annotate"]["rows"] == ALL
    assert rows["annotate"]["tokens"] > ALL * 64
    assert f"teacher: requests: {ALL}, and 0 answered from the cache" in plan["notes"]
    assert requests_to(server) == 0
    assert not run.exists()
    assert cli("annotate", recipe, "--run", run).code == 0
    after = json.loads(cli("annotate", recipe, "teacher.samples=3", "--dry-run", "--run", run, "--json").out)
    assert (after["requests"], after["cached"]) == (QUESTIONS, ALL)
    assert requests_to(server) == ALL


@pytest.mark.parametrize(
    ("profile", "cause"),
    [
        ("refusing", "8 rejected (HTTP 400: "),
        ("dead", "8 server error (HTTP 500: "),
        ("babbling", "8 malformed (got a reply that is not JSON: "),
    ],
)
def test_dead_teacher_is_no_finished_annotation(cli: Cli, tmp_path: Path, profile: str, cause: str) -> None:
    """Fewer requests than those after which the client gives up."""
    with running(profile) as server:
        recipe, run = write_recipe(tmp_path, endpoint(server, retries=0)), tmp_path / "run"
        for command in ("annotate", "run"):
            result = cli(command, recipe, "task.limit_train=4", "--run", run)
            assert result.code == 2
            assert f"8 of the 8 samples asked for got no reply: {cause}" in result.err
            words = {"refusing": "fate 400", "dead": "fate 500", "babbling": "Bad gateway"}[profile]
            assert result.err.count(words) == 1
            assert "max_source_tokens" not in result.err
        forced = cli("annotate", recipe, "task.limit_train=4", "--run", run, "--force")
        assert forced.code == 2  # with no rationale at all there is nothing to go on with
        assert "--force" not in forced.err
    assert not (run / "teacher" / "rationales.jsonl").exists()


def test_teacher_that_dies_before_the_last_questions_is_no_finished_annotation(cli: Cli, tmp_path: Path) -> None:
    with running("dying") as server:
        settings = endpoint(server, retries=0, concurrency=1, budget={"requests": 12})
        recipe, run = write_recipe(tmp_path, settings), tmp_path / "run"
        command = ("annotate", recipe, "task.limit_train=7", "--run", run)
        assert "budget of 12 requests" in cli(*command).err
        result = cli(*command, "teacher.budget.requests=99")
        assert result.code == 2
        assert "2 of the 2 samples asked for got no reply: 2 server error (HTTP 500: " in result.err
        assert "mentorkd annotate RECIPE --force" in result.err
        assert cli(*command, "teacher.budget.requests=99").code == 2
        asked = requests_to(server)
        forced = cli(*command, "teacher.budget.requests=99", "--force", "--json")
        assert forced.code == 0, forced.err
        assert (json.loads(forced.out)["lost"], json.loads(forced.out)["replies"]) == (2, 12)
        assert requests_to(server) == asked + 2
        # What was accepted stays accepted, until it is asked for again.
        assert cli(*command, "teacher.budget.requests=99").code == 0
        assert requests_to(server) == asked + 2


def test_few_missing_samples_are_told_and_asked_for_again_by_force(cli: Cli, tmp_path: Path) -> None:
    with running("dying") as server:
        recipe = write_recipe(tmp_path, endpoint(server, retries=0, concurrency=1))
        command = ("annotate", recipe, "task.limit_train=7", "--run", tmp_path / "run")
        result = cli(*command)
        assert result.code == 0
        assert "2 of the 14 samples asked for got no reply: 2 server error (HTTP 500: " in result.err
        assert cli(*command, "--force").code == 0
        assert requests_to(server) == 16


def test_training_without_any_usable_rationale_blames_no_length(cli: Cli, server: Running, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, endpoint(server, samples=1, select={"min_tokens": 5000}))
    result = cli("run", recipe, "--run", tmp_path / "run")
    assert result.code == 2
    assert f"student: `select` keeps none of the rationales of its sources ({QUESTIONS} of teacher)" in result.err
    assert "max_source_tokens" not in result.err


def test_reply_of_another_model_is_on_record(cli: Cli, tmp_path: Path) -> None:
    with running("other model") as server:
        result = cli("annotate", write_recipe(tmp_path, endpoint(server)), "--run", tmp_path / "run")
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]["annotate"]
    # The endpoint's own filter names no model; it refuses one question.
    assert record["faults"] == [f"{ALL - SAMPLES} of {ALL} replies are of the model a-cheaper-one, not of m"]


def test_endpoint_without_log_probabilities_costs_one_request_and_another_gives_them(cli: Cli, tmp_path: Path) -> None:
    wanted = {"logprobs": True, "temperature": 1}
    with running("without logprobs") as silent:
        recipe, run = write_recipe(tmp_path, endpoint(silent, **wanted)), tmp_path / "run"
        assert "that request goes alone" in cli("plan", recipe, "--run", run).out
        stopped = cli("annotate", recipe, "--run", run)
        assert stopped.code == 2
        assert "the endpoint does not give them: it has no `logprobs`" in stopped.err.splitlines()[-1]
        assert requests_to(silent) == 1
    with running("friendly") as server:
        recipe = write_recipe(tmp_path, endpoint(server, **wanted))
        assert cli("annotate", recipe, "--run", run).code == 0
        assert requests_to(server) == ALL
        rationales = read_jsonl(run / "teacher" / "rationales.jsonl", Rationale)
        # An empty reply and one that a filter kept back have no tokens.
        assert sum("logprobs" in each.meta for each in rationales) == ALL - 2 * SAMPLES
        plain = write_recipe(tmp_path, endpoint(server, temperature=1))
        result = cli("annotate", plain, "--run", run)
        assert result.code == 0, result.err
        assert requests_to(server) == ALL


def test_worker_that_asks_keeps_what_is_in_flight_when_the_run_is_interrupted(tmp_path: Path) -> None:
    with running("steady") as server:
        recipe, run = write_recipe(tmp_path, endpoint(server, concurrency=8)), tmp_path / "run"
        command = [sys.executable, "-m", "mentorkd", "run", str(recipe), "--run", str(run), "--jobs", "2"]
        obeying = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # who started the tests may ignore it
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, env=environment, preexec_fn=obeying) as process:
            while requests_to(server) < 10 and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
        assert process.returncode == 130
        arrivals = requests_to(server)
    with RequestCache(run / "teacher" / "requests.sqlite") as cache:
        assert 10 <= len(cache) == cache.spending().requests == arrivals < ALL
        assert cache.spending().unsure_dollars == 0.0


def test_worked_examples_may_come_from_the_training_file(cli: Cli, tmp_path: Path) -> None:
    teacher = {"kind": "openai", "model": "m", "prompt": "few_shot", "exemplars": "train", "shots": 2}
    recipe = write_recipe(tmp_path, teacher)
    lacking = cli("annotate", recipe, "--dry-run", "--run", tmp_path / "run")
    assert lacking.code == 2
    assert "no rationale in 16 rows" in lacking.err
    file = tmp_path / "data" / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["rationale"] = f"It is {row['answer'] if number < 4 else '999'}."  # the others are wrong
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = cli("annotate", recipe, "--dry-run", "--run", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    for number, prompt in enumerate(json.loads(result.out)["prompts"]):
        assert prompt.count(f"What is {number} + {3 * number}?") == 1
        assert prompt.count("Therefore, the answer is") == 2
        assert "999" not in prompt
    plan = cli("plan", recipe, "--run", tmp_path / "run", "--json")
    assert json.loads(plan.out)["stages"][1]["rows"] == ALL


def test_caches_are_merged_and_exported(cli: Cli, server: Running, tmp_path: Path) -> None:
    recipe, run = write_recipe(tmp_path, endpoint(server, samples=1)), tmp_path / "run"
    assert cli("annotate", recipe, "--run", run).code == 0
    merged = cli("cache", "merge", tmp_path / "all.sqlite", run, run, "--json")
    assert json.loads(merged.out)["replies"] == QUESTIONS
    exported = cli("cache", "export", tmp_path / "all.sqlite", tmp_path / "all.jsonl")
    assert exported.code == 0, exported.err
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert len(rows) == QUESTIONS
    assert {row["request"]["body"]["model"] for row in rows} == {"m"}
    assert cli("cache", "export", tmp_path / "none", tmp_path / "x").code == 2
    for present in (tmp_path / "all.jsonl", tmp_path / "all.sqlite"):
        before = present.read_bytes()
        refused = cli("cache", "export", tmp_path / "all.sqlite", present)
        assert (refused.code, present.read_bytes()) == (2, before)
        assert "which exists already" in refused.err
    with RequestCache(tmp_path / "all.sqlite") as cache:
        assert cache.spending().requests == 0


def test_local_model_is_a_teacher(cli: Cli, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, {"kind": "local", "model": "teacher", "max_tokens": 8, "engine": "transformers"})
    tokenizer = tiny_tokenizer(append_eos=False)
    tiny_llama(tokenizer).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    run = tmp_path / "run"
    first = json.loads(cli("annotate", recipe, "--run", run, "--json").out)
    assert (first["samples"], first["requests"], first["cached"], first["dollars"]) == (ALL, ALL, 0, None)
    file = run / "teacher" / "rationales.jsonl"
    before = {(r.question_id, r.sample): r.text for r in read_jsonl(file, Rationale)}
    with RequestCache(run / "teacher" / "requests.sqlite") as cache:
        assert len(cache) == ALL
    again = json.loads(cli("annotate", recipe, "teacher.samples=3", "--run", run, "--json").out)
    assert (again["requests"], again["cached"]) == (QUESTIONS, ALL)
    after = {(r.question_id, r.sample): r.text for r in read_jsonl(file, Rationale)}
    assert before.items() < after.items()


def test_base_model_reads_the_papers_words_and_ends_before_the_next_question(cli: Cli, tmp_path: Path) -> None:
    first = "Q: What is 1 + 3?\nA: Let's think step by step."
    second = f"{first} 1 + 3 = 4.\nTherefore, the answer is"
    onward = "\nQ: What is 2 + 6?\nA: Let's think step by step."
    tokenizer = tiny_tokenizer(append_eos=False)
    model = tiny_llama(tokenizer)
    memorise(model, tokenizer, [(first, f" 1 + 3 = 4.{onward}"), (second, f" 4.{onward}")])
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    asked = {"prompt": "two_stage", "samples": 1, "temperature": 0, "max_tokens": 40}
    recipe = write_recipe(tmp_path, {"kind": "local", "model": "teacher", "engine": "transformers", **asked})
    result = cli("annotate", recipe, "--run", tmp_path / "run")
    assert result.code == 0, result.err
    export(tmp_path / "run" / "teacher" / "requests.sqlite", tmp_path / "replies.jsonl")
    bodies = [json.loads(line)["request"]["body"] for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert {first, second} <= {body["prompt"] for body in bodies}
    assert all(body["stop"] == ["\nQ:"] for body in bodies)
    rationales = list(read_jsonl(tmp_path / "run" / "teacher" / "rationales.jsonl", Rationale))
    asked_about = Question.create("What is 1 + 3?", "4", "train").id
    (known,) = [rationale for rationale in rationales if rationale.question_id == asked_about]
    assert (known.text, known.predicted, known.verdict) == ("1 + 3 = 4.", "4", "correct")
    assert known.meta["finish_reason"] == "stop"
    assert known.meta["usage"]["output_tokens"] < 40
    assert not any("\nQ:" in rationale.text for rationale in rationales)


def test_symbolic_answers_are_graded_from_the_questions_to_the_report(
    cli: Cli,
    server: Running,
    tmp_path: Path,
) -> None:
    pytest.importorskip("math_verify", reason="the extra `math` is not installed")
    recipe = write_recipe(tmp_path, endpoint(server, samples=1))
    overrides = ["task.answer=math", "training.select_on=last", "sampling.max_new_tokens=4"]
    result = cli("run", recipe, *overrides, "--run", tmp_path / "run")
    assert result.code == 0, result.err
    facts = json.loads((tmp_path / "run" / "report" / "run.json").read_text())
    assert facts["teacher"]["correct"] == QUESTIONS - 5


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no key": ({}, f"the environment variable {VARIABLE} is not set"),
    "a key in the recipe": ({"api_key_env": KEY}, "expected the NAME of an environment variable"),
    "dollars without a price": ({"price": None, "budget": {"dollars": 5}}, "`budget.dollars` needs `price"),
    "no model": ({"model": None}, "teacher.model: got nothing; expected text"),
    "no examples": ({"prompt": "few_shot", "exemplars": "none.json"}, "teacher.exemplars: no file at "),
    "no template": ({"prompt": "custom", "template": "file:none.jinja"}, "teacher.template: no file at "),
    "a template that leaves the question out": ({"prompt": "custom", "template": "Hello"}, "leaves the question out"),
    "a template that is none": (
        {"prompt": "custom", "template": "{{ question"},
        "the prompt template cannot be filled",
    ),
    "too few examples": ({"prompt": "few_shot", "exemplars": "few.jsonl"}, "expected more than shots"),
    "an address that is none": ({"base_url": "localhost:11434"}, "expected an address"),
    "two samples alike": ({"temperature": 0}, "would be alike"),
    "another kind's key": ({"rationales": "teacher.jsonl"}, "teacher.rationales: belongs to `kind: recorded`"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_faulty_teacher_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,
    tmp_path: Path,
    case: str,
) -> None:
    settings, words = BROKEN[case]
    if case == "no key":
        monkeypatch.delenv(VARIABLE)
    teacher = {"kind": "openai", "model": "m", "api_key_env": VARIABLE, **settings}
    recipe = write_recipe(tmp_path, teacher)
    (tmp_path / "data" / "few.jsonl").write_text('{"question": "1 + 1?", "rationale": "2.", "answer": "2"}\n')
    result = cli("run", recipe, "--run", tmp_path / "run")
    assert result.code == 2
    assert result.err.startswith("mentorkd: ")
    assert words in result.err
    assert len(result.err.splitlines()) <= 2
    assert KEY not in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


def test_teachers_in_the_documents_are_valid() -> None:
    root, found = ROOT, 0
    for document in ("docs/api-teacher.md", "docs/teacher.md"):
        blocks = re.findall(r"```yaml\n(.*?)```", (root / document).read_text(encoding="utf-8"), re.DOTALL)
        for teacher in [part for block in blocks for part in re.split(r"^(?=teacher:)", block, flags=re.MULTILINE)]:
            if teacher.startswith("teacher:") and "recorded" not in teacher:
                recipe = (
                    f"name: a\ntask: {{name: svamp, train: a, test: b}}\nlearners: {{x: {{model: m/n}}}}\n{teacher}"
                )
                assert parse_recipe(recipe, source=document, base=root).teacher.kind in ("openai", "local")
                found += 1
    assert found >= 9


def test_missing_package_of_an_api_teacher_is_named(
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,
    tmp_path: Path,
) -> None:
    recipe = write_recipe(tmp_path, {"kind": "openai", "model": "m", "api_key_env": VARIABLE})
    monkeypatch.setattr("mentorkd.teachers.openai.find_spec", lambda _: None)
    result = cli("annotate", recipe, "--run", tmp_path / "run")
    assert result.code == 2
    assert install_command("openai") in result.err
    assert not (tmp_path / "run").exists()


def test_dry_run_of_a_recorded_teacher_is_refused(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe(tmp_path), sort_keys=False))
    result = cli("annotate", recipe, "--dry-run", "--run", tmp_path / "run")
    assert result.code == 2
    assert "is recorded" in result.err
