"""A script that two processes run together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from places import HELPERS

__all__ = ["start_two"]


def start_two(script: str, *arguments: Path) -> list[subprocess.Popen[bytes]]:
    """Start a script of the helpers in two processes that torch.distributed knows as ranks 0 and 1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    return [
        subprocess.Popen(
            [sys.executable, HELPERS / script, *arguments],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
