"""The form `lm-eval`: the test questions as a task of EleutherAI's lm-evaluation-harness, with our prompt, decoding and grading.

The folder needs no mentorkd: it carries copies of the files that grade.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

import mentorkd
from mentorkd.data.encoding import encode_prompt
from mentorkd.data.prompts import chat_prompt, render_prompt
from mentorkd.errors import RunError
from mentorkd.files import write_text
from mentorkd.models import kind_of, load_tokenizer
from mentorkd.recipe.learner import ModelConfig
from mentorkd.records import ModelKind
from mentorkd.sharing.form import Form
from mentorkd.sharing.source import Source

_GRADER = ("errors.py", "records.py", "grading/answers.py", "grading/grade.py", "grading/math.py")
"""The files of the package that grading needs."""
_IMPORT = re.compile(r"^from mentorkd\.(?:grading\.)?(\w+) import", re.MULTILINE)

_NEUTRAL: dict[str, Any] = {
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "repetition_penalty": 1.0,
}
"""Settings of a model's generation config that change greedy texts, with the values that change nothing. Evaluation sets them aside."""

_TASK = """\
task: {name}
custom_dataset: !function utils.questions
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: answer
target_delimiter: ""
num_fewshot: 0
generation_kwargs: {generation}
process_results: !function utils.process_results
metric_list:
- {{metric: acc, aggregation: mean, higher_is_better: true}}
- {{metric: no_answer, aggregation: mean, higher_is_better: false}}
metadata: {{version: 1.0}}
"""

_UTILS = '''\
"""The questions of the task, and their grading by mentorkd {version}."""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER))

from {name}_grading.grade import Grader
from {name}_grading.records import Question

GRADER = Grader({kind!r}, {choices!r})


def questions(**_):
    from datasets import Dataset

    with (FOLDER / "questions.jsonl").open(encoding="utf-8") as file:
        return {{"test": Dataset.from_list([json.loads(line) for line in file])}}


def process_results(doc, results):
    """Correct or not (`acc`), and whether the text states no answer that can be read."""
    question = Question(doc["id"], doc["question"], doc["answer"], "test")
    verdict = GRADER(results[0], question).verdict
    return {{"acc": float(verdict == "correct"), "no_answer": float(verdict == "no_answer")}}
'''

_README = """\
# `{name}`, a task for lm-eval

The {count:,} test questions of the task `{task}`, as mentorkd asked the learner `{learner}`: the same prompts, greedy texts of
at most {tokens:,} tokens, and the same grading (answers of the kind `{kind}`). `{name}_grading/` holds mentorkd's own files
for it (Apache-2.0); mentorkd need not be installed.

```
pip install {packages}
lm-eval run --include_path . --tasks {name} --model hf \\
  --model_args {arguments} --log_samples --output_path results
```

`MODEL` is the model's folder, from `mentorkd export RUN --learner {learner} --seed {seed} --as hf --to MODEL`. `max_length` has
room for the longest prompt and text, so that no prompt is cut.

The run's own accuracy with seed {seed}: {correct:,} of {count:,} ({accuracy:.2%}); {unanswered:,} texts state no answer.
"""
_OWN_LIMIT = """
The model's `generation_config.json` sets `max_new_tokens: {own}`, which goes before the task's limit. Remove it there; otherwise texts are
cut after {own:,} tokens and not after {tokens:,}. In the run, {cut:,} texts were cut.
"""


