"""The guarantees of every engine, on real models of each family that all engines serve."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from live_rows import Written, write
from mentorkd.data.encoding import encode_prompt
from mentorkd.errors import MentorkdError, ModelError
from mentorkd.generation import open_engine
from mentorkd.generation.engine import Engine, SamplingParams
from mentorkd.generation.live import LiveEngine
from mentorkd.generation.sampling import completion
from mentorkd.generation.transformers_engine import TransformersEngine
from tiny_families import CPU, MAX_NEW_TOKENS, PROMPTS, Saved
from tiny_models import TEXTS

GREEDY = SamplingParams(max_new_tokens=MAX_NEW_TOKENS)
SAMPLED = replace(GREEDY, n=3, temperature=0.7)


CASES = [
    (family, engine) for family in ("t5", "flan-t5", "gpt2", "llama", "qwen2") for engine in ("loop", "ctranslate2")
]
CASES += [("t5", "generate"), ("llama", "generate")]
GPU_CASES = [pytest.param((family, "vllm"), marks=pytest.mark.gpu) for family in ("gpt2", "llama", "qwen2")]


@pytest.fixture(params=[*CASES, *GPU_CASES], ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def saved(case: tuple[str, str], save: Callable[[str], Saved]) -> Saved:
    return save(case[0])


@pytest.fixture
def engine(case: tuple[str, str], saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEngine]:
    with closing(_opened(case, saved, tmp_path_factory)) as engine:
        yield engine


def _opened(case: tuple[str, str], saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> LiveEngine:
    if case[1] == "ctranslate2":
        pytest.importorskip("ctranslate2")
        cache = Path(tmp_path_factory.getbasetemp()) / "engines"
        options: dict[str, Any] = {"cache_dir": cache, "batch_size": 7, "dtype": "float32"}
        return open_engine("ctranslate2", model_dir=saved.folder, device=CPU, **options)
    if case[1] == "vllm":
        if find_spec("vllm") is None:  # importing it is left to the engine's process
            pytest.skip("vllm is not installed")
        return open_engine("vllm", model_dir=saved.folder, device=torch.device("cuda"), dtype="float32")
    loaded, by_generate = saved.loaded, case[1] == "generate"
    return TransformersEngine(loaded.model, loaded.tokenizer, loaded.kind, batch_size=7, use_generate=by_generate)


def test_greedy_equals_the_models_own_generate_whatever_the_batch(engine: Engine, saved: Saved) -> None:
    written = saved.reference(PROMPTS)
    ends = saved.loaded.model.generation_config.eos_token_id
    decode = saved.loaded.tokenizer.decode
    completions = [completion for [completion] in engine.sample(PROMPTS, GREEDY, seed=0)]
    assert [c.text for c in completions] == [decode(ids, skip_special_tokens=True) for ids in written]
    assert [c.tokens for c in completions] == [len(ids) for ids in written]
    assert [c.finish_reason == "stop" for c in completions] == [ids[-1] in ends for ids in written]
    assert len({c.finish_reason for c in completions}) == 2, "the test needs texts that end and texts that are cut"
    assert len({c.text for c in completions}) > 3, "the test needs answers that depend on the prompt"


@pytest.mark.parametrize("family", ["t5", "flan-t5", "gpt2", "llama", "qwen2"])
def test_greedy_texts_of_two_engines_agree_on_99_percent_of_prompts(
    family: str, save: Callable[[str], Saved], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rounding may decide between two tokens of equal likelihood, so not on all of them."""
    pytest.importorskip("ctranslate2")
    draw, words = random.Random(0), " ".join(TEXTS).split()
    prompts = [" ".join(draw.choices(words, k=draw.randint(1, 20))) for _ in range(300)]
    saved, cache = save(family), Path(tmp_path_factory.getbasetemp()) / "engines"
    texts = [
        open_engine(name, model_dir=saved.folder, device=CPU, cache_dir=cache, batch_size=64, dtype="float32").sample(
            prompts, GREEDY, seed=0
        )
        for name in ("transformers", "ctranslate2")
    ]
    assert sum(a == b for a, b in zip(*texts, strict=True)) >= 0.99 * len(prompts)
    assert len({completion.text for [completion] in texts[0]}) > 30, "the test needs answers that depend on the prompt"


