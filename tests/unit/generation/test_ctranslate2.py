"""The ctranslate2 engine's cache, its check of a conversion, and what it refuses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig

from mentorkd.errors import ModelError
from mentorkd.generation import ctranslate2_engine, open_engine
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.transformers_engine import TransformersEngine
from mentorkd.models import LoadedModel, save_model
from tiny_families import CPU, PROMPTS, build
from tiny_models import tiny_t5, tiny_tokenizer

pytest.importorskip("ctranslate2")

GREEDY = SamplingParams(max_new_tokens=12)
SAMPLED = replace(GREEDY, n=2, temperature=1.0)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    model, tokenizer = build("flan-t5")
    save_model(LoadedModel(model, tokenizer, "seq2seq"), tmp_path / "model", card="a card")
    return tmp_path / "model"


def opened(model_dir: Path, **options: Any) -> Any:
    return open_engine("ctranslate2", model_dir=model_dir, device=CPU, cache_dir=model_dir.parent / "cache", **options)


def test_a_model_is_converted_once_and_again_when_it_changes(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversions: list[Path] = []
    convert = ctranslate2_engine._convert
    monkeypatch.setattr(
        ctranslate2_engine, "_convert", lambda source, output: (conversions.append(output), convert(source, output))
    )
    first = opened(model_dir).sample(PROMPTS, GREEDY, seed=0)
    (model_dir / "README.md").write_text("another card")
    assert opened(model_dir).sample(PROMPTS, GREEDY, seed=0) == first
    assert len(conversions) == 1
    save_model(LoadedModel(tiny_t5(tiny_tokenizer(), seed=9), tiny_tokenizer(), "seq2seq"), model_dir, card="")
    assert opened(model_dir).sample(PROMPTS, GREEDY, seed=0) != first
    assert len(conversions) == 2
    assert len(list((model_dir.parent / "cache").iterdir())) == 2, "no temporary folder may stay"


def test_a_damaged_conversion_is_made_again(model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = opened(model_dir).folder
    weights = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert (opened(model_dir).folder / "model.bin").read_bytes() == weights
    assert "model.bin has changed since it was written" in caplog.text


def test_a_conversion_that_fails_leaves_nothing(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, output: Path) -> None:
        (output / "half").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(ctranslate2_engine, "_convert", fail)
    with pytest.raises(KeyboardInterrupt):
        opened(model_dir)
    assert list((model_dir.parent / "cache").iterdir()) == []


def test_another_process_may_have_been_faster(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = opened(model_dir).folder
    kept = done.with_name("kept")
    done.rename(kept)
    check = ctranslate2_engine._check
    monkeypatch.setattr(
        ctranslate2_engine, "_check", lambda source, runner: (check(source, runner), shutil.copytree(kept, done))
    )
    assert opened(model_dir).folder == done
    assert {path.name for path in done.parent.iterdir()} == {done.name, "kept"}


def test_a_conversion_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    """Gemma 2 attends to one more token of its window than its conversion does."""
    sizes = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    config = Gemma2Config(**sizes, num_attention_heads=4, num_key_value_heads=2, sliding_window=8, eos_token_id=1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    save_model(LoadedModel(model, tiny_tokenizer(), "causal"), tmp_path / "model", card="")
    with pytest.raises(
        ModelError, match=r"differs from the model by .* nats a token, expected at most 0.01; set `engine"
    ):
        opened(tmp_path / "model")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_conversion_that_does_not_run_is_refused(tmp_path: Path) -> None:
    sizes = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, sliding_window=8, eos_token_id=1)
    save_model(
        LoadedModel(AutoModelForCausalLM.from_config(config), tiny_tokenizer(), "causal"), tmp_path / "m", card=""
    )
    with pytest.raises(ModelError, match="ctranslate2 cannot run"):
        opened(tmp_path / "m")


def test_int8_is_close_to_float32(model_dir: Path) -> None:
    """The best tokens of random weights are nearly tied, and processors without VNNI round int8 products more: 5 of 12 first
    tokens are equal on AVX2, 10 or more with VNNI. By chance one in 384 would be."""
    exact = opened(model_dir, dtype="float32").sample(PROMPTS, replace(GREEDY, max_new_tokens=1), seed=0)
    rounded = opened(model_dir, dtype="int8").sample(PROMPTS, replace(GREEDY, max_new_tokens=1), seed=0)
    assert sum(a == b for a, b in zip(exact, rounded, strict=True)) >= 0.25 * len(PROMPTS)
    assert len(list((model_dir.parent / "cache").iterdir())) == 1, "both use one conversion"


def test_greedy_calls_between_do_not_change_samples(model_dir: Path) -> None:
    expected = opened(model_dir).sample(PROMPTS, SAMPLED, seed=0)
    engine = opened(model_dir)
    engine.sample(PROMPTS, GREEDY, seed=0)
    engine.sample(PROMPTS[:2], SAMPLED, seed=0)
    assert engine.sample(PROMPTS, SAMPLED, seed=0) == expected


def test_long_prompts_are_not_cut(tmp_path: Path) -> None:
    """By default CTranslate2 cuts sources at 1024 tokens."""
    model, tokenizer = build("t5")
    save_model(LoadedModel(model, tokenizer, "seq2seq"), tmp_path / "model", card="")
    long = "Tom has 3 apples. " * 220
    assert len(tokenizer(long)["input_ids"]) > 1024
    prompts = [long + "a box", long + "12 pens left", "12 pens left"]
    expected = TransformersEngine(model, tokenizer, "seq2seq").sample(prompts, GREEDY, seed=0)
    assert opened(tmp_path / "model").sample(prompts, GREEDY, seed=0) == expected
    assert expected[0] != expected[1]


def test_an_empty_prompt_is_refused(model_dir: Path) -> None:
    """CTranslate2 skips it, where the model itself writes a text."""
    with pytest.raises(ModelError, match="ctranslate2 writes nothing after an empty prompt, got ''; leave the row out"):
        opened(model_dir).sample(["x", ""], GREEDY, seed=0)


def test_top_k_may_be_above_the_vocabulary(model_dir: Path) -> None:
    expected = opened(model_dir).sample(PROMPTS[:2], replace(SAMPLED, top_k=384), seed=0)
    assert opened(model_dir).sample(PROMPTS[:2], replace(SAMPLED, top_k=10**6), seed=0) == expected


def test_batches_are_bounded_in_rows_or_in_tokens(model_dir: Path) -> None:
    def batches(prompts: int, **limits: int) -> list[int]:
        counts: list[int] = []
        texts = [PROMPTS[0]] * prompts
        opened(model_dir, **limits).sample(texts, replace(SAMPLED, max_new_tokens=4), seed=0, on_progress=counts.append)
        return counts

    width = len(tiny_tokenizer()(PROMPTS[0])["input_ids"]) + 4
    assert batches(5, batch_size=4) == [2, 2, 1]  # two samples a prompt
    assert batches(3, batch_size=1) == [1, 1, 1]
    assert batches(5, tokens_per_batch=2 * 3 * width) == [3, 2]
    assert batches(3, tokens_per_batch=1) == [1, 1, 1]


def test_unknown_arithmetic_is_refused(model_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"ctranslate2 has no float16 on this cpu, it has .*float32"):
        opened(model_dir, dtype="float16")


def test_a_family_without_a_converter_is_refused(tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig

    sizes = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    model = AutoModelForCausalLM.from_config(GPTNeoXConfig(**sizes, num_attention_heads=2, eos_token_id=1))
    save_model(LoadedModel(model, tiny_tokenizer(), "causal"), tmp_path / "model", card="")
    with pytest.raises(ModelError, match=r"ctranslate2 cannot convert .*; set `engine: transformers`"):
        opened(tmp_path / "model")
