"""The trained learners of a run as models that write text for several clients at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from mentorkd.data.prompts import render_prompt
from mentorkd.errors import MentorkdError, RunError, explaining
from mentorkd.generation.batcher import Batcher
from mentorkd.generation.engine import FinishReason, SamplingParams
from mentorkd.generation.live import LiveEngine, Token
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.recipe.learner import Learner

BATCH_SIZE = 64
"""Texts that are written together, at least. A learner with a larger `sampling.batch_size` has that."""

MOST_TOKENS = 4096
"""Longest prompt, and longest text, of a model without a limit of its own (T5). Attention needs memory by the square of the length."""

Prompt = str | Sequence[Mapping[str, str]]
"""A text, or the turns of a chat, which have a `role` and a `content`."""


class RequestError(MentorkdError):
    """A request that cannot be answered, by its own fault. `field` is the field of the request that is wrong."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class UnknownModelError(RequestError):
    """A request to a model that is not served."""


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with its log-probability, and the likeliest tokens at its place."""

    spelling: bytes
    """What it adds to the text; nothing for special tokens. A token may end inside a character."""
    offset: int
    """Characters of the text before it."""
    logprob: float
    likeliest: Sequence[tuple[bytes, float]] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a text, as it is written. `finish_reason` is set in the last piece of each sample."""

    text: str
    tokens: int
    """Tokens of this piece, the end token included. A token that adds no text yet comes with an empty piece."""
    finish_reason: FinishReason | None = None
    sample: int = 0
    """The number of the sample, below `SamplingParams.n`."""
    prompt_tokens: int = 0
    """Tokens of the prompt; the same in every piece."""
    scored: Sequence[ScoredToken] = ()
    """The tokens of this piece, if their log-probabilities were asked for."""


class ServedModels:
    """Models that write texts for several clients at once. A model is loaded when it is first asked; it may have several names."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = dict(models)

    def models(self) -> list[str]:
        """A name of each model, the shortest; the first is the student of the report's headline."""
        names = {id(model): name for name, model in reversed(self._models.items())}
        return list(names.values())[::-1]

    def max_new_tokens(self, model: str) -> int:
        """The longest text of a model unless a client asks for another: its `sampling.max_new_tokens`."""
        return self._model(model).learner.sampling.max_new_tokens

    async def load(self, model: str) -> None:
        """Load a model now, so that its first client does not wait."""
        await asyncio.to_thread(self._model(model).load)

    async def stream(
        self,
        model: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        raw: bool = False,
        stop: Sequence[str] = (),
        seed: int | None = None,
        likeliest: int | None = None,
        at_once: bool = False,
    ) -> AsyncGenerator[Delta, None]:
        """The text that a model writes, piece by piece. Closing the generator ends the work on it.

        `prompt` is a question, rendered by the learner's own template (`eval_prompt`); `raw` passes it as it is. Of a chat, the last
        turn is the question. `likeliest` asks for the log-probabilities of the tokens and of that many others. With `at_once` a sample
        comes in few pieces.

        Raises UnknownModelError, RequestError for a prompt that the model cannot read, OverloadedError if too many texts wait, and
        the errors of a model that cannot be loaded.
        """
        writer = await asyncio.to_thread(self._model(model).load)
        prompt_ids = await asyncio.to_thread(writer.encode, prompt, params.max_new_tokens, raw=raw)
        texts = [_Text(writer, sample, len(prompt_ids), stop, likeliest is not None) for sample in range(params.n)]
        request = writer.batcher.begin(prompt_ids, params, seed=seed, likeliest=likeliest, at_once=at_once and not stop)
        with closing(request):
            while not all(text.finished for text in texts):
                for sample, tokens in groupby(await request.tokens(), key=itemgetter(0)):
                    text = texts[sample]
                    if not text.finished:
                        yield text.push([token for _, token in tokens])
                    if text.finished:
                        request.cancel(sample)

    def close(self) -> None:
        """End all texts, and the threads that write them. Models that are asked later are loaded again."""
        for model in self._models.values():
            model.unload()

    def _model(self, name: str) -> ServedModel:
        if name not in self._models:
            raise UnknownModelError(f"got the model {name!r}; expected one of {', '.join(self.models())}", "model")
        return self._models[name]


