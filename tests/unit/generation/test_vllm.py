"""The vLLM engine and its process, against a stand-in for vLLM that is strict about every call (no GPU is needed)."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from live_rows import Written, write
from mentorkd.data.encoding import encode_prompt
from mentorkd.errors import ModelError
from mentorkd.generation import open_engine
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.vllm_engine import VllmEngine, longest_text, release_memory
from mentorkd.generation.vllm_process import RESERVE, environment, memory_share
from mentorkd.models import LoadedModel, save_model
from places import ROOT
from tiny_models import tiny_gpt2, tiny_tokenizer

CUDA = torch.device("cuda")
GIB = 2**30
PROMPTS = ["3 + 4", "How many pens?", "3 + 4"]
GREEDY = SamplingParams(max_new_tokens=5)
HOT = SamplingParams(n=3, temperature=0.7, top_p=0.9, top_k=4, max_new_tokens=5)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer, folder = tiny_tokenizer(), tmp_path_factory.mktemp("vllm") / "gpt2"
    save_model(LoadedModel(tiny_gpt2(tokenizer), tokenizer, "causal"), folder, card="")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Puts the stand-in on the path; the file in which it notes what is called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tests" / "helpers" / "stand_ins")
        notes = tmp_path_factory.mktemp("notes") / "notes.jsonl"
        patch.setenv("NOTES", str(notes))
        yield notes


@pytest.fixture(scope="module")
def engine(model_dir: Path, installed: Path) -> Iterator[VllmEngine]:
    opened = VllmEngine(model_dir, device=torch.device("cuda", 1), most_tokens=40)
    yield opened
    opened.close()


def notes(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_vllm_gets_the_free_memory_without_a_reserve_and_never_all() -> None:
    assert memory_share(80 * GIB, 80 * GIB) == 0.92
    assert memory_share(42 * GIB, 80 * GIB) == 0.5
    assert memory_share(RESERVE + GIB, 80 * GIB) == 0.01
    for free in (0, RESERVE, RESERVE + GIB // 2):
        with pytest.raises(
            ModelError, match=rf"{free / GIB:.1f} of 80.0 GiB of GPU memory are free, expected more than 2"
        ):
            memory_share(free, 80 * GIB)


def test_the_longest_text_is_the_recipes_within_the_models_positions() -> None:
    assert longest_text(1024, 2048) == 1024
    assert longest_text(1024, 512) == 512
    assert longest_text(1024, None) == 1024


def test_the_process_sees_one_gpu_and_sends_no_reports() -> None:
    second = torch.device("cuda", 1)
    assert environment(CUDA, {})["CUDA_VISIBLE_DEVICES"] == "0"
    assert environment(second, {})["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment(second, {"CUDA_VISIBLE_DEVICES": "5,GPU-8f"})["CUDA_VISIBLE_DEVICES"] == "GPU-8f"
    assert environment(CUDA, {})["VLLM_NO_USAGE_STATS"] == "1"
    own = {"VLLM_NO_USAGE_STATS": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "HOME": "/h"}
    assert environment(CUDA, own) == {**own, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "CUDA_VISIBLE_DEVICES": "0"}


def test_what_a_training_left_is_released() -> None:
    class Trainer:
        pass

    trainer: Any = Trainer()
    trainer.callbacks = [trainer]
    left = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert left() is not None
        release_memory()
        assert left() is None
    finally:
        gc.enable()


def test_the_engine_opens_vllm_as_the_recipe_says(engine: VllmEngine, installed: Path) -> None:
    opened = notes(installed)[0]
    assert opened == {
        "model": str(engine.model_dir),
        "dtype": "float32",
        "share": 0.83,
        "max_model_len": 40,
        "gpu": "1",
        "pid": opened["pid"],
    }
    assert opened["pid"] != os.getpid()


def test_all_prompts_are_written_and_progress_is_told(engine: VllmEngine) -> None:
    counts: list[int] = []
    results = engine.sample(PROMPTS, HOT, seed=0, on_progress=counts.append)
    assert [len(texts) for texts in results] == [3, 3, 3]
    assert sum(counts) == 3
    for prompt, texts in zip(PROMPTS, results, strict=True):
        last = encode_prompt(engine.tokenizer, "causal", prompt)[-1]
        expected = [engine.tokenizer.decode(range(last + number + 1, last + number + 6)) for number in range(3)]
        assert [text.text for text in texts] == expected
        assert {(text.tokens, text.finish_reason) for text in texts} == {(5, "length")}
    assert engine.sample([], HOT, seed=0) == []


def test_rows_get_their_tokens_and_end(engine: VllmEngine, installed: Path) -> None:
    end = engine.end_ids[0]
    hot = SamplingParams(max_new_tokens=9, temperature=0.5, top_p=0.9, top_k=4)
    for every in (0, 3):
        rows = [
            Written(engine, [5, 20], SamplingParams(max_new_tokens=3)),
            Written(engine, [end - 3], hot, likeliest=1, seed=3),
            Written(engine, [30], hot),
        ]
        rows[2].cancel_after = 2
        write(engine, rows, every=every)
        assert [row.ids for row in rows] == [[21, 22, 23], [end - 2, end - 1, end], [31, 32]]
        assert [row.tokens[-1].finish_reason for row in rows] == ["length", "stop", None]
        assert [(token.logprob, token.likeliest) for token in rows[1].tokens] == [(-2.0, [(7, -0.5)])] * 3
    aborted = [note["aborted"] for note in notes(installed) if "aborted" in note]
    assert [len(names) for names in aborted] == [1, 1]


def test_a_row_that_vllm_refuses_fails_alone(engine: VllmEngine) -> None:
    rows = [
        Written(engine, [20], GREEDY),
        Written(engine, [20] * 40, GREEDY),
        Written(engine, [20], GREEDY, likeliest=21),
    ]
    write(engine, rows)
    assert rows[0].ids == [21, 22, 23, 24, 25]
    assert [str(error) for row in rows[1:] for error in row.errors] == [
        "vllm refused the prompt: The decoder prompt (length 40) is longer than the maximum model length",
        "vllm refused the prompt: Requested sample logprobs of 21, which is greater than max allowed: 20",
    ]


def test_importing_vllm_is_left_to_its_process(engine: VllmEngine) -> None:
    import sys

    assert "vllm" not in sys.modules


@pytest.fixture
def fresh(model_dir: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., VllmEngine]:
    """Opens an engine whose process has a fault."""

    def opened(fault: str = "", **options: Any) -> VllmEngine:
        monkeypatch.setenv("FAULT", fault)
        return VllmEngine(model_dir, device=CUDA, **options)

    return opened


@pytest.mark.slow
def test_a_longer_text_than_expected_opens_vllm_again(fresh: Callable[..., VllmEngine], installed: Path) -> None:
    engine = fresh(most_tokens=6)
    try:
        [[text]] = engine.sample([" ".join(PROMPTS)], GREEDY, seed=0)
        assert text.tokens == 5
        first, second = [note for note in notes(installed) if "model" in note][-2:]
        assert first["max_model_len"] == 6 < second["max_model_len"] <= engine.config.max_position_embeddings
        assert not is_running(first["pid"])
        engine.sample(PROMPTS, GREEDY, seed=0)
        assert [note for note in notes(installed) if "model" in note][-1] == second
    finally:
        engine.close()
    assert not is_running(second["pid"])


@pytest.mark.slow
def test_a_process_that_dies_is_an_error_with_its_log_and_is_replaced(
    fresh: Callable[..., VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh("die")
    with pytest.raises(ModelError, match=r"vllm cannot serve .*SIGKILL.* log: .*CUDA error: an illegal memory access"):
        engine.sample(PROMPTS, GREEDY, seed=0)
    monkeypatch.setenv("FAULT", "")
    row = Written(engine, [20], GREEDY)
    write(engine, [row])
    assert row.ids == [21, 22, 23, 24, 25]
    engine.close()


@pytest.mark.slow
def test_ctrl_c_ends_a_process_that_hangs(
    fresh: Callable[..., VllmEngine], installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mentorkd.generation.vllm_process._EXIT_SECONDS", 0.5)
    engine = fresh("hang")
    process = notes(installed)[-1]["pid"]
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.5, signal.pthread_kill, [main, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        engine.sample(PROMPTS, GREEDY, seed=0)
    assert not is_running(process)


def test_a_row_that_vllm_has_no_room_for_fails(engine: VllmEngine) -> None:
    row = Written(engine, [20] * 38, GREEDY)
    write(engine, [row])
    assert row.ids == [21, 22]
    assert str(row.errors[0]).startswith("vllm ended a text after 2 of 5 tokens")


@pytest.mark.slow
def test_a_text_is_never_cut_for_lack_of_room(fresh: Callable[..., VllmEngine]) -> None:
    with (
        closing(fresh()) as engine,
        pytest.raises(
            ModelError, match=r"vllm ended a text after \d+ of 63 tokens, since its memory holds no longer one"
        ),
    ):
        engine.sample(PROMPTS, SamplingParams(max_new_tokens=63), seed=0)


@pytest.mark.slow
def test_an_engine_that_is_forgotten_leaves_no_process(fresh: Callable[..., VllmEngine], installed: Path) -> None:
    engine = fresh()
    process = notes(installed)[-1]["pid"]
    assert is_running(process)
    del engine
    gc.collect()
    until(lambda: not is_running(process))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("import", r"ImportError: libcudart.so.13: cannot open"),
        ("memory", r"OutOfMemoryError: CUDA out of memory"),
        ("start", r"ValueError: Model architectures .* are not supported"),
    ],
)
def test_auto_falls_back_and_tells_why_and_vllm_by_name_is_an_error(
    fault: str,
    why: str,
    model_dir: Path,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("FAULT", fault)
    options: dict[str, Any] = {"model_dir": model_dir, "device": CUDA}
    with pytest.raises(ModelError, match=rf"vllm cannot serve .*: {why}.*; set `engine: transformers`"):
        open_engine("vllm", **options)
    loaded: list[dict[str, Any]] = []
    from mentorkd.models import load_folder

    def on_cpu(folder: Path, **how: Any) -> LoadedModel:
        loaded.append(how)
        return load_folder(folder, device=torch.device("cpu"))

    monkeypatch.setattr("mentorkd.models.load_folder", on_cpu)
    with caplog.at_level(logging.WARNING, "mentorkd"):
        engine = open_engine("auto", **options)
    assert engine.name == "transformers"
    assert loaded[0]["device"] == CUDA
    [message] = [record.message for record in caplog.records if "engine: auto" in record.message]
    assert "`engine: auto` uses transformers: vllm cannot serve" in message
