"""The decoding loop, and the transformers engine around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from live_rows import Written, write
from mentorkd.data.encoding import encode_prompt
from mentorkd.errors import ModelError
from mentorkd.generation.decoding import FAMILIES, choose
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.transformers_engine import TransformersEngine
from small_families import CONFIGS, model_of
from tiny_families import PROMPTS, build
from tiny_models import tiny_gpt2, tiny_qwen2, tiny_t5, tiny_tokenizer

GREEDY = SamplingParams(max_new_tokens=16)
SAMPLED = replace(GREEDY, n=3, temperature=1.0)
TOKENIZER = tiny_tokenizer()


def engine_of(model: Any, **options: Any) -> TransformersEngine:
    kind = "seq2seq" if model.config.is_encoder_decoder else "causal"
    return TransformersEngine(model, TOKENIZER, kind, **options)


def some_way_in(model: Any) -> int:
    """A token that the model writes in some greedy answer, but not at its start."""
    kind = "seq2seq" if model.config.is_encoder_decoder else "causal"
    for prompt in PROMPTS[:8]:
        ids = torch.tensor([encode_prompt(TOKENIZER, kind, prompt)])
        row = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)[0].tolist()
        written = row[1:] if kind == "seq2seq" else row[ids.shape[1] :]
        if later := [i for i in written if i != written[0]]:
            return int(later[0])
    raise AssertionError("the model answers every prompt with one token over and over")


def test_every_family_of_the_loop_is_tested() -> None:
    assert set(CONFIGS) == FAMILIES


@pytest.mark.parametrize("family", CONFIGS)
def test_loop_equals_generate(family: str) -> None:
    """Greedy, in uneven batches, with an end token that some texts meet; sliding windows shorter than the texts."""
    model = model_of(family)
    model.generation_config.eos_token_id = [1, some_way_in(model)]
    written = engine_of(model, batch_size=5).sample(PROMPTS[:8], GREEDY, seed=0)
    assert written == engine_of(model, batch_size=1, use_generate=True).sample(PROMPTS[:8], GREEDY, seed=0)
    assert any(completion.finish_reason == "stop" and completion.tokens > 1 for [completion] in written)


@pytest.mark.parametrize("family", CONFIGS)
def test_rows_that_join_a_running_batch_are_written_as_alone(family: str) -> None:
    """Rows of all lengths join and leave; the longest ones leave first, so that padding is cut off again."""
    model = model_of(family)
    model.generation_config.eos_token_id = [1, some_way_in(model)]
    engine = engine_of(model)
    lengths = [30, 3, 18, 10, 22, 6, 14, 8]
    prompts = sorted((encode_prompt(TOKENIZER, engine.kind, text) for text in PROMPTS[:8]), key=len, reverse=True)
    prompts = [prompts[number] for number in (0, 7, 1, 6, 2, 5, 3, 4)]
    rows = [
        Written(engine, prompt, SamplingParams(max_new_tokens=length, temperature=float(number % 2)), seed=number)
        for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]
    alone = [Written(engine, row.row.prompt_ids, row.row.params, seed=row.row.seed) for row in rows]
    write(engine, rows, every=5)
    for row in alone:
        write(engine, [row])
    assert [row.ids for row in rows] == [row.ids for row in alone]
    assert len({len(row.ids) for row in rows}) > 3, "the test needs texts of several lengths"
    for row in rows[::2]:
        greedy = model.generate(
            torch.tensor([row.row.prompt_ids]), max_new_tokens=row.row.params.max_new_tokens, do_sample=False
        )
        assert greedy[0].tolist()[-len(row.ids) :] == row.ids


@pytest.mark.parametrize("build_model", [tiny_t5, tiny_gpt2])
def test_a_sample_does_not_depend_on_the_batch(build_model: Any) -> None:
    model = build_model(TOKENIZER)
    alone = [engine_of(model, batch_size=1).sample([prompt], SAMPLED, seed=0)[0] for prompt in PROMPTS[:4]]
    assert engine_of(model, batch_size=32).sample(PROMPTS[:4], SAMPLED, seed=0) == alone
    assert engine_of(model, batch_size=2).sample(PROMPTS[:4][::-1], SAMPLED, seed=0) == alone[::-1]
    assert engine_of(model, tokens_per_batch=200).sample(PROMPTS[:4], SAMPLED, seed=0) == alone
    fewer = engine_of(model).sample(PROMPTS[:4], replace(SAMPLED, n=2), seed=0)
    assert fewer == [samples[:2] for samples in alone]


@pytest.mark.parametrize("build_model", [tiny_t5, tiny_qwen2])
@pytest.mark.parametrize("by_generate", [False, True])
def test_a_padding_token_that_is_the_end_token(build_model: Any, by_generate: bool) -> None:
    model = build_model(TOKENIZER)
    expected = engine_of(model, use_generate=by_generate, batch_size=5).sample(PROMPTS, GREEDY, seed=0)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    kind = "seq2seq" if build_model is tiny_t5 else "causal"
    engine = TransformersEngine(model, tokenizer, kind, use_generate=by_generate, batch_size=5)
    completions = engine.sample(PROMPTS, GREEDY, seed=0)
    assert [(c.tokens, c.finish_reason) for [c] in completions] == [(c.tokens, c.finish_reason) for [c] in expected]


@pytest.mark.parametrize("by_generate", [False, True])
@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
def test_the_models_own_sampling_settings_have_no_say(by_generate: bool, params: SamplingParams) -> None:
    model, _ = build("gpt2")
    plain = engine_of(model, use_generate=by_generate).sample(PROMPTS[:4], params, seed=0)
    model.generation_config = stray = GenerationConfig(
        do_sample=True, temperature=0.01, top_k=2, top_p=0.1, repetition_penalty=9.0, min_length=40, eos_token_id=1
    )
    assert engine_of(model, use_generate=by_generate).sample(PROMPTS[:4], params, seed=0) == plain
    assert model.generation_config is stray


def test_nothing_of_the_callers_is_changed() -> None:
    model = tiny_gpt2(TOKENIZER).train()
    sides = TOKENIZER.padding_side, TOKENIZER.truncation_side
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for by_generate in (False, True):
        engine_of(model, use_generate=by_generate).sample(PROMPTS[:3], SAMPLED, seed=0)
    assert model.training
    assert (TOKENIZER.padding_side, TOKENIZER.truncation_side) == sides
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off_and_training_comes_back_after_an_error() -> None:
    model = tiny_t5(TOKENIZER, dropout_rate=0.5).train()
    greedy = engine_of(model).sample(PROMPTS[:4], GREEDY, seed=0)
    assert greedy == engine_of(model).sample(PROMPTS[:4], GREEDY, seed=0)
    with torch.no_grad():
        model.shared.weight[5:].fill_(torch.nan)
    with pytest.raises(ModelError, match="logits are not numbers"):
        engine_of(model).sample(PROMPTS[:4], SAMPLED, seed=0)
    assert model.training


def test_prompts_are_read_once_and_ended_texts_leave_the_batch() -> None:
    model, _ = build("t5")
    engine = engine_of(model, batch_size=64)
    model.generation_config.eos_token_id = list(range(1, 384, 12))
    encoded: list[int] = []
    decoded: list[int] = []
    model.encoder.register_forward_hook(lambda _, args, kwargs, out: encoded.append(len(out[0])), with_kwargs=True)
    model.decoder.register_forward_hook(lambda _, args, kwargs, out: decoded.append(len(out[0])), with_kwargs=True)
    results = engine.sample(PROMPTS, replace(SAMPLED, temperature=2.0, max_new_tokens=40), seed=0)
    assert encoded == [len(PROMPTS)], "the encoder reads each prompt once, not once a sample"
    assert decoded[0] == len(PROMPTS), "all samples of a prompt share the first step"
    assert decoded[1] <= 3 * len(PROMPTS)
    assert decoded[1:] == sorted(decoded[1:], reverse=True)
    tokens = [completion.tokens for samples in results for completion in samples]
    assert sum(decoded) < 0.7 * max(tokens) * len(tokens), "finished texts are still computed"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_adapters_take_part() -> None:
    model = get_peft_model(tiny_t5(TOKENIZER), LoraConfig(r=4, target_modules=["q", "v"], init_lora_weights=False))
    adapted = engine_of(model).sample(PROMPTS[:4], SAMPLED, seed=0)
    assert adapted != engine_of(tiny_t5(TOKENIZER)).sample(PROMPTS[:4], SAMPLED, seed=0)
    assert adapted == engine_of(model.merge_and_unload()).sample(PROMPTS[:4], SAMPLED, seed=0)


def test_autocast_computes_in_the_asked_dtype() -> None:
    model = tiny_t5(TOKENIZER)
    seen: list[torch.dtype] = []
    model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    engine_of(model, dtype="bfloat16").sample(PROMPTS[:4], SAMPLED, seed=0)
    assert set(seen) == {torch.bfloat16}
    assert model.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize("params", [GREEDY, replace(GREEDY, temperature=1.0)])
def test_a_live_row_whose_logits_are_not_numbers_fails_alone(params: SamplingParams) -> None:
    model = tiny_gpt2(TOKENIZER)
    engine = engine_of(model)
    alone = Written(engine, [5, 6], params, seed=1)
    write(engine, [alone])
    steps = 0

    def damage(module: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return logits.index_fill(0, torch.tensor([1]), torch.nan) if steps == 3 else logits

    model.lm_head.register_forward_hook(damage)
    first, second = Written(engine, [5, 6], params, seed=1), Written(engine, [7], params, seed=2)
    write(engine, [first, second])
    assert (first.ids, first.errors) == (alone.ids, [])
    assert len(second.ids) == 2
    assert [str(error) for error in second.errors] == [
        "the model's logits are not numbers: the weights are damaged, or the dtype is too narrow"
    ]


def test_a_seq2seq_model_without_a_start_token_is_refused() -> None:
    model = tiny_t5(TOKENIZER)
    model.generation_config.decoder_start_token_id = None
    model.config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        engine_of(model).sample(PROMPTS[:1], GREEDY, seed=0)


# --- choose -------------------------------------------------------------------------------------------------------

UNIFORMS = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:-1].float()


def shares(logits: list[float], **settings: Any) -> list[float]:
    """How often each token is chosen over a grid of uniform numbers."""
    rows = torch.tensor([logits]).expand(len(UNIFORMS), -1)
    chosen = choose(rows, UNIFORMS, **{"temperature": 1.0, "top_p": 1.0, "top_k": 0, **settings})
    return (torch.bincount(chosen, minlength=len(logits)) / len(UNIFORMS)).tolist()


LOGITS = [float(x) for x in torch.tensor([0.2, 0.4, 0.1, 0.3]).log()]


def test_choose_by_hand() -> None:
    assert shares(LOGITS) == pytest.approx([0.2, 0.4, 0.1, 0.3], abs=2e-4)
    assert shares(LOGITS, temperature=0.5) == pytest.approx([4 / 30, 16 / 30, 1 / 30, 9 / 30], abs=2e-4)
    assert shares(LOGITS, top_k=2) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=2e-4)
    assert shares(LOGITS, top_k=9) == pytest.approx([0.2, 0.4, 0.1, 0.3], abs=2e-4)
    assert shares(LOGITS, top_p=0.6) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=2e-4)
    assert shares(LOGITS, top_p=0.75) == pytest.approx([2 / 9, 4 / 9, 0, 3 / 9], abs=2e-4)
    assert shares(LOGITS, top_p=0.01) == [0, 1, 0, 0]
    # The nucleus of the three likeliest, 4/9 + 3/9 > 0.7, leaves two.
    assert shares(LOGITS, top_k=3, top_p=0.7) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=2e-4)


def test_choose_never_takes_a_token_without_probability() -> None:
    inf = float("inf")
    assert shares([-inf, 0.0, -inf, 0.0, -inf]) == pytest.approx([0, 0.5, 0, 0.5, 0], abs=2e-4)


def test_the_nucleus_may_be_wider_than_the_first_look() -> None:
    logits = torch.zeros(2, 5000)
    logits[1, 7] = 30.0
    uniforms = torch.tensor([0.999999, 0.999999])
    flat, peaked = choose(logits, uniforms, temperature=1.0, top_p=0.9, top_k=0).tolist()
    assert flat != 7
    assert peaked == 7
    kept = choose(
        torch.zeros(1, 900).expand(900, -1), torch.linspace(0, 0.9999, 900), temperature=1.0, top_p=0.9, top_k=0
    )
    assert len(set(kept.tolist())) == pytest.approx(810, abs=2)


def test_choose_is_greedy_without_uniforms_and_marks_rows_that_are_not_numbers() -> None:
    logits = torch.tensor([LOGITS, [float("nan")] * 4])
    assert choose(logits[:1], None, temperature=0.0, top_p=1.0, top_k=0).tolist() == [1]
    for settings in ({"top_k": 0, "top_p": 1.0}, {"top_k": 2, "top_p": 1.0}, {"top_k": 0, "top_p": 0.6}):
        assert choose(logits, torch.tensor([0.5, 0.5]), temperature=1.0, **settings).tolist()[1] == 4
