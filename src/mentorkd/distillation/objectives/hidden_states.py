"""Hidden-state distillation: the student's layers, through learned projections, against the mentor's (FitNets, Romero et al.
2015; TinyBERT, Jiao et al. 2020).

    loss = (1 - w) CE + w MSE

MSE is the mean, over mapped layers and the mentor's width, of the squared difference at a target position between the
projection of the student's hidden state and the mentor's, scaled to a root mean square of 1. So it is 1 for a projection
that gives nothing, whatever the layer and the model: in a residual stream, hidden states grow with the layers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mentorkd.distillation.hidden_states import Layers
from mentorkd.distillation.mentors import OnlineMentor
from mentorkd.distillation.objectives.base import TOKENS, Student, Sums, TokenObjective
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, layer_count

__all__ = ["HiddenMatching", "map_layers"]


class HiddenMatching(TokenObjective):
    """`(1 - kd_weight) CE + kd_weight MSE` against the hidden states of a live mentor.

    `layers` maps layers of the student to layers of the mentor, both counted from 1 (of the decoder, where there is one);
    None maps them uniformly, the last to the last. Raises ModelError for layers that are not there.
    """

    def __init__(
        self,
        student: LoadedModel,
        mentor: LoadedModel,
        *,
        kd_weight: float,
        layers: Mapping[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.mentor, self.kd_weight = OnlineMentor(mentor), kd_weight
        self.map = map_layers(layer_count(student.model.config), layer_count(mentor.model.config), layers)
        self.layers: Collection[int] = tuple(self.map)
        self._width = _width(mentor.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            projections = {str(layer): nn.Linear(_width(student.model), self._width, bias=False) for layer in self.map}
        self.projections = nn.ModuleDict(projections).to(student.device)
        self.weights: nn.Module | None = self.projections

    def sums(self, student: Student) -> Sums:
        made = student.loss()
        theirs = self._mentor_states(student)
        errors = [self._error_N(layer, student.layers[layer], theirs[self.map[layer]]).sum() for layer in self.map]
        mse = torch.stack(errors).mean()
        loss = (1 - self.kd_weight) * made.loss + self.kd_weight * mse
        return Sums({TOKENS: loss}, {"ce": (TOKENS, made.ce), "divergence": (TOKENS, mse.detach())})

    def _mentor_states(self, student: Student) -> Layers:
        wanted = set(self.map.values())
        if not student.rows:
            return {layer: student.states.new_zeros(0, self._width) for layer in wanted}
        return self.mentor.layer_states(wanted, student.batch)

    def _error_N(self, layer: int, ours_ND: Tensor, theirs_NE: Tensor) -> Tensor:
        theirs_NE = theirs_NE.float()
        scale_N1 = theirs_NE.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
        projected_NE: Tensor = self.projections[str(layer)](ours_ND.float())
        return (projected_NE.float() - theirs_NE / scale_N1).square().mean(-1)


def map_layers(student: int, mentor: int, layers: Mapping[int, int] | None = None) -> dict[int, int]:
    """Student layer -> mentor layer for models of so many layers; uniform if `layers` is None.

    Raises ModelError for layers that are not there.
    """
    if layers is None:
        return {layer: max(1, (2 * layer * mentor + student) // (2 * student)) for layer in range(1, student + 1)}
    for ours, theirs in layers.items():
        if not (1 <= ours <= student and 1 <= theirs <= mentor):
            raise ModelError(
                f"got `layers: {{{ours}: {theirs}}}`; the student has layers 1 to {student}, the mentor 1 to {mentor}"
            )
    return dict(layers)


def _width(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config(decoder=True).hidden_size)
