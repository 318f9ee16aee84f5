"""A grader of the user's: a Python function that gives the verdict where no exact comparison of answers does.

    def grade(question: Question, answer: str) -> bool | Verdict

`question.answer` is the gold answer, and `answer` what a text states: the text after its first answer marker (`-->`, the last
`\\boxed{}`, `####`, "the answer is"), or all of a text without a marker. True is `correct` and false is `wrong`; a verdict may be
returned by its name, `no_answer` among them. A text that states nothing is `no_answer`, and the function does not see it.

The function must give the same verdict for the same question and answer. It runs in the process that grades, one call at a
time, with the rights of the user and without a time limit.
"""

from __future__ import annotations

import importlib
import importlib.util
import reprlib
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from mentorkd.errors import GraderError
from mentorkd.files import digest_path
from mentorkd.records import Question, Verdict

_VERDICTS: dict[bool | str, Verdict] = {
    True: "correct",
    False: "wrong",
    "correct": "correct",
    "wrong": "wrong",
    "no_answer": "no_answer",
}
_TURN = threading.Lock()


def module_and_function(grader: str) -> tuple[str, str] | None:
    """The two parts of `MODULE:FUNCTION` or `FILE.py:FUNCTION`; None for text of another form."""
    module, _, function = grader.rpartition(":")
    is_module = module.endswith(".py") or all(part.isidentifier() for part in module.split("."))
    return (module, function) if is_module and function.isidentifier() else None


def source_of(module: str) -> Path | None:
    """The file of a module (`metrics.overlap`) or the file itself (`metrics.py`); None if there is none. Nothing is imported."""
    if module.endswith(".py"):
        return Path(module) if Path(module).is_file() else None
    top, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # `__main__` of a program
        return None
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


@dataclass(frozen=True)
class OwnGrader:
    """The function `name`, as MODULE:FUNCTION or FILE.py:FUNCTION. It is loaded when it is called first.

    Raises GraderError, with the module, the function and the question, if it cannot be loaded, fails, or returns no verdict.
    """

    name: str

    def __call__(self, question: Question, answer: str) -> Verdict:
        with _TURN, redirect_stdout(sys.stderr):  # stdout is for the results of a command
            function = self._function
            try:
                result = function(question, answer)
            except (Exception, SystemExit) as error:
                what = f"failed on question {question.id} with {_in_a_line(error)}"
                raise GraderError(f"grader {self.name}: {what}; correct the function") from error
        if type(result).__name__ in ("bool", "bool_"):  # numpy's are no `bool`
            result = bool(result)
        if not isinstance(result, bool | str) or result not in _VERDICTS:
            what = f"got {' '.join(reprlib.repr(result).split())} for question {question.id}"
            raise GraderError(f"grader {self.name}: {what}; expected True, False, 'correct', 'wrong' or 'no_answer'")
        return _VERDICTS[result]

    @property
    def identity(self) -> list[str]:
        """The function's name and the hash of its module's source, wherever it is; modules that it imports are not part of it."""
        if (file := source_of(self._module)) is None:
            raise GraderError(f"grader {self.name}: {self._missing}")
        return [self.name.rpartition(":")[2], digest_path(file)]

    @cached_property
    def _function(self) -> Callable[[Question, str], Any]:
        if source_of(self._module) is None:
            raise GraderError(f"grader {self.name}: {self._missing}")
        try:
            module = _load(self._module)
        except (Exception, SystemExit) as error:
            what = f"importing {self._module} failed with {_in_a_line(error)}"
            raise GraderError(f"grader {self.name}: {what}; correct the module, or install what it needs") from error
        name = self.name.rpartition(":")[2]
        function = getattr(module, name, None)
        if not callable(function):
            raise GraderError(
                f"grader {self.name}: no function `{name}` in {self._module}; define `def {name}(question, answer)`"
            )
        return function  # type: ignore[no-any-return]

    @property
    def _module(self) -> str:
        return self.name.rpartition(":")[0]

    @property
    def _missing(self) -> str:
        if self._module.endswith(".py"):
            return f"no file at {self._module}; put it there, or correct `task.grader`"
        return f"no module `{self._module}`; put {self._module.replace('.', '/')}.py beside the recipe, or install the module"


def _load(module: str) -> ModuleType:
    """The module; that of a file from its source, not from compiled code of the same second, and under a name that no import has."""
    if not module.endswith(".py"):
        return importlib.import_module(module)
    sys.modules[module] = loaded = ModuleType(module)  # dataclasses look their module up
    loaded.__file__ = module
    exec(compile(Path(module).read_bytes(), module, "exec"), loaded.__dict__)
    return loaded


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
