"""Hidden-state distillation: learned projections of the student's layers approach the mentor's layers (FitNets, Romero et al.
2015; TinyBERT, Jiao et al. 2020).

    loss = (1 - w) CE + w MSE

MSE is a mean over mapped layers and the mentor's width: the squared difference, at a target position, between the projection of
the student's hidden state and the mentor's hidden state, which is scaled to a root mean square of 1. Without the scaling, deep
layers would dominate: hidden states of a residual stream grow with the layers. A projection to zero has an MSE of 1 at every layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mentorkd.distillation.mentors import OnlineMentor
from mentorkd.distillation.objectives.base import TOKENS, Objective, Student, Sums
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, layer_count


class HiddenMatching(Objective):
    """`(1 - kd_weight) CE + kd_weight MSE` against the hidden states of a live mentor.

    `layers` maps layers of the student to layers of the mentor, both counted from 1 (of the decoder, if there is one);
    None maps them uniformly, the last to the last. Raises ModelError for layers that do not exist.
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
        self.mentors = [self.mentor]
        self.map = map_layers(layer_count(student.model.config), layer_count(mentor.model.config), layers)
        self.layers = tuple(self.map)
        self._width = _width(mentor.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            projections = {str(layer): nn.Linear(_width(student.model), self._width, bias=False) for layer in self.map}
        self.projections = nn.ModuleDict(projections).to(student.device)
        self.weights = self.projections

    def sums(self, student: Student) -> Sums:
        ce = student.loss()
        layers = set(self.map.values())
        if student.rows:
            targets = self.mentor.layer_states(layers, student.batch)
        else:
            targets = dict.fromkeys(layers, student.states.new_zeros(0, self._width))
        errors = [self._error_N(layer, student.layers[layer], targets[self.map[layer]]) for layer in self.map]
        mse = torch.stack([error_N.sum() for error_N in errors]).mean()
        weights_N = student.weights_N.float()
        weighted = torch.stack([(weights_N * error_N).sum() for error_N in errors]).mean()
        loss = (1 - self.kd_weight) * ce.loss + self.kd_weight * weighted
        return Sums({TOKENS: loss}, {"ce": (TOKENS, ce.ce), "divergence": (TOKENS, mse.detach())})

    def _error_N(self, layer: int, student_ND: Tensor, mentor_NE: Tensor) -> Tensor:
        mentor_NE = mentor_NE.float()
        scale_N1 = mentor_NE.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
        projection_NE: Tensor = self.projections[str(layer)](student_ND.float())
        return (projection_NE.float() - mentor_NE / scale_N1).square().mean(-1)


def map_layers(student: int, mentor: int, layers: Mapping[int, int] | None = None) -> dict[int, int]:
    """Student layer -> mentor layer, from the numbers of layers; uniform if `layers` is None. ModelError for absent layers."""
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
