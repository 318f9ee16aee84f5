"""What every engine promises, on real models of every family that all of them serve."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from conftest import CPU, MAX_NEW_TOKENS, PROMPTS, Saved

from mentorkd.batching import encode_prompt
from mentorkd.errors import MentorkdError, ModelError
from mentorkd.generation import Engine, open_engine
from mentorkd.generation.transformers_engine import TransformersEngine

GREEDY: dict[str, Any] = {"n": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": MAX_NEW_TOKENS, "seed": 0}
SAMPLED: dict[str, Any] = {**GREEDY, "n": 3, "temperature": 0.7}


@pytest.fixture(params=["loop", "generate", "ctranslate2"])
def engine(request: pytest.FixtureRequest, saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    loaded = saved.loaded
    if request.param == "ctranslate2":
        pytest.importorskip("ctranslate2")
        cache = Path(tmp_path_factory.getbasetemp()) / "engines"
        return open_engine(
            "ctranslate2", model_dir=saved.folder, device=CPU, cache_dir=cache, batch_size=7, dtype="float32"
        )
    by_generate = request.param == "generate"
    return TransformersEngine(loaded.model, loaded.tokenizer, loaded.kind, batch_size=7, use_generate=by_generate)


def test_greedy_equals_the_models_own_generate_whatever_the_batch(engine: Engine, saved: Saved) -> None:
    written = saved.reference(PROMPTS)
    ends = saved.loaded.model.generation_config.eos_token_id
    decode = saved.loaded.tokenizer.decode
    completions = [completion for [completion] in engine.sample(PROMPTS, **GREEDY)]
    assert [c.text for c in completions] == [decode(ids, skip_special_tokens=True) for ids in written]
    assert [c.tokens for c in completions] == [len(ids) for ids in written]
    assert [c.finished for c in completions] == [ids[-1] in ends for ids in written]
    assert len({c.finished for c in completions}) == 2, "the test needs texts that end and texts that are cut"
    assert len({c.text for c in completions}) > 3, "the test needs answers that depend on the prompt"


def test_the_same_call_gives_the_same_samples_and_another_seed_others(engine: Engine) -> None:
    first = engine.sample(PROMPTS, **SAMPLED)
    assert engine.sample(PROMPTS, **SAMPLED) == first
    assert engine.sample(PROMPTS, **{**SAMPLED, "seed": 1}) != first
    assert engine.sample(PROMPTS, **GREEDY) == engine.sample(PROMPTS, **{**GREEDY, "seed": 1})


def test_n_samples_a_prompt_that_differ_and_respect_the_limit(engine: Engine) -> None:
    results = engine.sample(PROMPTS, **{**SAMPLED, "temperature": 1.5, "max_new_tokens": 9})
    assert [len(samples) for samples in results] == [3] * len(PROMPTS)
    assert all(1 <= c.tokens <= 9 and (c.finished or c.tokens == 9) for samples in results for c in samples)
    assert sum(len({c.text for c in samples}) == 3 for samples in results) > len(PROMPTS) // 2


def test_equal_prompts_get_different_samples(engine: Engine) -> None:
    results = engine.sample([PROMPTS[1]] * 8, **{**SAMPLED, "n": 1, "temperature": 1.5})
    assert len({c.text for [c] in results}) > 4


def test_more_samples_than_a_batch_holds(engine: Engine) -> None:
    [samples] = engine.sample(PROMPTS[:1], **{**SAMPLED, "n": 20, "temperature": 1.5})
    assert len(samples) == 20
    assert len({c.text for c in samples}) > 10


def test_no_prompts(engine: Engine) -> None:
    assert engine.sample([], **SAMPLED) == []


def test_progress_counts_every_prompt_once(engine: Engine) -> None:
    counts: list[int] = []
    engine.sample(PROMPTS, **SAMPLED, on_progress=counts.append)
    assert sum(counts) == len(PROMPTS)
    assert len(counts) > 1


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"n": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_new_tokens": 0}]
)
def test_impossible_requests_are_refused(engine: Engine, settings: dict[str, Any]) -> None:
    with pytest.raises(MentorkdError, match="cannot sample: got " + next(iter(settings)).replace("temperature", "")):
        engine.sample(PROMPTS, **{**SAMPLED, **settings})


def test_a_text_beyond_the_models_positions_is_refused(engine: Engine, saved: Saved) -> None:
    if saved.loaded.kind == "seq2seq":
        pytest.skip("T5's positions are relative and unlimited")
    with pytest.raises(ModelError, match=r"do not fit the model's 1024 positions; set `sampling.max_new_tokens` to at most"):
        engine.sample(PROMPTS, **{**GREEDY, "max_new_tokens": 1020})


FILTERS = [(0.7, 1.0, 0), (1.0, 0.8, 0), (1.0, 1.0, 5), (1.3, 0.9, 20)]


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), FILTERS)
def test_samples_follow_the_models_distribution(
    engine: Engine, saved: Saved, temperature: float, top_p: float, top_k: int
) -> None:
    """The first token, and the second after the likeliest first, against exact probabilities.

    First samples are also looked at alone: an engine that sorts samples by score would bias whoever keeps only some.
    """
    prompt, count = PROMPTS[3], 400
    settings = {"n": 3, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": 5}
    if hasattr(engine, "batch_size"):
        engine.batch_size = 3 * count
    ones = engine.sample([prompt] * count, max_new_tokens=1, **settings)
    twos = engine.sample([prompt] * count, max_new_tokens=2, **settings)

    expected = _distribution(saved, prompt, [], temperature, top_p, top_k)
    assert _p_value(Counter(c.text for samples in ones for c in samples), _by_text(saved, expected)) > 1e-4
    assert _p_value(Counter(samples[0].text for samples in ones), _by_text(saved, expected)) > 1e-4
    assert _p_value(Counter(samples[-1].text for samples in ones), _by_text(saved, expected)) > 1e-4

    ends = saved.loaded.model.generation_config.eos_token_id
    first = next(int(i) for i in np.argsort(-expected) if i not in ends)
    after = _distribution(saved, prompt, [first], temperature, top_p, top_k)
    pairs = {saved.loaded.tokenizer.decode([first, i], skip_special_tokens=True): i for i in np.flatnonzero(after)}
    seen = Counter(c.text for samples in twos for c in samples if c.tokens == 2 and c.text in pairs)
    others = {text for text in seen if _ambiguous(saved, text, first)}
    assert _p_value(seen, _by_text(saved, after, [first]), leave_out=others) > 1e-4


def _distribution(
    saved: Saved, prompt: str, written: list[int], temperature: float, top_p: float, top_k: int
) -> np.ndarray:
    """Probabilities [V] of the next token, written down plainly: temperature, then top k, then the nucleus."""
    loaded = saved.loaded
    ids = encode_prompt(loaded.tokenizer, loaded.kind, prompt)
    with torch.inference_mode():
        if loaded.kind == "seq2seq":
            output = loaded.model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[0, *written]]))
        else:
            output = loaded.model(input_ids=torch.tensor([ids + written]))
    logits = output.logits[0, -1].double().numpy() / temperature
    order = np.argsort(-logits)
    if top_k:
        logits[order[top_k:]] = -np.inf
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    mass = 0.0
    for i in order:
        if mass >= top_p:
            probabilities[i] = 0.0
        mass += probabilities[i]
    return probabilities / probabilities.sum()


def _by_text(saved: Saved, probabilities: np.ndarray, written: list[int] | None = None) -> dict[str, float]:
    """Several tokens can read the same (special ones are not shown)."""
    found: dict[str, float] = {}
    for i in np.flatnonzero(probabilities):
        text = saved.loaded.tokenizer.decode([*(written or []), int(i)], skip_special_tokens=True)
        found[text] = found.get(text, 0.0) + float(probabilities[i])
    return found


def _ambiguous(saved: Saved, text: str, first: int) -> bool:
    """Whether a text of two tokens can also start with another token than `first`."""
    start = saved.loaded.tokenizer.decode([first])
    return not text.startswith(start) or "\N{REPLACEMENT CHARACTER}" in text or text == start


def _p_value(seen: Counter[str], expected: dict[str, float], leave_out: set[str] | None = None) -> float:
    """Of a chi-square test; texts expected fewer than five times are counted together."""
    kept = {text: p for text, p in expected.items() if text not in (leave_out or set())}
    counts = Counter({text: count for text, count in seen.items() if text in kept})
    assert sum(counts.values()) + sum(seen[text] for text in leave_out or ()) == sum(seen.values()), "impossible texts"
    total, mass = sum(counts.values()), sum(kept.values())
    common = [text for text, p in kept.items() if total * p / mass >= 5]
    observed = [counts[text] for text in common] + [total - sum(counts[text] for text in common)]
    predicted = [total * kept[text] / mass for text in common]
    predicted.append(total - sum(predicted))
    if predicted[-1] < 5:
        observed[-2:], predicted[-2:] = [sum(observed[-2:])], [sum(predicted[-2:])]
    assert len(observed) > 2, "the test needs a distribution with some breadth"
    return float(stats.chisquare(observed, predicted).pvalue)
