"""Runs a recipe in a forked child that is killed at random moments, then to its end; tells how often the kill hit.

    python kill_driver.py RECIPE RUN KILLS SEED

The parent imports torch once and computes nothing, so that children fork cheaply and safely.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import mentorkd.pipeline.stages.train  # noqa: F401  (imported before forking)
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe

torch.set_num_threads(1)


def child(recipe: Path, run: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            Pipeline(load_recipe(recipe), run).run()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def main() -> None:
    recipe, run, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    start = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child(recipe, run.with_name("undisturbed")), 0)[1]) == 0
    duration = time.monotonic() - start
    rng = random.Random(seed)
    hits = []
    for _ in range(kills):
        pid = child(recipe, run)
        # On average ten such stretches come close to one whole run, so that kills fall into all of its stages.
        time.sleep(rng.uniform(0, duration / 5))
        os.kill(pid, signal.SIGKILL)
        hits.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL)
    last = os.waitstatus_to_exitcode(os.waitpid(child(recipe, run), 0)[1])
    print(json.dumps({"hits": sum(hits), "last": last, "duration": round(duration, 1)}))


if __name__ == "__main__":
    main()
