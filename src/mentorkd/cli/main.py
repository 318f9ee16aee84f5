"""The entry point of the command line.

Exit codes: 0 success, 1 unexpected error (with traceback), 2 user error (one line), 130 interrupted, 143 terminated.

Little is imported before `main` runs, so that Ctrl-C in the first second gives a line, too.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

_ENDINGS = {
    128 + signal.SIGINT: "interrupted; the same command resumes",
    128 + signal.SIGTERM: "terminated (SIGTERM); the same command resumes",
}


def main() -> None:
    """Run a command. A MentorkdError or what the machine refuses gives one line on stderr and exit code 2."""
    from mentorkd.errors import MentorkdError, explaining

    # Hides progress bars and warnings of libraries; must be set before these are imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        with explaining():
            from mentorkd.cli.app import app

            app()
    except MentorkdError as error:
        print(f"mentorkd: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # typer turns one that comes while a command runs into an exit code
        _end(128 + signal.SIGINT)
    except SystemExit as stop:
        if stop.code in _ENDINGS:
            _end(int(stop.code))
        raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _terminate(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second signal ends the process at once
    raise SystemExit(128 + number)


def _end(code: int) -> NoReturn:
    print(f"mentorkd: {_ENDINGS[code]}", file=sys.stderr)
    sys.exit(code)
