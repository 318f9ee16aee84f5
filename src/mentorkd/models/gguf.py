"""GGUF files: read by transformers once, and kept as plain Hugging Face folders in the cache of this machine."""

from __future__ import annotations

import io
import json
import re
import shutil
import warnings
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from mentorkd.errors import MissingExtraError, ModelError
from mentorkd.files import write_json
from mentorkd.files.seals import sync
from mentorkd.hub import GGUF, gguf_folder
from mentorkd.models.loading import LOADING_ERRORS, one_line

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")
"""The values of `general.architecture` whose conversion is tested."""

_SINGLE_DIGITS = {"smollm", "starcoder", "refact"}
"""Values of `tokenizer.ggml.pre` under which each digit is a piece of its own before byte-level BPE; transformers ignores them."""
_PLAIN = {None, "default", "gpt-2"}
"""Values of `tokenizer.ggml.pre` under which text is split as GPT-2 splits it."""

_HEADER = "gguf.json"
_READING_ERRORS = (*LOADING_ERRORS, IndexError, AttributeError, OverflowError)


@dataclass(frozen=True)
class Header:
    """What a file's metadata tell of it."""

    architecture: str
    type: str
    """The type of most weights, e.g. Q4_1 or F16."""
    pre_tokenizer: str | None
    """`tokenizer.ggml.pre` of a byte-level vocabulary; None for another one, or where it is not given."""
    tensors: int

    @property
    def weights(self) -> str:
        """The weights in words, e.g. `dequantised 4-bit weights (Q4_1)`."""
        bits = re.search(r"(?:Q|FP)(\d)", self.type)
        return f"dequantised {bits[1]}-bit weights ({self.type})" if bits else f"{self.type} weights"


def plain_folder(source: str) -> str:
    """What transformers loads for a model's name: for a GGUF file its Hugging Face folder, made by the first call on this machine.

    Raises ModelError for a file that is absent, damaged, incomplete or of another architecture.
    """
    if not source.endswith(GGUF):
        return source
    file = Path(source)
    folder = _folder_of(file)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                half = folder.with_name(f".{folder.name}.tmp")
                shutil.rmtree(half, ignore_errors=True)
                convert(file, half)
                sync(half)
                half.replace(folder)
    return str(folder)


def describe_weights(source: str) -> str:
    """A file's weights in words; the type is left out for a file that is not on this machine."""
    file = Path(source)
    if not file.is_file():
        return "dequantised GGUF weights"
    saved = _folder_of(file) / _HEADER
    return (Header(**json.loads(saved.read_text(encoding="utf-8"))) if saved.is_file() else _read_header(file)).weights


def _folder_of(file: Path) -> Path:
    if not file.is_file():
        raise ModelError(f"the GGUF file {str(file)!r} does not exist; give an existing file")
    return gguf_folder(file)


def convert(file: Path, folder: Path) -> None:
    """Read a file by transformers, and save what it holds as a plain Hugging Face folder. Raises ModelError as `plain_folder`."""
    header = _read_header(file)
    if header.architecture not in ARCHITECTURES:
        raise ModelError(
            f"the GGUF file {str(file)!r} has the architecture {header.architecture!r}; expected one of "
            f"{', '.join(ARCHITECTURES)}: give the model's Hugging Face name or folder"
        )
    # The bars of transformers would be drawn across ours, and numpy warns of the read-only file.
    with redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        except _READING_ERRORS as error:
            raise _unreadable(file, error) from error
        _check_complete(file, header, model, report["missing_keys"])
        _plain(model).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _mend_tokenizer(file, header, folder / "tokenizer.json")
    write_json(folder / _HEADER, asdict(header))
    for weights in folder.glob("*.safetensors"):  # safetensors gives rights to their owner alone
        shutil.copymode(folder / "config.json", weights)


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same model as one that was never quantised, which transformers saves."""
    del model.config.quantization_config
    plain: PreTrainedModel = type(model)(model.config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain


def _read_header(file: Path) -> Header:
    if find_spec("gguf") is None:
        raise MissingExtraError(f"the GGUF file {str(file)!r}", "gguf")
    from gguf import GGUFReader, LlamaFileType

    def value(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    try:
        reader = GGUFReader(file)
        sizes: Counter[str] = Counter()
        for tensor in reader.tensors:
            sizes[tensor.tensor_type.name] += int(tensor.n_elements)
        kind = value("general.file_type")
        [(commonest, _)] = sizes.most_common(1)
        named = commonest if kind is None else LlamaFileType(kind).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        pre = value("tokenizer.ggml.pre") if value("tokenizer.ggml.model") == "gpt2" else None
        return Header(str(value("general.architecture")), named, pre, len(reader.tensors))
    except _READING_ERRORS as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ModelError:
    return ModelError(
        f"the GGUF file {str(file)!r} cannot be read: {one_line(error)}; it is damaged or no GGUF file: copy it again, or give "
        "the model's Hugging Face name or folder"
    )


def _check_complete(file: Path, header: Header, model: PreTrainedModel, missing: Any) -> None:
    """Raise ModelError unless every weight of the model came from the file, and every tensor of the file is in the model.

    transformers gives missing weights random values, and leaves out tensors that it does not know (Llama 3.1's `rope_freqs`).
    """
    if missing:
        raise ModelError(
            f"the GGUF file {str(file)!r} lacks weights of its model ({min(missing)}); a model in several files must be "
            "joined first (llama.cpp's `gguf-split --merge`)"
        )
    weights = sum(1 for _ in model.parameters())
    if header.tensors != weights:
        raise ModelError(
            f"the GGUF file {str(file)!r} has {header.tensors} tensors, and transformers reads {weights} of them; give the model's "
            "Hugging Face name or folder"
        )


def _mend_tokenizer(file: Path, header: Header, saved: Path) -> None:
    """Mend what transformers makes of a byte-level vocabulary: split its text as the file says, and remove tokens that transformers
    added (GPT-2's end token, which the model may have no row for). Raises ModelError for a rule of splitting that is not known."""
    tokenizer = json.loads(saved.read_text(encoding="utf-8"))
    rows = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < rows]
    split = tokenizer["pre_tokenizer"]
    if header.pre_tokenizer not in _PLAIN and split["type"] == "ByteLevel":
        if header.pre_tokenizer not in _SINGLE_DIGITS:
            raise ModelError(
                f"the GGUF file {str(file)!r} splits text by the rule {header.pre_tokenizer!r}, which is not known here; give the "
                "model's Hugging Face name or folder"
            )
        digits = {"type": "Digits", "individual_digits": True}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, split]}
    saved.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
