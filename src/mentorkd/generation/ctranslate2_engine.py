"""The CTranslate2 engine (an extra): a saved model, converted once, generates in C++ in float or int8 arithmetic."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from mentorkd.data.prompts import CAUSAL_SEPARATOR
from mentorkd.errors import MissingExtraError, ModelError
from mentorkd.files import digest_path
from mentorkd.files.seals import damage_in, seal_folder
from mentorkd.generation import sampling
from mentorkd.generation.engine import Completion, EngineDtype, OnPrompts, SamplingParams, ignore
from mentorkd.generation.live import LiveRow, Take, write_fixed
from mentorkd.models import LoadedModel, load_folder, load_tokenizer, model_kind
from mentorkd.recipe.learner import ModelConfig
from mentorkd.records import ModelKind, content_id

log = logging.getLogger(__name__)

CONVERSION = "1"
"""Version of the conversion. A higher number makes cached conversions invalid."""

MOST_LOGITS = 1 << 26
"""Logits that CTranslate2 may hold at a time, 256 MiB, for a client that wants the likeliest tokens."""

INSTEAD = "set `engine: transformers`"
"""What to do about a model that is not converted."""

PROBE_TOKENS = 24
TOLERANCE = 0.01
"""Largest mean difference (nats a token) between log-probabilities of the model and of its conversion, in float32.

