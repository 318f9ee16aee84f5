"""A model that several processes train, each with a share of the weights, gradients and optimiser states (torch's FSDP2).

The processes gather the weights of one layer at a time. Embeddings, the head and what else is outside of the layers stay gathered
from the forward to the backward pass, because the fused loss reads the head between them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mentorkd.precision import Precision


class ShardedModel:
    """A model and its sharded copy. The copy is trained; the model itself waits in main memory, and takes over the weights."""

    def __init__(self, whole: nn.Module, device: torch.device, precision: Precision, weights: nn.Module | None) -> None:
        """`weights`: an objective's own, which are trained with the copy as its module `objective`."""
        self.whole, self.device = whole.to("cpu"), device
        self.sharded = copy.deepcopy(whole)
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        # Autocast would keep its casts of all layers until the backward pass. What enters a layer keeps its type: residuals add up
        # in float32. On a CPU, autocast has no norm of an input and weights of two types.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if precision == "bfloat16" and device.type == "cuda" else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        for layer in _layers(self.sharded):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        if weights is not None:
            self.sharded.add_module("objective", weights)
        fully_shard(self.sharded, mesh=mesh, reshard_after_forward=False)

    @torch.no_grad()
    def gather(self) -> None:
        """Copy the trained weights, and the buffers, into the whole model. All processes gather at the same time."""
        whole = _tensors(self.whole)
        for name, tensor in _tensors(self.sharded).items():
            whole[name].copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)

    @torch.no_grad()
    def scatter(self) -> None:
        """Copy the whole model's trained weights, and its buffers, into the shares."""
        whole = _tensors(self.whole)
        for name, tensor in _tensors(self.sharded).items():
            full = whole[name].to(self.device)
            if isinstance(tensor, DTensor):
                full = distribute_tensor(full, tensor.device_mesh, tensor.placements)
            tensor.copy_(full)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """While open, the whole model has the weights of now, and is where models run."""
        self.gather()
        self.whole.to(self.device)
        try:
            yield
        finally:
            self.whole.to("cpu")

    def save_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None:
        """Write the optimiser's state; each process writes its share."""
        state_dict_saver.save(get_optimizer_state_dict(self.sharded, optimizer), checkpoint_id=folder)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None:
        state = get_optimizer_state_dict(self.sharded, optimizer)
        state_dict_loader.load(state, checkpoint_id=folder)
        set_optimizer_state_dict(self.sharded, optimizer, state)


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model's stacks: the members of its outermost lists."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return [layer for name in outermost for layer in model.get_submodule(name).children()]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters, each once, and the buffers."""
    return {
        **{name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad},
        **dict(model.named_buffers()),
    }
