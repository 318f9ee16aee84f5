"""Exports: a form is written to a temporary folder beside its target, checked, and renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from mentorkd.errors import RunError
from mentorkd.sharing.card import write_card
from mentorkd.sharing.forms import form_of
from mentorkd.sharing.lineage import trace
from mentorkd.sharing.source import Source


def export(source: Source, form: str, target: Path, *, dtype: str | None = None) -> Path:
    """Write a learner, or what its run holds, to the new folder `target`, and return it.

    Raises RunError for an unknown form or type, for a target that exists, and for a run without what the form needs.
    """
    chosen = form_of(form)
    if dtype is not None and dtype not in chosen.dtypes:
        expected = f"expected one of {', '.join(chosen.dtypes)}" if chosen.dtypes else f"{form} has no choice of types"
        raise RunError(f"got --dtype {dtype}; {expected}")
    with new_folder(target) as half:
        dtype = dtype or (chosen.dtypes[0] if chosen.dtypes else None)
        chosen.write(source, half, dtype)
        if chosen.open is not None:
            write_card(source, trace(source), half, form=form, dtype=dtype)
    return target


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder that becomes `target` at the end of the block, and is removed if the block raises.

    Raises RunError if `target` exists, or the folder that it shall lie in does not.
    """
    if target.exists() or not target.absolute().parent.is_dir():
        why = "which exists already" if target.exists() else f"but there is no folder {target.absolute().parent}"
        raise RunError(f"got the output {target}, {why}; expected a new folder in one that exists")
    half = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    half.mkdir()
    try:
        yield half
        half.rename(target)
    finally:
        shutil.rmtree(half, ignore_errors=True)