Rounding stays below 1e-4; a wrong scale, rotary base or attention window is far above the tolerance."""


@dataclass(eq=False)
class CTranslate2Engine:
    """Generates with CTranslate2 over a saved Hugging Face folder.

    The folder is converted once into `cache_dir`; the name of the conversion holds the hash of the folder's files. int8
    weights are computed from it while loading. A conversion is published only after its log-probabilities were compared
    with the model's own; it is refused if they differ. With transformers 5.23 and ctranslate2 4.8, T5, FlanT5, mT5,
    umT5, GPT-2, Llama, Qwen 2 and 3, Gemma and OPT pass; GPT-NeoX, Gemma 2 and models with a sliding window do not.

    CTranslate2's random state belongs to a loaded model, and the seed is read when the model is loaded. Each sampling
    call therefore reloads the model (from the page cache). The same call gives the same samples; another batch size or
    other prompts in the call may give others. CTranslate2 has no stop texts: it generates past a `stop`, and the rest is
    cut off.

    `converted` is a folder of `convert_model`, which is opened as it is instead of a conversion in `cache_dir`.
    """

    name = "ctranslate2"
    joins = False

    model_dir: Path
    _: KW_ONLY
    cache_dir: Path | None = None
    converted: Path | None = None
    device: torch.device
    batch_size: int = 32
    tokens_per_batch: int | None = None
    dtype: EngineDtype | None = None
    separator: str = CAUSAL_SEPARATOR
    stop: Sequence[str] = ()
    chat: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if find_spec("ctranslate2") is None:
            raise MissingExtraError("engine ctranslate2", "ctranslate2")
        import ctranslate2

        device, dtype, model_dir = self.device, self.dtype, self.model_dir
        if device.type not in ("cpu", "cuda"):
            raise ModelError(f"ctranslate2 runs on cpu and cuda, got {device.type}: set `engine: transformers`")
        known = ctranslate2.get_supported_compute_types(device.type)
        if dtype is not None and dtype not in known:
            raise ModelError(f"ctranslate2 has no {dtype} on this {device.type}, it has {', '.join(sorted(known))}")
        self.config = AutoConfig.from_pretrained(model_dir)
        self.kind: ModelKind = model_kind(self.config)
        self.tokenizer = load_tokenizer(ModelConfig(name=str(model_dir), **self.chat))
        self.end_ids = sampling.saved_end_token_ids(model_dir, self.tokenizer)
        self._options = {
            "device": device.type,
            "device_index": device.index or 0,
            "compute_type": dtype or "default",
            "inter_threads": 1,
            "intra_threads": torch.get_num_threads(),
        }
        self.folder = self._conversion()
        self._tokens = _read_vocabulary(self.folder)
        self._ids = {token: index for index, token in enumerate(self._tokens)}
        self._runner: Any = None

    def _conversion(self) -> Path:
        if self.converted is not None:
            return self.converted
        assert self.cache_dir is not None, "a model that is not converted yet needs a place for its conversion"
        return _converted(self.model_dir, self.cache_dir)

    def sample(
        self, prompts: Sequence[str], params: SamplingParams, *, seed: int, on_progress: OnPrompts = ignore
    ) -> list[list[Completion]]:
        import ctranslate2

        n, limit = params.n, params.max_new_tokens
        encoded = sampling.encode_prompts(
            prompts, self.tokenizer, self.kind, self.config, limit, separator=self.separator
        )
        draw = random.Random(content_id(str(seed), *prompts))
        if self._runner is None or not params.greedy:
            ctranslate2.set_random_seed(draw.getrandbits(31))
            self._runner = _open(self.folder, self.kind, self._options)
        options: dict[str, Any] = {}
        if not params.greedy:
            options = {
                "num_hypotheses": n,
                **self._drawing(params.temperature, params.top_p, params.top_k),
            }
        results: list[list[Completion]] = [[] for _ in prompts]
        lengths = [len(ids) for ids in encoded]
        # CTranslate2 does not split the samples of one prompt, so the size of a batch is counted in prompts.
        rows, tokens = max(1, self.batch_size // n), self.tokens_per_batch
        tokens = None if tokens is None else tokens // n
        for batch in sampling.group(lengths, 1, limit, rows=rows, tokens=tokens):
            sources = [self._spell(encoded[piece.prompt]) for piece in batch]
            for piece, samples in zip(batch, self._generate(self._runner, sources, limit, options), strict=True):
                if not all(samples):
                    raise ModelError(
                        f"ctranslate2 writes nothing after an empty prompt, got {prompts[piece.prompt]!r}; leave the row out, or "
                        "set `engine: transformers`"
                    )
                # CTranslate2 sorts samples by score. Filters keep the first samples, so the order must be random.
                draw.shuffle(samples)
                results[piece.prompt] = [
                    sampling.completion(ids, self.tokenizer, self.end_ids, self.stop) for ids in samples
                ]
            on_progress(len(batch))
        return results

    def close(self) -> None:
        """It holds nothing outside of this process."""

    def stream(self, take: Take) -> None:
        """Write rows as `LiveEngine` says. The rows that wait are a batch, which is written to its end; each leaves it at any token."""
        greedy, drawing = _open(self.folder, self.kind, self._options), None

        def write(batch: Sequence[LiveRow]) -> None:
            nonlocal drawing
            if batch[0].params.greedy:
                self._stream(greedy, batch)
                return
            with _RANDOM_STATE:
                if batch[0].repeatable:
                    self._stream(self._seeded_runner(batch[0].seed), batch)
                else:
                    drawing = drawing or self._seeded_runner(None)
                    self._stream(drawing, batch)

        write_fixed(take, write, self.name)

    def _drawing(self, temperature: float, top_p: float, top_k: int) -> dict[str, Any]:
        """CTranslate2's options. It refuses a `top_k` above its vocabulary, which filters nothing."""
        top_k = min(top_k, self.config.vocab_size)
        return {"sampling_topk": top_k, "sampling_topp": top_p, "sampling_temperature": temperature}

    def _seeded_runner(self, seed: int | None) -> Any:
        import ctranslate2

        ctranslate2.set_random_seed(random.SystemRandom().getrandbits(31) if seed is None else seed % 2**31)
        return _open(self.folder, self.kind, self._options)

    def _stream(self, runner: Any, batch: Sequence[LiveRow]) -> None:
        """Write rows of equal settings, as many at a time as their logits allow where these are wanted."""
        temperature, top_p, top_k = batch[0].settings
        longest = max(row.params.max_new_tokens for row in batch)
        wanted = [row.likeliest for row in batch if row.likeliest is not None]
        # The likeliest token of a greedy row is its own.
        with_logits = any(count > (temperature == 0) for count in wanted)
        options: dict[str, Any] = {"return_scores": bool(wanted), "return_logits_vocab": with_logits}
        if temperature:
            options |= self._drawing(temperature, top_p, top_k)
        rows = len(batch)
        if with_logits:
            # A causal prompt that is longer than another of its batch has logits, too, which belong to no new token.
            rows = 1 if self.kind == "causal" else max(1, MOST_LOGITS // (longest * self.config.vocab_size))
        for start in range(0, len(batch), rows):
            part = batch[start : start + rows]
            options["callback"] = _Steps(part)
            self._generate(runner, [self._spell(row.prompt_ids) for row in part], longest, options)

    def _spell(self, ids: Sequence[int]) -> list[str]:
        return [self._tokens[index] for index in ids]

    def _generate(
        self, runner: Any, sources: list[list[str]], max_new_tokens: int, options: dict[str, Any]
    ) -> list[list[list[int]]]:
        """Token ids of the samples of each source, including the end token, without limits on source and shortest text."""
        options = {"end_token": self.end_ids, "return_end_token": True, "beam_size": 1, **options}
        if self.kind == "seq2seq":
            limits = {"max_decoding_length": max_new_tokens, "min_decoding_length": 0, "max_input_length": 0}
            results = runner.translate_batch(sources, **limits, **options)
            return [[[self._ids[token] for token in sample] for sample in result.hypotheses] for result in results]
        limits = {"max_length": max_new_tokens, "min_length": 0}
        results = runner.generate_batch(sources, **limits, include_prompt_in_result=False, **options)
        return [[list(sample) for sample in result.sequences_ids] for result in results]


_RANDOM_STATE = threading.Lock()
"""Held from setting the seed, which is one of the process, to the first samples, since a loaded model reads it then."""


class _Steps:
    """A callback of CTranslate2, which tells rows their tokens.

    The logits of all rows that are left come with the first token of a step, in the order in which the rows get their tokens.
    """

    def __init__(self, rows: Sequence[LiveRow]) -> None:
        self._rows = rows
        self._log_probs: Iterator[torch.Tensor] = iter(())

    def __call__(self, step: Any) -> bool:
        """Whether the row ends."""
        row: LiveRow = self._rows[step.batch_id]
        if step.logits is not None and step.logits.shape:
            self._log_probs = iter(torch.from_numpy(np.array(step.logits)).log_softmax(-1))
        log_probs_V = next(self._log_probs, None)
        if row.likeliest is None:
            return row.push(step.token_id)
        likeliest = [(step.token_id, step.log_prob)]
        if log_probs_V is not None:
            best = log_probs_V.topk(row.likeliest)
            likeliest = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return row.push(step.token_id, step.log_prob, likeliest[: row.likeliest])


def _open(folder: Path, kind: ModelKind, options: dict[str, Any]) -> Any:
    import ctranslate2

    runner = ctranslate2.Translator if kind == "seq2seq" else ctranslate2.Generator
    return runner(str(folder), **options)


def _read_vocabulary(folder: Path) -> list[str]:
    """How a conversion spells its tokens, by id."""
    file = next(name for name in ("shared_vocabulary.json", "vocabulary.json") if (folder / name).is_file())
    tokens: list[str] = json.loads((folder / file).read_text(encoding="utf-8"))
    return tokens


def convert_model(model_dir: Path, output: Path, dtype: EngineDtype, instead: str) -> None:
    """Convert a saved model for other programs: with the tokens of its tokenizer, in place of digits, and with weights in `dtype`.

    Raises MissingExtraError without ctranslate2, and ModelError, which advises what to do `instead`, for a model that it cannot
    convert, or that differs converted in float32.
    """
    if find_spec("ctranslate2") is None:
        raise MissingExtraError("a conversion for CTranslate2", "ctranslate2")
    _convert(model_dir, output, spelled=True, instead=instead)
    _check(model_dir, output, instead)
    if dtype != "float32":
        _convert(model_dir, output, spelled=True, quantization=dtype, instead=instead)


def _converted(model_dir: Path, cache_dir: Path) -> Path:
    """The folder of the converted model. A missing conversion is made and published by a rename, so it is never partial."""
    import ctranslate2

    key = content_id(digest_path(model_dir), ctranslate2.__version__, CONVERSION)
    folder = cache_dir / f"ctranslate2-{key}"
    if damage := damage_in(folder):
        log.warning("%s; the model is converted again", damage)
        shutil.rmtree(folder)
    if folder.exists():
        return folder
    cache_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache_dir))
    try:
        _convert(model_dir, temporary)
        _check(model_dir, temporary)
        seal_folder(temporary)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.exists():  # otherwise another process published it first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


