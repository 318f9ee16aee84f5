"""The entry point of the command line.

Exit codes: 0 success, 1 unexpected error (with traceback), 2 user error (one line), 130 interrupted, 143 terminated.

Little is imported before `main` runs, so that Ctrl-C in the first second gives a line, too.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from typing import NoReturn

_ENDINGS = {
    128 + signal.SIGINT: "interrupted; the same command resumes",
    128 + signal.SIGTERM: "terminated (SIGTERM); the same command resumes",
}


def _say(text: str) -> None:
    """Print a line on stderr as the commands do (cli/console.py), without what they import."""
    from mentorkd.printable import printable

    sys.stderr.write(f"{printable(text)}\n")


class _Warnings(logging.Handler):
    """Shows warnings while no reporter is open to show them."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(f"! {record.getMessage()}")


def main() -> None:
    """Run a command. A MentorkdError or what the machine refuses gives one line on stderr and exit code 2."""
    from mentorkd.errors import MentorkdError, explaining

    # Hides progress bars and warnings of libraries; must be set before these are imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.lastResort = _Warnings(logging.WARNING)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        with explaining():
            from mentorkd.cli.app import app

            app()
    except MentorkdError as error:
        _say(f"mentorkd: {error}")
        sys.exit(2)
    except KeyboardInterrupt:  # typer turns one that comes while a command runs into an exit code
        _end(128 + signal.SIGINT)
    except SystemExit as stop:
        if stop.code in _ENDINGS:
            _end(int(stop.code))
        raise
    except Exception:  # Python's own traceback would show the message as it is, terminal escapes included
        _say(traceback.format_exc().rstrip())
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _terminate(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second signal ends the process at once
    raise SystemExit(128 + number)


def _end(code: int) -> NoReturn:
    _say(f"mentorkd: {_ENDINGS[code]}")
    sys.exit(code)
