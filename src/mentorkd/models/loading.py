"""What transformers raises for models that it cannot load, as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from mentorkd.errors import ModelError

LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError),
    *(SafetensorError, StrictDataclassError),
)
"""Exceptions that transformers raises for models that it cannot load."""


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Raises ModelError where transformers cannot load `what`."""
    try:
        yield
    except LOADING_ERRORS as error:
        raise ModelError(
            f"cannot load {what}: {one_line(error)}; give a Hugging Face name or a folder that `from_pretrained` loads"
        ) from error


def one_line(error: Exception) -> str:
    """The message of an error, or its type, in at most 250 characters."""
    line = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return line if len(line) <= 250 else line[:250] + " ..."
