"""GGUF files of models: what is in them, that transformers reads the same model, and that another model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import GemmaConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from gguf_files import smollm2_file
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, load_model
from mentorkd.recipe.learner import ModelConfig
from mentorkd.sharing.gguf import vocabulary as rules
from mentorkd.sharing.gguf.check import LogitChange, check_file
from mentorkd.sharing.gguf.vocabulary import read_vocabulary
from mentorkd.sharing.gguf.writer import GgufType, check_architecture, write_gguf
from mentorkd.sharing.prompt_template import prompt_template
from tiny_models import ONE_LAYER, TEXTS, tiny_gpt2, tiny_llama, tiny_qwen2, tiny_tokenizer

gguf = pytest.importorskip("gguf", reason="the extra `gguf` is not installed")

PROMPT = 'Q: {question}\n"A"'
QUESTIONS = [(text, PROMPT.replace("{question}", text)) for text in TEXTS]
QWEN, LLAMA3 = rules._SPLITS


def split_by(regex: str, **options: Any) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer(append_eos=False, **options)
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    steps = [pre_tokenizers.Split(Regex(regex), "isolated"), last]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def single_digits() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer(append_eos=False)
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def with_chat() -> PreTrainedTokenizerFast:
    tokenizer = split_by(QWEN)
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>"]})
    turns = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}<think>{% endif %}"
    return tokenizer


def tiny_qwen3(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=128, **sizes)
    return Qwen3ForCausalLM(config).eval()


def spread(model: Any) -> Any:
    """The same model with norms and biases that differ from their initial values."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    return model


def export(
    folder: Path, model: Any, tokenizer: Any, kind: GgufType = "F32", questions: Any = QUESTIONS
) -> tuple[Path, LogitChange]:
    loaded = LoadedModel(model, tokenizer, "causal")
    vocabulary = read_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0])
    chat = tokenizer.chat_template or prompt_template(tokenizer, PROMPT).jinja(bos=vocabulary.adds_bos)
    file = folder / "m.gguf"
    types = write_gguf(file, loaded, vocabulary, kind=kind, name="m", chat_template=chat)
    return file, check_file(file, loaded, types, questions)