def test_the_same_call_gives_the_same_samples_and_another_seed_others(engine: Engine) -> None:
    first = engine.sample(PROMPTS, SAMPLED, seed=0)
    assert engine.sample(PROMPTS, SAMPLED, seed=0) == first
    assert engine.sample(PROMPTS, SAMPLED, seed=1) != first
    assert engine.sample(PROMPTS, GREEDY, seed=0) == engine.sample(PROMPTS, GREEDY, seed=1)


def test_n_samples_a_prompt_that_differ_and_respect_the_limit(engine: Engine) -> None:
    results = engine.sample(PROMPTS, replace(SAMPLED, temperature=1.5, max_new_tokens=9), seed=0)
    assert [len(samples) for samples in results] == [3] * len(PROMPTS)
    assert all(
        1 <= c.tokens <= 9 and (c.finish_reason == "stop" or c.tokens == 9) for samples in results for c in samples
    )
    assert sum(len({c.text for c in samples}) == 3 for samples in results) > len(PROMPTS) // 2


def test_equal_prompts_get_different_samples(engine: Engine) -> None:
    results = engine.sample([PROMPTS[1]] * 8, replace(SAMPLED, n=1, temperature=1.5), seed=0)
    assert len({c.text for [c] in results}) > 4


def test_more_samples_than_a_batch_holds(engine: Engine) -> None:
    [samples] = engine.sample(PROMPTS[:1], replace(SAMPLED, n=20, temperature=1.5), seed=0)
    assert len(samples) == 20
    assert len({c.text for c in samples}) > 4


def test_no_prompts(engine: Engine) -> None:
    assert engine.sample([], SAMPLED, seed=0) == []


def test_progress_counts_every_prompt_once(engine: Engine) -> None:
    counts: list[int] = []
    engine.sample(PROMPTS, SAMPLED, seed=0, on_progress=counts.append)
    assert sum(counts) == len(PROMPTS)
    assert len(counts) > 1


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"n": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_new_tokens": 0}],
)
def test_impossible_requests_are_refused(engine: Engine, settings: dict[str, Any]) -> None:
    with pytest.raises(MentorkdError, match="cannot sample: got " + next(iter(settings)).replace("temperature", "")):
        engine.sample(PROMPTS, replace(SAMPLED, **settings), seed=0)


def test_a_text_beyond_the_models_positions_is_refused(engine: Engine, saved: Saved) -> None:
    if saved.loaded.kind == "seq2seq":
        pytest.skip("T5's positions are relative and unlimited")
    with pytest.raises(
        ModelError, match=r"do not fit the model's 1024 positions; set `sampling.max_new_tokens` to at most"
    ):
        engine.sample(PROMPTS, replace(GREEDY, max_new_tokens=1020), seed=0)


@pytest.mark.parametrize(
    ("length", "temperature", "top_p", "top_k"),
    [(1, 1.5, 1.0, 0), (1, 1.5, 0.9, 0), (1, 1.3, 0.9, 20), (3, 0.7, 1.0, 3)],
)
def test_samples_follow_the_models_distribution(
    engine: Engine, saved: Saved, length: int, temperature: float, top_p: float, top_k: int
) -> None:
    """Texts of `length` tokens against their exact probabilities; the seed is fixed, so the test cannot flake.

    First and last samples are also looked at alone: an engine that sorts samples by score would bias whoever keeps
    only some of them.
    """
    engine.batch_size = 300  # type: ignore[attr-defined]
    results = engine.sample([PROMPTS[3]] * 300, SamplingParams(3, temperature, top_p, top_k, length), seed=5)
    expected = _probabilities(saved, PROMPTS[3], length, temperature, top_p, top_k)
    for part in (slice(None), slice(0, 1), slice(-1, None)):
        seen = Counter(completion.text for samples in results for completion in samples[part])
        assert set(seen) <= set(expected)
        assert _p_value(seen, expected) > 1e-4
    # The test can fail: of twice the temperature the same texts would be refused.
    hotter = _probabilities(saved, PROMPTS[3], length, 2 * temperature, top_p, top_k)
    drawn = Counter(completion.text for samples in results for completion in samples)
    assert not set(drawn) <= set(hotter) or _p_value(drawn, hotter) < 1e-4


