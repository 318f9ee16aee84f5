"""`mentorkd serve`: from the command line, and as the teacher of another recipe."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from command_line import Cli
from damage import flip
from mentorkd.cli import serve as command
from mentorkd.distillation.soft_labels import SoftLabelStore
from mentorkd.errors import install_command
from mentorkd.pipeline.records import ScoreRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from mentorkd.web.server import listen
from mentorkd.web.serving import ServedLearners
from served_run import endpoint_over, make_served_run
from small_recipe import small_recipe
from tiny_models import tiny_tokenizer

openai = pytest.importorskip("openai")


def test_the_command_serves_until_ctrl_c(small_run: Path) -> None:
    """One line says all that a client needs; the student of the headline comes first. Ctrl-C ends open streams with an error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mentorkd", "serve", str(small_run / "run"), "--port", "0", "--token", "secret"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # who started the tests may ignore it
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.fullmatch(
            r"base_url (\S+/v1) · api_key secret · models student, mentor, vanilla  \(Ctrl-C ends\)\n", line
        )
        assert found is not None, line
        with openai.OpenAI(base_url=found[1], api_key="secret", max_retries=0) as client:
            assert client.completions.create(model="student", prompt="What is 1 + 2?").choices
            open_stream = client.completions.create(
                model="student", prompt="x", max_tokens=4000, temperature=1, n=128, stream=True
            )
            next(open_stream)
            process.send_signal(signal.SIGINT)
            with pytest.raises(openai.APIError, match="the model is no longer served"):
                list(open_stream)
            out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def test_what_cannot_be_served_is_one_line(
    cli: Cli, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run / "run"

    def refused(*arguments: object) -> str:
        outcome = cli("serve", *arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        assert outcome.err.count("\n") == 1
        return outcome.err

    assert "is not a run folder (it has no recipe.yaml)" in refused(tmp_path)
    assert "got learner nobody; expected one of mentor, vanilla, student" in refused(run, "--learner", "nobody")
    assert "got seed 9; expected one of 1, the recipe's seeds" in refused(run, "--seed", 9)
    assert "got an empty --token, which keeps nobody out; give a key" in refused(run, "--token", "")
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert f"got the address 127.0.0.1:{port}, which is in use; give another --port" in refused(run, "--port", port)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    assert "is not finished yet" in refused(unfinished)
    [weights] = (run / "learners" / "student" / "seed-1").rglob("model.safetensors")
    flip(weights, random.Random(0))
    assert f"{weights} has changed since it was written" in refused(run, "--port", 0)
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert install_command("serve") in refused(run)


def test_learners_that_are_not_finished_are_left_out_and_named(small_run: Path) -> None:
    (small_run / "run" / ".stages" / "learners.mentor.seed-1.train.json").unlink()
    served = ServedLearners(small_run / "run")
    assert served.models() == ["student", "vanilla"]
    assert [line for line in served.unfinished if "learners/mentor/seed-1/train is not finished" in line]


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_a_served_learner_teaches_another_recipe_with_its_log_probabilities(tmp_path: Path, endpoint: str) -> None:
    """A T5 teaches a GPT-2 of another vocabulary: its likelihoods become labels of chunks, through two HTTP addresses."""
    (tmp_path / "teacher").mkdir()
    nano: dict[str, Any] = {"model": "nano-t5-small", "rationales": [], "sampling": {"engine": "ctranslate2"}}
    served = ServedLearners(make_served_run(tmp_path / "teacher", nano=nano), learner="nano", seed=1)
    (tmp_path / "student").mkdir()
    raw = small_recipe(tmp_path / "student")
    tiny_tokenizer(vocab_size=300, append_eos=False).save_pretrained(tmp_path / "student" / "other")
    causal = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = {"tokenizer": str(tmp_path / "student" / "other"), "from_config": causal}
    select = {"correct": False, "deduplicate": False}
    raw["training"]["epochs"] = 1
    with endpoint_over(served) as url:
        raw["teacher"] = {
            "kind": "openai",
            "model": "nano",
            "base_url": url,
            "api_key_env": None,
            "endpoint": endpoint,
            "samples": 2,
            "temperature": 1,
            "max_tokens": 48,
            "logprobs": True,
            "select": select,
        }
        raw["learners"] = {"student": {"model": model, "rationales": ["teacher"], "soft_labels": "teacher"}}
        file = tmp_path / "student" / "recipe.yaml"
        file.write_text(yaml.safe_dump(raw, sort_keys=False))
        pipeline = Pipeline(load_recipe(file), tmp_path / "student" / "run")
        pipeline.run(until="train")
    served.close()

    rationales = [each for each in pipeline.folder.rationales("annotate") if each.text]
    assert len(rationales) > 20
    assert all("logprobs" in each.meta for each in rationales)
    [store_name] = [stage.name for stage in pipeline.stages if stage.kind == "score"]
    record = pipeline.folder.record_of(ScoreRecord, store_name)
    store = SoftLabelStore(pipeline.folder.soft_labels(store_name))
    assert (record.form, record.without_logprobs) == ("chunks", 0)
    texts, whole = {each.id: each for each in rationales}, 0
    for number in store.ids:
        labels, values = store.row(number)["log_probs"], texts[number].meta["logprobs"]["values"]
        labelled, tolerance = float(np.nansum(labels, dtype=np.float64)), 0.01 * len(values)
        # The text is labelled, but not its end and what the recipe writes behind it, nor a token that spans both (a text "-->").
        assert labelled >= sum(values) - tolerance
        whole += labelled == pytest.approx(sum(values), abs=tolerance)
    assert whole > store.rows / 2
    assert store.rows > 0
