"""The wire format of OpenAI-compatible endpoints, as pure functions that write requests and read replies and errors."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from mentorkd.data.token_logprobs import TokenLogprobs
from mentorkd.recipe.teacher import OpenAITeacherConfig
from mentorkd.records import normalise_whitespace
from mentorkd.teachers.reply_logprobs import reply_logprobs

FaultKind = Literal["overloaded", "server_error", "connection", "timeout", "malformed", "rejected", "fatal"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A request without a reply. `billed`: it may have cost money nevertheless; what it cost, if the endpoint says so.

    Kinds other than `rejected` (this request is at fault) and `fatal` (every request would fail) are worth a retry.
    """

    kind: FaultKind
    message: str
    billed: bool = False
    retry_after: float = 0.0
    input_tokens: int | None = None
    output_tokens: int | None = None


def causes(faults: Sequence[Fault]) -> str:
    """Faults counted by kind, each with the first message of its kind: `3 rejected (HTTP 400: ...), 1 timeout (...)`."""
    messages: dict[str, str] = {}
    for fault in faults:
        messages.setdefault(fault.kind, fault.message)
    counts = Counter(fault.kind for fault in faults).most_common()
    return ", ".join(f"{count:,} {kind.replace('_', ' ')} ({messages[kind]})" for kind, count in counts)


@dataclass(frozen=True, slots=True)
class Body:
    """A reply as it came; the token counts are None if the endpoint reported none.

    `no_logprobs` says why the log-probabilities that were asked for are None.
    """

    text: str
    finish_reason: str
    input_tokens: int | None
    output_tokens: int | None
    model: str
    logprobs: TokenLogprobs | None = None
    no_logprobs: str = ""


