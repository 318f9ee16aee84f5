"""The learners of runs that the application has loaded, shared by all who ask them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mentorkd.pipeline.run_folder import RunFolder
from mentorkd.web.serving import ServedLearners


@dataclass
class _Shared:
    version: Any
    learners: ServedLearners
    users: int = 0


class Served:
    """Learners stay loaded until the server ends, or until they are trained again and their last answer is written."""

    def __init__(self) -> None:
        self._shared: dict[Path, _Shared] = {}
        self._opening = threading.Lock()  # held for seconds
        self._counting = threading.Lock()  # held for an instant, so that an event loop may wait for it

    @contextmanager
    def of(self, root: Path) -> Iterator[ServedLearners]:
        """The learners of a run. Raises RunError if no training is finished. Only entering takes long."""
        shared = self._enter(root)
        try:
            yield shared.learners
        finally:
            with self._counting:
                shared.users -= 1
                unused = shared.users == 0 and self._shared.get(root) is not shared
            if unused:
                _close(shared)

    def close(self) -> None:
        """Unload all learners."""
        for shared in self._shared.values():
            shared.learners.close()

    def _enter(self, root: Path) -> _Shared:
        with self._opening:
            version, old = _version(root), self._shared.get(root)
            new = old if old is not None and old.version == version else _Shared(version, ServedLearners(root))
            with self._counting:
                self._shared[root] = new
                new.users += 1
                unused = old is not None and old is not new and old.users == 0
            if unused and old is not None:
                _close(old)
            return new


def _close(shared: _Shared) -> None:
    """Unload learners without waiting for the threads that write their texts."""
    threading.Thread(target=shared.learners.close, daemon=True).start()


def _version(root: Path) -> list[tuple[str, int]]:
    """Changes when a learner of a run is trained again."""
    marks = [
        mark for mark in RunFolder(root).marks() if mark.name.endswith(("train.json", "search.json", "rounds.json"))
    ]
    return [(mark.name, mark.stat().st_mtime_ns) for mark in marks]
