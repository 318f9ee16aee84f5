"""Sampling parameters with the names, kinds and limits of vLLM 0.33's."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

__all__ = ["RequestOutputKind", "SamplingParams", "VLLMValidationError"]


class VLLMValidationError(Exception):
    """No ValueError: since 0.33 vLLM's errors are no kinds of Python's own."""


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        assert type(self.n) is int
        assert self.n >= 1
        assert self.temperature >= 0
        assert 0 < self.top_p <= 1
        assert type(self.top_k) is int
        assert self.top_k >= -1
        assert self.seed is None or -(2**63) <= self.seed < 2**63
        assert all(type(token) is int for token in self.stop_token_ids)
        assert self.max_tokens is None or self.max_tokens >= 1
        assert not (self.stop and not self.detokenize), "stop strings need decoded text"
        assert self.temperature or self.n == 1, "n must be 1 when using greedy sampling"
        assert self.output_kind is not RequestOutputKind.CUMULATIVE, "whole texts after every token are slow"
        if self.logprobs is not None and not -1 <= self.logprobs <= 20:
            raise VLLMValidationError(
                f"Requested sample logprobs of {self.logprobs}, which is greater than max allowed: 20"
            )