def build_request(
    teacher: OpenAITeacherConfig, prompt: str, *, max_tokens: int, temperature: float, logprobs: bool = False
) -> dict[str, Any]:
    """The request: its `endpoint`, and the fields of its JSON under `body`. The cache hashes both."""
    body: dict[str, Any] = {"model": teacher.model, "temperature": temperature, teacher.max_tokens_field: max_tokens}
    if teacher.top_p < 1.0:
        body["top_p"] = teacher.top_p
    chat = teacher.endpoint == "chat"
    if chat:
        system = [] if teacher.system is None else [{"role": "system", "content": teacher.system}]
        body["messages"] = [*system, {"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    if stop := teacher.stops(base=not chat):
        body["stop"] = stop
    if logprobs:
        # One alternative a token: llama.cpp returns nothing for 0, and 20 where a chat does not say.
        body |= {"logprobs": True, "top_logprobs": 1} if chat else {"logprobs": 1}
    path = "chat/completions" if chat else "completions"
    return {"endpoint": f"{teacher.base_url}/{path}", "body": body | teacher.extra_body}


def without_logprobs(request: Mapping[str, Any]) -> dict[str, Any]:
    """The same request of a teacher that asks for no log-probabilities."""
    body = {name: value for name, value in request["body"].items() if name not in ("logprobs", "top_logprobs")}
    return {**request, "body": body}


def most_tokens(text: str) -> int:
    """An upper bound of the tokens of `text`: no tokenizer in use makes more tokens than bytes."""
    return len(text.encode(errors="replace"))


def read_body(content: bytes, *, logprobs: bool = False) -> Body | Fault:
    """Read the body of a 200 reply of either endpoint, and its log-probabilities if they were asked for."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return Fault("malformed", f"got a reply that is not JSON: {_excerpt(content)}", billed=True)
    if not isinstance(data, dict):
        return Fault("malformed", f"got a reply that is not a JSON object: {_excerpt(content)}", billed=True)
    error, choices, (read, written) = data.get("error"), data.get("choices"), _usage(data)
    if error and not choices:
        # Some gateways wrap an error of the model in a reply of status 200.
        code = error.get("code") if isinstance(error, dict) else None
        wrapped = classify_status(code if isinstance(code, int) and code >= 400 else 500, {}, content)
        return (
            wrapped if (read, written) == (None, None) else replace(wrapped, input_tokens=read, output_tokens=written)
        )
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    text, refused = _text(choice) if choice is not None else (None, False)
    if choice is None or text is None:
        what = f"got a reply without a choice that holds text: {_excerpt(content)}"
        return Fault("malformed", what, billed=True, input_tokens=read, output_tokens=written)
    reason = str(choice.get("finish_reason") or "stop").lower()
    body = Body(
        text=text,
        finish_reason="refusal" if refused else _NATIVE_REASONS.get(reason, reason),
        input_tokens=read,
        output_tokens=written,
        model=str(data.get("model") or ""),
    )
    if not logprobs or refused or not text.strip():
        return body
    try:
        return replace(body, logprobs=reply_logprobs(choice, text, written))
    except ValueError as error:
        return replace(body, no_logprobs=str(error))


_NATIVE_REASONS = {
    "max_tokens": "length",
    **dict.fromkeys(["safety", "recitation", "blocklist", "prohibited_content", "spii"], "content_filter"),
}
"""Gemini's own finish reasons in lower case, which its compatible endpoint may pass on."""


def _text(choice: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The text of a choice, and whether it is a refusal; None if the choice has no field for text."""
    if isinstance(choice.get("text"), str):
        return choice["text"], False
    message = choice.get("message")
    if not isinstance(message, dict):
        return None, False
    content, refusal = message.get("content"), message.get("refusal")
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if content is not None and not isinstance(content, str):
        return None, False
    if isinstance(refusal, str) and refusal and not content:
        return refusal, True
    return content or "", False


def _usage(data: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of the prompt and of the reply, as far as the endpoint reports them."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return None, None
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**9 else None


_FATAL = {
    401: "the endpoint does not accept the key; check the variable that `api_key_env` names",
    402: "the account is out of credit; top it up and run again",
    403: "the endpoint forbids this; check what the key may do",
    404: "the endpoint knows no such model or address; check `model` and `base_url`",
    405: "the endpoint knows no such address; check `base_url` and `endpoint`",
}
_EXCERPT = 300
"""Longest excerpt of a reply in a message, in characters."""
_REFUSED = re.compile(r"content[_ ](?:filter|policy)|moderation|flagged", re.IGNORECASE)
_NO_KEY = re.compile(r"API_KEY_INVALID|API key not valid|invalid_api_key", re.IGNORECASE)
_NO_CREDIT = re.compile(r"insufficient_quota|billing_hard_limit|exceeded your current quota", re.IGNORECASE)


def classify_status(status: int, headers: Mapping[str, str], content: bytes) -> Body | Fault:
    """Classify an HTTP error: worth a retry, this request's own fault, fatal, or a content filter's refusal."""
    message = f"HTTP {status}: {_excerpt(content)}"
    text = content.decode(errors="replace")
    if status in (400, 403, 422) and _REFUSED.search(text):
        return Body("", "content_filter", 0, 0, "")
    if status == 429 and _NO_CREDIT.search(text):
        return Fault("fatal", f"{message}; {_FATAL[402]}")
    if status == 400 and _NO_KEY.search(text):  # Gemini's way to say 401
        return Fault("fatal", f"{message}; {_FATAL[401]}")
    if status in _FATAL:
        return Fault("fatal", f"{message}; {_FATAL[status]}")
    wait = retry_after(headers, time.time())
    if status in (429, 503, 529):
        return Fault("overloaded", message, retry_after=wait)
    if status in (408, 425) or status >= 500:
        # After a gateway's timeout the model keeps writing, and the tokens are billed.
        return Fault("server_error", message, billed=status in (408, 504, 524), retry_after=wait)
    return Fault("rejected", message)


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Seconds that the endpoint asks to wait (headers in lower case); 0 if it gives no time that can be read.

    `retry-after-ms`, or `Retry-After` as seconds or as an HTTP date. A date is compared with the reply's own `Date`, since
    the endpoint's clock may differ from ours; without one, with `now` (in seconds since the epoch).
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(?:\.\d+)?", value):
            return float(value) * unit
    until, sent = (_timestamp(headers.get(name, "")) for name in ("retry-after", "date"))
    return 0.0 if until is None else max(0.0, until - (now if sent is None else sent))


def _timestamp(date: str) -> float | None:
    """An HTTP date in seconds since the epoch; None for another text."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _excerpt(content: bytes) -> str:
    text = normalise_whitespace(content[: 4 * _EXCERPT].decode(errors="replace")) or "(empty)"
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."


_LONG_KEY = 8
"""Characters from which on a text that equals the key is no coincidence."""


def scrubber(key: str | None, *, keep_words: bool = False) -> Callable[[str], str]:
    """A function that removes the key from a text, and makes the text encodable (JSON can spell half a surrogate pair).

    A key under 8 characters is removed where it stands alone. With `keep_words`, such a key that is a plain word or a number
    ("ollama", "none", "42": dummies for servers that need no key) is removed only where a text presents it as a key, since
    a teacher's solution may hold that word or number.
    """
    if not key:
        return _encodable
    secret, shown_as_key = re.escape(key), ""
    if len(key) < _LONG_KEY:
        secret = rf"(?<![^\W_]){secret}(?![^\W_])"
        if keep_words and (key.isalpha() or key.isdigit()):
            shown_as_key = r"(?i:\b(?:bearer|api[-_ ]?key|authorization)\b)[\"'\s:=]*"
    pattern = re.compile(f"({shown_as_key}){secret}")
    return lambda text: pattern.sub(r"\1[key]", _encodable(text))


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


_VERSION = re.compile(r"(?:@.*|[-:](?:latest|\d{3,8}(?:-\d{2}){0,2}|\d{2}-\d{2,4}))+$")
"""What endpoints add to the name of a model: a date, a release number, a revision."""


def same_model(requested: str, answered: str) -> bool:
    """Whether an endpoint's name of a model can be that of the requested one: up to owner, case, date and release."""
    names = [_VERSION.sub("", name.rstrip("/").rpartition("/")[2].lower()) for name in (requested, answered)]
    return not answered or names[0] == names[1]
