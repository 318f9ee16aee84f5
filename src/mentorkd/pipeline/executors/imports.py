"""The imports of a process that carries out stages."""

from __future__ import annotations

import gc
import sys
from importlib import import_module

_ALL = "mentorkd.pipeline.stages.train"
"""The module that imports most: torch and the Trainer of transformers."""


def import_stages() -> None:
    """Import what stages need, once a process, without the garbage collector.

    These imports make about a million objects, which live as long as the process. The collector would look at all of them again and
    again: for a fifth of the time of the imports, and for a quarter of a second of each training after them. So it rests during the
    imports, and leaves out what there is at their end from then on.
    """
    if _ALL in sys.modules:
        return
    collects = gc.isenabled()
    gc.disable()
    try:
        import_module(_ALL)
        gc.freeze()
    finally:
        if collects:
            gc.enable()