class _Vocabulary:
    """Replaces the tokenizer in a conversion. The vocabulary is as large as the embedding (T5 has 32128 rows for 32100 tokens)."""

    def __init__(self, tokens: Sequence[str], tokenizer: Any) -> None:
        self.tokens = tokens
        # CTranslate2's converters read these names. Id 0 replaces a special token that the tokenizer lacks.
        for name in ("bos", "eos", "pad", "unk"):
            setattr(self, f"{name}_token", tokens[getattr(tokenizer, f"{name}_token_id") or 0])
        self.chat_template = None

    def get_vocab(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}

    def convert_ids_to_tokens(self, i: int) -> str:
        return self.tokens[i]


def _spelling(tokenizer: Any, rows: int) -> list[str]:
    """The tokens of a tokenizer by id, and `<unused_ID>` for rows of the embedding without one."""
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}
    return [tokens.get(index, f"<unused_{index}>") for index in range(rows)]


def _convert(
    model_dir: Path, output: Path, *, spelled: bool = False, quantization: str | None = None, instead: str = INSTEAD
) -> None:
    """Write a conversion. Its tokens are the digits of their ids, which all differ, or `spelled` as the tokenizer has them."""
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, kind: Any, name: str, **options: Any) -> Any:
            model = super().load_model(kind, name, **options)
            config = model.config
            # The converter assumes that a T5 with tied embeddings scales its outputs. Since transformers 5 every T5 is
            # tied, the scaling is a separate setting, and mT5 never scales. Only this copy of the config is changed.
            if config.model_type in ("t5", "mt5"):
                config.tie_word_embeddings = getattr(config, "scale_decoder_outputs", False)
            self.rows = config.vocab_size
            return model

        def load_tokenizer(self, kind: Any, name: str, **options: Any) -> Any:
            tokenizer = super().load_tokenizer(kind, name, **options)
            tokens = _spelling(tokenizer, self.rows) if spelled else list(map(str, range(self.rows)))
            return _Vocabulary(tokens, tokenizer)

    try:
        Converter(str(model_dir)).convert(str(output), quantization=quantization, force=True)
    except (ValueError, NotImplementedError, AttributeError, KeyError) as error:
        raise ModelError(f"ctranslate2 cannot convert {model_dir}: {error}; {instead}") from error


