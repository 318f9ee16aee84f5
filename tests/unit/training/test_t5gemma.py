"""T5Gemma, whose decoder guesses its mask from ids and whose folders may name no start token."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mentorkd.data.batching import Collator
from mentorkd.data.encoding import Example
from mentorkd.distillation.hidden_states import target_logits
from mentorkd.errors import ModelError
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.transformers_engine import TransformersEngine
from mentorkd.models import LoadedModel, decoder_start_id, load_folder, load_model, vocabulary_size
from mentorkd.recipe.learner import ModelConfig
from tiny_models import ONE_LAYER, tiny_tokenizer
from tiny_training import rows_for, run

CPU = torch.device("cpu")
PART = {
    **ONE_LAYER,
    "query_pre_attn_scalar": 8,
    "attn_implementation": "eager",
}
BOS, PAD = 3, 0


def config(folder: Path, **changes: Any) -> ModelConfig:
    tiny_tokenizer().save_pretrained(folder)
    return ModelConfig(
        tokenizer=str(folder), from_config={"model_type": "t5gemma", "encoder": PART, "decoder": PART, **changes}
    )


def double(loaded: LoadedModel) -> LoadedModel:
    return LoadedModel(copy.deepcopy(loaded.model).double().eval(), loaded.tokenizer, loaded.kind)


def oracle(loaded: LoadedModel, rows: list[Example]) -> dict[str, torch.Tensor]:
    """Gradients of the mean cross-entropy, row after row: no padding, every position of the decoder visible."""
    model, total = loaded.model, sum(len(row.target_ids) for row in rows)
    model.zero_grad()
    for row in rows:
        started = torch.tensor([[BOS, *row.target_ids[:-1]]])
        source = torch.tensor([row.source_ids])
        masks = {"attention_mask": torch.ones_like(source), "decoder_attention_mask": torch.ones_like(started)}
        logits = model(input_ids=source, decoder_input_ids=started, **masks).logits[0]
        (F.cross_entropy(logits, torch.tensor(row.target_ids), reduction="sum") / total).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_a_batchs_gradient_is_that_of_unpadded_rows(tmp_path: Path) -> None:
    loaded = double(load_model(config(tmp_path), seed=0, device=CPU))
    rows = rows_for(loaded, 6)
    assert len({len(row.target_ids) for row in rows}) > 1
    expected = oracle(loaded, rows)
    batch = Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)(rows)
    labels = batch["labels"][batch["labels"] != -100]
    loaded.model.zero_grad()
    F.cross_entropy(target_logits(loaded.model, batch), labels).backward()
    weights = dict(loaded.model.named_parameters())
    got, wanted = (
        torch.cat([each[name].flatten() for name in expected])
        for each in ({n: w.grad for n, w in weights.items()}, expected)
    )
    # The model itself computes its norms and its softmax in float32.
    assert (got - wanted).norm() < 1e-6 * wanted.norm()


def test_a_padding_id_within_a_target_hides_nothing(tmp_path: Path) -> None:
    """Where a tokenizer pads with a token of its texts, the decoder's own guess would hide that token."""
    loaded = double(load_model(config(tmp_path), seed=0, device=CPU))
    row = Example("r", [5, 6, 1], [7, PAD, 8, 1])
    batch = Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)([row])
    started = torch.tensor([[BOS, 7, PAD, 8]])
    source = torch.tensor([row.source_ids])
    own = loaded.model(
        input_ids=source, decoder_input_ids=started, decoder_attention_mask=torch.ones_like(started)
    ).logits[0]
    torch.testing.assert_close(target_logits(loaded.model, batch), own)


def test_the_start_is_the_configs_or_the_decoders_bos(tmp_path: Path) -> None:
    built = load_model(config(tmp_path / "a"), seed=0, device=CPU)
    assert decoder_start_id(built.model.config) == BOS
    assert built.model.config.decoder.vocab_size == vocabulary_size(config(tmp_path / "a")) == 384
    given = load_model(config(tmp_path / "b", decoder_start_token_id=2), seed=0, device=CPU)
    assert decoder_start_id(given.model.config) == 2
    built.model.config.decoder_start_token_id = built.model.config.decoder.bos_token_id = None
    with pytest.raises(ModelError, match="neither `decoder_start_token_id` nor a BOS"):
        decoder_start_id(built.model.config)


def test_a_folder_without_a_start_token_is_trained_and_asked(tmp_path: Path) -> None:
    built = load_model(config(tmp_path / "tokenizer"), seed=0, device=CPU)
    folder = tmp_path / "model"
    built.model.save_pretrained(folder)
    built.tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        settings.pop("decoder_start_token_id", None)
        (folder / name).write_text(json.dumps(settings))
    config_without = load_folder(folder, device=CPU).model.config
    assert getattr(config_without, "decoder_start_token_id", None) is None
    loaded = load_model(ModelConfig(name=str(folder)), seed=0, device=CPU)
    result = run(loaded, rows_for(loaded, 4), tmp_path / "run")
    assert result.updates == 1
    engine = TransformersEngine(loaded.model, loaded.tokenizer, loaded.kind)
    [[completion], [longer]] = engine.sample(
        ["How many?", "How many apples?"], SamplingParams(max_new_tokens=3), seed=0
    )
    assert 1 <= completion.tokens <= 3
    assert 1 <= longer.tokens <= 3
