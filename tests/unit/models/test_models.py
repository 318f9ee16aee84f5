from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants as hub
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5Model

from layouts import padded_left
from mentorkd import models
from mentorkd.data.batching import IGNORE_INDEX, Collator
from mentorkd.data.encoding import Example
from mentorkd.distillation.hidden_states import head_is_linear, head_parameters, target_hidden, target_logits
from mentorkd.errors import ModelError
from mentorkd.models import (
    LoadedModel,
    cast_linear_layers,
    kind_of,
    load_folder,
    load_model,
    load_tokenizer,
    resolve_device,
    save_model,
    tokenizer_digest,
)
from mentorkd.recipe.learner import LoraConfig, ModelConfig
from tiny_models import TEXTS, tiny_gpt2, tiny_llama, tiny_t5, tiny_tokenizer

CPU = torch.device("cpu")
T5_SIZES = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
GPT2_SIZES = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
DECODER = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 3,
}
BART = {
    "vocab_size": 384,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 3,
    "decoder_start_token_id": 0,
}
T5 = {**T5_SIZES, "vocab_size": 384, "decoder_start_token_id": 0}
OPT = {**DECODER, "ffn_dim": 64, "word_embed_proj_dim": 32}

# Family -> its config, and whether its logits are head(hidden states) and nothing else.
FAMILIES: dict[str, tuple[dict[str, Any], bool]] = {
    "t5, tied and scaled": (T5, True),
    "t5 v1.1, not scaled": (T5 | {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}, True),
    "mt5": (T5 | {"model_type": "mt5"}, True),
    "bart": ({"model_type": "bart", **BART}, True),
    "gpt2": (GPT2_SIZES | {"vocab_size": 384, "bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0}, True),
    "llama (smollm)": ({"model_type": "llama", **DECODER}, True),
    "qwen2": ({"model_type": "qwen2", **DECODER}, True),
    "qwen3": ({"model_type": "qwen3", **DECODER}, True),
    "llama, tied": ({"model_type": "llama", **DECODER, "tie_word_embeddings": True}, True),
    "gemma": ({"model_type": "gemma", **DECODER}, True),
    "gemma2, soft-capped": ({"model_type": "gemma2", **DECODER}, False),
    "opt": ({"model_type": "opt", **OPT}, True),
    "cohere, logits scaled": ({"model_type": "cohere", **DECODER, "logit_scale": 0.5}, False),
    "granite, logits scaled": ({"model_type": "granite", **DECODER, "logits_scaling": 4.0}, False),
    "granite, scale of one": ({"model_type": "granite", **DECODER}, True),
}


def family(name: str) -> nn.Module:
    settings = dict(FAMILIES[name][0])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    torch.manual_seed(0)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return auto.from_config(config).eval()


ROWS = [
    Example("a", [5, 6, 7, 8, 9, 1], [10, 11, 12, 1]),
    Example("b", [5, 1], [13, 14, 15, 16, 17, 18, 1]),
    Example("c", [21, 22, 23, 24, 25, 26, 27, 28, 1], [30, 1]),
]
TARGET_TOKENS = sum(len(row.target_ids) for row in ROWS)


def batch_for(model: nn.Module, rows: list[Example] = ROWS) -> dict[str, torch.Tensor]:
    if model.config.is_encoder_decoder:
        return Collator("seq2seq", 0, model.config.decoder_start_token_id)(rows)
    return Collator("causal", 0)(rows)


def own_logits(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of the model's own forward pass."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return model(**inputs).logits[batch["labels"] != IGNORE_INDEX]


# --- hidden states at the head ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_hidden_states_times_head_are_the_models_logits_or_the_head_is_not_linear(name: str) -> None:
    model = family(name)
    batch = batch_for(model)
    own = own_logits(model, batch)
    exact = FAMILIES[name][1]
    assert head_is_linear(model, batch) is exact
    torch.testing.assert_close(target_logits(model, batch), own)
    if exact:
        weight, bias = head_parameters(model)
        torch.testing.assert_close(nn.functional.linear(target_hidden(model, batch), weight, bias), own)


@torch.no_grad()
def test_soft_capping_is_detected_though_it_barely_changes_a_new_models_logits() -> None:
    model = family("gemma2, soft-capped")
    batch = batch_for(model)
    rebuilt = nn.functional.linear(target_hidden(model, batch), head_parameters(model)[0])
    torch.testing.assert_close(
        rebuilt, own_logits(model, batch), rtol=1e-3, atol=1e-3
    )  # otherwise this test proves nothing
    assert not head_is_linear(model, batch)


@torch.no_grad()
def test_a_biased_bart_has_no_linear_head() -> None:
    model = family("bart")
    model.final_logits_bias += 0.1
    batch = batch_for(model)
    assert not head_is_linear(model, batch)
    torch.testing.assert_close(target_logits(model, batch), own_logits(model, batch))


@torch.no_grad()
def test_t5_with_an_untied_head_has_a_linear_head() -> None:
    model = family("t5 v1.1, not scaled")
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    batch = batch_for(model)
    assert head_is_linear(model, batch)
    torch.testing.assert_close(target_hidden(model, batch) @ model.lm_head.weight.T, own_logits(model, batch))


@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_and_padding_never_reach_the_head(name: str) -> None:
    model = family(name)
    head = model.get_output_embeddings()
    rows: list[int] = []
    multiply = nn.functional.linear

    def counting(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if weight is head.weight:
            rows.append(hidden.numel() // hidden.shape[-1])
        return multiply(hidden, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "linear", counting)
        assert len(target_hidden(model, batch_for(model))) == TARGET_TOKENS
        assert rows == []
        target_logits(model, batch_for(model))
        assert rows == [TARGET_TOKENS]
        own_logits(model, batch_for(model))  # the counter counts
        assert rows[1] > TARGET_TOKENS


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_padding_side_does_not_change_hidden_states(name: str) -> None:
    model = family(name)
    if name == "bart":
        pytest.skip("BART has absolute positions and takes none from outside: it is padded on the right only")
    right = batch_for(model)
    left, right = (target_hidden(model, batch) for batch in (padded_left(right), right))
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_the_head_is_restored_even_after_an_error() -> None:
    model = family("t5, tied and scaled")
    batch = batch_for(model)
    before = own_logits(model, batch)
    with pytest.raises(IndexError):
        target_hidden(model, {**batch, "input_ids": batch["input_ids"] + 10_000})
    target_hidden(model, batch)
    assert "forward" not in model.get_output_embeddings().__dict__
    torch.testing.assert_close(own_logits(model, batch), before)


def test_the_models_mode_is_not_changed() -> None:
    model = family("gpt2")
    for training in (True, False):
        model.train(training)
        head_is_linear(model, batch_for(model))
        assert model.training is training


def test_gradients_flow_through_the_hidden_states() -> None:
    model = family("llama (smollm)").train()
    target_hidden(model, batch_for(model)).sum().backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["t5, tied and scaled", "gpt2", "llama (smollm)"])
@torch.no_grad()
def test_weights_cast_to_bfloat16_give_the_outputs_of_autocast(name: str) -> None:
    model = family(name)
    batch = batch_for(model)
    head = head_parameters(model)[0]
    with torch.autocast("cpu", torch.bfloat16):
        cast = target_hidden(model, batch)
        cast_linear_layers(model)
        held = target_hidden(model, batch)
    torch.testing.assert_close(held, cast, rtol=0, atol=0)
    assert {p.dtype for p in model.parameters()} == {torch.float32, torch.bfloat16}
    assert head_parameters(model)[0] is head
    assert head.dtype == torch.float32


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match="T5Model has no linear head"):
        head_parameters(T5Model(T5Config(**{key: value for key, value in T5.items() if key != "model_type"})))


def test_a_hub_that_cannot_be_reached_is_reported_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    models._hub_error.cache_clear()
    began = time.monotonic()
    for load in (kind_of, load_tokenizer):
        with pytest.raises(
            ModelError, match=r"'an/unfetched-model': it is not in the local cache, and http://127.0.0.1:9 cannot be"
        ):
            load(ModelConfig(name="an/unfetched-model"))
    assert time.monotonic() - began < 10
    models._hub_error.cache_clear()


# --- building and loading -----------------------------------------------------------------------------------------


def test_a_t5_is_built_with_its_real_vocabulary(shared_tokenizer: Path) -> None:
    loaded = load_model(ModelConfig(from_config=T5_SIZES, tokenizer=str(shared_tokenizer)), seed=1, device=CPU)
    assert loaded.kind == "seq2seq"
    assert len(loaded.tokenizer) == 32_100
    assert loaded.model.config.vocab_size == 32_128
    assert loaded.model.config.decoder_start_token_id == loaded.tokenizer.pad_token_id == 0
    assert loaded.tokenizer("4 apples")["input_ids"] == [314, 16981, 1]
    assert loaded.parameter_count == sum(p.numel() for p in loaded.model.parameters())


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("sizes", [T5_SIZES, GPT2_SIZES], ids=["t5", "gpt2"])
def test_the_seed_decides_the_initial_weights(sizes: dict[str, Any], tokenizer_folder: Path) -> None:
    config = ModelConfig(from_config=sizes, tokenizer=str(tokenizer_folder))
    torch.manual_seed(5)
    first = load_model(config, seed=1, device=CPU).model.state_dict()
    torch.manual_seed(6)
    state = torch.get_rng_state()
    again = load_model(config, seed=1, device=CPU).model.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    other = load_model(config, seed=2, device=CPU).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_built_models_special_tokens_are_its_tokenizers(tokenizer_folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    bart = {key: value for key, value in BART.items() if "token" not in key and key != "vocab_size"}
    for sizes in (GPT2_SIZES, {"model_type": "bart", **bart}):
        wanted = ModelConfig(from_config=sizes, tokenizer=str(tokenizer_folder))
        config = load_model(wanted, seed=0, device=CPU).model.config
        assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (
            tokenizer.pad_token_id,
            tokenizer.eos_token_id,
            tokenizer.bos_token_id,
        )
        assert not config.is_encoder_decoder or config.decoder_start_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("sizes", [T5_SIZES, GPT2_SIZES], ids=["t5", "gpt2"])
def test_the_kind_is_known_without_building(sizes: dict[str, Any], tokenizer_folder: Path) -> None:
    config = ModelConfig(from_config=sizes, tokenizer=str(tokenizer_folder))
    assert kind_of(config) == load_model(config, seed=0, device=CPU).kind


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(ModelConfig(name=str(tmp_path))).pad_token_id == tokenizer.eos_token_id


def test_digests_differ_between_tokenizers() -> None:
    assert tokenizer_digest(tiny_tokenizer()) == tokenizer_digest(tiny_tokenizer())
    other = tiny_tokenizer([*TEXTS, "quite another text, to merge other bytes"], vocab_size=300)
    assert tokenizer_digest(tiny_tokenizer()) != tokenizer_digest(other)


# --- saving -------------------------------------------------------------------------------------------------------

LOADED = {
    "t5": lambda: LoadedModel(tiny_t5(tiny_tokenizer()), tiny_tokenizer(), "seq2seq"),
    "t5 v1.1": lambda: LoadedModel(tiny_t5(tiny_tokenizer(), tie_word_embeddings=False), tiny_tokenizer(), "seq2seq"),
    "gpt2": lambda: LoadedModel(tiny_gpt2(tiny_tokenizer()), tiny_tokenizer(), "causal"),
    "llama": lambda: LoadedModel(tiny_llama(tiny_tokenizer()), tiny_tokenizer(), "causal"),
}


@pytest.mark.parametrize("name", LOADED)
@torch.no_grad()
def test_a_saved_model_is_a_plain_folder_that_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    loaded = LOADED[name]()
    save_model(loaded, tmp_path, card="# A model\n")
    files = {file.name for file in tmp_path.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= files
    assert not [file for file in files if file.endswith((".bin", ".pt", ".pkl"))]
    assert (tmp_path / "README.md").read_text() == "# A model\n"
    (tmp_path / "neighbour").touch()
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1  # by the umask

    auto = AutoModelForSeq2SeqLM if loaded.kind == "seq2seq" else AutoModelForCausalLM
    batch = batch_for(loaded.model)
    plain = auto.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(own_logits(plain, batch), own_logits(loaded.model, batch))
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0])["input_ids"] == loaded.tokenizer(TEXTS[0])["input_ids"]

    back = load_folder(tmp_path, device=CPU)
    assert (back.kind, back.model.training) == (loaded.kind, False)
    assert tokenizer_digest(back.tokenizer) == tokenizer_digest(loaded.tokenizer)
    torch.testing.assert_close(own_logits(back.model, batch), own_logits(loaded.model, batch))


@torch.no_grad()
def test_an_untied_head_of_a_t5_is_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="transformers")
    loaded = LOADED["t5 v1.1"]()
    loaded.model.lm_head.weight = nn.Parameter(torch.randn_like(loaded.model.lm_head.weight))
    save_model(loaded, tmp_path, card="")
    batch = batch_for(loaded.model)
    torch.testing.assert_close(
        own_logits(load_folder(tmp_path, device=CPU).model, batch), own_logits(loaded.model, batch)
    )


@pytest.mark.parametrize("sizes", [T5_SIZES, GPT2_SIZES], ids=["t5", "gpt2"])
def test_only_adapters_are_trained_and_they_are_merged_on_save(
    sizes: dict[str, Any], tokenizer_folder: Path, tmp_path: Path
) -> None:
    lora = LoraConfig(r=4, alpha=32, dropout=0.0)
    config = ModelConfig(from_config=sizes, tokenizer=str(tokenizer_folder), lora=lora)
    loaded = load_model(config, seed=0, device=CPU)
    trained = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)

    batch = batch_for(loaded.model)
    assert head_is_linear(loaded.model, batch)
    optimizer = torch.optim.SGD([p for p in loaded.model.parameters() if p.requires_grad], lr=0.1)
    before = own_logits(loaded.model, batch).detach()
    for _ in range(3):
        (target_hidden(loaded.model, batch) - 1).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        adapted = own_logits(loaded.model.eval(), batch)
        assert (adapted - before).abs().max() > 0.01
        save_model(loaded, tmp_path / "model", card="")
        assert not list((tmp_path / "model").glob("adapter*"))
        merged = own_logits(load_folder(tmp_path / "model", device=CPU).model, batch)
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)


