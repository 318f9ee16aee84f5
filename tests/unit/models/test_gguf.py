"""GGUF files as models: the weights, the tokenizer and the chat template are those of the model in the file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoTokenizer

from gguf_files import dequantised, smollm2_file, write_gguf
from mentorkd.data.encoding import encode_prompt
from mentorkd.errors import MissingExtraError, ModelError, install_command
from mentorkd.files import digest_path
from mentorkd.models import config_of, gguf, kind_of, load_model, load_tokenizer, save_model
from mentorkd.models.gguf import describe_weights, plain_folder
from mentorkd.recipe.learner import LoraConfig, ModelConfig
from tiny_models import TEXTS, tiny_gpt2, tiny_llama, tiny_tokenizer

pytest.importorskip("gguf", reason="the extra `gguf` is not installed")

CPU = torch.device("cpu")
MAKE: dict[str, Any] = {"llama": tiny_llama, "gpt2": tiny_gpt2}
CHAT = "{% for m in messages %}<s>{{ m.content }}{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    tokenizer = tiny_tokenizer(append_eos=False)
    tokenizer.chat_template = CHAT
    return tokenizer


def load(file: Path | str, **changes: Any) -> Any:
    return load_model(ModelConfig(name=str(file), **changes), seed=0, device=CPU)


def fails(file: Path) -> str:
    with pytest.raises(ModelError) as caught:
        config_of(ModelConfig(name=str(file)))
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", MAKE)
@torch.no_grad()
def test_a_file_is_the_model_and_the_tokenizer_in_it(family: str, tokenizer: Any, tmp_path: Path) -> None:
    model = MAKE[family](tokenizer)
    file = write_gguf(tmp_path / "m.gguf", model, tokenizer, kind=None)
    loaded = load(file)
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    torch.testing.assert_close(loaded.model.eval()(ids).logits, model(ids).logits)
    assert kind_of(ModelConfig(name=str(file))) == "causal"
    for text in [*TEXTS, "  20 ≥ ½\n\n 1,000 --> 7", "<s>Tom</s>"]:
        assert loaded.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert loaded.tokenizer.special_tokens_map == tokenizer.special_tokens_map
    assert loaded.tokenizer.chat_template == CHAT
    assert describe_weights(str(file)) == "F32 weights"
    assert Path(plain_folder(str(file))).name == f"gguf-1-{digest_path(file)}", "the conversion's version, the content"


@torch.no_grad()
def test_weights_are_those_that_dequantisation_gives(tokenizer: Any, tmp_path: Path) -> None:
    model = tiny_llama(tokenizer)
    file = write_gguf(tmp_path / "m.gguf", model, tokenizer, kind="Q4_1")
    weight = model.model.layers[1].mlp.down_proj.weight
    loaded = load(file).model.model.layers[1].mlp.down_proj.weight
    assert torch.equal(loaded, dequantised(weight, "Q4_1"))
    assert not torch.equal(loaded, weight)
    assert describe_weights(str(file)) == "dequantised 4-bit weights (Q4_1)"
    assert describe_weights(str(tmp_path / "gone.gguf")) == "dequantised GGUF weights"


def test_a_file_in_a_folder_is_named_in_two_ways(tokenizer: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", tiny_gpt2(tokenizer), tokenizer)
    assert ModelConfig(name=str(tmp_path), gguf_file="m.gguf") == ModelConfig(name=str(file))
    for wrong in (
        {"gguf_file": "m.gguf"},
        {"name": str(file), "gguf_file": "m.gguf"},
        {"name": "a", "gguf_file": "m.bin"},
    ):
        with pytest.raises(ValueError, match="gguf_file"):
            ModelConfig(**wrong)


def test_a_file_is_converted_once_whatever_its_name(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "m.gguf", tiny_gpt2(tokenizer), tokenizer)
    folder = Path(plain_folder(str(file)))
    assert {(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {0o666 & ~_umask()}
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)  # what is converted needs no package
    other = file.rename(tmp_path / "other.gguf")
    assert Path(plain_folder(str(other))) == folder
    write_gguf(other, tiny_gpt2(tokenizer, seed=1), tokenizer)
    with pytest.raises(MissingExtraError) as caught:
        plain_folder(str(other))
    assert install_command("gguf") in str(caught.value)


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_conversion_that_is_killed_leaves_nothing_half(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "m.gguf", tiny_gpt2(tokenizer), tokenizer)

    def killed(folder: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gguf, "sync", killed)
        with pytest.raises(KeyboardInterrupt):
            plain_folder(str(file))
    cache = tmp_path / "cache" / "mentorkd"
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == []
    (half,) = cache.glob(".*.tmp")
    (half / "rubbish.safetensors").write_text("")
    folder = Path(plain_folder(str(file)))
    assert not (folder / "rubbish.safetensors").exists()
    assert not half.exists()
    load(file)


def test_a_file_serves_a_new_model_as_its_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", tiny_gpt2(tokenizer), tokenizer)
    sizes = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    assert load_tokenizer(ModelConfig(from_config=sizes, tokenizer=str(file))).get_vocab() == tokenizer.get_vocab()


def test_cut_and_with_adapters_it_is_saved_as_any_model(tokenizer: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", tiny_llama(tokenizer, num_hidden_layers=3), tokenizer)
    loaded = load(file, layers=[0, 2], lora=LoraConfig(r=2))
    save_model(loaded, tmp_path / "saved", card="")
    saved, whole = load(tmp_path / "saved").model, load(file).model
    assert saved.config.num_hidden_layers == 2
    assert torch.equal(saved.model.layers[1].mlp.up_proj.weight, whole.model.layers[2].mlp.up_proj.weight)


def test_digits_are_split_where_the_file_says_so(tokenizer: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", tiny_gpt2(tokenizer), tokenizer, pre="smollm")
    tokens = load_tokenizer(ModelConfig(name=str(file))).tokenize("has  201 --> 20")
    assert [token for token in tokens if token.isdigit()] == ["2", "0", "1", "2", "0"]


def test_a_rule_of_splitting_that_is_not_known_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    message = fails(write_gguf(tmp_path / "m.gguf", tiny_gpt2(tokenizer), tokenizer, pre="of-tomorrow"))
    assert "splits text by the rule 'of-tomorrow'" in message


# --- errors: one clear line ---------------------------------------------------------------------------------------


def test_a_file_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    assert "does not exist" in fails(tmp_path / "absent.gguf")


@pytest.mark.parametrize("damage", ["empty", "no GGUF", "cut header", "cut weights", "cut by a byte"])
def test_a_damaged_file_is_reported(damage: str, tokenizer: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", tiny_gpt2(tokenizer), tokenizer)
    whole = file.read_bytes()
    match damage:
        case "empty":
            file.write_bytes(b"")
        case "no GGUF":
            file.write_bytes(b"nothing of the kind" * 100)
        case "cut header":
            file.write_bytes(whole[:3000])
        case "cut weights":
            file.write_bytes(whole[: len(whole) * 3 // 4])
        case "cut by a byte":
            file.write_bytes(whole.rstrip(b"\0")[:-1])
    assert "is damaged or no GGUF file" in fails(file)
    assert not list((tmp_path / "cache" / "mentorkd").glob("gguf-*"))


def test_other_architectures_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    message = fails(write_gguf(tmp_path / "m.gguf", tiny_gpt2(tokenizer), tokenizer, architecture="mamba"))
    assert "has the architecture 'mamba'; expected one of llama, qwen2, qwen3, gpt2" in message


def test_a_file_without_some_weights_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    model = tiny_gpt2(tokenizer)
    message = fails(write_gguf(tmp_path / "m.gguf", model, tokenizer, without={"transformer.h.1.mlp.c_fc.weight"}))
    assert "lacks weights of its model (transformer.h.1.mlp.c_fc.weight)" in message


def test_a_file_with_weights_that_are_not_read_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    message = fails(write_gguf(tmp_path / "m.gguf", tiny_llama(tokenizer), tokenizer, extra=["rope_freqs.weight"]))
    assert "has 22 tensors, and transformers reads 21 of them" in message


# --- a real model -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_answers_as_it_was_taught() -> None:
    file = smollm2_file()
    loaded = load(file, dtype="bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        direct = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert loaded.tokenizer.special_tokens_map == direct.special_tokens_map
    assert loaded.tokenizer.eos_token == loaded.tokenizer.pad_token == "<|im_end|>"
    assert loaded.tokenizer.get_vocab() == direct.get_vocab()
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = direct.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = encode_prompt(loaded.tokenizer, "causal", turns[0]["content"])
    assert loaded.tokenizer.decode(ids) == prompt
    assert ids == direct(prompt)["input_ids"]
    row = loaded.model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :]
    assert loaded.tokenizer.decode(row) == "The capital of France is Paris.<|im_end|>"
    assert describe_weights(str(file)) == "dequantised 4-bit weights (Q4_1)"
    pieces = loaded.tokenizer.tokenize("has  201 apples")
    assert pieces == ["has", "ĠĠ", "2", "0", "1", "Ġapples"]