def _probabilities(
    saved: Saved, prompt: str, length: int, temperature: float, top_p: float, top_k: int
) -> dict[str, float]:
    """Of every text of up to `length` tokens."""
    ends = saved.loaded.model.generation_config.eos_token_id
    texts: Counter[str] = Counter()
    open_texts: dict[tuple[int, ...], float] = {(): 1.0}
    for step in range(length):
        following = _next(saved, prompt, [list(ids) for ids in open_texts], temperature, top_p, top_k)
        longer = {
            (*ids, int(i)): mass * float(row[i])
            for (ids, mass), row in zip(open_texts.items(), following, strict=True)
            for i in np.flatnonzero(row)
        }
        open_texts = {ids: mass for ids, mass in longer.items() if ids[-1] not in ends and step + 1 < length}
        for ids in longer.keys() - open_texts.keys():
            texts[saved.loaded.tokenizer.decode(ids, skip_special_tokens=True)] += longer[ids]  # type: ignore[assignment]
    return dict(texts)


def _next(
    saved: Saved, prompt: str, written: list[list[int]], temperature: float, top_p: float, top_k: int
) -> np.ndarray:
    """Probabilities [rows, V] of the next token, written down plainly: temperature, then top k, then the nucleus."""
    loaded = saved.loaded
    rows = [encode_prompt(loaded.tokenizer, loaded.kind, prompt)] * len(written)
    with torch.inference_mode():
        if loaded.kind == "seq2seq":
            started = torch.tensor([[0, *ids] for ids in written])
            output = loaded.model(input_ids=torch.tensor(rows), decoder_input_ids=started)
        else:
            output = loaded.model(input_ids=torch.tensor([row + ids for row, ids in zip(rows, written, strict=True)]))
    logits = output.logits[:, -1].double().numpy() / temperature
    for row in logits:
        order = np.argsort(-row)
        if top_k:
            row[order[top_k:]] = -np.inf
        mass = np.exp(row - row.max())
        mass = np.cumsum((mass / mass.sum())[order])
        row[order[1:][mass[:-1] >= top_p]] = -np.inf
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def _p_value(seen: Counter[str], expected: dict[str, float]) -> float:
    """Of a chi-square test over texts in groups of about an eighth of the probability."""
    total = sum(seen.values())
    groups = [[0.0, 0.0]]
    for text, probability in sorted(expected.items(), key=lambda item: -item[1]):
        if groups[-1][1] >= total / 8:
            groups.append([0.0, 0.0])
        groups[-1][0] += seen[text]
        groups[-1][1] += total * probability
    if groups[-1][1] < 5:
        last = groups.pop()
        groups[-1] = [groups[-1][0] + last[0], groups[-1][1] + last[1]]
    assert len(groups) > 1, "the test needs a distribution with some breadth"
    return float(stats.chisquare(*zip(*groups, strict=True)).pvalue)


def encoded(engine: LiveEngine, prompts: list[str]) -> list[list[int]]:
    return [encode_prompt(engine.tokenizer, engine.kind, prompt) for prompt in prompts]