def test_merged_adapters_load_without_peft(tokenizer_folder: Path, tmp_path: Path) -> None:
    config = ModelConfig(from_config=T5_SIZES, tokenizer=str(tokenizer_folder), lora=LoraConfig(r=4))
    save_model(load_model(config, seed=0, device=CPU), tmp_path, card="")
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "import torch; from transformers import AutoModelForSeq2SeqLM\n"
        f"AutoModelForSeq2SeqLM.from_pretrained({str(tmp_path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_head_with_adapters_is_not_linear(tokenizer_folder: Path) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "lm_head"])
    config = ModelConfig(from_config={"model_type": "llama", **DECODER}, tokenizer=str(tokenizer_folder), lora=lora)
    loaded = load_model(config, seed=0, device=CPU)
    assert not head_is_linear(loaded.model, batch_for(loaded.model))


def test_a_folder_that_does_not_load_to_the_saved_weights_is_an_error(tmp_path: Path) -> None:
    loaded = LOADED["llama"]()
    loaded.model.lm_head.to(torch.bfloat16)  # a folder has one data type
    with pytest.raises(ModelError, match=rf"{tmp_path} does not load .*: 1 of \d+ differ \(lm_head.weight\)") as caught:
        save_model(loaded, tmp_path, card="")
    assert "\n" not in str(caught.value)