def _write(source: Source, folder: Path, dtype: str | None) -> None:
    task, model = source.pipeline.recipe.task, source.model()
    if task.grader is not None:
        why = f"the task has a grader of its own ({task.grader})"
        raise RunError(f"lm-eval grades without mentorkd, and {why}; use --as inspect, which has the run's verdicts")
    name = "mentorkd_" + re.sub(r"\W", "_", f"{task.name}_{source.name}", flags=re.ASCII)
    own, asking = _own_settings(model), _asking(source, model)
    rows = (
        {"id": question.id, "question": question.text, "answer": question.answer, "prompt": prompt}
        for question, prompt in zip(source.test_questions(), asking.prompts, strict=True)
    )
    write_text(folder / "questions.jsonl", (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    generation = _generation(asking.kind, source.learner.sampling.max_new_tokens, own)
    write_text(folder / f"{name}.yaml", _TASK.format(name=name, generation=json.dumps(generation)))
    utils = _UTILS.format(name=name, version=mentorkd.__version__, kind=task.answer, choices=task.choices)
    write_text(folder / "utils.py", utils)
    _write_grader(folder / f"{name}_grading")
    write_text(folder / "README.md", _readme(source, name, asking.arguments, own.get("max_new_tokens")))


@dataclass(frozen=True)
class _Asking:
    """What lm-eval sends to the model, and the arguments with which the model reads the tokens of our evaluation."""

    kind: ModelKind
    prompts: Sequence[str]
    arguments: str


def _asking(source: Source, model: Path) -> _Asking:
    learner, config = source.learner, ModelConfig(name=str(model))
    tokenizer, kind = load_tokenizer(config), kind_of(config)
    prompts = [render_prompt(question.text, learner.eval_prompt) for question in source.test_questions()]
    texts = prompts if kind == "seq2seq" else [chat_prompt(tokenizer, prompt) for prompt in prompts]
    ids = [encode_prompt(tokenizer, kind, prompt) for prompt in prompts]
    arguments = f"pretrained=MODEL,max_length={max(map(len, ids)) + learner.sampling.max_new_tokens}"
    if not _has_special_tokens(tokenizer, texts, ids):
        arguments += ",add_bos_token=False"
    if kind == "causal" and tokenizer.chat_template:
        return _Asking(kind, prompts, f"{arguments} --apply_chat_template")
    return _Asking(kind, texts, arguments)


def _has_special_tokens(tokenizer: Any, texts: Sequence[str], ids: Sequence[list[int]]) -> bool:
    """Whether `ids`, our encoding of the texts, has the tokens that the tokenizer adds. Raises RunError if it has some of them."""
    for special in (True, False):
        encoded = (list(tokenizer(text, add_special_tokens=special)["input_ids"]) for text in texts)
        if all(ours == theirs for ours, theirs in zip(ids, encoded, strict=True)):
            return special
    raise RunError(
        f"lm-eval cannot ask {type(tokenizer).__name__}'s model as evaluation does: its prompts have some of the special tokens that the "
        "tokenizer adds (an end token, a start token), and lm-eval adds all or none; use --as inspect"
    )


def _readme(source: Source, name: str, arguments: str, own_limit: int | None) -> str:
    task, limit, predictions = source.pipeline.recipe.task, source.learner.sampling.max_new_tokens, source.predictions()
    verdicts = [prediction.verdict for prediction in predictions]
    readme = _README.format(
        name=name,
        task=task.name,
        learner=source.name,
        seed=source.seed,
        kind=task.answer,
        tokens=limit,
        packages='"lm-eval[hf]"' + (" math-verify" if task.answer == "math" else ""),
        arguments=arguments,
        count=len(verdicts),
        correct=verdicts.count("correct"),
        accuracy=verdicts.count("correct") / len(verdicts),
        unanswered=verdicts.count("no_answer"),
    )
    if own_limit in (None, limit):
        return readme
    cut = sum(not prediction.finished for prediction in predictions)
    return readme + _OWN_LIMIT.format(own=own_limit, tokens=limit, cut=cut)


def _own_settings(model: Path) -> dict[str, Any]:
    """What the model's own generation config sets."""
    has_config = (model / "generation_config.json").exists()
    return dict(GenerationConfig.from_pretrained(model).to_diff_dict()) if has_config else {}


def _generation(kind: ModelKind, limit: int, own: Mapping[str, Any]) -> dict[str, Any]:
    """What lm-eval passes to `generate`: greedy decoding of at most `limit` tokens, with the model's `own` settings set aside."""
    # lm-eval adds the length of the prompt to `max_gen_toks`, also where the decoder does not read the prompt. The start token counts.
    longest = {"max_length": limit + 1} if kind == "seq2seq" else {}
    neutral = {key: value for key, value in _NEUTRAL.items() if key in own}
    return {"until": [], "do_sample": False, "max_gen_toks": limit, **longest, **neutral}


def _write_grader(folder: Path) -> None:
    """Copies of the grading files as a package of their own, whose files import each other and nothing of mentorkd."""
    package = Path(mentorkd.__file__).parent
    folder.mkdir()
    write_text(
        folder / "__init__.py",
        f'"""The grading of mentorkd {mentorkd.__version__}. SPDX-License-Identifier: Apache-2.0"""\n',
    )
    for file in _GRADER:
        text = (package / file).read_text(encoding="utf-8")
        write_text(folder / Path(file).name, _IMPORT.sub(r"from .\1 import", text))


LM_EVAL = Form(_write)