def test_a_stream_tells_the_tokens_that_a_sample_has(engine: LiveEngine) -> None:
    """Also of rows with other settings beside, and with limits of their own."""
    limits = [MAX_NEW_TOKENS - number for number in range(len(PROMPTS))]
    greedy = [
        Written(engine, ids, replace(GREEDY, max_new_tokens=limit))
        for ids, limit in zip(encoded(engine, PROMPTS), limits, strict=True)
    ]
    drawn = [Written(engine, row.row.prompt_ids, replace(GREEDY, temperature=1.3, top_k=5)) for row in greedy[:3]]
    write(engine, [*drawn, *greedy])
    for row, prompt, limit in zip(greedy, PROMPTS, limits, strict=True):
        [[expected]] = engine.sample([prompt], replace(GREEDY, max_new_tokens=limit), seed=0)
        assert completion(row.ids, engine.tokenizer, engine.end_ids) == expected
        assert [token.finish_reason for token in row.tokens] == [None] * (expected.tokens - 1) + [
            expected.finish_reason
        ]
        assert all(token.logprob is None for token in row.tokens)


def test_a_seed_repeats_the_texts_of_a_request_whatever_is_beside_it(engine: LiveEngine) -> None:
    # At 1.5 strangers, whose seeds are random, write equal texts now and then.
    params = replace(GREEDY, temperature=4.0)
    [prompt] = encoded(engine, PROMPTS[1:2])

    def request(seed: int | None) -> list[Written]:
        rows = [Written(engine, prompt, params, seed=seed, sample=sample) for sample in range(3)]
        for row in rows:
            row.row.request = rows[0]
        return rows

    alone, beside, other, strangers = request(7), request(7), request(8), request(None)
    write(engine, alone)
    write(engine, [*strangers, *beside, *other])
    texts = [[row.ids for row in rows] for rows in (alone, beside, other, strangers)]
    assert texts[0] == texts[1]
    assert len({tuple(ids) for rows in texts[1:] for ids in rows}) > 6, "seeds, samples and strangers must differ"


def test_log_probabilities_are_the_models_own_at_temperature_1(engine: LiveEngine, saved: Saved) -> None:
    prompts = encoded(engine, PROMPTS[:3])
    hot = replace(GREEDY, temperature=1.5, top_p=0.9)
    rows = [Written(engine, prompt, hot, likeliest=number) for number, prompt in enumerate(prompts)]
    rows += [Written(engine, prompts[0], GREEDY, likeliest=1)]
    write(engine, rows)
    for row in rows:
        source, target = torch.tensor([row.row.prompt_ids]), torch.tensor([row.ids])
        with torch.no_grad():
            if engine.kind == "seq2seq":
                logits = saved.loaded.model(input_ids=source, labels=target).logits[0]
            else:
                both = torch.cat([source, target], dim=1)
                logits = saved.loaded.model(input_ids=both).logits[0, source.shape[1] - 1 : -1]
        expected = logits.float().log_softmax(-1)
        own = expected.gather(1, target[0][:, None])[:, 0]
        assert [token.logprob for token in row.tokens] == pytest.approx(own.tolist(), abs=1e-3)
        for token, log_probs in zip(row.tokens, expected, strict=True):
            best = log_probs.topk(row.row.likeliest or 0)
            assert [value for _, value in token.likeliest] == pytest.approx(best.values.tolist(), abs=1e-3)
            assert all(log_probs[number] == pytest.approx(value, abs=1e-3) for number, value in token.likeliest)


def test_a_cancelled_row_ends_and_the_others_go_on(engine: LiveEngine) -> None:
    tokens = [completion.tokens for [completion] in engine.sample(PROMPTS, GREEDY, seed=0)]
    rows = [Written(engine, prompt, GREEDY) for prompt in encoded(engine, PROMPTS)]
    cancelled = max(range(len(rows)), key=tokens.__getitem__)
    assert tokens[cancelled] > 2
    rows[cancelled].cancel_after = tokens[cancelled] = 2
    write(engine, rows)
    assert [len(row.ids) for row in rows] == tokens
    assert [row.tokens[-1].finish_reason is None for row in rows].count(True) == 1
