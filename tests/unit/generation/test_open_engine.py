"""Which engine is opened, and what is refused with which advice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import mentorkd.generation
from mentorkd.errors import MissingExtraError, ModelError, install_command
from mentorkd.generation import choose_engine, open_engine
from mentorkd.generation.engine import SamplingParams
from mentorkd.models import LoadedModel, save_model
from tiny_families import CPU, PROMPTS
from tiny_models import tiny_gpt2, tiny_t5, tiny_tokenizer

GREEDY = SamplingParams(max_new_tokens=8)
CUDA = torch.device("cuda")


@pytest.fixture
def loaded() -> LoadedModel:
    tokenizer = tiny_tokenizer()
    return LoadedModel(tiny_t5(tokenizer), tokenizer, "seq2seq")


@pytest.fixture
def folders(tmp_path: Path, loaded: LoadedModel) -> dict[str, Path]:
    save_model(loaded, tmp_path / "t5", card="")
    causal = LoadedModel(tiny_gpt2(loaded.tokenizer), loaded.tokenizer, "causal")
    save_model(causal, tmp_path / "gpt2", card="")
    return {"t5": tmp_path / "t5", "gpt2": tmp_path / "gpt2"}


def pretend(monkeypatch: pytest.MonkeyPatch, *installed: str) -> None:
    present = {name: object() for name in installed}
    monkeypatch.setattr(mentorkd.generation, "find_spec", present.get)


def test_a_folder_and_a_model_in_memory_give_the_same(loaded: LoadedModel, folders: dict[str, Path]) -> None:
    from_folder = open_engine("transformers", model_dir=folders["t5"], device=CPU)
    in_memory = open_engine("auto", loaded=loaded, device=CPU)
    assert from_folder.name == in_memory.name == "transformers"
    assert from_folder.sample(PROMPTS[:3], GREEDY, seed=0) == in_memory.sample(PROMPTS[:3], GREEDY, seed=0)


def test_auto_is_a_rule(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path], tmp_path: Path) -> None:
    def chosen(family: str | None, device: torch.device, dtype: Any = None, cache_dir: Path | None = tmp_path) -> str:
        folder = folders[family] if family else None
        return choose_engine(folder, device=device, cache_dir=cache_dir, dtype=dtype)

    pretend(monkeypatch, "vllm", "ctranslate2")
    assert chosen("gpt2", CUDA) == "vllm"
    assert chosen("t5", CUDA) == "transformers"
    assert chosen("t5", CPU) == "ctranslate2"
    assert chosen("gpt2", CPU) == "transformers"
    assert chosen("t5", CPU, cache_dir=None) == "transformers"
    assert chosen("t5", CPU, "int8") == chosen("gpt2", CPU, "int8") == "ctranslate2"
    assert chosen(None, CUDA) == chosen(None, CPU) == "transformers"
    monkeypatch.setattr(mentorkd.generation, "LARGEST_CONVERTED", 1000)
    assert chosen("t5", CPU) == "transformers"
    pretend(monkeypatch)
    assert chosen("gpt2", CUDA) == chosen("t5", CPU) == "transformers"
    with pytest.raises(MissingExtraError, match=re.escape(install_command("ctranslate2"))):
        chosen("t5", CPU, "int8")


def test_auto_opens_transformers_after_a_refused_conversion(
    monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("ctranslate2")
    from mentorkd.generation import ctranslate2_engine

    options: dict[str, Any] = {"model_dir": folders["t5"], "device": CPU, "cache_dir": tmp_path / "cache"}
    monkeypatch.setattr(ctranslate2_engine, "TOLERANCE", -1.0)
    refused = open_engine("auto", **options, batch_size=5, tokens_per_batch=300)
    assert (refused.name, refused.batch_size, refused.tokens_per_batch) == ("transformers", 5, 300)  # type: ignore[attr-defined]
    assert "`engine: auto` uses transformers: ctranslate2's conversion" in caplog.text
    for strict in ({"name": "ctranslate2"}, {"name": "auto", "dtype": "int8"}):
        with pytest.raises(ModelError, match="differs from the model"):
            open_engine(**{**options, **strict})
    monkeypatch.undo()
    assert open_engine("auto", **options).name == "ctranslate2"


def test_an_engine_that_is_not_installed_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path], tmp_path: Path
) -> None:
    from mentorkd.generation import ctranslate2_engine, vllm_engine

    for module in (ctranslate2_engine, vllm_engine):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"engine vllm .*{re.escape(install_command('vllm'))}"):
        open_engine("vllm", model_dir=folders["gpt2"], device=CUDA)
    with pytest.raises(MissingExtraError, match=rf"engine ctranslate2 .*{re.escape(install_command('ctranslate2'))}"):
        open_engine("ctranslate2", model_dir=folders["t5"], device=CPU, cache_dir=tmp_path)


def test_vllm_refuses_what_it_does_not_serve(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    from mentorkd.generation import vllm_engine

    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: object())
    with pytest.raises(ModelError, match=r"vllm serves causal models; .* is a t5"):
        open_engine("vllm", model_dir=folders["t5"], device=CUDA)
    with pytest.raises(ModelError, match="needs a CUDA device, got cpu"):
        open_engine("vllm", model_dir=folders["gpt2"], device=CPU)
    with pytest.raises(ModelError, match="no int8"):
        open_engine("vllm", model_dir=folders["gpt2"], device=CUDA, dtype="int8")


def test_missing_parts_are_named(loaded: LoadedModel, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"either `model_dir` .* or `loaded`"):
        open_engine("auto", device=CPU)
    with pytest.raises(ModelError, match=r"either `model_dir` .* or `loaded`"):
        open_engine("auto", device=CPU, loaded=loaded, model_dir=folders["t5"])
    with pytest.raises(ModelError, match="give `model_dir` and `cache_dir`"):
        open_engine("ctranslate2", device=CPU, loaded=loaded, cache_dir=tmp_path)
    with pytest.raises(ModelError, match="give `model_dir`"):
        open_engine("vllm", device=CPU, loaded=loaded)
    with pytest.raises(ModelError, match="no int8"):
        open_engine("transformers", device=CPU, loaded=loaded, dtype="int8")
    with pytest.raises(ModelError, match=r"got engine 'fast', expected one of auto, transformers, ctranslate2, vllm$"):
        open_engine("fast", device=CPU, loaded=loaded)  # type: ignore[arg-type]


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, mentorkd.generation; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
def test_vllm_agrees_with_the_loop_on_a_gpu(folders: dict[str, Path]) -> None:
    if find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    environment, (free, _) = dict(os.environ), torch.cuda.mem_get_info()
    with closing(
        open_engine("vllm", model_dir=folders["gpt2"], device=CUDA, dtype="float32", most_tokens=40)
    ) as engine:
        on_gpu = engine.sample(PROMPTS, GREEDY, seed=0)
        assert torch.cuda.mem_get_info()[0] < free / 2
    expected = open_engine("transformers", model_dir=folders["gpt2"], device=CPU).sample(PROMPTS, GREEDY, seed=0)
    assert sum(a == b for a, b in zip(on_gpu, expected, strict=True)) >= 0.99 * len(PROMPTS)
    assert torch.cuda.mem_get_info()[0] > free - 2**28
    assert dict(os.environ) == environment
    assert "vllm" not in sys.modules


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_the_loop_on_a_gpu_agrees_with_a_cpu(folders: dict[str, Path], family: str) -> None:
    on_gpu = open_engine("transformers", model_dir=folders[family], device=CUDA)
    on_cpu = open_engine("transformers", model_dir=folders[family], device=CPU)
    for params in (GREEDY, replace(GREEDY, n=3, temperature=1.0)):
        pairs = zip(on_gpu.sample(PROMPTS, params, seed=0), on_cpu.sample(PROMPTS, params, seed=0), strict=True)
        assert sum(a == b for a, b in pairs) >= 0.9 * len(PROMPTS)