CASES = {
    "llama": (
        lambda t: tiny_llama(t, vocab_size=448, tie_word_embeddings=True),
        lambda: tiny_tokenizer(append_eos=False),
    ),
    "llama with bos": (tiny_llama, lambda: split_by(LLAMA3, prepend_bos=True)),
    "llama by digits": (lambda t: tiny_llama(t, rms_norm_eps=1e-3), single_digits),
    "gpt2": (tiny_gpt2, lambda: tiny_tokenizer(append_eos=False)),
    "qwen2": (lambda t: tiny_qwen2(t, rope_parameters={"rope_type": "default", "rope_theta": 1e6}), with_chat),
    "qwen3": (tiny_qwen3, with_chat),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_read_back_as_the_model(case: str, tmp_path: Path) -> None:
    build, make_tokenizer = CASES[case]
    tokenizer = make_tokenizer()
    changes = {}
    for kind in ("F32", "F16", "Q8_0"):
        (folder := tmp_path / kind).mkdir()
        file, changes[kind] = export(folder, spread(build(tokenizer)), tokenizer, kind)  # type: ignore[arg-type]
        reader = gguf.GGUFReader(file)
        types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        assert types["token_embd.weight"] == types["blk.0.ffn_down.weight"] == kind
        assert types["output_norm.weight"] == types.get("position_embd.weight", "F32") == "F32"
    assert changes["F32"].mean == 0.0
    assert changes["F32"].likeliest == 1.0
    assert 0 < changes["F16"].mean < changes["Q8_0"].mean < changes["Q8_0"].largest < 0.05 * changes["Q8_0"].scale


def test_the_metadata_are_those_of_the_model(tmp_path: Path) -> None:
    tokenizer = with_chat()
    model = tiny_qwen2(tokenizer, vocab_size=448)
    file, _ = export(tmp_path, model, tokenizer, "Q8_0")
    fields = gguf.GGUFReader(file).fields
    value = {name: field.contents() for name, field in fields.items()}
    assert value["general.architecture"] == "qwen2"
    assert value["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    assert value["qwen2.attention.head_count_kv"] == model.config.num_key_value_heads
    assert value["qwen2.context_length"] == 1024
    assert value["tokenizer.ggml.pre"] == "qwen2"
    tokens, types = value["tokenizer.ggml.tokens"], value["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == 448
    assert [types[tokens.index(token)] for token in ("<|user|>", "<think>", "a", "[PAD447]")] == [3, 4, 1, 5]
    assert value["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert value["tokenizer.ggml.add_bos_token"] is False
    assert value["tokenizer.chat_template"] == tokenizer.chat_template


def test_rows_that_are_no_whole_blocks_are_in_f16(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(append_eos=False)
    model = tiny_llama(tokenizer, hidden_size=48, num_attention_heads=6, num_key_value_heads=3)
    file, _ = export(tmp_path, model, tokenizer, "Q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert types["blk.0.ffn_up.weight"] == "F16"  # [64, 48]
    assert types["blk.0.ffn_down.weight"] == "Q8_0"  # [48, 64]


def test_a_file_of_other_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mentorkd.sharing.gguf import writer

    tokenizer = tiny_tokenizer(append_eos=False)
    monkeypatch.setattr(writer, "_laid_out", lambda parameter, weight, config: weight)  # heads not interleaved
    with pytest.raises(
        ModelError, match=r"gives weights model.layers.0.self_attn.q_proj.weight that differ by .*; Q8_0 allows"
    ):
        export(tmp_path, tiny_llama(tokenizer), tokenizer, "Q8_0")


def test_a_file_without_a_setting_is_refused(tmp_path: Path) -> None:
    """GPT-2's attention can be scaled by the number of the layer, for which a file has no key."""
    tokenizer = tiny_tokenizer(append_eos=False)
    with pytest.raises(
        ModelError, match=r"gives logits that differ by .* with equal weights; some setting is not in the file"
    ):
        export(tmp_path, tiny_gpt2(tokenizer, scale_attn_by_inverse_layer_idx=True), tokenizer)


def test_a_file_with_other_token_ids_is_refused(tmp_path: Path) -> None:
    """transformers splits the text of every GPT-2 as GPT-2 does, whatever the file says."""
    tokenizer = single_digits()
    with pytest.raises(ModelError, match=r"splits the prompt 'Q: .*' otherwise, from token \d+ on"):
        export(tmp_path, tiny_gpt2(tokenizer), tokenizer, questions=[("10 + 21", "Q: 10 + 21 12 pens 40")])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GemmaConfig(), "a model of type gemma; a GGUF file holds llama, qwen2, qwen3, gpt2: export it with `--as ctranslate2`"),
        (tiny_llama(tiny_tokenizer(), rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}).config, "linear"),
        (tiny_qwen2(tiny_tokenizer(), use_sliding_window=True, sliding_window=8).config, "a sliding attention window"),
        (tiny_llama(tiny_tokenizer(), attention_bias=True).config, "biases (`attention_bias`), expected none"),
        (tiny_gpt2(tiny_tokenizer(), n_positions=64).config, "64 positions, expected GPT-2's 1024"),
        (tiny_gpt2(tiny_tokenizer(), n_inner=64).config, "inner layers of width 64, expected four times the outer"),
        (Qwen3Config(**ONE_LAYER), "heads of width 8, expected Qwen 3's 128"),
    ],
    ids=["gemma", "rope", "window", "bias", "positions", "width", "heads"],
)  # fmt: skip
def test_what_a_file_cannot_hold_is_refused(config: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_architecture(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_tokenizers_are_refused() -> None:
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ModelError, match="tokenizer is a WordLevel with the decoder None"):
        read_vocabulary(words, 1)
    with pytest.raises(
        ModelError, match=r"splits text by Split and ByteLevel in a way that llama\.cpp has no name for"
    ):
        read_vocabulary(split_by(r"\d"), 384)


@pytest.mark.slow
def test_smollm2_becomes_a_file_again(tmp_path: Path) -> None:
    loaded = load_model(ModelConfig(name=str(smollm2_file())), seed=0, device=torch.device("cpu"))
    questions = [
        (text, text) for text in ("What is the capital of France?", "Tom has 3 apples and buys 24 more. How many?")
    ]
    file, change = export(tmp_path, loaded.model.eval(), loaded.tokenizer, "Q8_0", questions)
    assert change.likeliest > 0.9
    assert change.mean < 0.02 * change.scale
    assert file.stat().st_size < 160e6
