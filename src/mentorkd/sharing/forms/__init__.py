"""The forms of `mentorkd export`, a file each. A form is imported when it is asked for."""

from __future__ import annotations

from typing import Literal, get_args

from mentorkd.errors import RunError
from mentorkd.sharing.form import Form

FormName = Literal["hf", "ctranslate2", "gguf", "lm-eval", "inspect", "dataset", "pairs"]
FORMS: tuple[FormName, ...] = get_args(FormName)


def form_of(name: str) -> Form:
    """The form of a name. Raises RunError for a name that is none."""
    match name:
        case "hf":
            from mentorkd.sharing.forms.hf import HF

            return HF
        case "lm-eval":
            from mentorkd.sharing.forms.lm_eval import LM_EVAL

            return LM_EVAL
        case "inspect":
            from mentorkd.sharing.forms.inspect import INSPECT

            return INSPECT
        case "ctranslate2":
            from mentorkd.sharing.forms.ctranslate2 import CTRANSLATE2

            return CTRANSLATE2
        case "gguf":
            from mentorkd.sharing.forms.gguf import GGUF

            return GGUF
        case "dataset":
            from mentorkd.sharing.forms.dataset import DATASET

            return DATASET
        case "pairs":
            from mentorkd.sharing.forms.pairs import PAIRS

            return PAIRS
        case _:
            raise RunError(f"got --as {name}; expected one of {', '.join(FORMS)}")
