"""Base models: prompts are read unchanged, and a text ends before a stop text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mentorkd.generation import open_engine, sampling
from mentorkd.generation.engine import Engine, SamplingParams
from mentorkd.generation.transformers_engine import TransformersEngine
from mentorkd.models import LoadedModel
from tiny_families import CPU
from tiny_models import memorise, tiny_llama, tiny_tokenizer

PROMPT = "Q: What is 1 + 3?\nA: Let's think step by step."
TOKENIZER = tiny_tokenizer(append_eos=False, prepend_bos=True)
OPTIONS: dict[str, Any] = {"separator": "", "stop": ["\nQ:"]}
GREEDY = SamplingParams(max_new_tokens=60)


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    """A base model that answers and then writes further questions without end."""
    model = tiny_llama(TOKENIZER)
    memorise(
        model, TOKENIZER, [("<s>" + PROMPT, " 1 + 3 = 4.\nQ: What is 2 + 6?\nA: Let's think step by step. 2 + 6 = 8.")]
    )
    return LoadedModel(model, TOKENIZER, "causal")


def by_loop(base: LoadedModel, _: Path) -> Engine:
    return TransformersEngine(base.model, TOKENIZER, "causal", **OPTIONS)


def by_generate(base: LoadedModel, _: Path) -> Engine:
    return TransformersEngine(base.model, TOKENIZER, "causal", use_generate=True, **OPTIONS)


def by_ctranslate2(base: LoadedModel, folder: Path) -> Engine:
    pytest.importorskip("ctranslate2", reason="the extra `ctranslate2` is not installed")
    for part in (base.model, TOKENIZER):
        part.save_pretrained(folder / "model")
    return open_engine("ctranslate2", model_dir=folder / "model", cache_dir=folder, device=CPU, **OPTIONS)


@pytest.mark.parametrize("opened", [by_loop, by_generate, by_ctranslate2])
def test_a_text_ends_before_the_next_question(
    base: LoadedModel, tmp_path: Path, opened: Callable[[LoadedModel, Path], Engine]
) -> None:
    engine = opened(base, tmp_path)
    [[written], [other]] = engine.sample([PROMPT, "Who?"], GREEDY, seed=0)
    assert (written.text, written.finish_reason) == (" 1 + 3 = 4.", "stop")
    assert "\nQ:" not in other.text
    # CTranslate2 has no stop texts: it generates past them, and the rest is cut off.
    longest = 60 if engine.name == "ctranslate2" else len(TOKENIZER(" 1 + 3 = 4.\nQ:")["input_ids"])
    assert written.tokens <= longest


def test_without_a_stop_the_model_writes_on(base: LoadedModel) -> None:
    [[written]] = TransformersEngine(base.model, TOKENIZER, "causal", separator="").sample([PROMPT], GREEDY, seed=0)
    assert written.text.startswith(" 1 + 3 = 4.\nQ: What is 2 + 6?")
    assert (written.finish_reason, written.tokens) == ("length", 60)


def test_a_base_model_reads_the_prompt_alone_and_a_learner_the_separator_too(base: LoadedModel) -> None:
    config = base.model.config
    [alone] = sampling.encode_prompts([PROMPT], TOKENIZER, "causal", config, 8, separator="")
    [with_separator] = sampling.encode_prompts([PROMPT], TOKENIZER, "causal", config, 8)
    assert TOKENIZER.decode(alone) == "<s>" + PROMPT
    assert TOKENIZER.decode(with_separator) == "<s>" + PROMPT + "\nAnswer:\n"


def test_a_stop_is_seen_however_its_tokens_fall() -> None:
    stopped = sampling.stopper(TOKENIZER, ["\nQ:", "END"])
    assert stopped is not None
    for text, ends in {"4.\nQ:": True, "4.\n\nQ": False, "the E": False, "the END": True, "x" * 50: False}.items():
        assert stopped(TOKENIZER(text, add_special_tokens=False)["input_ids"]) is ends, text
        assert stopped([TOKENIZER.convert_tokens_to_ids(t) for t in TOKENIZER.tokenize(text)]) is ends, text
    assert sampling.stopper(TOKENIZER, []) is None
