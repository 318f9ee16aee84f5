"""Models on the Hugging Face hub: the commit that a name stands for on this machine, and in a run."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

from mentorkd.files import digest_path
from mentorkd.hub.chat import asks_for_date, stored_templates

GGUF = ".gguf"
"""How the name of a GGUF file ends."""

GGUF_CONVERSION = 1
"""Version of the conversion of GGUF files; raise it where a converted folder would be another one."""

Named = tuple[str, str | None]
"""A hub name, folder or file, and the branch, tag or commit on the hub (None: the default branch)."""


def on_hub(source: str) -> bool:
    """Whether this is the name of a model on the hub, and no path."""
    return not Path(source).exists() and not source.startswith(("/", ".", "~"))


def cached_commit(name: str, revision: str | None) -> str | None:
    """The commit of a model in the local cache; None if the cache has none, and for a path. Asks no server."""
    if not on_hub(name):
        return None
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    reference = _cache_of(name) / "refs" / (revision or "main")
    return (reference.read_text(encoding="utf-8").strip() or None) if reference.is_file() else None


def _cache_of(name: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def model_folder(source: str, revision: str | None) -> Path | None:
    """The folder of a model's files on this machine: a path's own, a GGUF file's converted one, or that of the hub's cache.

    None if there is none yet.
    """
    if not on_hub(source):
        folder = gguf_folder(Path(source)) if source.endswith(GGUF) and Path(source).is_file() else Path(source)
    elif (commit := cached_commit(source, revision)) is not None:
        folder = _cache_of(source) / "snapshots" / commit
    else:
        return None
    return folder if folder.is_dir() else None


def gguf_folder(file: Path) -> Path:
    """The folder in the cache of this machine that holds a GGUF file as a plain Hugging Face model, by the version of
    the conversion and the hash of its content."""
    from huggingface_hub import constants

    state = file.stat()
    digest = _digest(file, state.st_size, state.st_mtime_ns)
    return Path(constants.HF_HOME) / "mentorkd" / f"gguf-{GGUF_CONVERSION}-{digest}"


@cache
def _digest(file: Path, size: int, changed: int) -> str:
    return digest_path(file)


def _key(model: Named) -> str:
    name, revision = model
    return f"{name}@{revision or 'main'}"


def _asks_for_date(folder: Path) -> bool:
    return any(map(asks_for_date, stored_templates(folder)))


@dataclass(frozen=True)
class HubModels:
    """What a run knows of the hub models that it has used, so that its fingerprints are the same on a machine without them."""

    commits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The commits of each model, in the order of use."""
    dated: Collection[str] = field(default_factory=list)
    """The models whose chat template asks for today's date."""
    one_vocabulary: Mapping[str, bool] = field(default_factory=dict)
    """Whether two models have one vocabulary, by the key of the pair."""

    def identity(self, name: str, revision: str | None) -> str:
        """A model's name and commit, for fingerprints.

        The name alone stands for the commit that the run used first, so a run that was begun before commits were recorded
        stays finished. A machine without the model takes the commit that the run used last.
        """
        known = self.commits.get(_key((name, revision)), ())
        commit = cached_commit(name, revision) or (known[-1] if known else None)
        return name if commit is None or not known or commit == known[0] else f"{name}@{commit}"

    def used(self, name: str, revision: str | None) -> str | None:
        """The commit of a model that the run used last; None for a path, and for one used before commits were recorded."""
        return next(reversed(self.commits.get(_key((name, revision)), ())), None)

    def asks_for_date(self, source: str, revision: str | None) -> bool:
        """Whether the chat template of a model, on the hub or in a folder, asks for today's date."""
        if not on_hub(source):
            return _asks_for_date(Path(source))
        cached = model_folder(source, revision)
        return _asks_for_date(cached) if cached else _key((source, revision)) in self.dated

    def after_use(
        self, models: Iterable[Named], one_vocabulary: Mapping[str, bool] = MappingProxyType({})
    ) -> HubModels:
        """With what the local cache knows of `models` and of pairs of vocabularies now."""
        commits, dated = {key: list(known) for key, known in self.commits.items()}, set(self.dated)
        for model in models:
            if (commit := cached_commit(*model)) is not None:
                known = commits.setdefault(_key(model), [])
                if known[-1:] != [commit]:
                    known.append(commit)
                dated = dated | {_key(model)} if self.asks_for_date(*model) else dated - {_key(model)}
        return HubModels(commits, sorted(dated), {**self.one_vocabulary, **one_vocabulary})


UNKNOWN = HubModels()
"""What a run knows that has used no hub model yet."""