# --- errors: one clear line ---------------------------------------------------------------------------------------


def fails(config: ModelConfig) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(config, seed=0, device=CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    assert fails(ModelConfig(name=str(tmp_path / "absent"))).startswith(
        f"the tokenizer '{tmp_path}/absent' does not exist"
    )
    with pytest.raises(ModelError, match=r"the model .* does not exist"):
        kind_of(ModelConfig(name=str(tmp_path / "absent")))


def test_a_folder_without_a_model_is_reported(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    assert "config.json" in fails(ModelConfig(name=str(tmp_path)))
    with pytest.raises(ModelError, match=r"config\.json"):
        kind_of(ModelConfig(name=str(tmp_path)))
    with pytest.raises(ModelError, match=r"config\.json"):
        load_folder(tmp_path, device=CPU)


@pytest.mark.parametrize("damage", ["cut", "missing", "pickle", "config"])
def test_a_damaged_model_is_reported(damage: str, tmp_path: Path) -> None:
    save_model(LOADED["t5"](), tmp_path, card="")
    weights = tmp_path / "model.safetensors"
    match damage:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "missing":
            weights.unlink()
        case "pickle":
            torch.save({}, tmp_path / "pytorch_model.bin")
            weights.unlink()
        case "config":
            (tmp_path / "config.json").write_text("{")
    assert str(tmp_path) in fails(ModelConfig(name=str(tmp_path)))


def test_a_missing_vocabulary_is_reported(tmp_path: Path) -> None:
    message = fails(ModelConfig(from_config=T5_SIZES, tokenizer=str(tmp_path / "spiece.model")))
    assert "spiece.model' does not exist" in message


def test_a_file_without_a_vocabulary_is_reported(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"nothing of the kind")
    assert "spiece.model" in fails(ModelConfig(from_config=T5_SIZES, tokenizer=str(tmp_path / "spiece.model")))


def test_a_tokenizer_too_large_for_the_model_is_reported(tokenizer_folder: Path, tmp_path: Path) -> None:
    message = fails(ModelConfig(from_config={**T5_SIZES, "vocab_size": 100}, tokenizer=str(tokenizer_folder)))
    assert "vocab_size 100" in message
    tiny_t5(tiny_tokenizer(), vocab_size=100).save_pretrained(tmp_path)
    message = fails(ModelConfig(name=str(tmp_path), tokenizer=str(tokenizer_folder)))
    assert f"has {len(tiny_tokenizer())} tokens" in message
    assert "only 100" in message


def test_a_tokenizer_without_an_end_token_is_reported(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(append_eos=False)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    assert "has no end token" in fails(ModelConfig(from_config=T5_SIZES, tokenizer=str(tmp_path)))


@pytest.mark.parametrize(
    "wrong", [{"model_type": "no-such-type"}, {**T5_SIZES, "num_heads": "four"}, {**GPT2_SIZES, "n_head": 5}]
)
def test_a_config_that_builds_nothing_is_reported(wrong: dict[str, Any], tokenizer_folder: Path) -> None:
    assert str(wrong["model_type"]) in fails(ModelConfig(from_config=wrong, tokenizer=str(tokenizer_folder)))


def test_adapters_that_fit_no_layer_are_reported(tokenizer_folder: Path) -> None:
    lora = LoraConfig(target_modules=["no_such_layer"])
    message = fails(ModelConfig(from_config=T5_SIZES, tokenizer=str(tokenizer_folder), lora=lora))
    assert "lora.target_modules" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_absent_device_is_reported() -> None:
    with pytest.raises(ModelError, match="no CUDA device"):
        resolve_device("cuda")
