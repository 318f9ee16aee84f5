"""Weights that a model's logits do not depend on are frozen, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mentorkd.data.batching import Collator
from mentorkd.errors import TrainingError
from mentorkd.models import LoadedModel
from mentorkd.recipe.learner import LoraConfig
from mentorkd.training.unreached import freeze_unreached
from tiny_architectures import build
from tiny_training import learner, rows_for


def batch_for(loaded: LoadedModel) -> dict[str, Tensor]:
    return Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)(rows_for(loaded, 2))


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


class Routed(nn.Module):
    """Two experts in a list, of which a token takes the first."""

    def __init__(self, expert: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.experts = nn.ModuleList([expert, other])

    def forward(self, hidden: Tensor) -> Tensor:
        taken: Tensor = self.experts[0](hidden)
        return taken


ADAPTERS = LoraConfig(r=2, dropout=0.1, target_modules=["q_proj", "v_proj"])


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("gemma3", None),
        ("gemma3", ADAPTERS),
        ("t5gemma2", None),
        ("mixtral", None),
        ("mixtral", ADAPTERS),
        ("t5", None),
    ],
)
def test_what_a_loss_does_not_reach_is_frozen(family: str, lora: LoraConfig | None, tmp_path: Path) -> None:
    loaded = build(family, tmp_path / "tokenizer", lora=lora)
    before, random = trained(loaded.model), torch.get_rng_state()
    freeze_unreached(loaded.model, batch_for(loaded))
    after = trained(loaded.model)
    seeing = {name for name in before if "vision" in name or "multi_modal_projector" in name}
    assert before - after == seeing
    assert bool(seeing) is ("gemma" in family)
    assert torch.equal(torch.get_rng_state(), random)
    assert loaded.model.training


def test_experts_that_a_row_does_not_take_are_refused(tmp_path: Path) -> None:
    loaded, other = learner("llama"), learner("llama", seed=1)
    layers = loaded.model.model.layers
    layers[1].mlp = Routed(layers[1].mlp, other.model.model.layers[1].mlp)
    before = trained(loaded.model)
    with pytest.raises(
        TrainingError, match=r"got 3 weights that some rows do not reach \(model.layers.1.mlp.experts.1."
    ):
        freeze_unreached(loaded.model, batch_for(loaded))
    assert trained(loaded.model) == before