@torch.inference_mode()
def _check(model_dir: Path, conversion: Path, instead: str = INSTEAD) -> None:
    """Raise ModelError if log-probabilities of random tokens differ from the model's own by more than TOLERANCE."""
    loaded = load_folder(model_dir, device=torch.device("cpu"), dtype=torch.float32)
    tokens, runner = _read_vocabulary(conversion), _open(conversion, loaded.kind, {"compute_type": "float32"})
    draw = random.Random(0)
    source, target = ([draw.randrange(loaded.model.config.vocab_size) for _ in range(PROBE_TOKENS)] for _ in range(2))
    expected = _log_probabilities(loaded, source, target)
    try:
        if loaded.kind == "seq2seq":
            [scored] = runner.score_batch(
                [[tokens[i] for i in source]], [[tokens[i] for i in target]], max_input_length=0
            )
        else:
            [scored] = runner.score_batch([[tokens[i] for i in target]])
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"ctranslate2 cannot run {model_dir}: {error}; {instead}") from error
    got = torch.tensor(scored.log_probs[: len(expected)])  # for seq2seq, the last one belongs to the end token
    difference = (expected - got).abs().mean().item()
    if not difference <= TOLERANCE:
        raise ModelError(
            f"ctranslate2's conversion of {model_dir} differs from the model by {difference:.2g} nats a token, "
            f"expected at most {TOLERANCE}; {instead}"
        )


def _log_probabilities(loaded: LoadedModel, source: list[int], target: list[int]) -> torch.Tensor:
    """Log-probability of each target token given the earlier ones; a causal model has no source and skips the first one."""
    labels = torch.tensor(target)
    if loaded.kind == "seq2seq":
        logits = loaded.model(input_ids=torch.tensor([source]), labels=labels[None]).logits[0]
    else:
        logits, labels = loaded.model(input_ids=labels[None]).logits[0, :-1], labels[1:]
    picked: torch.Tensor = logits.float().log_softmax(-1).gather(1, labels[:, None])[:, 0]
    return picked
