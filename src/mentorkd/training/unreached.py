"""Weights that a model's logits do not depend on, such as the vision tower of a model that reads text alone.

They get no gradient. One process leaves them as they are; several would wait for their gradients.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from mentorkd.distillation.hidden_states import first_row, target_logits
from mentorkd.errors import TrainingError


def freeze_unreached(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
    """Freeze the weights that the logits do not depend on, in place. Examined on the first row of `batch`.

    Raises TrainingError for weights that other rows may reach: an expert in a list of modules.
    """
    training = model.training
    model.eval()  # draws no random numbers
    reached = _leaves(target_logits(model, first_row(batch)))
    model.train(training)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    names = {name for name, p in trained.items() if id(p) in reached}
    unreached = trained.keys() - names
    if experts := sorted(name for name in unreached if _is_expert(model, name, names)):
        raise TrainingError(
            f"got {len(experts)} weights that some rows do not reach ({experts[0]}), expected none in several processes, which "
            "wait for all gradients; set `training.processes: 1`"
        )
    for name in unreached:
        trained[name].requires_grad_(False)


def _leaves(output: Tensor) -> set[int]:
    """The ids of the parameters that a tensor depends on, from its autograd graph. A backward pass would take their size again."""
    leaves, nodes, seen = set(), [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            leaves.add(id(variable))
        nodes += [following for following, _ in node.next_functions]
    return leaves


def _is_expert(model: nn.Module, name: str, reached: Collection[str]) -> bool:
    """Whether an unreached weight is in a member of a list of modules, others of which are reached."""
    path = name.split(".")
    lists = [end for end in range(1, len(path)) if isinstance(model.get_submodule(".".join(path[:end])), nn.ModuleList)]
    if not lists:
        return False
    siblings, member = (".".join(path[: lists[-1] + more]) + "." for more in (0, 1))
    others = [other for other in reached if other.startswith(siblings)]
    return bool(others) and not any(other.startswith(member) for other in others)