class ServedLearners(ServedModels):
    """The learners of a run folder. A model is checked and loaded when it is first asked.

    `LEARNER@seed-N` names a model. `LEARNER` alone is the one of the first seed that is served.
    """

    def __init__(
        self, folder: Path, *, learner: str | None = None, seed: int | None = None, verify: bool = True
    ) -> None:
        """`learner` and `seed` limit what is served.

        Raises RunError for a folder that is no run, for a learner or seed that it does not have, and if no training is finished.
        """
        pipeline = open_run(folder, verify=verify)
        recipe = pipeline.recipe
        if learner is not None and learner not in recipe.learners:
            raise RunError(f"got learner {learner}; expected one of {', '.join(recipe.learners)}")
        if seed is not None and seed not in recipe.seeds:
            expected = ", ".join(map(str, recipe.seeds))
            raise RunError(f"got seed {seed}; expected one of {expected}, the recipe's seeds")
        first = learner or pipeline.headline_student()
        self.unfinished: list[str] = []
        """Why models of the run are not served, one line each."""
        models: dict[str, ServedModel] = {}
        for name in dict.fromkeys([first, *([] if learner else recipe.learners)]):
            for number in recipe.seeds if seed is None else [seed]:
                try:
                    opened = partial(_open_learner, pipeline, name, number, pipeline.trained(name, number))
                except RunError as error:
                    self.unfinished.append(str(error))
                else:
                    model = ServedModel(recipe.learners[name], opened)
                    models.setdefault(name, model)
                    models[f"{name}@seed-{number}"] = model
        if not models:
            raise RunError(self.unfinished[0])
        super().__init__(models)


_LOADING = threading.Lock()
"""Held while a model is loaded, since transformers sets defaults of the whole process for that time."""


class ServedModel:
    """A learner's model, loaded by `open_model` when it is first needed."""

    def __init__(self, learner: Learner, open_model: Callable[[], LiveEngine]) -> None:
        self.learner, self._open = learner, open_model
        self._lock = threading.Lock()
        self._writer: _Writer | None = None

    def load(self) -> _Writer:
        """Raises RunError for a damaged model, and ModelError for one that cannot be loaded."""
        with self._lock:
            if self._writer is None:
                self._writer = self._loaded()
            return self._writer

    def _loaded(self) -> _Writer:
        with _LOADING, explaining():
            return _Writer(self._open(), self.learner.eval_prompt)

    def unload(self) -> None:
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None


def _open_learner(pipeline: Pipeline, name: str, seed: int, trained: str | None) -> LiveEngine:
    """The learner's own engine over the model of one of its seeds."""
    from mentorkd.generation import open_engine
    from mentorkd.pipeline.context import RunContext

    context = RunContext(pipeline.recipe, pipeline.folder)
    sampling = pipeline.recipe.learners[name].sampling
    return open_engine(
        sampling.engine,
        model_dir=context.model_folder(name, seed, trained),
        device=context.device,
        cache_dir=context.folder.engines,
        batch_size=max(BATCH_SIZE, sampling.rows),
    )


