"""The weights in a checkpoint: what a training changes, under the model's own names, written and read without any conversion.

`save_pretrained` writes the names and the shapes of a family's first release, and `from_pretrained` converts them back. The
Trainer's own loading does not, and takes what fits. A checkpoint is read only by the training that wrote it, so it holds the
state dict as it is.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.trainer import TRAINER_STATE_NAME

from mentorkd.errors import TrainingError

log = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
"""File with the weights in a checkpoint."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint (the Trainer writes its state last)."""
    checkpoints: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            step = json.loads((path / TRAINER_STATE_NAME).read_text())["global_step"]
        except (OSError, ValueError, KeyError):
            continue
        if (path / WEIGHTS).is_file():
            checkpoints.append((step, path))
    return max(checkpoints)[1] if checkpoints else None


def discard_old_checkpoints(folder: Path) -> None:
    """Remove checkpoints of earlier versions, whose weights may be under other names, and warn."""
    old = [path for path in folder.glob("checkpoint-*") if (path / TRAINER_STATE_NAME).is_file()]
    old = [path for path in old if not (path / WEIGHTS).is_file()]
    for path in old:
        shutil.rmtree(path)
    if old:
        log.warning("an earlier version wrote the checkpoints in %s, which are not read; training starts again", folder)


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write all weights that are trained, and the buffers, to a checkpoint. Tied weights are written once."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in _trained(model).items()}, folder / WEIGHTS)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Read the weights of a checkpoint into the model, in place.

    Raises TrainingError, and leaves the model as it is, unless the checkpoint has exactly the model's trained weights.
    """
    file, weights = folder / WEIGHTS, _trained(model)
    again = f"remove {folder.parent} to train again from the beginning"
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"cannot read the checkpoint {file}: {error}; {again}") from error
    faults = {
        "missing": weights.keys() - saved.keys(),
        "not the model's": saved.keys() - weights.keys(),
        "of another shape or type": {n for n in weights.keys() & saved.keys() if _form(weights[n]) != _form(saved[n])},
    }
    found = [f"{len(names)} {what} ({min(names)})" for what, names in faults.items() if names]
    if found:
        raise TrainingError(
            f"the checkpoint {file} does not fit the model: of {len(weights)} weights expected, {', '.join(found)}; "
            f"resume with the versions and the model that wrote it, or {again}"
        )
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(saved[name])


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors that are not frozen, each under the first of its names in the state dict."""
    parameters = model.named_parameters(remove_duplicate=False)
    frozen = tuple(f"{name}." for name, p in parameters if not p.requires_grad)
    tensors: dict[tuple[object, ...], tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        if not f"{name}.".startswith(frozen):  # the scales of 4-bit weights are under the weights' names
            place = tensor.data_ptr() if tensor.numel() else name
            tensors.setdefault((place, tensor.shape, tensor.stride()), (name, tensor))
    return dict(tensors.values())


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype
