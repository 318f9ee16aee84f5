"""All ways of the decoding loop write the same texts."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from mentorkd.errors import ModelError
from mentorkd.generation.backlog import Backlog, TextRow
from mentorkd.generation.continuous import Loop, _Step, _tell_refusal
from mentorkd.generation.decoding import FAMILIES
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.static import StaticRows, capacity_for
from mentorkd.generation.transformers_engine import TransformersEngine
from small_families import model_of
from tiny_families import PROMPTS
from tiny_models import TEXTS, tiny_gpt2, tiny_t5, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SAMPLED = SamplingParams(n=2, temperature=1.0, top_p=0.95, max_new_tokens=21)
GREEDY = SamplingParams(max_new_tokens=21)
ASKED = [PROMPTS[1], PROMPTS[0], " ".join(TEXTS[:2]), *PROMPTS[2:6]]
"""Prompts of very different lengths; the longest alone has more tokens than the least capacity."""
QUICK = ("t5", "qwen2")
"""Families of the default tests: with an encoder, and with rotary positions and a sliding window in some layers."""
LOOPS = {
    "refill": Loop(refill=True),
    "every 16": Loop(look_every=16),
    "static": Loop(static=True, look_every=16),
    "refill, every 4": Loop(refill=True, look_every=4),
    "static, refill": Loop(static=True, refill=True, look_every=4),
}


def engine_of(model: Any, **options: Any) -> TransformersEngine:
    kind: Any = "seq2seq" if model.config.is_encoder_decoder else "causal"
    return TransformersEngine(model, TOKENIZER, kind, **options)


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=[] if family in QUICK else pytest.mark.slow) for family in sorted(FAMILIES)],
)
def test_all_loops_write_the_same_texts(family: str) -> None:
    """Sampled, with an end token and a stop text, in batches that rows join and leave; sliding windows shorter than the texts."""
    model = model_of(family)
    model.generation_config.eos_token_id = [1, *range(5, 384, 40)]
    options: dict[str, Any] = {"batch_size": 5, "stop": ["e"]}
    expected = engine_of(model, loop=Loop(), **options).sample(ASKED, SAMPLED, seed=0)
    tokens = [completion.tokens for samples in expected for completion in samples]
    assert len(set(tokens)) > 3, "the test needs texts of several lengths"
    for name in list(LOOPS)[-2 if family in QUICK else 0 :]:
        assert engine_of(model, loop=LOOPS[name], **options).sample(ASKED, SAMPLED, seed=0) == expected, name


@pytest.mark.slow
@pytest.mark.parametrize("build_model", [tiny_t5, tiny_gpt2])
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_greedy_texts_too(build_model: Any, loop: Loop) -> None:
    model = build_model(TOKENIZER)
    expected = engine_of(model, use_generate=True, batch_size=1).sample(ASKED, GREEDY, seed=0)
    assert engine_of(model, loop=loop, batch_size=3).sample(ASKED, GREEDY, seed=0) == expected


@pytest.mark.slow
def test_more_draws_than_rows_take_at_a_time_and_larger_capacities() -> None:
    """Without end tokens: 150 tokens need three blocks of draws, and columns are dropped or added."""
    model = tiny_gpt2(TOKENIZER)
    model.generation_config.eos_token_id = None
    long = replace(SAMPLED, max_new_tokens=150, top_p=1.0)
    expected = engine_of(model).sample(ASKED[:3], long, seed=0)
    for loop in (Loop(static=True, refill=True, look_every=16), Loop(refill=True, look_every=7)):
        assert engine_of(model, loop=loop, batch_size=3).sample(ASKED[:3], long, seed=0) == expected


def test_a_text_has_the_draws_of_its_own_seed() -> None:
    """The stream of a text is `torch.rand` of its seed, however many are drawn at a time: earlier texts can be sampled again."""
    whole = torch.rand(200, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(whole, torch.cat([torch.rand(n, generator=generator) for n in (1, 40, 64, 64, 31)]))


def test_rows_that_wait_replace_those_that_have_ended() -> None:
    model = model_of("llama")
    model.generation_config.eos_token_id = [1, *range(5, 384, 12)]
    passes: dict[bool, list[Any]] = {}
    for refill in (False, True):
        rows = passes[refill] = []
        engine = engine_of(model, batch_size=6, loop=Loop(static=True, refill=refill))
        hook = model.register_forward_pre_hook(
            lambda module, args, kwargs, rows=rows: rows.append(kwargs["input_ids"].shape), with_kwargs=True
        )
        engine.sample(3 * PROMPTS, replace(SAMPLED, n=1, temperature=2.0), seed=0)
        hook.remove()
    steps = {refill: sum(width == 1 for _, width in shapes) for refill, shapes in passes.items()}
    assert steps[True] < 0.9 * steps[False]


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
def test_logits_that_are_not_numbers_are_found_at_the_next_look(loop: Loop, params: SamplingParams) -> None:
    model = tiny_gpt2(TOKENIZER)
    model.generation_config.eos_token_id = None
    steps = 0

    def damage(module: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return logits.index_fill(0, torch.tensor([1]), torch.nan) if steps == 6 else logits

    model.lm_head.register_forward_hook(damage)
    with pytest.raises(ModelError, match="logits are not numbers"):
        engine_of(model, loop=loop).sample(PROMPTS[:3], params, seed=0)
    assert steps <= 6 + loop.look_every


def test_rows_that_have_ended_stay_within_the_models_positions() -> None:
    model = tiny_gpt2(TOKENIZER, n_positions=40)
    model.generation_config.eos_token_id = None
    prompts = [prompt for prompt in PROMPTS if len(TOKENIZER(prompt)["input_ids"]) < 25][:4]
    most = 40 - max(len(ids) for ids in TOKENIZER(prompts)["input_ids"]) - 12
    params = replace(SAMPLED, max_new_tokens=most)
    expected = engine_of(model).sample(prompts, params, seed=0)
    for loop in LOOPS.values():
        assert engine_of(model, loop=loop, batch_size=3).sample(prompts, params, seed=0) == expected


@pytest.mark.parametrize("build_model", [pytest.param(tiny_t5, marks=pytest.mark.slow), tiny_gpt2])
def test_a_batch_without_memory_is_halved(build_model: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = build_model(TOKENIZER)
    expected = engine_of(model).sample(ASKED, SAMPLED, seed=0)
    told: list[int] = []

    def refuse(module: Any, args: Any, kwargs: Any) -> None:
        rows = len(kwargs.get("decoder_input_ids", kwargs.get("input_ids")))
        if rows > 4:
            raise torch.OutOfMemoryError("no memory")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    assert engine_of(model, batch_size=14).sample(ASKED, SAMPLED, seed=0, on_progress=told.append) == expected
    assert sum(told) == len(ASKED)
    assert [record.getMessage() for record in caplog.records] == [
        "the device has no memory for 14 texts at once; sampling continues with 7",
        "the device has no memory for 6 texts at once; sampling continues with 3",
    ]


def test_one_text_without_memory_is_an_error() -> None:
    model = tiny_gpt2(TOKENIZER)

    def refuse(module: Any, args: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    model.lm_head.register_forward_pre_hook(refuse)
    with pytest.raises(torch.OutOfMemoryError):
        engine_of(model).sample(ASKED, SAMPLED, seed=0)


def test_capacities() -> None:
    assert [capacity_for(columns) for columns in (1, 64, 65, 128, 129, 500)] == [64, 64, 128, 128, 256, 512]


def test_a_backlog_fills_what_is_free() -> None:
    rows = [TextRow([5], GREEDY, {1}, own_seed=None) for _ in range(20)]
    batches = [rows[:8], rows[8:16], rows[16:]]
    fixed = Backlog(batches, refill=False)
    assert [len(fixed.take(live)) for live in (0, 3, 0, 0, 0)] == [8, 0, 8, 4, 0]
    filled = Backlog(batches, refill=True)
    assert [len(filled.take(live)) for live in (0, 8, 7, 6, 0, 0, 0)] == [8, 0, 0, 2, 8, 2, 0]
    assert Backlog([], refill=True).take(0) == []


def test_a_backlog_with_a_long_prompt_first_does_not_keep_its_few_rows() -> None:
    """Batches of a limit of tokens: 1, 3 and 8 rows."""
    rows = [TextRow([5], GREEDY, {1}, own_seed=None) for _ in range(20)]
    filled = Backlog([rows[:1], rows[1:4], rows[4:12], rows[12:]], refill=True)
    assert [len(filled.take(live)) for live in (0, 0, 1, 0, 7, 6)] == [1, 3, 0, 8, 0, 2]


def test_the_caches_are_freed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a training's validation, or of a batch for which there was no memory, must not wait for the garbage collector."""
    made: list[weakref.ref[StaticRows]] = []

    class Watched(StaticRows):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(weakref.ref(self))

    monkeypatch.setattr("mentorkd.generation.continuous.StaticRows", Watched)
    model = tiny_gpt2(TOKENIZER)
    passes = 0

    def refuse(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == 6:
            raise torch.OutOfMemoryError("no memory")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    gc.disable()
    try:
        loop = Loop(static=True, refill=True)
        engine_of(model, batch_size=4, loop=loop).sample(PROMPTS[:4], GREEDY, seed=0)
        assert len(made) == 3
        assert [batch() for batch in made] == [None] * 3
    finally:
        gc.enable()


def test_a_step_that_cannot_be_captured_runs_on_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Without CUDA, every capture is refused."""
    if torch.cuda.is_available():
        pytest.skip("the capture works here")
    _tell_refusal.cache_clear()
    calls: list[int] = []

    def extend() -> torch.Tensor:
        calls.append(1)
        return torch.zeros(1)

    step = _Step()
    for shape in (None, (1,), (1,), (1,), (2,), (2,)):
        step(extend, shape)
    assert len(calls) == 6
    assert [record.getMessage()[:36] for record in caplog.records] == ["sampling runs without CUDA graphs, w"]


@pytest.mark.gpu
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_graphs_write_what_single_steps_write(family: str, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(family).cuda()
    model.generation_config.eos_token_id = [1, *range(5, 384, 40)]
    params = replace(SAMPLED, max_new_tokens=90)
    expected = engine_of(model, loop=Loop()).sample(ASKED, params, seed=0)
    written = engine_of(model, by_memory=True).sample(ASKED, params, seed=0)
    pairs = [pair for both in zip(expected, written, strict=True) for pair in zip(*both, strict=True)]
    assert sum(a == b for a, b in pairs) >= 0.8 * len(pairs), "more than rounding differs"
    assert not [record for record in caplog.records if "CUDA graphs" in record.getMessage()]
