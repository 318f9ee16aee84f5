"""The nodes of a Ray cluster: what they have, and whether each can carry out stages of a run.

All nodes and the driver read and write one folder. This is proved before anything starts: each node reads what the driver wrote,
and the driver reads what each node wrote.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mentorkd.errors import RunError
from mentorkd.files import digest_path, fingerprint
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
    scratch: Path | None
    """The folder of each node's own disk."""
    models: list[str]
    """The folders and files of models that the recipe names."""
    versions: dict[str, str]
    """The driver's versions of what results depend on most."""

    @classmethod
    def of(cls, root: Path, scratch: Path | None, recipe: Recipe) -> SharedFolder:
        """The run folder with a new token. Raises RunError for a relative `scratch`, which would be one folder for all."""
        if scratch is not None and not scratch.is_absolute():
            raise RunError(f"got --scratch {scratch}; expected an absolute path, of a folder on each node's own disk")
        return cls(root.absolute(), secrets.token_hex(8), Path.cwd(), scratch, _local_models(recipe), _versions())

    def prepare(self) -> None:
        """On the driver: write its token into the run folder."""
        self.place.mkdir(parents=True, exist_ok=True)
        (self.place / "driver").write_text(self.token, encoding="utf-8")

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
        shutil.rmtree(self.place, ignore_errors=True)
        with suppress(OSError):
            self.place.parent.rmdir()

    def remove_others(self) -> None:
        """Remove the tokens of drivers that were killed. Only who holds the lock of the run folder may do this."""
        for other in self.place.parent.iterdir():
            if other != self.place:
                shutil.rmtree(other, ignore_errors=True)


def live_nodes() -> list[dict[str, Any]]:
    """The nodes that can run stages."""
    import ray

    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def describe(nodes: Sequence[dict[str, Any]]) -> str:
    """What the nodes have, in a few words."""
    sizes = Counter((node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in nodes)
    parts = [
        f"{amount(count, 'node')} with {amount(cpus, 'CPU')} and {amount(gpus, 'GPU')}"
        for (cpus, gpus), count in sorted(sizes.items())
    ]
    return " and ".join(parts) or "no node with a CPU"


def amount(number: float, of: str) -> str:
    """A number of things, in the singular or the plural."""
    return f"{number:g} {of}{'' if number == 1 else 's'}"


def name_of() -> str:
    """On a node: its name in messages, the host and the beginning of Ray's id."""
    return f"node {platform.node()} ({node_id()[:8]})"


def node_id() -> str:
    """On a node: Ray's id of it."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def check_nodes(nodes: Sequence[dict[str, Any]], shared: SharedFolder) -> None:
    """Raise RunError with each node that cannot work on the run, and why."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probes = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        probe = ray.remote(_probe).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
        probes[probe.remote(shared)] = node
    faults = []
    for reference, node in probes.items():
        name = f"node {node['NodeManagerHostname']} ({node['NodeID'][:8]})"
        try:
            answers = ray.get(reference, timeout=_PROBE_SECONDS)
        except ray.exceptions.GetTimeoutError:
            faults.append(f"{name} does not answer within {_PROBE_SECONDS} seconds")
            continue
        except Exception as error:
            faults.append(f"{name} cannot run mentorkd ({last_line(error)}); install the driver's versions there")
            continue
        faults += [answer if answer.startswith("node ") else f"{name} {answer}" for answer in answers]
        if not answers and not shared.is_answered_by(node["NodeID"]):
            faults.append(
                f"{name} writes to another folder {shared.root} than the driver's; all nodes need one shared storage"
            )
    if faults:
        raise RunError("; ".join(faults))


def _probe(shared: SharedFolder) -> list[str]:
    """On a node: what it lacks."""
    try:
        shared.enter()
        shared.answer()
    except RunError as error:
        return [str(error)]
    return lacks(shared)


def lacks(shared: SharedFolder) -> list[str]:
    """On a node that sees the run folder: what else it lacks."""
    faults = [f"does not have the model {model}" for model in shared.models if not Path(model).exists()]
    here = _versions()
    faults += [
        f"has {name} {here[name]}, and the driver {value}"
        for name, value in shared.versions.items()
        if here[name] != value
    ]
    if shared.scratch is not None:
        try:
            shared.scratch.mkdir(parents=True, exist_ok=True)
            (shared.scratch / f".{shared.token}").touch()
            (shared.scratch / f".{shared.token}").unlink()
        except OSError as error:
            faults.append(f"cannot write to --scratch {shared.scratch} ({error.strerror})")
    return faults


def _local_models(recipe: Recipe) -> list[str]:
    """The folders and files of models that a recipe names."""
    named = [initial_model(recipe, name) for name in recipe.learners]
    sources = [source for model in named for source in (model.name, model.tokenizer) if source]
    return sorted({source for source in sources if Path(source).exists()})


@cache
def _versions() -> dict[str, str]:
    """The versions that results depend on most; of mentorkd, the hash of its code."""
    package = Path(__file__).parents[2]
    code = fingerprint([digest_path(file) for file in sorted(package.rglob("*.py"))])
    return {"mentorkd (hash of its code)": code} | {name: metadata.version(name) for name in ("torch", "transformers")}


def last_line(error: BaseException) -> str:
    """The last line of an error's message, which names the cause of what Ray raises."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