class _Writer:
    """A loaded model: from prompts to tokens, and from tokens to text."""

    def __init__(self, engine: LiveEngine, template: str) -> None:
        from mentorkd.generation.detokenize import Spelling

        self._engine, self._template = engine, template
        self.tokenizer = engine.tokenizer
        # The first encoding takes away settings that a tokenizer was saved with; from then on threads may share it.
        self._of_nothing: list[int] = self.tokenizer("")["input_ids"]
        self.spell = Spelling(engine.tokenizer)
        self.batcher = Batcher(engine)

    def close(self) -> None:
        self.batcher.close()
        self._engine.close()

    def encode(self, prompt: Prompt, max_new_tokens: int, *, raw: bool) -> list[int]:
        """Token ids of a prompt. Raises RequestError for one that the model cannot read."""
        ids = self._encode(prompt, raw)
        positions = (
            getattr(self._engine.config, "max_position_embeddings", None) if self._engine.kind == "causal" else None
        )
        if ids in ([], self._of_nothing):
            raise RequestError("the prompt is empty; expected a text", "prompt")
        counts = f"the prompt has {len(ids):,} tokens, and {max_new_tokens:,} new ones are asked for"
        if positions is None and max(len(ids), max_new_tokens) > MOST_TOKENS:
            field = "prompt" if len(ids) > MOST_TOKENS else "max_tokens"
            raise RequestError(f"{counts}; expected at most {MOST_TOKENS:,} each", field)
        if positions is not None and len(ids) + max_new_tokens > positions:
            field = "prompt" if len(ids) >= positions else "max_tokens"
            raise RequestError(f"{counts}; the model has {positions:,} positions", field)
        return ids

    def _encode(self, prompt: Prompt, raw: bool) -> list[int]:
        from mentorkd.data.encoding import encode_chat, encode_plain, encode_prompt

        kind, tokenizer = self._engine.kind, self.tokenizer
        if isinstance(prompt, str):
            if raw:
                return encode_plain(tokenizer, kind, prompt)
            return encode_prompt(tokenizer, kind, render_prompt(prompt, self._template))
        *earlier, last = prompt
        if last["role"] != "user":
            raise RequestError(f"the last message is by {last['role']!r}; expected one by 'user'", "messages")
        if kind == "causal" and tokenizer.chat_template:
            content = last["content"] if raw else render_prompt(last["content"], self._template)
            return encode_chat(tokenizer, [*earlier, {"role": "user", "content": content}])
        if earlier:
            raise RequestError(
                f"got {len(prompt)} messages; this model has no chat template and was trained on single questions, so expected one "
                "message, by 'user'",
                "messages",
            )
        return self._encode(last["content"], raw)


class _Text:
    """One text, from tokens to pieces."""

    def __init__(self, writer: _Writer, sample: int, prompt_tokens: int, stop: Sequence[str], scored: bool) -> None:
        from mentorkd.generation.detokenize import Detokenizer, StopTexts

        self._spell, self._sample, self._prompt_tokens, self._scored = writer.spell, sample, prompt_tokens, scored
        self._decode = Detokenizer(writer.tokenizer)
        self._stops = StopTexts(stop)
        # A stop text ends the text at a token, which must not depend on how many tokens came together.
        self._one_by_one = bool(stop) or scored
        self._characters = 0
        self.finished = False

    def push(self, tokens: Sequence[Token]) -> Delta:
        """The piece that further tokens add."""
        text, count, finish, scored = "", 0, None, []
        for group in [[token] for token in tokens] if self._one_by_one else [tokens]:
            begun = self._decode.unfinished
            piece = self._decode.push([token.id for token in group])
            offset, self._characters = self._characters, self._characters + len(piece)
            count, finish = count + len(group), group[-1].finish_reason
            if self._scored:
                scored.append(self._score(group[0], piece, offset, begun))
            if finish is not None:
                piece += self._decode.finish()
            text += self._stops.push(piece)
            if self._stops.found:
                finish = "stop"
            elif finish is not None:
                text += self._stops.finish()
            if finish is not None:
                self.finished = True
                break
        return Delta(text, count, finish, self._sample, self._prompt_tokens, scored)

    def _score(self, token: Token, piece: str, offset: int, begun: bool) -> ScoredToken:
        """A token with its spelling in the text, which can lack the space of the first token."""
        assert token.logprob is not None
        own = self._spell(token.id)
        spelling = own if begun or self._decode.unfinished else piece.encode()
        if begun and piece.endswith(whole := own.decode(errors="replace")):
            offset += len(piece) - len(whole)  # behind what has stayed a part of a character
        trimmed = own == b" " + spelling
        others = ((self._spell(other).removeprefix(b" " * trimmed), logprob) for other, logprob in token.likeliest)
        return ScoredToken(spelling, offset, token.logprob, list(others))
