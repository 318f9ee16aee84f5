"""The nodes of a Ray cluster: what they have, and whether each can carry out stages of a run.

All nodes and the driver read and write one folder. This is proved before anything starts: each node reads what the driver wrote,
and the driver reads what each node wrote.
"""

from __future__ import annotations

import os
import platform
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mentorkd.errors import RunError
from mentorkd.recipe.graph import initial_model
from mentorkd.recipe.schema import Recipe

_PROBE_SECONDS = 60
_PROBE = ".cluster"


@dataclass(frozen=True)
class SharedFolder:
    """The run folder, as the driver sees it, and the proof that a node sees the same."""

    root: Path
    token: str
    cwd: Path
    """The driver's working folder, which relative paths of the recipe start from."""

    @classmethod
    def prepare(cls, root: Path) -> SharedFolder:
        """Write the driver's token into the run folder."""
        shared = cls(root.absolute(), secrets.token_hex(8), Path.cwd())
        shared.place.mkdir(parents=True, exist_ok=True)
        (shared.place / "driver").write_text(shared.token, encoding="utf-8")
        return shared

    @property
    def place(self) -> Path:
        """The folder of the tokens."""
        return self.root / _PROBE / self.token

    def enter(self) -> None:
        """On a node: go to the driver's working folder. Raises RunError, with the node's name, if the node does not see the run folder."""
        try:
            if (self.place / "driver").read_text(encoding="utf-8") != self.token:
                raise OSError("another file is there")
        except OSError as error:
            raise RunError(
                f"{name_of()} does not see the run folder {self.root} ({error.strerror or error}); all nodes need it under this "
                "path, on shared storage"
            ) from None
        if self.cwd.is_dir():
            os.chdir(self.cwd)

    def answer(self) -> None:
        """On a node: write its token."""
        try:
            (self.place / node_id()).write_text(self.token, encoding="utf-8")
        except OSError as error:
            raise RunError(f"{name_of()} cannot write to the run folder {self.root} ({error.strerror})") from None

    def is_answered_by(self, node: str) -> bool:
        """On the driver: whether it sees what a node wrote."""
        with suppress(OSError):
            return (self.place / node).read_text(encoding="utf-8") == self.token
        return False

    def remove(self) -> None:
        """Remove the tokens."""
        for file in self.place.glob("*"):
            file.unlink(missing_ok=True)
        with suppress(OSError):
            self.place.rmdir()
            self.place.parent.rmdir()


def live_nodes() -> list[dict[str, Any]]:
    """The nodes that can run stages."""
    import ray

    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def describe(nodes: Sequence[dict[str, Any]]) -> str:
    """What the nodes have, in a few words."""
    sizes = Counter((node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in nodes)
    return " and ".join(
        f"{count} node{'s' if count > 1 else ''} with {cpus:g} CPU{'s' if cpus != 1 else ''} and {gpus:g} GPU{'s' if gpus != 1 else ''}"
        for (cpus, gpus), count in sorted(sizes.items())
    )


def name_of() -> str:
    """On a node: its name in messages, the host and the beginning of Ray's id."""
    return f"node {platform.node()} ({node_id()[:8]})"


def node_id() -> str:
    """On a node: Ray's id of it."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def check_nodes(nodes: Sequence[dict[str, Any]], shared: SharedFolder, recipe: Recipe) -> None:
    """Raise RunError with each node that cannot work on the run, and why."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probes = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        probe = ray.remote(_probe).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
        probes[probe.remote(shared, _local_models(recipe), _versions())] = node
    faults = []
    for reference, node in probes.items():
        name = f"node {node['NodeManagerHostname']} ({node['NodeID'][:8]})"
        try:
            answers = ray.get(reference, timeout=_PROBE_SECONDS)
        except Exception as error:
            faults.append(f"{name} cannot run mentorkd ({_last_line(error)}); install the driver's versions there")
            continue
        faults += [answer if answer.startswith("node ") else f"{name} {answer}" for answer in answers]
        if not answers and not shared.is_answered_by(node["NodeID"]):
            faults.append(
                f"{name} writes to another folder {shared.root} than the driver's; all nodes need one shared storage"
            )
    if faults:
        raise RunError("; ".join(faults))


def _probe(shared: SharedFolder, models: list[str], versions: dict[str, str]) -> list[str]:
    """On a node: what it lacks."""
    try:
        shared.enter()
        shared.answer()
    except RunError as error:
        return [str(error)]
    faults = [f"does not have the model {model}" for model in models if not Path(model).exists()]
    here = _versions()
    faults += [
        f"has {name} {here[name]}, and the driver {value}" for name, value in versions.items() if here[name] != value
    ]
    return faults


def _local_models(recipe: Recipe) -> list[str]:
    """The folders and files of models that a recipe names."""
    named = [initial_model(recipe, name) for name in recipe.learners]
    sources = [source for model in named for source in (model.name, model.tokenizer) if source]
    return sorted({source for source in sources if Path(source).exists()})


def _versions() -> dict[str, str]:
    """The versions that results depend on most."""
    return {name: metadata.version(name) for name in ("mentorkd", "torch", "transformers")}


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
